"""Checkpoints of the authors of PaCX-MAE: Lightning files of stage 1 (MAE) and of stage 2 (PaCX, with LoRA).

* Both were fed 224 px squares, squashed, with ImageNet mean and std.
* Stage 1 was trained, and its encoder judged, with LayerNorm epsilon 1e-6: `model.<timm name>`, `model.decoder_*`,
  `model.mask_token`.
* Stage 2 was trained and judged with 1e-5, on weights that had been trained with 1e-6: the features of the published
  encoder are those of 1e-5, so that is what is assumed. `cxr_encoder.base_model.model.<timm name>`, with PEFT's parts
  for `qkv`, `fc1` and `fc2` of every block: rank 8, alpha 16. Without PEFT (their `last_n_blocks`):
  `cxr_encoder.<timm name>`.
* Their heads and loss are dropped, as they drop them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pacx.models.formats.mae import IMAGENET_MEAN, IMAGENET_STD, MAE
from pacx.models.formats.network import Format

__all__ = ["LIGHTNING_MAE", "PACX_CHECKPOINT", "PUBLISHED_ALPHA", "has_pacx_names", "is_lightning"]

PUBLISHED_ALPHA = 16.0
LIGHTNING_MAE = Format(
    "lightning-mae", eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD, geometry="squash", drops=MAE.drops
)
_HEADS = ("cxr_to_shared", "ecg_to_shared", "labs_to_shared", "cxr_to_ecg", "cxr_to_labs", "loss_module")
PACX_CHECKPOINT = Format(
    "pacx-checkpoint",
    eps=1e-5,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    geometry="squash",
    drops=(*MAE.drops, *(f"{head}.*" for head in _HEADS)),
)


def has_pacx_names(names: Mapping[str, Tensor]) -> bool:
    """Say whether the encoder is that of a PaCX checkpoint."""
    return any(name.startswith("cxr_encoder.") for name in names)


def is_lightning(names: Mapping[str, Tensor], others: Mapping[str, object]) -> bool:
    """Say whether a masked autoencoder was saved by Lightning."""
    return "pytorch-lightning_version" in others or all(name.startswith("model.") for name in names)
