"""The run folder: atomic, never overwritten unasked, finished only when result.json is there."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pacx.errors import PacxError
from pacx.runs import open_run, plain, read_result, write_text


def test_a_finished_run_tells_its_command_config_and_results(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", command="probe", config={"seed": 3, "out": tmp_path}) as run:
        run.read("store", name="toy", hash="abc")
        run.artefact("encoder", "encoder")
        run.figure("overlay.png", caption="an overlay")
        run.finish({"auroc": np.float32(0.5)})
    result = read_result(tmp_path / "run")
    assert result["command"] == "probe"
    assert result["config"] == {"seed": 3}
    assert result["inputs"] == {"store": {"name": "toy", "hash": "abc"}}
    assert result["artefacts"] == {"encoder": "encoder"}
    assert result["figures"] == [{"path": "figures/overlay.png", "caption": "an overlay"}]
    assert result["results"] == {"auroc": 0.5}
    assert result["seconds"] >= 0
    assert result["peak_memory_mib"] > 1


def test_an_interrupted_run_may_be_opened_again_and_a_finished_one_may_not(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power cut"), open_run(out, command="x", config={}):
        raise RuntimeError("power cut")
    with open_run(out, command="x", config={}) as run:
        run.finish({})
    with pytest.raises(PacxError, match="already holds a finished run"), open_run(out, command="x", config={}):
        pass


def _finished(out: Path, *, seed: int) -> None:
    with open_run(out, command="x", config={"seed": seed}, overwrite=True) as run:
        run.artefact("weights", f"teacher/{seed}.txt").write_text(str(seed), encoding="utf-8")
        run.finish({"seed": seed})


def test_overwrite_replaces_a_finished_run_once_the_new_one_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _finished(out, seed=1)
    with open_run(out, command="x", config={"seed": 2}, overwrite=True) as run:
        assert not (out / "teacher").exists()
        assert (out / ".replaced" / "teacher" / "1.txt").is_file()
        run.finish({"seed": 2})
    assert sorted(path.name for path in out.iterdir()) == [".lock", "config.yaml", "log.txt", "result.json"]
    assert read_result(out)["results"] == {"seed": 2}


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "{out}"},
        {"encoder": "random:{out}/teacher:3"},
        {"encoder": "{link}/teacher/1.txt"},
        {"banks": [Path("elsewhere"), Path("{out}/teacher")]},
        {"runs": ["{out}/../run"]},
        {"like": Path("{link}")},
    ],
)
def test_inputs_in_the_run_that_is_to_be_replaced_are_refused(tmp_path: Path, given: dict[str, object]) -> None:
    out, link = tmp_path / "run", tmp_path / "link"
    _finished(out, seed=1)
    link.symlink_to(out)

    def filled(value: object) -> object:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return type(value)(str(value).format(out=out, link=link))

    config = {name: filled(value) for name, value in given.items()}
    with (
        pytest.raises(PacxError, match=r"lies in --out, which --overwrite would replace. Choose another --out"),
        open_run(out, command="x", config=config, overwrite=True),
    ):
        pass
    assert read_result(out)["results"] == {"seed": 1}
    assert (out / "teacher" / "1.txt").is_file()


def test_only_inputs_of_a_finished_run_keep_it_from_being_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("ecg")
    (tmp_path / "ecg-2").mkdir()
    config = {
        "name": "ecg", "kind": "ecg", "source": "ecg", "store": tmp_path, "teacher": Path("ecg-2"), "seed": 0,
        "encoder": "timm:ecg", "out": out, "ids": None,
    }  # fmt: skip
    for _ in range(2):
        with open_run(out, command="prepare", config=config, overwrite=True) as run:
            run.finish({})
    with (
        pytest.raises(PacxError, match="lies in --out"),
        open_run(out, command="convert", config=config, overwrite=True),
    ):
        pass
    with open_run(out, command="report", config={"runs": [Path("ecg"), Path("ecg-2")]}, overwrite=True) as run:
        run.finish({})
    (out / "result.json").unlink()  # interrupted: nothing is put aside
    with open_run(out, command="convert", config=config, overwrite=True) as run:
        run.finish({})
    assert read_result(out)["command"] == "convert"


def test_a_run_that_fails_before_it_makes_anything_leaves_the_finished_one_that_it_was_to_replace(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    _finished(out, seed=1)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with (
        pytest.raises(PacxError, match="no such store"),
        open_run(out, command="x", config={"seed": 2}, overwrite=True),
    ):
        raise PacxError("There is no such store.")
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("moved", range(5))
def test_a_kill_while_a_finished_run_is_moved_aside_or_back_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    out = tmp_path / "run"
    _finished(out, seed=1)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    rename, left = Path.rename, [moved]

    def dying(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rename(self, target)

    for _ in range(2):  # on the way out, then on the way back
        left[0] = moved
        with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, PacxError)):
            patch.setattr(Path, "rename", dying)
            with open_run(out, command="x", config={"seed": 2}, overwrite=True):
                raise PacxError("There is no such store.")
    with pytest.raises(PacxError), open_run(out, command="x", config={"seed": 2}, overwrite=True):
        raise PacxError("There is no such store.")
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_was_replaced_is_kept_until_the_interrupted_new_one_is_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    _finished(out, seed=1)
    with pytest.raises(RuntimeError), open_run(out, command="x", config={"seed": 2}, overwrite=True) as run:
        run.artefact("checkpoint", "checkpoints/last.ckpt").write_text("half", encoding="utf-8")
        raise RuntimeError("power cut")
    assert "that was to be replaced is in" in caplog.text
    assert (out / ".replaced" / "teacher" / "1.txt").is_file()
    with open_run(out, command="x", config={"seed": 2}) as run:
        assert (out / "checkpoints" / "last.ckpt").is_file()
        run.finish({})
    assert not (out / ".replaced").exists()


def test_a_command_that_is_refused_leaves_no_folder_but_one_that_made_something_does(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="no such encoder"), open_run(tmp_path / "a", command="x", config={}):
        raise PacxError("There is no such encoder.")
    assert not (tmp_path / "a").exists()
    with pytest.raises(PacxError), open_run(tmp_path / "b", command="x", config={}) as run:
        run.artefact("checkpoint", "checkpoints/last.ckpt").write_bytes(b"an hour of work")
        raise PacxError("The loss is no number.")
    assert (tmp_path / "b" / "checkpoints" / "last.ckpt").is_file()
    with pytest.raises(KeyError), open_run(tmp_path / "c", command="x", config={}):
        raise KeyError("a bug of ours, whose log may help")
    assert (tmp_path / "c" / "log.txt").is_file()
    (tmp_path / "d").mkdir()
    with pytest.raises(PacxError), open_run(tmp_path / "d", command="x", config={}):
        raise PacxError("There is no such encoder.")
    assert (tmp_path / "d").is_dir(), "it was there before"


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    for overwrite in (False, True):
        with (
            pytest.raises(PacxError, match="not made by pacx"),
            open_run(tmp_path, command="x", config={}, overwrite=overwrite),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from pacx.runs import open_run\n"
        "with open_run(Path(sys.argv[1]), command='x', config={'a': 1}): print('open', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    config = (out / "config.yaml").read_text(encoding="utf-8")
    with (
        pytest.raises(PacxError, match=f"is being written by process {other.pid}"),
        open_run(out, command="x", config={"a": 2}, overwrite=True),
    ):
        pass
    assert (out / "config.yaml").read_text(encoding="utf-8") == config
    other.kill()  # no chance to tidy up
    other.communicate()
    with open_run(out, command="x", config={"a": 2}) as run:
        run.finish({})


def test_a_run_that_was_killed_before_it_wrote_anything_may_be_opened(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on earth", encoding="utf-8")
    with open_run(tmp_path, command="x", config={}) as run:
        run.finish({"done": 1})
    assert read_result(tmp_path)["results"] == {"done": 1}


@pytest.mark.parametrize(
    ("config", "joint"),
    [
        ({"devices": "2"}, True),
        ({"devices": "auto"}, True),
        ({"devices": "1", "num_nodes": 2}, True),
        ({"devices": "1", "num_nodes": 1}, False),
        ({"devices": 1}, False),
        ({"seed": 1}, False),  # a command that several processes cannot share
    ],
)
def test_of_several_processes_that_train_together_one_writes(
    config: dict[str, object], joint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("pacx")
    monkeypatch.setenv("RANK", "1")
    out = tmp_path / "run"
    with open_run(out, command="x", config=config) as run:
        assert run.first == (not joint)
        assert out.exists() == (not joint)
        assert log.isEnabledFor(logging.WARNING) == (not joint)
    monkeypatch.setenv("RANK", "0")
    with open_run(out, command="x", config=config) as run:
        assert run.first
        run.finish({})
    monkeypatch.setenv("RANK", "1")
    if joint:  # it does not mind what is there
        with open_run(out, command="x", config=config) as run:
            assert run.path == out


def test_reading_an_unfinished_or_foreign_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="no finished run"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"schema_version": 99}), encoding="utf-8")
    with pytest.raises(PacxError, match="schema version 99"):
        read_result(tmp_path)


def test_plain_turns_everything_into_json_and_nan_into_null() -> None:
    @dataclass
    class Point:
        x: float
        path: Path

    value = {"point": Point(math.nan, Path("a")), "array": np.array([1, 2]), 3: (np.int64(1), True, None, math.inf)}
    assert plain(value) == {"point": {"x": None, "path": "a"}, "array": [1, 2], "3": [1, True, None, None]}


def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("name", "number"), [("draws", -1), ("draws", 0), ("batch_size", 0)])
def test_numbers_that_count_something_are_refused_before_a_folder_is_made(
    tmp_path: Path, name: str, number: int
) -> None:
    with (
        pytest.raises(PacxError, match=f"{name} is {number}; it must be 1 or more"),
        open_run(tmp_path / "run", command="probe", config={name: number}),
    ):
        pass
    assert not (tmp_path / "run").exists()
