"""Take a plain vision transformer out of a file, name by name, and refuse what is more or less than one.

Ours has a class token, one table of positions, pre-norm blocks with biases, and a final norm. A file is taken if these
are all there and all that is left over is on its format's list of parts that are no encoder (decoders, heads). Weights
of anything else change what the network computes: dropping them would give other features without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.weights import name_some

__all__ = ["Wanted", "find_depth", "find_prefix", "take", "vit_names"]

Wanted = Mapping[str, tuple[str, ...]]
"""timm's name of each tensor -> its name in the file; several are stacked, as queries, keys and values are"""

_IN_BLOCKS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_FOREIGN = (
    (r"reg_tokens?\b|register_tokens", "register tokens"),
    (r"dist_token|distillation_token|head_dist", "a distillation token"),
    (r"\.ls[12]\.|\bgamma_[12]\b|layer_scale|lambda1", "layer scale"),
    (r"[qk]_norm|norm_[qk]\b", "normalised queries and keys"),
    (r"fc_norm", "a norm after pooling the patches, in place of a class token"),
    (r"norm_pre|ln_pre", "a norm before the blocks"),
    (r"fc1_[gx]|\bw12\b|weights_in|gate_proj", "gated (SwiGLU) blocks"),
    (r"rope|rel_pos|relative_position", "rotary or relative positions"),
    (r"attn_pool", "attention pooling"),
    (r"patch_embed\.(?!proj)|patch_embeddings\.(?!projection)", "another patch embedding"),
    (r"attn\.norm|mlp\.norm|\.scale_norm", "norms inside the blocks"),
)


def vit_names(depth: int, *, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Name the tensors of a plain ViT as timm does, `prefix` before each name in the file."""
    names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    for block in range(depth):
        names += [f"blocks.{block}.{layer}.{kind}" for layer in _IN_BLOCKS for kind in ("weight", "bias")]
    return {name: (prefix + name,) for name in [*names, "norm.weight", "norm.bias"]}


def find_prefix(names: Iterable[str], blocks: str, *, source: str) -> str | None:
    """Find what stands before the names of a network, such as `model.`; None if no name is of its blocks.

    Args:
        names: all names in the file.
        blocks: regular expression of the folder of blocks, `blocks` in timm.
        source: what to call the file.

    Raises:
        PacxError: there are several networks.
    """
    pattern = re.compile(rf"((?:.*\.)?)(?:{blocks})\.\d+\.")
    prefixes = sorted({match[1] for name in names if (match := pattern.match(name))})
    if len(prefixes) > 1:
        raise PacxError(
            f"{source} holds {len(prefixes)} networks, under {', '.join(map(repr, prefixes))}. Save the one that you "
            "want in a file of its own."
        )
    return prefixes[0] if prefixes else None


def find_depth(names: Iterable[str], blocks: str) -> int:
    """Count blocks by the largest block number."""
    pattern = re.compile(rf"(?:.*\.)?(?:{blocks})\.(\d+)\.")
    return 1 + max(int(match[1]) for name in names if (match := pattern.match(name)))


def take(
    tensors: Mapping[str, Tensor], wanted: Wanted, *, prefix: str, drops: Sequence[str], source: str
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Take the wanted tensors under timm's names; count what is dropped by the pattern that allows it.

    Args:
        tensors: by their names in the file.
        wanted: see `Wanted`.
        prefix: of the encoder's names; patterns are compared with and without it.
        drops: shell-like patterns of names that are no part of the encoder.
        source: what to call the file.

    Raises:
        PacxError: a wanted tensor is missing, or one is left over that no pattern allows.
    """
    own = {name for names in wanted.values() for name in names}
    allowed = {name: _pattern(name, prefix, drops) for name in tensors if name not in own}
    left_over = [name for name, pattern in allowed.items() if pattern is None]
    missing = [name for names in wanted.values() for name in names if name not in tensors]
    _refuse_other_networks(left_over, missing, prefix=prefix, source=source)
    if missing or left_over:
        faults = [(missing, "missing"), (left_over, "left over")]
        listed = "; ".join(f"{len(names)} {fault}: {name_some(names)}" for names, fault in faults if names)
        raise PacxError(
            f"The weights in {source} are not those of a plain ViT with {_depth(wanted)} blocks. {listed}. Nothing was "
            f"loaded. Dropped without asking are only: {', '.join(drops) or 'none'}."
        )
    shaped = {timm: _stack([tensors[name] for name in names], timm, source) for timm, names in wanted.items()}
    return shaped, dict(Counter(pattern for pattern in allowed.values() if pattern))


def _pattern(name: str, prefix: str, drops: Sequence[str]) -> str | None:
    short = name.removeprefix(prefix)
    return next((pattern for pattern in drops if fnmatchcase(short, pattern) or fnmatchcase(name, pattern)), None)


def _depth(wanted: Wanted) -> int:
    return sum(name.endswith(".norm1.weight") for name in wanted)


def _stack(parts: list[Tensor], name: str, source: str) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    if len({part.shape for part in parts}) > 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise PacxError(f"{source}: queries, keys and values of {name} have unlike shapes {shapes}.")
    return torch.cat(parts)


def _refuse_other_networks(left_over: list[str], missing: list[str], *, prefix: str, source: str) -> None:
    """Say what is special about a network that ours cannot represent."""
    traits = []
    for pattern, words in _FOREIGN:
        names = [name for name in left_over if re.search(pattern, name.removeprefix(prefix))]
        if names:
            traits.append(f"{words} ({name_some(names[:3])}{', ...' if len(names) > 3 else ''})")
    # A renamed class token leaves a tensor over, a network without one does not.
    if not left_over and len(missing) == 1 and missing[0].endswith("cls_token"):
        traits.append(f"no class token ({missing[0]})")
    if traits:
        raise PacxError(
            f"{source} is a network with {'; '.join(traits)}. pacx's encoder has none of this: it is a plain ViT with "
            "a class token, absolute positions, and attention and MLP with biases. Nothing was loaded. Use a plain ViT."
        )
