"""How well hidden lab values are filled in, beside the simplest answer: the lab's median.

Errors are squared differences of percentiles, so every lab counts alike whatever its unit. Entries are hidden in two
ways, and only hidden ones count:

* **A random share**, as in training: a fixed share of a row's observed entries at once.
* **One at a time**: each observed entry alone, all others shown. This asks what the rest of a row says about a lab, and
  it asks each value once, so a lab's figures rest on all its values: error, R2 and Spearman's rank correlation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from pacx.data.labs import LabReference
from pacx.models.labs_autoencoder import LabsAutoencoder, hide_entries
from pacx.statistics import paired_mean_difference

__all__ = [
    "ImputationErrors",
    "OneHidden",
    "column_medians",
    "hide_once",
    "imputation_errors",
    "imputation_report",
    "lab_table",
    "one_hidden",
    "single_entries",
]

MOST_SINGLE_ENTRIES = 200_000
"""entries hidden one at a time; of more, so many are drawn"""
_BATCH = 4096
_FEW = 3  # values, below which a correlation says nothing

Floats = NDArray[np.float32]


class ImputationErrors(NamedTuple):
    """Squared differences of percentiles, each (N, L), and the entries (N, L) that they concern."""

    clean: Floats
    observed: NDArray[np.bool_]
    imputed: Floats
    median: Floats
    hidden: NDArray[np.bool_]


class OneHidden(NamedTuple):
    """Percentiles (M,) of entries that were hidden one at a time, and where they stand."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    truth: Floats
    imputed: Floats
    median: Floats


def hide_once(observed: Floats, *, probability: float, seed: int) -> Floats:
    """Return the mask (N, L) with observed entries hidden at random, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return hide_entries(torch.from_numpy(observed), probability=probability, generator=generator).numpy()


def column_medians(reference: LabReference, train: pd.DataFrame) -> Floats:
    """Return the median percentile (L,) of each lab in training.

    A lab without any training value is never observed either: its median is used nowhere, so 0 does.
    """
    known, mask = reference.transform(train)
    medians: Floats = np.nanmedian(np.where(mask.any(axis=0) & (mask == 0), np.nan, known), axis=0)
    return medians


def imputation_errors(
    net: LabsAutoencoder,
    reference: LabReference,
    *,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    hide: float,
    seed: int,
) -> ImputationErrors:
    """Reconstruct held-out rows with everything shown, and with a random share of the entries hidden.

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
    median = column_medians(reference, train)
    return ImputationErrors((clean - x) ** 2, observed > 0, (imputed - x) ** 2, (median - x) ** 2, observed > shown)


def single_entries(
    observed: Floats, *, seed: int, most: int = MOST_SINGLE_ENTRIES
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns (M,) of the observed entries (N, L); of more than `most`, a random choice in order."""
    row, column = np.nonzero(observed)
    if len(row) > most:
        chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).choice(len(row), most, replace=False))
        row, column = row[chosen], column[chosen]
    return row, column


def one_hidden(
    net: LabsAutoencoder,
    reference: LabReference,
    *,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    seed: int,
    most: int = MOST_SINGLE_ENTRIES,
) -> OneHidden:
    """Hide each observed entry by itself and fill it in from the rest of its row.

    Args:
        net: the autoencoder.
        reference: its reference distribution.
        train: (any, L) raw values whose medians are the baseline.
        held_out: (N, L) raw values never trained on.
        seed: chooses the entries if there are more than `most`.
        most: entries asked for at the most.
    """
    x, observed = reference.transform(held_out)
    row, column = single_entries(observed, seed=seed, most=most)
    imputed = np.concatenate([np.empty(0, dtype=np.float32), *_filled(net, x, observed, row=row, column=column)])
    return OneHidden(row, column, x[row, column], imputed, column_medians(reference, train)[column])


def _filled(
    net: LabsAutoencoder, x: Floats, observed: Floats, *, row: NDArray[np.int64], column: NDArray[np.int64]
) -> Iterator[Floats]:
    for start in range(0, len(row), _BATCH):
        rows, columns = row[start : start + _BATCH], column[start : start + _BATCH]
        shown = observed[rows]
        shown[np.arange(len(rows)), columns] = 0
        with torch.inference_mode():
            answer = net(torch.from_numpy(x[rows]), torch.from_numpy(shown))[0].numpy()
        yield answer[np.arange(len(rows)), columns]


def imputation_report(
    errors: ImputationErrors, single: OneHidden, *, labs: tuple[str, ...], patient: NDArray[np.object_], seed: int
) -> dict[str, Any]:
    """Average the errors, over all entries and per lab, with the paired difference to the baseline.

    Args:
        errors: what `imputation_errors` gives: a random share hidden.
        single: what `one_hidden` gives.
        labs: names of the L labs.
        patient: (N,) patient of each row; the intervals come from drawing patients.
        seed: seed of the draws.
    """
    hidden = errors.hidden
    row = np.nonzero(hidden)[0]
    imputed, median = errors.imputed[hidden], errors.median[hidden]
    alone, alone_median = (single.imputed - single.truth) ** 2, (single.median - single.truth) ** 2
    return {
        "clean_mse": _mean(errors.clean[errors.observed]),
        "imputation_mse": _mean(imputed),
        "imputation_mse_column_median": _mean(median),
        "imputation_mse_difference": paired_mean_difference(imputed, median, patient[row], seed=seed),
        "num_hidden_entries": int(hidden.sum()),
        "one_hidden_mse": _mean(alone),
        "one_hidden_mse_column_median": _mean(alone_median),
        "one_hidden_mse_difference": paired_mean_difference(alone, alone_median, patient[single.row], seed=seed),
        "num_one_hidden_entries": len(single.row),
        "per_lab": {
            lab: {
                "imputation_mse": _mean(errors.imputed[hidden[:, column], column]),
                "baseline_mse": _mean(errors.median[hidden[:, column], column]),
                "n": int(hidden[:, column].sum()),
                "one_hidden": _of_lab(single, column),
            }
            for column, lab in enumerate(labs)
        },
    }


def lab_table(report: dict[str, Any], reference: LabReference) -> pd.DataFrame:
    """Lay out the figures per lab: one row per lab, the best filled in first.

    Columns: lab, unit, num_train (values learned from), then with one entry hidden at a time num (values asked for),
    mse, mse_column_median, r2, spearman, then with a random share hidden num_random, mse_random and
    mse_column_median_random. Errors are squared differences of percentiles, [0, 1].
    """
    rows = [
        {
            "lab": lab,
            "unit": reference.units[lab],
            "num_train": reference.counts[lab],
            "num": found["one_hidden"]["n"],
            "mse": found["one_hidden"]["imputation_mse"],
            "mse_column_median": found["one_hidden"]["baseline_mse"],
            "r2": found["one_hidden"]["r2"],
            "spearman": found["one_hidden"]["spearman"],
            "num_random": found["n"],
            "mse_random": found["imputation_mse"],
            "mse_column_median_random": found["baseline_mse"],
        }
        for lab, found in report["per_lab"].items()
    ]
    return pd.DataFrame(rows).sort_values("r2", ascending=False, kind="stable", ignore_index=True)


def _of_lab(single: OneHidden, column: int) -> dict[str, float]:
    """Return one lab's figures; R2 is against the mean of the values asked for, NaN where these do not differ."""
    own = single.column == column
    truth, imputed = single.truth[own].astype(np.float64), single.imputed[own].astype(np.float64)
    spread = float(((truth - truth.mean()) ** 2).sum()) if truth.size >= _FEW else 0.0
    return {
        "n": int(own.sum()),
        "imputation_mse": _mean((imputed - truth) ** 2),
        "baseline_mse": _mean((single.median[own] - truth) ** 2),
        "r2": 1 - float(((imputed - truth) ** 2).sum()) / spread if spread else float("nan"),
        "spearman": _correlation(rankdata(truth), rankdata(imputed)) if spread else float("nan"),
    }


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; of mid-ranks, it is Spearman's. NaN if either is constant."""
    x, y = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else float("nan")


def _mean(values: NDArray[np.floating[Any]]) -> float:
    return float(values.mean()) if values.size else float("nan")
