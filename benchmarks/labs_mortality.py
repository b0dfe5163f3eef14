"""Mortality in `benchmarks.labs_teacher`: a linear reading of any table of features, on one split or on five folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.labs_sides import Tables
from pacx.data.manifest import Manifest
from pacx.data.store import Store, StoreWriter
from pacx.evaluation.linear import STRENGTHS
from pacx.evaluation.logistic import fit_logistic
from pacx.stages.teachers import open_teacher
from pacx.statistics import auroc, bootstrap_macro_auroc, paired_macro_auroc_difference

__all__ = ["Readout", "compare", "fold_store", "judge", "read_out", "rounded"]

Floats = NDArray[Any]


class Readout(NamedTuple):
    """A logistic regression on the training rows: what it says of the test rows."""

    score: Floats
    """(n,) log-odds of the labelled test rows"""
    strength: float
    val_auroc: float


def judge(splits: Mapping[str, Tables], runs: list[Path], store: Store) -> dict[str, Any]:
    """Predict mortality from every table and every embedding; scores are (n, number of embeddings)."""
    medians = splits["train"].raw.median().fillna(0.0)
    raw = {split: of.raw.fillna(medians).to_numpy() for split, of in splits.items()}
    middle = {split: np.where(of.observed > 0, of.x, 0.5) for split, of in splits.items()}
    tables = {
        "raw": raw,
        "raw_mask": {split: np.hstack([of, splits[split].observed]) for split, of in raw.items()},
        "percentiles": middle,
        "percentiles_mask": {split: np.hstack([of, splits[split].observed]) for split, of in middle.items()},
        "mask": {split: of.observed for split, of in splits.items()},
    }
    read = {name: [read_out(table, splits)] * len(runs) for name, table in tables.items()}
    teachers = [open_teacher(run) for run in runs]
    rows = {split: store.rows(split, needs=("labs",)) for split in splits}
    read["embedding"] = [
        read_out({split: teacher.embed(store, of) for split, of in rows.items()}, splits) for teacher in teachers
    ]
    known = ~np.isnan(splits["test"].died)
    return {
        "scores": {name: np.stack([one.score for one in found], axis=1) for name, found in read.items()},
        "strength": {name: [one.strength for one in found] for name, found in read.items()},
        "died": splits["test"].died[known],
        "patient": splits["test"].patient[known],
    }


def compare(judged: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn scores into AUROCs, one per embedding and fold, averaged within each draw of stays."""
    names = list(judged[0]["scores"])
    width = sum(len(one["scores"]["raw"].T) for one in judged)
    height = sum(len(one["died"]) for one in judged)
    died = np.full((height, width), np.nan)
    scores = {name: np.zeros((height, width)) for name in names}
    top = left = 0
    for one in judged:  # a block per fold: no stay is compared with a stay of another fold
        block = np.s_[top : top + len(one["died"]), left : left + len(one["scores"]["raw"].T)]
        died[block] = one["died"][:, None]
        for name in names:
            scores[name][block] = one["scores"][name]
        top, left = block[0].stop, block[1].stop
    patient = np.concatenate([one["patient"] for one in judged])
    return {
        "num_stays": height,
        "num_deaths": int(sum(one["died"].sum() for one in judged)),
        "sides": {
            name: {
                "auroc": rounded(bootstrap_macro_auroc(died, scores[name], patient)),
                "strength": [strength for one in judged for strength in one["strength"][name]],
            }
            for name in names
        },
        "embedding_minus": {
            name: rounded(paired_macro_auroc_difference(died, scores["embedding"], scores[name], patient))
            for name in names
            if name != "embedding"
        },
    }


def read_out(features: Mapping[str, Floats], splits: Mapping[str, Tables]) -> Readout:
    """Predict mortality by logistic regression on standardised features.

    Fitted on the labelled training rows; C is the one with the best AUROC on the labelled validation rows, the smaller
    on a tie.
    """
    known = {split: ~np.isnan(of.died) for split, of in splits.items()}
    mean, sd = features["train"].mean(axis=0), features["train"].std(axis=0)
    scaled = {
        split: (features[split][known[split]] - mean) / np.where(sd > 1e-6, sd, np.inf)
        for split in ("train", "val", "test")
    }
    died = {split: splits[split].died[known[split]] for split in known}
    repeated = np.repeat(died["train"][:, None], len(STRENGTHS), axis=1)
    fitted = fit_logistic(scaled["train"], repeated, STRENGTHS)
    on_val = [auroc(died["val"], score) for score in fitted.logits(scaled["val"]).T]
    best = int(np.argmax(on_val))
    return Readout(fitted.logits(scaled["test"])[:, best], float(STRENGTHS[best]), float(on_val[best]))


def fold_store(store: Store, folder: Path, *, fold: int, folds: int) -> Store:
    """Copy a store with splits drawn anew: `fold` is the test split, the next one validation, the rest training.

    The folds are the same for every `fold`, of equal size and with equal shares of deaths and of unknown outcomes.
    """
    table = store.manifest.drop(columns=[name for name in store.manifest.columns if name.startswith("has_")])
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(table))
    order = order[np.argsort(table["mortality"].fillna(2).to_numpy()[order], kind="stable")]
    number = np.empty(len(table), dtype=int)
    number[order] = np.arange(len(table)) % folds
    split = np.where(number == fold, "test", np.where(number == (fold + 1) % folds, "val", "train"))
    manifest = Manifest(
        store.name, table.assign(split=split), tasks=store.tasks, labs=store.labs, lab_units=store.lab_units
    )
    assert manifest.labs is not None
    manifest.labs = manifest.labs.set_axis(pd.Index(table["image_id"], name="image_id"))
    writer = StoreWriter(folder, name=store.name, num_rows=len(table))
    for row in range(len(table)):
        writer.write(row)
    writer.finish(manifest, source={"command": "benchmarks.labs_teacher", "fold": fold})
    return Store.open(folder)


def rounded(figures: Any) -> dict[str, float]:
    """Return an interval or a difference as JSON, five digits."""
    return {name: round(value, 5) for name, value in figures._asdict().items()}
