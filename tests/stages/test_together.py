"""The processes that a training starts: none is missed, none is left, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from pacx.errors import PacxError
from pacx.stages import together
from pacx.stages.sharding import BlockSharding, choose_strategy
from pacx.stages.together import cluster_plugins, train_together


def other(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code])


def trainer(tmp_path: Path, **options: Any) -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path, **options)


def test_one_device_trains_in_this_process_from_the_given_checkpoint(tmp_path: Path) -> None:
    seen: list[object] = []
    train_together(trainer(tmp_path, devices=1), seen.append, resume=tmp_path / "last.ckpt")
    assert seen == [tmp_path / "last.ckpt"]


def test_a_process_that_was_started_beside_others_does_not_train_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variables in ({"RANK": "1", "WORLD_SIZE": "2"}, {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}):
        with monkeypatch.context() as patch:
            alone = trainer(tmp_path, devices=1)
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(PacxError, match="--devices"):
                train_together(alone, pytest.fail, resume=None)


def test_strategies_that_fork_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="notebook"):
        train_together(trainer(tmp_path, devices=2, strategy="ddp_fork"), pytest.fail, resume=None)


def test_ways_of_training_that_are_not_there_are_refused_by_name() -> None:
    assert choose_strategy("ddp", precision="16-mixed") == "ddp"
    assert isinstance(choose_strategy("fsdp", precision="auto"), BlockSharding)
    with pytest.raises(PacxError, match="'ddp_spawn'; pacx trains with one of: auto, ddp"):
        choose_strategy("ddp_spawn", precision="auto")
    with pytest.raises(PacxError, match="bf16-mixed"):
        choose_strategy("fsdp", precision="16-mixed")


def test_others_get_time_to_end_by_themselves_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "PATIENCE", 1.0)
    ending, stuck = other("import time; time.sleep(.1)"), other("import time; time.sleep(600)")
    together._Others([ending, stuck]).see_off()
    assert (ending.returncode, stuck.returncode) == (0, -9)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("raise SystemExit(3)", "Process 2 of the training ended with code 3 (see its message above). Run the same"),
        ("import os; os.kill(os.getpid(), 9)", "Process 2 of the training ended with code -9 (killed, often for want"),
        ("pass", ""),
    ],
)
def test_a_dead_process_is_named_with_its_exit_code(last: str, message: str) -> None:
    others = together._Others([other("pass"), other(last)])
    for process in others.processes:
        process.wait()
    found = others.first_dead()
    others.see_off()
    assert found is None if not message else str(found).startswith(message)


def test_a_broken_exchange_is_put_down_to_the_process_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_start", lambda _: [other("raise SystemExit(5)")])
    with pytest.raises(PacxError, match="Process 1 of the training ended with code 5"), together._company(object()):  # type: ignore[arg-type]
        raise RuntimeError("Connection closed by peer")
    monkeypatch.setattr(together, "_start", lambda _: [other("import time; time.sleep(600)")])
    monkeypatch.setattr(together, "PATIENCE", 0.1)
    with pytest.raises(RuntimeError, match="a bug of ours"), together._company(object()):  # type: ignore[arg-type]
        raise RuntimeError("a bug of ours")


@pytest.mark.parametrize(
    "said",
    ["[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation to complete",
     "Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
     "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:43729"],
)  # fmt: skip
def test_a_process_that_does_not_answer_is_told_from_an_error(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_start", lambda _: [other("import time; time.sleep(600)")])
    monkeypatch.setattr(together, "PATIENCE", 0.1)
    monkeypatch.setenv("PACX_TIMEOUT_MINUTES", "2.5")
    found = "has left" if "closed" in said else r"not answered for 2\.5 minutes"
    with pytest.raises(PacxError, match=found), together._company(object()):  # type: ignore[arg-type]
        raise RuntimeError(said)


def test_the_time_to_wait_for_an_answer_reaches_the_exchanges_and_must_be_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):
        pass

    def join() -> None:
        raise Reached

    monkeypatch.setattr(together, "_start", lambda _: [])
    for text, seconds in ((None, 600.0), ("0.5", 30.0)):
        if text is not None:
            monkeypatch.setenv("PACX_TIMEOUT_MINUTES", text)
        two = trainer(tmp_path, devices=2, strategy="ddp")
        monkeypatch.setattr(two.strategy, "setup_environment", join)
        with pytest.raises(Reached):
            train_together(two, pytest.fail, resume=None)
        assert two.strategy._timeout.total_seconds() == seconds  # type: ignore[attr-defined]
    for text in ("soon", "0", "-1", "nan"):
        monkeypatch.setenv("PACX_TIMEOUT_MINUTES", text)
        with pytest.raises(PacxError, match=f"PACX_TIMEOUT_MINUTES is '{text}'"):
            train_together(trainer(tmp_path, devices=2, strategy="ddp"), pytest.fail, resume=None)


def test_what_lightning_left_in_the_environment_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1234")

    def start(_: object) -> list[object]:
        os.environ.update({"LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "999"})
        return []

    monkeypatch.setattr(together, "_start", start)
    with together._company(object()):  # type: ignore[arg-type]
        assert os.environ["LOCAL_RANK"] == "0"
        assert os.environ["PACX_LEADER"] == str(os.getpid())
    assert os.environ["MASTER_PORT"] == "1234"
    assert not {"LOCAL_RANK", "PACX_LEADER"} & os.environ.keys()


def test_under_slurm_lightning_does_not_save_and_requeue_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_plugins() == []
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(PacxError, match="--ntasks-per-node"):
        cluster_plugins()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert [plugin.auto_requeue for plugin in cluster_plugins()] == [False]


@pytest.mark.slow
def test_a_process_that_waits_for_a_dead_one_for_ever_is_ended() -> None:
    script = (
        "import subprocess, sys, time\n"
        "from pacx.stages import together\n"
        "together.PATIENCE = 0.2\n"
        "together._Others([subprocess.Popen([sys.executable, '-S', '-c', 'raise SystemExit(3)'])])\n"
        "time.sleep(600)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Process 1 of the training ended with code 3" in done.stderr
