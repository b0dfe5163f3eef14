"""Truth and prediction drawn on their images, from the worst to the best: failures are not left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.store import Store
from pacx.runs import RunFolder

__all__ = ["draw_masks"]


def draw_masks(
    run: RunFolder, store: Store, mask: str, scores: pd.DataFrame, predicted: NDArray[np.bool_], *, split: str
) -> None:
    """Draw up to eight images, evenly spaced in rank of Dice.

    Args:
        run: gets the figure.
        store: where the images are.
        mask: the name of the mask.
        scores: one line per image: `row` in the store, `dice`.
        predicted: (N, S, S), line by line.
        split: the one that the images are of.
    """
    from matplotlib.figure import Figure

    assert store.images is not None
    ranked = scores.sort_values("dice")
    chosen = ranked.iloc[np.unique(np.linspace(0, len(ranked) - 1, num=min(8, len(ranked))).round().astype(int))]
    judged = "unseen images" if split == "test" else "validation images, which also chose the epoch"
    path = run.figure(
        "overlays.png",
        caption=(
            f"Masks ({mask}) on {len(scores)} {judged}; from the worst (left) to the best: "
            "truth in blue, prediction in orange, Dice above."
        ),
    )
    figure = Figure(figsize=(1.8 * len(chosen), 2.05), dpi=110, facecolor="white")
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axis, line, row, dice in zip(axes, chosen.index, chosen["row"], chosen["dice"], strict=True):
        axis.imshow(store.images[row], cmap="gray", vmin=0, vmax=255)
        for area, colour, style in ((store.mask(mask, [row])[0], "#3fa7ff", "-"), (predicted[line], "#ff9f1c", "--")):
            if area.any() and not area.all():
                axis.contour(area, levels=[0.5], colors=[colour], linewidths=1.1, linestyles=style)
        axis.set_title(f"{dice:.3f}", fontsize=9, pad=3)
        axis.set_axis_off()
    figure.subplots_adjust(left=0.005, right=0.995, top=0.88, bottom=0.005, wspace=0.03)
    figure.savefig(path)
