"""What the OpenAPI description allows is answered as it says, what it does not is refused: asked by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")


def test_the_server_keeps_to_its_description(server: str, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("schemathesis")
    # The check that is left out wants every body taken that fits its schema, and no schema tells an image from noise.
    options = [
        "--exclude-checks",
        "positive_data_acceptance",
        "--max-examples",
        "20",
        "--seed",
        "1",
        "--generation-database",
        "none",
        "--no-color",
    ]
    done = subprocess.run(
        [command, "run", f"{server}/openapi.json", "--checks", "all", *options],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
