"""Two encoders on the same test images: paired differences with intervals and p-values.

Both sides are scored on the same patients in every bootstrap draw, so what both find hard cancels out. With several
training subsets (seeds) the AUROCs are averaged over the subsets that both sides have, then subtracted, draw by draw.
A side may pool several runs: five students are compared with one base encoder over the same training subsets each.

Of 20 questions without a true difference about one has p < .05. `p_holm` may be read as if its question had been the
only one: it is adjusted (Holm 1979) over all questions of one comparison, that is all rows of one table, means over
labels included. `p_delong` is DeLong's z-test, given where every patient has one image; it is not adjusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.errors import PacxError
from pacx.scoring import QuestionScores, Scorer, on_shared_subsets, questions
from pacx.statistics import (
    Difference,
    delong_difference,
    difference_of,
    holm,
    one_row_each,
    paired_mean_difference,
)

__all__ = ["compare_attention", "compare_probes", "compare_questions"]

Key = tuple[str, str, float]
"""task, label, fraction"""


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
        what is compared), difference (a minus b), low, high, p_value, p_holm, p_delong (NaN where patients have several
        images, or for a mean over several outputs), num_seeds (of a), num_runs_a, num_runs_b, num_test,
        num_test_patients, note. The note says which trainings were left out because the other side lacks their subset
        of the labels, or why a question cannot be compared; then its numbers are NaN.

    Raises:
        PacxError: the two share no question, or none of those can be compared: no training subset in common, or other
            test images or labels.
    """
    ours, theirs = dict(questions(_read(predictions_a))), dict(questions(_read(predictions_b)))
    return compare_questions(ours, theirs, scorer=Scorer(draws=draws, seed=seed), level=level)


def compare_questions(
    ours: Mapping[Key, QuestionScores], theirs: Mapping[Key, QuestionScores], *, scorer: Scorer, level: float = 0.95
) -> pd.DataFrame:
    """Do what `compare_probes` does with predictions that are sorted by question.

    Args:
        ours: `pacx.scoring.questions` of one encoder.
        theirs: the same of the other.
        scorer: what it has scored before is not scored again.
        level: coverage of the intervals.

    Raises:
        PacxError: as `compare_probes`.
    """
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise PacxError("The two probes have no task and label fraction in common. Compare probes of the same tasks.")
    rows, faults = [], []
    for key in shared:
        named = dict(zip(("task", "label", "fraction"), key, strict=True))
        try:
            rows.append({**named, **_compare(key, ours[key], theirs[key], scorer=scorer, level=level)})
        except PacxError as error:
            faults.append(error)
            rows.append({**named, **_NOTHING, "note": str(error)})
    if len(faults) == len(rows):
        raise faults[0]
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p_value"]))


_NOTHING = {
    **dict.fromkeys(("value_a", "value_b", "difference", "low", "high", "p_value", "p_holm", "p_delong"), np.nan),
    **dict.fromkeys(("num_seeds", "num_runs_a", "num_runs_b", "num_test", "num_test_patients"), 0),
}


def _compare(
    key: Key, ours: QuestionScores, theirs: QuestionScores, *, scorer: Scorer, level: float
) -> dict[str, object]:
    """Compare one question.

    Raises:
        PacxError: it cannot be compared.
    """
    a, b = on_shared_subsets([ours, theirs], fraction=key[2])
    if not a.seeds:
        raise PacxError(
            f"The two probes share no training subset for {key[0]}/{key[1]} at {key[2]:.0%} of the labels: seeds "
            f"{sorted(set(ours.seeds))} and {sorted(set(theirs.seeds))}. Run both with the same seeds."
        )
    _check_same_test(key, a, b)
    scored_a, scored_b = scorer.score(a), scorer.score(b)
    value_a, value_b = scored_a.value.mean(), scored_b.value.mean()
    drawn = scored_a.draws.mean(axis=0) - scored_b.draws.mean(axis=0)
    return {
        "value_a": value_a,
        "value_b": value_b,
        **_columns(difference_of(value_a - value_b, drawn, level=level)),
        "p_holm": np.nan,
        "p_delong": _delong_p_value(a, b),
        "num_seeds": len(set(a.seeds)),
        "num_runs_a": len(set(a.runs)),
        "num_runs_b": len(set(b.runs)),
        "num_test": len(a.image_id),
        "num_test_patients": len(set(a.patient)),
        "note": _left_out(ours, a, theirs, b),
    }


def _left_out(ours: QuestionScores, a: QuestionScores, theirs: QuestionScores, b: QuestionScores) -> str:
    """Say how many trainings are not in the comparison; nothing if all are."""
    sides = ((len(side.seeds) - len(kept.seeds), len(side.seeds)) for side, kept in ((ours, a), (theirs, b)))
    lost = [f"{left_out} of the {number} trainings of the {side}" for (left_out, number), side in
            zip(sides, ("first", "second"), strict=True) if left_out]  # fmt: skip
    return f"{' and '.join(lost)} had training subsets that the other lacks, and are left out" if lost else ""


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
        low, high, p_value, num_images. Images of which one of the two has no map (a gradient-weighted one may be
        undefined) are left out of all of these.

    Raises:
        PacxError: the two share no image and region.
    """
    keys = ["region", "image_id", "patient_id"]
    both = _read(mass_a).merge(_read(mass_b), on=keys, suffixes=("_a", "_b"))
    if both.empty:
        raise PacxError("The two attention runs share no image and region. Explain both encoders on the same store.")
    rows = []
    for region, together in both.groupby("region", sort=False):
        images = together[np.isfinite(together["mass_a"]) & np.isfinite(together["mass_b"])]
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


def _check_same_test(key: Key, a: QuestionScores, b: QuestionScores) -> None:
    same = np.array_equal(a.image_id, b.image_id) and a.outputs == b.outputs
    if not (same and np.array_equal(a.target, b.target, equal_nan=True)):
        raise PacxError(
            f"The two probes were not tested on the same images and labels for {key[0]}/{key[1]} ({len(a.image_id)} "
            f"against {len(b.image_id)} images): a paired comparison needs both on the same store."
        )
