"""Damaged image files, the same ones for the same number on every machine.

`mutate(17)` takes a well-formed file (`seed_files`) and damages it in one to three ways. Half of the ways know nothing
of the format: bits, bytes, ends, pieces, numbers. The others take the file apart, damage what is inside and put it
together again with right lengths and checksums, since a wrong checksum would keep the damage from the decoder:
`png_damage`, `jpeg_damage` and `tiff_damage` in `raster_damage`, `dicom_damage` in its own module.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.data.dicom_damage import damage_dicom
from tests.data.raster_damage import damage_jpeg, damage_png, damage_tiff
from tests.data.seed_files import seed_files

__all__ = ["mutate"]

_BY_FORMAT = {"PNG": damage_png, "JPEG": damage_jpeg, "TIFF": damage_tiff, "DICOM": damage_dicom}
_HEADER = 400
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutate(number: int) -> tuple[str, bytes]:
    """Return the name of a seed file with the damage done to it, and the damaged file."""
    # A string, since Python promises to seed from one in the same way for good.
    rng = random.Random(f"pacx fuzz {number}")
    files = seed_files()
    name = rng.choice(list(files))
    data, done = files[name], []
    by_format = _BY_FORMAT[name.partition(" ")[0]]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            data, what = by_format(data, rng)
        else:
            damage = rng.choice(_GENERIC)
            data, what = damage(data, rng), damage.__name__.strip("_")
        done.append(what)
        if not data:
            break
    return f"{name}: {', '.join(done)}", data


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_bit_of_header(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(min(_HEADER, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    start = rng.randrange(len(data))
    piece = rng.choice((rng.randbytes(rng.randint(1, 16)), b"\0" * 8, b"\xff" * 8, b"\xff\xd9", b"%s%n"))
    changed[start : start + len(piece)] = piece
    return bytes(changed)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _remove_piece(data: bytes, rng: random.Random) -> bytes:
    start, end = _piece(data, rng)
    return data[:start] + data[end:]


def _repeat_piece(data: bytes, rng: random.Random) -> bytes:
    start, end = _piece(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]


def _swap_pieces(data: bytes, rng: random.Random) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _set_number(data: bytes, rng: random.Random) -> bytes:
    """Write an extreme where a length, a size or an offset may stand."""
    size = rng.choice((1, 2, 2, 4, 4, 8))
    value = rng.choice(_EXTREMES) & ((1 << 8 * size) - 1)
    start = rng.randrange(min(_HEADER, len(data)) if rng.random() < 0.5 else len(data))
    return data[:start] + value.to_bytes(size, rng.choice(("little", "big"))) + data[start + size :]


def _splice(data: bytes, rng: random.Random) -> bytes:
    """Go on with another file in the middle of this one."""
    other = rng.choice(list(seed_files().values()))
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((data, rng.randbytes(64), b"\0" * 4096))


def _piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 12, 100, 1000)))


_GENERIC: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bits,
    _flip_bit_of_header,
    _overwrite_bytes,
    _truncate,
    _remove_piece,
    _repeat_piece,
    _swap_pieces,
    _set_number,
    _splice,
    _append,
)
