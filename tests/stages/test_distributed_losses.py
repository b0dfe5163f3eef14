"""Two processes (gloo) have the loss and every gradient of one with the joint batch; chunks, those of the whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

import two_process_losses as steps

import pacx.models.student
from pacx.objectives import joint_distillation_loss

SCRIPT = Path(steps.__file__)
ALL = slice(0, steps.ROWS)
HALVES = (slice(0, steps.ROWS // 2), slice(steps.ROWS // 2, steps.ROWS))
Found = dict[str, Tensor]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What either of two processes found, by case."""
    folder = tmp_path_factory.mktemp("losses")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder], env={**os.environ, **shared, "RANK": str(rank)},
            stderr=(folder / f"stderr{rank}.txt").open("w"),
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        codes = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "".join((folder / f"stderr{rank}.txt").read_text() for rank in range(2))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def alone(case: dict[str, Any]) -> Found:
    return steps.gradients(steps.make_step(**case), steps.make_batch(ALL, dtype=case.get("dtype", torch.float64)))


def differences(ours: Found, theirs: Found) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    return {name: float((ours[name] - theirs[name]).abs().max()) for name in theirs}


@pytest.mark.parametrize("name", steps.CASES)
def test_loss_and_every_gradient_of_two_processes_are_those_of_one(together: list[dict[str, Found]], name: str) -> None:
    case = steps.CASES[name]
    single = alone(case)
    tolerance = 1e-5 if case.get("dtype") is torch.float32 else 1e-11
    learned = {part for part, parameter in steps.make_step(**case).module.student.named_parameters()
               if parameter.requires_grad}  # fmt: skip
    for process in together:
        assert process[name].keys() == learned | {"loss"}
        found = differences(process[name], single)
        assert max(found.values()) <= tolerance, max(found, key=lambda part: found[part])


@pytest.mark.parametrize("name", ["contrastive", "regression, uneven holes", "patients", "everything"])
def test_each_process_by_itself_would_not_do(name: str) -> None:
    """A control: the mean over the halves' own losses, as if nothing were gathered, is another loss."""
    case = steps.CASES[name]
    module = steps.make_step(**case).module
    halves = []
    for rows in HALVES:
        made = module(steps.make_batch(rows))
        halves.append(joint_distillation_loss(*module._terms(made), **module._settings(made))["loss"].item())
    assert abs(sum(halves) / 2 - alone(case)["loss"].item()) > 1e-3


@pytest.mark.parametrize("name", ["contrastive", "regression", "anchor", "patients"])
def test_what_a_case_is_about_moves_the_gradients_of_the_encoder(name: str) -> None:
    """A control of the cases: without its term, or with another, the gradients differ."""
    case = steps.CASES[name]
    plain = {key: item for key, item in case.items() if key == "present"}
    found, other = alone(case), alone(plain)
    part = next(key for key in found if key.startswith("encoder.") and "lora_A" in key)
    assert found[part].abs().max() > 1e-4
    assert (found[part] - other[part]).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chunk_size", [1, 3, 8, 15])
@pytest.mark.parametrize("anchor_weight", [0.0, 2.0])
def test_gradient_caching_gives_the_loss_and_every_gradient_of_the_whole_batch(
    chunk_size: int, anchor_weight: float, dtype: torch.dtype
) -> None:
    case = {"present": steps.UNEVEN, "anchor_weight": anchor_weight, "dtype": dtype}
    found = differences(alone({**case, "chunk_size": chunk_size}), alone(case))
    assert max(found.values()) <= (1e-5 if dtype is torch.float32 else 1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradient_caching_draws_the_same_dropout_again(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the mask is drawn by pacx's own layer, in float64 by PyTorch's."""
    case = {"dropout": 0.3, "chunk_size": 5, "dtype": dtype}
    cached, whole = alone(case), alone({**case, "chunk_size": None})
    monkeypatch.setattr(pacx.models.student, "checkpoint", lambda function, part, **_: function(part))
    direct = alone(case)  # the same chunks, everything kept
    assert set(differences(cached, direct).values()) == {0.0}
    assert abs(cached["loss"] - whole["loss"]) > 1e-6  # in other chunks other numbers are drawn


def test_gradient_caching_never_shows_the_encoder_more_images_than_a_chunk() -> None:
    step = steps.make_step(chunk_size=5)
    seen: list[int] = []
    patches = next(part for part in step.modules() if type(part).__name__ == "PatchEmbed")
    patches.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    steps.gradients(step, steps.make_batch(ALL))
    assert sorted(seen) == sorted([5, 5, 5, 1] * 2)  # forward, and again on the way back
    seen.clear()
    with torch.no_grad():
        step(steps.make_batch(ALL))
    assert seen == [16]  # without gradients nothing is kept anyway
