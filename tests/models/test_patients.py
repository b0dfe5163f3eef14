import hashlib

import numpy as np
import pytest

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from pacx.models.formats.export import export
from pacx.models.patients import PATIENTS_FILE, Part, SeenPatients, fingerprints, load_patients, save_patients
from pacx.preprocess import Preprocess


def _seen(ids, *, stage="pretrain", split="train", patients_of="mimic"):
    return SeenPatients().having(ids, stage=stage, split=split, store="cohort", patients_of=patients_of)


@pytest.fixture
def encoder():
    return Encoder(EncoderConfig(Preprocess(16, "squash", (0.5,), (0.2,)), patch_size=8, width=16, depth=1, heads=2))


def test_a_fingerprint_is_the_start_of_a_sha256_and_keeps_the_order():
    expected = [int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) for name in ("b", "a", "b")]
    assert fingerprints(["b", "a", "b"]).tolist() == expected
    assert fingerprints([17]).tolist() == fingerprints(["17"]).tolist()
    assert len(fingerprints([])) == 0


def test_the_file_comes_back_as_it_was_and_holds_no_id(tmp_path):
    seen = _seen(["alice", "bob", "bob"]).joined(
        _seen(["carol"], stage="distill", split="val", patients_of=""), SeenPatients(unknown=("the teacher x",))
    )
    save_patients(seen, tmp_path)
    back = load_patients(tmp_path)
    assert [part[:4] for part in back.parts] == [
        ("pretrain", "train", "cohort", "mimic"),
        ("distill", "val", "cohort", ""),
    ]
    assert back.parts[0].patients.tolist() == sorted(fingerprints(["alice", "bob"]).tolist())
    assert back.unknown == ("the teacher x",)
    content = (tmp_path / PATIENTS_FILE).read_bytes()
    assert not any(name in content for name in (b"alice", b"bob", b"carol"))


def test_nobody_and_nobody_knows_are_two_things(tmp_path):
    save_patients(SeenPatients(), tmp_path)
    assert load_patients(tmp_path) == SeenPatients()
    save_patients(None, tmp_path)
    assert load_patients(tmp_path) is None
    assert not (tmp_path / PATIENTS_FILE).exists()


def test_equal_ids_of_two_hospitals_are_two_people_and_of_an_unknown_one_perhaps_the_same():
    seen = _seen(["1", "2"], patients_of="mimic")
    assert seen.has(["2", "3"], patients_of="mimic").tolist() == [True, False]
    assert seen.has(["2", "3"], patients_of="").tolist() == [True, False]
    assert seen.has(["2", "3"], patients_of="nih").tolist() == [False, False]
    assert _seen(["1"], patients_of="").has(["1"], patients_of="nih").tolist() == [True]


def test_what_two_networks_share_is_kept_once():
    a, b = _seen(["1", "2"]), _seen(["3"], stage="distill")
    both = a.joined(b, a, SeenPatients(unknown=("x",)), SeenPatients(unknown=("x",)))
    assert [part.stage for part in both.parts] == ["pretrain", "distill"]
    assert both.unknown == ("x",)
    assert both.of_stage("distill", split="train").parts == b.parts
    assert both.of_stage("distill", split="val").parts == ()


def test_every_layout_of_an_encoder_folder_carries_its_patients(encoder, tmp_path):
    encoder.patients = _seen(["alice"])
    for layout in ("pacx", "timm", "huggingface"):
        folder = export(encoder, tmp_path / layout, to=layout)
        for source in (folder, folder / "model.safetensors"):
            assert load_encoder(source).patients.has(["alice", "bob"], patients_of="mimic").tolist() == [True, False]
    assert load_encoder(tmp_path / "pacx", image_size=32).patients.parts[0].stage == "pretrain"
    assert load_encoder(f"random:{tmp_path / 'pacx'}").patients == SeenPatients()


def test_a_folder_without_the_file_loads_as_before(encoder, tmp_path):
    folder = save_encoder(encoder, tmp_path / "old")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_encoder(folder).patients is None


def test_saving_an_encoder_of_unknown_origin_over_another_leaves_no_patients_of_that_one(encoder, tmp_path):
    encoder.patients = _seen(["alice"])
    save_encoder(encoder, tmp_path / "encoder")
    encoder.patients = None
    save_encoder(encoder, tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").patients is None


@pytest.mark.parametrize("damage", ["cut", "text", "version", "type", "order"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, damage):
    from safetensors.numpy import save_file

    path = tmp_path / PATIENTS_FILE
    save_patients(_seen(["alice"]), tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "text":
        path.write_text("patients", encoding="utf-8")
    elif damage == "version":
        save_file({}, path, metadata={"format": "pacx-patients-9", "parts": "[]", "unknown": "[]"})
    else:
        wrong = np.zeros(2) if damage == "type" else np.array([2, 1], dtype=np.uint64)
        save_patients(SeenPatients((Part("pretrain", "train", "cohort", "", wrong),)), tmp_path)
    with pytest.raises(PacxError, match="or delete this file"):
        load_patients(tmp_path)


def test_the_largest_and_the_smallest_fingerprint_are_found_and_what_lies_beyond_is_not():
    part = Part("pretrain", "train", "cohort", "", np.array([3, 5, 2**64 - 2], dtype=np.uint64))
    asked = np.array([2, 3, 4, 5, 6, 2**64 - 2, 2**64 - 1], dtype=np.uint64)
    assert part.has(asked, patients_of="").tolist() == [False, True, False, True, False, True, False]
    assert not Part("pretrain", "train", "cohort", "", asked[:0]).has(asked, patients_of="").any()
