"""What `pacx distill` leaves fits together: PEFT loads the adapter, merged equals unmerged, each file has its part."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
from safetensors.torch import load_file
from torch import Tensor

from pacx.data.bank import Bank
from pacx.data.phantom.cohort import simulate
from pacx.data.store import Store
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from pacx.models.student import Student
from pacx.stages.distill import distill

peft = pytest.importorskip("peft", reason="peft is not installed")
torch.set_num_threads(1)
TEACHERS = {"ecg": 10, "labs": 6}
ARMS: dict[str, dict[str, Any]] = {
    "lora, all norms": {"adaptation": "lora", "train_norms": "all"},
    "lora, final norm": {"adaptation": "lora", "train_norms": "final", "anchor_weight": 1.0},
    "last": {"adaptation": "last", "last_blocks": 1, "anchor_weight": 1.0},
    "full": {"adaptation": "full"},
}
HEADS = ("image_projection.", "teacher_projections.", "regressors.", "standardisers.", "logit_scale")


class Distilled(NamedTuple):
    arm: dict[str, Any]
    run: Path
    base: Encoder
    images: Tensor


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Path], Path]:
    """X-rays, two teachers with holes that say something of the image, and an untrained encoder."""
    folder = tmp_path_factory.mktemp("adapter")
    simulate(out=folder / "store", patients=40, size=32, ecg=False, labs=False, workers=1)
    store = Store.open(folder / "store")
    rng = np.random.default_rng(0)
    pixels = store.images[:].reshape(len(store), -1).astype(np.float64) / 255 - 0.5
    banks = []
    for name, dim in TEACHERS.items():
        embeddings = (pixels @ rng.standard_normal((pixels.shape[1], dim))).astype(np.float32)
        present = rng.random(len(store)) < 0.8
        meta = {"teacher": name, "kind": name, "weights_hash": name, "preprocessing": {}}
        banks.append(folder / name)
        ids = tuple(store.manifest["image_id"])
        Bank(embeddings * present[:, None], present, ids, meta | {"store": {"name": store.name}}).save(banks[-1])
    torch.manual_seed(0)
    config = EncoderConfig(store.preprocess(), patch_size=8, width=24, depth=2, heads=3)
    save_encoder(Encoder(config), folder / "encoder")
    return store, banks, folder / "encoder"


@pytest.fixture(scope="module", params=ARMS.values(), ids=ARMS.keys())
def distilled(
    request: pytest.FixtureRequest, cohort: tuple[Store, list[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Distilled:
    store, banks, encoder = cohort
    out = tmp_path_factory.mktemp("distilled") / "run"
    distill(
        store=store.path, encoder=str(encoder), banks=banks, out=out, epochs=2, batch_size=16, learning_rate=1e-2,
        warmup_epochs=0, shared_width=8, accelerator="cpu", devices="1", **request.param,
    )  # fmt: skip
    base = load_encoder(str(encoder)).eval()
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return Distilled(request.param, out, base, images)


def weights_in(checkpoint: Path) -> dict[str, Tensor]:
    """Return what a checkpoint has of the student; beside it are two counters of the guard against bad losses."""
    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    others = {name for name in state if not name.startswith("student.")}
    assert others == {"guard.skipped", "guard.in_a_row"}
    return {name.removeprefix("student."): value for name, value in state.items() if name not in others}


def unmerged(distilled: Distilled) -> Student:
    """Build the student again and give it what the checkpoint holds; what is missing must be frozen."""
    arm = {key: value for key, value in distilled.arm.items() if key != "anchor_weight"}
    student = Student(distilled.base, TEACHERS, shared_width=8, **arm)
    found = student.load_state_dict(weights_in(distilled.run / "checkpoints" / "best.ckpt"), strict=False)
    learned = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert found.unexpected_keys == [] and learned.isdisjoint(found.missing_keys)
    return student.eval()


def test_the_merged_encoder_embeds_as_the_unmerged_student_did(distilled: Distilled) -> None:
    student = unmerged(distilled)
    merged = load_encoder(str(distilled.run / "encoder")).eval()
    assert type(merged.vit) is type(distilled.base.vit)
    with torch.no_grad():
        expected = student(distilled.images)["embedding"]
        torch.testing.assert_close(merged(distilled.images), expected, atol=1e-5, rtol=0)
        assert (distilled.base(distilled.images) - expected).abs().max() > 0.01  # it has learned something


def test_peft_puts_the_adapter_on_the_base_and_gives_the_students_embeddings(distilled: Distilled) -> None:
    if distilled.arm["adaptation"] != "lora":
        assert not (distilled.run / "adapter").exists()
        return
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(distilled.base.vit), str(distilled.run / "adapter")).eval()
    with torch.no_grad():
        expected = unmerged(distilled)(distilled.images)["embedding"]
        torch.testing.assert_close(adapted(distilled.images), expected, atol=1e-5, rtol=0)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(distilled.images), expected, atol=1e-5, rtol=0)
    saved = load_file(distilled.run / "adapter" / "adapter_model.safetensors")
    norms = {name for name in saved if "norm" in name}
    assert len(norms) == (2 * 5 if distilled.arm["train_norms"] == "all" else 2)  # weight and bias of each
    assert {name.split(".")[-3] for name in saved.keys() - norms} == {"qkv", "fc1", "fc2"}


def test_the_heads_file_holds_all_heads_and_nothing_of_any_encoder(distilled: Distilled) -> None:
    heads = load_file(distilled.run / "heads.safetensors")
    assert all(name.startswith(HEADS) for name in heads)
    student = unmerged(distilled).state_dict()
    assert heads.keys() == {name for name in student if name.startswith(HEADS)}
    for name in heads.keys() - {"logit_scale"}:
        torch.testing.assert_close(heads[name], student[name], atol=0, rtol=0)


def test_checkpoints_hold_no_frozen_weight(distilled: Distilled) -> None:
    learned = {name for name, parameter in unmerged(distilled).named_parameters() if parameter.requires_grad}
    for file in ("best.ckpt", "last.ckpt"):
        saved = weights_in(distilled.run / "checkpoints" / file)
        assert learned <= saved.keys()
        assert all(name.startswith("standardisers.") for name in saved.keys() - learned)
