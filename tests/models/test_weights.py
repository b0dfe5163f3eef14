"""Weights on disk, for any module: types kept, folders whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pacx.errors import PacxError
from pacx.models.weights import load_weights, new_folder, save_weights, weights_hash


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))


def test_counters_stay_whole_numbers_and_half_precision_becomes_single(tmp_path: Path) -> None:
    source, target = network(), network()
    source[1].num_batches_tracked.fill_(7)
    save_weights(source.half(), tmp_path / "model.safetensors")
    load_weights(target, tmp_path / "model.safetensors")
    assert target[1].num_batches_tracked.dtype == torch.int64
    assert target[1].num_batches_tracked.item() == 7
    assert target[0].weight.dtype == torch.float32
    assert weights_hash(target) == weights_hash(source.float())


def test_a_block_that_fails_leaves_no_folder_and_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "model") as filling:
        (filling / "config.json").write_text("{}")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(PacxError, match="cannot be written"), new_folder(tmp_path / "notes" / "model"):
        pass


def test_long_lists_of_keys_are_cut_with_their_number(tmp_path: Path) -> None:
    save_weights(nn.Sequential(*(nn.Linear(1, 1) for _ in range(9))), tmp_path / "model.safetensors")
    with pytest.raises(PacxError, match=r"18 unexpected: .*and 6 more"):
        load_weights(nn.Sequential(), tmp_path / "model.safetensors")
