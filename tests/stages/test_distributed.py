"""Two processes (gloo, CPU) train as one, with the same gradients, weights, losses and files; they end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import make_bank, make_store
from two_processes import poison

from pacx.data.store import Store
from pacx.runs import read_result
from pacx.stages.distill import distill
from pacx.stages.pretrain import pretrain

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")

SCRIPT = Path(__file__).with_name("two_processes.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY: dict[str, Any] = {
    "width": 32, "depth": 2, "heads": 2, "patch_size": 4, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
    "epochs": 3, "learning_rate": 3e-3, "warmup_epochs": 1.0, "accelerator": "cpu", "accumulate": 4,
}  # fmt: skip
# 52 training images: batches of 10, the last of 2; steps of 4 batches, the second of 2. Validation: 25 images.
ONE = {"batch_size": 10}
TWO = {"batch_size": 5, "devices": "2"}
DISTILL: dict[str, Any] = {
    "epochs": 2, "learning_rate": 3e-3, "warmup_epochs": 1.0, "shared_width": 16, "lora_dropout": 0.0,
    "head_dropout": 0.0, "accelerator": "cpu",
}  # fmt: skip
SPOILED = [[1, 8]]  # in epoch 2, one training image: on one process only
HOPELESS = [[1, row] for row in range(101)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores") / "odd", num_rows=101)


@pytest.fixture(scope="module")
def taught(odd: Store, encoder_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a distillation reads; one teacher is silent on all but a few validation rows."""
    folder = tmp_path_factory.mktemp("odd-banks")
    banks = [make_bank(odd, folder / "all", name="all"), make_bank(odd, folder / "few", name="few", dim=8, holes=0.9)]
    return {"store": odd.path, "encoder": str(encoder_path), "banks": banks}


@pytest.fixture(scope="module")
def joint(odd: Store, taught: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in two processes, started from outside as torchrun and srun do."""
    out = tmp_path_factory.mktemp("joint")
    jobs = [
        job("ddp", odd, out, {"strategy": "ddp"}),
        job("spoiled", odd, out, {"strategy": "ddp"}, SPOILED),
        job("ddp-stopped", odd, out, {"strategy": "ddp"}, HOPELESS),
        job("ddp-stopped", odd, out, {"strategy": "ddp"}, name="ddp-resumed"),
        job("fsdp", odd, out, {"strategy": "fsdp", "gradient_clip": 0.5}),
        job("fsdp-stopped", odd, out, {"strategy": "fsdp", "gradient_clip": 0.5}, HOPELESS),
        job("fsdp-stopped", odd, out, {"strategy": "fsdp", "gradient_clip": 0.5}, name="fsdp-resumed"),
        *(distillation(taught, out, strategy) for strategy in ("ddp", "fsdp")),
    ]
    (out / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "FIRST_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, "jobs", out / "jobs.json"],
            env={**together, "LOCAL_RANK": str(rank)}, stderr=(out / f"stderr{rank}.txt").open("w"),
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        codes = [process.wait(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], (out / "stderr0.txt").read_text() + (out / "stderr1.txt").read_text()
    return out


def job(
    folder: str,
    store: Store,
    out: Path,
    changes: dict[str, Any],
    spoiled: Sequence[list[int]] = (),
    *,
    name: str = "",
) -> dict[str, Any]:
    arguments = {**TINY, **TWO, **changes, "store": str(store.path), "out": str(out / folder)}
    return {"name": name or folder, "command": "pretrain", "arguments": arguments, "spoiled": list(spoiled)}


def distillation(taught: dict[str, Any], out: Path, strategy: str) -> dict[str, Any]:
    arguments = {**DISTILL, **TWO, **taught, "strategy": strategy, "out": out / f"distill-{strategy}"}
    plain = json.loads(json.dumps(arguments, default=str))
    return {"name": f"distill-{strategy}", "command": "distill", "arguments": plain, "spoiled": []}


@pytest.fixture(scope="module")
def single(odd: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings in this process, with the joint batch."""
    out = tmp_path_factory.mktemp("single")
    pretrain(store=odd.path, out=out / "plain", **TINY, **ONE)
    pretrain(store=odd.path, out=out / "clipped", **TINY, **ONE, gradient_clip=0.5)
    undo = poison(SPOILED)
    pretrain(store=odd.path, out=out / "spoiled", **TINY, **ONE)
    undo()
    return out


def ends(joint: Path, name: str) -> list[str]:
    return [json.loads((joint / f"ends{rank}.json").read_text())[name] for rank in range(2)]


def checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def largest_difference(left: Path, right: Path) -> dict[str, float]:
    """Compare weights, and running means of the gradients relative to the largest of each tensor.

    A softmax does not see the bias of its keys, so their gradient is rounding noise, which Adam blows up: left out.
    """
    first, second = checkpoint(left), checkpoint(right)
    assert first["state_dict"].keys() == second["state_dict"].keys()
    weights = max(
        float((drop_keys(name, tensor) - drop_keys(name, second["state_dict"][name])).abs().max())
        for name, tensor in first["state_dict"].items()
        if name.startswith("model.")
    )
    one, two = (content["optimizer_states"][0]["state"] for content in (first, second))
    assert one.keys() == two.keys()
    gradients = max(
        float((one[key]["exp_avg"] - two[key]["exp_avg"]).norm() / one[key]["exp_avg"].norm())
        for key in one
        if tuple(one[key]["exp_avg"].shape) != (96,)
    )
    return {"weights": weights, "gradients": gradients}


def drop_keys(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not name.endswith("qkv.bias"):
        return tensor.double()
    return torch.cat([tensor[:32], tensor[64:]]).double()


def measured(run: Path) -> list[dict[str, str]]:
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.mark.parametrize(("name", "reference"), [("ddp", "plain"), ("fsdp", "clipped"), ("spoiled", "spoiled")])
def test_two_processes_end_with_the_gradients_and_weights_of_one_with_the_joint_batch(
    joint: Path, single: Path, name: str, reference: str
) -> None:
    assert ends(joint, name) == ["finished", "left with 0"]
    found = largest_difference(joint / name, single / reference)
    assert found["weights"] < 1e-5
    assert found["gradients"] < 1e-4
    assert checkpoint(joint / name)["global_step"] == checkpoint(single / reference)["global_step"] == 6
    # A control: the clipped, the spoiled and the plain training differ by far more than that.
    other = "plain" if reference != "plain" else "clipped"
    assert largest_difference(joint / name, single / other)["weights"] > 1e-3


@pytest.mark.parametrize(("name", "reference"), [("ddp", "plain"), ("fsdp", "clipped"), ("spoiled", "spoiled")])
def test_losses_are_those_of_one_process_and_no_image_counts_twice(
    joint: Path, single: Path, name: str, reference: str
) -> None:
    both = list(zip(measured(joint / name), measured(single / reference), strict=True))
    assert len(both) == 3
    for ours, theirs in both:
        for metric in ("train_loss", "val_loss", "learning_rate", "visible_tokens"):
            assert float(ours[metric]) == pytest.approx(float(theirs[metric]), rel=2e-5), metric
        assert [ours[key] for key in ("epoch", "step")] == [theirs[key] for key in ("epoch", "step")]


@pytest.fixture(scope="module")
def student(taught: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same distillation in this process, with the joint batch."""
    out = tmp_path_factory.mktemp("student") / "distill"
    distill(**taught, **DISTILL, **ONE, out=out)
    return out


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_distillation_is_judged_by_the_whole_validation_split_each_row_counted_once(
    joint: Path, student: Path, strategy: str
) -> None:
    assert ends(joint, f"distill-{strategy}") == ["finished", "left with 0"]
    ours, theirs = measured(joint / f"distill-{strategy}"), measured(student)
    judged = [key for key in theirs[0] if key.startswith(("val_", "temperature"))]
    assert {"val_loss", "val_image_r1/all", "val_image_r5/few", "val_teacher_r5/all", "val_spread"} <= set(judged)
    for one, other in zip(ours, theirs, strict=True):
        for key in judged:
            assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-5), key
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-5)
    same, results = (read_result(out)["results"] for out in (joint / f"distill-{strategy}", student))
    assert same["val_loss"] == pytest.approx(results["val_loss"], abs=1e-5)
    assert same["val_loss"] == pytest.approx(min(float(row["val_loss"]) for row in ours), abs=1e-5)
    assert abs(float(ours[0]["val_loss"]) - float(ours[1]["val_loss"])) > 0.1  # epochs are told apart


def test_only_the_first_process_writes(joint: Path) -> None:
    log = (joint / "ddp" / "log.txt").read_text()
    assert [log.count(f"epoch {epoch}/3") for epoch in (1, 2, 3)] == [1, 1, 1]
    assert log.count("done in") == 1
    assert read_result(joint / "ddp")["results"]["epochs"] == 3
    assert "epoch 1/3" not in (joint / "stderr1.txt").read_text()


def test_a_bad_loss_on_one_process_is_skipped_by_both(joint: Path, single: Path) -> None:
    assert read_result(joint / "spoiled")["results"]["skipped_steps"] == 1
    assert read_result(single / "spoiled")["results"]["skipped_steps"] == 1
    log = (joint / "spoiled" / "log.txt").read_text()
    assert log.count("not finite") == 1
    named = log.split("(images ")[1].split(")")[0].split(", ")
    assert len(named) == 5  # the bad batch, not that of the other process
    assert "image008" in named


def test_bad_losses_without_end_stop_both_and_the_run_goes_on_from_its_checkpoint(joint: Path) -> None:
    for strategy in ("ddp", "fsdp"):
        first, other = ends(joint, f"{strategy}-stopped")
        assert first.startswith("PacxError: The loss was not finite 3 times in a row; the last batch held the images")
        assert other == "left with 2"
        assert ends(joint, f"{strategy}-resumed") == ["finished", "left with 0"]
        assert "going on from" in (joint / f"{strategy}-stopped" / "log.txt").read_text()
        found = largest_difference(joint / f"{strategy}-stopped", joint / strategy)
        assert found == {"weights": 0.0, "gradients": 0.0}


def test_sharded_training_leaves_whole_plain_files(joint: Path) -> None:
    from pacx.models.encoder import load_encoder

    state = checkpoint(joint / "fsdp")["state_dict"]
    encoder = load_encoder(str(joint / "fsdp" / "encoder")).state_dict()
    for name, tensor in encoder.items():
        assert torch.equal(tensor, state[f"model.encoder.{name}"]), name
    assert type(next(iter(state.values()))) is torch.Tensor


def run_alone(arguments: list[str], *, fault: str = "", minutes: str = "10") -> tuple[int, str]:
    """Run the command line; return exit code and messages; no process of it may be left."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "pacx", *arguments],
        env={**ENVIRONMENT, "FAULT": fault, "PACX_TIMEOUT_MINUTES": minutes},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, messages = process.communicate(timeout=900)
        assert group(process.pid) == [], f"processes are left behind: {messages}"
    finally:
        for number in group(process.pid):
            os.kill(number, signal.SIGKILL)
    return process.returncode, messages


def group(leader: int) -> list[int]:
    """List the processes of a group that are more than an entry in the table."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just gone
            continue
        if int(number) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def flags(store: Store, out: Path, **changes: Any) -> list[str]:
    arguments = {**TINY, **TWO, "strategy": "ddp", "store": store.path, "out": out, **changes}
    return ["pretrain", *(part for key, item in arguments.items() for part in (f"--{key}", str(item)))]


def recipe(folder: Path, store: Store, *names: str) -> list[str]:
    """Write a recipe of trainings in two processes each, and a last step that needs one."""
    body = json.dumps({"command": "pretrain", "store": "{root:store}", **TINY, **TWO, "epochs": 2})
    steps = [f"  {name}: {body}" for name in names]
    steps.append('  shown: {command: reconstruct, run: "{mae}", store: "{root:store}", num_images: 2}')
    path = folder / "two.yaml"
    path.write_text("\n".join(["title: two", f"roots: {{store: {store.path}}}", "steps:", *steps]) + "\n")
    return ["run", str(path), "--out", str(folder / "out")]


def test_a_recipe_step_starts_its_processes_and_the_steps_after_it_run_once(odd: Store, tmp_path: Path) -> None:
    code, messages = run_alone(recipe(tmp_path, odd, "mae"))
    assert code == 0, messages
    for words in ("[1/2] mae (pretrain)", "epoch 2/2", "pretrain: done", "reconstruct: done", "all 2 steps done"):
        assert messages.count(words) == 1, words
    assert "Traceback" not in messages
    assert "Warning" not in messages


@pytest.mark.slow
def test_one_process_may_start_others_again_and_again(odd: Store, tmp_path: Path) -> None:
    code, messages = run_alone(recipe(tmp_path, odd, "mae", "again"))
    assert code == 0, messages
    assert messages.count("epoch 2/2") == 2
    same = largest_difference(tmp_path / "out" / "mae", tmp_path / "out" / "again")
    assert same == {"weights": 0.0, "gradients": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("die on 1", 2, "Process 1 of the training ended with code 7"),
        ("die on 0", 7, ""),
        ("full disk", 2, "No space left on device: last.ckpt"),
        ("SIGTERM on 0", 143, "stopped from outside"),
        ("SIGTERM on 1", 143, "stopped from outside"),
        ("early SIGTERM on 0", 143, "stopped from outside"),
        ("early SIGTERM on 1", 143, "stopped from outside"),
        ("freeze on 1", 2, "Another process of the training has not answered for 1 minutes"),
        ("one exchange more on 1", 2, "Run the same command again to go on from the last checkpoint"),
    ],
)
def test_when_one_process_fails_or_is_stopped_all_end_and_the_run_goes_on(
    odd: Store, joint: Path, tmp_path: Path, fault: str, code: int, words: str
) -> None:
    minutes = "1" if fault.startswith(("freeze", "one exchange")) else "10"
    found, messages = run_alone(flags(odd, tmp_path / "run"), fault=fault, minutes=minutes)
    assert found == code, messages
    if words:
        both_wait = fault.startswith("one exchange")  # and each says so, unless the first process ends the other
        assert " ".join(messages.split()).count(words) in ({1, 2} if both_wait else {1})
    assert not (tmp_path / "run" / "result.json").exists()
    found, messages = run_alone(flags(odd, tmp_path / "run"))
    assert found == 0
    assert messages.count("going on from") == 1
    assert largest_difference(tmp_path / "run", joint / "ddp") == {"weights": 0.0, "gradients": 0.0}
