"""Pictures of attention on X-rays, and of what becomes of a head's opinion when patches are removed.

All pictures of all encoders share one scale, in multiples of even attention: 1 is what a patch would get if attention
were spread evenly. An encoder that looks everywhere alike gives a flat picture. Scaling each picture by its own
extremes would turn differences of a per cent into hot spots. Gradient-weighted maps are sparse and have a longer scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pacx.data.store import Store
from pacx.preprocess import Geometry, fit_square

__all__ = ["save_curves", "save_overlays"]

_OUTLINES = ("#35c9ff", "#ffb000", "#7cff6b", "#ff5fa2")
"""One colour per mask, told apart on gray by colour-blind readers."""

_COLOURS = "inferno"
_SHOWN = 448
"""edge of a picture that is shown by itself, pixels"""
_BRIGHTEST = {"rollout": 3.0, "gradient": 6.0}
"""Multiple of even attention from which on the colour no longer changes."""

_LINES = {
    "attention": ("most attended first", "#c2410c", "-"),
    "random": ("random order", "#6b7280", "--"),
    "reverse": ("least attended first", "#1f5fa8", "-"),
}


def save_overlays(
    path: Path,
    store: Store,
    rows: NDArray[np.int64],
    maps: NDArray[np.float64],
    *,
    title: str,
    kind: Literal["rollout", "gradient"] = "rollout",
) -> None:
    """Draw X-rays with mask outlines above, and with their attention below.

    Args:
        path: PNG file to write.
        store: holds the images and masks.
        rows: (n,) store rows.
        maps: (n, grid, grid) attention per patch, each map with sum 1.
        title: the encoder's name.
        kind: of the maps; chooses scale and legend.
    """
    assert store.images is not None
    multiples, brightest = np.nan_to_num(maps) * maps[0].size, _BRIGHTEST[kind]
    scale = Normalize(0.0, brightest)
    figure = Figure(figsize=(1.9 * len(rows) + 0.9, 4.4), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False)
    for column, (row, attention) in enumerate(zip(rows, multiples, strict=True)):
        for axis in axes[:, column]:
            axis.imshow(store.images[row], cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
            _draw_outlines(axis, store, row)
        _draw_attention(axes[1, column], attention, size=store.images.shape[1], brightest=brightest)
    axes[0, 0].set_ylabel("masks: " + ", ".join(store.mask_names) if store.mask_names else "X-ray", fontsize=9)
    axes[1, 0].set_ylabel("attention rollout" if kind == "rollout" else "gradient-weighted", fontsize=9)
    bar = figure.colorbar(ScalarMappable(scale, cmap=_COLOURS), ax=axes[1], fraction=0.02, pad=0.01, extend="max")
    bar.set_label("times even attention", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def save_overlay(
    path: Path, pixels: NDArray[np.float32], attention: NDArray[np.float64], *, geometry: Geometry, title: str
) -> None:
    """Draw one X-ray beside itself with its attention.

    Args:
        path: PNG file to write.
        pixels: (H, W) in [0, 1], as it was read.
        attention: (grid, grid) with sum 1, over the square that the encoder saw.
        geometry: how the picture became that square. A squashed one is shown in its own proportions, of a cropped or
            padded one the square.
        title: the file's and the encoder's names.
    """
    square = fit_square(pixels, _SHOWN, geometry)
    aspect = pixels.shape[0] / pixels.shape[1] if geometry == "squash" else 1.0
    figure = Figure(figsize=(8.2, 3.7 * aspect + 0.5), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(1, 2)
    for axis in axes:
        axis.imshow(square, cmap="gray", vmin=0, vmax=1, aspect=aspect)
        axis.set_xticks([])
        axis.set_yticks([])
    brightest = _BRIGHTEST["rollout"]
    _draw_attention(axes[1], attention * attention.size, size=_SHOWN, brightest=brightest, aspect=aspect)
    bar = figure.colorbar(ScalarMappable(Normalize(0, brightest), cmap=_COLOURS), ax=axes[1], pad=0.02, extend="max")
    bar.set_label("times even attention", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path)


def save_curves(path: Path, found: dict[str, Any]) -> None:
    """Draw the mean probability against the share of patches removed, one line per order.

    Args:
        path: PNG file to write.
        found: of `pacx.evaluation.curve_areas.summarise_curves`.
    """
    figure = Figure(figsize=(4.6, 3.4), dpi=110, facecolor="white", layout="constrained")
    axis = figure.subplots()
    for order, (label, colour, style) in _LINES.items():
        line = found["curves"][order]
        axis.fill_between(line["fraction"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
        axis.plot(line["fraction"], line["value"], color=colour, linestyle=style, linewidth=1.6, label=label)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of patches removed", ylabel="probability of the finding")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(path)


def _draw_attention(
    axis: Any, attention: NDArray[np.float64], *, size: int, brightest: float, aspect: float = 1.0
) -> None:
    """Lay attention over an X-ray, the more opaque the more there is."""
    strength = np.clip(attention / brightest, 0.0, 1.0).astype(np.float32)
    smooth = fit_square(strength, size)
    axis.imshow(smooth, cmap=_COLOURS, vmin=0, vmax=1, alpha=0.15 + 0.65 * smooth, aspect=aspect)


def _draw_outlines(axis: Any, store: Store, row: int) -> None:
    for number, name in enumerate(store.mask_names):
        mask = store.mask(name, np.array([row]))[0]
        if mask.any() and not mask.all():
            axis.contour(mask, levels=[0.5], colors=[_OUTLINES[number % len(_OUTLINES)]], linewidths=0.8)
