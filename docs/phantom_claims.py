"""What the paper claims, and what we claim beyond it, as differences that the simulated study decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CLAIMS", "Claim", "judge"]

Expected = Literal["higher", "lower", "not lower", "no difference", "no gain"]
Kind = Literal["group_differences", "alignment", "attention", "segmentation", "faithfulness"]


@dataclass(frozen=True)
class Claim:
    """A sentence that is true or not, and the paired difference that decides it."""

    text: str
    expected: Expected
    report: str
    """PART/report of which the difference is taken"""
    kind: Kind
    which: Mapping[str, object]
    """what the difference's row must hold"""


def _probe(encoder: str, group: str, fraction: float) -> dict[str, object]:
    return {"encoder": encoder, "group": group, "fraction": fraction}


def _at_all_shares(text: str, expected: Expected, report: str, encoder: str, group: str) -> Iterator[Claim]:
    """One claim for each share of the labels, so that no share is picked."""
    for name, fraction in ((f"{text}: all labels", 1.0), ("... 10 % of the labels", 0.1), ("... 1 %", 0.01)):
        yield Claim(name, expected, report, "group_differences", _probe(encoder, group, fraction))


_STUDY, _PARTS, _TO_MAE = "study/report", "ablations/report-parts", "ablations/report"
_OURS = "(ours, not the paper's)"

CLAIMS: tuple[Claim, ...] = (
    *_at_all_shares("PaCX beats MAE on physiology", "higher", _STUDY, "pacx", "physiology"),
    *_at_all_shares(
        "It leaves alone what the teachers know nothing of (controls)", "no difference", _STUDY, "pacx", "control"
    ),
    *_at_all_shares("Shuffled pairs give no gain on physiology", "no gain", _STUDY, "pacx-shuffled", "physiology"),
    *_at_all_shares(
        "The contrastive loss alone is as good as both", "no difference", _PARTS, "contrastive-only", "physiology"
    ),
    *_at_all_shares("Regression alone is worse than both", "lower", _PARTS, "regression-only", "physiology"),
    *_at_all_shares("Regression alone falls below MAE", "lower", _TO_MAE, "regression-only", "physiology"),
    *_at_all_shares("Without the ECG it is worse", "lower", _PARTS, "no-ecg", "physiology"),
    *_at_all_shares("Without the labs it is worse", "lower", _PARTS, "no-labs", "physiology"),
    *_at_all_shares(
        "LoRA is better than tuning all weights (not compared in the paper)",
        "lower", _PARTS, "full-tuning", "physiology",
    ),
    *_at_all_shares(
        f"Incomplete rows are worth having, against complete triplets alone {_OURS}",
        "higher", "ablations/report-holes", "incomplete", "physiology",
    ),
    *_at_all_shares(
        f"... with a third of the steps {_OURS}",
        "higher", "ablations/report-holes-short", "incomplete-short", "physiology",
    ),
    *_at_all_shares(
        f"The anchor costs no physiology, against the method without it {_OURS}",
        "no difference", _PARTS, "anchored", "physiology",
    ),
    *_at_all_shares(
        f"With the anchor, controls are what they were under MAE {_OURS}",
        "no difference", _TO_MAE, "anchored", "control",
    ),
    *(
        Claim(
            f"Lungs are outlined as well as by MAE: {name} (Dice)",
            "not lower", _TO_MAE, "segmentation", {"encoder": encoder, "metric": "dice", "mask": "lung"},
        )
        for name, encoder in (("PaCX, first student", "pacx-0"), (f"with the anchor {_OURS}", "anchored-0"))
    ),
    *(
        Claim(
            f"Segmentation is as good as it was ({mask}, Dice, mean of five students)",
            "not lower", "judged/report", "segmentation", {"encoder": "pacx", "metric": "dice", "mask": mask},
        )
        for mask in ("lung", "heart")
    ),
    *(
        Claim(
            f"The {teacher} embedding can be read off better (centred cosine, mean of five students)",
            "higher", "judged/report", "alignment",
            {"encoder": "pacx", "teacher": teacher, "metric": "cosine_centred"},
        )
        for teacher in ("ecg", "labs")
    ),
    Claim(
        "Attention moves to the heart (share of rollout, percentage points, mean of five students)",
        "higher", "judged/report", "attention", {"encoder": "pacx", "region": "heart"},
    ),
    Claim(
        f"Its map says more of what a head decides by (deletion: gain over a random order) {_OURS}",
        "higher", "judged/report", "faithfulness", {"encoder": "pacx", "metric": "deletion_gain"},
    ),
    *(
        Claim(
            f"{num:,} pairs are enough for a gain over MAE (physiology, all labels)",
            "higher", "pairs/report", "group_differences", _probe(f"pairs-{num}", "physiology", 1.0),
        )
        for num in (100, 300, 1000, 2978)
    ),
    *(
        Claim(
            f"Noise of {noise} standard deviations in the teachers costs physiology (all labels)",
            "lower", "teachers/report-noise", "group_differences", _probe(f"noise-{noise}", "physiology", 1.0),
        )
        for noise in ("0.5", "1", "2")
    ),
    *(
        Claim(
            f"Regression alone loses when strangers have a mean cosine of {cosine}, not 0 (physiology, all labels)",
            "lower", "teachers/report-regression", "group_differences",
            _probe(f"regression-{cosine}", "physiology", 1.0),
        )
        for cosine in ("0.43", "0.8", "0.95")
    ),
    Claim(
        "Centring the embeddings of mean cosine .95 gives that back (physiology, all labels, against mean cosine 0)",
        "not lower", "teachers/report-regression", "group_differences",
        _probe("regression-centred", "physiology", 1.0),
    ),
    Claim(
        "Hiding 90 % is better than hiding 75 % (MAE, physiology, all labels)",
        "lower", "pretraining/report", "group_differences", _probe("mae-75", "physiology", 1.0),
    ),
    Claim(
        f"The cross decoder costs nothing (MAE, physiology, all labels) {_OURS}",
        "no difference", "pretraining/report", "group_differences", _probe("mae-cross", "physiology", 1.0),
    ),
)  # fmt: skip


def judge(claim: Claim, reports: Mapping[str, Any]) -> dict[str, Any]:
    """Return a claim with its verdict and the numbers behind it.

    Args:
        claim: the sentence.
        reports: PART/report -> its numbers.
    """
    row = _row(claim, reports.get(claim.report))
    found = {"claim": claim.text, "expected": claim.expected, "report": claim.report}
    if row is None or row["low"] is None:
        return {**found, "verdict": "not run yet", "shown": "", "difference": None, "low": None, "high": None}
    scale, digits = (100, 2) if claim.kind == "attention" else (1, 3)
    numbers = {key: row[key] for key in ("difference", "low", "high")}
    shown = "{} [{}, {}]".format(*(f"{scale * value:+.{digits}f}" for value in numbers.values()))
    return {**found, "verdict": _verdict(claim.expected, row["low"], row["high"]), "shown": shown, **numbers}


def _verdict(expected: Expected, low: float, high: float) -> str:
    if expected == "no difference":
        return "seen" if low <= 0 <= high else "opposite"
    if expected == "not lower":
        return "seen" if high >= 0 else "opposite"
    if expected == "no gain":
        return "seen" if low <= 0 else "opposite"
    towards = low > 0 if expected == "higher" else high < 0
    against = high < 0 if expected == "higher" else low > 0
    return "seen" if towards else "opposite" if against else "not seen"


def _row(claim: Claim, report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if report is None:
        return None
    if claim.kind == "group_differences":
        rows = report["group_differences"]
    elif claim.kind == "faithfulness":
        rows = [row for part in report["attention"] for row in part.get("faithfulness_differences") or []]
    else:
        rows = [{**row, "mask": part.get("mask")} for part in report[claim.kind] for row in part["differences"]]
    return next((row for row in rows if all(row.get(key) == value for key, value in claim.which.items())), None)
