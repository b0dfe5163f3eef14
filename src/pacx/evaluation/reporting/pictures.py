"""Figures of runs, small enough to travel inside one HTML file."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from pacx.evaluation.reporting.collect import Run

__all__ = ["Picture", "pictures_of"]

log = logging.getLogger("pacx")
_MAX_WIDTH = 1500
_QUALITY = 80


class Picture(NamedTuple):
    """A figure of a run, ready to be shown."""

    run: str
    command: str
    caption: str
    width: int
    height: int
    source: str
    """data URI"""


def pictures_of(runs: Sequence[Run]) -> list[Picture]:
    """Read the figures of all runs, scaled down and coded as WebP; unreadable ones are left out with a warning."""
    found = []
    for run in runs:
        for figure in run.content.get("figures") or []:
            path = run.folder / str(figure.get("path", ""))
            if not path.resolve().is_relative_to(run.folder.resolve()):
                log.warning("report: a figure of %s lies outside of its run folder and is left out", run.name)
                continue
            try:
                with Image.open(path) as image:
                    small = _shrunk(image)
            except (OSError, UnidentifiedImageError) as error:
                log.warning("report: figure %s of %s cannot be read (%s)", path.name, run.name, error)
                continue
            found.append(
                Picture(run.name, run.command, str(figure.get("caption", "")), small.width, small.height, _uri(small))
            )
    return found


def _shrunk(image: Image.Image) -> Image.Image:
    colour = image.convert("L" if image.mode in {"1", "L", "I;16", "I", "F"} else "RGB")
    if colour.width > _MAX_WIDTH:
        height = max(1, round(colour.height * _MAX_WIDTH / colour.width))
        colour = colour.resize((_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    return colour


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
