import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from teacher_store import make_store as make_pairs

from pacx.data.bank import Bank
from pacx.data.bank_writer import BankWriter
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.labs_autoencoder import LabsAutoencoder, save_labs_autoencoder
from pacx.models.weights import weights_hash
from pacx.stages.bank import bank, fill_bank


class Echo:
    """A teacher whose embedding of a row is its number; it may die before a row."""

    name, kind, dim, weights_hash = "echo", "echo", 3, "0"

    def __init__(self, present: np.ndarray, *, dies_at: int | None = None, weights: str = "0") -> None:
        self.preprocessing: dict = {}
        self.weights_hash = weights
        self._present = present
        self.dies_at = dies_at
        self.asked: list[int] = []

    def present(self, store: Store) -> np.ndarray:
        return self._present

    def stream(self, store: Store, rows: np.ndarray, *, batch_size: int) -> Iterator[np.ndarray]:
        assert self._present[rows].all()
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            if self.dies_at is not None and self.dies_at in batch:
                raise KeyboardInterrupt
            self.asked += batch.tolist()
            yield np.repeat(batch[:, None], 3, axis=1).astype(np.float32)


def half(store: Store) -> np.ndarray:
    return np.arange(len(store)) % 3 > 0


def test_each_row_gets_its_own_embedding_and_holes_stay_holes(store: Store, tmp_path: Path):
    made = fill_bank(store, Echo(half(store)), tmp_path, batch_size=10)
    np.testing.assert_array_equal(made.present, half(store))
    np.testing.assert_array_equal(made.embeddings[:, 0], np.arange(len(store)) * half(store))
    assert made.image_ids == tuple(store.manifest["image_id"])


def test_a_teacher_without_any_input_is_refused(store: Store, tmp_path: Path):
    with pytest.raises(PacxError, match="No row of store toy has an input for the teacher 'echo'"):
        fill_bank(store, Echo(np.zeros(len(store), dtype=bool)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_bank_goes_on_where_it_was(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pacx.data.bank_writer._SECONDS_BETWEEN_RECORDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fill_bank(store, Echo(half(store), dies_at=50), tmp_path, batch_size=8)
    second = Echo(half(store))
    made = fill_bank(store, second, tmp_path, batch_size=8)
    rows = np.flatnonzero(half(store))
    assert second.asked == rows[32:].tolist()  # row 50 is the 34th; its batch began with the 33rd
    np.testing.assert_array_equal(made.embeddings[:, 0], np.arange(len(store)) * half(store))


@pytest.mark.parametrize("change", ["weights", "batch_size", "store"])
def test_what_was_begun_with_other_inputs_is_not_continued(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    monkeypatch.setattr("pacx.data.bank_writer._SECONDS_BETWEEN_RECORDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fill_bank(store, Echo(half(store), dies_at=50), tmp_path, batch_size=8)
    second = Echo(half(store), weights="1" if change == "weights" else "0")
    if change == "store":
        monkeypatch.setattr(store, "content_hash", "another")
    batch_size = 9 if change == "batch_size" else 8
    name = "weights_hash" if change == "weights" else change
    with pytest.raises(PacxError, match=rf"different: {name}\)"):
        fill_bank(store, second, tmp_path, batch_size=batch_size, resume=True)
    fill_bank(store, second, tmp_path, batch_size=batch_size)
    assert second.asked == np.flatnonzero(half(store)).tolist()


def test_numbers_that_are_not_finite_are_refused_by_name(store: Store, tmp_path: Path):
    teacher = Echo(half(store))
    teacher.stream = lambda *_, **__: iter([np.array([[1, 1, 1], [np.nan, 1, 1]], dtype=np.float32)])  # type: ignore[method-assign]
    with pytest.raises(PacxError, match="not finite for image002"):
        fill_bank(store, teacher, tmp_path)


def test_command_embeds_the_labs_of_a_store(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    net = LabsAutoencoder(2, hidden=8, dim=4)
    assert store.labs is not None
    reference = LabReference.fit(store.labs)
    save_labs_autoencoder(net, tmp_path / "teacher", reference=reference.to_dict(), training={})
    with caplog.at_level(logging.INFO, logger="pacx"):
        result = bank(store=store.path, teacher=tmp_path / "teacher", name="blood", out=tmp_path / "bank", device="cpu")
    assert f"mean cosine between rows {result['results']['mean_cosine']:.3f}" in caplog.text
    found = Bank.open(tmp_path / "bank")
    found.check(store)
    measured = store.labs.notna().any(axis=1).to_numpy()
    figures = dict(result["results"])
    assert -1 < figures.pop("mean_cosine") < 1
    assert figures == {
        "teacher": "blood", "kind": "labs", "num_rows": 96, "num_present": int(measured.sum()), "dim": 4,
        "constant_dims": 0,
    }  # fmt: skip
    np.testing.assert_array_equal(found.present, measured)
    assert found.meta["weights_hash"] == weights_hash(net)
    assert found.meta["store"] == {"name": "toy", "hash": store.content_hash}
    row = int(np.flatnonzero(measured)[5])
    x, mask = reference.transform(store.labs.iloc[[row]])
    with torch.inference_mode():
        expected = net.eval().encode(torch.from_numpy(x), torch.from_numpy(mask)).numpy()[0]
    np.testing.assert_allclose(found.embeddings[row], expected, atol=1e-6)


def test_a_finished_bank_is_left_alone_unless_it_may_be_replaced(store: Store, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(len(store), 3)))
    given = {"store": store.path, "embeddings": [tmp_path / "x.npy"], "ids": ["order"], "out": tmp_path / "bank"}
    bank(**given, name="ppg")
    with pytest.raises(PacxError, match="already holds a finished run"):
        bank(**given, name="echo")
    assert bank(**given, name="echo", overwrite=True)["results"]["teacher"] == "echo"


def test_command_imports_embeddings_and_counts_what_it_did(store: Store, tmp_path: Path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(len(store), 5)).astype(np.float32), columns=list("vwxyz"))
    table.insert(0, "image_id", store.manifest["image_id"])
    table.loc[3, "w"] = np.nan
    table.iloc[10:].to_parquet(tmp_path / "late.parquet")
    table.iloc[:9].to_parquet(tmp_path / "early.parquet")
    result = bank(
        store=store.path, embeddings=[tmp_path / "late.parquet", tmp_path / "early.parquet"], name="ppg",
        out=tmp_path / "bank",
    )  # fmt: skip
    figures = result["results"]
    assert (figures["teacher"], figures["kind"], figures["dim"]) == ("ppg", "ppg", 5)
    assert (figures["num_present"], figures["num_with_nan"], figures["num_unknown"]) == (94, 1, 0)
    assert result["inputs"]["embeddings"]["files"][0]["file"] == "late.parquet"
    made = Bank.open(tmp_path / "bank")
    made.check(store)
    assert np.flatnonzero(~made.present).tolist() == [3, 9]
    np.testing.assert_array_equal(made.embeddings[made.present], table.to_numpy()[made.present, 1:].astype(np.float32))


def test_a_teacher_that_says_the_same_of_everybody_is_warned_of(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    x = 5 + np.random.default_rng(0).normal(size=(len(store), 4))
    x[:, 2] = 1
    np.save(tmp_path / "x.npy", x)
    with caplog.at_level(logging.WARNING, logger="pacx"):
        result = bank(store=store.path, embeddings=[tmp_path / "x.npy"], ids=["order"], name="p", out=tmp_path / "bank")
    assert result["results"]["constant_dims"] == 1
    assert "mean cosine 0.9" in caplog.text and "1 of 4 numbers are the same for everybody" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "none of them"),
        ({"teacher": Path("t"), "embeddings": [Path("x.npy")]}, "--teacher and --embeddings"),
        ({"embeddings": [Path("x.npy")]}, "need a name"),
        ({"teacher": Path("t"), "ids": ["order"], "kind": "x"}, "--ids, --kind belongs to --embeddings"),
        ({"teacher": Path("t"), "match": "patient_id"}, "--match belongs to --embeddings"),
        ({"teacher": Path("t"), "noise": 0.5}, "name it with --like"),
        ({"like": Path("t"), "ids": ["order"]}, "--ids belongs to --embeddings"),
        ({"teacher": Path("t"), "batch_size": 0}, "--batch-size is 0; it must be 1 or more"),
        ({"teacher": Path("t"), "workers": 0}, "--workers is 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_before_anything_is_written(
    store: Store, tmp_path: Path, arguments: dict, message: str
):
    with pytest.raises(PacxError, match=message):
        bank(store=store.path, out=tmp_path / "bank", **arguments)
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("name", ["training", "12-lead"])
def test_a_name_that_no_student_could_use_is_refused(store: Store, tmp_path: Path, name: str):
    with pytest.raises(PacxError, match=f"cannot be called '{name}'"):
        bank(store=store.path, like=tmp_path / "other", name=name, out=tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_a_bank_made_like_another_keeps_its_name_and_says_how_it_was_changed(store: Store, tmp_path: Path):
    first = fill_bank(store, Echo(half(store)), tmp_path / "first", batch_size=10)
    given = {"store": store.path, "like": tmp_path / "first", "noise": 0.1, "mean_cosine": 0.5}
    result = bank(**given, out=tmp_path / "second")["results"]
    second = Bank.open(tmp_path / "second")
    assert (second.name, second.meta["kind"], second.image_ids) == ("echo", "echo", first.image_ids)
    np.testing.assert_array_equal(second.present, first.present)
    assert (second.meta["noise"], second.meta["asked_mean_cosine"]) == (0.1, 0.5)
    assert abs(result["mean_cosine"] - 0.5) < 0.1
    with pytest.raises(PacxError, match="cannot be made"):
        bank(**{**given, "mean_cosine": 1.5}, out=tmp_path / "third")
    assert not (tmp_path / "third" / "result.json").exists()


def ecg_teacher(folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    net = EcgNet(EcgNetConfig(2, stem_width=16, widths=(16, 32), blocks=(1, 1), batch_norm=True))
    preprocessing = {"recipe": "ecgfounder-1", "rate": 100}
    save_ecg_net(net, folder / "teacher", labels=("a", "b"), preprocessing=preprocessing, training={})
    return folder


def test_an_ecg_bank_that_was_interrupted_is_the_same_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pairs = make_pairs(tmp_path / "store", num_rows=30)
    given = {"store": pairs.path, "teacher": ecg_teacher(tmp_path / "t"), "batch_size": 4, "device": "cpu"}
    bank(**given, workers=1, out=tmp_path / "whole")
    write, batches = BankWriter.write, []

    def dies_in_the_fourth(self: BankWriter, rows: np.ndarray, embeddings: np.ndarray) -> None:
        batches.append(len(rows))
        if len(batches) == 4:
            raise KeyboardInterrupt
        write(self, rows, embeddings)

    monkeypatch.setattr("pacx.data.bank_writer._SECONDS_BETWEEN_RECORDS", 0.0)
    monkeypatch.setattr(BankWriter, "write", dies_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        bank(**given, workers=2, out=tmp_path / "bank")
    bank(**given, workers=2, out=tmp_path / "bank")
    assert batches == [4, 4, 4, 4, 4, 4, 4, 3]  # 27 rows have an ECG; the fourth batch came twice
    for name in ("embeddings.npy", "present.npy", "image_ids.json", "meta.json"):
        assert (tmp_path / "bank" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_bank_that_was_killed_with_signal_9_is_the_same_to_the_last_bit(tmp_path: Path):
    pairs = make_pairs(tmp_path / "store", num_rows=400)
    teacher = ecg_teacher(tmp_path / "t")
    pacx = Path(sys.executable).with_name("pacx")
    flags = ["--store", pairs.path, "--teacher", teacher, "--batch-size", "2", "--device", "cpu", "--workers", "1"]
    subprocess.run([pacx, "bank", *flags, "--out", tmp_path / "whole"], check=True)
    kills = 0
    progress = tmp_path / "bank" / ".partial" / "progress.json"
    while not (tmp_path / "bank" / "result.json").is_file():
        before = progress.read_text() if progress.is_file() else None
        process = subprocess.Popen([pacx, "bank", *flags, "--out", tmp_path / "bank"], start_new_session=True)
        while process.poll() is None and (not progress.is_file() or progress.read_text() == before):
            time.sleep(0.01)
        if process.poll() is None and kills < 4:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    for name in ("embeddings.npy", "present.npy", "meta.json"):
        assert (tmp_path / "bank" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
