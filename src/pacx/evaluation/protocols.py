"""The two protocols of a probe, from features to what `result.json` says; see `pacx.evaluation.probe`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.data.manifest import Task
from pacx.data.store import Store
from pacx.evaluation.heads import Schedule
from pacx.evaluation.kept_head import join_heads
from pacx.evaluation.linear import STRENGTHS, run_probes
from pacx.evaluation.neighbours import run_neighbours
from pacx.evaluation.paper_probe import Sampler, run_paper_probes
from pacx.evaluation.probe_rows import score_rows, summary_rows
from pacx.evaluation.problems import Attempt, ProbeData, make_problems, predictions_table
from pacx.evaluation.published_probes import EPOCHS, published_probe
from pacx.evaluation.token_choice import choose_token
from pacx.frozen.features import Token, extract
from pacx.measures import keep_measures, summarise_all
from pacx.models.encoder import Encoder, weights_hash
from pacx.models.readout_head import HEAD_FOLDER, save_head
from pacx.runs import RunFolder

__all__ = ["Asked", "Features", "HeadArguments", "ProbeToken", "honest", "paper"]

ProbeToken = Literal["cls", "mean", "both", "auto"]
"""What stands for an image, or auto: the best of the three on the validation split."""

_LEVEL = 0.95
log = logging.getLogger("pacx")


class Asked(NamedTuple):
    """What both protocols are asked."""

    tasks: list[Task]
    fractions: list[float]
    seeds: int
    draws: int


class HeadArguments(NamedTuple):
    """Arguments that the paper protocol alone has; None where the published value is wanted."""

    sampler: Sampler | None
    learning_rates: list[float] | None
    head_batch_size: int | None
    epochs: int | None


class Features(NamedTuple):
    """Where features come from."""

    encoder: Encoder
    store: Store
    batch_size: int
    cache: Path
    source: str
    """where the encoder is, as the user named it"""

    def of(
        self, rows: NDArray[np.int64], token: Token, *, flip: bool = False, exact: bool = False
    ) -> NDArray[np.float32]:
        """Compute or read features (n, D)."""
        return extract(
            self.encoder, self.store, rows, token=token, batch_size=self.batch_size, cache=self.cache, flip=flip,
            exact=exact,
        )  # fmt: skip


def honest(run: RunFolder, features: Features, asked: Asked, *, token: ProbeToken, neighbours: bool) -> dict[str, Any]:
    """Fit logistic regressions, and k nearest neighbours beside them."""
    rows = features.store.rows(needs=("image",))
    tokens: tuple[Token, ...] = ("cls", "mean", "both") if token == "auto" else (token,)
    data = {one: ProbeData.standardised(features.store, rows, features.of(rows, one)) for one in tokens}
    problems = make_problems(data[tokens[0]], asked.tasks, fractions=asked.fractions, seeds=asked.seeds)
    attempts = choose_token({one: run_probes(data[one], problems) for one in tokens})
    protocol = {
        "name": "honest",
        "token": token,
        "strengths": STRENGTHS,
        "chosen_on": "AUROC on the whole validation split",
        "draws": asked.draws,
        "level": _LEVEL,
    }
    found = {"protocol": protocol, **_scored(run, features.store, asked, attempts)}
    found["head"] = _keep_head(run, features, asked, attempts)
    if neighbours:
        nearest = choose_token({one: run_neighbours(data[one], problems) for one in tokens})
        found["neighbours"] = _nearest(run, features.store, asked, nearest)
    return found


def paper(
    run: RunFolder, features: Features, asked: Asked, *, token: ProbeToken, arguments: HeadArguments
) -> dict[str, Any]:
    """Train heads as published."""
    assert token != "auto", "is refused before"
    store, rows = features.store, features.store.rows(needs=("image",))
    # 40 epochs of AdamW let the rounding of half precision grow to 1e-3 in the logits.
    data = ProbeData.raw(store, rows, features.of(rows, token, exact=True))
    mirrored = features.of(data.rows["train"], token, flip=True, exact=True)
    published = {task: published_probe(store.name, task.name) for task in asked.tasks}
    schedules = {
        task: Schedule(
            tuple(arguments.learning_rates or (own.learning_rate,)),
            arguments.head_batch_size or own.batch_size,
            arguments.epochs or EPOCHS,
        )
        for task, own in published.items()
    }
    sampler = arguments.sampler or "reference"
    attempts = run_paper_probes(
        data, mirrored, schedules, fractions=asked.fractions, seeds=asked.seeds, sampler=sampler
    )
    protocol = {
        "name": "paper",
        "token": token,
        "sampler": sampler,
        "subsets_by": "image" if sampler == "reference" else "patient",
        "heads": {task.name: {"data_set": published[task].name, **schedules[task]._asdict()} for task in asked.tasks},
        "chosen_on": "macro AUROC of the task on the whole validation split, epoch by epoch",
        "draws": asked.draws,
        "level": _LEVEL,
    }
    return {"protocol": protocol, **_scored(run, store, asked, attempts)}


def _scored(run: RunFolder, store: Store, asked: Asked, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Write predictions and measures; return scores, summary and measures."""
    _warn_of_gaps(attempts)
    predictions = predictions_table(store, attempts)
    predictions.to_parquet(run.artefact("predictions", "predictions.parquet"))
    val_predictions = predictions_table(store, attempts, split="val")
    val_predictions.to_parquet(run.artefact("val_predictions", "val_predictions.parquet"))
    scored = summarise_all(predictions, draws=asked.draws, level=_LEVEL)
    return {
        "scores": score_rows(attempts, scored),
        "summary": summary_rows(asked.tasks, attempts, scored),
        "measures": keep_measures(run, predictions, val_predictions, store.manifest, draws=asked.draws, level=_LEVEL),
    }


def _keep_head(run: RunFolder, features: Features, asked: Asked, attempts: Sequence[Attempt]) -> list[str]:
    """Write the head for `pacx predict` and `pacx export`; return the names of its outputs, none if there is none."""
    head = join_heads(
        attempts, features.store, encoder=features.source, encoder_hash=weights_hash(features.encoder),
        draws=asked.draws,
    )  # fmt: skip
    if head is None:
        return []
    save_head(head, run.artefact(HEAD_FOLDER, HEAD_FOLDER))
    return list(head.readout.names)


def _nearest(run: RunFolder, store: Store, asked: Asked, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Write the neighbours' predictions; return a summary in the same form, with every k that was chosen."""
    predictions = predictions_table(store, attempts)
    predictions.to_parquet(run.artefact("neighbours", "neighbours.parquet"))
    summary = summary_rows(asked.tasks, attempts, summarise_all(predictions, draws=asked.draws, level=_LEVEL))
    chosen: dict[tuple[str, str, float], list[int | None]] = {}
    for attempt in attempts:
        problem = attempt.problem
        chosen.setdefault((problem.task.name, problem.label, problem.fraction), []).append(attempt.chosen["k"])
    return [{**row, "k": chosen.get((row["task"], row["label"], row["fraction"]))} for row in summary]


def _warn_of_gaps(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        if not attempt.outputs:
            problem, why = attempt.problem, ", ".join(attempt.notes)
            log.warning("%s/%s at %g: %s, not probed", problem.task.name, problem.label, problem.fraction, why)
