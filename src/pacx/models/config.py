"""What an encoder is made of and what it wants to be fed: the content of its `config.json`.

Sizes are those of Dosovitskiy et al. 2021 (arXiv 2010.11929, Table 1: base, large, huge) and Touvron et al. 2021
(arXiv 2012.12877, Table 1: tiny, small).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pacx.errors import PacxError
from pacx.preprocess import Preprocess

__all__ = ["EncoderConfig", "EncoderSize"]

EncoderSize = Literal["tiny", "small", "base", "large", "huge"]
# width, depth, heads, patch size
SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (192, 12, 3, 16),
    "small": (384, 12, 6, 16),
    "base": (768, 12, 12, 16),
    "large": (1024, 24, 16, 16),
    "huge": (1280, 32, 16, 14),
}
FORMAT = "pacx-encoder-1"
MOST_PATCHES = 1 << 16
"""a grid of 256 x 256; a damaged image size would otherwise ask for all memory there is"""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything needed to rebuild an encoder and to feed it."""

    preprocess: Preprocess
    """Image size, geometry, mean and standard deviation of the pixels."""
    patch_size: int = 16
    """Edge of a square patch, pixels."""
    width: int = 768
    """Length of a token, and of the embedding."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads per block."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP over its width."""
    layer_norm_eps: float = 1e-6
    """Added to the variance in every LayerNorm."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: training data and split hashes, licence, parent weights. Free form, JSON."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "width", "depth", "heads"):
            _check_positive(name, getattr(self, name), int)
        for name in ("mlp_ratio", "layer_norm_eps"):
            _check_positive(name, getattr(self, name), (int, float))
        if self.preprocess.image_size % self.patch_size:
            raise PacxError(_no_whole_patches(self.preprocess.image_size, self.patch_size))
        if self.num_patches > MOST_PATCHES:
            raise PacxError(
                f"Image size {self.preprocess.image_size} has {self.num_patches} patches of edge {self.patch_size}; "
                f"allowed: at most {MOST_PATCHES}. Use smaller images or larger patches."
            )
        if not isinstance(self.provenance, dict) or not isinstance(self.provenance.get("changed", []), list):
            raise PacxError(
                f"Found provenance = {str(self.provenance)[:80]!r}; it is an object with entries, of "
                "which `changed` is a list."
            )
        if self.width % self.heads:
            raise PacxError(f"Width {self.width} cannot be shared by {self.heads} heads. Use a divisor of the width.")
        if self.width % 4:
            raise PacxError(f"Found width {self.width}; 2-D sine-cosine positions need a multiple of 4.")

    @classmethod
    def named(
        cls,
        size: EncoderSize,
        *,
        preprocess: Preprocess,
        patch_size: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> EncoderConfig:
        """Build one of the usual sizes; a number that is given replaces the size's own.

        Raises:
            PacxError: no such size, or numbers that do not fit together.
        """
        if size not in SIZES:
            raise PacxError(f"There is no encoder size {size!r}. Known sizes: {', '.join(SIZES)}.")
        usual_width, usual_depth, usual_heads, usual_patch_size = SIZES[size]
        return cls(
            preprocess,
            patch_size=usual_patch_size if patch_size is None else patch_size,
            width=usual_width if width is None else width,
            depth=usual_depth if depth is None else depth,
            heads=usual_heads if heads is None else heads,
            provenance=provenance or {},
        )

    @property
    def grid(self) -> int:
        """Patches along one edge of the image."""
        return self.preprocess.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches in an image."""
        return self.grid**2

    def noting(self, change: str) -> EncoderConfig:
        """Return the same configuration with a change to the weights noted in the provenance."""
        return replace(self, provenance={**self.provenance, "changed": [*self.provenance.get("changed", []), change]})

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `config.json`."""
        content = {item.name: copy.deepcopy(getattr(self, item.name)) for item in fields(self)}
        return {"format": FORMAT, **content, "preprocess": self.preprocess.to_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> EncoderConfig:
        """Read the content of `config.json`; nothing may be missing or left over.

        Raises:
            PacxError: not an encoder's configuration, of another version, or with missing, unknown or wrong entries.
        """
        if content.get("format") != FORMAT:
            raise PacxError(
                f"Found format {content.get('format')!r}; an encoder's configuration has {FORMAT!r}. "
                "Give the folder of a pacx encoder."
            )
        names = {item.name for item in fields(cls)}
        given = set(content) - {"format"}
        if given != names:
            raise PacxError(
                f"An encoder's configuration has exactly the keys {sorted(names)}. "
                f"Missing: {sorted(names - given) or 'none'}; unknown: {sorted(given - names) or 'none'}."
            )
        if not isinstance(content["preprocess"], dict):
            raise PacxError(f"Found preprocess = {content['preprocess']!r}; an encoder needs an object there.")
        preprocess = Preprocess.from_dict(content["preprocess"])
        return cls(**{**{name: content[name] for name in names}, "preprocess": preprocess})


def _check_positive(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:  # type: ignore[operator]
        wanted = "a positive whole number" if kind is int else "a positive number"
        raise PacxError(f"Found {name} = {value!r}; an encoder needs {wanted} there.")


def _no_whole_patches(size: int, patch: int) -> str:
    below = size // patch * patch
    allowed = f"{below} or {below + patch}" if below else f"at least {patch}"
    return f"Image size {size} is not a multiple of the patch size {patch}. Use {allowed}, or another patch size."
