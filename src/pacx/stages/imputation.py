"""How well hidden lab values are filled in, beside the simplest answer: the lab's median.

Errors are squared differences of percentiles, so every lab counts alike whatever its unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pacx.data.labs import LabReference
from pacx.models.labs_autoencoder import LabsAutoencoder, hide_entries
from pacx.statistics import paired_mean_difference

__all__ = ["ImputationErrors", "hide_once", "imputation_errors", "imputation_report"]


class ImputationErrors(NamedTuple):
    """Squared differences of percentiles, each (N, L), and the entries (N, L) that they concern."""

    clean: NDArray[np.float32]
    observed: NDArray[np.bool_]
    imputed: NDArray[np.float32]
    median: NDArray[np.float32]
    hidden: NDArray[np.bool_]


def hide_once(observed: NDArray[np.float32], *, probability: float, seed: int) -> NDArray[np.float32]:
    """Return the mask (N, L) with observed entries hidden at random, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return hide_entries(torch.from_numpy(observed), probability=probability, generator=generator).numpy()


def imputation_errors(
    net: LabsAutoencoder,
    reference: LabReference,
    *,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    hide: float,
    seed: int,
) -> ImputationErrors:
    """Reconstruct held-out rows with everything shown, and with some entries hidden.

    Args:
        net: the autoencoder.
        reference: its reference distribution.
        train: (any, L) raw values whose medians are the baseline.
        held_out: (N, L) raw values never trained on.
        hide: probability with which an observed entry is hidden.
        seed: chooses the hidden entries.
    """
    x, observed = reference.transform(held_out)
    shown = hide_once(observed, probability=hide, seed=seed)
    with torch.inference_mode():
        clean, imputed = (net(torch.from_numpy(x), torch.from_numpy(mask))[0].numpy() for mask in (observed, shown))
    known, mask = reference.transform(train)
    # A lab without any training value is never observed either: its median is used nowhere, so 0 does.
    median = np.nanmedian(np.where(mask.any(axis=0) & (mask == 0), np.nan, known), axis=0)
    return ImputationErrors((clean - x) ** 2, observed > 0, (imputed - x) ** 2, (median - x) ** 2, observed > shown)


def imputation_report(
    errors: ImputationErrors, *, labs: tuple[str, ...], patient: NDArray[np.object_], seed: int
) -> dict[str, Any]:
    """Average the errors, over all entries and per lab, with the paired difference to the baseline.

    Args:
        errors: what `imputation_errors` gives.
        labs: names of the L labs.
        patient: (N,) patient of each row; the interval comes from drawing patients.
        seed: seed of the draws.
    """
    hidden = errors.hidden
    row = np.nonzero(hidden)[0]
    imputed, median = errors.imputed[hidden], errors.median[hidden]
    return {
        "clean_mse": _mean(errors.clean[errors.observed]),
        "imputation_mse": _mean(imputed),
        "imputation_mse_column_median": _mean(median),
        "imputation_mse_difference": paired_mean_difference(imputed, median, patient[row], seed=seed),
        "num_hidden_entries": int(hidden.sum()),
        "per_lab": {
            lab: {
                "imputation_mse": _mean(errors.imputed[hidden[:, column], column]),
                "baseline_mse": _mean(errors.median[hidden[:, column], column]),
                "n": int(hidden[:, column].sum()),
            }
            for column, lab in enumerate(labs)
        },
    }


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean()) if values.size else float("nan")
