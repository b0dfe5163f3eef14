"""Refuses small files that would keep a decoder busy for minutes; the size in the header says nothing about them.

Each limit lies far above what scanners, archives and image programs write, and keeps a file of some megabytes within
about a second:

* JPEG scans: a progressive file sends the picture in about ten scans, each of which is a pass over the whole picture.
  An empty one takes 36 bytes, so a file of 400 kB can ask for 10,000 passes. `MAX_PASSES` pictures of the size limit
  are allowed, so a small picture may have more scans than a large one.
* JPEG Exif blocks: Pillow joins them anew for each one, which is quadratic.
* PNG chunks: Pillow looks at each in Python, and inflates up to 1 MB for each colour profile.
* TIFF pages: Pillow compares each with all that came before, which is quadratic too.
* DICOM fragments: pydicom looks at each in Python, twice.
"""

from __future__ import annotations

from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pacx.data.pixels import ImageError

__all__ = ["check_fragments", "check_length", "check_metadata", "check_scans", "count_pages"]

MAX_PASSES = 16
MAX_EXIF_BLOCKS = 64
MAX_PROFILES = 16
MAX_CHUNKS = 100_000
MAX_PAGES = 1000
MAX_FRAGMENTS = 100_000

_SCAN = b"\xff\xda"  # cannot occur within compressed pixels, where 0xFF is followed by 0 or a restart
_ITEM = b"\xfe\xff\x00\xe0"


def check_metadata(data: bytes, kind: str) -> None:
    """Refuse a PNG or JPEG with absurdly much beside its pixels, before it is opened.

    Raises:
        ImageError: there is too much.
    """
    if kind == "JPEG":
        _limit(data.count(b"Exif\0\0"), MAX_EXIF_BLOCKS, "Exif blocks")
    if kind == "PNG":
        profiles, chunks = _count_chunks(data)
        _limit(profiles, MAX_PROFILES, "colour profiles")
        _limit(chunks, MAX_CHUNKS, "chunks")


def _count_chunks(data: bytes) -> tuple[int, int]:
    """Return how many colour profiles and how many chunks a PNG has; counting stops where there are too many."""
    profiles = chunks = 0
    position = 8
    while position + 8 <= len(data) and chunks <= MAX_CHUNKS:
        chunks += 1
        profiles += data[position + 4 : position + 8] == b"iCCP"
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return profiles, chunks


def check_scans(data: bytes, *, pixels: int, max_pixels: int) -> None:
    """Refuse a JPEG that passes over its pixels too often.

    Raises:
        ImageError: it does.
    """
    scans = data.count(_SCAN)
    if scans * pixels > MAX_PASSES * max_pixels:
        raise ImageError(
            f"It sends {pixels:,} pixels in {scans:,} scans; allowed: {MAX_PASSES * max_pixels // pixels:,} for a "
            "picture of that size. No camera or archive writes so many."
        )


def check_length(data: bytes, *, pixels: int) -> None:
    """Refuse a JPEG that is too short for its pixels; a decoder would fill the rest with gray.

    Each block of 8 x 8 takes a bit or more with Huffman's code, which all but a few JPEGs use.

    Raises:
        ImageError: it is.
    """
    needed = pixels // (64 * 8)
    if len(data) < needed:
        raise ImageError(
            f"It is truncated: its header says {pixels:,} pixels, which take at least {needed:,} bytes, and "
            f"{len(data):,} are there."
        )


def check_fragments(pixel_data: bytes) -> None:
    """Refuse compressed DICOM pixels in absurdly many pieces.

    Raises:
        ImageError: there are too many.
    """
    _limit(pixel_data.count(_ITEM), MAX_FRAGMENTS, "fragments of compressed pixels")


def count_pages(image: ImageFile) -> int:
    """Count the pages of a TIFF, or the frames of anything else, and go back to the first.

    Raises:
        ImageError: there are too many.
    """
    if not isinstance(image, TiffImageFile):
        return int(getattr(image, "n_frames", 1))
    for page in range(1, MAX_PAGES + 1):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return page
    raise ImageError(f"It has more than {MAX_PAGES:,} pages; allowed: up to that.")


def _limit(found: int, allowed: int, what: str) -> None:
    if found > allowed:
        raise ImageError(f"It has more than {allowed:,} {what}; no camera, scanner or archive writes so many.")
