"""Every foreign format: features equal its own library's, nothing is lost in silence, and what was assumed is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from foreign import HEADS, MAKERS, Foreign, images
from safetensors.torch import load_file, save_file

from pacx import load_encoder
from pacx.errors import PacxError
from pacx.models.encoder import save_encoder, weights_hash

torch.set_num_threads(1)


@pytest.fixture(params=MAKERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Foreign:
    return MAKERS[request.param](tmp_path)


@torch.no_grad()
def test_features_equal_the_original_librarys(source: Foreign, tmp_path: Path) -> None:
    encoder = load_encoder(source.write(source.state, tmp_path), **source.arguments)
    expected = source.tokens(images())
    torch.testing.assert_close(encoder.tokens(images()), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder(images()), expected[:, 0], atol=1e-5, rtol=0)
    assert expected.std() > 0.1


def test_settings_follow_the_source_and_its_convention_and_are_written_down(source: Foreign, tmp_path: Path) -> None:
    encoder = load_encoder(source.write(source.state, tmp_path), **source.arguments)
    config = encoder.config
    assert (config.layer_norm_eps, config.heads) == (source.eps, HEADS)
    assert encoder.vit.norm.eps == encoder.vit.blocks[1].norm2.eps == source.eps
    assert config.preprocess.mean == source.mean
    assert config.preprocess.geometry == source.geometry
    provenance = config.provenance
    assert provenance["format"] == source.format
    assert len(provenance["sha256"]) == 64
    said = {**provenance["assumed"], **provenance["stated"], **provenance["given"]}
    assert said["eps"] == source.eps
    assert said["mean"] == list(source.mean)
    assert set(provenance["assumed"]).isdisjoint(provenance["given"])
    assert sum(provenance["dropped"].values()) == sum(name.startswith(source.no_encoder) for name in source.state)
    assert "/" not in provenance["file"].replace(f"{tmp_path.name}/", "")  # no path of this machine


def test_a_converted_encoder_keeps_weights_and_provenance(source: Foreign, tmp_path: Path) -> None:
    encoder = load_encoder(source.write(source.state, tmp_path), **source.arguments)
    again = load_encoder(save_encoder(encoder, tmp_path / "ours"))
    assert again.config == encoder.config
    assert weights_hash(again) == weights_hash(encoder)


def test_every_missing_key_is_refused_by_name(source: Foreign, tmp_path: Path) -> None:
    for name in _of_the_encoder(source):
        state = {key: value for key, value in source.state.items() if key != name}
        path = source.write(state, tmp_path)
        with pytest.raises(PacxError) as caught:
            load_encoder(path, **source.arguments)
        assert _short(name) in str(caught.value), name


def test_every_renamed_key_is_refused_by_both_names(source: Foreign, tmp_path: Path) -> None:
    for name in _of_the_encoder(source):
        state = {(f"{key}_of_old" if key == name else key): value for key, value in source.state.items()}
        path = source.write(state, tmp_path)
        with pytest.raises(PacxError) as caught:
            load_encoder(path, **source.arguments)
        assert _short(name) in str(caught.value).replace(f"{_short(name)}_of_old", ""), name
        assert f"{_short(name)}_of_old" in str(caught.value), name


def test_a_left_over_key_is_refused_by_name(source: Foreign, tmp_path: Path) -> None:
    prefix = next(name for name in _of_the_encoder(source) if name.endswith("cls_token")).removesuffix("cls_token")
    for name in (f"{prefix}second_norm.weight", "something.else"):
        path = source.write({**source.state, name: torch.zeros(3)}, tmp_path)
        with pytest.raises(PacxError, match=rf"1 left over: {_short(name).replace('.', '[.]')}"):
            load_encoder(path, **source.arguments)


def test_a_weight_that_is_not_finite_is_refused_by_name(source: Foreign, tmp_path: Path) -> None:
    name = next(name for name in source.state if name.endswith("cls_token"))
    broken = torch.full_like(source.state[name], float("nan"))
    path = source.write({**source.state, name: broken}, tmp_path)
    with pytest.raises(PacxError, match=r"not all finite: cls_token"):
        load_encoder(path, **source.arguments)


def test_half_precision_is_computed_with_in_single(source: Foreign, tmp_path: Path) -> None:
    path = source.write({name: value.half() for name, value in source.state.items()}, tmp_path)
    encoder = load_encoder(path, **source.arguments)
    assert encoder.config.provenance["format"] == source.format
    assert encoder.vit.cls_token.dtype == torch.float32
    torch.testing.assert_close(encoder(images()), source.tokens(images())[:, 0], atol=0.03, rtol=0)


def test_random_takes_the_architecture_of_a_foreign_file(tmp_path: Path) -> None:
    source = MAKERS["mae"](tmp_path)
    path = source.write(source.state, tmp_path)
    trained, fresh = load_encoder(path, heads=HEADS), load_encoder(f"random:{path}:3", heads=HEADS, fold=True)
    assert fresh.config.provenance == {"weights": "random, seed 3"}
    assert fresh.config.preprocess.in_chans == 1
    assert fresh.config.width == trained.config.width


def test_the_weights_file_of_a_model_folder_is_read_with_its_configuration(tmp_path: Path) -> None:
    source = MAKERS["ViTModel"](tmp_path)
    folder = source.write(source.state, tmp_path / "vit")
    encoder = load_encoder(folder / "model.safetensors")
    assert encoder.config == load_encoder(folder).config
    ours = save_encoder(encoder, tmp_path / "ours")
    assert load_encoder(ours / "model.safetensors").config == encoder.config


def test_a_file_beside_a_foreign_configuration_is_read_by_itself(tmp_path: Path) -> None:
    huggingface, mae = MAKERS["ViTModel"](tmp_path), MAKERS["mae"](tmp_path)
    huggingface.write(huggingface.state, tmp_path)
    assert load_encoder(mae.write(mae.state, tmp_path), heads=HEADS).config.layer_norm_eps == 1e-6


def test_several_safetensors_files_are_one_network(tmp_path: Path) -> None:
    source = MAKERS["ViTModel"](tmp_path)
    folder = source.write(source.state, tmp_path / "vit")
    whole = load_encoder(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    places = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for place in set(places.values()):
        save_file({name: state[name] for name in names if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert weights_hash(load_encoder(folder)) == weights_hash(whole)


def _of_the_encoder(source: Foreign) -> list[str]:
    originals = (".original_module.",)  # PEFT keeps them beside their trained copies; they take no part
    return [
        name
        for name in source.state
        if not name.startswith(source.no_encoder) and not any(part in name for part in originals)
    ]


def _short(name: str) -> str:
    """Without the wrapper of distributed training, which is taken off before names are compared."""
    return name.removeprefix("module.")
