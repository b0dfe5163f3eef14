"""Charts as inline SVG, by pure functions of numbers.

Places across are percentages and places down are pixels, so a chart fills any width while its text keeps its size: the
same chart serves a wide screen, a phone and paper. Colours come from the page (`--tone` of a mark's class), so light
and dark follow the reader. Encoders differ by marker as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup, escape

from pacx.evaluation.reporting.wording import is_known

__all__ = ["Mark", "Scale", "Series", "axis", "bar", "curves", "dots", "marker", "nice_scale", "tight_scale"]

_MARKERS = {
    "mae": '<circle r="4.6"/>',
    "pacx": '<path d="M0-6 6 0 0 6-6 0z"/>',
    "random": '<rect x="-4" y="-4" width="8" height="8"/>',
    "other1": '<path d="M0-5.4 5.4 4.2-5.4 4.2z"/>',
    "other2": '<path d="M0 5.4 5.4-4.2-5.4-4.2z"/>',
    "other3": '<path d="M-5-1.7h3.3V-5h3.4v3.3H5v3.4H1.7V5h-3.4V1.7H-5z"/>',
    "other4": '<ellipse rx="3.2" ry="5.6"/>',
    "plain": '<circle r="3.6"/>',
    "quiet": '<circle r="3.6"/>',
}
_LINE = 15
"""pixels from one mark to the next in a row of dots"""


@dataclass(frozen=True)
class Mark:
    """A value with its interval, drawn as a marker on a bar."""

    tone: str
    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""
    """the numbers as words, for tooltips and screen readers"""
    hollow: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps values to percent of a chart's width or pixels of its height."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def across(self, value: float, *, left: float = 3.0, right: float = 97.0) -> float:
        """Place in percent; values beyond the scale are held at its ends."""
        return left + (right - left) * self._share(value)

    def down(self, value: float, *, top: float, bottom: float) -> float:
        """Place in pixels from above."""
        return bottom - (bottom - top) * self._share(value)

    def _share(self, value: float) -> float:
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Series:
    """Points of one curve."""

    tone: str
    name: str
    points: tuple[tuple[float, float | None, float | None, float | None], ...]
    """x, value, low, high"""
    markers: bool = True
    dashed: bool = False


def nice_scale(values: Sequence[float | None], *, include: Sequence[float] = (), max_ticks: int = 5) -> Scale:
    """Choose a scale that holds all known values and ends on round ticks."""
    low, high = _range([*values, *include])
    step = _nice_step((high - low) / max_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def tight_scale(values: Sequence[float | None], *, include: Sequence[float] = (), max_ticks: int = 5) -> Scale:
    """Choose a scale that ends where the known values end, with round ticks inside."""
    low, high = _range([*values, *include])
    step = _nice_step((high - low) / max_ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, tuple(round(number * step, 10) for number in range(first, last + 1)))


def dots(
    marks: Sequence[Mark | None], scale: Scale, *, reference: float | None = None, zero: bool = False, absent: str = ""
) -> Markup:
    """Draw marks under each other on one scale; the chart may be stretched in height, the marks stay in its middle.

    Args:
        marks: drawn from above; None leaves a line empty.
        scale: shared by all rows of a chart.
        reference: a value to compare with (chance), drawn as a dashed line.
        zero: draw a full line at 0.
        absent: why there are no values, said where all of them are missing.
    """
    height = _LINE * max(1, len(marks)) + 7
    parts = [_upright(scale.across(tick), "grid") for tick in scale.ticks]
    if zero:
        parts.append(_upright(scale.across(0), "zero"))
    if reference is not None and is_known(reference):
        parts.append(_upright(scale.across(reference), "chance"))
    parts.append('<svg y="50%" overflow="visible">')
    if all(mark is None or mark.value is None for mark in marks):
        parts.append(f'<text class="absent" x="4%" y="4">n/a{": " if absent else ""}{escape(absent)}</text>')
    else:
        middle = (len(marks) - 1) / 2
        parts += [_mark(mark, scale, y=_LINE * (number - middle)) for number, mark in enumerate(marks) if mark]
    parts.append("</svg>")
    words = "; ".join(f"{mark.name} {mark.text}" for mark in marks if mark) or "n/a"
    return _svg("".join(parts), height=height, label=words)


def axis(scale: Scale, write: Callable[[float], str]) -> Markup:
    """Write the ticks of a scale as a row of their own."""
    ticks = "".join(
        f'<text x="{scale.across(tick):.2f}%" y="13" text-anchor="middle">{escape(write(tick))}</text>'
        for tick in scale.ticks
    )
    return Markup(f'<svg class="axis" width="100%" height="18" aria-hidden="true">{ticks}</svg>')


def marker(tone: str, *, hollow: bool = False) -> Markup:
    """Draw an encoder's marker for a legend or a table."""
    shape = _MARKERS.get(tone, _MARKERS["plain"])
    kind = " hollow" if hollow else ""
    return Markup(
        f'<svg class="key t-{escape(tone)}{kind}" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">'
        f"{shape}</svg>"
    )


def bar(value: float | None, largest: float, *, tone: str = "plain", reference: float | None = None) -> Markup:
    """Draw a value as a bar from zero; `reference` is marked by a tick."""
    width = 100 * min(1.0, value / largest) if value is not None and is_known(value) and largest > 0 else 0.0
    tick = ""
    if reference is not None and is_known(reference) and largest > 0:
        x = 100 * min(1.0, reference / largest)
        tick = f'<line class="mark" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="10"/>'
    return Markup(
        f'<svg class="bar t-{escape(tone)}" width="100%" height="10" aria-hidden="true">'
        '<rect class="track" width="100%" height="10" rx="2"/>'
        f'<rect width="{width:.2f}%" height="10" rx="2"/>{tick}</svg>'
    )


def curves(
    series: Sequence[Series],
    x_ticks: Sequence[tuple[float, str]],
    *,
    y: Scale,
    write: Callable[[float], str],
    label: str,
    height: int = 168,
    reference: float | None = None,
    apart: bool = True,
) -> Markup:
    """Draw curves over a common x, which the caller has put on a linear scale.

    Args:
        series: the curves.
        x_ticks: places and texts of the x axis.
        y: scale of the values.
        write: turns a tick of y into text.
        label: what the chart shows, for screen readers.
        height: pixels.
        reference: a value to compare with (chance), drawn as a dashed line.
        apart: set curves a little beside each other, so that their intervals do not hide one another.
    """
    places = [point[0] for one in series for point in one.points] + [place for place, _ in x_ticks]
    low, high = (min(places), max(places)) if places else (0.0, 1.0)
    x = Scale(low, high if high > low else low + 1.0, ())
    top, bottom = 12.0, height - 24.0
    left = 20.0 if any(one.markers for one in series) else 11.0  # markers must not lie on the texts of y

    def across(value: float) -> float:
        return x.across(value, left=left, right=94.0)

    def down(value: float) -> float:
        return y.down(value, top=top, bottom=bottom)

    parts = []
    for tick in y.ticks:
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>')
        parts.append(f'<text x="0" y="{down(tick) - 3:.1f}">{escape(write(tick))}</text>')
    if reference is not None and y.low <= reference <= y.high:
        parts.append(f'<line class="chance" x1="0" x2="100%" y1="{down(reference):.1f}" y2="{down(reference):.1f}"/>')
    for place, text in x_ticks:
        parts.append(f'<text x="{across(place):.2f}%" y="{height - 6}" text-anchor="middle">{escape(text)}</text>')
    for number, one in enumerate(series):
        shift = 1.6 * (number - (len(series) - 1) / 2) if one.markers and apart else 0.0
        parts.append(_curve(one, partial(_shifted, across, shift), down, height=height))
    return _svg("".join(parts), height=height, label=label)


def _shifted(across: Callable[[float], float], shift: float, value: float) -> float:
    return across(value) + shift


def _curve(one: Series, across: Callable[[float], float], down: Callable[[float], float], *, height: int) -> str:
    known = [(place, value, low, high) for place, value, low, high in one.points if value is not None]
    line = " ".join(f"{across(place):.2f},{down(value):.1f}" for place, value, _, _ in known)
    dash = ' stroke-dasharray="5 4"' if one.dashed else ""
    # The line alone is stretched with the chart; its width and all text are not.
    parts = [
        f'<svg width="100%" height="{height}" viewBox="0 0 100 {height}" preserveAspectRatio="none">'
        f'<polyline points="{line}" vector-effect="non-scaling-stroke"{dash}/></svg>'
    ]
    if one.markers:
        for place, value, low, high in known:
            x = f"{across(place):.2f}%"
            if low is not None and high is not None:
                parts.append(f'<line class="span" x1="{x}" x2="{x}" y1="{down(low):.1f}" y2="{down(high):.1f}"/>')
            shape = _MARKERS.get(one.tone, _MARKERS["plain"])
            parts.append(f'<svg x="{x}" y="{down(value):.1f}" overflow="visible" class="marker">{shape}</svg>')
    return f'<g class="curve t-{escape(one.tone)}">{"".join(parts)}</g>'


def _mark(mark: Mark, scale: Scale, *, y: float) -> str:
    if mark.value is None:
        return f'<text class="absent" x="4%" y="{y + 4:.1f}">{escape(mark.name)}: n/a</text>'
    parts = [f"<title>{escape(mark.name)} {escape(mark.text)}</title>"]
    if mark.low is not None and mark.high is not None:
        left, right = scale.across(mark.low), scale.across(mark.high)
        parts.append(f'<line class="span" x1="{left:.2f}%" x2="{right:.2f}%" y1="{y:.1f}" y2="{y:.1f}"/>')
    shape = _MARKERS.get(mark.tone, _MARKERS["plain"])
    parts.append(f'<svg x="{scale.across(mark.value):.2f}%" y="{y:.1f}" overflow="visible">{shape}</svg>')
    kind = " hollow" if mark.hollow else ""
    return f'<g class="mark t-{escape(mark.tone)}{kind}">{"".join(parts)}</g>'


def _upright(x: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.2f}%" x2="{x:.2f}%" y2="100%"/>'


def _svg(content: str, *, height: int, label: str) -> Markup:
    return Markup(
        f'<svg class="chart" width="100%" height="{height}" style="min-height: {height}px" role="img" '
        f'aria-label="{escape(label)}">{content}</svg>'
    )


def _range(values: Sequence[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None and is_known(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    return (low, high) if high - low > 1e-9 else (low - 0.05, high + 0.05)


def _nice_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
