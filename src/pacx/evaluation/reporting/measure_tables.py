"""Tables of all measures of the probes: of tasks, of single labels, of subgroups."""

from __future__ import annotations

from collections.abc import Mapping

from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.measured import SHOWN
from pacx.evaluation.reporting.probe_tables import named
from pacx.evaluation.reporting.probes import headline_labels
from pacx.evaluation.reporting.tables import Cell, Table, value_cell
from pacx.evaluation.reporting.views import Tones, readable
from pacx.evaluation.reporting.wording import count
from pacx.measures.subgroups import AGE_BANDS
from pacx.scoring import MACRO

__all__ = ["labels_table", "measures_table", "subgroups_table"]

_Question = tuple[str, str, str]
"""task, label, output"""
_Measures = dict[_Question, dict[str, dict[tuple[str, str], Record]]]
"""by question, encoder, and metric and rule"""

_EXPLAINED = (
    "All measures at the largest label fraction, with patient-level 95 % intervals. Sensitivity at .9: at the "
    "threshold with a specificity of .9 on the validation images, and the specificity found with it. F1 at .5 is what "
    "the paper reports; the validation threshold is the one with the largest F1 there. ECE: calibration error in ten "
    "bins of equal size, biased upwards when images are few."
)
_OF_SUBGROUPS = {("auroc", ""): "AUROC", ("sensitivity", "val_specificity"): "sensitivity"}
_READABLE = {name: name.replace(">=", "≥").replace("<", "< ").replace("-", "–") for name in AGE_BANDS}


def measures_table(part: Record, tones: Tones) -> Table | None:
    """Show all measures of what stands for each task; None if the probes have none."""
    headline = headline_labels(part["scores"])
    found = _largest_fraction(part["measures"])
    stand = {key: own for key, own in found.items() if key in _stand_for_tasks(found, headline)}
    return _table(stand, tones, name=named("measures", part["store"]), section=f"All measures: {part['store']}")


def labels_table(part: Record, tones: Tones) -> Table | None:
    """Show all measures of the single labels and classes; None if each task has only one."""
    headline = headline_labels(part["scores"])
    found = _largest_fraction(part["measures"])
    single = {key: own for key, own in found.items() if key not in _stand_for_tasks(found, headline)}
    return _table(single, tones, name=named("labels", part["store"]), section=f"Label by label: {part['store']}")


def _largest_fraction(measures: list[Record]) -> _Measures:
    largest: dict[str, float] = {}
    for row in measures:
        largest[row["task"]] = max(row["fraction"], largest.get(row["task"], 0.0))
    found: _Measures = {}
    for row in measures:
        if not row["subgroup_kind"] and row["fraction"] == largest[row["task"]]:
            of_question = found.setdefault((row["task"], row["label"], row["output"]), {})
            of_question.setdefault(row["encoder"], {})[row["metric"], row["rule"]] = row
    return found


def _stand_for_tasks(found: _Measures, headline: Mapping[str, str]) -> set[_Question]:
    """Pick what sums each task up: the mean over outputs, or the only one."""
    standing = set()
    for task, label in headline.items():
        outputs = [output for own, stands, output in found if (own, stands) == (task, label)]
        standing |= {(task, label, MACRO if MACRO in outputs else outputs[0])} if outputs else set()
    return standing


def _table(found: _Measures, tones: Tones, *, name: str, section: str) -> Table | None:
    if not found:
        return None
    measured = {key for own in found.values() for one in own.values() for key in one}
    columns = {key: title for key, title in SHOWN.items() if key in measured}
    rows, notes = [], []
    for (task, label, output), encoders in found.items():
        for encoder in tones.sort(encoders):
            own = encoders[encoder]
            first = next(iter(own.values()))
            what, who = Cell(readable(task), _detail(task, label, output)), Cell(tones.name(encoder))
            size = Cell(f"{count(first['positives'])} of {count(first['num'])}")
            rows.append([what, who, size, *(value_cell(own.get(key)) for key in columns)])
            why = sorted({row["note"] for row in own.values() if row["note"]})
            if why:
                notes.append(f"{' '.join(filter(None, [what.text, what.detail]))}, {who.text}: {'; '.join(why)}.")
    heads = ["task", "encoder", "positive", *columns.values()]
    return Table(name, section, _EXPLAINED, heads, rows, num_names=2, notes=list(dict.fromkeys(notes)))


def _detail(task: str, label: str, output: str) -> str:
    if label == MACRO:
        return "mean over labels"
    own = "" if label == task else readable(label)
    if output == MACRO:
        return f"{own} mean over classes".strip()
    return own if output == label else " ".join(filter(None, [own, output]))


def subgroups_table(part: Record, tones: Tones) -> Table | None:
    """Show AUROC and sensitivity by sex, age and view; None if nothing is known of them."""
    found: dict[_Question, dict[tuple[str, str, str], Record]] = {}
    for row in part["measures"]:
        key = (row["metric"], row["rule"])
        if row["subgroup_kind"] and key in _OF_SUBGROUPS:
            own = found.setdefault((row["task"], row["subgroup_kind"], row["subgroup"]), {})
            if row["output"] == MACRO or (row["encoder"], *key) not in own:
                own[row["encoder"], *key] = row
    if not found:
        return None
    encoders = tones.sort(encoder for own in found.values() for encoder, _, _ in own)
    rows = []
    for (task, kind, name), own in found.items():
        first = next(iter(own.values()))
        size = Cell(f"{count(first['positives'])} of {count(first['num'])}")
        cells = [value_cell(own.get((encoder, *key))) for key in _OF_SUBGROUPS for encoder in encoders]
        rows.append([Cell(readable(task)), Cell(_READABLE.get(name, name), kind), size, *cells])
    heads = [f"{tones.name(encoder)}: {metric}" for metric in _OF_SUBGROUPS.values() for encoder in encoders]
    return Table(
        named("subgroups", part["store"]),
        f"Subgroups: {part['store']}",
        "AUROC, and sensitivity at the threshold with a specificity of .9 on all validation images, by sex, age in "
        "years and view. –: fewer than ten positives or negatives. Groups differ in difficulty, too: unequal numbers "
        "are a reason to look, not yet a proof of unequal service.",
        ["task", "group", "positive", *heads],
        rows,
        num_names=2,
    )
