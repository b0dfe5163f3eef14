"""A run that was stopped and gone on with ends like one that was not, to the last bit."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from kill_runs import FLAGS, outcome, pretrain, start, wait_for
from resuming import EPOCHS, KillAt, Killed, differences, train, train_in_parts, what_is_left

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.stages.masked_pretraining import MaskedPretraining
from pacx.stages.stopping import Stopped

STEPS = 5 * EPOCHS


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that nobody stopped; it writes checkpoints at the ends of epochs only."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(store, out, minutes=1e6)
    return what_is_left(out)


class Send(L.Callback):
    """Sends this process a signal in the middle of a training or validation batch, counted since the start."""

    def __init__(self, *signals: signal.Signals, train: int = 0, val: int = 0) -> None:
        self.signals = signals
        self.left = {"train": train, "val": val}

    def on_before_backward(self, *_: Any) -> None:
        self._count("train")

    def on_validation_batch_start(self, *_: Any) -> None:
        self._count("val")

    def _count(self, kind: str) -> None:
        self.left[kind] -= 1
        if self.left[kind] == 0:
            for number in self.signals:
                os.kill(os.getpid(), number)


def last(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def test_killed_after_every_single_step_and_in_every_validation(store: Store, tmp_path: Path, whole: dict[str, Any]):
    assert train_in_parts(store, tmp_path / "run", kill_at=2) == STEPS + EPOCHS
    assert differences(what_is_left(tmp_path / "run"), whole) == []


@pytest.mark.parametrize("kill_at", [4, 6])
def test_killed_between_the_batches_of_an_accumulated_step(store: Store, tmp_path: Path, kill_at: int):
    train(store, tmp_path / "whole", minutes=1e6, accumulate=2)
    parts = train_in_parts(store, tmp_path / "parts", kill_at=kill_at, accumulate=2)
    assert parts >= 4
    assert differences(what_is_left(tmp_path / "parts"), what_is_left(tmp_path / "whole")) == []
    assert last(tmp_path / "parts")["global_step"] == 3 * EPOCHS  # steps of 2, 2 and 1 batches


def test_processes_that_read_ahead_do_not_move_the_place(store: Store, tmp_path: Path, whole: dict[str, Any]):
    assert train_in_parts(store, tmp_path / "run", kill_at=9, workers=2) == 3
    assert differences(what_is_left(tmp_path / "run"), whole) == []


def test_without_checkpoints_inside_epochs_a_run_goes_on_from_the_last_epoch(
    store: Store, tmp_path: Path, whole: dict[str, Any]
):
    assert train_in_parts(store, tmp_path / "run", kill_at=9, minutes=1e6, workers=1) == EPOCHS
    assert differences(what_is_left(tmp_path / "run"), whole) == []


def test_refused_losses_are_counted_and_averaged_over_an_interruption(store: Store, tmp_path: Path):
    def spoil(module: MaskedPretraining) -> None:
        forward = module.model.forward

        def sometimes_nan(images, noise=None):
            output = forward(images, noise)
            bad = module.training and module.trainer.fit_loop.total_batch_idx in {2, 3, 8, 9}
            return output._replace(loss=output.loss * float("nan")) if bad else output

        module.model.forward = sometimes_nan

    train(store, tmp_path / "whole", minutes=1e6, change=spoil)
    train_in_parts(store, tmp_path / "parts", kill_at=2, change=spoil)
    assert differences(what_is_left(tmp_path / "parts"), what_is_left(tmp_path / "whole")) == []
    assert int(last(tmp_path / "parts")["state_dict"]["guard.skipped"]) == 4


def test_the_best_epoch_is_remembered_over_interruptions(store: Store, tmp_path: Path):
    def script(module: MaskedPretraining) -> None:
        forward = module.model.forward

        def worse_later(images, noise=None):
            output = forward(images, noise)
            later = 0.0 if module.training else (2.0, 0.0, 1.0)[module.current_epoch]
            return output._replace(loss=output.loss + later)

        module.model.forward = worse_later

    train_in_parts(store, tmp_path / "run", kill_at=2, change=script)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 1
    assert last(tmp_path / "run")["pacx"]["best"] == best["pacx"]["best"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("where", "step"),
    [({"train": 1}, 1), ({"train": 8}, 8), ({"train": 5}, 5), ({"val": 2}, 5), ({"val": 3}, 5), ({"train": 15}, 15),
     ({"val": 9}, 15)],
)  # fmt: skip
def test_sigterm_saves_at_the_next_step_and_in_validation_and_ends_with_143(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: dict[str, int], step: int
):
    options: dict[str, Any] = {"minutes": 1e6, "val_batch_size": 8}
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with caplog.at_level(logging.INFO, "pacx"), pytest.raises(Stopped) as stopped:
        train(store, tmp_path / "run", Send(signal.SIGTERM, **where), **options)
    assert stopped.value.code == 143
    assert caplog.text.count("Run the same command again to go on.") == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert last(tmp_path / "run")["global_step"] == step
    train(store, tmp_path / "run", **options)
    train(store, tmp_path / "whole", **options)
    assert differences(what_is_left(tmp_path / "run"), what_is_left(tmp_path / "whole")) == []


def test_sigterm_within_an_accumulated_step_waits_for_the_step(store: Store, tmp_path: Path):
    with pytest.raises(Stopped):
        train(store, tmp_path / "run", Send(signal.SIGTERM, train=3), minutes=1e6, accumulate=2)
    assert last(tmp_path / "run")["global_step"] == 2
    assert last(tmp_path / "run")["pacx"]["batches_done"] == 4


def test_ctrl_c_saves_too_and_is_a_keyboard_interrupt(store: Store, tmp_path: Path, whole: dict[str, Any]):
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", Send(signal.SIGINT, train=7), minutes=1e6)
    assert last(tmp_path / "run")["global_step"] == 7
    train(store, tmp_path / "run")
    assert differences(what_is_left(tmp_path / "run"), whole) == []


def test_a_signal_after_the_last_step_is_not_forgotten_and_then_nothing_is_trained_again(
    store: Store, tmp_path: Path, whole: dict[str, Any]
):
    class AtTheEnd(L.Callback):
        def on_train_end(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(store, tmp_path / "run", AtTheEnd(), minutes=1e6)
    module, trainer = train(store, tmp_path / "run", KillAt(1), minutes=1e6)
    assert trainer.global_step == STEPS
    assert (
        differences(
            {f"last/state_dict/{key}": value for key, value in module.state_dict().items()},
            {key: value for key, value in whole.items() if key.startswith("last/state_dict/") and key[-1] != "/"},
        )
        == []
    )


def test_a_second_signal_stops_at_once(store: Store, tmp_path: Path):
    with pytest.raises(Stopped):
        train(store, tmp_path / "run", Send(signal.SIGTERM, signal.SIGTERM, train=7), minutes=1e6)
    assert last(tmp_path / "run")["global_step"] == 5
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", Send(signal.SIGTERM, signal.SIGINT, train=2), minutes=1e6)
    assert last(tmp_path / "run")["global_step"] == 5


def test_under_slurm_sigusr1_counts_as_sigterm(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(Stopped):
        train(store, tmp_path / "run", Send(signal.SIGUSR1, train=7), minutes=1e6)
    assert last(tmp_path / "run")["global_step"] == 7


def test_checkpoints_are_written_when_minutes_have_passed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Clock(L.Callback):
        """Three minutes a batch."""

        now = 0.0

        def on_train_batch_end(self, *_: Any) -> None:
            Clock.now += 180

    monkeypatch.setattr("pacx.stages.saving.time.monotonic", lambda: Clock.now)
    with pytest.raises(Killed):
        train(store, tmp_path / "run", Clock(), KillAt(5), minutes=5)
    assert last(tmp_path / "run")["global_step"] == 4  # after 6 and 12 minutes


def test_the_newest_checkpoints_are_kept(store: Store, tmp_path: Path):
    folder = tmp_path / "run" / "checkpoints"
    with pytest.raises(Killed):
        train(store, tmp_path / "run", KillAt(10), keep_checkpoints=3)
    assert sorted(path.name for path in folder.glob("*.ckpt")) == [
        "best.ckpt", "last.ckpt", "step-00000006.ckpt", "step-00000007.ckpt",
    ]  # fmt: skip
    assert last(tmp_path / "run")["global_step"] == 8
    steps = [torch.load(path, weights_only=True)["global_step"] for path in sorted(folder.glob("step-*.ckpt"))]
    assert steps == [6, 7]
    with pytest.raises(Killed):
        train(store, tmp_path / "five", KillAt(10), keep_checkpoints=5)
    assert len(list((tmp_path / "five" / "checkpoints").glob("step-*.ckpt"))) == 4
    train(store, tmp_path / "run", keep_checkpoints=1)
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


def test_a_kill_while_a_new_checkpoint_takes_its_place_leaves_one_to_go_on_from(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
):
    replace = Path.replace
    calls = {"left": 0}

    def dying(self: Path, target: Path) -> Path:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise Killed
        return replace(self, target)

    parts = 0
    for count in (*range(1, 25), 10_000):
        calls["left"] = count
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dying)
            try:
                train(store, tmp_path / "run", keep_checkpoints=2)
            except Killed:
                parts += 1
        for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
            torch.load(path, weights_only=True)
    assert parts >= 5
    assert differences(what_is_left(tmp_path / "run"), whole) == []


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, whole: dict[str, Any], damage: str
):
    newest = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(Killed):
        train(store, tmp_path / "run", KillAt(10), keep_checkpoints=2)
    content = bytearray(newest.read_bytes())
    weights = last(tmp_path / "run")["state_dict"]["model.encoder.vit.blocks.0.mlp.fc1.weight"].numpy().tobytes()
    content[content.index(weights) + 5] ^= 1
    newest.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    train(store, tmp_path / "run", keep_checkpoints=2)
    assert "last.ckpt is damaged" in caplog.text
    assert (newest.parent / "last.ckpt.damaged").is_file()
    assert differences(what_is_left(tmp_path / "run"), whole) == []


def test_with_other_processes_than_before_the_epoch_is_begun_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    newest = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(Killed):
        train(store, tmp_path / "run", KillAt(8))
    content = last(tmp_path / "run")
    assert (content["epoch"], content["pacx"]["batches_done"]) == (1, 1)
    content["pacx"]["processes"] = 4
    torch.save(content, newest)
    _, trainer = train(store, tmp_path / "run")
    assert "written by 4 processes and is gone on with by 1" in caplog.text
    assert "Epoch 2 is begun again" in caplog.text
    assert trainer.global_step == STEPS + 1
    assert trainer.current_epoch == EPOCHS


class Rates(L.Callback):
    """Notes the learning rate of every step, by epoch."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # Lightning moves the schedule after this hook: the group still has the rate that the step was made with.
        self.seen.setdefault(trainer.current_epoch, []).append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("kill_at", [7, 8])
def test_with_other_processes_than_before_the_learning_rate_is_that_of_as_many_epochs(
    store: Store, tmp_path: Path, kill_at: int
):
    straight, resumed = Rates(), Rates()
    train(store, tmp_path / "straight", straight)
    with pytest.raises(Killed):
        train(store, tmp_path / "run", KillAt(kill_at))
    content = last(tmp_path / "run")
    # As four processes would have left it: fewer steps, and a peak scaled with a larger effective batch.
    content["pacx"]["processes"] = 4
    content["lr_schedulers"][0].update(last_epoch=2, base_lrs=[0.04, 0.04], _last_lr=[0.04, 0.04])
    for group in content["optimizer_states"][0]["param_groups"]:
        group.update(lr=0.04, initial_lr=0.04)
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    train(store, tmp_path / "run", resumed)
    assert resumed.seen == {epoch: straight.seen[epoch] for epoch in (1, 2)}
    assert len(set(resumed.seen[1])) == 5


@pytest.mark.parametrize(
    ("option", "message"),
    [({"accumulate": 0}, "accumulate is 0"), ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
     ({"minutes": -1}, "checkpoint_minutes is -1")],
)  # fmt: skip
def test_mistakes_are_explained(store: Store, tmp_path: Path, option: dict[str, Any], message: str):
    with pytest.raises(PacxError, match=message):
        train(store, tmp_path / "run", **option)


@pytest.mark.slow
def test_the_command_ends_with_143_or_130_and_the_same_command_goes_on(store: Store, tmp_path: Path):
    """The signals go to the whole process group, loader processes included, as a terminal and SLURM send them."""
    assert start(pretrain(store.path, tmp_path / "whole", 4), tmp_path / "whole").wait() == 0
    out = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(pretrain(store.path, out, 4), out)
        wait_for(out, 3, process)
        os.killpg(process.pid, number)
        assert process.wait() == code
    assert start(pretrain(store.path, out, 4), out).wait() == 0
    said = (tmp_path / "stderr").read_text()
    assert "Traceback" not in said
    assert said.count("Run the same command again to go on.") == 2
    assert differences(outcome(out), outcome(tmp_path / "whole")) == []


@pytest.mark.slow
def test_a_recipe_ends_with_143_and_goes_on_inside_its_step(store: Store, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    step = {"command": "pretrain", "store": str(store.path), "epochs": 4, **FLAGS}
    recipe.write_text(json.dumps({"steps": {"mae": step}}))
    out = tmp_path / "out" / "mae"
    arguments = ["run", str(recipe), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    process = start(arguments, out)
    wait_for(out, 3, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    reached = last(out)["global_step"]
    assert start(arguments, out).wait() == 0
    assert 3 <= reached < last(out)["global_step"] == 20
    assert start(pretrain(store.path, tmp_path / "whole", 4), tmp_path / "whole").wait() == 0
    assert differences(outcome(out), outcome(tmp_path / "whole")) == []


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path: Path):
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "20", "--out", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 20
    assert report["different"] == []
    assert report["newest_checkpoint_inside_an_epoch"] >= 10
