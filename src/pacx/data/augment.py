# ruff: noqa: F722
"""Random changes to an image that depend on (seed, epoch, image id) and on nothing else.

Every image draws one vector of uniform numbers from a counter-based generator (Philox) whose key is the hash of seed,
epoch and image id. So the same image looks the same in the same epoch whatever the batch size, the order, the number
of workers or the machine it is drawn on. Each change reads its own places of that vector: switching one on does not
alter what the others do.

Order: crop and resize, flip, affine, brightness, contrast, blur, normalise, erase. A mask goes through the same crop,
flip and affine, with nearest-neighbour sampling, and is never erased.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from pacx.errors import PacxError

__all__ = ["Augment", "change", "draw", "erase"]

Range = tuple[float, float]

_ATTEMPTS = 10
# Places in the vector of uniform numbers.
_CROP = slice(0, 2 * _ATTEMPTS + 2)
_FLIP = 22
_AFFINE = slice(23, 28)
_JITTER = slice(28, 31)
_BLUR = slice(31, 33)
_ERASE = slice(33, 34 + 2 * _ATTEMPTS + 2)
_NUM_DRAWS = 56


@dataclass(frozen=True)
class Augment:
    """Which random changes, and how strong. The default changes nothing.

    Flipping mirrors the heart to the right side; it is left off wherever laterality matters (distillation).
    """

    crop_scale: Range | None = None
    """share of the image area that a random crop keeps; None = no crop"""
    crop_ratio: Range = (3 / 4, 4 / 3)
    """width / height of the crop before it is resized to a square"""
    flip: bool = False
    """mirror left and right with probability 1/2"""
    affine_probability: float = 0.0
    """probability of rotation, shift and scaling together"""
    rotate: float = 0.0
    """largest rotation, degrees to either side"""
    translate: float = 0.0
    """largest shift, share of the edge"""
    scale_jitter: Range | None = None
    """range of the scaling factor"""
    jitter_probability: float = 0.0
    """probability of brightness and contrast changes together"""
    brightness: float = 0.0
    """factor drawn from 1 - b to 1 + b"""
    contrast: float = 0.0
    """factor on the distance from the image mean, drawn from 1 - c to 1 + c"""
    blur_probability: float = 0.0
    """probability of a Gaussian blur, 5 x 5 kernel, sigma .1 to 2 pixels"""
    erase_probability: float = 0.0
    """probability that a box of 2 to 10 % of the area is set to the mean (0 after normalisation)"""

    def __post_init__(self) -> None:
        for name in ("affine_probability", "jitter_probability", "blur_probability", "erase_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise PacxError(f"{name} is {getattr(self, name)}; a probability lies between 0 and 1.")
        if self.crop_scale is not None and not 0.0 < self.crop_scale[0] <= self.crop_scale[1] <= 1.0:
            raise PacxError(f"crop_scale is {self.crop_scale}; give two shares of the area, 0 < low <= high <= 1.")
        for name in ("crop_ratio", "scale_jitter"):
            limits = getattr(self, name)
            if limits is not None and not 0.0 < limits[0] <= limits[1]:
                raise PacxError(f"{name} is {limits}; give two factors, 0 < low <= high.")

    @classmethod
    def none(cls) -> Augment:
        """Change nothing: evaluation."""
        return cls()

    @classmethod
    def pretrain(cls, *, flip: bool = True) -> Augment:
        """Masked pre-training: a crop of 50 to 100 % of the area, and a flip."""
        return cls(crop_scale=(0.5, 1.0), flip=flip)

    @classmethod
    def distill(cls) -> Augment:
        """Distillation: mild changes of geometry and exposure, a box erased, no flip."""
        return cls(
            crop_scale=(0.75, 1.0),
            crop_ratio=(0.85, 1.15),
            affine_probability=0.6,
            rotate=10.0,
            translate=0.1,
            scale_jitter=(0.9, 1.1),
            jitter_probability=0.3,
            brightness=0.2,
            contrast=0.2,
            blur_probability=0.15,
            erase_probability=0.25,
        )

    @classmethod
    def supervised(cls) -> Augment:
        """Classification: a flip."""
        return cls(flip=True)

    @classmethod
    def segment(cls) -> Augment:
        """Segmentation: a flip and a rotation of up to 10 degrees."""
        return cls(flip=True, affine_probability=1.0, rotate=10.0)

    def is_none(self) -> bool:
        """Say whether nothing is ever changed."""
        off = (self.crop_scale is None, not self.flip, self.affine_probability == 0, self.jitter_probability == 0)
        return all(off) and self.blur_probability == 0 and self.erase_probability == 0


def draw(*, seed: int, epoch: int, image_id: str) -> npt.NDArray[np.float64]:
    """Draw the uniform numbers in [0, 1) that decide everything for one image in one epoch."""
    key = hashlib.blake2b(f"{seed}:{epoch}:{image_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(_NUM_DRAWS)


def change(
    pixels: UInt8[Tensor, "S S"],
    mask: Bool[Tensor, "S S"] | None,
    *,
    size: int,
    augment: Augment,
    drawn: npt.NDArray[np.float64],
) -> tuple[Float[Tensor, "1 T T"], Float[Tensor, "1 T T"] | None]:
    """Apply every change that comes before normalisation.

    Args:
        pixels: one stored image.
        mask: the mask that goes with it.
        size: edge T of the result.
        augment: what to change.
        drawn: the output of `draw`.

    Returns:
        The image in [0, 1], and the mask as 0 and 1.
    """
    if augment.crop_scale is not None:
        box = _box(drawn[_CROP], edge=len(pixels), area=augment.crop_scale, ratio=augment.crop_ratio)
        if box is not None:  # no box fits in 10 attempts: the whole image
            pixels = pixels[box]
            mask = mask if mask is None else mask[box]
    image = _resize(pixels.float().div_(255.0)[None], size, mode="bilinear")
    truth = None if mask is None else _resize(mask.float()[None], size, mode="nearest-exact")
    if augment.flip and drawn[_FLIP] < 0.5:
        image, truth = image.flip(-1), None if truth is None else truth.flip(-1)
    if drawn[_AFFINE][0] < augment.affine_probability:
        image = _affine(image, augment, drawn[_AFFINE][1:], tv.InterpolationMode.BILINEAR)
        truth = None if truth is None else _affine(truth, augment, drawn[_AFFINE][1:], tv.InterpolationMode.NEAREST)
    if drawn[_JITTER][0] < augment.jitter_probability:
        image = _jitter(image, augment, drawn[_JITTER][1:])
    if drawn[_BLUR][0] < augment.blur_probability:
        sigma = _between(drawn[_BLUR][1], (0.1, 2.0))
        image = tv.gaussian_blur(image, [5, 5], [sigma, sigma])
    return image, truth


def erase(image: Float[Tensor, "C T T"], *, augment: Augment, drawn: npt.NDArray[np.float64]) -> None:
    """Set a box of a normalised image to 0, in place, with the augmentation's probability."""
    if drawn[_ERASE][0] < augment.erase_probability:
        box = _box(drawn[_ERASE][1:], edge=image.shape[-1], area=(0.02, 0.1), ratio=(0.3, 3.3))
        if box is not None:
            image[(slice(None), *box)] = 0.0


def _box(drawn: npt.NDArray[np.float64], *, edge: int, area: Range, ratio: Range) -> tuple[slice, slice] | None:
    """Choose a box: area uniform, log of the aspect ratio uniform, the first of 10 tries that fits; then a place.

    This is the distribution of torchvision's `RandomResizedCrop` and `RandomErasing`.
    """
    for attempt in range(_ATTEMPTS):
        share = _between(drawn[2 * attempt], area)
        shape = math.exp(_between(drawn[2 * attempt + 1], (math.log(ratio[0]), math.log(ratio[1]))))
        height, width = round(edge * math.sqrt(share / shape)), round(edge * math.sqrt(share * shape))
        if 0 < height <= edge and 0 < width <= edge:
            top, left = (int(u * (edge - n + 1)) for u, n in zip(drawn[-2:], (height, width), strict=True))
            return slice(top, top + height), slice(left, left + width)
    return None


def _resize(x: Float[Tensor, "1 H W"], size: int, *, mode: str) -> Float[Tensor, "1 T T"]:
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x[None], size=(size, size), mode=mode, antialias=mode == "bilinear")[0]


def _affine(
    x: Float[Tensor, "1 T T"], augment: Augment, drawn: npt.NDArray[np.float64], interpolation: tv.InterpolationMode
) -> Float[Tensor, "1 T T"]:
    reach = augment.translate * x.shape[-1]
    moved: Tensor = tv.affine(
        x,
        angle=_between(drawn[0], (-augment.rotate, augment.rotate)),
        translate=[round(_between(u, (-reach, reach))) for u in drawn[1:3]],
        scale=_between(drawn[3], augment.scale_jitter or (1.0, 1.0)),
        shear=[0.0, 0.0],
        interpolation=interpolation,
        fill=0.0,
    )
    return moved


def _jitter(image: Float[Tensor, "1 T T"], augment: Augment, drawn: npt.NDArray[np.float64]) -> Float[Tensor, "1 T T"]:
    """Brightness, then contrast (torchvision draws their order too; the difference is nil to the eye)."""
    brightness = _between(drawn[0], (1.0 - augment.brightness, 1.0 + augment.brightness))
    contrast = _between(drawn[1], (1.0 - augment.contrast, 1.0 + augment.contrast))
    bright = (image * brightness).clamp_(0.0, 1.0)
    middle = bright.mean()
    return ((bright - middle) * contrast + middle).clamp_(0.0, 1.0)


def _between(u: float, limits: Range) -> float:
    return float(limits[0] + u * (limits[1] - limits[0]))
