"""A model over many files: whole tables or none, interruptions that cost little, rejects that are named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tests.serving.models import draw, make_encoder, png, save_classifier

from pacx.cli import main
from pacx.data.image_files import list_images
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder, save_encoder
from pacx.serving import sweep as module
from pacx.serving.features import feature_columns, features
from pacx.serving.predict import predict
from pacx.serving.runtime import Answers
from pacx.serving.similar import similar
from pacx.serving.sweep import sweep
from pacx.serving.torch_model import TorchModel, open_trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images, one of which is broken, an encoder, and a classifier."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "scans").mkdir()
    for number in range(9):
        data = png(draw(40 + number, 50, seed=number))
        (folder / "scans" / f"{number}.png").write_bytes(data if number != 4 else data[:90])
    save_encoder(make_encoder(), folder / "encoder")
    save_classifier(folder / "classifier")
    return folder


def test_features_are_the_encoders_in_the_order_of_the_files(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    result = features([str(folder / "scans")], encoder=str(folder / "encoder"), out=out, batch_size=3)
    assert (result["num_images"], result["num_rejected"]) == (8, 1)
    table = pd.read_parquet(out)
    kept = [folder / "scans" / f"{number}.png" for number in range(9) if number != 4]
    assert table["path"].tolist() == [str(path) for path in kept]
    found = table.filter(like="feature_").to_numpy()
    np.testing.assert_allclose(found, load_encoder(folder / "encoder").encode(kept), atol=2e-5)
    rejects = pd.read_csv(tmp_path / "features.parquet.rejects.csv")
    assert rejects["file"].tolist() == [str(folder / "scans" / "4.png")]
    assert "damaged" in rejects["reason"][0]
    assert not (tmp_path / "features.parquet.parts").exists()
    with pytest.raises(PacxError, match="is there already"):
        features([str(folder / "scans")], encoder=str(folder / "encoder"), out=out)


def test_no_worker_one_and_several_write_the_same(folder: Path, tmp_path: Path) -> None:
    tables = []
    for workers in (0, 1, 2):
        out = tmp_path / f"{workers}.csv"
        features([str(folder / "scans")], encoder=str(folder / "encoder"), out=out, workers=workers)
        tables.append(out.read_text())
    assert tables[0] == tables[1] == tables[2]


class Failing:
    """A model that breaks down at its n-th batch."""

    def __init__(self, model: TorchModel, at: int) -> None:
        self.model, self.facts, self.left, self.calls = model, model.facts, at, 0

    def run(self, images: NDArray[np.float32], *, want: Collection[str]) -> Answers:
        self.calls += 1
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.model.run(images, want=want)


def test_an_interrupted_sweep_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART", 3)
    images, out = list_images([folder / "scans"]), tmp_path / "features.parquet"
    trained = open_trained(str(folder / "encoder"))
    settings = {"want": ("embedding",), "columns": feature_columns, "batch_size": 3, "workers": 1, "overwrite": False}
    broken = Failing(trained, at=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(images, broken, out=out, **settings)  # type: ignore[arg-type]
    assert not out.exists()
    rest = Failing(trained, at=9)
    sweep(images, rest, out=out, **settings)  # type: ignore[arg-type]
    assert rest.calls == 1  # two of three parts were done
    whole = tmp_path / "whole.parquet"
    sweep(images, trained, out=whole, **settings)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(whole))


def test_parts_of_another_model_are_not_mixed_in(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 3)
    images, out = list_images([folder / "scans"]), tmp_path / "features.parquet"
    settings = {"want": ("embedding",), "columns": feature_columns, "batch_size": 3, "workers": 1, "overwrite": False}
    with pytest.raises(KeyboardInterrupt):
        sweep(images, Failing(TorchModel(make_encoder(seed=9), None, name="x"), 2), out=out, **settings)  # type: ignore[arg-type]
    features([str(folder / "scans")], encoder=str(folder / "encoder"), out=out, workers=1)
    expected = load_encoder(folder / "encoder").encode([folder / "scans" / "0.png"])[0]
    np.testing.assert_allclose(pd.read_parquet(out).filter(like="feature_").to_numpy()[0], expected, atol=2e-5)


def test_nothing_readable_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="None of the 1 files can be read"):
        features([str(folder / "scans" / "4.png")], encoder=str(folder / "encoder"), out=tmp_path / "features.parquet")
    assert not list(tmp_path.iterdir())


_NUMBERS = {
    "batch_size is 0; it must be 1 or more.": ["--batch_size", "0"],
    "batch_size is -3; it must be 1 or more.": ["--batch-size", "-3"],
    "workers is -2; it must be 0 or more": ["--workers", "-2"],
}


@pytest.mark.parametrize(
    ("command", "message"),
    [(command, message) for command in ("features", "predict", "similar") for message in _NUMBERS]
    + [("explain", message) for message in list(_NUMBERS)[:2]],
)
def test_numbers_that_cannot_be_are_refused_and_nothing_is_left(
    command: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(folder / "classifier")] if command == "predict" else ["--encoder", str(folder / "encoder")]
    among = ["--among", str(tmp_path / "absent")] if command == "similar" else []
    out = ["--out", str(tmp_path / "table.csv")]
    assert main([command, str(folder / "scans"), *model, *among, *out, *_NUMBERS[message]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "value"), [("batch_size", 0), ("workers", -1)])
def test_such_numbers_are_refused_in_python_too(number: str, value: int, folder: Path, tmp_path: Path) -> None:
    scans, encoder = [str(folder / "scans")], str(folder / "encoder")
    with pytest.raises(PacxError, match=f"{number} is {value}"):
        features(scans, encoder=encoder, out=tmp_path / "table.csv", **{number: value})  # type: ignore[arg-type]
    with pytest.raises(PacxError, match=f"{number} is {value}"):
        predict(scans, model=str(folder / "classifier"), **{number: value})  # type: ignore[arg-type]
    with pytest.raises(PacxError, match=f"{number} is {value}"):
        similar(scans, among=tmp_path / "absent", **{number: value})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_table_without_rows_leaves_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "tab4.csv"
    table.write_text("path\n")
    out = str(tmp_path / "features.parquet")
    assert main(["features", str(table), "--encoder", str(folder / "encoder"), "--out", out]) == 2
    assert "tab4.csv has no rows" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == [table]


def test_predictions_have_probabilities_and_answers(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    predict([str(folder / "scans")], model=str(folder / "classifier"), out=out)
    table = pd.read_csv(out)
    assert list(table.columns) == ["image_id", "path", "effusion", "effusion_positive", "nodule", "nodule_positive"]
    assert ((table["effusion"] >= 0.4) == table["effusion_positive"]).all()
    trained = open_trained(str(folder / "classifier"))
    prepared = trained.encoder.prepare([table["path"][0]]).numpy()
    expected = trained.run(prepared, want=("probability",)).probability
    assert expected is not None
    np.testing.assert_allclose(table.loc[0, ["effusion", "nodule"]].to_numpy(float), expected[0], atol=1e-5)


def test_predictions_are_printed_without_an_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = folder / "scans"
    arguments = ["predict", str(scans / "1.png"), str(scans / "4.png"), "--model", str(folder / "classifier")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("image_id,path,effusion")
    assert len(printed.out.splitlines()) == 2
    assert "4.png" in printed.err


def test_an_encoder_without_a_head_predicts_nothing(folder: Path) -> None:
    with pytest.raises(PacxError, match="without a trained head"):
        predict([str(folder / "scans")], model=str(folder / "encoder"))


def test_the_nearest_of_a_table_is_the_image_itself(folder: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "features.parquet", tmp_path / "similar.csv"
    features([str(folder / "scans")], encoder=str(folder / "encoder"), out=table)
    images = [str(folder / "scans" / f"{number}.png") for number in (2, 7)]
    result = similar(images, among=table, encoder=str(folder / "encoder"), num=2, out=out)
    assert (result["num_images"], result["num_known"]) == (2, 8)
    found = pd.read_csv(out)
    first = found[found["rank"] == 1]
    assert first["neighbour"].tolist() == images
    np.testing.assert_allclose(first["similarity"], 1.0, atol=1e-4)
    assert (found[found["rank"] == 2]["similarity"] < 1).all()
    with pytest.raises(PacxError, match="feature columns"):
        other = tmp_path / "other.csv"
        pd.DataFrame({"image_id": ["a"], "feature_0": [1.0]}).to_csv(other, index=False)
        similar(images, among=other, encoder=str(folder / "encoder"))


def test_a_table_of_another_encoder_is_refused(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans, own = str(folder / "scans"), str(folder / "encoder")
    other = f"random:{own}"
    for table in (tmp_path / "features.parquet", tmp_path / "features.csv"):
        features([scans], encoder=own, out=table)
    with pytest.raises(PacxError, match=r"was made with another encoder \(weights \w{12}"):
        similar([scans], among=tmp_path / "features.parquet", encoder=other)
    caplog.clear()
    similar([scans], among=tmp_path / "features.parquet", encoder=own, out=tmp_path / "a.csv")
    assert "which encoder" not in caplog.text
    similar([scans], among=tmp_path / "features.csv", encoder=own, out=tmp_path / "b.csv")
    assert "does not say which encoder made it" in caplog.text


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_neighbours_are_written_in_the_form_of_the_files_name(suffix: str, folder: Path, tmp_path: Path) -> None:
    among, out = tmp_path / "features.csv", tmp_path / "new" / f"similar{suffix}"
    encoder, images = str(folder / "encoder"), [str(folder / "scans" / "2.png")]
    features([str(folder / "scans")], encoder=encoder, out=among)
    for _ in range(2):
        similar(images, among=among, encoder=encoder, num=2, out=out, overwrite=True)
        found = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out)
        assert list(found.columns) == ["image_id", "rank", "neighbour", "similarity"]
        assert found["neighbour"][0] == images[0]
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(PacxError, match="is there already"):
        similar(images, among=among, encoder=encoder, out=out)
    with pytest.raises(PacxError, match=r"does not end in \.parquet or \.csv"):
        similar(images, among=among, encoder=encoder, out=tmp_path / "similar.txt")
