"""The published alignment protocol against scikit-learn, and an honest one that fits on no memorised row."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from pacx.data.bank import Bank
from pacx.errors import PacxError
from pacx.evaluation.alignment import align
from pacx.evaluation.alignment_scores import KS, measure_alignment, rows_to_fit
from pacx.evaluation.ridge import fit_ridge_by_groups, fit_ridge_with
from pacx.models.encoder import Encoder, save_encoder
from pacx.models.patients import SeenPatients


@pytest.fixture(scope="module")
def features(store):
    return np.random.default_rng(0).normal(size=(len(store), 12)).astype(np.float32) * 3 + 1


@pytest.fixture(scope="module")
def bank(store, features):
    """Half linear, half noise, far from the origin, with holes, a constant dimension and two equal test rows."""
    rng = np.random.default_rng(1)
    embeddings = features @ rng.normal(size=(12, 5)) + 3 * rng.normal(size=(len(store), 5)) + 8
    embeddings[:, 4] = 2.0
    present = rng.random(len(store)) < 0.9
    test = [row for row in store.rows("test") if present[row]]
    embeddings[test[1]] = embeddings[test[0]]
    ids = tuple(store.manifest["image_id"].astype(str))
    return Bank(embeddings.astype(np.float32), present, ids, {"teacher": "ecg", "kind": "ecg"})


@pytest.fixture(scope="module")
def rows(store, bank):
    return {
        split: np.array([row for row in store.rows(split, needs=("image",)) if bank.present[row]])
        for split in ("train", "val", "test")
    }


def _cosine(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_a_ridge_of_fixed_penalty_equals_scikit_learn_to_1e_8():
    rng = np.random.default_rng(2)
    x, y, new = rng.normal(size=(80, 20)) * 4 + 7, rng.normal(size=(80, 6)) - 3, rng.normal(size=(9, 20)) * 4 + 7
    scaler = StandardScaler().fit(x)
    theirs = Ridge(alpha=10.0, solver="svd").fit(scaler.transform(x), y).predict(scaler.transform(new))
    ours = fit_ridge_with(x, y, penalty=10.0)
    assert np.abs(ours.centred(new) + ours.target_mean - theirs).max() < 1e-8


def test_the_published_protocol_equals_a_plain_calculation_with_scikit_learn(store, features, bank, rows):
    found, table = measure_alignment(features, bank, store, protocol="paper", draws=20)
    x, y = features.astype(np.float64), bank.embeddings.astype(np.float64)
    scaler = StandardScaler().fit(x[rows["train"]])
    model = Ridge(alpha=10.0, solver="svd").fit(scaler.transform(x[rows["train"]]), y[rows["train"]])
    predicted, target = model.predict(scaler.transform(x[rows["test"]])), y[rows["test"]]
    mean = target.mean(axis=0)
    shuffle = np.random.RandomState(0).permutation(len(target))
    assert found["r2"] == pytest.approx(r2_score(target, predicted), abs=1e-8)  # the constant dimension counts 1
    assert found["cosine"].value == pytest.approx(_cosine(predicted, target).mean(), abs=1e-8)
    centred = _cosine(predicted[:, :] - mean, target - mean)
    assert found["cosine_centred"].value == pytest.approx(centred.mean(), abs=1e-8)
    assert found["random_pair_cosine"] == pytest.approx(_cosine(predicted, target[shuffle]).mean(), abs=1e-8)
    assert found["random_pair_cosine_centred"] == pytest.approx(
        _cosine(predicted - mean, (target - mean)[shuffle]).mean(), abs=1e-8
    )
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (predicted, target)]
    similarity = unit[0] @ unit[1].T
    rank = (similarity > np.diag(similarity)[:, None] + 1e-9).sum(axis=1)
    single = ~np.isin(np.arange(len(rank)), [0, 1])  # the two equal rows share their hits
    for k in KS:
        assert np.array_equal(table[f"r{k}"][single], (rank < k)[single])
    assert (found["alpha"], found["num_duplicates"], found["n_val"]) == (10.0, 1, 0)
    assert found["n_train"] == len(rows["train"])


def test_published_r2_equals_scikit_learns_where_every_dimension_varies(store, features, bank, rows):
    four = Bank(bank.embeddings[:, :4].copy(), bank.present, bank.image_ids, bank.meta)
    found, _ = measure_alignment(features, four, store, protocol="paper", draws=20)
    x, y = features.astype(np.float64), four.embeddings.astype(np.float64)
    scaler = StandardScaler().fit(x[rows["train"]])
    model = Ridge(alpha=10.0, solver="svd").fit(scaler.transform(x[rows["train"]]), y[rows["train"]])
    predicted = model.predict(scaler.transform(x[rows["test"]]))
    assert found["r2"] == pytest.approx(r2_score(y[rows["test"]], predicted), abs=1e-8)
    honest, _ = measure_alignment(features, four, store, draws=20)
    assert honest["r2"] != pytest.approx(found["r2"], abs=1e-4)  # against the training mean, with another penalty


def test_rows_of_distilled_patients_are_left_out_and_counted(store, features, bank, rows):
    distilled = np.zeros(len(store), dtype=bool)
    distilled[rows["train"][:20]] = True
    found, _ = measure_alignment(features, bank, store, distilled=distilled, draws=20)
    assert (found["n_left_out"], found["n_distilled"]) == (20, 0)
    assert found["n_train"] == len(rows["train"]) - 20
    # It is as if these rows were not there.
    holes = Bank(bank.embeddings, bank.present & ~distilled, bank.image_ids, bank.meta)
    without, _ = measure_alignment(features, holes, store, draws=20)
    assert found["r2"] == pytest.approx(without["r2"], abs=1e-12)
    kept, _ = measure_alignment(features, bank, store, distilled=distilled, leave_out_distilled=False, draws=20)
    assert (kept["n_left_out"], kept["n_distilled"]) == (0, 20)
    published, _ = measure_alignment(features, bank, store, protocol="paper", distilled=distilled, draws=20)
    assert (published["n_left_out"], published["n_distilled"], published["n_train"]) == (0, 20, len(rows["train"]))


def test_validation_rows_are_offered_only_where_there_are_enough(store, bank, rows, monkeypatch):
    monkeypatch.setattr("pacx.evaluation.alignment_scores.FEWEST", 20)
    distilled = np.zeros(len(store), dtype=bool)
    distilled[rows["train"]] = True
    with pytest.raises(PacxError, match=rf"at least 20 are needed.*give --fit_on val \({len(rows['val'])} rows\), or"):
        rows_to_fit(bank, store, fit_on="train", left_out=distilled)
    distilled[rows["val"][19:]] = True
    with pytest.raises(PacxError, match=r"say little of new ones: pass --leave_out_distilled false"):
        rows_to_fit(bank, store, fit_on="train", left_out=distilled)


def test_a_read_out_of_few_rows_is_warned_of(store, bank, rows, encoder, tmp_path, caplog):
    few = bank.present.copy()
    few[rows["val"][14:]] = False
    Bank(bank.embeddings, few, bank.image_ids, bank.meta).save(tmp_path / "ecg")
    network = str(save_encoder(Encoder(encoder.config), tmp_path / "encoder"))
    common = {"store": store.path, "encoder": network, "banks": [tmp_path / "ecg"], "draws": 20}
    with caplog.at_level("WARNING", logger="pacx"):
        align(**common, out=tmp_path / "train")
        assert "says little" not in caplog.text
        align(**common, out=tmp_path / "val", fit_on="val")
    assert "align: ecg: fitted on 14 val rows; on fewer than 30 a read-out says little of new patients" in caplog.text


def test_fitted_on_validation_rows_the_penalty_comes_from_folds_of_patients(store, features, bank, rows):
    found, _ = measure_alignment(features, bank, store, fit_on="val", draws=20)
    assert (found["n_train"], found["n_val"]) == (len(rows["val"]), 0)
    patient = store.manifest["patient_id"].to_numpy(dtype=str)[rows["val"]]
    ridge = fit_ridge_by_groups(features[rows["val"]], bank.embeddings[rows["val"]], groups=patient)
    assert found["alpha"] == ridge.penalty
    target = bank.embeddings[rows["test"]] - ridge.target_mean
    assert found["cosine_centred"].value == pytest.approx(
        _cosine(ridge.centred(features[rows["test"]]), target).mean(), abs=1e-8
    )


def test_test_rows_choose_nothing(store, features, bank, rows):
    """Other test embeddings change the scores, and neither penalty nor prediction."""
    changed = bank.embeddings.copy()
    changed[rows["test"]] = np.random.default_rng(5).normal(size=(len(rows["test"]), 5))
    other = Bank(changed, bank.present, bank.image_ids, bank.meta)
    for options in ({}, {"fit_on": "val"}):
        a, _ = measure_alignment(features, bank, store, draws=20, **options)
        b, _ = measure_alignment(features, other, store, draws=20, **options)
        assert a["alpha"] == b["alpha"]
        assert a["cosine"].value != b["cosine"].value


@pytest.fixture
def distilled_encoder(store, encoder, tmp_path):
    """An encoder that says it was distilled on every training patient, and chose its epoch by the validation ones."""
    torch.manual_seed(0)
    network = Encoder(encoder.config)
    split = store.manifest["split"]
    seen = SeenPatients()
    for part in ("train", "val"):
        people = store.manifest["patient_id"][split == part]
        seen = seen.having(people, stage="distill", split=part, store="tiny", patients_of="")
    network.patients = seen
    return str(save_encoder(network, tmp_path / "pacx" / "encoder"))


def test_an_encoder_distilled_on_all_training_patients_is_not_fitted_on_them(store, bank, distilled_encoder, tmp_path):
    bank.save(tmp_path / "ecg")
    common = {"store": store.path, "encoder": distilled_encoder, "banks": [tmp_path / "ecg"], "draws": 20}
    with pytest.raises(PacxError, match=r"0 are left to fit on.*of new ones: pass --leave_out_distilled"):
        align(**common, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    fair = align(**common, out=tmp_path / "fair", fit_on="val")["results"]
    assert fair["teachers"]["ecg"]["n_distilled"] == 0  # validation chose an epoch, nobody was taught
    assert fair["protocol"] == {
        "name": "honest",
        "fit_on": "val",
        "leave_out_distilled": True,
        "distilled_known": True,
    }
    all_the_same = align(**common, out=tmp_path / "all", leave_out_distilled=False)["results"]["teachers"]["ecg"]
    assert all_the_same["n_distilled"] == all_the_same["n_train"] > 0
    published = align(**common, out=tmp_path / "paper", protocol="paper")["results"]
    assert published["teachers"]["ecg"]["alpha"] == 10.0
    assert published["teachers"]["ecg"]["shuffled"]["alpha"] == 10.0
    assert published["seen_patients"]["num_patients"] == 0
    with pytest.raises(PacxError, match="paper's protocol fits on the training rows"):
        align(**common, out=tmp_path / "x", protocol="paper", fit_on="val")
