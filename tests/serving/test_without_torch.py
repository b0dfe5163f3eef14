"""Reading, preprocessing, running and serving need no torch: what `pacx[serve]` brings is enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.models import draw, png

pytest.importorskip("fastapi")

ABSENT = (
    "torch", "torchvision", "lightning", "timm", "peft", "transformers", "safetensors", "jaxtyping", "sklearn",
    "matplotlib", "onnx", "onnxscript", "torchmetrics", "jinja2",
)  # fmt: skip

HIDE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(ABSENT)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + script], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(draw(100 + number, 90, seed=number)))
    (folder / "broken.png").write_bytes(png()[:100])
    done = run("from pacx.cli import main; sys.exit(main(['features', '.', '--out', 'features.parquet']))", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["features", ".", "--out", "others.parquet"], "1 of 4 files could not be read"),
        (["predict", "0.png", "1.png"], "heart_failure_positive"),
        (["similar", "0.png", "--among", "features.parquet", "--num", "2"], "0.png,1,0.png,1.0"),
    ],
)
def test_the_shipped_model_answers(folder: Path, arguments: list[str], words: str) -> None:
    done = run(f"from pacx.cli import main; sys.exit(main({arguments!r}))", folder)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout + done.stderr


def test_the_application_is_made_and_answers(folder: Path) -> None:
    script = """
import json
from starlette.testclient import TestClient
from pacx.serving.api import create_app
from pacx.serving.opening import open_onnx
with TestClient(create_app([open_onnx("shipped:phantom-small")])) as client:
    answer = client.post("/v1/predict", files={"file": open("0.png", "rb")})
    print(json.dumps(answer.json()["results"][0]["outputs"]))
print(sorted(name for name in ("pandas", "pyarrow", "scipy") if name in sys.modules), file=sys.stderr)
"""
    done = run(script, folder)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 6
    assert done.stderr.strip().endswith("[]"), "the server starts slower for packages that it does not need"


def test_what_needs_torch_says_so(folder: Path) -> None:
    done = run("from pacx.cli import main; sys.exit(main(['predict', '0.png', '--model', 'runs/probe']))", folder)
    assert done.returncode == 2
    assert "pip install '.[train]'" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
