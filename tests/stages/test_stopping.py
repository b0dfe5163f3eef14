"""Signals: noted by us alone, from before the first batch on, and obeyed even where no Python runs."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

sys.path.insert(0, str(Path(__file__).parent))

from conftest import make_store
from resuming import train

from pacx.data.store import Store
from pacx.stages import stopping
from pacx.stages.saving import Checkpoints
from pacx.stages.stopping import Stopped, StopRequest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores") / "toy")


class AtStart(L.Callback):
    """Looks on, and gets a SIGTERM, after all that is exchanged before the first batch."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.connector = trainer._signal_connector
        self.handler: Any = signal.getsignal(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_before_the_first_batch_is_noted_by_us_alone_and_obeyed_after_the_first_step(
    store: Store, tmp_path: Path
) -> None:
    seen = AtStart()
    with pytest.raises(Stopped):
        train(store, tmp_path / "run", seen, minutes=1e6)
    assert isinstance(seen.connector, StopRequest)
    assert seen.handler == seen.connector._note  # Lightning's would call the other processes from inside the handler
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1


def test_lightning_gets_its_handlers_back_after_training_and_asks_nobody_before_a_batch(
    store: Store, tmp_path: Path
) -> None:
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")  # else what is replaced has another name now
    _, trainer = train(store, tmp_path / "run", minutes=1e6)
    assert type(trainer._signal_connector) is _SignalConnector
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor.__module__ == "pacx.stages.stopping"
    assert any(isinstance(callback, Checkpoints) for callback in trainer.callbacks)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_process_that_waits_in_an_exchange_for_ever(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    codes: list[int] = []

    def leave(code: int) -> None:  # instead of ending the test, let go of the main thread
        codes.append(code)
        libc.pthread_mutex_unlock(mutex)

    def send() -> None:
        for _ in range(2):
            time.sleep(0.1)  # two signals of a kind at the same moment would be one
            os.kill(os.getpid(), number)

    monkeypatch.setattr(stopping, "PATIENCE", 0.1)
    monkeypatch.setattr(os, "_exit", leave)
    stop = StopRequest()
    stop.register_signal_handlers()
    try:
        libc.pthread_mutex_lock(mutex)
        threading.Thread(target=send).start()
        with caplog.at_level(logging.ERROR, "pacx"):
            libc.pthread_mutex_lock(mutex)  # held by ourselves: waits outside of Python, and no signal interrupts it
    finally:
        stop.teardown()
    assert codes == [code]
    assert "Run the same command again to go on." in caplog.text


def test_one_signal_alone_never_ends_the_process_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 0.0)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("ended by force"))
    stop = StopRequest()
    stop.register_signal_handlers()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    finally:
        stop.teardown()
    assert stop.signal is signal.SIGTERM


def test_handlers_and_threads_are_gone_afterwards_and_forked_loaders_write_nowhere() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = StopRequest()
    stop.register_signal_handlers()
    child = os.fork()
    if child == 0:
        os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.teardown()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    deadline = time.monotonic() + 30
    while any(thread.name == "pacx-signals" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "pacx-signals" for thread in threading.enumerate())
