"""Banks made worse on purpose."""

import numpy as np
import pytest

from pacx.data.bank import Bank
from pacx.data.bank_changes import with_mean_cosine, with_noise
from pacx.errors import PacxError


@pytest.fixture
def bank() -> Bank:
    rng = np.random.default_rng(0)
    present = rng.random(400) < 0.8
    numbers = (rng.normal(size=(400, 6)) * [1, 2, 3, 4, 5, 0.1] + 3).astype(np.float32)
    return Bank(np.where(present[:, None], numbers, 0), present, tuple(map(str, range(400))), {"teacher": "ecg"})


@pytest.mark.parametrize("cosine", [0.0, 0.2, 0.43, 0.9, 0.99])
def test_the_mean_cosine_is_the_one_that_was_asked_for_and_differences_stay(bank: Bank, cosine: float) -> None:
    changed = with_mean_cosine(bank, cosine)
    found = changed.shape_of_cloud()["mean_cosine"]
    assert found is not None
    assert abs(found - cosine) < 1e-5
    rows = np.flatnonzero(bank.present)
    before, after = (one.embeddings[rows].astype(float) for one in (bank, changed))
    np.testing.assert_allclose(after - after[0], before - before[0], atol=1e-4)
    assert not changed.embeddings[~bank.present].any()
    assert bank.embeddings[rows[0]] @ np.ones(6) == before[0] @ np.ones(6)  # the first bank stays as it is


def test_noise_is_measured_in_each_numbers_own_spread(bank: Bank) -> None:
    changed = with_noise(bank, 0.5, seed=1)
    rows = bank.present
    added = (changed.embeddings - bank.embeddings)[rows].std(axis=0) / bank.embeddings[rows].std(axis=0)
    np.testing.assert_allclose(added, 0.5, rtol=0.15)
    assert not changed.embeddings[~rows].any()
    assert np.array_equal(changed.embeddings, with_noise(bank, 0.5, seed=1).embeddings)
    assert not np.array_equal(changed.embeddings, with_noise(bank, 0.5, seed=2).embeddings)
    assert np.array_equal(with_noise(bank, 0.0, seed=1).embeddings, bank.embeddings)


def test_what_cannot_be_made_is_refused(bank: Bank) -> None:
    for amount in (-1.0, float("nan"), float("inf")):
        with pytest.raises(PacxError, match="makes no sense"):
            with_noise(bank, amount, seed=0)
    for cosine in (-0.1, 1.0):
        with pytest.raises(PacxError, match="cannot be made"):
            with_mean_cosine(bank, cosine)
    same = Bank(np.ones((3, 2), np.float32), np.ones(3, bool), ("a", "b", "c"), {"teacher": "ecg"})
    with pytest.raises(PacxError, match="are the same"):
        with_mean_cosine(same, 0.5)
