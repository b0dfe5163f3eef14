"""Simulated chest radiographs: closed-form line integrals through a patient's anatomy, then a detector.

The order of a picture:

1. `thorax.build_thorax` shapes lungs, diaphragm, heart, vessels and trunk as ellipsoids from habitus, breath and the
   severities. The same patient has the same anatomy in every image (random streams are keyed by the patient's id).
2. `projection.Beam` sends diverging rays through them. Along each ray the lung is the pleural space minus the
   diaphragm, minus heart and mediastinum, minus fluid: intervals, cut and joined exactly. Heart and organ borders arise
   where soft tissue takes the place of air, as in a real image.
3. Bones, vessels, airways and wires are tubes along 3-D curves (`tubes`).
4. `detector` adds scatter, quantum noise, blur, automatic exposure, a display curve and the collimator.

PA and AP differ by geometry alone: an AP detector lies behind the patient and the source is near, so the heart, which
lies in front, is magnified more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacx.data.phantom.acquisition import Acquisition, sample_acquisition
from pacx.data.phantom.detector import detect
from pacx.data.phantom.findings import (
    Visibility,
    aerated_space,
    opacity_in_lung,
    sample_visibility,
    septal_lines,
    solid_nodule,
)
from pacx.data.phantom.hardware import place_hardware
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Beam, Ellipsoid, Floats, Interval, join, meet, rotation_matrix
from pacx.data.phantom.skeleton import draw_scapulae, draw_spine, skeleton_tubes
from pacx.data.phantom.texture import value_noise
from pacx.data.phantom.thorax import SIDES, Thorax, bowel_gas, build_thorax
from pacx.data.phantom.tubes import Tubes, draw_tubes
from pacx.data.phantom.vessels import airway_tubes, vessel_tubes

__all__ = ["Acquisition", "Radiograph", "aim", "render", "sample_acquisition"]

TISSUE, LUNG = 0.185, 0.055
"""attenuation of soft tissue and of aerated lung at 110 kVp, 1/cm"""
NODULE = 0.19
"""attenuation of a nodule above aerated lung, 1/cm: soft tissue with some calcium"""


@dataclass(frozen=True)
class Radiograph:
    """A simulated image and where its organs are."""

    pixels: Floats
    """(S, S) in [0, 1], bright = dense"""
    lungs: NDArray[np.bool_]
    """(S, S) pleural spaces that nothing else overlaps: above the domes, beside heart, mediastinum and spine.
    Consolidated or fluid-filled parts belong to them, the lung behind heart and liver does not"""
    heart: NDArray[np.bool_]
    """(S, S) the shadow of the four chambers and the outflow tract, also where the diaphragm overlaps it"""
    body: NDArray[np.bool_]
    """(S, S) the shadow of trunk, neck and arms: all that is not seen through air alone. Heart and lungs are in it"""


def render(patient: Patient, acquisition: Acquisition, *, size: int, rng: np.random.Generator) -> Radiograph:
    """Take a chest X-ray.

    Args:
        patient: whom.
        acquisition: how.
        size: pixels along one edge.
        rng: how well each finding shows, and the quantum noise.
    """
    visibility = sample_visibility(rng)
    thorax = build_thorax(patient, acquisition)
    beam = aim(thorax, acquisition, size=size)
    heart = beam.trace(*thorax.heart)
    core = join(heart, beam.trace(*thorax.mediastinum))
    column = beam.trace(thorax.column)
    torso, arms = beam.trace(*thorax.torso), [beam.trace(arm) for arm in thorax.arms]
    tissue = _tissue(beam, torso, arms, bowel_gas(patient, acquisition, thorax))
    lungs = np.zeros((size, size), bool)
    air = np.zeros((size, size), np.float32)
    for side in SIDES:
        space = beam.trace(*thorax.lungs[side])
        below = beam.trace(thorax.domes[side], thorax.crura, thorax.abdomen)
        lungs |= space.hit & ~below.hit & ~core.hit & ~column.hit
        floating = aerated_space(patient, thorax, visibility, side)
        if floating is not None:
            space = meet(space, beam.trace(floating))
        air += _length_outside(beam, space, (below, core, column))
    attenuation = _assemble(beam, patient, acquisition, thorax, visibility, tissue, air)
    return Radiograph(
        detect(attenuation, acquisition, rng, expected=_healthy_attenuation(thorax)),
        lungs=lungs,
        heart=heart.hit,
        body=np.logical_or.reduce([torso.hit, *(arm.hit for arm in arms)]),
    )


def aim(thorax: Thorax, acquisition: Acquisition, *, size: int) -> Beam:
    """Set up source and detector around the patient."""
    front = 1.0 if acquisition.view == "PA" else -1.0
    plane = front * (thorax.depth + 2.5)
    across, down = acquisition.shift
    origin = np.array([across, down, plane])
    source = origin + np.array([0.0, np.tan(acquisition.tilt) * acquisition.distance, -front * acquisition.distance])
    to_patient = rotation_matrix(roll=acquisition.roll, yaw=-acquisition.rotation).T
    grid = (((np.arange(size) + 0.5) / size - 0.5) * acquisition.field).astype(np.float32)
    return Beam(
        source=to_patient @ source,
        origin=to_patient @ origin,
        right=to_patient[:, 0],
        down=to_patient[:, 1],
        u=grid,
        v=grid,
    )


def _healthy_attenuation(thorax: Thorax) -> tuple[float, float]:
    """Give the attenuation expected through aerated chest and through abdomen at this thickness."""
    thickness, lung = 1.9 * thorax.depth, 13.0 * thorax.scale
    return TISSUE * (thickness - lung) + LUNG * lung, TISSUE * thickness


def _tissue(beam: Beam, torso: Interval, arms: Sequence[Interval], gas: Sequence[Ellipsoid]) -> Floats:
    """Measure the path inside the patient's skin less the gas in stomach and bowel, (S, S) cm."""
    total = beam.length(torso)
    for arm in arms:
        total += beam.length(arm) - beam.length(meet(arm, torso))
    for bubble in gas:
        total -= np.float32(0.85) * beam.thickness(bubble)
    return np.maximum(total, 0.0)


def _length_outside(beam: Beam, space: Interval, bodies: tuple[Interval, Interval, Interval]) -> Floats:
    """Measure the path inside a space and outside of three bodies, (S, S) cm, by inclusion and exclusion."""
    first, second, third = (meet(space, body) for body in bodies)
    both = meet(first, second)
    path = beam.length(space) - beam.length(first) - beam.length(second) - beam.length(third)
    path += beam.length(both) + beam.length(meet(first, third)) + beam.length(meet(second, third))
    path -= beam.length(meet(both, third))
    return np.asarray(np.maximum(path, 0.0), np.float32)


def _assemble(
    beam: Beam,
    patient: Patient,
    acquisition: Acquisition,
    thorax: Thorax,
    visibility: Visibility,
    tissue: Floats,
    air: Floats,
) -> Floats:
    """Sum all attenuations along the rays, (S, S)."""
    texture = np.random.default_rng([acquisition.seed, 7])
    filled = opacity_in_lung(beam, patient, acquisition, thorax, visibility)
    # Opacities fill the air there is and no more; the exponential makes the limit smooth.
    open_lung = air * np.exp(-filled / np.maximum(air, 0.5))
    grain = value_noise(beam.size, texture, octaves=(28, 56, 112))
    lung = LUNG * (1 - 0.06 * np.clip(patient.hyperinflation, -1.5, 4)) * (1 + np.float32(0.05) * grain)
    muscle = 1 + np.float32(0.012) * value_noise(beam.size, texture, octaves=(5, 10, 40))
    total = np.float32(TISSUE) * (tissue - open_lung) * muscle + lung * open_lung
    in_lung = np.minimum(open_lung / 4, 1)
    total += in_lung * draw_tubes(
        beam, Tubes.collect([vessel_tubes(patient, acquisition, thorax), septal_lines(patient, thorax, visibility)])
    )
    nodule = solid_nodule(patient, thorax, visibility)
    if nodule is not None:
        total += np.float32(NODULE) * beam.thickness(nodule) * in_lung
    total += draw_tubes(beam, airway_tubes(thorax, patient)) * np.clip(1 - open_lung / 8, 0, 1)
    displacement = float(np.clip(1.1 + 0.2 * visibility.fracture, 0.6, 1.6))
    bones = skeleton_tubes(patient, acquisition, thorax, displacement=displacement)
    hardware = place_hardware(beam, patient, acquisition, thorax)
    total += draw_tubes(beam, Tubes.collect([bones, hardware.tubes]))
    total += draw_spine(beam, patient, thorax) + draw_scapulae(beam, thorax, acquisition) + hardware.draw_solids(beam)
    return np.asarray(np.maximum(total, 0.0), np.float32)
