"""Find images that are copies of each other: mirrored, brighter, of another contrast, re-encoded, a little turned.

Two perceptual fingerprints of an image, neither of which sees its gray scale:

* **coarse**: 16 x 16 pixels, each replaced by its rank among the 256, so that every increasing change of the gray scale
  leaves it as it is; less the mean over all images, which chest X-rays share; scaled to length 1.
* **fine**: 64 x 64 pixels less their local mean (7 x 7), over their local deviation (15 x 15): ribs, vessels and wires,
  not shape; scaled to length 1.

A pair is a copy if both inner products, which are correlations, reach their limits. The coarse one is compared for all
pairs by matrix products, 1,024 operations a pair; the fine one where the coarse one is high. Mirrored copies are found
by comparing with mirrored fingerprints.

What this finds and what it takes for a copy by mistake is measured by `python -m benchmarks.near_duplicates`. Crops,
and turns beyond a few degrees, are missed: then the pixels no longer lie on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from pacx.data.store import Store
from pacx.preprocess import fit_square

__all__ = ["COARSE", "FINE", "Copy", "Fingerprints", "find_copies", "fingerprints", "joined"]

COARSE, FINE = 0.9, 0.8
"""correlations from which on two images count as copies"""

_COARSE_EDGE, _FINE_EDGE = 16, 64
_BLOCK = 2048
"""images compared at once with as many others"""


class Fingerprints(NamedTuple):
    """Of some images."""

    coarse: npt.NDArray[np.float32]
    """(N, 256), ranks from 0 to 255"""
    fine: npt.NDArray[np.float16]
    """(N, 4096), of length 1; half precision, since they are many"""


class Copy(NamedTuple):
    """Two images that are copies of each other, by their numbers."""

    first: int
    second: int
    correlation: float
    """of the fine fingerprints"""
    mirrored: bool


def fingerprints(store: Store, rows: npt.NDArray[np.int64]) -> Fingerprints:
    """Compute the fingerprints of a store's images.

    Args:
        store: has images.
        rows: (N,) rows with an image.
    """
    assert store.images is not None
    coarse = np.empty((len(rows), _COARSE_EDGE**2), dtype=np.float32)
    fine = np.empty((len(rows), _FINE_EDGE**2), dtype=np.float16)
    for place, row in enumerate(rows):
        gray = np.asarray(store.images[row], dtype=np.float32) / np.float32(255)
        coarse[place] = _ranks(fit_square(gray, _COARSE_EDGE))
        fine[place] = _detail(fit_square(gray, _FINE_EDGE))
    return Fingerprints(coarse, fine)


def find_copies(of: Fingerprints, *, coarse: float = COARSE, fine: float = FINE) -> Iterator[Copy]:
    """Compare all images with each other.

    Args:
        of: their fingerprints.
        coarse: least correlation of the coarse ones.
        fine: least correlation of the fine ones.

    Yields:
        Pairs with first < second, each once: straight if that fits better, else mirrored.
    """
    mean = of.coarse.mean(axis=0, dtype=np.float64).astype(np.float32) if len(of.coarse) > 1 else 0.0
    straight, mirrored = _unit(of.coarse - mean), _unit(_mirror(of.coarse) - mean)
    for start in range(0, len(straight), _BLOCK):
        for other in range(start, len(straight), _BLOCK):
            block = slice(start, start + _BLOCK), slice(other, other + _BLOCK)
            best: dict[tuple[int, int], Copy] = {}
            for is_mirrored, against in ((False, straight), (True, mirrored)):
                alike = np.argwhere(straight[block[0]] @ against[block[1]].T >= coarse) + np.array([start, other])
                for copy in _confirmed(of.fine, alike[alike[:, 0] < alike[:, 1]], mirrored=is_mirrored, fine=fine):
                    known = best.get((copy.first, copy.second))
                    if known is None or copy.correlation > known.correlation:
                        best[copy.first, copy.second] = copy
            yield from best.values()


def _confirmed(
    details: npt.NDArray[np.float16], pairs: npt.NDArray[np.int64], *, mirrored: bool, fine: float
) -> Iterator[Copy]:
    """Yield those of the pairs (n, 2) whose details agree."""
    for part in np.array_split(pairs, len(pairs) // _BLOCK + 1):
        first, second = (details[part[:, side]].astype(np.float32) for side in (0, 1))
        correlations = np.einsum("ij,ij->i", first, _mirror(second) if mirrored and len(second) else second)
        for place in np.flatnonzero(correlations >= fine):
            yield Copy(int(part[place, 0]), int(part[place, 1]), float(correlations[place]), mirrored)


def _ranks(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return pixels.ravel().argsort(kind="stable").argsort(kind="stable").astype(np.float32)


def _detail(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    detail = pixels - uniform_filter(pixels, 7)
    deviation = np.sqrt(np.maximum(uniform_filter(detail * detail, 15), 0.0))
    scaled = (detail / (deviation + 0.01)).ravel()
    centred = scaled - scaled.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6), dtype=np.float32)


def _mirror(flat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mirror square pictures that lie in rows."""
    edge = round(flat.shape[1] ** 0.5)
    return np.ascontiguousarray(flat.reshape(-1, edge, edge)[:, :, ::-1]).reshape(flat.shape)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.float32(1e-6)), dtype=np.float32)


def joined(parts: Sequence[Fingerprints]) -> Fingerprints:
    """Put fingerprints of several stores one after the other."""
    return Fingerprints(np.concatenate([one.coarse for one in parts]), np.concatenate([one.fine for one in parts]))
