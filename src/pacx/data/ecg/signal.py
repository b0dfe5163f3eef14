"""From leads in mV at any rate to 5000 samples: levels, resampling, length.

All three commute with a factor and with an offset that leads share, so what comes out does not depend on the unit.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from pacx.data.ecg.leads import LEADS, EcgError

__all__ = ["RATE", "SAMPLES", "SLOWEST", "check_rate", "fit_length", "level", "resample"]

RATE = 500
"""Hz"""
SAMPLES = 5000
"""10 s at 500 Hz"""
SLOWEST = 50.0
"""Hz; nobody records an ECG at less, so a lower number is in kHz, or the time of a sample"""
_PLAUSIBLE = (0.02, 50.0)  # mV from the lowest to the highest sample of the middle lead; PTB-XL's have 0.57 to 4.5
_HIGHEST = 200.0  # times the middle lead's span, where voltages are relative
_FAR = 20.0  # offset over spread from which half precision (11 bits) costs more than 1 % of the spread


def check_rate(rate: float, what: str) -> None:
    """Refuse a sampling rate that no recorder of ECGs has.

    Args:
        rate: of the source, in Hz.
        what: where it comes from, for the message.

    Raises:
        EcgError: it is below `SLOWEST`, or no number.
    """
    if not SLOWEST <= rate < float("inf"):
        raise EcgError(
            f"{what}: a sampling rate of {rate:g} Hz is impossible; ECGs are recorded at {SLOWEST:g} Hz and more. Give "
            "the rate in Hz, not kHz."
        )


def level(x: NDArray[np.float64], steps: list[str], *, relative: bool) -> NDArray[np.float64]:
    """Fill what is unmeasured, and bring voltages to where half precision resolves them.

    Raises:
        EcgError: voltages in mV that no heart makes.
    """
    unmeasured = np.isnan(x)
    medians = (np.nanmedian if unmeasured.any() else np.median)(x, axis=1, keepdims=True)
    x = np.where(unmeasured, medians, x)
    heights = np.ptp(x, axis=1)
    _refuse_one_high(heights, relative=relative)
    height, spread = (float(np.median(size[heights > 0])) for size in (heights, x.std(axis=1)))
    if not relative and not _PLAUSIBLE[0] <= height <= _PLAUSIBLE[1]:
        raise EcgError(
            f"The leads span {height:.3g} mV, and a heart makes {_PLAUSIBLE[0]:g} to {_PLAUSIBLE[1]:g}: the unit is "
            "probably wrong. Give the right unit=, or unit='relative'."
        )
    far = np.abs(medians[:, 0]) > _FAR * spread
    if far.any():
        steps.append(f"offset removed: {', '.join(name for name, off in zip(LEADS, far, strict=True) if off)}")
        x[far] -= medians[far]
    if relative and not 1e-3 <= height <= 1e2:
        steps.append(f"relative voltages divided by {height:.4g}")
        x /= height
    return x


def _refuse_one_high(heights: NDArray[np.float64], *, relative: bool) -> None:
    """Refuse a lead beside which the others vanish: one z-score is made of all twelve."""
    limit = _HIGHEST * float(np.median(heights[heights > 0])) if relative else _PLAUSIBLE[1]
    high = [f"{name} {height:.3g}" for name, height in zip(LEADS, heights, strict=True) if height > limit]
    if 0 < len(high) < len(LEADS) // 2:
        raise EcgError(
            f"Some leads span far more than the others or than a heart makes ({', '.join(high)}; allowed {limit:.3g}): "
            "their unit or gain is wrong, or they hold an artefact. Correct the file."
        )


def resample(x: NDArray[np.float64], rate: float, steps: list[str]) -> NDArray[np.float64]:
    """Polyphase resampling with a sharp Kaiser low-pass at the lower of the two Nyquist frequencies."""
    ratio = (Fraction(RATE) / Fraction(rate).limit_denominator(1000)).limit_denominator(5000)
    if ratio == 1:
        return x
    steps.append(f"resampled from {rate:g} Hz to {RATE} Hz")
    widest = max(ratio.numerator, ratio.denominator)
    # 20 periods on either side and beta 8.6: prepared signals come back from 250 and 1000 Hz to 1e-5 of their norm,
    # where SciPy's default leaves 4e-4.
    low_pass = signal.firwin(40 * widest + 1, 1 / widest, window=("kaiser", 8.6))
    # "line": the filter must not see a step from the baseline down to zero at either end.
    resampled: NDArray[np.float64] = signal.resample_poly(
        x, ratio.numerator, ratio.denominator, axis=1, window=low_pass, padtype="line"
    )
    return resampled


def fit_length(x: NDArray[np.float64], seconds: float, steps: list[str]) -> NDArray[np.float64]:
    """The first 10 s; a shorter record is followed by each lead's median."""
    if x.shape[1] >= SAMPLES:
        if seconds * RATE >= SAMPLES + 1:
            steps.append(f"cropped from {seconds:.2f} s to 10 s")
        return x[:, :SAMPLES]
    steps.append(f"padded from {seconds:.2f} s to 10 s with each lead's median")
    return np.hstack([x, np.repeat(np.median(x, axis=1, keepdims=True), SAMPLES - x.shape[1], axis=1)])
