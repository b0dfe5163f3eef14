"""The figures of the simulated study, drawn from the numbers of its reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw"]

_SHARES = {0.01: "1 %", 0.1: "10 %", 1.0: "100 %"}
_COLOURS = {0.01: "#9db7d5", 0.1: "#4f7fb5", 1.0: "#1d3f6b"}
_STYLE = {
    "svg.hashsalt": "pacx",  # the same file for the same numbers
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}

_LEGEND: dict[str, Any] = {
    "title": "share of the labels", "frameon": False, "fontsize": 8, "title_fontsize": 8, "ncols": 3,
    "loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "columnspacing": 1.0, "handletextpad": 0.2,
}  # fmt: skip
"""above the axes, where no point lies"""


def draw(reports: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw what can be drawn.

    Args:
        reports: PART/report -> its numbers.
        folder: where the SVG files go.

    Returns:
        File name -> caption.
    """
    folder.mkdir(exist_ok=True)
    figures: dict[str, str] = {}
    wanted: tuple[tuple[str, str, Callable[[Any, Path], None], str], ...] = (
        (
            "study/report", "gains.svg", _gains,
            "Mean AUROC of each arm minus that of the masked autoencoder, by group of tasks and share of the labels; "
            "95 % intervals over test patients.",
        ),
        (
            "ablations/report-parts", "parts.svg", _parts,
            "Mean AUROC of physiology tasks minus that of the whole method, one part changed at a time.",
        ),
        (
            "pairs/report", "pairs.svg", _pairs,
            "Gain over the masked autoencoder on physiology tasks by the number of pairs that were distilled from.",
        ),
        (
            "teachers/report", "teachers.svg", _teachers,
            "Gain over the masked autoencoder on physiology tasks: noisy teachers (left), and regression alone on "
            "teachers that say nearly the same of everybody (right).",
        ),
    )  # fmt: skip
    with mpl.rc_context(_STYLE):
        for report, name, make, caption in wanted:
            if report in reports:
                make(reports[report]["group_differences"], folder / name)
                figures[name] = caption
    return figures


def _at(rows: Sequence[Mapping[str, Any]], encoder: str, group: str) -> list[Mapping[str, Any]]:
    own = [row for row in rows if (row["encoder"], row["group"]) == (encoder, group)]
    return sorted(own, key=lambda row: row["fraction"])


def _point(ax: Axes, x: float, row: Mapping[str, Any], **more: Any) -> None:
    error = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
    ax.errorbar([x], [row["difference"]], yerr=error, fmt="o", color=_COLOURS[row["fraction"]], markersize=4, **more)


def _bare(ax: Axes, ticks: Sequence[str], *, title: str, ylabel: str = "difference in AUROC") -> None:
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(ticks)), ticks)
    ax.set_title(title, loc="left")
    ax.set_ylabel(ylabel)


def _columns(ax: Axes, rows: Sequence[Mapping[str, Any]], encoders: Mapping[str, str], group: str, title: str) -> None:
    """Draw encoders side by side, the shares of the labels beside each other in each."""
    for place, encoder in enumerate(encoders):
        for shift, row in zip((-0.18, 0.0, 0.18), _at(rows, encoder, group), strict=False):
            _point(ax, place + shift, row, label=_SHARES[row["fraction"]] if place == 0 else None)
    _bare(ax, list(encoders.values()), title=title)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _gains(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.8), sharey=True)
    names = {"random": "random init", "pacx": "PaCX", "pacx-shuffled": "PaCX,\nshuffled pairs"}
    for ax, group in zip(axes, ("physiology", "control"), strict=True):
        _columns(ax, rows, names, group, f"{group}, minus MAE")
    axes[1].legend(**_LEGEND)
    _save(figure, path)


def _parts(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = {
        "no-ecg": "no\nECG", "no-labs": "no\nlabs", "contrastive-only": "contrastive\nonly",
        "regression-only": "regression\nonly", "final-norm": "final\nnorm", "last-blocks": "last two\nblocks",
        "full-tuning": "all\nweights", "anchored": "anchored",
    }  # fmt: skip
    figure, ax = plt.subplots(figsize=(7.2, 2.8))
    _columns(ax, rows, names, "physiology", "physiology, minus the whole method")
    ax.legend(**_LEGEND)
    _save(figure, path)


def _pairs(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, ax = plt.subplots(figsize=(4.6, 2.8))
    numbers = (100, 300, 1000, 2978)
    _columns(
        ax, rows, {f"pairs-{num}": f"{num:,}" for num in numbers}, "physiology", "physiology, minus MAE"
    )  # fmt: skip
    ax.set_xlabel("pairs")
    ax.legend(**_LEGEND)
    _save(figure, path)


def _teachers(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7.8, 2.9), sharey=True, width_ratios=[4, 6.5])
    noisy = {"pacx": "0", "noise-0.5": "0.5", "noise-1": "1", "noise-2": "2"}
    alike = {f"regression-{one}": one for one in ("0", "0.43", "0.8", "0.95")}
    _columns(axes[0], rows, noisy, "physiology", "both losses, minus MAE")
    axes[0].set_xlabel("noise in the teachers, standard deviations")
    others = {"regression-centred": "0.95,\ncentred", "contrastive": "0.95,\ncontrast"}
    _columns(axes[1], rows, {**alike, **others}, "physiology", "regression alone (last: contrast alone), minus MAE")
    axes[1].set_xlabel("mean cosine of two patients' embeddings")
    axes[0].set_ylim(bottom=-0.07)  # room for the legend, away from the points
    axes[0].legend(title="share of the labels", ncols=3, loc="lower left", frameon=False, columnspacing=0.8)
    _save(figure, path)
