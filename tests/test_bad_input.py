"""What a user gets wrong: one paragraph, exit code 2, nothing half-written."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pacx import cli
from pacx.data.store import Store


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data, b"IEND")
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight good images and one of each bad kind, with a table of labels."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 255, (48, 40), dtype=np.uint8)).save(root / f"good{index}.png")
    (root / "text.dcm").write_text("this is no DICOM", encoding="utf-8")
    Image.fromarray(rng.integers(0, 255, (200, 200), dtype=np.uint8)).save(root / "whole.jpg")
    (root / "truncated.jpg").write_bytes((root / "whole.jpg").read_bytes()[:3000])
    (root / "whole.jpg").unlink()
    (root / "huge.png").write_bytes(_png_header(40_000, 40_000))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "black.png")
    names = sorted(path.name for path in root.iterdir())
    pd.DataFrame({"path": names, "patient_id": names, "ill": [index % 2 for index in range(len(names))]}).to_csv(
        root / "table.csv", index=False
    )
    return root


def _prepare(root: Path, out: Path, *flags: str) -> int:
    return cli.main(["prepare", "table", str(root / "table.csv"), "--label-columns", "ill", "--size", "32",
                     "--workers", "1", "--out", str(out), *flags])  # fmt: skip


def test_a_number_of_processes_below_zero_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prepare", "folder", str(folder), "--workers", "-3", "--out", str(tmp_path / "store")]) == 2
    assert "workers is -3; it must be 0 or more" in _message(capsys)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("below", [False, True])
def test_a_store_is_not_read_as_a_folder_of_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], below: bool
) -> None:
    """Its contact sheet and figures would become patients."""
    assert _prepare(folder, folder / "kept" / "store") == 0
    capsys.readouterr()
    source = folder if below else folder / "kept" / "store"
    assert cli.main(["prepare", "folder", str(source), "--out", str(tmp_path / "again")]) == 2
    assert f"{folder / 'kept' / 'store'} is a store of pacx, no folder of files" in _message(capsys)
    assert not (tmp_path / "again").exists()


def _message(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("error:") == 1
    return " ".join(text.split())


def test_unreadable_images_are_rejected_with_the_reason_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    assert _prepare(folder, tmp_path / "store") == 0
    rejects = pd.read_csv(tmp_path / "store" / "rejects.csv")
    reasons = {Path(file).name: reason for file, reason in zip(rejects["file"], rejects["reason"], strict=True)}
    assert set(reasons) == {"text.dcm", "truncated.jpg", "huge.png", "black.png"}
    assert "40000" in reasons["huge.png"].replace(",", "")
    assert len(Store.open(tmp_path / "store")) == 8


def test_strict_stops_at_the_first_unreadable_image(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _prepare(folder, tmp_path / "store", "--strict") == 2
    message = _message(capsys)
    assert any(name in message for name in ("text.dcm", "truncated.jpg", "huge.png", "black.png"))
    assert not (tmp_path / "store" / "result.json").exists()


def test_a_missing_column_is_named_with_those_that_are_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _prepare(folder, tmp_path / "store", "--patient-column", "who") == 2
    message = _message(capsys)
    assert "who" in message
    assert "patient_id" in message


def test_an_unknown_task_is_named_with_those_that_are_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from pacx.models.encoder import Encoder, EncoderConfig, save_encoder

    assert _prepare(folder, tmp_path / "store") == 0
    store = Store.open(tmp_path / "store")
    config = EncoderConfig(store.preprocess(), patch_size=16, width=16, depth=1, heads=1)
    save_encoder(Encoder(config), tmp_path / "encoder")
    capsys.readouterr()
    flags = ["--store", str(store.path), "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "probe")]
    assert cli.main(["probe", *flags, "--tasks", "healthy"]) == 2
    message = _message(capsys)
    assert "healthy" in message
    assert "ill" in message


def test_a_full_disk_is_noticed_before_anything_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100))
    assert _prepare(folder, tmp_path / "store") == 2
    assert "free" in _message(capsys)
    assert not (tmp_path / "store" / "result.json").exists()


def test_a_store_that_is_not_there_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert cli.main(["pretrain", "--store", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert "nowhere" in _message(capsys)
