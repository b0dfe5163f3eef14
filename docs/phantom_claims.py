"""What the paper claims, and what we claim beyond it, as differences that the simulated study decides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CLAIMS", "SHARES", "SHORT", "Claim", "in_short", "judge"]

Expected = Literal["higher", "lower", "not lower", "no difference", "no gain"]
Kind = Literal["group_differences", "alignment", "attention", "segmentation", "faithfulness"]

SHARES = {1.0: "all labels", 0.1: "10 % of them", 0.01: "1 %"}


@dataclass(frozen=True)
class Claim:
    """A sentence that is true or not, and the paired difference that decides it."""

    key: str
    """what the summary calls it"""
    text: str
    expected: Expected
    report: str
    """PART/report of which the difference is taken"""
    kind: Kind
    which: Mapping[str, object]
    """what the difference's row must hold"""
    share: float | None = None
    """of the labels; None where no labels are learnt from"""
    ours: bool = False
    """not claimed in the paper"""


def _probed(
    key: str,
    text: str,
    expected: Expected,
    report: str,
    encoder: str,
    group: str = "physiology",
    *,
    ours: bool = False,
) -> Iterator[Claim]:
    """One claim for each share of the labels, so that no share is picked."""
    for share in SHARES:
        which = {"encoder": encoder, "group": group, "fraction": share}
        yield Claim(f"{key} {share:g}", text, expected, report, "group_differences", which, share, ours)


def _judged(
    key: str,
    text: str,
    expected: Expected,
    kind: Kind,
    *,
    report: str = "judged/report",
    ours: bool = False,
    **which: str,
) -> Claim:
    return Claim(key, text, expected, report, kind, which, None, ours)


_STUDY, _PARTS, _TO_MAE = "study/report", "ablations/report-parts", "ablations/report"
_ALIKE = "teachers/report-regression"

CLAIMS: tuple[Claim, ...] = (
    *_probed("pacx", "PaCX beats MAE on physiology", "higher", _STUDY, "pacx"),
    *_probed(
        "control", "It leaves alone what the teachers know nothing of (controls)", "no difference",
        _STUDY, "pacx", "control",
    ),
    *_probed("shuffled", "Shuffled pairs give no gain on physiology", "no gain", _STUDY, "pacx-shuffled"),
    *_probed(
        "contrastive", "The contrastive loss alone is as good as both", "no difference", _PARTS, "contrastive-only"
    ),
    *_probed("regression", "Regression alone is worse than both", "lower", _PARTS, "regression-only"),
    *_probed("collapse", "Regression alone falls below MAE", "lower", _TO_MAE, "regression-only"),
    *_probed("no-ecg", "Without the ECG it is worse", "lower", _PARTS, "no-ecg"),
    *_probed("no-labs", "Without the labs it is worse", "lower", _PARTS, "no-labs"),
    *_probed("full", "LoRA is better than tuning all weights", "lower", _PARTS, "full-tuning", ours=True),
    *_probed(
        "holes", "Incomplete rows are worth having, against complete triplets alone", "higher",
        "ablations/report-holes", "incomplete", ours=True,
    ),
    *_probed(
        "holes-short", "... with a third of the steps", "higher",
        "ablations/report-holes-short", "incomplete-short", ours=True,
    ),
    *_probed(
        "anchor", "The anchor costs no physiology, against the method without it", "not lower",
        _PARTS, "anchored", ours=True,
    ),
    *_probed(
        "anchor-control", "With the anchor, controls are what they were under MAE", "no difference",
        _TO_MAE, "anchored", "control", ours=True,
    ),
    *(
        claim
        for num in (100, 300, 1000, 2978)
        for claim in _probed(
            f"pairs-{num}", f"{num:,} pairs are enough for a gain over MAE", "higher",
            "pairs/report", f"pairs-{num}", ours=True,
        )
    ),
    *(
        claim
        for noise in ("0.5", "1", "2")
        for claim in _probed(
            f"noise-{noise}", f"Noise of {noise} standard deviations in the teachers costs physiology", "lower",
            "teachers/report-noise", f"noise-{noise}", ours=True,
        )
    ),
    *(
        claim
        for cosine in ("0.43", "0.8", "0.95")
        for claim in _probed(
            f"alike-{cosine}", f"Regression alone loses when strangers have a mean cosine of {cosine}, not 0", "lower",
            _ALIKE, f"regression-{cosine}", ours=True,
        )
    ),
    *_probed(
        "centred", "Centring the embeddings of mean cosine 0.95 gives that back (against 0)", "not lower",
        _ALIKE, "regression-centred", ours=True,
    ),
    *_probed("masking", "Hiding 90 % is better than hiding 75 % (MAE)", "lower", "pretraining/report", "mae-75"),
    *_probed(
        "cross", "The cross decoder costs no physiology (MAE)", "not lower", "pretraining/report", "mae-cross",
        ours=True,
    ),
    *_probed(
        "cross-control", "... nor any of the controls", "not lower", "pretraining/report", "mae-cross", "control",
        ours=True,
    ),
    _judged(
        "lungs-first", "Lungs are outlined as well as by MAE: first student (Dice)", "not lower", "segmentation",
        report=_TO_MAE, encoder="pacx-0", metric="dice", mask="lung",
    ),
    _judged(
        "lungs-anchor", "... with the anchor (Dice)", "not lower", "segmentation",
        report=_TO_MAE, ours=True, encoder="anchored-0", metric="dice", mask="lung",
    ),
    *(
        _judged(
            f"outline-{mask}", f"... mean of five students: {mask} (Dice)", "not lower", "segmentation",
            encoder="pacx", metric="dice", mask=mask,
        )
        for mask in ("lung", "heart")
    ),
    *(
        _judged(
            f"align-{teacher}", f"The {name} embedding can be read off better (centred cosine)", "higher", "alignment",
            encoder="pacx", teacher=teacher, metric="cosine_centred",
        )
        for teacher, name in (("ecg", "ECG"), ("labs", "labs"))
    ),
    _judged(
        "heart", "Attention moves to the heart (share of rollout, points)", "higher", "attention",
        encoder="pacx", region="heart",
    ),
    _judged(
        "outside", "... and away from what lies outside of the body (points)", "lower", "attention",
        ours=True, encoder="pacx", region="outside",
    ),
    _judged(
        "deletion", "Its map says more of what a head decides by (deletion: gain over a random order)", "higher",
        "faithfulness", ours=True, encoder="pacx", metric="deletion_gain",
    ),
)  # fmt: skip

SHORT: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "Distillation puts physiology into the encoder: {pacx 1}, {pacx 0.1} and {pacx 0.01} AUROC over MAE with all, "
        "10 % and 1 % of the labels. Shuffled pairs put in nothing.",
        {
            "pacx 1": "seen",
            "pacx 0.1": "seen",
            "pacx 0.01": "seen",
            "shuffled 1": "seen",
            "shuffled 0.1": "seen",
            "shuffled 0.01": "seen",
        },
    ),
    (
        "It is not free. Tasks that the teachers know nothing of change by {control 0.1} with 10 % of the labels, "
        "outlines of the lungs by {outline-lung} Dice; those of the heart by {outline-heart}.",
        {"control 0.1": "opposite", "outline-lung": "opposite", "outline-heart": "seen"},
    ),
    (
        "Some 300 pairs give half of the gain with all labels, 1,000 nearly all: {pairs-100 1}, {pairs-300 1}, "
        "{pairs-1000 1} and {pairs-2978 1} with 100, 300, 1,000 and 2,978.",
        {"pairs-100 1": "seen", "pairs-300 1": "seen", "pairs-1000 1": "seen", "pairs-2978 1": "seen"},
    ),
    (
        "Both teachers are worth having ({no-ecg 1} without the ECG, {no-labs 1} without the labs, all labels), and so "
        "is each loss there ({contrastive 1} and {regression 1} with one alone).",
        {"no-ecg 1": "seen", "no-labs 1": "seen", "contrastive 1": "opposite", "regression 1": "seen"},
    ),
    (
        "Regression alone falls below MAE in the paper, and does not here ({collapse 1}). Teachers that say "
        "nearly the same of everybody do make it collapse, at a mean cosine of 0.95 between strangers ({alike-0.95 1} "
        "against 0; {alike-0.8 0.1} at 0.8 with 10 % of the labels), but not yet at the paper's 0.43 ({alike-0.43 1}). "
        "Centring them undoes it.",
        {
            "collapse 1": "opposite",
            "alike-0.95 1": "seen",
            "alike-0.8 0.1": "seen",
            "alike-0.43 1": "opposite",
            "centred 1": "seen",
        },
    ),
    (
        "Hiding 75 % of the image instead of 90 % changes physiology by {masking 1} with all labels. The cross decoder "
        "costs the masked autoencoder no physiology, but changes its controls by {cross-control 0.1} with 10 % of the "
        "labels.",
        {
            "masking 1": "seen",
            "cross 1": "seen",
            "cross 0.1": "seen",
            "cross 0.01": "seen",
            "cross-control 0.1": "opposite",
        },
    ),
    (
        "Attention to the heart changes by {heart} points of its rollout, attention to what is outside of the body by "
        "{outside}. The teachers' embeddings can be read off better (centred cosine {align-ecg} for the ECG, "
        "{align-labs} for the labs).",
        {"heart": "seen", "outside": "seen", "align-ecg": "seen", "align-labs": "seen"},
    ),
)
"""A sentence of the summary, and the verdicts under which it is true"""


def in_short(judged: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Fill the summary's sentences with numbers.

    Args:
        judged: the claims as `judge` returns them, by key.

    Raises:
        SystemExit: a sentence is not true of these numbers.
    """
    for sentence, needed in SHORT:
        found = {key: judged[key]["verdict"] for key in needed}
        if found != needed:
            wrong = ", ".join(f"{key}: {found[key]}, not {needed[key]}" for key in needed if found[key] != needed[key])
            raise SystemExit(f"The summary is no longer true ({wrong}). Rewrite in SHORT: {sentence}")
        yield re.sub(r"{(.+?)}", lambda match: judged[match[1]]["shown"].split(" ")[0], sentence)


def judge(claim: Claim, reports: Mapping[str, Any]) -> dict[str, Any]:
    """Return a claim with its verdict and the numbers behind it.

    Args:
        claim: the sentence.
        reports: PART/report -> its numbers.
    """
    row = _row(claim, reports.get(claim.report))
    facts = {name: getattr(claim, name) for name in ("key", "expected", "report", "share", "ours")}
    found = {"claim": claim.text, **facts}
    if row is None or row["low"] is None:
        return {**found, "verdict": "not run yet", "shown": "", "difference": None, "low": None, "high": None}
    scale, digits = (100, 2) if claim.kind == "attention" else (1, 3)
    numbers = {key: row[key] for key in ("difference", "low", "high")}
    shown = "{} [{}, {}]".format(*(_signed(scale * value, digits) for value in numbers.values()))
    return {**found, "verdict": _verdict(claim.expected, row["low"], row["high"]), "shown": shown, **numbers}


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]  # no sign on what is 0 as it is shown


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
