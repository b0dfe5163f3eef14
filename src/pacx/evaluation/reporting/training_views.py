"""Charts of training: loss curves, teachers, retrieval after distillation, and the table of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from pacx.evaluation.reporting.charts import Mark, Series, bar, curves, nice_scale
from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.forests import Forest, Row, mark, number
from pacx.evaluation.reporting.views import readable
from pacx.evaluation.reporting.wording import count, decimal

__all__ = ["LabRow", "ecg_forest", "lab_rows", "loss_chart", "prevalence_rows", "retrieval_forest", "step_rows"]

_WAYS = {"image_to_teacher": "From X-ray to {}", "teacher_to_image": "From {} to X-ray"}


class LabRow(NamedTuple):
    """A lab's imputation error."""

    lab: str
    n: int
    model: float
    median: float
    bar: Markup


def loss_chart(run: Record) -> Markup | None:
    """Draw training and validation loss over epochs; None if none were logged."""
    curve: Mapping[str, Any] = run["curve"]
    series = [
        Series(tone, name, tuple(_points(curve, key)), markers=False, dashed=key == "val_loss")
        for key, tone, name in (("train_loss", "mae", "training"), ("val_loss", "pacx", "validation"))
        if any(value is not None for value in curve[key])
    ]
    values = [point[1] for one in series for point in one.points]
    if not values:
        return None
    epochs = [point[0] for one in series for point in one.points]
    first, end = min(epochs), max(epochs)
    ticks = [(epoch, f"{epoch:g}") for epoch in sorted({first, float(round((first + end) / 2)), end})]
    last = "; ".join(f"{one.name} {decimal(one.points[-1][1])}" for one in series)
    scale = nice_scale(values, max_ticks=4)
    label = f"Loss of {run['run']} by epoch. At the end: {last}"
    return curves(series, ticks, y=scale, write=lambda tick: f"{tick:g}", label=label, height=190)


def _points(curve: Mapping[str, Any], key: str) -> list[tuple[float, float | None, None, None]]:
    return [
        (float(epoch), number(value), None, None)
        for epoch, value in zip(curve["epoch"], curve[key], strict=True)
        if epoch is not None
    ]


def ecg_forest(run: Record) -> Forest | None:
    """Make the chart of an ECG teacher's AUROC per statement; None for one that learned without labels."""
    if "macro_auroc" not in run:
        return None
    rows = [Row("Mean over labels", "", (mark("pacx", "ECG teacher", run.get("macro_auroc")),), reference=0.5)]
    rows += [
        Row(
            readable(label),
            f"{count(found.get('positives'))} positive of {count(found.get('n'))}",
            (mark("mae", "ECG teacher", found),),
            reference=0.5,
        )
        for label, found in (run.get("auroc") or {}).items()
    ]
    return Forest(
        caption=f"AUROC of the ECG teacher ({run['run']}) on unseen ECGs.",
        groups=[("", rows)],
        value_title="AUROC (dashed: chance)",
        include=(0.5, 1.0),
    )


def lab_rows(run: Record) -> list[LabRow]:
    """List the labs by how much better than the column's median the autoencoder fills them in."""
    known = [
        (lab, found)
        for lab, found in (run.get("per_lab") or {}).items()
        if number(found.get("imputation_mse")) is not None and number(found.get("baseline_mse"))
    ]
    known.sort(key=lambda item: item[1]["imputation_mse"] / item[1]["baseline_mse"])
    largest = max((max(found["imputation_mse"], found["baseline_mse"]) for _, found in known), default=1.0)
    return [
        LabRow(
            lab,
            int(found.get("n") or 0),
            found["imputation_mse"],
            found["baseline_mse"],
            bar(found["imputation_mse"], largest, tone="pacx", reference=found["baseline_mse"]),
        )
        for lab, found in known
    ]


def retrieval_forest(runs: Sequence[Record]) -> Forest | None:
    """Make the chart of retrieval after distillation: true banks beside the negative control."""
    groups = []
    for teacher in dict.fromkeys(teacher for run in runs for teacher in run["teachers"]):
        for way, title in _WAYS.items():
            found = [(run, run["teachers"].get(teacher, {}).get(way) or {}) for run in runs]
            rows = []
            for k in ("r1", "r5", "r10"):
                marks = tuple(_retrieval_mark(run, own.get(k)) for run, own in found if own.get(k))
                chance = next((own["chance"].get(k) for _, own in found if own.get("chance")), None)
                if marks:
                    rows.append(Row(f"R@{k[1:]}", marks=marks, reference=number(chance)))
            size = next((own["n"] for _, own in found if own.get("n")), None)
            groups.append((f"{title.format(display_name(teacher))}, among {count(size)} unseen", rows))
    if not any(rows for _, rows in groups):
        return None
    return Forest(
        caption="How often the true partner is among the nearest 1, 5 or 10 (R@1, R@5, R@10) on unseen patients.",
        groups=groups,
        value_title="share found (dashed: chance)",
        include=(0.0,),
        percent=True,
    )


def _retrieval_mark(run: Record, found: Mapping[str, Any] | None) -> Mark:
    shuffled = bool(run.get("shuffled_teachers"))
    name = display_name(run["run"]) + (" (shuffled teachers)" if shuffled and "shuffled" not in run["run"] else "")
    return mark("random" if shuffled else "pacx", name, found)


def step_rows(steps: Sequence[Record]) -> list[Record]:
    """List the steps, each with a bar of its time."""
    longest = max((step["seconds"] for step in steps if step["seconds"]), default=1.0)
    return [{**step, "bar": bar(step["seconds"], longest, tone="mae")} for step in steps]


def prevalence_rows(store: Record) -> list[Record]:
    """List the labels of a store: known images and the share of each class among them."""
    rows = []
    for task, labels in (store.get("tasks") or {}).items():
        for label, counts in labels.items():
            unknown = counts.get("unknown", 0)
            classes = {name: n for name, n in counts.items() if name not in {"unknown", "negatives"}}
            known = sum(n for name, n in counts.items() if name != "unknown")
            for name, n in classes.items():
                words = [task] if label == task else [task, label]
                words += [] if name == "positives" else [name]
                rows.append(
                    {
                        "label": ": ".join(readable(word) for word in words),
                        "positives": n,
                        "known": known,
                        "unknown": unknown,
                        "share": n / known if known else None,
                        "bar": bar(n / known if known else None, 1.0, tone="mae"),
                    }
                )
    return rows
