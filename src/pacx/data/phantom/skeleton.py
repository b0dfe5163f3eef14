"""Bones: ribs, clavicles, scapulae, humeri as hollow tubes along 3-D curves; the spine as a column of boxes.

Attenuations are relative to the soft tissue that bone displaces. A rib runs from its vertebra back and outwards around
the cage and comes forward lower than it began; projected, this gives the flat posterior and the steep anterior arc.
"""

from __future__ import annotations

import numpy as np

from pacx.data.phantom.acquisition import Acquisition
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Beam, Doubles, Floats
from pacx.data.phantom.thorax import SIDES, Thorax, patient_stream
from pacx.data.phantom.tubes import Tubes, polyline

__all__ = ["curve", "draw_scapulae", "draw_spine", "rib_curve", "skeleton_tubes", "vertebra_level"]

CORTEX, MARROW = 0.44, 0.07
"""attenuation above soft tissue, 1/cm"""
NUM_RIBS = 11
RIB_END = np.array([0.86, 0.86, 0.84, 0.82, 0.80, 0.77, 0.74, 0.70, 0.64, 0.56, 0.40]) * np.pi
"""angle around the cage, from the spine, at which each bony rib ends in cartilage"""
RIB_DROP = np.array([3.2, 5.4, 7.0, 8.2, 9.0, 9.6, 10.0, 10.2, 10.2, 10.0, 9.5])
"""cm by which a rib would fall from the posterior to the anterior midline"""


def vertebra_level(number: float, scale: float) -> float:
    """Give y of the upper edge of thoracic vertebra `number` (1 = T1), cm; vertebrae grow downwards."""
    step = number - 1.0
    return (-10.6 + 1.98 * step + 0.035 * step**2) * scale


def curve(points: list[tuple[float, float, float]], *, num: int) -> Doubles:
    """Run a smooth curve (Catmull-Rom) through control points; returns (num, 3)."""
    knots = np.array([points[0], *points, points[-1]], np.float64)
    place = np.linspace(0, len(points) - 1 - 1e-9, num)
    index = place.astype(int)
    t = (place - index)[:, None]
    p0, p1, p2, p3 = (knots[index + shift] for shift in range(4))
    cubic = (3 * p1 - p0 - 3 * p2 + p3) * t**3 + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
    return np.asarray(0.5 * (2 * p1 + (p2 - p0) * t + cubic), dtype=np.float64)


def rib_curve(thorax: Thorax, rib: int, side: int, *, num: int = 36) -> Doubles:
    """Lay the centre line of one rib, from the spine forward.

    Args:
        thorax: the cage it encloses.
        rib: 0 to 10.
        side: -1 right, 1 left.
        num: points on the curve.

    Returns:
        (num, 3) cm.
    """
    air = float(np.clip(thorax.hyperinflation, -1.5, 3))
    spread = 1 + 0.012 * air
    top = vertebra_level(rib + 1.2, thorax.scale) * spread
    drop = RIB_DROP[rib] * thorax.scale * (1 - 0.05 * air)
    angle = np.linspace(0.0, RIB_END[rib], num)
    forward = (1 - np.cos(angle)) / 2
    y = top + drop * forward - 0.7 * np.sin(np.minimum(angle * 2.2, np.pi))
    half_width, half_depth = thorax.section(y)
    x = (half_width + 0.35) * np.sin(angle) ** 0.85
    z = -(half_depth + 0.35) * np.cos(angle)
    start = np.clip(x / (2.0 * thorax.scale), 0, 1)
    x = np.maximum(x, 1.6 * thorax.scale)
    z = np.where(start < 1, z + 0.8 * (1 - start), z)
    return np.stack([side * x, y, z], axis=1)


def skeleton_tubes(patient: Patient, acquisition: Acquisition, thorax: Thorax, *, displacement: float) -> Tubes:
    """Collect ribs, clavicles and the bones of the shoulder girdle.

    Args:
        patient: age, sex, and whether a rib is broken.
        acquisition: position of the arms.
        thorax: the cage.
        displacement: of a broken rib's ends, cm.
    """
    own = patient_stream(patient, "skeleton").normal(size=8)
    # Bone thins with age, in women more; hard beams are taken care of by the detector.
    density = (1 - 0.004 * max(patient.age - 50, 0) * (1.3 if patient.sex == "F" else 1.0)) * (1 + 0.08 * own[0])
    broken = _broken_rib(patient) if patient.rib_fracture else None
    parts = []
    for side in SIDES:
        for rib in range(NUM_RIBS):
            points = rib_curve(thorax, rib, side)
            if (rib, side) == broken:
                points = _break(points, patient, displacement)
            parts.append(_rib(points, rib, patient, density * (1 + 0.1 * own[1]), thorax.scale))
        parts.append(_clavicle(thorax, side, acquisition, density, own))
        parts += _shoulder(thorax, side, acquisition, density)
    return Tubes.collect(parts)


def _broken_rib(patient: Patient) -> tuple[int, int]:
    rng = patient_stream(patient, "fracture")
    return int(rng.integers(3, 8)), int(rng.choice(SIDES))


def _break(points: Doubles, patient: Patient, displacement: float) -> Doubles:
    """Step one end of a broken rib down and let it overlap the other, as after a fall on the side."""
    rng = patient_stream(patient, "fracture place")
    place = int(rng.uniform(0.28, 0.52) * len(points))
    broken = points.copy()
    after = np.arange(len(points) - place)
    broken[place:, 1] += displacement * np.exp(-after / (0.3 * len(points)))
    return broken


def _rib(points: Doubles, rib: int, patient: Patient, density: float, scale: float) -> Tubes:
    # Ribs are flat: half as thick as they are high. The cortex is thickest behind.
    along = np.linspace(0, 1, len(points) - 1)
    radius = (0.66 if 1 <= rib <= 8 else 0.55) * scale * (1 - 0.12 * along) * np.minimum(1, 0.75 + 3 * along)
    flat = 0.62 * (0.95 if patient.sex == "F" else 1.05)
    return polyline(
        points, radius=radius, wall=CORTEX * flat * density * (1 - 0.35 * along), core=MARROW * flat, hollow=0.8
    )


def _clavicle(thorax: Thorax, side: int, acquisition: Acquisition, density: float, own: Doubles) -> Tubes:
    k, w = thorax.scale, thorax.width
    raised = -1.1 * acquisition.arms - 0.4 * own[2] - (0.8 if acquisition.view == "AP" else 0.0)
    points = curve(
        [
            (side * 1.7 * w, -6.3 * k, 6.2 * k),
            (side * 5.0 * w, -7.2 * k + 0.2 * raised, 6.4 * k),
            (side * 9.5 * w, -8.6 * k + 0.7 * raised, 3.4 * k),
            (side * 13.0 * w, -9.3 * k + raised, 0.0),
            (side * 15.6 * w, -9.4 * k + 1.1 * raised, -1.2),
        ],
        num=32,
    )
    along = np.linspace(-1, 1, len(points) - 1)
    radius = k * (0.62 + 0.28 * along**4)
    return polyline(points, radius=radius, wall=CORTEX * 0.85 * density, core=MARROW * 1.3, hollow=0.72)


def _shoulder(thorax: Thorax, side: int, acquisition: Acquisition, density: float) -> list[Tubes]:
    """Edges of the scapula, its spine with the acromion, the coracoid, and the humerus."""
    corner = _scapula_corners(thorax, side, acquisition)
    k, w = thorax.scale, thorax.width
    # the shoulder's bones are thicker than the ribs
    wall = 1.35 * CORTEX * density
    inner, tip, socket = corner
    acromion = socket + np.array([side * 1.4, -2.6, 0.2]) * k
    parts = [
        polyline(
            _between(socket, tip, bow=0.5 * side, num=24), radius=0.5 * k, wall=wall * 0.8, core=MARROW, hollow=0.65
        ),
        polyline(_between(inner, tip, bow=-0.4 * side, num=24), radius=0.22 * k, wall=wall * 0.6),
        polyline(
            _between(inner + np.array([0, 2.0, 0]), acromion, bow=0.0, num=20),
            radius=0.42 * k,
            wall=wall * 0.5,
            core=0.02,
            hollow=0.6,
        ),
        polyline(
            _between(
                socket + np.array([-side * 1.0, -1.2, 1.0]), socket + np.array([-side * 0.4, 0.2, 3.5]), bow=0.0, num=8
            ),
            radius=0.6 * k,
            wall=wall * 0.6,
            core=MARROW,
            hollow=0.7,
        ),
        polyline(
            _between(socket + np.array([0, -1.8, 0]), socket + np.array([0, 1.8, 0]), bow=0.25 * side, num=10),
            radius=0.4 * k,
            wall=wall * 0.7,
            core=MARROW,
            hollow=0.6,
        ),
    ]
    spread = 0.12 + 0.9 * acquisition.arms
    head = socket + np.array([side * 2.3 * w, 0.0, 0.3])
    shaft = head + 18.0 * np.array([side * np.sin(spread), np.cos(spread), 0.05])
    points = _between(head + (head - shaft) * 0.11, shaft, bow=0.0, num=32)
    along = np.linspace(-0.11, 1, len(points) - 1) * 18.0
    # a ball of 2.3 cm that narrows to the shaft
    ball = np.sqrt(np.clip(2.3**2 - along**2, 0.02, None))
    radius = k * np.where(along < 1.2, ball, 1.15 + 0.8 * np.exp(-np.maximum(along - 1.2, 0) / 1.3))
    parts.append(polyline(points, radius=radius, wall=wall * 0.75, core=0.035, hollow=0.78))
    return parts


def _scapula_corners(thorax: Thorax, side: int, acquisition: Acquisition) -> tuple[Doubles, Doubles, Doubles]:
    """Place the upper inner corner, the lower tip and the socket; rolled off the lungs in PA, not in AP."""
    k, w = thorax.scale, thorax.width
    outwards = 2.4 if acquisition.view == "PA" else 0.0
    outwards += 1.2 * acquisition.arms
    inner = np.array([side * (8.4 * w + outwards), -7.6 * k, -8.0])
    tip = np.array([side * (9.6 * w + 1.5 * outwards), 6.2 * k - 0.8 * acquisition.arms, -8.6])
    socket = np.array([side * (14.3 * w + 0.35 * outwards), (-5.8 - 1.0 * acquisition.arms) * k, -2.6])
    return inner, tip, socket


def _between(first: Doubles, last: Doubles, *, bow: float, num: int) -> Doubles:
    along = np.linspace(0, 1, num)[:, None]
    return np.asarray(first + (last - first) * along + np.array([bow, 0, 0]) * np.sin(np.pi * along), dtype=np.float64)


def draw_scapulae(beam: Beam, thorax: Thorax, acquisition: Acquisition) -> Floats:
    """Draw the thin blades between the edges, (S, S) attenuation."""
    picture = np.zeros((beam.size, beam.size), np.float32)
    for side in SIDES:
        u, v, _ = beam.project(np.stack(_scapula_corners(thorax, side, acquisition)))
        rows = slice(*np.searchsorted(beam.v, [v.min(), v.max()]).tolist())
        cols = slice(*np.searchsorted(beam.u, [u.min(), u.max()]).tolist())
        inside = np.full((rows.stop - rows.start, cols.stop - cols.start), np.inf, np.float32)
        turn = np.sign((u[1] - u[0]) * (v[2] - v[0]) - (v[1] - v[0]) * (u[2] - u[0]))
        for i in range(3):
            du, dv = u[(i + 1) % 3] - u[i], v[(i + 1) % 3] - v[i]
            distance = (du * (beam.v[rows, None] - v[i]) - dv * (beam.u[cols] - u[i])) * turn / np.hypot(du, dv)
            inside = np.minimum(inside, distance.astype(np.float32))
        picture[rows, cols] += np.float32(0.055) * np.clip(inside / 0.4 + 0.5, 0, 1)
    return picture


def draw_spine(beam: Beam, patient: Patient, thorax: Thorax) -> Floats:
    """Draw vertebral bodies with end plates, pedicles, spinous processes and transverse processes, (S, S) attenuation.

    The column is flat enough to be drawn in the plane of its centre, seen through the beam's perspective.
    """
    picture = np.zeros((beam.size, beam.size), np.float32)
    k = thorax.scale
    own = patient_stream(patient, "spine").normal(size=6)
    edges, _, _ = beam.project(np.array([[-5.5 * k, 4.0, -6.5], [5.5 * k, 4.0, -6.5]]))
    cols = slice(*np.searchsorted(beam.u, np.sort(edges)).tolist())
    if cols.stop <= cols.start:
        return picture
    x, y = _in_plane(beam, cols, depth=-6.5)
    bend = 0.35 * own[0] * np.sin(y / 9.0 + own[1]) * k
    step = (np.sqrt(np.maximum(1.98**2 + 4 * 0.035 * (y / k + 10.6), 0.4)) - 1.98) / 0.07
    phase = step - np.floor(step)
    half = (1.35 + 0.045 * np.clip(step, -3, 16)) * k
    waist = half * (0.93 + 0.28 * (phase - 0.5) ** 2)
    across = np.abs(x - bend) / waist
    body = np.clip((phase - 0.08) / 0.06, 0, 1) * np.clip((0.94 - phase) / 0.06, 0, 1)
    plate = np.exp(-(((phase - 0.13) / 0.035) ** 2)) + np.exp(-(((phase - 0.89) / 0.035) ** 2))
    round_section = np.sqrt(np.clip(1 - across**2, 0, 1))
    inside = np.clip((1 - across) * half / 0.12, 0, 1)
    rim = np.exp(-(((across - 0.96) / 0.06) ** 2))
    bone = body * (0.24 * round_section + 0.06 * inside + 0.05 * rim) + 0.09 * plate * inside
    # pedicles are rings, spinous processes drops on the midline, transverse processes stubs at the rib heads
    pedicle = np.hypot((np.abs(x - bend) - 0.68 * half) / (0.36 * k), (phase - 0.36) / 0.17)
    bone += 0.10 * np.exp(-(((pedicle - 1) / 0.3) ** 2))
    process = np.hypot((x - bend - 0.1 * own[2]) / (0.3 * k), (phase - 0.72) / 0.3)
    bone += 0.17 * np.clip(1.15 - process, 0, 0.4) / 0.4
    stub = np.exp(-(((phase - 0.3) / 0.12) ** 2)) * np.clip((2.9 * k - np.abs(x - bend)) / (0.4 * k), 0, 1)
    bone += 0.07 * stub
    density = 1 - 0.005 * max(patient.age - 50, 0)
    picture[:, cols] = bone * np.float32(0.62 * density)
    return picture


def _in_plane(beam: Beam, cols: slice, *, depth: float) -> tuple[Floats, Floats]:
    """Find x and y where the rays of some columns cross the frontal plane z = depth, each (S, columns) cm."""
    foot = beam.origin - beam.source
    across, down = beam.right.astype(np.float32), beam.down.astype(np.float32)
    u, v = beam.u[cols], beam.v[:, None]
    dx, dy, dz = (np.float32(foot[i]) + across[i] * u + down[i] * v for i in range(3))
    reach = np.float32(depth - beam.source[2]) / dz
    return np.float32(beam.source[0]) + reach * dx, np.float32(beam.source[1]) + reach * dy
