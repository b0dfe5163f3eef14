import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from pacx.data.bank import Bank
from pacx.errors import PacxError
from pacx.evaluation.alignment import align, measure_alignment
from pacx.evaluation.ridge import PENALTIES, fit_ridge
from pacx.frozen.features import extract


def _bank(store, embeddings, *, present=None, name="ecg"):
    present = np.ones(len(store), dtype=bool) if present is None else present
    ids = tuple(store.manifest["image_id"].astype(str))
    return Bank(embeddings.astype(np.float32), present, ids, {"teacher": name, "kind": "ecg"})


@pytest.fixture(scope="module")
def features(store, encoder):
    return extract(encoder, store, np.arange(len(store)))


@pytest.fixture(scope="module")
def linear_bank(store, features):
    """A teacher that is a linear function of the features plus a large common offset, with holes."""
    rng = np.random.default_rng(0)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    return _bank(store, x @ rng.normal(size=(16, 6)) + 20, present=rng.random(len(store)) < 0.9)


@pytest.mark.parametrize("rows", [60, 10], ids=["more rows", "more features"])
def test_ridge_equals_scikit_learn(rows):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, 15)) * 3 + 5, rng.normal(size=(rows, 4)) + 2
    new = rng.normal(size=(7, 15)) * 3 + 5
    scaler = StandardScaler().fit(x)
    for penalty in (0.5, 100.0):
        ours = fit_ridge(x, y, held_out=(x, y), penalties=[penalty])
        theirs = Ridge(alpha=penalty).fit(scaler.transform(x), y)
        assert np.allclose(ours.centred(new) + ours.target_mean, theirs.predict(scaler.transform(new)), atol=1e-9)


def test_ridge_takes_the_penalty_that_predicts_held_out_rows_best():
    rng = np.random.default_rng(1)
    x, held_x = rng.normal(size=(40, 30)), rng.normal(size=(50, 30))
    weight = rng.normal(size=(30, 2))
    y, held_y = x @ weight + 8 * rng.normal(size=(40, 2)), held_x @ weight + 8 * rng.normal(size=(50, 2))
    scaler = StandardScaler().fit(x)
    errors = [
        np.sum((held_y - Ridge(alpha=a).fit(scaler.transform(x), y).predict(scaler.transform(held_x))) ** 2)
        for a in PENALTIES
    ]
    assert fit_ridge(x, y, held_out=(held_x, held_y)).penalty == pytest.approx(PENALTIES[int(np.argmin(errors))])
    assert fit_ridge(x, y, held_out=(np.empty((0, 30)), np.empty((0, 2)))).penalty == 30


def test_a_linear_teacher_is_read_off_and_a_shuffled_one_is_not(store, features, linear_bank):
    split = store.manifest["split"].to_numpy()
    found, _ = measure_alignment(features, linear_bank, store)
    control, _ = measure_alignment(
        features, linear_bank.shuffled(split, patient=store.manifest["patient_id"], seed=0), store
    )
    assert found["r2"] > 0.95
    assert found["cosine_centred"].low > 0.95
    assert found["retrieval"]["image_to_teacher"]["r1"].value > 0.9
    assert found["retrieval"]["teacher_to_image"]["r1"].value > 0.9
    assert control["r2"] < 0.05
    assert abs(control["cosine_centred"].value) < 0.25
    for way in ("image_to_teacher", "teacher_to_image"):
        hit, chance = control["retrieval"][way]["r5"], control["retrieval"][way]["chance"]["r5"]
        assert hit.low <= chance <= hit.high + 0.1


def test_raw_cosine_is_high_for_an_offset_teacher_and_the_random_baseline_says_so(store, features, linear_bank):
    split = store.manifest["split"].to_numpy()
    control, _ = measure_alignment(
        features, linear_bank.shuffled(split, patient=store.manifest["patient_id"], seed=0), store
    )
    assert control["cosine"].value > 0.9
    assert control["random_pair_cosine"] == pytest.approx(control["cosine"].value, abs=0.02)
    assert abs(control["random_pair_cosine_centred"]) < 0.1


def test_numbers_equal_a_plain_calculation_centred_on_training_rows(store, features, linear_bank):
    found, table = measure_alignment(features, linear_bank, store)
    rows = {s: [r for r in store.rows(s, needs=("image",)) if linear_bank.present[r]] for s in ("train", "val", "test")}
    scaler = StandardScaler().fit(features[rows["train"]].astype(np.float64))
    model = Ridge(alpha=found["alpha"]).fit(
        scaler.transform(features[rows["train"]]), linear_bank.embeddings[rows["train"]]
    )
    mean = linear_bank.embeddings[rows["train"]].astype(np.float64).mean(axis=0)
    predicted = model.predict(scaler.transform(features[rows["test"]])) - mean
    wanted = linear_bank.embeddings[rows["test"]] - mean

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    n = len(wanted)
    pairs = [[cosine(predicted[i], wanted[j]) for j in range(n)] for i in range(n)]
    others = [pairs[i][j] for i in range(n) for j in range(n) if i != j]
    r2 = 1 - ((wanted - predicted) ** 2).sum(axis=0) / (wanted**2).sum(axis=0)
    assert np.allclose(table["cosine_centred"], np.diag(pairs), atol=1e-4)
    assert found["random_pair_cosine_centred"] == pytest.approx(np.mean(others), abs=1e-4)
    assert found["r2"] == pytest.approx(r2.mean(), abs=1e-4)
    assert (found["n_train"], found["n_val"], found["n_test"]) == tuple(len(rows[s]) for s in ("train", "val", "test"))


def test_predicting_the_training_mean_scores_zero(store):
    constant = np.ones((len(store), 4), dtype=np.float32)
    rng = np.random.default_rng(0)
    found, _ = measure_alignment(constant, _bank(store, rng.normal(size=(len(store), 5))), store)
    assert found["r2"] == pytest.approx(0, abs=1e-12)
    assert found["cosine_centred"].value == 0
    assert found["retrieval"]["image_to_teacher"]["r1"].value == pytest.approx(1 / found["n_test"])


def test_align_writes_every_teacher_with_its_control(store, encoder_folder, linear_bank, tmp_path):
    linear_bank.save(tmp_path / "ecg")
    rng = np.random.default_rng(3)
    _bank(store, rng.normal(size=(len(store), 3)), name="labs").save(tmp_path / "labs")
    result = align(
        store=store.path,
        encoder=encoder_folder,
        banks=[tmp_path / "ecg", tmp_path / "labs"],
        out=tmp_path / "align",
        draws=50,
    )
    teachers = result["results"]["teachers"]
    assert teachers["ecg"]["cosine_centred"]["value"] > 0.9 > teachers["ecg"]["shuffled"]["cosine_centred"]["value"]
    assert teachers["labs"]["r2"] < 0.1
    table = pd.read_parquet(tmp_path / "align" / "alignment.parquet")
    assert set(table["teacher"]) == {"ecg", "labs"}
    assert table.groupby("teacher")["r1"].mean()["ecg"] == pytest.approx(
        teachers["ecg"]["retrieval"]["image_to_teacher"]["r1"]["value"]
    )


def test_shuffling_the_teachers_makes_the_main_numbers_a_control(store, encoder_folder, linear_bank, tmp_path):
    linear_bank.save(tmp_path / "ecg")
    result = align(
        store=store.path,
        encoder=encoder_folder,
        banks=[tmp_path / "ecg"],
        out=tmp_path / "align",
        shuffle_teachers=True,
        draws=50,
    )
    assert result["results"]["shuffled_teachers"] is True
    assert result["results"]["teachers"]["ecg"]["r2"] < 0.05


def test_banks_that_cannot_be_used_are_refused(store, encoder_folder, linear_bank, tmp_path):
    linear_bank.save(tmp_path / "one")
    empty = np.zeros(len(store), dtype=bool)
    _bank(store, linear_bank.embeddings, present=empty, name="labs").save(tmp_path / "empty")
    arguments = {"store": store.path, "encoder": encoder_folder, "out": tmp_path / "align"}
    with pytest.raises(PacxError, match="teacher called"):
        align(**arguments, banks=[tmp_path / "one", tmp_path / "one"])
    with pytest.raises(PacxError, match=r"covers 0 of \d+ images in train"):
        align(**arguments, banks=[tmp_path / "empty"])
    with pytest.raises(PacxError, match="No teacher bank"):
        align(**arguments, banks=[])
    assert not (tmp_path / "align").exists()
