"""What the ECG network sees: ECGFounder's recipe, as one function under a version name.

1. notch, second order, 50 Hz, Q 30
2. Butterworth band-pass of order 4, 0.67 to 40 Hz
3. minus the baseline, a running median over 201 samples (0.4 s) with zeros beyond the ends
4. one z-score over all leads and samples, `(x - mean) / (std + 1e-8)`

Both filters run forwards and backwards, so no wave is shifted. Step 4 uses one mean and one deviation for the whole
record: the proportions between leads survive (the heart's axis, which leads are high), absolute voltage does not. So
any affine change of a record's unit leaves the result unchanged, and a network cannot tell mV from raw counts.

The source of the recipe is ECGFounder's public code (PKUDigitalHealth/ECGFounder, MIT licence).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from pacx.data.ecg.reading import LEADS, RATE, SAMPLES
from pacx.data.workers import available_cores, worker_pool
from pacx.errors import PacxError

__all__ = ["RECIPE", "check_recipe", "prepare_ecg", "prepare_ecgs"]

RECIPE = "ecgfounder-1"
_WORTH_PROCESSES = 256  # records; starting a process costs as much as preparing a hundred


def prepare_ecg(ecg: NDArray[np.floating], *, version: str = RECIPE, rate: int = RATE) -> NDArray[np.float32]:
    """Filter and normalise a record as the ECG network expects it.

    A record without variation becomes zeros, where the z-score would amplify rounding errors.

    Args:
        ecg: (12, 5000) at 500 Hz in any unit; NaN counts as 0.
        version: name of the recipe; "ecgfounder-1" is the only one so far.
        rate: sampling rate of the result in Hz, a divisor of 500. 500 is ECGFounder's. After the 40 Hz low-pass,
            100 Hz lose next to nothing and make a small network five times faster.

    Returns:
        (12, 10 * rate) of mean 0 and standard deviation 1 (before any decimation).

    Raises:
        PacxError: unknown recipe or rate, or another shape.
    """
    check_recipe(version, rate=rate)
    if ecg.shape != (len(LEADS), SAMPLES):
        raise PacxError(f"An ECG of shape {ecg.shape} was given; the recipe takes (12, 5000). Use `read_ecg` first.")
    x = np.nan_to_num(np.asarray(ecg, dtype=np.float64), nan=0.0)
    varies = np.ptp(x, axis=1) > 0
    notch, band_pass = _filters()
    x = signal.filtfilt(*band_pass, signal.filtfilt(*notch, x, axis=1), axis=1)
    # One lead at a time: SciPy's fast running median (O(log k) per sample) is the one-dimensional one.
    baseline = np.stack([ndimage.median_filter(lead, size=201, mode="constant", cval=0.0) for lead in x])
    x -= baseline
    x[~varies] = 0.0
    if not varies.any():
        return np.zeros((len(LEADS), SAMPLES * rate // RATE), dtype=np.float32)
    x = (x - x.mean()) / (x.std() + 1e-8)
    if rate != RATE:
        x = signal.resample_poly(x, 1, RATE // rate, axis=1)
    prepared: NDArray[np.float32] = x.astype(np.float32)
    return prepared


def prepare_ecgs(
    source: Path,
    rows: NDArray[np.int64],
    *,
    version: str = RECIPE,
    rate: int = RATE,
    batch_size: int = 64,
    workers: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Prepare records of an array file, batch by batch and in order, with several processes.

    SciPy's filters hold the interpreter lock, so threads would not help. Each process maps the file; only a few
    batches are in memory at a time.

    Args:
        source: .npy file, (N, 12, 5000).
        rows: (M,) which records, in the order of the result.
        version: as in `prepare_ecg`.
        rate: as in `prepare_ecg`.
        batch_size: records per batch.
        workers: number of processes, by default one per processor; 1, or few records, computes in this process.

    Yields:
        (b, 12, 10 * rate), b = `batch_size` but for the last.
    """
    check_recipe(version, rate=rate)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    workers = min(workers or available_cores(), len(batches))
    if workers <= 1 or len(rows) < _WORTH_PROCESSES:
        for batch in batches:
            yield _prepare_rows(source, batch, version, rate)
        return
    with worker_pool(workers) as pool:
        waiting = iter(batches)
        running = deque(
            pool.submit(_prepare_rows, source, batch, version, rate) for batch in islice(waiting, 2 * workers)
        )
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(_prepare_rows, source, batch, version, rate) for batch in islice(waiting, 1))


def check_recipe(version: str, *, rate: int) -> None:
    """Refuse a preprocessing that this version of pacx cannot carry out."""
    if version != RECIPE:
        raise PacxError(f"ECG preprocessing {version!r} is not known; this pacx has {RECIPE!r}. Update pacx or refit.")
    if rate < 100 or RATE % rate:
        raise PacxError(f"An ECG network at {rate} Hz was asked for; allowed are 500, 250, 125 and 100.")


def _prepare_rows(source: Path, rows: NDArray[np.int64], version: str, rate: int) -> NDArray[np.float32]:
    records = np.load(source, mmap_mode="r", allow_pickle=False)
    return np.stack([prepare_ecg(records[row], version=version, rate=rate) for row in rows])


@lru_cache(maxsize=1)
def _filters() -> tuple[
    tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]:
    """Coefficients (b, a) of the notch and of the band-pass."""
    notch = signal.iirnotch(50.0, 30.0, fs=RATE)
    # (b, a) form as published. Second-order sections would be better conditioned, but not the same to 1e-6.
    band_pass = signal.butter(4, [0.67, 40.0], btype="bandpass", fs=RATE)
    return notch, band_pass
