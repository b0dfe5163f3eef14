"""From a trained head to a file that says all it needs about itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.serving.models import GRID, SIZE, WIDTH, make_encoder, png, save_classifier

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder, save_encoder, weights_hash
from pacx.readout import HeadToken
from pacx.serving import checks
from pacx.serving.export import export
from pacx.serving.facts import WANT_ATTENTION, Precision
from pacx.serving.gallery import gallery_path, open_gallery
from pacx.serving.runtime import Answers, OnnxModel
from pacx.serving.torch_model import open_trained

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(str(trained), out=out, name="small", licence="CC0-1.0", about="For tests.")
    return out


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
def test_any_batch_says_what_torch_says(exported: Path, trained: Path, batch: int) -> None:
    images = np.random.default_rng(batch).normal(size=(batch, 1, SIZE, SIZE)).astype(np.float32)
    found = OnnxModel(exported).run(images, want=Answers._fields)
    expected = open_trained(str(trained)).run(images, want=Answers._fields)
    for name, shape in (("embedding", (WIDTH,)), ("probability", (2,)), ("attention", (GRID, GRID))):
        own = getattr(found, name)
        assert own.shape == (batch, *shape)
        np.testing.assert_allclose(own, getattr(expected, name), atol=2e-5)


def test_the_file_knows_what_a_server_needs(exported: Path, trained: Path) -> None:
    facts = OnnxModel(exported).facts
    encoder = load_encoder(trained / "encoder")
    assert (facts.name, facts.licence, facts.about, facts.kind) == ("small", "CC0-1.0", "For tests.", "classifier")
    assert facts.preprocess == encoder.config.preprocess
    assert facts.weights_hash == weights_hash(encoder)
    assert facts.readout is not None
    assert facts.readout.names == ("effusion", "nodule")
    assert facts.readout.outputs[0].threshold == 0.4
    assert 0 < facts.parity["probability"] < 1e-4
    assert facts.parity["num_images"] == 16


def test_only_what_is_asked_for_is_computed(exported: Path) -> None:
    images = np.zeros((2, 1, SIZE, SIZE), np.float32)
    found = OnnxModel(exported).run(images, want=("probability",))
    assert found.embedding is None
    assert found.attention is None
    assert found.probability is not None


@pytest.mark.parametrize(("token", "precision"), [("cls", "fp32"), ("mean", "fp32"), ("cls", "fp16"), ("cls", "int8")])
def test_attention_is_computed_unless_told_otherwise(tmp_path: Path, token: HeadToken, precision: Precision) -> None:
    out = tmp_path / "model.onnx"
    export(str(save_classifier(tmp_path / "trained", token)), out=out, precision=precision, force=True)
    session = onnxruntime.InferenceSession(out)
    images = np.random.default_rng(0).normal(size=(3, 1, SIZE, SIZE)).astype(np.float32)
    told = {wanted: session.run(None, {"image": images, WANT_ATTENTION: np.array(wanted)}) for wanted in (True, False)}
    for untold, wanted, unwanted in zip(session.run(None, {"image": images}), *told.values(), strict=True):
        np.testing.assert_array_equal(untold, wanted)
        assert unwanted.size == 0 or np.array_equal(unwanted, wanted)
    shapes = [output.shape for output in told[False]]
    assert shapes == [(3, WIDTH), (3, 2), (0, 0, 0)]


def test_no_path_of_this_machine_gets_into_the_file(exported: Path, trained: Path) -> None:
    content = exported.read_bytes()
    for part in {str(trained), str(Path(__file__).parents[2]), str(Path(torch.__file__).parents[1])}:
        assert part.encode() not in content


def test_an_encoder_alone_embeds_and_needs_no_attention(tmp_path: Path) -> None:
    save_encoder(make_encoder(geometry="pad"), tmp_path / "encoder")
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(images):
        path.write_bytes(png(seed=number))
    result = export(
        str(tmp_path / "encoder"), out=tmp_path / "e.onnx", attention=False, images=[str(path) for path in images]
    )
    model = OnnxModel(tmp_path / "e.onnx")
    assert result["compared_on"] == "2 files"
    assert (model.facts.kind, model.facts.attention, model.facts.preprocess.geometry) == ("encoder", False, "pad")
    found = model.run(np.zeros((1, 1, SIZE, SIZE), np.float32), want=Answers._fields)
    assert found.probability is None
    assert found.attention is None
    session = onnxruntime.InferenceSession(tmp_path / "e.onnx")
    assert [one.name for one in session.get_inputs() + session.get_overridable_initializers()] == ["image"]


def test_a_model_that_says_something_else_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.LIMITS, "fp32", checks.Limit(1e-12, 1e-12, 1e-12))
    with pytest.raises(PacxError, match=r"does not say what the trained one says on 16 images: .*probability by"):
        export(str(trained), out=tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_head_of_another_encoder_is_refused(trained: Path, tmp_path: Path) -> None:
    save_encoder(make_encoder(seed=5), tmp_path / "other")
    with pytest.raises(PacxError, match="trained on another encoder"):
        export(str(trained), out=tmp_path / "model.onnx", encoder=str(tmp_path / "other"))


def test_what_is_there_is_not_overwritten_unless_told_so(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("mine")
    with pytest.raises(PacxError, match="is there already"):
        export(str(trained), out=out)
    assert out.read_text() == "mine"
    export(str(trained), out=out, overwrite=True)
    assert OnnxModel(out).facts.name == trained.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": Path("model.bin")}, r"does not end in \.onnx"),
        ({"precision": "int8-static"}, "Give a --store"),
        ({"gallery": 5}, "--gallery 5"),
        ({"name": "a b/c"}, r"'a b/c'; allowed: up to 200 letters, digits, and - _ \..* For instance: a-b-c\."),
        ({"name": ".."}, "allowed: up to 200 letters"),
        ({"name": ""}, "allowed: up to 200 letters"),
        ({"name": "a" * 201}, "allowed: up to 200 letters"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    trained: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(PacxError, match=message):
        export(str(trained), **{"out": tmp_path / "model.onnx", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a_b-c.2", "größe"])
def test_names_of_letters_and_digits_are_taken(trained: Path, tmp_path: Path, name: str) -> None:
    export(str(trained), out=tmp_path / "model.onnx", name=name)
    assert OnnxModel(tmp_path / "model.onnx").facts.name == name


def test_a_gallery_goes_with_the_model_that_is_replaced(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("old")
    gallery_path(out).write_text("old")
    with monkeypatch.context() as patch:
        patch.setitem(checks.LIMITS, "fp32", checks.Limit(1e-12, 1e-12, 1e-12))
        with pytest.raises(PacxError, match="does not say what the trained one says"):
            export(str(trained), out=out, overwrite=True)
    assert (out.read_text(), gallery_path(out).read_text()) == ("old", "old")
    export(str(trained), out=out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert OnnxModel(out).facts.name == trained.name


def test_a_gallery_without_its_model_is_not_overwritten_unless_told_so(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    gallery_path(out).write_text("mine")
    with pytest.raises(PacxError, match=r"gallery\.npz is there already"):
        export(str(trained), out=out)
    assert gallery_path(out).read_text() == "mine"


def test_what_cannot_be_read_is_not_called_unwritable(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setattr("pacx.serving.export.parity", lambda *_: (tmp_path / "data" / "gone.npy").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"gone\.npy"):
        export(str(trained), out=tmp_path / "e.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.onnx"

    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(PacxError) as caught:
        export(str(trained), out=out)
    assert str(caught.value) == f"{out} cannot be written (No space left on device). Choose another --out."
    assert not list(tmp_path.iterdir())
    if not Path("/proc/self").is_dir():
        return  # only Linux has such a folder
    for place in ("/proc/e.onnx", "/proc/absent/e.onnx"):
        with pytest.raises(PacxError, match=rf"^{place} cannot be written \(No such file or directory\)"):
            export(str(trained), out=Path(place))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from pacx.cli import main

    out = tmp_path_factory.mktemp("store") / "cohort"
    arguments = ["--patients", "40", "--size", "64", "--seed", "3", "--ecg", "false", "--labs", "false"]
    assert main(["simulate", *arguments, "--out", str(out)]) == 0
    return Store.open(out)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.serving.models import make_head

    from pacx.models.readout_head import save_head

    folder = tmp_path_factory.mktemp("named")
    encoder = make_encoder()
    save_encoder(encoder, folder / "encoder")
    save_head(make_head(encoder, names=("heart_failure", "copd")), folder / "head")
    return folder


class TestReducedPrecision:
    """On a store with labels of the head's outputs."""

    def test_half_precision_is_half_as_large_and_nearly_the_same(
        self, named: Path, store: Store, tmp_path: Path
    ) -> None:
        full = export(str(named), out=tmp_path / "full.onnx", store=store.path)
        half = export(str(named), out=tmp_path / "half.onnx", store=store.path, precision="fp16")
        assert half["bytes"] < 0.75 * full["bytes"]
        assert set(half["auroc_change"]) == {"heart_failure", "copd"}
        assert max(map(abs, half["auroc_change"].values())) < 0.02
        assert OnnxModel(tmp_path / "half.onnx").facts.auroc_change == half["auroc_change"]

    @pytest.mark.parametrize("precision", ["int8", "int8-static"])
    def test_eight_bits_are_measured_and_can_be_forced(
        self, named: Path, store: Store, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "model.onnx"
        monkeypatch.setattr("pacx.serving.export.speed_ratio", lambda *_: 0.5)
        options = {"store": store.path, "precision": precision}
        with pytest.raises(PacxError, match=r"not worth it: it is slower here \(0\.50 x"):
            export(str(named), out=out, **options)  # type: ignore[arg-type]
        assert not out.exists()
        result = export(str(named), out=out, force=True, **options)  # type: ignore[arg-type]
        assert OnnxModel(out).facts.precision == precision
        assert result["cosine"] > 0.9
        assert set(result["auroc_change"]) == {"heart_failure", "copd"}

    def test_eight_bits_that_cost_auroc_are_refused(
        self, named: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pacx.serving.export.speed_ratio", lambda *_: 2.0)
        monkeypatch.setattr("pacx.serving.export.auroc_change", lambda *_: ({"copd": -0.02, "heart_failure": 0.0}, 12))
        with pytest.raises(PacxError, match=r"AUROC is lower by 0\.010 on average"):
            export(str(named), out=tmp_path / "model.onnx", store=store.path, precision="int8")

    def test_eight_bits_of_a_head_without_a_store_cannot_be_judged(self, named: Path, tmp_path: Path) -> None:
        with pytest.raises(PacxError, match="AUROC was not measured"):
            export(str(named), out=tmp_path / "model.onnx", precision="int8")

    def test_the_gallery_holds_training_images_with_their_labels(
        self, named: Path, store: Store, tmp_path: Path
    ) -> None:
        out = tmp_path / "model.onnx"
        export(str(named), out=out, store=store.path, gallery=10)
        gallery = open_gallery(gallery_path(out), weights_hash=OnnxModel(out).facts.weights_hash)
        assert len(gallery) == 10
        train = store.manifest["image_id"].to_numpy()[store.rows("train")]
        assert set(gallery.image_id) <= set(train)
        row = int(np.flatnonzero(store.manifest["image_id"] == gallery.image_id[3])[0])
        assert store.images is not None
        pixels = store.images[row].astype(np.float32) / 255
        embedding = load_encoder(named / "encoder").encode(pixels)[0]
        nearest = gallery.nearest(embedding, k=2)
        assert nearest[0].row == 3
        assert nearest[0].similarity == pytest.approx(1.0, abs=1e-4)
        assert nearest[0].similarity > nearest[1].similarity
        expected = store.manifest["copd"].to_numpy()[row]
        assert nearest[0].labels["copd"] == (None if np.isnan(expected) else expected)
        assert gallery.picture(3).startswith(b"\x89PNG")
        with pytest.raises(PacxError, match="0 to 9"):
            gallery.picture(10)
        with pytest.raises(PacxError, match="another encoder"):
            open_gallery(gallery_path(out), weights_hash="0" * 64)


@pytest.mark.parametrize("content", [b"", b"text, no model", b"\x08\x07" + b"\0" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(PacxError, match="pacx export"):
        OnnxModel(path)
    with pytest.raises(PacxError, match="cannot be opened"):
        OnnxModel(tmp_path / "absent.onnx")


def test_a_foreign_model_is_refused(exported: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(PacxError, match="does not say how it wants its images"):
        OnnxModel(tmp_path / "foreign.onnx")
