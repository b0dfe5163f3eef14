"""A diverging X-ray beam and its exact path lengths through ellipsoids.

Everything is in the patient's frame, in cm: x to the patient's left (image right), y down, z forward. A ray runs from
the point source S to a detector pixel P(u, v) = P0 + u e_u + v e_v and is written S + t (P - S), 0 <= t <= 1.

An ellipsoid is |A (x - c)| <= 1. With q = A (S - c) and m = A (P - S), which is linear in (u, v), a ray meets it where

    a t^2 + 2 b t + k <= 0,    a = |m|^2,  b = q.m,  k = |q|^2 - 1,    t = (-b -+ sqrt(b^2 - a k)) / a.

The discriminant b^2 - a k is a quadratic polynomial of (u, v): the shadow is a conic, whose centre and bounding box are
known in closed form, so only the pixels inside the shadow are visited. Its coefficients are formed in double precision
about the conic's centre and evaluated in single precision. The line integral of a Gaussian blob follows from the same
polynomials: the squared distance of a ray from the centre, in the blob's own units, is 1 - (b^2 - a k) / a.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Beam", "Ellipsoid", "Floats", "Interval", "join", "meet", "rotation_matrix"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def rotation_matrix(*, roll: float = 0.0, yaw: float = 0.0, pitch: float = 0.0) -> Doubles:
    """Rotate about z (roll), then y (yaw), then x (pitch).

    Args:
        roll: radians in the frontal plane; positive turns the x axis towards y (patient's left side down).
        yaw: radians about the vertical axis.
        pitch: radians about the left-right axis.
    """
    (cr, sr), (cy, sy), (cp, sp) = ((np.cos(angle), np.sin(angle)) for angle in (roll, yaw, pitch))
    about_z = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    return np.asarray(about_x @ about_y @ about_z, dtype=np.float64)


@dataclass(frozen=True)
class Ellipsoid:
    """A solid ellipsoid; lengths in cm, angles in radians (see `rotation_matrix`)."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    """half-axes"""
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def whitening(self) -> Doubles:
        """Give the matrix A with |A (x - c)| <= 1 inside."""
        rotation = rotation_matrix(roll=self.roll, yaw=self.yaw, pitch=self.pitch)
        return np.asarray(rotation.T / np.array(self.axes)[:, None], dtype=np.float64)

    def inside(self, points: ArrayLike, *, margin: float = 1.0) -> NDArray[np.bool_]:
        """Say which points (N, 3) lie within `margin` times the half-axes."""
        offsets = np.asarray(points, dtype=np.float64) - np.array(self.centre)
        return np.asarray(((offsets @ self.whitening().T) ** 2).sum(-1) <= margin**2)


class Interval(NamedTuple):
    """Where rays are inside a convex body: ray parameters, each (S, S); near > far where they miss it."""

    near: Floats
    far: Floats

    @property
    def hit(self) -> NDArray[np.bool_]:
        """The body's shadow, (S, S)."""
        return np.asarray(self.far > self.near)


def meet(first: Interval, second: Interval) -> Interval:
    """Intersect two convex bodies along every ray (exact)."""
    return Interval(np.maximum(first.near, second.near), np.minimum(first.far, second.far))


def join(first: Interval, second: Interval) -> Interval:
    """Unite two bodies along every ray, and whatever lies between them; exact where they touch."""
    return Interval(np.minimum(first.near, second.near), np.maximum(first.far, second.far))


class _Conic(NamedTuple):
    """Polynomials of one ellipsoid's shadow on the pixels of its bounding box."""

    rows: slice
    cols: slice
    discriminant: Floats
    a: Floats
    b: Floats


@dataclass(frozen=True)
class Beam:
    """Point source and flat square detector, seen from the patient."""

    source: Doubles
    """(3,) cm"""
    origin: Doubles
    """(3,) cm, the detector point u = v = 0"""
    right: Doubles
    """(3,) unit vector of +u, towards the image's right"""
    down: Doubles
    """(3,) unit vector of +v, towards the image's bottom"""
    u: Floats
    """(S,) cm, pixel centres"""
    v: Floats
    """(S,) cm, pixel centres"""

    @property
    def size(self) -> int:
        """Pixels along one edge."""
        return len(self.u)

    @property
    def pitch(self) -> float:
        """Pixel spacing on the detector in cm."""
        return float(self.u[1] - self.u[0])

    @cached_property
    def ray_length(self) -> Floats:
        """Source-to-pixel distance in cm, (S, S): turns ray parameters into path lengths."""
        foot = self.origin - self.source
        along, across = float(foot @ self.right), float(foot @ self.down)
        rest = float(foot @ foot) - along**2 - across**2
        return np.asarray(np.sqrt(((self.u + along) ** 2)[None] + ((self.v + across) ** 2 + rest)[:, None]), np.float32)

    def length(self, interval: Interval) -> Floats:
        """Measure the path inside a body in cm, (S, S); 0 where a ray misses it."""
        return np.asarray(np.maximum(interval.far - interval.near, 0.0) * self.ray_length, np.float32)

    def trace(self, *bodies: Ellipsoid) -> Interval:
        """Intersect every ray with ellipsoids that touch each other along the rays (joined as by `join`)."""
        near = np.full((self.size, self.size), np.inf, np.float32)
        far = np.full((self.size, self.size), -np.inf, np.float32)
        for body in bodies:
            conic = self._conic(body, reach=1.0)
            if conic is None:
                continue
            window = (conic.rows, conic.cols)
            root = np.sqrt(np.maximum(conic.discriminant, 0.0))
            hit = conic.discriminant > 0
            inverse = 1.0 / conic.a
            np.minimum(near[window], (-conic.b - root) * inverse, out=near[window], where=hit)
            np.maximum(far[window], (root - conic.b) * inverse, out=far[window], where=hit)
        return Interval(near, far)

    def thickness(self, body: Ellipsoid) -> Floats:
        """Measure the path through one ellipsoid in cm, (S, S)."""
        path = np.zeros((self.size, self.size), np.float32)
        conic = self._conic(body, reach=1.0)
        if conic is not None:
            chord = 2.0 * np.sqrt(np.maximum(conic.discriminant, 0.0)) / conic.a
            path[conic.rows, conic.cols] = chord * self.ray_length[conic.rows, conic.cols]
        return path

    def blob(self, body: Ellipsoid) -> Floats:
        """Integrate exp(-|A (x - c)|^2 / 2) along every ray, (S, S) in cm; the axes are standard deviations."""
        path = np.zeros((self.size, self.size), np.float32)
        conic = self._conic(body, reach=3.5)
        if conic is not None:
            distance = 1.0 - conic.discriminant / conic.a
            profile = np.exp(-0.5 * distance) / np.sqrt(conic.a)
            path[conic.rows, conic.cols] = np.sqrt(2 * np.pi) * profile * self.ray_length[conic.rows, conic.cols]
        return path

    def project(self, points: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Throw points (..., 3) on the detector.

        Returns:
            u, v in cm and the magnification of lengths parallel to the detector, each (...).
        """
        normal = np.cross(self.right, self.down)
        offsets = points - self.source
        stretch = float((self.origin - self.source) @ normal) / (offsets @ normal)
        landing = offsets * stretch[..., None] - (self.origin - self.source)
        return landing @ self.right, landing @ self.down, stretch

    def _conic(self, body: Ellipsoid, *, reach: float) -> _Conic | None:
        """Form the shadow's polynomials on its bounding box, `reach` times the half-axes wide; None if out of view."""
        whitening = body.whitening()
        q = whitening @ (self.source - np.array(body.centre))
        m = whitening @ np.stack([self.right, self.down, self.origin - self.source], axis=1)
        gram, slope = m.T @ m, q @ m
        form = np.outer(slope, slope) - (q @ q - 1.0) * gram
        bounds = np.outer(slope, slope) - (q @ q - reach**2) * gram
        rows_cols = self._bounding_box(bounds)
        if rows_cols is None:
            return None
        rows, cols = rows_cols
        u, v = self.u[cols], self.v[rows, None]
        centre_u, centre_v = np.linalg.solve(form[:2, :2], -form[:2, 2])
        peak = form[2] @ np.array([centre_u, centre_v, 1.0])
        du, dv = (u - centre_u).astype(np.float32), (v - centre_v).astype(np.float32)
        return _Conic(
            rows, cols, _quadratic(form, peak, du, dv), _quadratic_about_zero(gram, u, v), _linear(slope, u, v)
        )

    def _bounding_box(self, form: Doubles) -> tuple[slice, slice] | None:
        curvature = -form[:2, :2]
        determinant = curvature[0, 0] * curvature[1, 1] - curvature[0, 1] ** 2
        if curvature[0, 0] <= 0 or determinant <= 0:
            return None
        centre = np.linalg.solve(curvature, form[:2, 2])
        peak = float(form[2] @ np.array([*centre, 1.0]))
        if peak <= 0:
            return None
        half_u, half_v = np.sqrt(peak * np.array([curvature[1, 1], curvature[0, 0]]) / determinant)
        rows = self._pixels(self.v, float(centre[1] - half_v), float(centre[1] + half_v))
        cols = self._pixels(self.u, float(centre[0] - half_u), float(centre[0] + half_u))
        return None if rows.start >= rows.stop or cols.start >= cols.stop else (rows, cols)

    @staticmethod
    def _pixels(axis: Floats, low: float, high: float) -> slice:
        first, last = np.searchsorted(axis, [low, high])
        return slice(int(first), int(last))


def _quadratic(form: Doubles, peak: float, du: Floats, dv: Floats) -> Floats:
    along = np.float32(form[0, 0]) * du * du
    across = np.float32(form[1, 1]) * dv * dv + np.float32(peak)
    return np.asarray(along + across + (np.float32(2 * form[0, 1]) * dv) * du, np.float32)


def _quadratic_about_zero(form: Doubles, u: Floats, v: Floats) -> Floats:
    along = np.float32(form[0, 0]) * u * u + np.float32(2 * form[0, 2]) * u
    across = np.float32(form[1, 1]) * v * v + np.float32(2 * form[1, 2]) * v + np.float32(form[2, 2])
    return np.asarray(along + across + (np.float32(2 * form[0, 1]) * v) * u, np.float32)


def _linear(slope: Doubles, u: Floats, v: Floats) -> Floats:
    return np.asarray(np.float32(slope[0]) * u + (np.float32(slope[1]) * v + np.float32(slope[2])), np.float32)
