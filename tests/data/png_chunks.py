"""PNG files as lists of chunks; joining them computes the CRCs anew."""

from __future__ import annotations

import struct
import zlib

__all__ = ["SIGNATURE", "join_chunks", "split_chunks"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def split_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (name, content) of each chunk of a well-formed file."""
    chunks, position = [], len(SIGNATURE)
    while position + 8 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def join_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Write chunks with right lengths and CRCs."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
