"""Centred and whitened teachers: zero mean, equal variances, a map that can be undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pacx.errors import PacxError
from pacx.models.standardise import RIDGE, Standardiser, fit_standardiser

DEVIATION = np.array([3.0, 1.0, 0.5, 0.1])


def embeddings(count: int = 4000) -> np.ndarray:
    """Rows that all point nearly the same way, with unequal variances in turned axes."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    return ((rng.standard_normal((count, 4)) * DEVIATION) @ turned.T + 5.0).astype(np.float32)


def mean_cosine(rows: torch.Tensor) -> float:
    unit = F.normalize(rows, dim=-1).double()
    return (float(unit.sum(0).square().sum()) - len(rows)) / (len(rows) * (len(rows) - 1))


def test_none_changes_nothing_at_all() -> None:
    rows = torch.from_numpy(embeddings(50))
    assert torch.equal(fit_standardiser(rows.numpy(), "none")(rows), rows)


def test_centring_takes_the_mean_away_and_with_it_the_cosine_between_strangers() -> None:
    rows = torch.from_numpy(embeddings())
    assert mean_cosine(rows) > 0.8
    centred = fit_standardiser(rows.numpy(), "centre")(rows)
    torch.testing.assert_close(centred.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(centred - centred[:1], rows - rows[:1], atol=1e-4, rtol=0)
    assert abs(mean_cosine(centred)) < 0.01


def test_whitening_gives_uncorrelated_directions_of_the_variance_in_the_docstring() -> None:
    rows = embeddings()
    white = fit_standardiser(rows, "whiten")(torch.from_numpy(rows)).double().numpy()
    variance = np.sort(np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False)))
    expected = variance / (variance + RIDGE * variance.mean())
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(np.cov(white, rowvar=False))), expected, rtol=1e-3)
    assert expected[-1] > 0.95  # what varies much has variance one
    assert expected[0] < 0.05  # noise is not blown up


@pytest.mark.parametrize("how", ["none", "centre", "whiten"])
def test_the_way_back_gives_the_teachers_embedding(how: Any) -> None:
    rows = torch.from_numpy(embeddings(200))
    standardiser = fit_standardiser(rows.numpy(), how)
    torch.testing.assert_close(standardiser.inverse(standardiser(rows)), rows, atol=1e-3, rtol=1e-4)


def test_it_travels_in_a_state_dict_and_keeps_full_precision_under_autocast() -> None:
    rows = torch.from_numpy(embeddings(300))
    fitted, loaded = fit_standardiser(rows.numpy(), "whiten"), Standardiser(4)
    loaded.load_state_dict(fitted.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loaded(rows), fitted(rows))
        assert loaded(rows).dtype == torch.float32


def test_more_directions_than_rows_and_constant_ones_stay_finite() -> None:
    rows = np.zeros((3, 8), np.float32)
    assert torch.isfinite(fit_standardiser(rows, "whiten")(torch.from_numpy(rows))).all()
    rows[0, 0] = 1.0
    assert torch.isfinite(fit_standardiser(rows, "whiten").inverse(torch.ones(2, 8))).all()


@pytest.mark.parametrize(
    ("how", "rows", "message"), [("pca", 9, "none, centre or whiten"), ("centre", 1, "at least 2")]
)
def test_what_cannot_be_fitted_is_refused(how: Any, rows: int, message: str) -> None:
    with pytest.raises(PacxError, match=message):
        fit_standardiser(np.ones((rows, 4), np.float32), how)
