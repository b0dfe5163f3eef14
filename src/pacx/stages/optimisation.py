"""How fast to learn and what to shrink: the optimiser and its schedule, as functions.

* The learning rate is a function of the step index alone, so a resumed run cannot drift from an uninterrupted one.
  Lightning steps once per `accumulate` batches and once more on what is left at the end of an epoch, so an epoch has
  ceil(batches / accumulate) steps; batches are counted per process.
* Weight decay acts on matrices only. Norm gains, biases, tokens, position tables and the temperature have no reason
  to be near zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pacx.errors import PacxError

if TYPE_CHECKING:  # 100 MiB that a function of numbers does not need
    import lightning as L

__all__ = [
    "adamw_over_groups",
    "adamw_with_warmup",
    "check_rates",
    "check_warmup",
    "is_decayed",
    "parameter_groups",
    "warmup_cosine",
    "warmup_cosine_schedule",
]

_UNDECAYED = frozenset({"cls_token", "mask_token", "reg_token", "pos_embed", "decoder_pos_embed", "logit_scale"})


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, floor: float = 0.0) -> float:
    """Return the learning-rate multiplier of an optimiser step.

    Linear from 1 / warmup_steps to 1 over the first `warmup_steps` steps, then a half cosine from 1 down to `floor`,
    which is reached at `total_steps`.

    Args:
        step: index of the step, from 0.
        warmup_steps: number of warm-up steps; 0 for none.
        total_steps: number of steps of the whole run.
        floor: where the cosine ends, as a share of the peak, [0, 1].
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine_schedule(
    optimizer: torch.optim.Optimizer, *, epochs: int, warmup_epochs: float, steps_per_epoch: int, floor: float = 0.0
) -> dict[str, Any]:
    """Wrap `warmup_cosine` as Lightning's scheduler entry, advanced once per optimiser step.

    Raises:
        PacxError: the warm-up leaves no epoch to train in.
    """
    check_warmup(epochs=epochs, warmup_epochs=warmup_epochs)
    multiplier: Callable[[int], float] = partial(
        warmup_cosine,
        warmup_steps=round(warmup_epochs * steps_per_epoch),
        total_steps=epochs * steps_per_epoch,
        floor=floor,
    )
    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier), "interval": "step"}


def check_warmup(*, epochs: int, warmup_epochs: float) -> None:
    """Refuse a warm-up that leaves no epoch to train in."""
    if not 0 <= warmup_epochs < epochs:
        raise PacxError(
            f"warmup_epochs is {warmup_epochs:g}, epochs is {epochs}. The warm-up must be shorter than the run: "
            "lower --warmup_epochs or raise --epochs."
        )


def adamw_with_warmup(
    trainer: L.Trainer,
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    warmup_epochs: float,
    betas: tuple[float, float] = (0.9, 0.999),
    floor: float = 0.0,
) -> Any:
    """Make what `configure_optimizers` returns: AdamW over the trainable parameters, warm-up, cosine to `floor`.

    Raises:
        PacxError: a rate or decay out of range, or a warm-up that leaves no epoch to train in.
    """
    check_rates(learning_rate=learning_rate, weight_decay=weight_decay)
    groups = parameter_groups(network.named_parameters(), weight_decay=weight_decay)
    return adamw_over_groups(
        trainer, groups, learning_rate=learning_rate, warmup_epochs=warmup_epochs, betas=betas, floor=floor
    )


def check_rates(*, learning_rate: float, weight_decay: float) -> None:
    """Refuse a learning rate or weight decay that is out of range."""
    if not learning_rate > 0:
        raise PacxError(f"learning_rate is {learning_rate:g}; it must be above 0.")
    if not weight_decay >= 0:
        raise PacxError(f"weight_decay is {weight_decay:g}; it must be 0 (none) or more.")


def adamw_over_groups(
    trainer: L.Trainer,
    groups: list[dict[str, Any]],
    *,
    learning_rate: float,
    warmup_epochs: float,
    betas: tuple[float, float] = (0.9, 0.999),
    floor: float = 0.0,
) -> Any:
    """Make what `configure_optimizers` returns for parameter groups, each with its decay and maybe a rate of its own.

    The step is one fused kernel, except where gradients are scaled (float16), since a fused step undoes the scaling
    itself, too late for gradients to be clipped before it; and where they are clipped in any mixed precision, since
    Lightning refuses to clip for an optimiser that could undo a scaling, whether there is one or not.

    Raises:
        PacxError: a warm-up that leaves no epoch to train in.
    """
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=_can_fuse(trainer))
    epochs = int(trainer.max_epochs or 1)
    schedule = warmup_cosine_schedule(
        optimizer,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        steps_per_epoch=int(trainer.estimated_stepping_batches) // epochs,
        floor=floor,
    )
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def _can_fuse(trainer: L.Trainer) -> bool:
    mixed = str(trainer.precision_plugin.precision).endswith("mixed")
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    return not scaled and not (mixed and trainer.gradient_clip_val)


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Say whether weight decay acts on a parameter: on matrices, not on norms, biases, tokens and positions."""
    return parameter.ndim > 1 and name.rpartition(".")[2] not in _UNDECAYED


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float
) -> list[dict[str, Any]]:
    """Split the trainable parameters into a decayed and an undecayed group.

    Args:
        named_parameters: as `module.named_parameters()` gives them; frozen ones are left out.
        weight_decay: AdamW's coefficient for the decayed group.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        (decayed if is_decayed(name, parameter) else undecayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
