import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import pacx.stages.distillation as step
from pacx.data.bank import Bank, open_banks
from pacx.data.batches import Augment, StoreDataset
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.encoder import load_encoder, weights_hash
from pacx.models.student import Student
from pacx.stages.distill import distill
from pacx.stages.lessons import paired_rows, plan_lessons
from pacx.stages.pairing import cosines, spread

QUICK = {
    "epochs": 15, "batch_size": 90, "learning_rate": 3e-3, "warmup_epochs": 1.0, "shared_width": 32,
    "head_dropout": 0.0, "accelerator": "cpu", "augment": False,
}  # fmt: skip


def run(store: Store, encoder: Path, banks: list[Path], out: Path, **changes) -> dict:
    return distill(store=store.path, encoder=str(encoder), banks=banks, out=out, **{**QUICK, **changes})["results"]


@pytest.fixture(scope="module")
def runs(pairs: Store, encoder_path: Path, banks: list[Path], tmp_path_factory: pytest.TempPathFactory):
    """The same distillation with true and with shuffled teachers."""
    folder = tmp_path_factory.mktemp("runs")
    true = run(pairs, encoder_path, banks, folder / "true", adaptation="full")
    shuffled = run(pairs, encoder_path, banks, folder / "shuffled", adaptation="full", shuffle_teachers=True)
    return SimpleNamespace(true=true, shuffled=shuffled, folder=folder)


@pytest.fixture(scope="module")
def lora(pairs: Store, encoder_path: Path, banks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lora"
    run(pairs, encoder_path, banks, out, epochs=3)
    return out


@pytest.mark.parametrize("teacher", ["first", "second"])
@pytest.mark.parametrize("way", ["image_to_teacher", "teacher_to_image"])
def test_true_teachers_are_found_far_above_chance_on_unseen_patients(runs: SimpleNamespace, teacher: str, way: str):
    scores = runs.true["teachers"][teacher]
    assert scores["chance"]["r10"] == pytest.approx(10 / scores["n"])
    assert scores[way]["r10"]["low"] > 2 * scores["chance"]["r10"]


@pytest.mark.parametrize("teacher", ["first", "second"])
@pytest.mark.parametrize("way", ["image_to_teacher", "teacher_to_image"])
def test_shuffled_teachers_leave_retrieval_at_chance(runs: SimpleNamespace, teacher: str, way: str):
    scores = runs.shuffled["teachers"][teacher]
    assert runs.shuffled["shuffled_teachers"]
    assert scores[way]["r10"]["low"] <= scores["chance"]["r10"]
    assert scores[way]["r10"]["value"] < 2 * scores["chance"]["r10"]


def test_true_pairs_end_nearer_to_each_other_than_strangers_and_the_student_stays_spread_out(runs: SimpleNamespace):
    assert runs.true["positive_cosine"] > runs.true["negative_cosine"] + 0.1
    assert runs.true["embedding_spread"] > 0.1
    assert abs(runs.shuffled["positive_cosine"] - runs.shuffled["negative_cosine"]) < 0.05
    assert 0.01 <= runs.true["temperature"] <= 1
    assert runs.true["teachers"]["first"]["regression_cosine"]["low"] > 0.2


def test_losses_by_teacher_and_retrieval_are_in_the_table_of_epochs(runs: SimpleNamespace):
    lines = (runs.folder / "true" / "metrics.csv").read_text().splitlines()
    header = lines[0].split(",")
    first, last = (dict(zip(header, line.split(","), strict=True)) for line in (lines[1], lines[-1]))
    for name in ("train_contrastive/first", "train_regression/second", "val_contrastive/second", "val_loss"):
        assert float(last[name]) < float(first[name])
    assert {"temperature", "val_spread", "val_image_r1/first", "val_teacher_r5/second"} <= set(header)


def test_rows_that_some_teacher_knows_train_unless_only_complete_ones_are_wanted(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, runs: SimpleNamespace
):
    opened = open_banks(banks, pairs)
    train = pairs.rows("train")
    present = np.stack([bank.present[train] for bank in opened.values()])
    assert runs.true["num_train"] == int(present.any(axis=0).sum())
    assert runs.true["num_complete"] == int(present.all(axis=0).sum()) < runs.true["num_train"]
    by_teacher = {name: found["num_train"] for name, found in runs.true["teachers"].items()}
    assert by_teacher == {name: int(bank.present[train].sum()) for name, bank in opened.items()}
    complete = run(pairs, encoder_path, banks, tmp_path / "c", complete_only=True, epochs=2)
    assert complete["num_train"] == runs.true["num_complete"]


def test_fewer_pairs_lie_within_more_and_patients_stay_whole(pairs: Store, banks: list[Path]) -> None:
    opened = open_banks(banks, pairs)
    patient = pairs.manifest["patient_id"].to_numpy()
    chosen = [plan_lessons(pairs, opened, num_pairs=number, seed=3).rows["train"] for number in (10, 30)]
    assert [len(rows) >= number for rows, number in zip(chosen, (10, 30), strict=True)] == [True, True]
    assert set(chosen[0]) < set(chosen[1])
    everybody = plan_lessons(pairs, opened, seed=3).rows
    for rows in chosen:
        assert np.isin(patient[everybody["train"]], patient[rows]).sum() == len(rows)
    np.testing.assert_array_equal(plan_lessons(pairs, opened, num_pairs=10, seed=3).rows["val"], everybody["val"])
    for number in (0, len(everybody["train"]) + 1):
        with pytest.raises(PacxError, match=f"num_pairs is {number}"):
            plan_lessons(pairs, opened, num_pairs=number)


def test_keeping_half_of_each_teacher_makes_incomplete_pairs_that_train(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, runs: SimpleNamespace
):
    half = {"keep": ["first=0.5", "second=0.5"], "epochs": 2}
    any_teacher = run(pairs, encoder_path, banks, tmp_path / "any", **half)
    complete = run(pairs, encoder_path, banks, tmp_path / "complete", complete_only=True, **half)
    assert complete["num_train"] == any_teacher["num_complete"] < 0.45 * runs.true["num_train"]
    assert 2 * complete["num_train"] < any_teacher["num_train"] < 0.8 * runs.true["num_train"]
    for name in ("first", "second"):  # nobody of the test split is forgotten
        assert any_teacher["teachers"][name]["n"] == runs.true["teachers"][name]["n"]


def test_a_student_that_sees_the_same_in_all_images_is_warned_about(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """Its heads are zeroed before training, and nothing is learned: every embedding in the shared space is the same."""

    def deaf(*arguments, **options) -> Student:
        student = Student(*arguments, **options)
        torch.nn.init.zeros_(student.image_projection[1].weight)
        torch.nn.init.ones_(student.image_projection[2].bias)
        student.requires_grad_(False).logit_scale.requires_grad_(True)
        return student

    monkeypatch.setattr("pacx.stages.distill.Student", deaf)
    with caplog.at_level("WARNING", logger="pacx"):
        found = run(pairs, encoder_path, banks, tmp_path / "run", epochs=2)
    assert found["embedding_spread"] < 1e-6
    assert sum("nearly the same embedding" in line for line in caplog.messages) == 2  # while training, and at the end


def test_the_options_beyond_the_paper_are_written_where_they_belong(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path
):
    options = {
        "anchor_weight": 1.0, "chunk_size": 32, "standardise": "whiten", "teacher_weights": ["first=0.25"], "epochs": 2,
    }  # fmt: skip
    found = run(pairs, encoder_path, banks, tmp_path / "run", **options)
    assert 0 < found["anchor_distance"] < 0.5
    heads = load_file(tmp_path / "run" / "heads.safetensors")
    assert heads["standardisers.first.forward_map"].shape == (16, 16)
    assert heads["standardisers.second.mean"].abs().max() > 0
    assert not any(name.startswith(("encoder.", "base.")) for name in heads)
    assert json.loads((tmp_path / "run" / "heads.json").read_text())["standardise"] == "whiten"
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("student.base.") for name in saved)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_anchor", "val_anchor"} <= set(header)


@pytest.mark.parametrize(
    "given", [{"keep": ["third=0.5"]}, {"keep": ["first"]}, {"teacher_weights": ["first=-1"]}, {"keep": ["first=2"]}]
)
def test_numbers_for_teachers_that_make_no_sense_are_refused_before_anything_is_written(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, given: dict[str, list[str]]
):
    with pytest.raises(PacxError, match=r"first|third"):
        run(pairs, encoder_path, banks, tmp_path / "run", **given)
    assert not (tmp_path / "run" / "encoder").exists()


def test_half_precision_trains_and_takes_the_loss_in_full(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    dtypes = set()
    plain = step.distillation_loss

    def spy(image, teachers, **settings):
        parts = plain(image, teachers, **settings)
        dtypes.update({image.dtype, parts["loss"].dtype, *(terms.projected.dtype for terms in teachers.values())})
        return parts

    monkeypatch.setattr(step, "distillation_loss", spy)
    options = {"epochs": 3, "anchor_weight": 1.0, "chunk_size": 32, "gradient_clip": 1.0}
    half = run(pairs, encoder_path, banks, tmp_path / "half", precision="bf16-mixed", **options)
    full = run(pairs, encoder_path, banks, tmp_path / "full", precision="32-true", **options)
    assert half["val_loss"] == pytest.approx(full["val_loss"], rel=0.02)
    assert dtypes == {torch.float32}


def test_other_images_of_a_patient_are_no_negatives_unless_asked(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path
):
    """The toy store has two rows per patient; leaving one out of the choices makes the question easier."""
    settings = {"epochs": 2, "learning_rate": 1e-12, "label_smoothing": 0.0, "regression_weight": 0.0}
    aware = run(pairs, encoder_path, banks, tmp_path / "aware", **settings)
    every = run(pairs, encoder_path, banks, tmp_path / "every", patient_aware=False, **settings)
    assert aware["val_loss"] < every["val_loss"]
    rows = len(pairs.rows("val"))
    assert every["val_loss"] - aware["val_loss"] == pytest.approx(1 / rows, rel=0.9)


def test_whatever_stands_in_a_hole_is_not_looked_at(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path
):
    spoiled = []
    for path in banks:
        bank = Bank.open(path)
        garbage = np.where(bank.present[:, None], bank.embeddings, np.float32("nan"))
        folder = tmp_path / path.name
        bank.save(folder)
        np.save(folder / "embeddings.npy", garbage)
        spoiled.append(folder)
    options = {"epochs": 2, "standardise": "whiten"}
    found = run(pairs, encoder_path, spoiled, tmp_path / "spoiled", **options)
    assert found["skipped_steps"] == 0
    assert found["val_loss"] == run(pairs, encoder_path, banks, tmp_path / "clean", **options)["val_loss"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"anchor_weight": -1.0}, "anchor_weight is -1"),
        ({"contrastive_weight": float("nan")}, "finite"),
        ({"contrastive_weight": 0.0, "regression_weight": 0.0}, "teach nothing"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2"),
        ({"head_dropout": 1.5}, "below 1"),
        ({"shared_width": 0}, "shared_width is 0"),
        ({"batch_size": 1}, "told apart"),
        ({"teacher_weights": ["first=0", "second=0"]}, "0 for every teacher"),
        ({"teacher_weights": ["first=inf"]}, "TEACHER=NUMBER"),
    ],
)
def test_settings_with_which_nothing_would_be_learned_are_refused(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, given: dict, message: str
):
    with pytest.raises(PacxError, match=message):
        run(pairs, encoder_path, banks, tmp_path / "run", **given)


def test_one_validation_row_neither_chooses_the_epoch_nor_warns_of_a_collapse(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bank = Bank.open(banks[0])
    present = bank.present.copy()
    present[pairs.rows("val")[1:]] = False
    present[pairs.rows("val")[0]] = True
    replace(bank, present=present).save(tmp_path / "holes")
    with caplog.at_level("WARNING", logger="pacx"):
        found = run(pairs, encoder_path, [tmp_path / "holes"], tmp_path / "run", epochs=2)
    assert found["val_loss"] is None
    assert not any("same embedding" in line for line in caplog.messages)
    assert found["retrieval_split"] == "test"


def test_a_contrastive_loss_that_would_be_alone_and_always_zero_is_refused(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path
):
    """The toy store has two rows per patient, so that one patient is enough for a loss that does not know them."""
    bank = replace(Bank.open(banks[0]), present=np.ones(len(pairs), dtype=bool))
    bank.save(tmp_path / "full")
    alone = {"num_pairs": 1, "regression_weight": 0.0, "epochs": 2}
    with pytest.raises(
        PacxError, match=r"always be 0: no teacher \(first\) has training rows of two different patients"
    ):
        run(pairs, encoder_path, [tmp_path / "full"], tmp_path / "aware", **alone)
    every = run(pairs, encoder_path, [tmp_path / "full"], tmp_path / "every", patient_aware=False, **alone)
    assert every["num_train"] == 2
    assert every["train_loss"] > 0
    unheard = {"teacher_weights": ["first=0"], "num_pairs": 1, "regression_weight": 0.0}
    with pytest.raises(PacxError, match=r"no teacher \(second\)"):
        run(pairs, encoder_path, [tmp_path / "full", banks[1]], tmp_path / "unheard", **unheard)


def test_a_teacher_without_a_training_row_is_refused_beside_another(pairs: Store, banks: list[Path]) -> None:
    opened = open_banks(banks, pairs)
    present = opened["second"].present.copy()
    present[pairs.rows("train")] = False
    silent = {**opened, "second": replace(opened["second"], present=present)}
    with pytest.raises(PacxError, match=r"Teacher 'second' has no row to train on.*Leave this bank out"):
        plan_lessons(pairs, silent)
    with pytest.raises(PacxError, match="known to all of first, second"):
        plan_lessons(pairs, silent, complete_only=True)
    with pytest.raises(PacxError, match="Teacher 'first' has no row"):
        plan_lessons(pairs, opened, keep=["first=1e-9"])


def test_a_batch_larger_than_the_rows_is_taken_down_and_said(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", logger="pacx"):
        found = run(pairs, encoder_path, banks, tmp_path / "cut", num_pairs=10, epochs=2, batch_size=50)
        assert found["effective_batch_size"] == found["num_train"] < 50
        assert found["steps"] == 2
        said = (
            f"distill: {found['num_train']} rows, so the batch is {found['num_train']} (50 were asked for): 1 step an"
        )
        assert sum(said in line for line in caplog.messages) == 1
        caplog.clear()
        small = run(pairs, encoder_path, banks, tmp_path / "small", num_pairs=10, epochs=2, batch_size=4)
    assert small["effective_batch_size"] == 4
    assert not any("were asked for" in line for line in caplog.messages)


def test_validation_rows_of_one_patient_do_not_choose_the_epoch(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bank = Bank.open(banks[0])
    val = pairs.rows("val")
    present = bank.present.copy()
    present[val] = pairs.manifest["patient_id"].to_numpy()[val] == pairs.manifest["patient_id"].iloc[val[0]]
    assert present[val].sum() == 2
    replace(bank, present=present).save(tmp_path / "one")
    options = {"epochs": 2, "regression_weight": 0.0}
    with caplog.at_level("WARNING", logger="pacx"):
        found = run(pairs, encoder_path, [tmp_path / "one"], tmp_path / "run", **options)
    assert found["val_loss"] is None
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert sum("the last epoch is kept" in line for line in caplog.messages) == 1


def test_holes_change_neither_loss_nor_gradients_nor_measurements(pairs: Store, encoder_path: Path, banks: list[Path]):
    opened = open_banks(banks, pairs)
    garbage = {
        name: replace(bank, embeddings=np.where(bank.present[:, None], bank.embeddings, 7.0).astype(np.float32))
        for name, bank in opened.items()
    }
    base = load_encoder(encoder_path)
    rows = paired_rows(pairs, opened, "train", complete_only=False)[:40]
    data = StoreDataset(pairs, rows, preprocess=base.config.preprocess, augment=Augment.none())
    batch = data.__getitems__([(0, position) for position in range(len(rows))])
    found = []
    for each in (opened, garbage):
        torch.manual_seed(0)
        student = Student(base, {name: bank.dim for name, bank in each.items()}, shared_width=16)
        module = step.Distillation(
            student, each, image_ids=[], contrastive_weight=1.0, regression_weight=1.0, label_smoothing=0.02,
            learning_rate=1.0, weight_decay=0.0, warmup_epochs=0.0,
        )  # fmt: skip
        made = module.eval().forward(batch)
        module.loss(made)["loss"].backward()
        gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
        found.append((gradients, module.measure(made)))
    (gradients, numbers), (same_gradients, same_numbers) = found
    assert numbers == same_numbers
    assert all(torch.equal(gradients[name], same_gradients[name]) for name in gradients)
    assert any(gradient.abs().sum() > 0 for name, gradient in gradients.items() if "lora_B" in name)


def test_encoder_folder_is_plain_differs_from_its_parent_and_names_it(
    lora: Path, encoder_path: Path, pairs: Store, banks: list[Path]
):
    base, merged = load_encoder(encoder_path), load_encoder(lora / "encoder")
    provenance = merged.config.provenance
    assert provenance["parent"]["hash"] == weights_hash(base)
    assert provenance["parent"]["provenance"] == {"method": "none"}
    assert [teacher["weights_hash"] for teacher in provenance["teachers"]] == ["hash-of-first", "hash-of-second"]
    assert provenance["data"][0]["split_hash"] == pairs.meta["split_hash"]
    assert merged.config.preprocess == base.config.preprocess
    images = [np.asarray(image) / np.float32(255) for image in pairs.images[:4]]
    assert np.abs(merged.encode(images) - base.encode(images)).max() > 1e-3


def test_adapter_put_on_the_base_encoder_gives_the_merged_encoder(lora: Path, encoder_path: Path, pairs: Store):
    base, merged = load_encoder(encoder_path), load_encoder(lora / "encoder")
    base.vit = PeftModel.from_pretrained(base.vit, str(lora / "adapter"))
    images = [np.asarray(image) / np.float32(255) for image in pairs.images[:4]]
    np.testing.assert_allclose(base.encode(images), merged.encode(images), atol=1e-5)


def test_heads_are_kept_apart_from_the_encoder(lora: Path):
    heads = load_file(lora / "heads.safetensors")
    assert "logit_scale" in heads
    assert {name.split(".")[0] for name in heads} == {
        "image_projection", "teacher_projections", "regressors", "standardisers", "logit_scale",
    }  # fmt: skip


def test_frozen_weights_are_not_in_the_checkpoints(lora: Path):
    saved = torch.load(lora / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any("lora_A" in name for name in saved)
    assert not any("base_layer" in name or "patch_embed" in name or "pos_embed" in name for name in saved)


class Killed(BaseException):
    """Stands for kill -9."""


def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(
    pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = {"epochs": 3, "head_dropout": 0.2, "augment": True}
    whole = run(pairs, encoder_path, banks, tmp_path / "whole", **options)
    original = step.Distillation.training_step

    def die(self, batch, batch_idx):
        if self.global_step == 4:
            raise Killed
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(step.Distillation, "training_step", die)
        with pytest.raises(Killed):
            run(pairs, encoder_path, banks, tmp_path / "parts", **options)
    parts = run(pairs, encoder_path, banks, tmp_path / "parts", **options)
    for file in ("encoder/model.safetensors", "heads.safetensors"):
        a, b = load_file(tmp_path / "whole" / file), load_file(tmp_path / "parts" / file)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole["teachers"] == parts["teachers"]
    assert whole["val_loss"] == parts["val_loss"]


def test_each_term_can_be_left_out(pairs: Store, encoder_path: Path, banks: list[Path], tmp_path: Path):
    run(pairs, encoder_path, banks[:1], tmp_path / "c", epochs=2, regression_weight=0.0)
    header = (tmp_path / "c" / "metrics.csv").read_text().splitlines()[0]
    assert "train_contrastive/first" in header
    assert "train_regression" not in header


def test_cosines_equal_those_of_all_pairs_formed_one_by_one():
    generator = torch.Generator().manual_seed(0)
    image, teacher = torch.randn(7, 3, generator=generator), torch.randn(7, 3, generator=generator)
    present = torch.tensor([1, 1, 0, 1, 1, 0, 1]).bool()
    table = torch.cosine_similarity(image[present][:, None], teacher[present][None], dim=-1)
    off = ~torch.eye(5, dtype=torch.bool)
    found = cosines(image, teacher, present)
    assert found["positive_cosine"] == pytest.approx(float(table.diagonal().mean()), abs=1e-6)
    assert found["negative_cosine"] == pytest.approx(float(table[off].mean()), abs=1e-6)


def test_spread_is_zero_when_collapsed_and_one_when_directions_cancel():
    assert spread(torch.ones(5, 3)) == pytest.approx(0, abs=1e-12)
    assert spread(torch.cat([torch.eye(3), -torch.eye(3)])) == pytest.approx(1)


def test_banks_of_another_store_or_of_one_name_are_refused(
    store: Store, pairs: Store, banks: list[Path], encoder_path: Path, tmp_path: Path
):
    with pytest.raises(PacxError, match="make the bank again"):
        open_banks(banks, store)
    with pytest.raises(PacxError, match="Two banks are of a teacher called 'first'"):
        open_banks([banks[0], banks[0]], pairs)
    with pytest.raises(PacxError, match="No teacher bank"):
        run(pairs, encoder_path, [], tmp_path / "x")
    silent = replace(Bank.open(banks[0]), present=np.zeros(len(pairs), dtype=bool))
    silent.save(tmp_path / "silent")
    with pytest.raises(PacxError, match="no row to train on"):
        run(pairs, encoder_path, [tmp_path / "silent"], tmp_path / "y")
