import json
import logging
import math
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pacx.errors import PacxError
from pacx.runs import open_run
from pacx.stages.optimisation import parameter_groups, warmup_cosine
from pacx.stages.run import (
    best_path,
    clip_batch_size,
    epoch_table,
    fit,
    load_weights,
    make_trainer,
    resume_path,
    seed_everything,
)


class Toy(L.LightningModule):
    """A regression with dropout, whose validation loss is scripted."""

    def __init__(self, script: list[float]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.script = script
        self.seen_training: list[bool] = []
        self.outputs: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        self.seen_training.append(self.net[1].training)
        prediction = self.net(batch[0])
        self.outputs.append(prediction.detach().clone())
        loss = (prediction - batch[1]).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.script[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loader() -> DataLoader:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


def train(out: Path, script: list[float], *, resume=False, seed: int = 0, config: dict | None = None, **options):
    with open_run(out, command="toy", config={"a": 1, **(config or {})}) as run:
        run.read("store", path="here", hash="abc")
        checkpoint = resume_path(run, resume)
        seed_everything(seed)
        module = Toy(script)
        module.eval()
        trainer = make_trainer(run, epochs=len(script), seed=seed, accelerator="cpu", **options)
        fit(trainer, module, loader(), loader(), resume=checkpoint)
        return run, module, trainer


def test_learning_rate_rises_linearly_falls_as_a_cosine_and_ends_at_the_floor():
    rate = [warmup_cosine(step, warmup_steps=4, total_steps=14, floor=0.1) for step in range(15)]
    assert rate[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rate[9] == pytest.approx(0.55)  # half-way down
    assert rate[14] == pytest.approx(0.1)
    assert rate[11] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.7)))
    assert warmup_cosine(0, warmup_steps=0, total_steps=10) == 1.0
    assert warmup_cosine(99, warmup_steps=0, total_steps=10) == 0.0


def test_only_trainable_matrices_are_decayed():
    module = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2), "frozen": nn.Linear(2, 2)})
    module.register_parameter("cls_token", nn.Parameter(torch.zeros(1, 1, 2)))
    module.register_parameter("logit_scale", nn.Parameter(torch.zeros(())))
    module["frozen"].requires_grad_(False)
    decayed, plain = parameter_groups(module.named_parameters(), weight_decay=0.05)
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.05
    assert sorted(tuple(parameter.shape) for parameter in plain["params"]) == [(), (1, 1, 2), (2,), (2,), (2,)]
    assert plain["weight_decay"] == 0.0


def test_table_has_one_row_per_epoch_with_training_and_validation_side_by_side(tmp_path: Path):
    _, _, trainer = train(tmp_path / "run", [3.0, 2.0, 2.5])
    table = epoch_table(trainer)
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    header = lines[0].split(",")
    assert len(lines) == 4
    assert [line.split(",")[header.index("val_loss")] for line in lines[1:]] == ["3.0", "2.0", "2.5"]
    assert all(float(line.split(",")[header.index("train_loss")]) > 0 for line in lines[1:])
    assert [row["step"] for row in table.rows] == [2, 4, 6]
    assert table.best("val_loss") == 2.0
    assert table.last("val_loss") == 2.5
    assert math.isnan(table.last("nothing"))
    total = sum(row["images_per_second"] * row["train_seconds"] for row in table.rows)
    assert total == pytest.approx(24)  # 3 epochs of 8 images


def test_best_checkpoint_is_that_of_the_lowest_monitored_value(tmp_path: Path):
    run, module, _ = train(tmp_path / "run", [3.0, 2.0, 2.5])
    best = torch.load(best_path(run), weights_only=True)
    assert best["epoch"] == 1
    last = module.net[0].weight.clone()
    load_weights(module, best_path(run))
    assert torch.equal(module.net[0].weight, best["state_dict"]["net.0.weight"])
    assert not torch.equal(module.net[0].weight, last)
    unmonitored, _, _ = train(tmp_path / "other", [3.0, 2.0], monitor=None)
    assert best_path(unmonitored).name == "last.ckpt"


def test_epochs_that_could_not_be_judged_are_not_the_best_and_without_any_other_the_last_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("WARNING", logger="pacx"):
        some, _, _ = train(tmp_path / "some", [math.nan, 3.0, math.nan])
        assert torch.load(best_path(some), weights_only=True)["epoch"] == 1
        assert not any("could not choose" in line for line in caplog.messages)
        none, _, _ = train(tmp_path / "none", [math.nan, math.nan, math.nan])
    assert best_path(none).name == "last.ckpt"
    assert not (tmp_path / "none" / "checkpoints" / "best.ckpt").exists()
    assert sum("val_loss is not a number in any epoch" in line for line in caplog.messages) == 1


def test_modules_that_came_in_evaluation_mode_are_trained_in_training_mode(tmp_path: Path):
    _, module, _ = train(tmp_path / "run", [1.0, 1.0])
    assert module.seen_training == [True] * 4


def test_dropout_depends_on_seed_and_step_only(tmp_path: Path):
    _, first, _ = train(tmp_path / "a", [1.0, 1.0])
    torch.rand(17)
    _, second, _ = train(tmp_path / "b", [1.0, 1.0])
    assert all(torch.equal(a, b) for a, b in zip(first.outputs, second.outputs, strict=True))
    _, other, _ = train(tmp_path / "c", [1.0, 1.0], seed=1)
    assert not torch.equal(first.outputs[0], other.outputs[0])


def test_a_checkpoint_of_other_settings_or_inputs_is_not_gone_on_from(tmp_path: Path, caplog):
    out = tmp_path / "run"
    train(out, [1.0])
    (out / "checkpoints" / ".last.ckpt.x7").write_bytes(b"half")  # what a kill while saving leaves
    with open_run(out, command="toy", config={"a": 1, "workers": 8}) as run:
        run.read("store", path="moved", hash="abc")
        assert resume_path(run, "auto") == out / "checkpoints" / "last.ckpt"
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "made_by.json"]
    for config, digest in (({"a": 2}, "abc"), ({"a": 1}, "xyz")):
        with open_run(out, command="toy", config=config) as run:
            run.read("store", path="here", hash=digest)
            with pytest.raises(PacxError, match="other settings"):
                resume_path(run, True)
    with open_run(out, command="toy", config={"a": 2}) as run, caplog.at_level(logging.WARNING, "pacx"):
        run.read("store", path="here", hash="abc")
        assert resume_path(run, "auto") is None
    assert "starting anew" in caplog.text
    assert not (out / "checkpoints" / "last.ckpt").exists()
    assert (out / "checkpoints.old" / "last.ckpt").is_file()  # a mistyped flag costs nothing
    assert json.loads((out / "checkpoints" / "made_by.json").read_text())["config"] == {"a": 2}


def test_resume_false_starts_anew_and_true_needs_a_checkpoint(tmp_path: Path):
    train(tmp_path / "run", [1.0])
    with open_run(tmp_path / "run", command="toy", config={"a": 1}) as run:
        run.read("store", path="here", hash="abc")
        assert resume_path(run, False) is None
        with pytest.raises(PacxError, match="no checkpoint"):
            resume_path(run, True)


def test_a_damaged_or_malicious_checkpoint_is_refused(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    out = tmp_path / "run"
    train(out, [1.0, 1.0])
    last = out / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": Evil()}, last)
    with pytest.raises(PacxError, match="cannot be read"):
        train(out, [1.0, 1.0], resume="auto")
    assert not (tmp_path / "owned").exists()
    last.write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(PacxError, match="cannot be read"):
        train(out, [1.0, 1.0], resume="auto")


def test_nothing_but_our_own_lines_reaches_the_screen(tmp_path: Path, capfd, recwarn):
    train(tmp_path / "run", [1.0])
    out, err = capfd.readouterr()
    assert out == ""
    assert "GPU available" not in err
    assert "Tip" not in err
    assert [str(warning.message) for warning in recwarn if "lightning" in str(warning.filename)] == []


def test_batch_size_is_no_larger_than_the_rows():
    assert clip_batch_size(256, 40) == 40
    assert clip_batch_size(16, 40) == 16
    for batch_size, rows, message in ((0, 40, "batch_size is 0"), (8, 0, "no row to train on")):
        with pytest.raises(PacxError, match=message):
            clip_batch_size(batch_size, rows)
