"""What all miniatures share: pictures of a row in the file types of the releases, and labels from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.preprocess import fit_square
from pacx.runs import write_text

__all__ = ["hex_name", "mask", "overt", "picture", "save", "write_notice"]

NOTICE = """Simulated data in the form of {title}, made by pacx. No patient, no file of the data set. Apache-2.0.

Every image, label and id in this folder was drawn by `pacx simulate`. Nothing that is measured on it says anything
about {title} or about patients.
"""


def picture(simulated: Simulated, row: int, *, size: int | None = None) -> NDArray[np.uint8]:
    """Return the X-ray of a row, uint8 (S, S), bright = dense; `size` is its edge, by default the store's."""
    assert simulated.store.images is not None
    image: NDArray[np.uint8] = np.asarray(simulated.store.images[row])
    if size is None or size == len(image):
        return image
    gray = fit_square(image.astype(np.float32) / np.float32(255), size)
    return np.rint(gray * 255).astype(np.uint8)


def mask(simulated: Simulated, row: int, name: str) -> NDArray[np.uint8]:
    """Return a mask of a row (`lung`, `heart`), uint8 (S, S), 0 or 255."""
    return np.where(simulated.store.mask(name, [row])[0], np.uint8(255), np.uint8(0))


def save(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], path: Path, *, mode: str | None = None, quality: int = 90
) -> None:
    """Write pixels as the file type of the path's suffix; `mode` is Pillow's, e.g. RGBA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        image.save(path, quality=quality)
    else:
        image.save(path)


def overt(
    simulated: Simulated, rules: Mapping[str, tuple[Callable[[pd.DataFrame], Any], float]], *, noise: float = 0.3
) -> pd.DataFrame:
    """Draw labels from the latent state: 1 where a trait, seen through a reader's error, is above its limit.

    Args:
        simulated: the cohort.
        rules: label -> trait of the table of true latents, and limit.
        noise: standard deviation of the reader's error, in those of the trait.

    Returns:
        int64 columns of 0 and 1, indexed as the store.
    """
    labels = {}
    for name, (trait, limit) in rules.items():
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        error = random_stream("miniature", simulated.seed, key).standard_normal(len(simulated.truth))
        labels[name] = (np.asarray(trait(simulated.truth), dtype=np.float64) + noise * error > limit).astype(np.int64)
    return pd.DataFrame(labels)


def hex_name(text: str, digits: int) -> str:
    """Return so many hexadecimal digits that belong to a text, as releases name files and patients."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def write_notice(folder: Path, *, title: str, name: str = "SIMULATED.txt") -> None:
    """Say in the folder that everything in it is simulated."""
    write_text(folder / name, NOTICE.format(title=title))
