"""How good an ECG network is on records that it was not trained on.

* Supervised: AUROC of each label and their mean, with intervals from drawing patients, and average precision, whose
  level of chance is the share of positives.
* Self-supervised: mean squared error over hidden samples, and that of always answering the record's mean. How much the
  features know of statements is another question: `benchmarks/ecg_features.py` asks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx.data.store import Store
from pacx.models.ecg_masking import EcgFiller
from pacx.models.ecgfounder import EcgNet
from pacx.stages.ecg_objectives import EcgClassification, EcgFilling, Masking
from pacx.stages.ecg_records import Splits
from pacx.statistics import (
    average_precision,
    bootstrap_auroc,
    bootstrap_macro_auroc,
    bootstrap_mean,
    mean_of_defined,
)

__all__ = ["filling_report", "judge", "statement_report"]

Records = NDArray[np.float16]


def judge(
    module: EcgClassification | EcgFilling,
    store: Store,
    labels: tuple[str, ...],
    rows: Splits,
    prepared: Mapping[str, Records],
    *,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Judge the network on test records, or on validation records where there are none."""
    split = "test" if len(rows["test"]) else "val"
    if isinstance(module, EcgFilling):
        report = filling_report(
            store, rows[split], prepared[split], filler=module.filler, masking=module.masking, batch_size=batch_size,
            seed=seed,
        )  # fmt: skip
        return {**report, "split": split}
    found = {
        part: statement_report(
            store, rows[part], _logits(module.net, prepared[part], batch_size=batch_size), labels=labels, seed=seed
        )
        for part in ("val", split)
    }
    return {**found[split], "val_macro_auroc": found["val"]["macro_auroc"], "split": split}


def _logits(net: EcgNet, records: Records, *, batch_size: int) -> NDArray[np.float32]:
    """Return the network's outputs (n, L) for prepared records (n, leads, T)."""
    with torch.inference_mode():
        parts = [net(batch).numpy() for batch in _batches(records, batch_size)]
    return np.concatenate(parts) if parts else np.empty((0, net.config.num_classes), dtype=np.float32)


def statement_report(
    store: Store,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    labels: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    """Judge scores (n, L) of store rows (n,), label by label and on average."""
    patient = store.manifest["patient_id"].iloc[rows].to_numpy(dtype=object)
    targets = store.manifest[list(labels)].iloc[rows].to_numpy(dtype=np.float64)
    by_label = {}
    for column, label in enumerate(labels):
        target, score = targets[:, column], scores[:, column]
        by_label[label] = {
            **bootstrap_auroc(target, score, patient, seed=seed)._asdict(),
            "average_precision": average_precision(target, score),
            "n": int((~np.isnan(target)).sum()),
            "positives": int((target == 1).sum()),
        }
    precisions = np.array([found["average_precision"] for found in by_label.values()])
    return {
        "macro_auroc": bootstrap_macro_auroc(targets, scores, patient, seed=seed),
        "macro_average_precision": float(mean_of_defined(precisions)),
        "auroc": by_label,
    }


def filling_report(
    store: Store,
    rows: NDArray[np.int64],
    records: Records,
    *,
    filler: EcgFiller,
    masking: Masking,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Measure how well hidden segments are filled in: each record's mean error, then the mean over records."""
    errors, squares = [np.empty(0)], [np.empty(0)]
    with torch.inference_mode():
        for start, x in zip(range(0, len(rows), batch_size), _batches(records, batch_size), strict=True):
            hidden = masking.fixed(x, torch.from_numpy(rows[start : start + batch_size]))
            errors.append(_mean_where(hidden, (filler(x, hidden) - x).square()))
            squares.append(_mean_where(hidden, x.square()))
    patient = store.manifest["patient_id"].iloc[rows].to_numpy(dtype=object)
    return {
        "masked_mse": bootstrap_mean(np.concatenate(errors), patient, seed=seed),
        "mean_mse": bootstrap_mean(np.concatenate(squares), patient, seed=seed),
    }


def _mean_where(hidden: Tensor, values: Tensor) -> NDArray[np.float64]:
    """Average over the hidden samples of each record (B,); NaN where none is hidden."""
    total = (values * hidden).sum(dim=(1, 2)).double() / hidden.sum(dim=(1, 2))
    return total.numpy()


def _batches(records: Records, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(records), batch_size):
        yield torch.from_numpy(np.asarray(records[start : start + batch_size], dtype=np.float32))
