"""What the features of an ECG teacher know, and what they do not care about.

    python -m benchmarks.ecg_features --teacher RUN [--teacher RUN ...] --data ../shared/data [--out FILE.json]

`--data` is the open sample, with the 456 records of PTB-XL.

* **Linear probe.** Features of a frozen teacher, standardised by the training records, logistic regression for each of
  the five superclasses, its strength chosen on fold 9, macro AUROC on fold 10 with an interval from drawing patients.
  Beside it a network of the same shape with fresh weights, whose batch norms got the statistics of the training
  records, and the paired difference.
* **The same, cross-validated.** Fold 10 has 61 records, too few to tell features apart. A self-supervised teacher has
  seen records but no label, so all 456 can judge it: five folds by patient, each scored by a probe of the other four
  with one strength for all (C = 0.01). A supervised teacher has seen labels and is not judged so.
* **Two files of one record.** 24 records are published at 100 Hz and at 500 Hz. Both are read and embedded, and the
  cosine between the two features should be near 1. Cosines between different records are given beside it, since a
  network whose features are all alike has 1 everywhere; and both once more after subtracting the mean feature.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pacx.data.ecg import read_ecg
from pacx.data.ecg.recipe import prepare_ecg
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.evaluation.linear import STRENGTHS
from pacx.evaluation.logistic import fit_logistic
from pacx.models.ecgfounder import EcgNet
from pacx.stages.ecg_records import choose_records
from pacx.stages.teachers import EcgTeacher, open_teacher
from pacx.statistics import bootstrap_macro_auroc, macro_auroc, paired_macro_auroc_difference, unit_rows

Features = NDArray[np.float32]
FOLDS, STRENGTH = 5, 0.01
Embed = Callable[[NDArray[np.float32]], Features]


class Judged(NamedTuple):
    """A linear probe on the test records."""

    target: NDArray[np.float64]
    """(n, labels)"""
    score: NDArray[np.float64]
    """(n, labels) log-odds"""
    patient: NDArray[np.object_]


def main() -> None:
    """Judge each teacher and print what was found."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ptb-xl"
        prepare("open-sample", options.data, part="ecg", out=out)
        store = Store.open(out)
        found = {str(path): judge(path, store, options.data) for path in options.teacher}
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def judge(path: Path, store: Store, data: Path) -> dict[str, Any]:
    """Probe one teacher and a fresh network of its shape, and compare two files of one record."""
    teacher = open_teacher(path, workers=1)
    if not isinstance(teacher, EcgTeacher):
        raise SystemExit(f"{path} is no ECG teacher.")
    rate = int(teacher.preprocessing["rate"])
    _, rows = choose_records(store, task="superclass", group=None)
    ecgs = np.load(store.path / "ecg.npy", mmap_mode="r", allow_pickle=False)
    records = {split: np.stack([prepare_ecg(ecgs[row], rate=rate) for row in part]) for split, part in rows.items()}
    fresh = fresh_like(teacher.net, records["train"])
    ours, theirs = (probe(store, rows, records, embedder(net)) for net in (teacher.net, fresh))
    crossed = {}
    if not teacher.net.config.num_classes:
        crossed = compare(*(cross_validate(store, rows, records, embedder(net)) for net in (teacher.net, fresh)))
    return {
        "probe": compare(ours, theirs),
        "cross_validated_probe": crossed,
        "two_files": two_files(data, embedder(teacher.net), rate=rate),
        "two_files_fresh": two_files(data, embedder(fresh), rate=rate),
    }


def compare(ours: Judged, theirs: Judged) -> dict[str, Any]:
    """Give the macro AUROC of a teacher, of the fresh network, and their paired difference."""
    return {
        "teacher": bootstrap_macro_auroc(ours.target, ours.score, ours.patient)._asdict(),
        "fresh": bootstrap_macro_auroc(theirs.target, theirs.score, theirs.patient)._asdict(),
        "difference": paired_macro_auroc_difference(ours.target, ours.score, theirs.score, ours.patient)._asdict(),
    }


def embedder(net: EcgNet) -> Embed:
    """Make a function from prepared records (n, 12, T) to features (n, D)."""

    def embed(records: NDArray[np.float32]) -> Features:
        with torch.inference_mode():
            parts = [net.features(torch.from_numpy(records[i : i + 32])).numpy() for i in range(0, len(records), 32)]
        return np.concatenate(parts)

    return embed


def fresh_like(net: EcgNet, train: NDArray[np.float32], *, seed: int = 0) -> EcgNet:
    """Make a network of the same shape with fresh weights; its batch norms see the training records once."""
    torch.manual_seed(seed)
    fresh = EcgNet(net.config)
    for norm in (part for part in fresh.modules() if isinstance(part, torch.nn.BatchNorm1d)):
        norm.momentum = None  # the mean over all batches
    with torch.inference_mode():
        for start in range(0, len(train), 32):
            fresh.train().features(torch.from_numpy(train[start : start + 32]))
    return fresh.eval()


def probe(
    store: Store, rows: dict[str, NDArray[np.int64]], records: dict[str, NDArray[np.float32]], embed: Embed
) -> Judged:
    """Fit one logistic regression per label on frozen features; its strength is chosen on the validation records."""
    x = {split: embed(part) for split, part in records.items()}
    mean, spread = x["train"].mean(axis=0), x["train"].std(axis=0)
    x = {split: (part - mean) / np.maximum(spread, 1e-6) for split, part in x.items()}
    labels = list(store.task("superclass").labels)
    y = {split: store.manifest[labels].iloc[part].to_numpy(dtype=np.float64) for split, part in rows.items()}
    scores = []
    for column in range(len(labels)):
        target = np.repeat(y["train"][:, column, None], len(STRENGTHS), axis=1)
        fit = fit_logistic(x["train"], target, STRENGTHS)
        tried = fit.logits(x["val"])
        best = int(
            np.argmax([macro_auroc(y["val"][:, column, None], tried[:, i, None]) for i in range(len(STRENGTHS))])
        )
        scores.append(fit.logits(x["test"])[:, best])
    return Judged(
        y["test"], np.stack(scores, axis=1), store.manifest["patient_id"].iloc[rows["test"]].to_numpy(dtype=object)
    )


def cross_validate(
    store: Store, rows: dict[str, NDArray[np.int64]], records: dict[str, NDArray[np.float32]], embed: Embed
) -> Judged:
    """Score every record by a probe that was fitted on other patients."""
    everyone = np.concatenate(list(rows.values()))
    x = np.concatenate([embed(records[split]) for split in rows])
    y = store.manifest[list(store.task("superclass").labels)].iloc[everyone].to_numpy(dtype=np.float64)
    patient = store.manifest["patient_id"].iloc[everyone].to_numpy(dtype=object)
    names, code = np.unique(patient.astype(str), return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[code] % FOLDS
    scores = np.zeros(y.shape)
    for number in range(FOLDS):
        fitted = x[fold != number]
        standardised = (x - fitted.mean(axis=0)) / np.maximum(fitted.std(axis=0), 1e-6)
        fit = fit_logistic(standardised[fold != number], y[fold != number], np.full(y.shape[1], STRENGTH))
        scores[fold == number] = fit.logits(standardised[fold == number])
    return Judged(y, scores, patient)


def two_files(data: Path, embed: Embed, *, rate: int) -> dict[str, float]:
    """Compare the features of records read from their 100 Hz and their 500 Hz file."""
    listing = pd.read_csv(data / "ecg" / "manifest.csv").dropna(subset=["record_500hz"])
    low, high = (
        embed(np.stack([prepare_ecg(read_ecg(data / record).signal, rate=rate) for record in listing[column]]))
        for column in ("record_100hz", "record_500hz")
    )
    return {"records": len(listing), **cosines(low, high)}


def cosines(low: Features, high: Features) -> dict[str, float]:
    """Describe cosines between rows that belong together (n, D) and (n, D), and between rows that do not."""
    found: dict[str, float] = {}
    centre = np.concatenate([low, high]).mean(axis=0)
    for name, shift in (("cosine", 0.0), ("centred", centre)):
        between = unit_rows(low - shift) @ unit_rows(high - shift).T
        same, strangers = np.diag(between), between[~np.eye(len(between), dtype=bool)]
        found |= {
            f"{name}_min": float(same.min()),
            f"{name}_median": float(np.median(same)),
            f"{name}_strangers_mean": float(strangers.mean()),
            f"{name}_strangers_max": float(strangers.max()),
        }
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
