"""The head that an honest probe leaves behind: the regressions with the most labels, joined and calibrated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pacx.calibrated import Column, calibrate, calibration_of
from pacx.data.store import Store
from pacx.evaluation.problems import Attempt, predictions_table
from pacx.models.readout_head import ReadoutHead
from pacx.readout import HeadToken, Readout

__all__ = ["join_heads"]


def join_heads(
    attempts: Sequence[Attempt],
    store: Store,
    *,
    encoder: str,
    encoder_hash: str,
    draws: int,
) -> ReadoutHead | None:
    """Join what was fitted on the largest share of the labels (its first subset) into one head.

    Tasks may read different tokens; the head then reads both, with zeros where a task does not look.

    Args:
        attempts: of all problems.
        store: what they were fitted on.
        encoder: where the encoder is, as the user named it.
        encoder_hash: hash of its weights.
        draws: bootstrap draws of the AUROCs' intervals.

    Returns:
        The head; None if nothing could be fitted.
    """
    largest = max((attempt.problem.fraction for attempt in attempts), default=1.0)
    kept = [one for one in attempts if one.head and one.problem.fraction == largest and one.problem.seed == 0]
    if not kept:
        return None
    columns = [(attempt, number) for attempt in kept for number in range(len(attempt.outputs))]
    token = _common_token({_token(attempt) for attempt in kept})
    described = [_column(attempt, number, store) for attempt, number in columns]
    tables = predictions_table(store, kept), predictions_table(store, kept, split="val")
    found = calibrate(described, *tables, draws=draws)
    weight, bias = [], []
    for (attempt, number), column in zip(columns, described, strict=True):
        assert attempt.head is not None
        slope, shift, _ = found[column].platt
        own = slope * attempt.head.weight[:, number]
        weight.append(_widened(own, _token(attempt), token))
        bias.append(slope * attempt.head.bias[number] + shift)
    outputs = tuple(found[column].output for column in described)
    readout = Readout(outputs, token, calibration_of(found), f"{store.name}, {largest:.0%} of the training labels")
    arrays = np.stack(weight).astype(np.float32), np.array(bias, dtype=np.float32)
    return ReadoutHead(*arrays, readout, encoder_hash, encoder)


def _column(attempt: Attempt, number: int, store: Store) -> Column:
    problem, output = attempt.problem, attempt.outputs[number]
    answers = store.manifest[problem.label].to_numpy(dtype=np.float64)[problem.rows]
    names = problem.task.classes or tuple(map(str, range(int(answers.max()) + 1)))
    value = names.index(output) if problem.task.kind == "multiclass" else 1
    return Column(problem.task.name, problem.label, output, float((answers == value).mean()))


def _token(attempt: Attempt) -> HeadToken:
    token: HeadToken = attempt.chosen.get("token", "cls")
    return token


def _common_token(tokens: set[HeadToken]) -> HeadToken:
    return tokens.pop() if len(tokens) == 1 else "both"


def _widened(weight: NDArray[np.float64], own: HeadToken, common: HeadToken) -> NDArray[np.float64]:
    if own == common:
        return weight
    nothing = np.zeros_like(weight)
    return np.concatenate([weight, nothing] if own == "cls" else [nothing, weight])
