"""From attenuation to picture: scatter, quantum noise, blur, automatic exposure, display curve, collimation."""

from __future__ import annotations

import numpy as np

from pacx.data.phantom.acquisition import Acquisition
from pacx.data.phantom.projection import Floats
from pacx.data.phantom.texture import enlarge

__all__ = ["box_blur", "detect", "smooth"]

DISPLAY_WIDTH = 3.5
"""range of the logarithmic signal that fills the display at contrast 1"""


def detect(
    attenuation: Floats, acquisition: Acquisition, rng: np.random.Generator, *, expected: tuple[float, float]
) -> Floats:
    """Expose the detector and develop the picture.

    Args:
        attenuation: (S, S) line integrals at 110 kVp.
        acquisition: how it is exposed.
        rng: quantum noise.
        expected: attenuation of aerated chest and of abdomen in a healthy patient of this thickness. The radiographer
            sets the display by the patient's size, so that disease, unlike habitus, changes the gray of the lungs.

    Returns:
        (S, S) in [0, 1], bright = dense.
    """
    size = attenuation.shape[0]
    centre = slice(size // 5, size - size // 5)
    primary = np.exp(-np.float32(acquisition.hardness) * attenuation)
    # Automatic exposure control: the chamber behind the chest always collects the same dose.
    dose = float(np.exp(-acquisition.hardness * attenuation[centre, centre]).mean())
    scattered = _scatter(np.minimum(primary, 4 * dose)) * np.float32(acquisition.scatter)
    photons = (primary + scattered) * np.float32(acquisition.exposure * (224 / size) ** 2 / dose)
    counted = _poisson(photons, rng)
    counted = smooth(counted, acquisition.sharpness * size / 224)
    signal = -np.log(counted * np.float32(dose / acquisition.exposure / (224 / size) ** 2))
    level = (signal - _expected_signal(acquisition, expected)) * np.float32(
        acquisition.contrast / DISPLAY_WIDTH
    ) + np.float32(acquisition.brightness)
    return _collimate(_display_curve(level), acquisition)


def _expected_signal(acquisition: Acquisition, expected: tuple[float, float]) -> np.float32:
    """Predict the logarithmic signal half-way between healthy lung and abdomen, scatter included."""
    primary = np.exp(-acquisition.hardness * np.array(expected))
    return np.float32(-np.log(primary + 0.6 * acquisition.scatter * primary[0]).mean())


def _poisson(mean: Floats, rng: np.random.Generator) -> Floats:
    """Draw counts with variance equal to the mean through the square root, which stabilises it (Anscombe, 1948).

    One normal draw per pixel: the noise of a pixel stays what it was when the anatomy changes elsewhere.
    """
    root = np.sqrt(mean) + np.float32(0.5) * rng.standard_normal(mean.shape, dtype=np.float32)
    return np.asarray(np.maximum(root, 0.0) ** 2 + np.float32(0.5), np.float32)


def _display_curve(level: Floats) -> Floats:
    """Film-like curve: a toe for air, a shoulder for bone; 0, between lung and abdomen, is shown at 0.75."""
    toe = np.float32(1.5) * np.minimum(level + np.float32(0.62), 0)
    toe += np.float32(2.5) * np.minimum(level + np.float32(0.95), 0)
    return np.asarray(1 / (1 + np.exp(-(np.float32(3.3) * (level + toe) + np.float32(1.1)))), np.float32)


def _scatter(primary: Floats) -> Floats:
    """Spread the primary radiation widely; computed on an 8 times coarser grid, where nothing of it is lost."""
    size = primary.shape[0]
    step = max(size // 28, 1)
    coarse = primary[: size // step * step, : size // step * step]
    coarse = coarse.reshape(size // step, step, size // step, step).mean(axis=(1, 3), dtype=np.float32)
    spread = box_blur(box_blur(coarse, 3), 3)
    return enlarge(spread, size)


def box_blur(image: Floats, radius: int) -> Floats:
    """Average over squares of 2 radius + 1 pixels, edges repeated; two passes are close to a Gaussian."""
    for axis in (0, 1):
        padded = np.pad(image, [(radius + 1, radius) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
        total = np.cumsum(padded, axis=axis, dtype=np.float64)
        width = 2 * radius + 1
        upper, lower = np.arange(width, total.shape[axis]), np.arange(total.shape[axis] - width)
        image = ((total.take(upper, axis) - total.take(lower, axis)) / width).astype(np.float32)
    return image


def smooth(image: Floats, sigma: float) -> Floats:
    """Blur by a three-tap kernel of the given standard deviation in pixels (at most 0.8)."""
    side = np.float32(min(sigma, 0.8) ** 2 / 2)
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
        before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        image = np.asarray(image * (1 - 2 * side) + side * (before + after), np.float32)
    return image


def _collimate(picture: Floats, acquisition: Acquisition) -> Floats:
    if acquisition.border == "none":
        return picture
    size = picture.shape[0]
    left, right, top, bottom = (round(margin * size) for margin in acquisition.collimation)
    shown = np.zeros((size, size), bool)
    shown[top : size - bottom, left : size - right] = True
    outside = 0.02 if acquisition.border == "black" else 0.97
    return np.asarray(np.where(shown, picture, np.float32(outside)), np.float32)
