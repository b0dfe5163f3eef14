"""The worked example of docs/teachers.md: the table it makes is imported, and (slow) every command runs as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.bank import Bank
from pacx.data.phantom.cohort import simulate
from pacx.data.store import Store
from pacx.stages.bank import bank

PAGE = Path(__file__).parents[2] / "docs" / "teachers.md"
EXAMPLE = PAGE.read_text(encoding="utf-8").partition("## A third teacher")[2]
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", EXAMPLE, flags=re.DOTALL)


def test_the_echo_of_the_page_becomes_a_bank_with_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    simulate(patients=9, size=32, workers=1, out=Path("runs/simulate"))
    exec(next(code for language, code in BLOCKS if language == "python"), {})
    bank(store=Path("runs/simulate"), embeddings=[Path("echo.parquet")], name="echo", out=Path("bank"))
    made, store = Bank.open(tmp_path / "bank"), Store.open("runs/simulate")
    made.check(store)
    echo = pd.read_parquet("echo.parquet").set_index("image_id")["embedding"]
    assert store.manifest.loc[made.present, "patient_id"].nunique() == 3
    for row in np.flatnonzero(made.present):
        np.testing.assert_allclose(made.embeddings[row], echo[made.image_ids[row]], atol=1e-6)


@pytest.mark.slow
def test_every_command_of_the_example_runs_as_written(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, code in BLOCKS:
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
        subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "PATH": path})
    result = json.loads((tmp_path / "runs" / "pacx" / "result.json").read_text())
    assert {"ecg", "labs", "echo"} <= set(json.dumps(result["results"]).replace('"', " ").split())
