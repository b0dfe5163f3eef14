"""From predictions to AUROCs with patient-level intervals.

`predictions.parquet` of a probe holds one row per scored test image:

    task, label     what was predicted
    output          the label again, or for a multiclass label the class that this score is for (one against the rest)
    fraction, seed  which training subset
    image_id, patient_id
    target          0 or 1
    score           log-odds, higher = more positive
    run             which of several pooled runs (`pacx.evaluation.pool`); without this column there is one

Keeping the predictions, not only their scores, is what lets two encoders be compared image by image later. A
multiclass label is scored by the mean of its one-against-the-rest AUROCs, a task with several labels also as a whole
(label `macro`) by the mean over labels.

Several seeds are several training subsets, scored on the same test images; several runs are several encoders trained
alike. Their AUROCs are averaged draw by draw, so the interval of the mean is that of the test patients, and the spread
over seeds and over runs is reported beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.statistics import Interval, Resamples, auroc, auroc_draws, interval_of, mean_of_defined, resample_patients

__all__ = [
    "FOLD",
    "MACRO",
    "QuestionScores",
    "Scored",
    "Scorer",
    "SeedScores",
    "arrange",
    "on_shared_subsets",
    "questions",
    "spread",
    "summarise",
]

MACRO = "macro"
"""Label under which the mean over a task's labels is reported."""
FOLD = " @ fold "
"""What stands between an output and the number of its fold, where the folds of a cross-validation are pooled."""


class QuestionScores(NamedTuple):
    """Scores of one question (task, label, fraction) on N test images, K outputs, S seeds."""

    target: NDArray[np.float64]
    """(N, K), NaN = unknown"""
    score: NDArray[np.float64]
    """(S, N, K), NaN where nothing was predicted"""
    image_id: NDArray[np.object_]
    """(N,)"""
    patient: NDArray[np.object_]
    """(N,)"""
    seeds: tuple[int, ...]
    """(S,) training subset; pooled runs have each of them once per run"""
    outputs: tuple[str, ...]
    """(K,)"""
    runs: tuple[int, ...]
    """(S,) which of several pooled runs"""
    labels: tuple[str, ...]
    """(K,) the label that each output belongs to"""

    def of_seeds(self, seeds: Collection[int]) -> QuestionScores:
        """Keep some training subsets, of all runs; what only the others could learn to tell goes with them."""
        kept = [place for place, seed in enumerate(self.seeds) if seed in seeds]
        if len(kept) == len(self.seeds):
            return self
        score = self.score[kept]
        learnt = np.asarray(np.isfinite(score).any(axis=(0, 1)))
        images = np.isfinite(self.target[:, learnt]).any(axis=1)
        return QuestionScores(
            self.target[images][:, learnt],
            score[:, images][:, :, learnt],
            self.image_id[images],
            self.patient[images],
            tuple(self.seeds[place] for place in kept),
            tuple(name for name, own in zip(self.outputs, learnt, strict=True) if own),
            tuple(self.runs[place] for place in kept),
            tuple(name for name, own in zip(self.labels, learnt, strict=True) if own),
        )


class SeedScores(NamedTuple):
    """AUROC of every seed, with its bootstrap draws."""

    value: NDArray[np.float64]
    """(S,)"""
    draws: NDArray[np.float64]
    """(S, draws)"""


def questions(predictions: pd.DataFrame) -> Iterator[tuple[tuple[str, str, float], QuestionScores]]:
    """Split predictions into questions (task, label, fraction), each label first, then the task as a whole."""
    for (task, share), of_task in predictions.groupby(["task", "fraction"], observed=True, sort=False):
        fraction = cast("float", share)
        labels = of_task["label"].unique()
        for label in labels:
            yield (str(task), str(label), fraction), arrange(of_task[of_task["label"] == label])
        if len(labels) > 1:
            yield (str(task), MACRO, fraction), arrange(of_task)


def arrange(predictions: pd.DataFrame) -> QuestionScores:
    """Lay the predictions of one question out as arrays, images sorted by id."""
    image, images = pd.factorize(predictions["image_id"].astype(str), sort=True)
    run = predictions["run"].to_numpy() if "run" in predictions else np.zeros(len(predictions), dtype=np.int64)
    most = 1 + int(predictions["seed"].max())
    seed, seeds = pd.factorize(run * most + predictions["seed"].to_numpy(), sort=True)
    names = predictions["label"].astype(str) + "\n" + predictions["output"].astype(str)
    output, outputs = pd.factorize(names, sort=True)
    target = np.full((len(images), len(outputs)), np.nan)
    target[image, output] = predictions["target"]
    score = np.full((len(seeds), len(images), len(outputs)), np.nan)
    score[seed, image, output] = predictions["score"]
    patient = np.empty(len(images), dtype=object)
    patient[image] = predictions["patient_id"].astype(str)
    return QuestionScores(
        target,
        score,
        np.asarray(images, dtype=object),
        patient,
        tuple(int(one) % most for one in seeds),
        tuple(str(one).split("\n")[1] for one in outputs),
        tuple(int(one) // most for one in seeds),
        tuple(str(one).split("\n")[0] for one in outputs),
    )


def on_shared_subsets(sides: Sequence[QuestionScores], *, fraction: float) -> list[QuestionScores]:
    """Keep the training subsets that all sides have, so that none is averaged over luckier ones.

    All labels are one and the same subset, whatever the seed of a training on them: then nothing is left out.
    """
    if fraction == 1:
        return list(sides)
    shared = frozenset.intersection(*(frozenset(side.seeds) for side in sides))
    return [side.of_seeds(shared) for side in sides]


class Scorer:
    """Scores every seed of a question on the data and on every draw, each column of scores once.

    The same column is asked for again and again: alone and within the mean over its task, in the comparison of two
    encoders and within the mean over a group of tasks. What is kept takes 8 bytes per draw, label and training.

    Args:
        draws: number of bootstrap draws.
        seed: seed of the draws; the same patients get the same draws, whatever the question.
    """

    def __init__(self, *, draws: int = 1000, seed: int = 0) -> None:
        self.draws = draws
        self.seed = seed
        self._kept: dict[bytes, NDArray[np.float64]] = {}

    def score(self, scores: QuestionScores, *, patients: NDArray[np.str_] | None = None) -> SeedScores:
        """Score each seed by the mean AUROC over the outputs that it predicted.

        Args:
            scores: a question.
            patients: whom to draw, sorted; the question's own patients if not given.
        """
        whom = scores.patient.astype(str)
        drawn = resample_patients(whom if patients is None else patients, draws=self.draws, seed=self.seed)
        codes = drawn.codes if patients is None else np.searchsorted(patients, whom).astype(np.int64)
        resamples = Resamples(codes, drawn.weights)
        found = []
        for score in scores.score:
            predicted = np.flatnonzero(np.isfinite(score).any(axis=0))
            columns = [self._column(scores.target[:, place], score[:, place], resamples) for place in predicted]
            found.append(mean_of_defined(np.stack(columns)))
        both = np.stack(found)
        return SeedScores(both[:, 0], both[:, 1:])

    def _column(
        self, target: NDArray[np.float64], score: NDArray[np.float64], resamples: Resamples
    ) -> NDArray[np.float64]:
        """Return the AUROC of one column on the data, then on every draw, (1 + draws,)."""
        key = hashlib.blake2b(str(resamples.weights.shape).encode(), digest_size=16)
        for part in (target, score, resamples.codes):
            key.update(part.tobytes())
        if (name := key.digest()) not in self._kept:
            self._kept[name] = np.append(auroc(target, score), auroc_draws(target, score, resamples))
        return self._kept[name]


class Scored(NamedTuple):
    """All AUROCs of a probe."""

    single: dict[tuple[str, str, float, int, int], Interval]
    """by task, label, fraction, run, seed; the run is 0 where none are pooled"""
    mean: dict[tuple[str, str, float], dict[str, Any]]
    """by task, label, fraction, the mean over seeds and runs: value, low, high, sd_over_seeds and sd_over_runs (NaN for
    one), num_seeds, num_runs, num_test, num_test_patients, positives (of the rarest output)"""


def summarise(predictions: pd.DataFrame, *, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Scored:
    """Score all predictions of a probe.

    Args:
        predictions: as described at the top of this module.
        draws: number of bootstrap draws.
        seed: seed of the draws; the same test patients get the same draws whatever the encoder.
        level: coverage of the intervals.
    """
    scored, scorer = Scored({}, {}), Scorer(draws=draws, seed=seed)
    for key, scores in questions(predictions):
        of_seeds = scorer.score(scores)
        for run, number, value, drawn in zip(scores.runs, scores.seeds, of_seeds.value, of_seeds.draws, strict=True):
            scored.single[(*key, run, number)] = interval_of(value, drawn, level=level)
        scored.mean[key] = {
            **interval_of(of_seeds.value.mean(), of_seeds.draws.mean(axis=0), level=level)._asdict(),
            "sd_over_seeds": spread(of_seeds.value, scores.seeds),
            "sd_over_runs": spread(of_seeds.value, scores.runs),
            "num_seeds": len(set(scores.seeds)),
            "num_runs": len(set(scores.runs)),
            "num_test": len(scores.image_id),
            "num_test_patients": len(set(scores.patient)),
            "positives": _rarest(scores),
        }
    return scored


def spread(values: NDArray[np.float64], groups: Sequence[int]) -> float:
    """Return the standard deviation between the means of groups of values, NaN for one group.

    Args:
        values: (S,) a score each.
        groups: (S,) the seed or run that each belongs to.
    """
    means = pd.Series(values).groupby(np.asarray(groups)).mean()
    return float(means.std(ddof=1))


def _rarest(scores: QuestionScores) -> int:
    """Count the positives of the rarest output; an output that each fold has for itself is one output."""
    stem, _ = pd.factorize(np.array([output.partition(FOLD)[0] for output in scores.outputs], dtype=object))
    return int(np.bincount(stem, weights=np.nansum(scores.target, axis=0)).min())
