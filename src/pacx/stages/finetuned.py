"""What a fine-tuned classifier leaves behind: predictions and scores in the form of a probe's, the encoder, the head.

The tables have the columns that `pacx.scoring` describes, and `scores` and `summary` the keys of `pacx probe`, so that
reports, pools and paired comparisons take a fine-tuned encoder as they take a probed one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx import __version__
from pacx.calibrated import Column, calibrate, calibration_of
from pacx.data.store import Store
from pacx.models.classifier import Classifier
from pacx.models.encoder import save_encoder, weights_hash
from pacx.models.readout_head import HEAD_FOLDER, ReadoutHead, save_head
from pacx.readout import Readout
from pacx.runs import RunFolder
from pacx.scoring import MACRO, summarise
from pacx.stages.lesson import Lesson
from pacx.stages.provenance import training_data

__all__ = ["LEVEL", "keep_classifier", "predictions_of", "score_rows"]

LEVEL = 0.95
"""coverage of the intervals"""

_UNDEFINED = {"value": np.nan, "low": np.nan, "high": np.nan}
_UNTESTED = {"num_test": 0, "num_test_patients": 0, "positives": 0}


def predictions_of(store: Store, lesson: Lesson, rows: NDArray[np.int64], score: NDArray[np.float32]) -> pd.DataFrame:
    """Tabulate the scores of outputs that could be learnt, where the label is known.

    Args:
        store: names images and patients.
        lesson: the task and its labels.
        rows: (n,) store rows.
        score: (n, K) log-odds.
    """
    target, learnable = lesson.one_against_rest(rows), lesson.learnable()
    parts = [
        _output_table(store, lesson, label, column, rows, target[:, column], score[:, column])
        for label in lesson.task.labels
        for column in lesson.output_columns(label)
        if learnable[column]
    ]
    table = pd.concat(parts, ignore_index=True)
    names = ["task", "label", "output", "image_id", "patient_id"]
    return table.astype(dict.fromkeys(names, "category"))


def _output_table(
    store: Store,
    lesson: Lesson,
    label: str,
    column: int,
    rows: NDArray[np.int64],
    target: NDArray[np.float32],
    score: NDArray[np.float32],
) -> pd.DataFrame:
    known = np.isfinite(target)
    named = store.manifest.iloc[rows[known]]
    return pd.DataFrame(
        {
            "task": lesson.task.name,
            "label": label,
            "output": lesson.outputs[column],
            "fraction": lesson.fraction,
            "seed": lesson.seed,
            "image_id": named["image_id"].astype(str).to_numpy(),
            "patient_id": named["patient_id"].astype(str).to_numpy(),
            "target": target[known].astype(np.int8),
            "score": score[known].astype(np.float32),
        }
    )


def score_rows(lesson: Lesson, predictions: pd.DataFrame, *, draws: int) -> dict[str, list[dict[str, Any]]]:
    """Score test predictions: `scores`, one entry per label, and `summary`, with the mean over labels if several."""
    scored = summarise(predictions, draws=draws, level=LEVEL)
    scores, summary = [], []
    for label in lesson.task.labels:
        key = (lesson.task.name, label, lesson.fraction)
        interval = scored.single.get((*key, 0, lesson.seed))
        tested = scored.mean.get(key, {**_UNTESTED, **_UNDEFINED, "num_seeds": 0, "num_runs": 0})
        trained = {"num_train": lesson.num_train(label), "num_train_positives": _rarest(lesson, label)}
        notes = _notes(lesson, label)
        scores.append(
            {
                **_name(lesson, label),
                "seed": lesson.seed,
                **(interval._asdict() if interval else _UNDEFINED),
                **trained,
                **{name: tested[name] for name in _UNTESTED},
                "notes": notes,
            }
        )
        summary.append({**_name(lesson, label), **tested, **trained, "notes": notes})
    summary += [{**_name(lesson, MACRO), **row} for key, row in scored.mean.items() if key[1] == MACRO]
    return {"scores": scores, "summary": summary}


def keep_classifier(
    run: RunFolder,
    classifier: Classifier,
    lesson: Lesson,
    store: Store,
    predictions: dict[str, pd.DataFrame],
    *,
    parent: dict[str, Any],
    epochs: int,
) -> str:
    """Write the encoder and its calibrated head; return the encoder's hash.

    Args:
        run: the open run.
        classifier: on the CPU.
        lesson: what was learnt.
        store: from which.
        predictions: scores of the test images and, if there are any, of the validation images, which calibrate.
        parent: the encoder that it started from.
        epochs: of training.
    """
    encoder = classifier.encoder
    provenance = {
        "method": f"fine-tuned on {lesson.task.name}, {lesson.fraction:.0%} of the labels, {epochs} epochs",
        "parent": parent,
        "data": training_data(store),
        "pacx_version": __version__,
    }
    encoder.config = replace(encoder.config, provenance=provenance)
    save_encoder(encoder, run.artefact("encoder", "encoder"))
    hashed = weights_hash(encoder)
    save_head(_calibrated_head(classifier, lesson, store, predictions, hashed), run.artefact(HEAD_FOLDER, HEAD_FOLDER))
    return hashed


def _calibrated_head(
    classifier: Classifier, lesson: Lesson, store: Store, predictions: dict[str, pd.DataFrame], encoder_hash: str
) -> ReadoutHead:
    """Calibrate the outputs that could be learnt."""
    learnt = lesson.one_against_rest(lesson.rows["train"], learnt=True)
    columns = {
        Column(lesson.task.name, label, lesson.outputs[number], float(np.nanmean(learnt[:, number]))): number
        for label in lesson.task.labels
        for number in lesson.output_columns(label)
        if lesson.learnable()[number]
    }
    test = predictions["test"]
    found = calibrate(list(columns), test, predictions.get("val", test.iloc[:0]))
    slope = np.array([found[column].platt.slope for column in columns])
    shift = np.array([found[column].platt.shift for column in columns])
    numbers = list(columns.values())
    weight, bias = (part.detach().double().numpy()[numbers] for part in (classifier.head.weight, classifier.head.bias))
    readout = Readout(
        tuple(found[column].output for column in columns),
        classifier.token,
        calibration_of(found),
        f"{store.name}, {lesson.fraction:.0%} of the training labels",
    )
    return ReadoutHead(
        (slope[:, None] * weight).astype(np.float32),
        (slope * bias + shift).astype(np.float32),
        readout,
        encoder_hash,
        encoder="",
    )


def _name(lesson: Lesson, label: str) -> dict[str, Any]:
    task = lesson.task
    return {"task": task.name, "label": label, "group": task.group, "fraction": lesson.fraction, "metric": "auroc"}


def _rarest(lesson: Lesson, label: str) -> int:
    target = lesson.one_against_rest(lesson.rows["train"], learnt=True)[:, lesson.output_columns(label)]
    return int((target == 1).sum(axis=0).min())


def _notes(lesson: Lesson, label: str) -> list[str]:
    """Say why a score is undefined, or rests on fewer classes."""
    columns = lesson.output_columns(label)
    learnable = lesson.learnable()[columns]
    if not learnable.any():
        return ["one class in the training subset" if lesson.num_train(label) else "no labelled training image"]
    target = lesson.one_against_rest(lesson.rows["test"])[:, columns][:, learnable]
    if ((target == 1).any(axis=0) & (target == 0).any(axis=0)).any():
        return []
    return ["one class in the test split" if np.isfinite(target).any() else "no labelled test image"]
