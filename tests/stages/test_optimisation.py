"""The learning rate of every optimiser step, and the fused optimiser."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pacx.errors import PacxError
from pacx.stages.optimisation import adamw_with_warmup, warmup_cosine, warmup_cosine_schedule


class Tiny(L.LightningModule):
    """Notes the learning rate that each optimiser step is taken with."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.rates: list[float] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.net(batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        return adamw_with_warmup(
            self.trainer, self.net, learning_rate=2.0, weight_decay=0.1, warmup_epochs=1.0, floor=0.1
        )


@pytest.mark.parametrize(("num_batches", "accumulate", "steps"), [(6, 1, 6), (6, 2, 3), (5, 2, 3), (5, 8, 1)])
def test_the_rate_follows_the_steps_that_are_taken_and_ends_at_the_floor(
    tmp_path: Path, num_batches: int, accumulate: int, steps: int
) -> None:
    module, epochs = Tiny(), 3
    trainer = L.Trainer(
        max_epochs=epochs, accumulate_grad_batches=accumulate, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(num_batches, 2)), batch_size=1))
    total = epochs * steps
    wanted = [2.0 * warmup_cosine(step, warmup_steps=steps, total_steps=total, floor=0.1) for step in range(total)]
    assert module.rates == pytest.approx(wanted)
    assert module.rates[steps] == 2.0  # the peak, at the end of the warm-up
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.2)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_can_be_clipped_in_every_precision(tmp_path: Path, precision: Any, clip: float | None) -> None:
    """Lightning refuses to clip in mixed precision for an optimiser that is fused."""
    module = Tiny()
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", precision=precision, gradient_clip_val=clip, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(3, 2)), batch_size=1))
    assert trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["fused"] == (precision == "32-true" or clip is None)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    with pytest.raises(PacxError, match="shorter than the run"):
        warmup_cosine_schedule(optimizer, epochs=5, warmup_epochs=5, steps_per_epoch=10)


def made(net: nn.Module, *, scaler: object = None) -> torch.optim.AdamW:
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(precision="32-true", scaler=scaler),
        max_epochs=2,
        estimated_stepping_batches=20,
    )
    parts = adamw_with_warmup(trainer, net, learning_rate=0.01, weight_decay=0.1, warmup_epochs=0.0)  # type: ignore[arg-type]
    optimizer: torch.optim.AdamW = parts["optimizer"]
    return optimizer


def take(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 33, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()


def test_the_step_is_fused_unless_gradients_are_scaled() -> None:
    assert all(group["fused"] for group in made(nn.Linear(2, 2)).param_groups)
    assert not any(group["fused"] for group in made(nn.Linear(2, 2), scaler=object()).param_groups)


def test_fused_steps_equal_plain_ones_and_go_on_exactly_from_saved_states() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(33, 17), nn.LayerNorm(17), nn.Linear(17, 3))
    plain, parts = copy.deepcopy(net), copy.deepcopy(net)
    take(net, made(net), range(8))
    take(plain, made(plain, scaler=object()), range(8))
    for fused, reference in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(fused, reference, rtol=0, atol=1e-6)
    first = made(parts)
    take(parts, first, range(5))
    second = made(parts)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take(parts, second, range(5, 8))
    for one, two in zip(net.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, two)
