import json
import logging

import numpy as np
import pytest

from pacx.data import bank_writer
from pacx.data.bank import Bank
from pacx.data.bank_writer import BankWriter
from pacx.errors import PacxError

PRESENT = np.array([True, True, False, True, False, True, True])
ROWS = np.flatnonzero(PRESENT)
VALUES = np.arange(21, dtype=np.float32).reshape(7, 3)
IDS = list("abcdefg")
PLAN = {"teacher": "t", "kind": "k", "num_rows": 7, "dim": 3, "store": {"name": "s", "hash": "h"}}


class Killed(Exception):
    pass


def fill(folder, *, plan=PLAN, resume="auto", batch=2, stop_before=None):
    """Write a bank in batches; with `stop_before`, die before that row instead."""
    writer = BankWriter(folder, plan, resume=resume)
    begun = writer.done
    while not writer.complete and writer.done < len(ROWS):
        if stop_before is not None and writer.done >= stop_before:
            raise Killed
        rows = ROWS[writer.done : writer.done + batch]
        writer.write(rows, VALUES[rows])
    if not writer.complete:
        writer.finish(PRESENT, IDS, {"more": 1})
    return begun


@pytest.fixture(autouse=True)
def every_write_is_recorded(monkeypatch):
    monkeypatch.setattr(bank_writer, "_SECONDS_BETWEEN_RECORDS", 0.0)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bank_holds_each_embedding_in_its_row_and_zeros_elsewhere(tmp_path):
    fill(tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank")
    np.testing.assert_array_equal(bank.embeddings, VALUES * PRESENT[:, None])
    np.testing.assert_array_equal(bank.present, PRESENT)
    assert bank.image_ids == tuple(IDS)
    assert {key: bank.meta[key] for key in PLAN} == PLAN and bank.meta["more"] == 1
    assert not (tmp_path / "bank" / ".partial").exists()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_bank_that_was_killed_anywhere_ends_like_one_that_was_not(tmp_path, batch):
    fill(tmp_path / "whole", batch=batch)
    for stop in range(1, len(ROWS)):
        folder = tmp_path / f"killed-{stop}"
        with pytest.raises(Killed):
            fill(folder, batch=1, stop_before=stop)
        with pytest.raises(PacxError, match="not a teacher bank"):
            Bank.open(folder)
        assert fill(folder, batch=batch) == stop
        assert content(folder) == content(tmp_path / "whole")


def test_a_kill_between_the_data_and_its_record_repeats_the_rows(tmp_path, monkeypatch):
    fill(tmp_path / "whole")
    write_json = bank_writer.write_json

    def die_at_the_second_record(path, content):
        if content == {"done": 4}:
            raise Killed
        write_json(path, content)

    monkeypatch.setattr(bank_writer, "write_json", die_at_the_second_record)
    with pytest.raises(Killed):
        fill(tmp_path / "bank")
    monkeypatch.setattr(bank_writer, "write_json", write_json)
    assert fill(tmp_path / "bank") == 2
    assert content(tmp_path / "bank") == content(tmp_path / "whole")


@pytest.mark.parametrize("moves", range(5))
def test_a_kill_while_the_files_move_into_place_is_mended(tmp_path, monkeypatch, moves):
    fill(tmp_path / "whole")
    folder, replace = tmp_path / "bank", bank_writer.Path.replace
    writer = BankWriter(folder, PLAN)
    writer.write(ROWS, VALUES[ROWS])
    moved = []

    def dying(self, target):
        if target.parent == folder:
            if len(moved) == moves:
                raise Killed
            moved.append(target.name)
        return replace(self, target)

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bank_writer.Path, "replace", dying)
        patch.setattr(bank_writer.shutil, "rmtree", killed)  # after the last file has moved
        writer.finish(PRESENT, IDS, {"more": 1})
    assert len(moved) == moves
    assert (folder / "meta.json").is_file() == (moves == 4)
    assert fill(folder) == len(ROWS)
    assert content(folder) == content(tmp_path / "whole")


def test_a_bank_that_was_whole_before_the_kill_is_not_made_again(tmp_path):
    fill(tmp_path)
    assert BankWriter(tmp_path, PLAN).complete
    assert not BankWriter(tmp_path, {**PLAN, "dim": 4}).complete
    with pytest.raises(PacxError, match="not a teacher bank"):
        Bank.open(tmp_path)


def test_another_plan_starts_anew_and_says_so(tmp_path, caplog):
    with pytest.raises(Killed):
        fill(tmp_path, stop_before=2)
    other = {**PLAN, "weights_hash": "new", "store": {"name": "s", "hash": "changed"}}
    with pytest.raises(PacxError, match=r"begun with other inputs or settings \(different: store, weights_hash\)"):
        fill(tmp_path, plan=other, resume=True)
    with caplog.at_level(logging.WARNING, logger="pacx"):
        assert fill(tmp_path, plan=other) == 0
    assert "store, weights_hash" in caplog.text and "starting anew" in caplog.text
    assert Bank.open(tmp_path).meta["weights_hash"] == "new"


def test_starting_anew_can_be_asked_for_and_going_on_demanded(tmp_path):
    with pytest.raises(PacxError, match="no unfinished bank"):
        fill(tmp_path / "bank", resume=True)
    with pytest.raises(Killed):
        fill(tmp_path / "bank", stop_before=2)
    assert fill(tmp_path / "bank", resume=False) == 0


def test_a_full_disk_is_a_users_error(tmp_path, monkeypatch):
    with pytest.raises(PacxError, match=r"needs 4000\.00 GB"):
        BankWriter(tmp_path / "bank", {**PLAN, "num_rows": 10**9, "dim": 1000})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_writer.os, "pwrite", full)
    with pytest.raises(PacxError, match="is full"):
        fill(tmp_path / "bank2")


def test_the_record_is_behind_the_data_never_ahead(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(bank_writer.os, "fsync", lambda handle: seen.append("data"))
    monkeypatch.setattr(bank_writer, "write_json", lambda path, content: seen.append(json.dumps(content)))
    writer = BankWriter(tmp_path, PLAN)
    seen.clear()
    writer.write(ROWS[:2], VALUES[ROWS[:2]])
    assert seen == ["data", '{"done": 2}']
