"""What `serve` and `soak` serve and send: a network of full size with random weights, and real X-rays where they are.

How long a network takes does not depend on its weights, and both sides get the same.
"""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.xray_files import draw_patients
from pacx.data.images import read_cxr
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.models.weights import weights_hash
from pacx.preprocess import Preprocess

__all__ = ["NUM_OUTPUTS", "export", "make_model", "write_images"]

SHARED = Path(__file__).parents[2] / "shared" / "data" / "cxr"
NUM_OUTPUTS = 14


def make_model(folder: Path, *, image_size: int, width: int, depth: int, heads: int) -> Path:
    """Save an encoder and a head of 14 outputs beside it: FOLDER/encoder, FOLDER/head."""
    from pacx.models.readout_head import ReadoutHead, save_head
    from pacx.readout import Calibration, Output, Readout

    torch.manual_seed(0)
    config = EncoderConfig(Preprocess(image_size), patch_size=16, width=width, depth=depth, heads=heads)
    encoder = Encoder(config).eval()
    save_encoder(encoder, folder / "encoder")
    outputs = tuple(
        Output(f"finding{number}", f"finding{number}", 0.5, 0.1, None, None, None, None, None, 0)
        for number in range(NUM_OUTPUTS)
    )
    readout = Readout(outputs, "cls", Calibration("none", "", None), "random weights")
    weight = np.random.default_rng(0).normal(0, width**-0.5, (NUM_OUTPUTS, width)).astype(np.float32)
    head = ReadoutHead(weight, np.zeros(NUM_OUTPUTS, np.float32), readout, weights_hash(encoder), "")
    save_head(head, folder / "head")
    return folder


def export(model: Path, out: Path, precision: str) -> Path:
    """Write the ONNX file that `pacx serve` takes. Random weights say nothing about 8 bits, hence the force."""
    command = [sys.executable, "-m", "pacx.cli", "export", str(model), "--out", str(out), "--precision", precision]
    subprocess.run([*command, *(["--force", "true"] if precision == "int8" else [])], check=True)
    return out


def write_images(folder: Path, *, num: int) -> tuple[list[Path], str]:
    """Write images as a hospital has them; returns the files and what they are.

    Real ones where the open sample is: two PNGs of 1024 x 1024 and a DICOM of 1955 x 1841 as published, the others
    NIH's 512 x 512 as PNG. Else simulated ones.
    """
    folder.mkdir(parents=True)
    originals = [*sorted((SHARED / "fullsize").glob("0*_00?.png")), *sorted((SHARED / "dicom").glob("*.dcm"))]
    smaller = sorted((SHARED / "nih").glob("*.jpg"))
    if originals and len(smaller) >= num:
        contents = [(file.suffix, file.read_bytes()) for file in originals[:num]]
        pictures = [read_cxr(file).pixels for file in smaller[: num - len(contents)]]
        source = f"{num} real X-rays: {len(contents)} originals and {len(pictures)} of 512 x 512 as PNG"
    else:
        contents, pictures = [], draw_patients(num, size=512)
        source = f"{num} simulated X-rays of 512 x 512 as PNG"
    contents += [(".png", _png(picture)) for picture in pictures]
    files = [folder / f"{number:02d}{suffix}" for number, (suffix, _) in enumerate(contents)]
    for file, (_, content) in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files, source


def _png(picture: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
