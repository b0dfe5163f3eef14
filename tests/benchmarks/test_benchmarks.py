"""The benchmarks run, compare like with like, and say what they promise; how fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import loader, mae_step, measure, results, table, xray_files
from benchmarks.mae_sides import QUICK, make_ours, make_peer

from pacx.data.prepare import prepare
from pacx.data.store import Store

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
TINY = replace(QUICK, batch=2, image=64, width=32, heads=2, decoder_width=16, decoder_heads=2)


def test_the_sides_take_turns_and_the_first_rounds_do_not_count() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "AB"}
    seconds = measure.interleave(sides, rounds=3, warmup=1)
    assert "".join(calls) == "ABABABAB"
    assert {name: len(times) for name, times in seconds.items()} == {"A": 3, "B": 3}


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    assert measure.ratio([4.0, 6.0, 20.0], [2.0, 1.0, 4.0]) == {"ratio": 3.0, "lowest": 2.0, "highest": 6.0}
    assert measure.spread([3.0, 1.0, 2.5]) == {"median": 2.5, "lowest": 1.0, "highest": 3.0}


def test_a_step_of_either_side_is_compared_after_their_losses_agree() -> None:
    pytest.importorskip("transformers", "5.0")
    measured = mae_step.measure(TINY, sides=mae_step.MAIN, extra=(), rounds=2)
    memory = {side: [mae_step.measure_memory(side, TINY)] for side in mae_step.MAIN}
    content = mae_step.summarise(measured, memory, TINY)
    assert content["loss_difference"] <= 1e-5
    for key in ("standard_speed_ratio", "standard_memory_ratio", "cross_speed_ratio", "peer_fused_speed_ratio"):
        assert content[key] > 0
    assert content["sides"]["cross"]["seconds"]["median"] > 0
    assert [row.at_least or row.at_most for row in mae_step.rows(content)[:3]] == [1.1, 0.85, 2.0]


def test_sides_that_compute_different_losses_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", "5.0")
    peer, ours = make_peer(TINY), make_ours(TINY)
    images = torch.randn(2, 1, TINY.image, TINY.image)
    assert mae_step.check_equal(peer, ours, images, TINY) <= 1e-5
    monkeypatch.setattr(ours, "normalise_targets", True)
    with pytest.raises(SystemExit, match="losses differ"):
        mae_step.check_equal(peer, ours, images, TINY)


def test_each_step_trains_its_model() -> None:
    pytest.importorskip("transformers", "5.0")
    images = torch.randn(2, 1, TINY.image, TINY.image)
    for side in mae_step.MAIN:
        model = make_peer(TINY) if side == "peer" else make_ours(TINY, decoder=side)
        before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
        mae_step._plain_step(side, model, images)()
        still = [
            name for name, value in model.named_parameters() if name in before and torch.equal(value, before[name])
        ]
        assert not [name for name in still if "bias" not in name]  # of query and key, a bias may have no gradient


def test_the_loaders_give_what_either_side_trains_on(tmp_path: Path) -> None:
    kind = xray_files.Kind("small", 60, 40, "png", 3)
    files = xray_files.write_files(tmp_path / "small", kind, xray_files.draw_patients(2, size=32), num=3)
    prepare("folder", tmp_path / "small", out=tmp_path / "store", size=loader.STORED, workers=1)
    store = Store.open(tmp_path / "store")
    assert loader.store_difference(store, files) <= 1
    ours = [batch["image"] for batch in loader.our_loader(store, channels=1, num=7)]
    assert [tuple(image.shape) for image in ours] == [(7, 1, 224, 224)]
    peer = loader.Files(files)[1]
    assert peer.shape == (3, 224, 224)
    assert loader.Files(files, gray=True)[1].shape == (1, loader.SIZE, loader.SIZE)
    white = (1 - np.array(loader.IMAGENET["mean"])) / loader.IMAGENET["std"]
    assert (peer.amax(dim=(1, 2)).numpy() <= white + 1e-5).all()


def content_of(name: str, **more: Any) -> dict[str, Any]:
    """Results as `loader` makes them, with made-up figures."""
    numbers = {"median": 5.0, "lowest": 4.0, "highest": 6.0}
    kinds = [kind.name for kind in xray_files.KINDS]
    figures = {"ratio": 40.0, "lowest": 39.0, "highest": 41.0}
    return {
        "benchmark": name,
        "command": f"python -m benchmarks.{name}",
        "rounds": 3,
        "ratios": {f"{kind}_ratio": figures for kind in kinds},
        "ratios_gray_peer": dict.fromkeys(kinds, figures),
        "ratios_three_channels": dict.fromkeys(kinds, figures),
        "images_per_second": dict.fromkeys([*kinds, "ours", "ours_three_channels"], numbers),
        "build": {kind: {"prepare": numbers, "plain_loop": numbers} for kind in kinds},
        "date": "2026-01-02",
        "commit": "abc",
        "threads": 1,
        "machine": results.machine(),
        **more,
    }


def test_the_table_says_what_was_met_and_missed_with_the_command_beside_it() -> None:
    page = table.update(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n", [content_of("loader")])
    assert page.startswith("above\n") and page.endswith("\nbelow\n") and "old" not in page
    lines = [line for line in page.splitlines() if line.startswith("| speed")]
    assert "| 40.0 | 39.0 to 41.0 | at least 10: met | `python -m benchmarks.loader` |" in lines[0]
    assert "at least 50: missed" in lines[1]
    assert table.update(page, [content_of("loader")]) == page


def test_results_are_kept_unless_quick_and_name_neither_host_nor_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--rounds", "3"])
    results.finish("loader", {"png_1024_ratio": 2.0}, quick=True)
    assert list(tmp_path.iterdir()) == []
    results.finish("loader", {"png_1024_ratio": 2.0}, quick=False)
    text = (tmp_path / "loader.json").read_text()
    assert json.loads(text) == json.loads(capsys.readouterr().out.splitlines()[-1])
    kept = json.loads(text)
    assert kept["png_1024_ratio"] == 2.0 and kept["command"] == "python -m benchmarks.loader --rounds 3"
    assert kept["machine"]["cores"] >= 1 and re.fullmatch(r"[0-9a-f]+\+?|unknown", kept["commit"])
    assert str(ROOT) not in text and str(Path.home()) not in text and socket.gethostname() not in text


def test_the_readme_shows_the_results_that_are_kept() -> None:
    files = [results.RESULTS / f"{name}.json" for name in table.NAMES]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    page = table.README.read_text(encoding="utf-8")
    assert table.update(page, found) == page


def test_pacx_does_not_need_the_benchmarks() -> None:
    importing = re.compile(r"^\s*(from|import)\s+benchmarks\b", re.MULTILINE)
    sources = list((ROOT / "src").rglob("*.py"))
    assert len(sources) > 50
    assert [file for file in sources if importing.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mae_step", {"standard_speed_ratio", "standard_memory_ratio", "cross_speed_ratio"}),
        ("loader", {"jpeg_390x320_ratio", "png_1024_ratio", "jpeg_2544x3056_ratio"}),
    ],
)
def test_a_quick_run_ends_with_one_object_that_has_the_promised_keys(name: str, keys: set[str]) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = json.loads(run.stdout.splitlines()[-1])
    assert keys <= set(last) and last["quick"] is True
