"""The command line as a user meets it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from pacx import cli, commands
from pacx.commands import COMMANDS
from pacx.errors import PacxError


def test_the_overview_names_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from pacx.cli import main; main(['--help']);"
        "heavy = {'torch', 'numpy', 'pandas', 'jsonargparse', 'lightning'} & set(sys.modules);"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for name, command in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert command.about in done.stdout


def test_an_unknown_command_suggests_the_nearest_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrian"]) == 2
    message = capsys.readouterr().err
    assert "Did you mean pretrain" in message
    assert "Traceback" not in message


def test_an_unknown_flag_and_a_missing_one_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "demo", "--speed", "9"]) == 2
    assert "speed" in capsys.readouterr().err
    assert cli.main(["run"]) == 2
    assert "recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PacxError("the store has no labels"), "the store has no labels"),
        (OSError(errno.ENOSPC, "No space left on device", "images.npy"), "Free some space"),
        (OSError(errno.EACCES, "Permission denied", "runs"), "that you may read and write"),
    ],
)
def test_what_the_user_can_mend_is_one_paragraph(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*, out: Path = Path()) -> None:
        """Fail.

        Args:
            out: nowhere.
        """
        raise error

    monkeypatch.setattr(commands, "load", lambda _: fail)
    monkeypatch.setattr(cli, "load", lambda _: fail)
    assert cli.main(["doctor"]) == 2
    message = capsys.readouterr().err
    assert words in " ".join(message.split())
    assert "Traceback" not in message


def test_other_processes_of_a_training_say_who_they_are_and_nothing_of_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        """Fail."""
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", lambda _: fail)
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "3")
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == ""
    assert cli.main(["pretrian"]) == 2
    assert "pacx pretrian (process 3): error: There is no command" in capsys.readouterr().err


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        """Fail."""
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "load", lambda _: fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_doctor_tells_versions_and_cores(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "numpy" in text
    assert "cores" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrain --store x --size gigantic --out y",
         "--size gigantic is not allowed. Choose tiny, small, base, large or huge."),
        ("align --store s --encoder e --banks b --fit_on tset --out y",
         "--fit-on tset is not allowed. Choose train or val."),
        ("simulate --patients many --out y", "--patients many is not a whole number."),
        ("simulate --missing-ecg x --out y", "--missing-ecg x is not a number."),
        ("prepare table x --lab-window 3 --out y", "--lab-window [3] is not a pair of numbers."),
        ("distill --store x --encoder e --out y", "--banks is required."),
        ("prepare folder --out y", "root is required."),
        ("simulate --speed 3 --out y", "unrecognized arguments: --speed 3."),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_told_in_a_users_words(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    name = arguments.split()[0]
    text = " ".join(capsys.readouterr().err.split())
    assert text == f"pacx {name}: error: {message} See `pacx {name} --help`."
