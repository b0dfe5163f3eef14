import numpy as np
import pytest
from ecg_records import PTBXL
from scipy import ndimage, signal

from pacx.data.ecg import LEADS, read_ecg
from pacx.data.ecg.recipe import prepare_ecg, prepare_ecgs
from pacx.errors import PacxError


def record(seed: int = 0) -> np.ndarray:
    """A drifting, noisy 12-lead record in mV."""
    rng = np.random.default_rng(seed)
    t = np.arange(5000) / 500
    beats = np.exp(-(((t % 0.8) - 0.3) ** 2) / 0.0002)
    drift = 0.5 * np.sin(2 * np.pi * 0.2 * t + rng.uniform(0, 6, (12, 1)))
    mains = 0.1 * np.sin(2 * np.pi * 50 * t)
    return rng.uniform(-1, 2, (12, 1)) * beats + drift + mains + 0.02 * rng.standard_normal((12, 5000)) + 0.3


def recipe(x: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """The recipe word for word, lead by lead; `dtype` is what the leads are kept in between the steps."""
    b, a = signal.iirnotch(50, 30, fs=500)
    x = np.stack([signal.filtfilt(b, a, lead) for lead in x]).astype(dtype)
    b, a = signal.butter(4, [0.67, 40], btype="bandpass", fs=500)
    x = np.stack([signal.filtfilt(b, a, lead) for lead in x]).astype(dtype)
    x = x - np.stack([signal.medfilt(lead, 201) for lead in x])
    return (x - x.mean()) / (x.std() + 1e-8)


real = pytest.mark.skipif(not PTBXL.is_dir(), reason="the open sample bundle (../shared/data) is not here")


def test_the_result_is_the_published_recipe_to_one_in_a_million():
    for seed in range(3):
        np.testing.assert_allclose(prepare_ecg(record(seed)), recipe(record(seed)), atol=1e-6)


def test_the_result_is_the_published_recipe_on_noise():
    noise = np.random.default_rng(0).standard_normal((12, 5000))
    np.testing.assert_allclose(prepare_ecg(noise), recipe(noise), atol=1e-6, rtol=0)


@real
def test_the_result_is_the_published_recipe_on_real_records():
    for file in (*sorted(PTBXL.glob("records500/*/*.hea"))[::6], *sorted(PTBXL.glob("records100/*/*.hea"))[::120]):
        x = read_ecg(file).signal
        # float32 has steps of 1e-6 above 8; up to there the result is exact to 1e-6.
        np.testing.assert_allclose(prepare_ecg(x), recipe(x.astype(np.float64)), atol=1e-6, rtol=1e-7)


@real
def test_single_precision_between_the_steps_as_published_differs_by_rounding_only():
    x = read_ecg(min(PTBXL.glob("records500/*/*.hea"))).signal
    np.testing.assert_allclose(prepare_ecg(x), recipe(x, np.float32), atol=2e-5)


@real
def test_a_rate_of_100_hz_costs_nothing_that_the_recipe_keeps():
    for file in sorted(PTBXL.glob("records500/*/*.hea"))[::6]:
        high = read_ecg(file).signal
        low = signal.resample_poly(high.astype(np.float64), 1, 5, axis=1, padtype="line")
        again = read_ecg(low, leads=LEADS, rate=100, unit="mV").signal
        a, b = prepare_ecg(high), prepare_ecg(again)
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


@real
def test_the_two_published_rates_of_a_record_agree_but_for_the_held_end_and_a_shift():
    for low, high in zip(("00001_lr", "00010_lr"), ("00001_hr", "00010_hr"), strict=True):
        a = prepare_ecg(read_ecg(PTBXL / "records100" / "00000" / low).signal)[:, :4000]
        b = prepare_ecg(read_ecg(PTBXL / "records500" / "00000" / high).signal)[:, :4000]
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
        later = np.corrcoef(a[:, :-1].ravel(), b[:, 1:].ravel())[0, 1]
        assert later > 0.997  # the 500 Hz file runs 1.25 ms behind


def test_the_fast_running_median_equals_medfilt():
    lead = np.random.default_rng(0).standard_normal(777)
    fast = ndimage.median_filter(lead, size=201, mode="constant", cval=0.0)
    np.testing.assert_array_equal(fast, signal.medfilt(lead, 201))


def test_the_result_does_not_depend_on_the_unit():
    x = record()
    for scale, offset in ((1000.0, 0.0), (0.2, -3.0), ((1 / np.ptp(x)), -x.min() / np.ptp(x))):
        np.testing.assert_allclose(prepare_ecg(scale * x + offset), prepare_ecg(x), atol=1e-4)


def test_nan_counts_as_zero():
    x = record()
    x[2, 40:60] = np.nan
    np.testing.assert_allclose(prepare_ecg(x), recipe(np.nan_to_num(x)), atol=1e-6)


def test_a_flat_record_becomes_zeros_and_a_flat_lead_stays_flat():
    assert (prepare_ecg(np.full((12, 5000), 3.7)) == 0).all()
    x = record()
    x[5] = 1.25
    prepared = prepare_ecg(x)
    assert np.ptp(prepared[5]) == 0
    np.testing.assert_allclose(prepared, recipe(x), atol=1e-5)


def test_half_precision_of_the_store_costs_next_to_nothing():
    stored = record().astype(np.float16)
    assert np.abs(prepare_ecg(stored) - prepare_ecg(record())).mean() < 0.003


def test_lower_rates_keep_the_waves():
    full, low = prepare_ecg(record()), prepare_ecg(record(), rate=100)
    assert low.shape == (12, 1000)
    for a, b in zip(full[:, ::5], low, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.995


def test_unknown_recipes_rates_and_shapes_are_refused():
    with pytest.raises(PacxError, match="'other-2' is not known"):
        prepare_ecg(record(), version="other-2")
    for rate in (50, 300, 1000):
        with pytest.raises(PacxError, match=f"at {rate} Hz"):
            prepare_ecg(record(), rate=rate)
    with pytest.raises(PacxError, match=r"shape \(5000, 12\)"):
        prepare_ecg(record().T)


@pytest.mark.parametrize("workers", [1, 2])
def test_many_records_come_in_order_and_as_one_by_one(tmp_path, workers, monkeypatch):
    monkeypatch.setattr("pacx.data.ecg.recipe._WORTH_PROCESSES", 0)
    records = np.stack([record(seed) for seed in range(7)]).astype(np.float16)
    np.save(tmp_path / "ecg.npy", records)
    rows = np.array([6, 0, 3, 5, 1])
    batches = list(prepare_ecgs(tmp_path / "ecg.npy", rows, rate=100, batch_size=2, workers=workers))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), [prepare_ecg(records[row], rate=100) for row in rows])


def test_no_rows_give_no_batches(tmp_path):
    np.save(tmp_path / "ecg.npy", np.zeros((1, 12, 5000)))
    assert list(prepare_ecgs(tmp_path / "ecg.npy", np.array([], dtype=np.int64))) == []
