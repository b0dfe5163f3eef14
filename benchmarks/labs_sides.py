"""The other sides of `benchmarks.labs_teacher`: scikit-learn's imputers.

All of them work on percentiles (N, L) and a mask of what they are shown, and answer with percentiles.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from pacx.data.labs import LabReference
from pacx.data.store import Store

__all__ = ["Fill", "Tables", "fit_peers", "read_tables"]

Floats = NDArray[Any]
NEIGHBOURS = (5, 10, 20, 40, 80)
SWEEPS = (3, 10, 30)

Fill = Callable[[Floats, Floats], Floats]
"""percentiles (N, L) and the mask of those shown to filled-in percentiles (N, L)"""


class Tables(NamedTuple):
    """One split: raw values, percentiles and mask (N, L), mortality (N,) with NaN for unknown, patient (N,)."""

    raw: pd.DataFrame
    x: Floats
    observed: Floats
    died: Floats
    patient: NDArray[np.object_]


def read_tables(store: Store) -> tuple[LabReference, dict[str, Tables]]:
    """Return the training rows' distribution and the three splits in it; rows without any lab are left out."""
    assert store.labs is not None
    rows = {split: store.rows(split, needs=("labs",)) for split in ("train", "val", "test")}
    reference = LabReference.fit(store.labs.iloc[rows["train"]])
    table = store.manifest
    return reference, {
        split: Tables(
            store.labs.iloc[of],
            *reference.transform(store.labs.iloc[of]),
            table["mortality"].iloc[of].to_numpy(dtype=np.float64),
            table["patient_id"].iloc[of].to_numpy(dtype=object),
        )
        for split, of in rows.items()
    }


def fit_peers(
    reference: LabReference, train: Tables, val: Tables, shown: Floats, *, quick: bool
) -> tuple[dict[str, Fill], dict[str, Any]]:
    """Fit scikit-learn's imputers; choose what can be chosen by the error on hidden entries of the validation rows.

    Args:
        reference: turns the raw values of one of them into percentiles.
        train: rows to learn from.
        val: rows to choose on.
        shown: their mask with entries hidden.
        quick: spend no time on it.

    Returns:
        The sides by name, and for each the seconds that the chosen fit took and what was chosen.
    """
    hidden = val.observed > shown
    holes = np.where(train.observed > 0, train.x, np.nan)
    fills: dict[str, Fill] = {}
    facts: dict[str, Any] = {}
    kept = np.array([bool(column.any()) for column in train.observed.T])  # scikit-learn drops columns without values
    families: dict[str, Mapping[str, Callable[[], Any]]] = {
        "knn": {f"n_neighbors={k}": lambda k=k: KNNImputer(n_neighbors=k) for k in NEIGHBOURS},
        "iterative": {
            f"max_iter={n}{', bounded' if bounds else ''}": lambda n=n, bounds=bounds: IterativeImputer(
                max_iter=n, random_state=0, **bounds
            )
            for n in (SWEEPS[:1] if quick else SWEEPS)
            for bounds in ({}, {"min_value": 0, "max_value": 1})
        },
        "iterative_raw": {
            f"max_iter={n}": lambda n=n: IterativeImputer(max_iter=n, random_state=0)
            for n in SWEEPS[: 1 if quick else 2]
        },
    }
    for name, family in families.items():
        raw = name == "iterative_raw"
        tried = []
        for setting, make in family.items():
            with _unconverged_is_fine():
                start = time.perf_counter()
                imputer = make().fit(train.raw.to_numpy() if raw else holes)
                seconds = time.perf_counter() - start
            fill = _raw_fill(imputer, reference, train.raw, kept) if raw else _fill(imputer, kept)
            given = val.raw.to_numpy() if raw else val.x
            error = float(((fill(given, shown) - val.x)[hidden] ** 2).mean())
            tried.append((error, setting, seconds, fill))
        error, setting, seconds, fills[name] = min(tried, key=lambda one: one[0])
        facts[name] = {
            "chosen": setting,
            "fit_seconds": round(seconds, 2),
            "val_errors": {one[1]: round(one[0], 5) for one in tried},
        }
    return fills, facts


def _fill(imputer: Any, kept: NDArray[np.bool_]) -> Fill:
    def fill(x: Floats, shown: Floats) -> Floats:
        filled = np.full(x.shape, 0.5)
        filled[:, kept] = np.clip(imputer.transform(np.where(shown > 0, x, np.nan)), 0, 1)
        return filled

    return fill


def _raw_fill(imputer: Any, reference: LabReference, like: pd.DataFrame, kept: NDArray[np.bool_]) -> Fill:
    def fill(values: Floats, shown: Floats) -> Floats:
        filled = np.zeros(values.shape)
        filled[:, kept] = imputer.transform(np.where(shown > 0, values, np.nan))
        return reference.transform(pd.DataFrame(filled, columns=like.columns))[0]

    return fill


@contextmanager
def _unconverged_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
