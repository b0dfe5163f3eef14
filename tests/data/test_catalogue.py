"""What `pacx data list` and `pacx data show` print."""

from __future__ import annotations

import pytest

from pacx.cli import main
from pacx.data.catalogue import card_of, describe_source, list_sources
from pacx.data.sources import SOURCES


def test_the_list_names_every_public_data_set_with_its_access(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    names = {name for name in SOURCES if card_of(name) is not None}
    assert set(list_sources()) == names
    lines = {line.split()[0]: line for line in printed.splitlines() if line}
    assert names <= set(lines)
    assert "112,120" in lines["nih"] and "open" in lines["nih"]
    assert "credentialed" in lines["medmod"]
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize("name", [name for name in SOURCES if card_of(name) is not None])
def test_all_that_is_known_is_shown(name: str) -> None:
    text, card = describe_source(name), card_of(name)
    assert card is not None
    assert f"Access: {card.access}" in text
    assert f"pacx prepare {name}" in text
    assert "Known faults" in text and "Citation:" in text
    assert max(map(len, text.splitlines())) <= 120


def test_showing_what_is_no_data_set_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "folder"]) == 2
    assert "no public data set. These are: chestx6" in " ".join(capsys.readouterr().err.split())
    assert main(["data"]) == 2
    assert "Did you mean data list or data show or data audit?" in " ".join(capsys.readouterr().err.split())
