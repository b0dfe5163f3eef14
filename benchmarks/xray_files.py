"""Files like those that hospitals publish: simulated radiographs in three sizes and formats.

`pacx`' phantom draws them, Pillow enlarges them, and noise of one gray level is laid over: without it a PNG would pack,
and so decode, faster than a real one. What they weigh on disk is reported; sets of that kind have 0.4 MB per
1024 x 1024 PNG.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pacx.data.phantom.acquisition import sample_acquisition
from pacx.data.phantom.anatomy import render
from pacx.data.phantom.latents import random_stream, sample_patient

__all__ = ["KINDS", "Kind", "draw_patients", "write_files"]

NOISE = 1.0  # gray levels


@dataclass(frozen=True)
class Kind:
    """A format and a size."""

    name: str
    width: int
    height: int
    suffix: str
    num_files: int


KINDS = (
    Kind("jpeg_390x320", 390, 320, "jpg", 512),
    Kind("png_1024", 1024, 1024, "png", 48),
    Kind("jpeg_2544x3056", 2544, 3056, "jpg", 12),
)


def draw_patients(num: int, *, size: int) -> list[npt.NDArray[np.float32]]:
    """Take one X-ray each of some simulated patients; (size, size) in [0, 1]."""
    images = []
    for number in range(num):
        rng = random_stream("benchmark", number)
        patient = sample_patient(number, seed=0)
        pixels = render(patient, sample_acquisition(patient, rng), size=size, rng=rng).pixels
        images.append(np.asarray(pixels, dtype=np.float32))
    return images


def write_files(folder: Path, kind: Kind, patients: list[npt.NDArray[np.float32]], *, num: int) -> list[Path]:
    """Write files of one kind, 8-bit gray, JPEG quality 90; every file has noise of its own."""
    folder.mkdir(parents=True)
    options: dict[str, Any] = {"quality": 90} if kind.suffix == "jpg" else {}
    files = []
    for number in range(num):
        whole = Image.fromarray(patients[number % len(patients)])
        levels = np.asarray(whole.resize((kind.width, kind.height), Image.Resampling.BICUBIC)) * 255.0
        noisy = levels + np.random.default_rng(number).normal(0.0, NOISE, levels.shape)
        file = folder / f"{number:04d}.{kind.suffix}"
        Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8)).save(file, **options)
        files.append(file)
    return files
