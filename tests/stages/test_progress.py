"""What a run says about itself: the table, the line per epoch, the scalars in TensorBoard."""

import logging
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pacx.stages import pace, progress
from pacx.stages.pace import Pace, describe_peak, matmul_flops
from pacx.stages.progress import MEASURED, EpochTable

LOAD, STEP = 3.0, 1.0  # seconds on the test's own clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless a test moves it."""
    fake = SimpleNamespace(now=100.0)
    fake.perf_counter = lambda: fake.now
    monkeypatch.setattr(progress, "time", fake)
    monkeypatch.setattr(pace, "time", fake)
    return fake


class Rows(Dataset):
    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        self.clock.now += LOAD / 2  # batches of two
        return {"x": torch.full((1,), float(row))}


class Toy(L.LightningModule):
    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.clock = clock
        self.net = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.clock.now += STEP
        loss = self.net(batch["x"]).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SlowCheckpoint(L.Callback):
    """Takes its time between two batches, as a checkpoint does; that is no waiting for data."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.clock.now += 2.0


def train(out: Path, clock: SimpleNamespace, *, epochs: int = 2, flops: int = 0, callbacks=(), resume=None):
    table = EpochTable(out / "metrics.csv", name="toy")
    if flops:
        table.count_flops(flops)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[table, *callbacks], enable_progress_bar=False,
        logger=TensorBoardLogger(out, name="tensorboard", version=""), enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Toy(clock), DataLoader(Rows(clock), batch_size=2), ckpt_path=resume, weights_only=True)
    return table, trainer


def test_speed_and_waiting_are_what_the_clock_says(tmp_path: Path, clock: SimpleNamespace):
    table, _ = train(tmp_path, clock)
    for row in table.rows:
        assert row["train_seconds"] == pytest.approx(3 * (LOAD + STEP))
        assert row["data_wait"] == pytest.approx(LOAD / (LOAD + STEP))
        assert row["images_per_second"] == pytest.approx(2 / (LOAD + STEP))
        assert "flop_utilisation" not in row
    assert table.images_per_second == pytest.approx(2 / (LOAD + STEP))


def test_writing_a_checkpoint_between_batches_is_neither_training_nor_waiting_for_data(
    tmp_path: Path, clock: SimpleNamespace
):
    table, _ = train(tmp_path, clock, callbacks=[SlowCheckpoint()], epochs=1)
    (row,) = table.rows
    assert row["train_seconds"] == pytest.approx(3 * (LOAD + STEP))
    assert row["images_per_second"] == pytest.approx(2 / (LOAD + STEP))
    assert row["data_wait"] * row["train_seconds"] == pytest.approx(3 * LOAD)
    assert row["epoch_seconds"] == pytest.approx(3 * (LOAD + STEP + 2.0))


def test_time_left_follows_the_median_of_the_last_epochs(
    tmp_path: Path, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
):
    class OneSlowEpoch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            clock.now += 100.0 if trainer.current_epoch == 2 else 0.0

    with caplog.at_level(logging.INFO, "pacx"):
        train(tmp_path, clock, epochs=4, callbacks=[OneSlowEpoch()])
    lines = [record.getMessage() for record in caplog.records if record.name == "pacx"]
    assert [line.rsplit("  ", 1)[1] for line in lines] == ["36 s left", "24 s left", "12 s left", "0 s left"]


def test_utilisation_is_the_model_arithmetic_over_the_measured_peak(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(progress, "matmul_flops", lambda device, precision: 4e9)
    with caplog.at_level(logging.INFO, "pacx"):
        table, _ = train(tmp_path, clock, flops=1_000_000_000)
    assert table.last("flop_utilisation") == pytest.approx(2 / (LOAD + STEP) * 1e9 / 4e9)
    first, *lines = [record.getMessage() for record in caplog.records if record.name == "pacx"]
    assert first == "toy: 1 GFLOP per image; utilisation is of 4 GFLOP/s, " + describe_peak(
        torch.device("cpu"), "32-true"
    )
    assert "0.5 images/s  data wait 75%  FLOPs 12%" in lines[0]
    assert lines[0].endswith("12 s left")  # one more epoch like the first
    assert lines[1].endswith("0 s left")


def test_learning_rate_and_speed_are_in_tensorboard(tmp_path: Path, clock: SimpleNamespace):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, clock)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"learning_rate", "train_loss", "speed/images_per_second", "speed/data_wait"} <= tags
    assert [event.step for event in events.Scalars("speed/images_per_second")] == [3, 6]
    assert events.Scalars("learning_rate")[0].value == pytest.approx(0.01)


def test_an_epoch_that_goes_on_after_an_interruption_is_counted_whole(tmp_path: Path, clock: SimpleNamespace):
    class SaveInside(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    whole, _ = train(tmp_path / "a", clock, callbacks=[SaveInside()])
    clock.now += 1000.0
    parts, _ = train(tmp_path / "b", clock, resume=tmp_path / "inside.ckpt")
    assert parts.rows[0] == whole.rows[0]
    for measured in ("images_per_second", "data_wait", "train_seconds", "epoch_seconds"):
        assert parts.last(measured) == pytest.approx(whole.last(measured)), measured
    assert parts.last("step") == 6


def test_means_count_epochs_by_their_training_time(tmp_path: Path):
    table = EpochTable(tmp_path / "metrics.csv", name="toy")
    assert table.images_per_second == 0.0
    table.rows = [{"train_seconds": 1.0, "data_wait": 0.5}, {"train_seconds": 3.0, "data_wait": 0.1}]
    assert table.mean("data_wait") == pytest.approx(0.2)
    assert table.mean("flop_utilisation") != table.mean("flop_utilisation")  # NaN: not measured


def test_the_table_says_which_columns_are_measurements(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "matmul_flops", lambda device, precision: 1.0)
    table, _ = train(tmp_path, clock, flops=1)
    assert set(table.rows[0]) - set(MEASURED) == {"epoch", "step", "train_loss", "learning_rate"}


def test_an_epoch_of_no_time_has_no_speed():
    assert (Pace().images_per_second, Pace().data_wait) == (0.0, 0.0)


def test_the_yardstick_is_measured_once_and_draws_nothing_at_random():
    device = torch.device("cpu")
    before = torch.get_rng_state()
    first = matmul_flops(device, "32-true")
    assert first > 1e8
    assert matmul_flops(device, "32-true") == first
    assert torch.equal(torch.get_rng_state(), before)
    assert describe_peak(device, "bf16-mixed").startswith(
        f"measured with a bfloat16 matrix product on {torch.get_num_threads()} CPU thread"
    )
