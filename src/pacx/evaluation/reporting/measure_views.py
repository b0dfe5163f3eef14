"""Charts of calibration, from the content of `report.json`."""

from __future__ import annotations

from pacx.evaluation.reporting.charts import Series, curves, nice_scale
from pacx.evaluation.reporting.collect import Record
from pacx.evaluation.reporting.views import Panel, Tones, readable
from pacx.evaluation.reporting.wording import decimal, share

__all__ = ["calibration_panels"]


def calibration_panels(part: Record, tones: Tones) -> list[Panel]:
    """Make one small chart per task: share of positives over predicted probability, for every encoder."""
    panels = []
    for task in dict.fromkeys(one["task"] for one in part["calibration"]):
        own = [one for one in part["calibration"] if one["task"] == task]
        by_encoder = {one["encoder"]: one["points"] for one in own}
        places = [point[key] for points in by_encoder.values() for point in points for key in ("predicted", "observed")]
        scale = nice_scale(places, include=(0.0,), max_ticks=4)
        perfect = Series("quiet", "perfect", _diagonal(scale.low, scale.high), markers=False, dashed=True)
        series = [
            Series(tones.tone(label), tones.name(label), _points(by_encoder[label])) for label in tones.sort(by_encoder)
        ]
        words = "; ".join(f"{one.name}: {', '.join(_pair(*point[:2]) for point in one.points)}" for one in series)
        chart = curves(
            [perfect, *series],
            [(tick, f"{tick:g}") for tick in scale.ticks],
            y=scale,
            write=lambda tick: f"{tick:g}",
            label=f"Share of positives at each predicted probability, {readable(task)}. {words}",
            height=190,
            apart=False,
        )
        panels.append(Panel(readable(task), f"{share(own[0]['fraction'])} of labels", chart))
    return panels


def _points(points: list[Record]) -> tuple[tuple[float, float | None, float | None, float | None], ...]:
    return tuple((point["predicted"], point["observed"], None, None) for point in points)


def _diagonal(low: float, high: float) -> tuple[tuple[float, float | None, float | None, float | None], ...]:
    return ((low, low, None, None), (high, high, None, None))


def _pair(predicted: float, observed: float | None) -> str:
    return f"{decimal(predicted, 2)} to {decimal(observed, 2)}"
