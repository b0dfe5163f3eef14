import numpy as np
import pandas as pd
import pytest
import torch
from lab_runs import distil_heads, make_bank, make_encoder, make_store, make_teacher

from pacx.data.labs import LabReference
from pacx.errors import PacxError
from pacx.evaluation.lab_readouts import by_line, by_ridge, known_labs
from pacx.evaluation.physiology import physiology
from pacx.evaluation.pool import pool
from pacx.evaluation.ridge import PENALTIES, fit_ridge, fit_ridge_by_groups
from pacx.frozen.features import extract
from pacx.models.encoder import load_encoder
from pacx.models.labs_autoencoder import load_labs_autoencoder


@pytest.fixture(scope="module")
def blood(tmp_path_factory):
    torch.set_num_threads(1)
    return make_store(tmp_path_factory.mktemp("stores") / "blood")


@pytest.fixture(scope="module")
def network(blood, tmp_path_factory):
    return make_encoder(blood, tmp_path_factory.mktemp("runs") / "tiny" / "encoder")


@pytest.fixture(scope="module")
def teacher(blood, tmp_path_factory):
    return make_teacher(blood, tmp_path_factory.mktemp("runs") / "labs-teacher")


@pytest.fixture(scope="module")
def bank(blood, teacher):
    net, _ = load_labs_autoencoder(teacher / "teacher")
    return make_bank(blood, net, LabReference.load(teacher / "teacher" / "reference.json"))


@pytest.fixture(scope="module")
def distilled(blood, network, bank, tmp_path_factory):
    return distil_heads(blood, load_encoder(network), bank, tmp_path_factory.mktemp("runs") / "pacx")


def lab_of(result, name):
    return next(lab for lab in result["results"]["labs"] if lab["lab"] == name)


def test_a_lab_that_images_show_is_read_and_one_that_they_do_not_show_is_not(blood, network, tmp_path):
    result = physiology(store=blood.path, encoder=str(network), out=tmp_path / "out", token="mean", draws=100)
    seen, hidden = lab_of(result, "seen"), lab_of(result, "hidden")
    assert seen["spearman"]["low"] > 0.9 and seen["skill"]["low"] > 0.8
    assert hidden["spearman"]["low"] < 0 < hidden["spearman"]["high"]
    assert hidden["skill"]["value"] < 0.1
    assert result["results"]["share_above_zero"] == {"spearman": 0.5, "skill": 0.5}
    assert result["results"]["left_out"] == {"rare": "8 training and 0 test values with an X-ray"}
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    test = blood.rows("test")
    known = blood.labs.iloc[test]["seen"].notna().to_numpy()
    own = table[table["lab"] == "seen"]
    assert own["image_id"].tolist() == blood.manifest.iloc[test[known]]["image_id"].tolist()
    assert own["baseline"].tolist() == pytest.approx([0.5] * len(own))  # mid-ranks average to one half
    assert (tmp_path / "out" / "figures" / "physiology.png").is_file()


def test_test_rows_change_nothing_that_is_fitted(blood, network):
    encoder = load_encoder(network)
    features = extract(encoder, blood, np.arange(len(blood)))
    patient = blood.manifest["patient_id"].to_numpy(dtype=str)
    lab = known_labs(blood, ["seen"])[0][0]
    changed = lab._replace(
        value=lab.value | {"test": -lab.value["test"]}, truth=lab.truth | {"test": 1 - lab.truth["test"]}
    )
    for one, other in (
        (by_ridge(lab, features, patient=patient), by_ridge(changed, features, patient=patient)),
        (by_line(lab, features[:, 0]), by_line(changed, features[:, 0])),
    ):
        assert np.array_equal(one.predicted, other.predicted)


def test_few_validation_values_leave_the_choice_of_the_penalty_to_left_out_training_patients(network, tmp_path):
    small = make_store(tmp_path / "store", num_val=5)
    result = physiology(store=small.path, encoder=str(network), out=tmp_path / "out", token="mean", draws=20)
    assert lab_of(result, "seen")["chosen_on"] == "left-out training patients"
    assert lab_of(result, "seen")["spearman"]["value"] > 0.9
    assert lab_of(result, "hidden")["penalty"] > lab_of(result, "seen")["penalty"]


def test_a_penalty_is_not_chosen_by_recognising_patients():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(30), 4)
    x = np.repeat(rng.normal(size=(30, 40)), 4, axis=0) + 0.01 * rng.normal(size=(120, 40))
    y = np.repeat(rng.normal(size=(30, 1)), 4, axis=0)  # constant within a patient, unrelated to the features
    by_patient = fit_ridge_by_groups(x, y, groups=patient)
    by_row = fit_ridge_by_groups(x, y, groups=np.arange(120))
    assert by_patient.penalty > 1e4 > 10 > by_row.penalty
    assert by_patient.penalty in PENALTIES
    alone = fit_ridge_by_groups(x, y, groups=np.zeros(120))
    assert np.allclose(alone.weight, fit_ridge(x, y).weight)


def test_heads_decode_the_lab_that_images_show(blood, distilled, teacher, bank, tmp_path):
    bank.save(tmp_path / "bank")
    result = physiology(
        store=blood.path, distilled=distilled, labs_teacher=teacher, banks=[tmp_path / "bank"], out=tmp_path / "out",
        draws=100,
    )  # fmt: skip
    seen, hidden = lab_of(result, "seen"), lab_of(result, "hidden")
    assert result["results"]["read_out"] == "heads" and seen["calibrated_on"] == "val"
    assert seen["spearman"]["low"] > 0.85 and seen["skill"]["low"] > 0.7 and seen["slope"] > 0
    assert hidden["skill"]["high"] < 0.2
    embedding = result["results"]["embeddings"]["labs"]
    assert embedding["difference"]["low"] > 0
    assert embedding["cosine"]["value"] > embedding["cosine_of_mean"]["value"]
    assert embedding["length"] == pytest.approx(result["results"]["decoding"]["length"], rel=1e-4)


def test_a_line_calibrates_and_one_that_falls_keeps_the_decoded_order(blood):
    lab = known_labs(blood, ["seen"])[0][0]
    truth = np.zeros(len(blood), dtype=np.float32)
    for split, rows in lab.rows.items():
        truth[rows] = lab.truth[split]
    shrunken = by_line(lab, 0.4 + 0.05 * truth)
    assert shrunken.facts["slope"] == pytest.approx(20, rel=1e-3)
    assert np.allclose(shrunken.predicted, lab.truth["test"], atol=1e-3)
    turned = by_line(lab, 1 - truth)
    assert np.ptp(turned.predicted) == 0
    assert np.array_equal(np.argsort(turned.score), np.argsort((1 - truth)[lab.rows["test"]]))
    assert "wrong way round" in turned.facts["notes"][0]
    assert by_line(lab, np.full(len(blood), 0.3, dtype=np.float32)).facts["notes"] == [
        "the heads say the same of all val rows"
    ]


def test_folds_are_pooled(network, tmp_path):
    for fold, patients in enumerate((160, 170)):
        store = make_store(tmp_path / f"store-{fold}", patients=patients)
        keep = store.manifest.assign(patient_id=[f"{fold}-{one}" for one in store.manifest["patient_id"]])
        keep["image_id"] = [f"{fold}-{one}" for one in keep["image_id"]]
        keep.to_parquet(store.path / "manifest.parquet")
        physiology(store=store.path, encoder=str(network), out=tmp_path / f"fold-{fold}", token="mean", draws=20)
    result = pool(runs=[tmp_path / "fold-0", tmp_path / "fold-1"], out=tmp_path / "pool", draws=50)
    seen = lab_of(result, "seen")
    assert result["results"]["of"] == "physiology"
    assert seen["num_runs"] == 2
    assert seen["n"] == sum(
        len(pd.read_parquet(tmp_path / f"fold-{fold}" / "predictions.parquet").query("lab == 'seen'"))
        for fold in (0, 1)
    )
    assert seen["spearman"]["low"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither of --encoder and --distilled"),
        ({"encoder": "e", "distilled": "d", "labs_teacher": "t"}, "both of --encoder and --distilled"),
        ({"distilled": "d"}, "belong together"),
        ({"encoder": "e", "banks": ["b"]}, "use `pacx align`"),
        ({"distilled": "d", "labs_teacher": "t", "token": "mean"}, "trained on the class token"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(blood, arguments, message, tmp_path):
    with pytest.raises(PacxError, match=message):
        physiology(store=blood.path, out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_said(blood, store, network, distilled, tmp_path, encoder_folder):
    with pytest.raises(PacxError, match=r"has no lab sodium. It has: seen, hidden, rare"):
        physiology(store=blood.path, encoder=str(network), labs=["sodium"], out=tmp_path / "out")
    with pytest.raises(PacxError, match=r"'tiny' .* lacks labs"):
        physiology(store=store.path, encoder=encoder_folder, out=tmp_path / "out")
    with pytest.raises(PacxError, match=r"No lab can be read here .rare: 8 training"):
        physiology(store=blood.path, encoder=str(network), labs=["rare"], out=tmp_path / "out")


def test_a_teacher_of_other_units_or_of_another_distillation_is_refused(blood, distilled, tmp_path):
    other = make_teacher(blood, tmp_path / "other", steps=1)
    with pytest.raises(PacxError, match=r"No head in .* learned from the labs teacher"):
        physiology(store=blood.path, distilled=distilled, labs_teacher=other, out=tmp_path / "out")
    converted = make_store(tmp_path / "store", units={"seen": "g/dL"})
    with pytest.raises(PacxError, match=r"'seen' is in g/dL .* fitted in mg/L"):
        physiology(store=converted.path, distilled=distilled, labs_teacher=other, out=tmp_path / "out2")
