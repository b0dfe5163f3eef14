"""The process that decodes: reads jobs from standard input, writes answers to standard output, and may be killed.

Decoders are C code that strangers' files run through. They run here, one file at a time, with bounded memory, without
the server's secrets, and where a hang or a crash costs this process and not the server.

A message is its length (8 bytes), the length of its JSON part (4 bytes), the JSON, then bytes:

    job      {"preprocess": {...} | null, "max_pixels": N, "render": edge | null} + the file
    answer   {"image": facts, "shape": [C, S, S], "rendered": [H, W] | null} + float32 input + uint16 picture
         or  {"fault": "too-large" | "unknown-format" | "unreadable", "detail": "..."}
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pacx.data.images import read_cxr
from pacx.data.pixels import CxrImage, ImageError, TooLargeError, UnknownFormatError
from pacx.data.quiet import quiet_decoders
from pacx.errors import PacxError
from pacx.preprocess import Preprocess, fit_box

__all__ = ["pack", "unpack"]

_HEAD = struct.Struct("<QI")


def pack(facts: dict[str, Any], *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """Make a message, as pieces to be written one after the other."""
    text = json.dumps(facts).encode()
    length = _HEAD.size - 8 + len(text) + sum(len(part) for part in parts)
    return [_HEAD.pack(length, len(text)), text, *parts]


def unpack(body: bytes) -> tuple[dict[str, Any], memoryview]:
    """Split a message, without its first 8 bytes, into its JSON and its bytes."""
    (length,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + length]), memoryview(body)[4 + length :]


def answer(facts: dict[str, Any], data: bytes) -> list[bytes | memoryview]:
    """Decode a file and make the answer."""
    try:
        image = read_cxr(data, max_pixels=facts["max_pixels"])
    except PacxError as error:
        return pack({"fault": _fault(error), "detail": getattr(error, "public", None) or str(error)})
    parts: list[bytes | memoryview] = []
    found: dict[str, Any] = {"image": _facts(image), "shape": None, "rendered": None}
    if facts["preprocess"] is not None:
        values = Preprocess.from_dict(facts["preprocess"])(image.pixels)
        found["shape"] = values.shape
        parts.append(np.ascontiguousarray(values).tobytes())
    if facts["render"] is not None:
        picture = _picture(image.pixels, facts["render"])
        found["rendered"] = picture.shape
        parts.append(picture.tobytes())
    return pack(found, *parts)


def _fault(error: PacxError) -> str:
    if isinstance(error, TooLargeError):
        return "too-large"
    if isinstance(error, UnknownFormatError) or not isinstance(error, ImageError):
        return "unknown-format"  # a compression that is not installed is a format that is not known here
    return "unreadable"


def _facts(image: CxrImage) -> dict[str, Any]:
    height, width = image.pixels.shape
    view = image.view if image.view and image.view.isalpha() and len(image.view) <= 8 else None
    return {"format": image.format, "height": height, "width": width, "view": view, "steps": list(image.steps)}


def _picture(pixels: NDArray[np.float32], edge: int) -> NDArray[np.uint16]:
    """Shrink to a longest edge, aspect kept, and give the gray 16 bits."""
    scale = min(1.0, edge / max(pixels.shape))
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    small = pixels if scale == 1.0 else fit_box(pixels, height=height, width=width)
    return (small * 65535 + 0.5).astype("<u2")


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _bound_memory(most: int) -> None:
    try:
        import resource  # absent on Windows
    except ModuleNotFoundError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the picture


def main(memory: int) -> None:
    """Answer jobs until standard input ends."""
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints must not get between the answers
    import pydicom  # noqa: F401 - the first DICOM should not wait for it

    quiet_decoders()
    _bound_memory(memory)
    answers.write(b"ready\n")
    answers.flush()
    while True:
        try:
            (length,) = struct.unpack("<Q", _read_exactly(jobs, 8))
            facts, data = unpack(_read_exactly(jobs, length))
        except EOFError:
            return
        for part in answer(facts, bytes(data)):
            answers.write(part)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
