"""Encoders are not judged on patients that they were trained on: real trainings, real stores."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pacx.data.bank import Bank
from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.alignment import align
from pacx.evaluation.attention import explain
from pacx.evaluation.physiology import physiology
from pacx.evaluation.probe import probe
from pacx.frozen.seen import check_unseen, seen_rows
from pacx.models.encoder import Encoder, load_encoder, save_encoder
from pacx.models.patients import PATIENTS_FILE, SeenPatients, load_patients, save_patients
from pacx.stages.bank import bank
from pacx.stages.convert import convert
from pacx.stages.distill import distill
from pacx.stages.finetune import finetune
from pacx.stages.fit_labs import fit_labs
from pacx.stages.pretrain import pretrain
from pacx.stages.segment import segment

torch.set_num_threads(1)
TINY = {
    "width": 32,
    "depth": 1,
    "heads": 2,
    "patch_size": 8,
    "decoder_width": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "epochs": 1,
    "warmup_epochs": 0.0,
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Thirty patients with two X-rays each, to be split in several ways."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(root / f"{number}.png")
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(60)], "patient_id": [str(i // 2) for i in range(60)]})
    table.assign(sick=np.arange(60) // 2 % 2).to_csv(root / "all.csv", index=False)
    return root / "all.csv"


def _store(files, out, **options):
    prepare("table", files, label_columns=["sick"], size=32, workers=1, out=out, **options)
    return Store.open(out)


@pytest.fixture(scope="module")
def folds(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores")
    return [_store(files, out / str(fold), folds=3, fold=fold) for fold in range(3)]


@pytest.fixture(scope="module")
def trained(folds, tmp_path_factory):
    """An encoder that was pre-trained on the training split of fold 0."""
    out = tmp_path_factory.mktemp("runs") / "mae"
    pretrain(store=folds[0].path, out=out, **TINY)
    return out / "encoder"


def _people(store, *splits):
    table = store.manifest
    return set(table["patient_id"][table["split"].isin(splits)])


def test_pretraining_writes_down_train_and_val_patients_and_no_test_patient(folds, trained):
    seen = load_patients(trained)
    rows = seen_rows(seen, folds[0])
    assert set(folds[0].manifest["patient_id"][rows]) == _people(folds[0], "train", "val")
    assert {(part.stage, part.split) for part in seen.parts} == {("pretrain", "train"), ("pretrain", "val")}
    assert seen.unknown == ()


def test_a_probe_on_the_test_split_of_the_same_fold_passes_and_says_so(folds, trained, tmp_path):
    result = probe(store=folds[0].path, encoder=str(trained), fractions=[1.0], draws=10, out=tmp_path / "probe")
    assert result["results"]["seen_patients"] == {
        "num_patients": 0,
        "num_test_patients": len(_people(folds[0], "test")),
        "allowed": False,
        "checked": True,
        "unknown": [],
    }


def test_a_probe_on_another_fold_is_refused_before_anything_is_written(folds, trained, tmp_path):
    known = len(_people(folds[1], "test") & _people(folds[0], "train", "val"))
    assert known == len(_people(folds[1], "test"))  # who tests in fold 1 trains or validates in fold 0
    with pytest.raises(PacxError, match=f"on {known} of the {known} test patients.*train split of pretrain") as error:
        probe(store=folds[1].path, encoder=str(trained), out=tmp_path / "probe")
    assert "--allow_seen_patients true" in str(error.value)
    assert not (tmp_path / "probe").exists()
    allowed = check_unseen(load_encoder(trained), folds[1], allow=True)
    assert (allowed["num_patients"], allowed["allowed"], allowed["checked"]) == (known, True, True)


def test_equal_ids_of_a_named_other_hospital_are_other_people(files, folds, trained, tmp_path):
    other = _store(files, tmp_path / "other", patients_of="elsewhere", folds=3, fold=1)
    assert other.patients_of == "elsewhere"
    with pytest.raises(PacxError, match="other people with the same ids"):
        check_unseen(load_encoder(trained), other)  # the training store named nobody: they may be the same
    named = _store(files, tmp_path / "named", patients_of="here", folds=3, fold=0)
    encoder = load_encoder(trained)
    encoder.patients = SeenPatients().having(
        named.manifest["patient_id"], stage="pretrain", split="train", store="named", patients_of=named.patients_of
    )
    assert check_unseen(encoder, other)["num_patients"] == 0


def test_a_store_of_an_older_version_has_no_namespace(folds, tmp_path):
    import json
    import shutil

    shutil.copytree(folds[0].path, tmp_path / "old")
    meta = json.loads((tmp_path / "old/meta.json").read_text(encoding="utf-8"))
    del meta["patients_of"]
    (tmp_path / "old/meta.json").write_text(json.dumps(meta), encoding="utf-8")
    assert Store.open(tmp_path / "old").patients_of == ""


def test_an_encoder_that_says_nothing_is_judged_and_marked_as_not_checked(folds, trained, tmp_path):
    encoder = load_encoder(trained)
    encoder.patients = None
    folder = save_encoder(encoder, tmp_path / "foreign")
    found = check_unseen(load_encoder(folder), folds[1])
    assert (found["num_patients"], found["checked"]) == (0, False)
    assert found["unknown"] == ["the encoder's folder does not say whom it was trained on"]


def test_fresh_weights_have_seen_nobody_and_conversion_keeps_the_record(folds, trained, tmp_path):
    assert check_unseen(load_encoder(f"random:{trained}"), folds[1])["checked"] is True
    convert(str(trained), out=tmp_path / "converted", to="timm")
    with pytest.raises(PacxError, match="has been trained on"):
        check_unseen(load_encoder(tmp_path / "converted" / "encoder"), folds[1])


def test_pretraining_goes_on_with_the_record_of_the_weights_it_started_from(folds, trained, tmp_path):
    settings = {key: value for key, value in TINY.items() if key not in {"width", "depth", "heads", "patch_size"}}
    pretrain(store=folds[1].path, encoder=str(trained), out=tmp_path / "more", **settings)
    seen = load_patients(tmp_path / "more" / "encoder")
    both = _people(folds[0], "train", "val") | _people(folds[1], "train", "val")
    assert set(folds[0].manifest["patient_id"][seen_rows(seen, folds[0])]) == both
    (trained.parent / "copy").mkdir()
    for name in ("config.json", "model.safetensors"):  # the file was deleted: nobody knows
        (trained.parent / "copy" / name).write_bytes((trained / name).read_bytes())
    pretrain(store=folds[1].path, encoder=str(trained.parent / "copy"), out=tmp_path / "unknown", **settings)
    unknown = load_patients(tmp_path / "unknown" / "encoder")
    assert unknown.unknown == ("the weights that pretrain started from",)
    with pytest.raises(PacxError, match="has been trained on"):
        check_unseen(load_encoder(tmp_path / "unknown" / "encoder"), folds[0])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    simulate(out=out, patients=40, size=32, ecg=False, workers=1)
    return Store.open(out)


def test_the_simulator_says_whose_its_patients_are(cohort):
    assert cohort.patients_of == "phantom:0"


def test_a_distilled_encoder_has_seen_its_pairs_and_whom_its_teachers_saw(cohort, tmp_path):
    encoder = Encoder(load_encoder_config(cohort))
    encoder.patients = SeenPatients()
    start = save_encoder(encoder, tmp_path / "start")
    fit_labs(store=cohort.path, dim=8, hidden=16, epochs=1, batch_size=8, warmup_steps=0, out=tmp_path / "teacher")
    bank(store=cohort.path, teacher=tmp_path / "teacher", out=tmp_path / "bank")
    assert (tmp_path / "bank" / PATIENTS_FILE).is_file()
    foreign = Bank.open(tmp_path / "bank")
    Bank(foreign.embeddings, foreign.present, foreign.image_ids, {**foreign.meta, "teacher": "other"}).save(
        tmp_path / "other"
    )
    distill(
        store=cohort.path, encoder=str(start), banks=[tmp_path / "bank", tmp_path / "other"], rank=2, shared_width=8,
        epochs=1, batch_size=8, warmup_epochs=0, accelerator="cpu", keep=["labs=0.4", "other=0.4"],
        out=tmp_path / "pacx",
    )  # fmt: skip
    seen = load_patients(tmp_path / "pacx" / "encoder")
    assert {(part.stage, part.split) for part in seen.parts} == {
        (stage, split) for stage in ("fit-labs", "distill") for split in ("train", "val")
    }
    assert {part.patients_of for part in seen.parts} == {"phantom:0"}
    assert seen.unknown == ("the teacher other",)
    train = cohort.rows("train", needs=("image",))
    distilled = seen_rows(seen.of_stage("distill", split="train"), cohort)
    assert 0 < distilled[train].sum() < len(train)  # only pairs count: the teachers forgot some patients
    assert check_unseen(load_encoder(tmp_path / "pacx" / "encoder"), cohort)["num_patients"] == 0


def load_encoder_config(store):
    from pacx.models.encoder import EncoderConfig

    return EncoderConfig(store.preprocess(), patch_size=8, width=32, depth=1, heads=2)


def test_a_teacher_that_knows_the_test_patients_spoils_the_student(cohort, tmp_path):
    encoder = Encoder(load_encoder_config(cohort))
    test = cohort.manifest["patient_id"].to_numpy(dtype=str)[cohort.rows("test")]
    teacher = SeenPatients().having(test[:1], stage="fit-ecg", split="train", store="x", patients_of="")
    encoder.patients = SeenPatients().joined(teacher)
    save_patients(encoder.patients, tmp_path)
    with pytest.raises(PacxError, match="1 in the train split of fit-ecg on 'x'"):
        check_unseen(encoder, cohort)


def test_every_command_that_judges_refuses(cohort, tmp_path):
    encoder = Encoder(load_encoder_config(cohort))
    encoder.patients = SeenPatients().having(
        cohort.manifest["patient_id"], stage="pretrain", split="train", store="x", patients_of="phantom:0"
    )
    folder = str(save_encoder(encoder, tmp_path / "encoder"))
    ids = tuple(cohort.manifest["image_id"].astype(str))
    embeddings = np.random.default_rng(0).normal(size=(len(cohort), 4)).astype(np.float32)
    Bank(embeddings, np.ones(len(ids), dtype=bool), ids, {"teacher": "t", "kind": "t"}).save(tmp_path / "bank")
    commands = {
        "probe": partial(probe, encoder=folder),
        "align": partial(align, encoder=folder, banks=[tmp_path / "bank"]),
        "explain": partial(explain, encoder=folder),
        "physiology": partial(physiology, encoder=folder),
        "segment": partial(segment, encoder=folder, accelerator="cpu"),
        "finetune": partial(finetune, encoder=folder, task="copd", accelerator="cpu"),
    }
    for name, command in commands.items():
        with pytest.raises(PacxError, match=r"has been trained on (\d+) of the \1 test patients"):
            command(store=cohort.path, out=tmp_path / name)
        assert not (tmp_path / name / "result.json").exists()
