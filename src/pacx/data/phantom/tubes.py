"""Path lengths through thin tubes along 3-D curves: ribs, vessels, airways, catheters, wires, letters.

A tube is cut into short straight pieces. A ray that passes a piece's axis at distance r spends
2 sqrt(R^2 - r^2) / sin(w) inside it, w being the angle between axis and ray; a hollow tube is the difference of two
solid ones, which is what gives bones their bright edges. All pieces of a picture are drawn together: each on a small
square patch of pixels, summed by one `bincount`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.data.phantom.projection import Beam, Doubles, Floats

__all__ = ["Tubes", "draw_tubes", "polyline"]

MAX_OBLIQUITY = 3.5
"""a curved tube seen end-on is at most so many times thicker than seen from the side"""
PIXELS_AT_ONCE = 100_000
"""keeps temporaries in the processor's cache"""
MIN_RADIUS_PIXELS = 0.8
"""thinner tubes are widened to this at equal cross-section, or they would fall between the pixel centres"""


@dataclass(frozen=True)
class Tubes:
    """N straight pieces of tubes; lengths in cm, attenuations in 1/cm."""

    start: Doubles
    """(N, 3)"""
    end: Doubles
    """(N, 3)"""
    radius: Doubles
    """(N,) outer radius"""
    wall: Doubles
    """(N,) attenuation of the wall, relative to what it displaces"""
    core: Doubles
    """(N,) attenuation of the core, relative to what it displaces"""
    hollow: Doubles
    """(N,) radius of the core as a fraction of the outer radius"""

    @staticmethod
    def none() -> Tubes:
        """Make an empty set."""
        flat, lone = np.empty((0, 3)), np.empty(0)
        return Tubes(flat, flat, lone, lone, lone, lone)

    @staticmethod
    def collect(parts: list[Tubes]) -> Tubes:
        """Put many sets of pieces into one."""
        fields = ("start", "end", "radius", "wall", "core", "hollow")
        return Tubes(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def polyline(
    points: Doubles, *, radius: ArrayLike, wall: ArrayLike, core: float | None = None, hollow: float = 0.0
) -> Tubes:
    """Make a tube along a curve.

    Args:
        points: (N + 1, 3) cm.
        radius: outer radius of all or of each of the N pieces.
        wall: attenuation of all or of each of the N pieces.
        core: attenuation of the core; that of the wall if not given.
        hollow: radius of the core over the outer radius.
    """
    count = len(points) - 1
    walls = np.broadcast_to(np.asarray(wall, np.float64), count)
    return Tubes(
        start=points[:-1],
        end=points[1:],
        radius=np.broadcast_to(np.asarray(radius, np.float64), count),
        wall=walls,
        core=walls if core is None else np.full(count, core),
        hollow=np.full(count, hollow),
    )


def draw_tubes(beam: Beam, tubes: Tubes) -> Floats:
    """Add up attenuation times path length over all tubes, (S, S)."""
    if len(tubes.radius) == 0:
        return np.zeros((beam.size, beam.size), np.float32)
    piece = _project(beam, tubes)
    visible = _visible(piece, beam.size)
    side = np.ceil(piece.length + 2 * piece.radius).astype(int) + 2
    # Patch sizes in steps of sqrt(2), so that there are few groups and each is a few vectorised steps.
    patches = np.ceil(2.0 ** (np.ceil(2 * np.log2(side)) / 2)).astype(int)
    margin = int(patches[visible].max(initial=1)) * 2
    width = beam.size + 2 * margin
    places, values = [np.zeros(1, np.intp)], [np.zeros(1, np.float32)]
    for patch in np.unique(patches[visible]).tolist():
        chosen = np.flatnonzero(visible & (patches == patch))
        for part in np.array_split(chosen, len(chosen) * patch * patch // PIXELS_AT_ONCE + 1):
            flat, value = _patches(piece.take(part), patch, margin, width)
            places.append(flat.ravel())
            values.append(value.ravel())
    canvas = np.bincount(np.concatenate(places), np.concatenate(values), minlength=width**2)
    inner = slice(margin, margin + beam.size)
    return np.asarray(canvas.reshape(width, width)[inner, inner], np.float32)


@dataclass(frozen=True)
class _Pieces:
    """Projected pieces: positions and lengths in pixels, amplitudes in attenuation times cm per pixel of chord."""

    u: Doubles
    v: Doubles
    along_u: Doubles
    along_v: Doubles
    length: Doubles
    radius: Doubles
    hollow: Doubles
    wall: Doubles
    core: Doubles

    def take(self, index: NDArray[np.intp]) -> _Pieces:
        return _Pieces(*(getattr(self, name)[index][:, None, None] for name in self.__dataclass_fields__))


def _project(beam: Beam, tubes: Tubes) -> _Pieces:
    u0, v0, magnification = beam.project(tubes.start)
    u1, v1, _ = beam.project(tubes.end)
    du, dv = (u1 - u0) / beam.pitch, (v1 - v0) / beam.pitch
    length = np.maximum(np.hypot(du, dv), 1e-6)
    scale = magnification / beam.pitch
    true_length = np.linalg.norm(tubes.end - tubes.start, axis=1) * scale
    obliquity = np.clip(true_length / length, 1.0, MAX_OBLIQUITY)
    radius = tubes.radius * scale
    drawn = np.maximum(radius, MIN_RADIUS_PIXELS)
    amplitude = 2.0 / scale * obliquity * (radius / drawn) ** 2
    return _Pieces(
        u=((u0 + u1) / 2 - beam.u[0]) / beam.pitch,
        v=((v0 + v1) / 2 - beam.v[0]) / beam.pitch,
        along_u=du / length,
        along_v=dv / length,
        length=length,
        radius=drawn,
        hollow=tubes.hollow,
        wall=tubes.wall * amplitude,
        core=(tubes.wall - tubes.core) * amplitude,
    )


def _visible(piece: _Pieces, size: int) -> NDArray[np.bool_]:
    reach = np.minimum(piece.length / 2 + piece.radius + 1, size)
    inside_u = (piece.u > -reach) & (piece.u < size + reach)
    return np.asarray(inside_u & (piece.v > -reach) & (piece.v < size + reach) & (piece.length < size))


def _patches(piece: _Pieces, patch: int, margin: int, width: int) -> tuple[NDArray[np.intp], Floats]:
    """Evaluate pieces on patches around their middles: flat canvas indices and what to add there, (N, patch, patch)."""
    offset = np.arange(patch) - (patch - 1) // 2
    cols = np.rint(piece.u).astype(int) + offset
    rows = np.rint(piece.v).astype(int) + offset[:, None]
    x, y = (cols - piece.u).astype(np.float32), (rows - piece.v).astype(np.float32)
    along_u, along_v = piece.along_u.astype(np.float32), piece.along_v.astype(np.float32)
    # Neighbouring pieces hand over linearly within one pixel, so that their sum has no seams.
    share = np.abs(x * along_u + y * along_v)
    np.subtract(piece.length.astype(np.float32) / 2 + np.float32(0.5), share, out=share)
    np.clip(share, 0.0, 1.0, out=share)
    across = x * along_v - y * along_u
    across *= across
    outer = piece.radius.astype(np.float32) ** 2
    value = np.sqrt(np.maximum(outer - across, 0.0)) * piece.wall.astype(np.float32)
    if np.any(piece.core):
        inner = outer * piece.hollow.astype(np.float32) ** 2
        value -= np.sqrt(np.maximum(inner - across, 0.0)) * piece.core.astype(np.float32)
    value *= share
    return (rows + margin) * width + (cols + margin), value
