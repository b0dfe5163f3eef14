# ruff: noqa: F722
"""Random changes to an image that depend on (seed, epoch, image id) and on nothing else.

Every image has one vector of uniform numbers: the hash (SHAKE-128) of seed, epoch and image id, read as fractions. So
the same image looks the same in the same epoch whatever the batch size, the order, the number of workers or the machine
it is drawn on. Each change reads its own places of that vector: switching one on does not alter what the others do.

Order: crop, flip and resize (whole batches, `pacx.data.resample`), affine, brightness, contrast, blur, normalise,
erase. A mask goes through the same crop, flip and affine, with nearest-neighbour sampling, and is never erased.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from pacx.data.resample import Boxes, mirror, resize, resize_masks
from pacx.errors import PacxError

__all__ = ["Augment", "change", "draw"]

Range = tuple[float, float]
Doubles = npt.NDArray[np.float64]

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

    def is_plain(self) -> bool:
        """Say whether an image is at most cropped, mirrored and erased."""
        return self.affine_probability == 0 and self.jitter_probability == 0 and self.blur_probability == 0


def draw(*, seed: int, epochs: Sequence[int], image_ids: Sequence[str]) -> Doubles:
    """Draw the uniform numbers in [0, 1) that decide everything for some images, each in its epoch; (B, 56)."""
    keys = (f"{seed}:{epoch}:{image_id}".encode() for epoch, image_id in zip(epochs, image_ids, strict=True))
    bits = b"".join(hashlib.shake_128(key).digest(8 * _NUM_DRAWS) for key in keys)
    return (np.frombuffer(bits, dtype="<u8").reshape(-1, _NUM_DRAWS) >> 11).astype(np.float64) * 2.0**-53


def change(
    pixels: UInt8[Tensor, "B S S"],
    masks: Bool[Tensor, "B S S"] | None,
    *,
    size: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    augment: Augment,
    drawn: Doubles,
) -> tuple[Float[Tensor, "B C T T"], Float[Tensor, "B 1 T T"] | None]:
    """Resize, change and normalise.

    Args:
        pixels: stored images, 0 to 255.
        masks: the masks that go with them.
        size: edge T of the result.
        mean: subtracted from values in [0, 1], one number per channel.
        std: what they are then divided by, likewise.
        augment: what to change.
        drawn: the output of `draw`.

    Returns:
        The normalised images, and the masks as 0 and 1.
    """
    boxes = _crops(drawn, edge=pixels.shape[-1], augment=augment)
    truths = None if masks is None else resize_masks(masks, boxes, size=size)
    # These two are decided by settings, never by what is drawn: an image must not depend on the others in its batch.
    whole = augment.crop_scale is None and pixels.shape[-1] == size
    if augment.is_plain() and not whole:
        images = resize(pixels, boxes, size=size, mean=mean, std=std)
    else:
        images = mirror(pixels, boxes.mirrored) if whole else resize(pixels, boxes, size=size)
        _change_some(images, truths, augment, drawn)
        images = (images - torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])
    _erase(images, augment, drawn)
    return images, truths


def _change_some(
    images: Float[Tensor, "B 1 T T"], truths: Float[Tensor, "B 1 T T"] | None, augment: Augment, drawn: Doubles
) -> None:
    """Bend, expose and blur those that it falls to, in place."""
    for position in np.flatnonzero(drawn[:, _AFFINE.start] < augment.affine_probability):
        turn = drawn[position, _AFFINE][1:]
        images[position] = _affine(images[position], augment, turn, tv.InterpolationMode.BILINEAR)
        if truths is not None:
            truths[position] = _affine(truths[position], augment, turn, tv.InterpolationMode.NEAREST)
    for position in np.flatnonzero(drawn[:, _JITTER.start] < augment.jitter_probability):
        images[position] = _jitter(images[position], augment, drawn[position, _JITTER][1:])
    for position in np.flatnonzero(drawn[:, _BLUR.start] < augment.blur_probability):
        sigma = float(_between(drawn[position, _BLUR][1], (0.1, 2.0)))
        images[position] = tv.gaussian_blur(images[position], [5, 5], [sigma, sigma])


def _erase(images: Float[Tensor, "B C T T"], augment: Augment, drawn: Doubles) -> None:
    """Set a box of normalised images to 0, in place, with the augmentation's probability."""
    chosen = np.flatnonzero(drawn[:, _ERASE.start] < augment.erase_probability)
    boxes = _draw_boxes(drawn[chosen, _ERASE][:, 1:], edge=images.shape[-1], area=(0.02, 0.1), ratio=(0.3, 3.3))
    for position, (top, left, height, width) in zip(chosen, boxes.T, strict=True):
        images[position, :, top : top + height, left : left + width] = 0.0


def _crops(drawn: Doubles, *, edge: int, augment: Augment) -> Boxes:
    boxes = Boxes.whole(len(drawn), edge=edge)
    if augment.crop_scale is not None:
        found = _draw_boxes(drawn[:, _CROP], edge=edge, area=augment.crop_scale, ratio=augment.crop_ratio)
        top, left, height, width = np.where(found[2] > 0, found, boxes[:4])  # none fits: the whole image
        boxes = boxes._replace(top=top, left=left, height=height, width=width)
    if augment.flip:
        boxes = boxes._replace(mirrored=drawn[:, _FLIP] < 0.5)
    return boxes


def _draw_boxes(drawn: Doubles, *, edge: int, area: Range, ratio: Range) -> npt.NDArray[np.int64]:
    """Choose boxes: area uniform, log of the aspect ratio uniform, the first of 10 tries that fits; then a place.

    This is the distribution of torchvision's `RandomResizedCrop` and `RandomErasing`.

    Returns:
        (4, B): top, left, height, width; zeros where none of the tries fits.
    """
    share = _between(drawn[:, 0 : 2 * _ATTEMPTS : 2], area)
    shape = np.exp(_between(drawn[:, 1 : 2 * _ATTEMPTS : 2], (math.log(ratio[0]), math.log(ratio[1]))))
    height, width = np.rint(edge * np.sqrt(share / shape)), np.rint(edge * np.sqrt(share * shape))
    fits = (height > 0) & (height <= edge) & (width > 0) & (width <= edge)
    first = (np.arange(len(drawn)), fits.argmax(axis=1))
    sizes = np.stack([height[first], width[first]]) * fits.any(axis=1)
    places = np.floor(drawn[:, -2:].T * (edge - sizes + 1)) * fits.any(axis=1)
    return np.concatenate([places, sizes]).astype(np.int64)


def _affine(
    x: Float[Tensor, "1 T T"], augment: Augment, drawn: Doubles, interpolation: tv.InterpolationMode
) -> Float[Tensor, "1 T T"]:
    reach = augment.translate * x.shape[-1]
    moved: Tensor = tv.affine(
        x,
        angle=float(_between(drawn[0], (-augment.rotate, augment.rotate))),
        translate=[round(shift) for shift in _between(drawn[1:3], (-reach, reach)).tolist()],
        scale=float(_between(drawn[3], augment.scale_jitter or (1.0, 1.0))),
        shear=[0.0, 0.0],
        interpolation=interpolation,
        fill=0.0,
    )
    return moved


def _jitter(image: Float[Tensor, "1 T T"], augment: Augment, drawn: Doubles) -> Float[Tensor, "1 T T"]:
    """Brightness, then contrast (torchvision draws their order too; the difference is nil to the eye)."""
    brightness = float(_between(drawn[0], (1.0 - augment.brightness, 1.0 + augment.brightness)))
    contrast = float(_between(drawn[1], (1.0 - augment.contrast, 1.0 + augment.contrast)))
    bright = (image * brightness).clamp_(0.0, 1.0)
    middle = bright.mean()
    return ((bright - middle) * contrast + middle).clamp_(0.0, 1.0)


def _between(u: Doubles, limits: Range) -> Doubles:
    return limits[0] + u * (limits[1] - limits[0])
