"""Two encoders on the same test images: paired differences with intervals and p-values.

Both sides are scored on the same patients in every bootstrap draw, so what both find hard cancels out. With several
training subsets (seeds) the AUROCs are averaged over the seeds that both sides have, then subtracted, draw by draw.
A side may pool several runs: five students are compared with one base encoder over the same training subsets each.

Of 20 questions without a true difference about one has p < .05. `p_holm` may be read as if its question had been the
only one: it is adjusted (Holm 1979) over all questions of one comparison, that is all rows of one table, means over
labels included. `p_delong` is DeLong's z-test, given where every patient has one image; it is not adjusted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.errors import PacxError
from pacx.scoring import QuestionScores, questions, score_seeds
from pacx.statistics import (
    Difference,
    delong_difference,
    difference_of,
    holm,
    one_row_each,
    paired_mean_difference,
    resample_patients,
)

__all__ = ["compare_attention", "compare_probes", "same_seeds"]


def compare_probes(
    predictions_a: pd.DataFrame | Path,
    predictions_b: pd.DataFrame | Path,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare two probes on the same test images.

    Args:
        predictions_a: `predictions.parquet` of a probe run, or its content.
        predictions_b: the same of another encoder, on the same store.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        level: coverage of the intervals.

    Returns:
        One row per (task, label, fraction) that both have: task, label, fraction, value_a, value_b (mean AUROC over
        the shared seeds), difference (a minus b), low, high, p_value, p_holm, p_delong (NaN where patients have several
        images, or for a mean over several outputs), num_seeds (shared), num_runs_a, num_runs_b, num_test,
        num_test_patients.

    Raises:
        PacxError: the two share no question, or were tested on other images or labels.
    """
    ours, theirs = dict(questions(_read(predictions_a))), dict(questions(_read(predictions_b)))
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise PacxError("The two probes have no task and label fraction in common. Compare probes of the same tasks.")
    rows = []
    for key in shared:
        a, b = same_seeds(ours[key], theirs[key])
        _check_same_test(key, a, b)
        resamples = resample_patients(a.patient, draws=draws, seed=seed)
        scored_a, scored_b = score_seeds(a, resamples), score_seeds(b, resamples)
        value_a, value_b = scored_a.value.mean(), scored_b.value.mean()
        drawn = scored_a.draws.mean(axis=0) - scored_b.draws.mean(axis=0)
        difference = difference_of(value_a - value_b, drawn, level=level)
        rows.append(
            {
                **dict(zip(("task", "label", "fraction"), key, strict=True)),
                "value_a": value_a,
                "value_b": value_b,
                **_columns(difference),
                "p_holm": np.nan,
                "p_delong": _delong_p_value(a, b),
                "num_seeds": len(set(a.seeds)),
                "num_runs_a": len(set(a.runs)),
                "num_runs_b": len(set(b.runs)),
                "num_test": len(a.image_id),
                "num_test_patients": len(set(a.patient)),
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p_value"]))


def compare_attention(
    mass_a: pd.DataFrame | Path,
    mass_b: pd.DataFrame | Path,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare where two encoders look, image by image.

    Args:
        mass_a: `mass.parquet` of an explain run (image_id, patient_id, region, mass, area), or its content.
        mass_b: the same of another encoder, on the same images.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        level: coverage of the intervals.

    Returns:
        One row per region that both have: region, value_a, value_b (mean share of attention), difference (a minus b),
        low, high, p_value, num_images.

    Raises:
        PacxError: the two share no image and region.
    """
    keys = ["region", "image_id", "patient_id"]
    both = _read(mass_a).merge(_read(mass_b), on=keys, suffixes=("_a", "_b"))
    if both.empty:
        raise PacxError("The two attention runs share no image and region. Explain both encoders on the same store.")
    rows = []
    for region, images in both.groupby("region", sort=False):
        a, b, patient = images["mass_a"], images["mass_b"], images["patient_id"].astype(str)
        rows.append(
            {
                "region": region,
                "value_a": float(a.mean()),
                "value_b": float(b.mean()),
                **_columns(paired_mean_difference(a, b, patient, draws=draws, seed=seed, level=level)),
                "num_images": len(images),
            }
        )
    return pd.DataFrame(rows)


def _columns(found: Difference) -> dict[str, float]:
    return {"difference": found.value, "low": found.low, "high": found.high, "p_value": found.p_value}


def _delong_p_value(a: QuestionScores, b: QuestionScores) -> float:
    if len(a.outputs) > 1 or not one_row_each(a.patient):
        return float("nan")
    return delong_difference(a.target[:, 0], a.score[:, :, 0].T, b.score[:, :, 0].T).p_value


def _read(table: pd.DataFrame | Path) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table
    if not Path(table).is_file():
        raise PacxError(f"{table} does not exist. Give the parquet file that a finished run left in its folder.")
    return pd.read_parquet(table)


def same_seeds(a: QuestionScores, b: QuestionScores) -> tuple[QuestionScores, QuestionScores]:
    """Keep the training subsets that both sides have, so that neither is averaged over luckier ones.

    Raises:
        PacxError: there is none.
    """
    shared = set(a.seeds) & set(b.seeds)
    if not shared:
        raise PacxError(
            f"The two probes share no seed: {sorted(set(a.seeds))} and {sorted(set(b.seeds))}. "
            "Run both with the same number of seeds."
        )
    return a.of_seeds(shared), b.of_seeds(shared)


def _check_same_test(key: tuple[str, str, float], a: QuestionScores, b: QuestionScores) -> None:
    same = np.array_equal(a.image_id, b.image_id) and a.outputs == b.outputs
    if not (same and np.array_equal(a.target, b.target, equal_nan=True)):
        raise PacxError(
            f"The two probes were not tested on the same images and labels for {key[0]}/{key[1]} ({len(a.image_id)} "
            f"against {len(b.image_id)} images): a paired comparison needs both on the same store."
        )
