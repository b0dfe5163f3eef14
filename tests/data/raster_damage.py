"""Damage to PNG, JPEG and TIFF files that gets past checksums and lengths.

Each function returns the damaged file and the name of the damage. What cannot be taken apart any more, since it was
damaged before, comes back with a byte changed.
"""

from __future__ import annotations

import random
import struct
import zlib

from tests.data.png_chunks import SIGNATURE, join_chunks, split_chunks

__all__ = ["damage_jpeg", "damage_png", "damage_tiff"]

_SIZES = (0, 1, 2, 35, 37, 1000, 8000, 9999, 10_001, 32_768, 60_000, 65_500, 65_535)


def damage_png(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage chunks and compute their CRCs anew."""
    chunks = split_chunks(data) if data.startswith(SIGNATURE) else []
    if not chunks:
        return change_byte(data, rng), "change byte"
    what = rng.choice(("IHDR", "IHDR", "pixels", "pixels", "content", "remove", "repeat", "swap", "insert", "rename"))
    index = rng.randrange(len(chunks))
    name, content = chunks[index]
    if what == "IHDR":
        chunks[0] = (chunks[0][0], _png_header(chunks[0][1], rng))
    elif what == "pixels":
        chunks = [(name, _recompressed(content, rng) if name == b"IDAT" else content) for name, content in chunks]
    elif what == "content":
        chunks[index] = (name, change_byte(content, rng))
    elif what == "remove":
        del chunks[index]
    elif what == "repeat":
        chunks[index:index] = [(name, content)] * rng.choice((1, 3, 200))
    elif what == "swap":
        other = rng.randrange(len(chunks))
        chunks[index], chunks[other] = chunks[other], chunks[index]
    elif what == "insert":
        chunks.insert(rng.randint(0, len(chunks)), _png_extra(rng))
    else:
        chunks[index] = (
            rng.choice((b"IEND", b"IDAT", b"PLTE", b"tRNS", b"fdAT", b"\0\0\0\0", name.swapcase())),
            content,
        )
    return join_chunks(chunks), f"PNG {what}"


def _png_header(content: bytes, rng: random.Random) -> bytes:
    header = bytearray(content.ljust(13, b"\0"))
    field = rng.randrange(6)
    if field < 2:
        size = rng.choice((*_SIZES, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        header[4 * field : 4 * field + 4] = struct.pack(">I", size)
    else:
        header[6 + field] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 32, 255))
    return bytes(header)


def _recompressed(content: bytes, rng: random.Random) -> bytes:
    try:
        lines = zlib.decompress(content)
    except zlib.error:
        return change_byte(content, rng)
    changed = rng.choice((lines[: len(lines) // 2], lines * 50, b"", change_byte(lines, rng), b"\xff" + lines))
    return zlib.compress(changed)


def _png_extra(rng: random.Random) -> tuple[bytes, bytes]:
    bomb = zlib.compress(bytes(2**20))
    return rng.choice(
        (
            (b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 6, 300)))),
            (b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 768, 3000)))),
            (b"iCCP", b"name\0\0" + bomb),
            (b"zTXt", b"name\0\0" + bomb),
            (b"iTXt", b"name\0\1\0\0\0" + bomb),
            (b"eXIf", b"II*\0\x08\0\0\0" + rng.randbytes(40)),
            (b"pHYs", rng.randbytes(rng.choice((0, 9)))),
            (b"gAMA", b""),
            (b"acTL", struct.pack(">II", rng.choice((0, 1, 0x7FFFFFFF)), 0)),
            (b"fcTL", rng.randbytes(26)),
        )
    )


def damage_jpeg(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage segments: lengths, order, frame header, tables, scans."""
    segments, rest = _jpeg_segments(data)
    if not segments:
        return change_byte(data, rng), "change byte"
    what = rng.choice(
        ("frame", "frame", "length", "content", "remove", "repeat", "swap", "marker", "scans", "restarts")
    )
    index = rng.randrange(len(segments))
    marker, content = segments[index]
    if what == "frame":
        segments = [(m, _jpeg_frame(c, rng) if m in {0xC0, 0xC1, 0xC2, 0xC3} else c) for m, c in segments]
    elif what == "length":
        whole = _joined_segments(segments, rest)
        start = whole.find(bytes([0xFF, marker])) + 2
        length = struct.pack(">H", rng.choice((0, 1, 2, 3, 255, 0x7FFF, 0xFFFF)))
        return whole[:start] + length + whole[start + 2 :], "JPEG length"
    elif what == "content":
        segments[index] = (marker, change_byte(content, rng))
    elif what == "remove":
        del segments[index]
    elif what == "repeat":
        segments[index:index] = [(marker, content)] * rng.choice((1, 5, 100))
    elif what == "swap":
        other = rng.randrange(len(segments))
        segments[index], segments[other] = segments[other], segments[index]
    elif what == "marker":
        segments[index] = (rng.randrange(0xC0, 0x100), content)
    elif what == "scans":
        last = rest.rfind(b"\xff\xda")
        scan = rest[last:] if last >= 0 else _joined_segments(segments[-1:], rest)[2:]
        rest += scan * rng.choice((1, 40))
    else:
        for _ in range(3):
            at = rng.randint(0, len(rest))
            rest = rest[:at] + bytes([0xFF, rng.randrange(0xD0, 0xE0)]) + rest[at:]
    return _joined_segments(segments, rest), f"JPEG {what}"


def _jpeg_frame(content: bytes, rng: random.Random) -> bytes:
    frame = bytearray(content.ljust(6, b"\0"))
    field = rng.randrange(5)
    if field < 2:
        frame[1 + 2 * field : 3 + 2 * field] = struct.pack(">H", rng.choice(_SIZES))
    elif field == 2:
        frame[0] = rng.choice((0, 1, 2, 7, 12, 16, 255))
    elif field == 3:
        frame[5] = rng.choice((0, 1, 2, 3, 4, 255))
    else:
        frame[rng.randrange(6, len(frame)) if len(frame) > 6 else 0] = rng.choice((0, 0x11, 0x41, 0x44, 0xFF))
    return bytes(frame)


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return (marker, content) up to the first scan, and the rest, which begins with the pixels of that scan."""
    segments: list[tuple[int, bytes]] = []
    position = 2
    while data.startswith(b"\xff\xd8") and position + 4 <= len(data) and data[position] == 0xFF:
        marker, (length,) = data[position + 1], struct.unpack(">H", data[position + 2 : position + 4])
        segments.append((marker, data[position + 4 : position + 2 + length]))
        position += 2 + max(length, 2)
        if marker == 0xDA:
            break
    return segments, data[position:]


def _joined_segments(segments: list[tuple[int, bytes]], rest: bytes) -> bytes:
    written = (bytes([0xFF, marker]) + struct.pack(">H", (len(c) + 2) & 0xFFFF) + c for marker, c in segments)
    return b"\xff\xd8" + b"".join(written) + rest


def damage_tiff(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damage an entry of the first directory: its tag, type, count or value; or the link to the next directory."""
    if len(data) < 16 or data[:2] not in {b"II", b"MM"}:
        return change_byte(data, rng), "change byte"
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in {b"\x2b\0", b"\0\x2b"}
    start = struct.unpack(order + ("Q" if big else "I"), data[8:16] if big else data[4:8])[0]
    head, size, word = (8, 20, "Q") if big else (2, 12, "I")
    if start + head + size > len(data):
        return change_byte(data, rng), "change byte"
    count = struct.unpack(order + ("Q" if big else "H"), data[start : start + head])[0]
    count = min(count, (len(data) - start - head) // size)
    if count < 1:
        return change_byte(data, rng), "change byte"
    changed = bytearray(data)
    entry = start + head + size * rng.randrange(count)
    what = rng.choice(("tag", "type", "count", "value", "value", "next"))
    number = rng.choice((*_SIZES, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    if what == "tag":
        tag = rng.choice(
            (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347)
        )
        struct.pack_into(order + "H", changed, entry, tag)
    elif what == "type":
        struct.pack_into(order + "H", changed, entry + 2, rng.choice((0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 255)))
    elif what == "count":
        struct.pack_into(order + word, changed, entry + 4, number)
    elif what == "value":
        struct.pack_into(order + word, changed, entry + 4 + struct.calcsize(word), number)
    else:
        link = start + head + size * count
        target = rng.choice((start, number, len(data) - 8))
        changed[link : link + struct.calcsize(word)] = struct.pack(order + word, target)
    return bytes(changed), f"TIFF {what}"


def change_byte(data: bytes, rng: random.Random) -> bytes:
    """Give one byte another value; a file without bytes gets one."""
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    return bytes(changed)
