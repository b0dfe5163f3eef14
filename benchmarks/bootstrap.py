"""Patient-level bootstrap of AUROCs: 10,000 patients, 14 labels, 1,000 resamples, beside a loop over scikit-learn.

    python -m benchmarks.bootstrap [--quick]

Ours is `resample_patients` once and `auroc_draws` for each label, as `pacx probe` does it. The peer draws patients and
calls `roc_auc_score` for every label of every resample; it is timed on a few resamples and its time for all of them is
extrapolated, which is fair to it, since its resamples cost the same each. Both see the same labels and scores, and the
AUROCs of ours are checked against scikit-learn's on the first resamples.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.measure import interleave, peak_rss_mib, ratio, say, spread
from benchmarks.results import Row, finish
from pacx.statistics import auroc_draws, resample_patients


@dataclass(frozen=True)
class Sizes:
    patients: int
    labels: int
    draws: int
    peer_draws: int
    rounds: int


FULL = Sizes(patients=10_000, labels=14, draws=1000, peer_draws=5, rounds=5)
QUICK = Sizes(patients=300, labels=2, draws=50, peer_draws=3, rounds=1)
AIM_SECONDS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all is well")
    quick = parser.parse_args().quick
    finish("bootstrap", measure(QUICK if quick else FULL), quick=quick)


def measure(sizes: Sizes) -> dict[str, Any]:
    patient, target, score = make_cohort(sizes)
    check(sizes, patient, target, score)
    seeds = itertools.count()  # another in each round: the draws of the last one are kept, and would cost nothing
    seconds = interleave(
        {
            "ours": lambda: ours(sizes, patient, target, score, seed=next(seeds)),
            "scikit-learn": lambda: peer(sizes, patient, target, score),
        },
        rounds=sizes.rounds,
        label="bootstrap",
    )
    whole = [one * sizes.draws / sizes.peer_draws for one in seconds["scikit-learn"]]
    return {
        "sizes": vars(sizes),
        "rounds": sizes.rounds,
        "seconds": {"ours": spread(seconds["ours"]), "scikit-learn, extrapolated": spread(whole, digits=1)},
        "speed_ratio": ratio(whole, seconds["ours"]),
        "peak_mib": round(peak_rss_mib()),
    }


def make_cohort(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image per patient; findings as rare as those of chest X-rays, from 1 in 100 to 1 in 5."""
    rng = np.random.default_rng(0)
    prevalence = np.geomspace(0.01, 0.2, sizes.labels)
    target = (rng.random((sizes.patients, sizes.labels)) < prevalence).astype(np.float64)
    return np.arange(sizes.patients), target, rng.normal(size=target.shape) + target


def ours(sizes: Sizes, patient: np.ndarray, target: np.ndarray, score: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """AUROC of every draw and label, (draws, labels)."""
    resamples = resample_patients(patient, draws=sizes.draws, seed=seed)
    return np.stack([auroc_draws(target[:, i], score[:, i], resamples) for i in range(sizes.labels)], axis=1)


def peer(sizes: Sizes, patient: np.ndarray, target: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The same with scikit-learn, for the first few draws."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(patient), len(patient)) for _ in range(sizes.peer_draws)]
    return np.array([[roc_auc_score(target[own, i], score[own, i]) for i in range(sizes.labels)] for own in rows])


def check(sizes: Sizes, patient: np.ndarray, target: np.ndarray, score: np.ndarray) -> None:
    """Stop if an AUROC of ours is not scikit-learn's on the same draw."""
    say("bootstrap: checking against scikit-learn")
    resamples = resample_patients(patient, draws=sizes.peer_draws)
    for i in range(sizes.labels):
        found = auroc_draws(target[:, i], score[:, i], resamples)
        weights = resamples.weights[:, resamples.codes]
        expected = [roc_auc_score(target[:, i], score[:, i], sample_weight=weight) for weight in weights]
        if not np.allclose(found, expected, rtol=0, atol=1e-9, equal_nan=True):
            raise SystemExit(f"label {i}: AUROCs differ: {found.tolist()} here, {expected} by scikit-learn")


def rows(results: dict[str, Any]) -> list[Row]:
    """Name what the table shows."""
    sizes, seconds = results["sizes"], results["seconds"]
    what = f"{sizes['patients']} patients x {sizes['labels']} labels x {sizes['draws']} resamples"
    peer_name = f"the same by a loop over scikit-learn, s, extrapolated from {sizes['peer_draws']} resamples"
    return [
        Row(f"AUROC intervals, {what}, s", seconds["ours"], at_most=AIM_SECONDS),
        Row(peer_name, seconds["scikit-learn, extrapolated"]),
        Row("how many times faster", results["speed_ratio"]),
        Row("peak memory, MiB", results["peak_mib"]),
    ]


if __name__ == "__main__":
    main()
