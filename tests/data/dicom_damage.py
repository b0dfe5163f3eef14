"""Damage to DICOM files that keeps them parsable: elements with wrong VR, length, value, order; damaged pixel streams.

The walk over elements here is a small one of its own, over the top level of a data set: pydicom would refuse to write
most of what a damaged file can hold.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian
from tests.data.raster_damage import change_byte, damage_jpeg

__all__ = ["damage_dicom"]

_LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
_VRS = (b"US", b"SS", b"UL", b"DS", b"IS", b"CS", b"LO", b"PN", b"OB", b"OW", b"SQ", b"UN", b"AT", b"FD", b"UI", b"??")
_UNDEFINED = 0xFFFFFFFF
# Elements that decide how pixels look, of group 0x0028 unless a whole tag stands there.
_TAGS = (0x02, 0x04, 0x06, 0x08, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x1050, 0x1051, 0x1052, 0x1053)
_TEXTS = (
    b"1e400",
    b"nan",
    b"-inf",
    b"9" * 40,
    b"-1",
    b"0",
    b"",
    b"1\\2\\3",
    b"\xff\xfe",
    b"MONOCHROME1 ",
    b"RGB ",
    b"YBR_FULL",
)
_NUMBERS = (0, 1, 2, 3, 7, 9, 12, 16, 17, 32, 64, 255, 9999, 32768, 65535)


@dataclass(frozen=True)
class _Element:
    tag: int
    vr: bytes
    """empty where the file does not write VRs"""
    length: int
    """as written; `_UNDEFINED` for a compressed picture"""
    value: bytes


def damage_dicom(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage a file of the kinds that `seed_files` makes."""
    start = 132 if data[128:132] == b"DICM" else 0
    inflated = _inflated(data)
    whole = data if inflated is None else inflated
    explicit, order = _encoding(whole)
    meta = list(_elements(whole, start, explicit=True, order="<", meta=True)) if start else []
    body_start = start + sum(len(_written(element, "<")) for element in meta)
    body = list(_elements(whole, body_start, explicit=explicit, order=order, meta=False))
    if not body:
        return change_byte(data, rng), "change byte"
    what = rng.choice(
        ("value", "value", "value", "VR", "length", "remove", "repeat", "swap", "stream", "stream", "syntax", "nest")
    )
    if what == "syntax":
        meta = [_of_another_syntax(element, rng) if element.tag == 0x00020010 else element for element in meta]
    elif what == "stream":
        body = [_damaged_pixels(element, rng) if element.tag == 0x7FE00010 else element for element in body]
    else:
        body = _DAMAGES[what](body, rng, order)
    head = whole[:start] + b"".join(_written(element, "<") for element in meta)
    tail = b"".join(_written(element, order) for element in body)
    if inflated is not None:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        tail = deflater.compress(tail) + deflater.flush()
    return head + tail, f"DICOM {what}"


def _inflated(data: bytes) -> bytes | None:
    """Return the file with its deflated part inflated; None where nothing is deflated or can be inflated."""
    if DeflatedExplicitVRLittleEndian.encode() not in data[:2000] or len(data) < 144:
        return None
    end = 144 + struct.unpack("<I", data[140:144])[0]
    try:
        return data[:end] + zlib.decompress(data[end:], wbits=-zlib.MAX_WBITS)
    except zlib.error:
        return None


def _encoding(data: bytes) -> tuple[bool, str]:
    """Tell (explicit VR, byte order) from the first element of group 8."""
    if b"\x00\x08\x00\x16UI" in data:
        return True, ">"
    return b"\x08\x00\x16\x00UI" in data or b"\x08\x00\x05\x00CS" in data, "<"


def _elements(data: bytes, position: int, *, explicit: bool, order: str, meta: bool) -> Iterator[_Element]:
    while position + 8 <= len(data):
        group, number = struct.unpack(order + "HH", data[position : position + 4])
        if meta and group != 2:
            return
        vr = data[position + 4 : position + 6] if explicit else b""
        head = 12 if vr in _LONG else 8
        width = "I" if not explicit or vr in _LONG else "H"
        field = data[position + head - struct.calcsize(width) : position + head]
        if len(field) < struct.calcsize(width):
            return
        (length,) = struct.unpack(order + width, field)
        end = len(data) if length == _UNDEFINED else position + head + length
        yield _Element(group << 16 | number, vr, length, data[position + head : end])
        position = end


def _written(element: _Element, order: str) -> bytes:
    tag = struct.pack(order + "HH", element.tag >> 16, element.tag & 0xFFFF)
    if not element.vr:
        return tag + struct.pack(order + "I", element.length & _UNDEFINED) + element.value
    if element.vr in _LONG:
        return tag + element.vr + b"\0\0" + struct.pack(order + "I", element.length & _UNDEFINED) + element.value
    return tag + element.vr + struct.pack(order + "H", element.length & 0xFFFF) + element.value


def _with_value(element: _Element, value: bytes) -> _Element:
    value += b" " * (len(value) % 2)
    return replace(element, value=value, length=len(value))


def _value(body: list[_Element], rng: random.Random, order: str) -> list[_Element]:
    tag = 0x00280000 | rng.choice(_TAGS)
    index = next((i for i, element in enumerate(body) if element.tag == tag), rng.randrange(len(body)))
    numbers = struct.pack(order + "H", rng.choice(_NUMBERS)) * rng.choice((1, 1, 1, 2, 3))
    binary = body[index].vr in {b"US", b"SS", b""}
    changed = numbers if binary and rng.random() < 0.8 else rng.choice((*_TEXTS, rng.randbytes(4)))
    return [*body[:index], _with_value(body[index], changed), *body[index + 1 :]]


def _vr(body: list[_Element], rng: random.Random, _: str) -> list[_Element]:
    index = rng.randrange(len(body))
    return [*body[:index], replace(body[index], vr=rng.choice(_VRS)), *body[index + 1 :]]


def _length(body: list[_Element], rng: random.Random, _: str) -> list[_Element]:
    index = rng.randrange(len(body))
    length = rng.choice((0, 1, 3, body[index].length + 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, _UNDEFINED))
    return [*body[:index], replace(body[index], length=length), *body[index + 1 :]]


def _remove(body: list[_Element], rng: random.Random, _: str) -> list[_Element]:
    index = rng.randrange(len(body))
    return body[:index] + body[index + 1 :]


def _repeat(body: list[_Element], rng: random.Random, _: str) -> list[_Element]:
    index = rng.randrange(len(body))
    return body[:index] + [body[index]] * rng.choice((2, 50)) + body[index + 1 :]


def _swap(body: list[_Element], rng: random.Random, _: str) -> list[_Element]:
    changed = list(body)
    a, b = rng.randrange(len(body)), rng.randrange(len(body))
    changed[a], changed[b] = changed[b], changed[a]
    return changed


def _nest(body: list[_Element], rng: random.Random, order: str) -> list[_Element]:
    """Add a sequence within a sequence within a sequence, each of undefined length."""
    depth = rng.choice((3, 200, 2000))
    vr = b"SQ\0\0" if body[0].vr else b""
    opened = struct.pack(order + "HH", 0x0040, 0x0260) + vr + b"\xff" * 4
    item = struct.pack(order + "HHI", 0xFFFE, 0xE000, _UNDEFINED)
    nested = _Element(0x00400260, b"SQ" if vr else b"", _UNDEFINED, item + (opened + item) * depth)
    index = rng.randrange(len(body))
    return [*body[:index], nested, *body[index:]]


_DAMAGES = {
    "value": _value, "VR": _vr, "length": _length, "remove": _remove, "repeat": _repeat, "swap": _swap, "nest": _nest,
}  # fmt: skip


def _of_another_syntax(element: _Element, rng: random.Random) -> _Element:
    chosen = rng.choice([*AllTransferSyntaxes, "1.2.3", "x" * 64]).encode()
    return _with_value(element, chosen)


def _damaged_pixels(element: _Element, rng: random.Random) -> _Element:
    """Damage the picture inside: its fragments' lengths, or the compressed stream with right lengths around it."""
    # Offset table, then one fragment (its tag and length are 8 bytes), then the delimiter.
    start = 8 + int.from_bytes(element.value[4:8], "little")
    if element.length != _UNDEFINED or len(element.value) < start + 8:
        cut = element.value[: rng.randrange(len(element.value) or 1)]
        return _with_value(element, rng.choice((cut, element.value * 2, change_byte(element.value, rng))))
    length = int.from_bytes(element.value[start + 4 : start + 8], "little")
    stream = element.value[start + 8 : start + 8 + length]
    kind = rng.randrange(4)
    if kind == 0:
        return replace(element, value=change_byte(element.value[: start + 8], rng) + element.value[start + 8 :])
    if kind == 1 and stream.startswith(b"\xff\xd8"):
        stream, _ = damage_jpeg(stream, rng)
    else:  # headers decide what is allocated, so most of the damage goes there
        cut = min(len(stream), rng.choice((64, 200, len(stream))))
        stream = change_byte(stream[:cut], rng) + stream[cut:]
        if rng.random() < 0.3:
            stream = stream[: rng.randrange(len(stream))]
    stream += b"\0" * (len(stream) % 2)
    whole = element.value[:start] + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(stream)) + stream
    return replace(element, value=whole + b"\xfe\xff\xdd\xe0\0\0\0\0")
