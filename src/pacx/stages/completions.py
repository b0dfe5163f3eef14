# ruff: noqa: F722
"""Images with patches hidden and filled in: made, measured, drawn.

Four rows: the X-ray, what the encoder saw of it, the model's completion with the visible patches pasted back (the loss
never asks the decoder for visible patches, so showing its output there would mislead), and the difference.

A model of normalised targets predicts a patch's pattern only. Its pictures take brightness and contrast of each hidden
patch from the true one, which flatters it; so what it is compared with gets the true brightness too.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pacx.models.mae import MaskedAutoencoder
from pacx.preprocess import Preprocess

__all__ = ["Completion", "complete", "draw_completion", "hidden_errors"]

_COLUMNS = 8
_CELL = 1.45
"""edge of a picture, inches"""
_FULL_COLOUR = 0.5
_LEGEND = (
    "Difference: blue = filled in too dark, red = too bright; full colour at half the gray range. RMS: error on hidden "
    "pixels, as a share of the gray range; in brackets that of plain gray."
)


class Completion(NamedTuple):
    """Images with patches hidden and filled in, as gray values in [0, 1]."""

    image: Float[Tensor, "B S S"]
    filled: Float[Tensor, "B S S"]
    """hidden patches as predicted, visible ones as they are"""
    hidden: Bool[Tensor, "B S S"]
    plain: Float[Tensor, "B S S"]
    """a yardstick for hidden pixels: the mean of the image's visible patches; of each hidden patch itself where targets
    are normalised"""


@torch.no_grad()
def complete(model: MaskedAutoencoder, images: Float[Tensor, "B C S S"], noise: Float[Tensor, "B N"]) -> Completion:
    """Hide patches and have all of them filled in, whatever share of them the training predicts.

    Args:
        model: computes in evaluation mode and is left in the mode that it was in; draws nothing at random.
        images: normalised, on any device.
        noise: which patches are hidden; see `mask_noise`.

    Returns:
        Gray pictures on the CPU; the mean over channels where there are several.
    """
    device, training = model.mask_token.device, model.training
    model.eval()
    try:
        filled = model.reconstruct(images.to(device), noise.to(device)).float().cpu()
    finally:
        model.train(training)
    visible = noise.argsort(dim=1)[:, : model.num_visible]
    hidden = model.pixel_mask(torch.ones_like(noise).scatter(1, visible, 0.0)).bool()[:, 0]
    preprocess = model.encoder.config.preprocess
    image = _gray(images.cpu(), preprocess)
    plain = (
        _patch_means(image, model.encoder.config.patch_size) if model.normalise_targets else _seen_mean(image, hidden)
    )
    return Completion(image, _gray(filled, preprocess), hidden, plain)


def hidden_errors(made: Completion) -> dict[str, float]:
    """Measure mean squared errors over all hidden pixels: `hidden_mse` as filled in, `mean_gray_mse` of plain gray."""
    count = made.hidden.sum(dim=(1, 2)).double()
    return {
        name: float((_mse(picture, made) * count).sum() / count.sum())
        for name, picture in (("hidden_mse", made.filled), ("mean_gray_mse", made.plain))
    }


def draw_completion(made: Completion, *, seen: str, path: Path) -> None:
    """Draw X-ray, visible patches, completion and difference, one column per image, eight columns per block.

    Args:
        made: what to draw.
        seen: what to write beside the second row.
        path: the PNG.
    """
    from matplotlib.figure import Figure

    blocks = [
        Completion(*(field[start : start + _COLUMNS] for field in made))
        for start in range(0, len(made.image), _COLUMNS)
    ]
    columns = min(len(made.image), _COLUMNS)
    legend = textwrap.wrap(_LEGEND, width=21 * columns + 5)
    heights = [*(4 * _CELL + 0.35 for _ in blocks), 0.2 + 0.13 * len(legend)]
    figure = Figure(figsize=(_CELL * columns + 0.45, sum(heights)), dpi=110, facecolor="white")
    *parts, foot = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, block in zip(parts, blocks, strict=True):
        _draw_block(part, block, seen=seen, columns=columns)
    foot.text(0.01, 0.5, "\n".join(legend), fontsize=7.5, va="center", color="#444444")
    figure.savefig(path)


def _draw_block(part: Any, made: Completion, *, seen: str, columns: int) -> None:
    gray = {"cmap": _gray_map(), "vmin": 0, "vmax": 1}
    signed = {"cmap": "RdBu_r", "vmin": -_FULL_COLOUR, "vmax": _FULL_COLOUR}
    rows: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("X-ray", made.image, gray),
        (seen, made.image.masked_fill(made.hidden, float("nan")), gray),
        ("filled in", made.filled, gray),
        ("difference", (made.filled - made.image).masked_fill(~made.hidden, 0.0), signed),
    ]
    axes = part.subplots(len(rows), columns, squeeze=False)
    for line, (title, pictures, style) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, picture in zip(line, pictures.numpy(), strict=False):
            axis.imshow(np.ma.masked_invalid(picture), interpolation="nearest", **style)
        place = {"transform": line[0].transAxes, "rotation": 90, "va": "center", "ha": "right"}
        line[0].text(-0.06, 0.5, title, fontsize=9, **place)
    for axis, error, yardstick in zip(axes[-1], _mse(made.filled, made), _mse(made.plain, made), strict=False):
        axis.set_title(f"RMS {_root(error)} ({_root(yardstick)})", y=-0.16, fontsize=7.5)
    width = _CELL * columns + 0.45
    part.subplots_adjust(left=0.38 / width, right=1 - 0.02 / width, top=0.995, bottom=0.04, wspace=0.03, hspace=0.03)


def _gray(images: Float[Tensor, "B C S S"], preprocess: Preprocess) -> Float[Tensor, "B S S"]:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (images.float() * std + mean).mean(dim=1).clamp(0, 1)


def _seen_mean(image: Tensor, hidden: Tensor) -> Tensor:
    seen = (~hidden).float()
    return ((image * seen).sum(dim=(1, 2), keepdim=True) / seen.sum(dim=(1, 2), keepdim=True)).expand_as(image)


def _patch_means(image: Tensor, patch_size: int) -> Tensor:
    means = F.avg_pool2d(image[:, None], patch_size)
    return F.interpolate(means, scale_factor=float(patch_size), mode="nearest")[:, 0]


def _mse(picture: Tensor, made: Completion) -> Float[Tensor, " B"]:
    hidden = made.hidden.double()
    squares = (picture.double() - made.image.double()).square() * hidden
    error: Tensor = squares.sum(dim=(1, 2)) / hidden.sum(dim=(1, 2))
    return error


def _root(mse: Tensor) -> str:
    return f"{float(mse) ** 0.5:.2f}".lstrip("0")


def _gray_map() -> Any:
    from matplotlib import colormaps

    return colormaps["gray"].with_extremes(bad="#27364a")  # hidden patches must not look like dark lung
