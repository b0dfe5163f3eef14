"""The other training commands, killed and gone on with. They share the loop of `test_resume.py`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from resuming import KillAt, Killed, differences, what_is_left
from teacher_store import make_store

from pacx.data.store import Store
from pacx.stages import distill as distill_stage
from pacx.stages import fit_ecg as fit_ecg_stage
from pacx.stages import fit_labs as fit_labs_stage
from pacx.stages import segment as segment_stage

Command = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores") / "toy")


def assert_parts_equal_the_whole(
    stage: Any, command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, *, kill_at: int, accumulate: int = 1
) -> None:
    """Run once through and once killed again and again; compare checkpoints, table and results."""
    make_trainer = partial(stage.make_trainer, accumulate=accumulate)
    monkeypatch.setattr(stage, "make_trainer", make_trainer)
    whole = command(out=folder / "whole")["results"]
    interruptions = 0
    while True:
        killer = KillAt(kill_at)
        monkeypatch.setattr(stage, "make_trainer", partial(make_trainer, checkpoint_minutes=0, callbacks=[killer]))
        try:
            parts = command(out=folder / "parts")["results"]
        except Killed:
            interruptions += 1
            assert interruptions < 50
        else:
            break
    assert interruptions >= 2
    assert differences(what_is_left(folder / "parts"), what_is_left(folder / "whole")) == []
    for results in (whole, parts):
        results.pop("images_per_second", None)
    assert parts == whole


def test_distillation_with_dropout_and_lora_and_accumulated_steps(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = partial(
        distill_stage.distill, store=pairs.path, encoder=str(encoder_path), banks=banks, epochs=2, batch_size=60,
        warmup_epochs=1.0, shared_width=16, accelerator="cpu", learning_rate=3e-3,
    )  # fmt: skip
    assert_parts_equal_the_whole(distill_stage, command, tmp_path, monkeypatch, kill_at=3, accumulate=2)


def test_the_ecg_teacher_with_its_augmentation(teachers: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = partial(
        fit_ecg_stage.fit_ecg, store=teachers.path, group="physiology", rate=100, epochs=2, batch_size=8,
        warmup_epochs=1.0, accelerator="cpu", workers=1,
    )  # fmt: skip
    assert_parts_equal_the_whole(fit_ecg_stage, command, tmp_path, monkeypatch, kill_at=4)


def test_the_ecg_teacher_without_labels_with_its_windows_and_masks(
    teachers: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = partial(
        fit_ecg_stage.fit_ecg, store=teachers.path, objective="self-supervised", crop=0.5, epochs=2, batch_size=16,
        warmup_epochs=1.0, accelerator="cpu", workers=1,
    )  # fmt: skip
    assert_parts_equal_the_whole(fit_ecg_stage, command, tmp_path, monkeypatch, kill_at=3)


def test_the_labs_teacher_with_its_hidden_entries(teachers: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = partial(
        fit_labs_stage.fit_labs, store=teachers.path, epochs=3, batch_size=8, warmup_steps=2, accelerator="cpu",
    )  # fmt: skip
    assert_parts_equal_the_whole(fit_labs_stage, command, tmp_path, monkeypatch, kill_at=4)


def test_segmentation_with_its_remembered_tokens(
    pairs: Store, encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = partial(
        segment_stage.segment, store=pairs.path, encoder=str(encoder_path), mask="blob", epochs=2, batch_size=40,
        warmup_epochs=1.0, accelerator="cpu",
    )  # fmt: skip
    assert_parts_equal_the_whole(segment_stage, command, tmp_path, monkeypatch, kill_at=6)
