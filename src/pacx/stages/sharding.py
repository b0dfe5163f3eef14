"""Fully sharded training: every device holds a part of the weights, gradients and optimiser states.

For networks that do not fit on one device. The unit that is gathered and let go again is a transformer block (PyTorch's
`fully_shard`, FSDP2); what is outside of blocks stays gathered during a step.

* Weights keep their names and shapes, so that which of them are decayed, clipping by the norm over all devices and the
  fused optimiser step need no other code.
* Checkpoints hold whole weights and whole optimiser states, written by the first process like those of any other run.
  A run may go on with another number of devices or another strategy.
* After training, the first process gets plain modules with whole weights, to save and to judge.

Lightning's own strategies of this kind want the older FSDP, which flattens weights, or allow no mixed precision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from pacx.errors import PacxError

__all__ = ["BlockSharding", "choose_strategy", "made_whole"]

_STEPS = ("training_step", "validation_step", "predict_step")


class BlockSharding(DDPStrategy):
    """Like DDP for Lightning, but with weights in parts."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for part in [part for part in model.modules() if type(part).__name__.endswith("Block")]:
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for step in _STEPS:  # Lightning calls these, not `forward`
            register_fsdp_forward_method(model, step)
        return model

    def _register_ddp_hooks(self) -> None:
        """Do nothing: gradients are exchanged by the shards."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Collect whole weights; all processes take part, the first gets them."""
        return self._collect(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Collect whole optimiser states; all processes take part, the first gets them."""
        return self._collect(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's parts of whole optimiser states."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            parts = {number: _like(weights[number], entry) for number, entry in state["state"].items()}
            states.append({**state, "state": parts})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})

    def teardown(self) -> None:
        """Leave the weights where they are; parts are gathered on the device that they were trained on."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()

    def _collect(self, state: dict[str, Any]) -> dict[str, Any]:
        whole: dict[str, Any] = tree_map(_whole, state)
        return whole if self.is_global_zero else {}


def choose_strategy(name: str, *, precision: str) -> str | BlockSharding:
    """Return what Lightning is to be told of the user's choice of a strategy.

    Raises:
        PacxError: pacx does not train in this way.
    """
    allowed = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")
    if name not in allowed:
        raise PacxError(f"strategy is {name!r}; pacx trains with one of: {', '.join(allowed)}.")
    if name == "fsdp" and precision == "16-mixed":
        raise PacxError("strategy fsdp does not scale float16 gradients. Use --precision bf16-mixed or 32-true.")
    return BlockSharding() if name == "fsdp" else name


@contextmanager
def made_whole(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Train inside of this; afterwards the first process's module is plain and whole again, where it was sharded."""
    if not isinstance(trainer.strategy, BlockSharding):
        yield
        return
    kind = type(module)
    plain = {name: copy.deepcopy(part) for name, part in module.named_children() if trainer.is_global_zero}
    yield
    state = trainer.strategy.lightning_module_state_dict()
    for name, part in plain.items():
        prefix = f"{name}."
        part.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
        setattr(module, name, part)
    module.__class__ = kind  # `fully_shard` made it one of its own
    for step in _STEPS:
        vars(module).pop(step, None)


def _whole(value: object) -> object:
    """Gather a tensor that is in parts, in the memory of the host."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _like(weight: nn.Parameter, entry: dict[str, Any]) -> dict[str, Any]:
    """Cut what has the shape of a weight as the weight is cut."""
    if not isinstance(weight, DTensor):
        return entry
    return {
        name: distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
        if isinstance(value, torch.Tensor) and value.shape == weight.shape
        else value
        for name, value in entry.items()
    }
