"""Every `pacx ...` line in README, docs and docstrings is one that the command line takes; Python examples run."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.dicom_files import dicom_bytes, make_dicom

pytest.importorskip("lightning")

from pacx.commands import COMMANDS, build_parser, friendly_arguments, load, split_name

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _console_lines(text: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("pacx ")]


LINES = sorted({line for page in PAGES for line in _console_lines(page.read_text(encoding="utf-8"))} - {"pacx --help"})


@pytest.mark.parametrize("line", LINES)
def test_a_documented_command_is_one_that_pacx_takes(line: str) -> None:
    name, arguments = split_name(shlex.split(line)[1:])
    function = load(name)
    parsed = build_parser(name, function).parse_args(friendly_arguments(function, arguments))
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}
    assert flags <= set(vars(parsed))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_one_that_it_takes(name: str) -> None:
    function = load(name)
    text = (inspect.getdoc(function) or "").replace("\\\n", " ")
    found = re.search(rf"Example:\s+pacx ({name}.*)", text)
    assert found, f"{name} has no example"
    _, arguments = split_name(shlex.split(found[1]))
    build_parser(name, function).parse_args(friendly_arguments(function, arguments))


def test_the_readme_names_the_two_commands_to_start_with() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in text
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in (ROOT / "README.md", ROOT / "docs" / "using.md", ROOT / "docs" / "api.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_documented_example_in_python_runs_as_written(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = np.random.default_rng(0).integers(0, 4096, (90, 80)).astype(np.uint16)
    (tmp_path / "chest.dcm").write_bytes(dicom_bytes(make_dicom(levels, bits=12)))
    Image.fromarray((levels >> 4).astype(np.uint8)).save(tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["features"].dtype == np.float32
    assert names["features"].shape[1] == names["encoder"].config.width
