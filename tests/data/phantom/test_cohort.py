import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from pacx.data.labs import PANEL
from pacx.data.manifest import SPLITS
from pacx.data.phantom import filling
from pacx.data.phantom.cohort import TASKS, num_visits, sample_labels, sample_patient, simulate
from pacx.data.phantom.latents import SEVERITIES, random_stream
from pacx.data.store import Store
from pacx.errors import PacxError

PHYSIOLOGY = [name for name, task in TASKS.items() if task.group == "physiology"]
CONTROLS = [name for name, task in TASKS.items() if task.group == "control"]


@pytest.fixture(scope="module")
def latents():
    return pd.DataFrame([vars(sample_patient(index, seed=0)) for index in range(4000)])


@pytest.fixture(scope="module")
def labels():
    rows = [sample_labels(sample_patient(index, seed=0), random_stream("labels", 0, index)) for index in range(4000)]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """17 patients: two jobs of rows."""
    out = tmp_path_factory.mktemp("cohort") / "store"
    result = simulate(out=out, patients=17, size=32, seed=4, workers=1)
    return out, result


def test_tasks_are_five_of_physiology_and_three_controls():
    assert PHYSIOLOGY == ["lvh_or_dilation", "heart_failure", "renal_failure", "infection", "copd"]
    assert CONTROLS == ["nodule", "rib_fracture", "device"]


def test_prevalences_are_between_10_and_35_percent_and_of_ecg_statements_above_3(labels):
    assert list(labels.columns) == list(TASKS)
    assert labels.isin([0.0, 1.0]).all(axis=None)
    probed = labels[PHYSIOLOGY + CONTROLS].mean()
    assert (probed > 0.10).all() and (probed < 0.35).all()
    assert (labels.mean() > 0.03).all() and (labels.mean() < 0.35).all()


def test_what_the_ecg_teacher_learns_is_none_of_the_labels_that_are_probed(labels):
    statements = [name for name, task in TASKS.items() if task.group == "ecg"]
    assert len(statements) == 7
    agreement = labels.corr().loc[statements, PHYSIOLOGY]
    assert agreement.to_numpy().max() < 0.75  # related through the patient, each with an error of its own
    assert labels.corr().loc[statements, CONTROLS].abs().to_numpy().max() < 0.06


@pytest.mark.parametrize("task", TASKS)
def test_an_oracle_that_knows_the_latents_is_good_but_not_perfect(task, latents, labels):
    severities = latents[list(SEVERITIES)]
    rhythms = pd.get_dummies(latents[["rhythm", "conduction"]]).astype(float)
    largest = severities[["lv_dilation", "lv_hypertrophy"]].max(axis=1)
    features = np.column_stack([severities, severities**2, largest, latents[CONTROLS].astype(float), rhythms])
    features = StandardScaler().fit_transform(features)
    oracle = LogisticRegression(max_iter=500).fit(features[:2500], labels[task][:2500])
    score = roc_auc_score(labels[task][2500:], oracle.predict_proba(features[2500:])[:, 1])
    # Of a rare statement, 1 % false calls are a good part of the positives.
    assert (0.87 if labels[task].mean() < 0.1 else 0.9) < score < 0.995


def test_control_labels_are_independent_of_physiology(latents, labels):
    causes = latents[["age", "bmi", *SEVERITIES]]
    for name in CONTROLS:
        assert causes.corrwith(labels[name]).abs().max() < 0.063, name


def test_patients_have_one_to_three_visits_and_a_mean_as_asked():
    for mean in (1.0, 1.25, 2.0):
        visits = [num_visits(index, seed=0, mean=mean) for index in range(3000)]
        assert set(visits) <= {1, 2, 3}
        assert np.mean(visits) == pytest.approx(mean, abs=0.04)


def test_the_store_holds_everything_and_the_result_counts_it(small):
    out, result = small
    store = Store.open(out)
    num = len(store)
    assert store.name == "phantom" and store.image_size == 32 and store.mask_names == ("lung", "heart", "body")
    assert store.images.shape == (num, 32, 32) and store.ecg.shape == (num, 12, 5000)
    assert list(store.labs.columns) == [lab.name for lab in PANEL]
    assert store.lab_units["Creatinine"] == "mg/dL"
    assert set(store.tasks) == set(TASKS) and store.tasks["device"].group == "control"
    assert store.manifest["has_ecg"].all() and store.manifest["has_labs"].all() and store.manifest["has_mask"].all()
    assert np.isfinite(np.asarray(store.ecg, dtype=np.float32)).all()
    assert 0.02 < store.mask("heart", np.arange(num)).mean() < 0.4 < 0.9
    assert 0.05 < store.mask("lung", np.arange(num)).mean() < 0.6
    body = store.mask("body", np.arange(num))
    assert 0.01 < (~body).mean() < 0.4
    assert body[store.mask("heart", np.arange(num)) | store.mask("lung", np.arange(num))].all()

    counted = result["results"]
    assert counted["num_images"] == num >= 17 == counted["num_patients"]
    assert sum(counted["splits"].values()) == num and set(counted["splits"]) == set(SPLITS)
    for task in TASKS:
        positives = int((store.manifest[task] == 1).sum())
        assert counted["tasks"][task][task] == {"positives": positives, "negatives": num - positives, "unknown": 0}
    assert json.loads((out / "result.json").read_text())["results"] == counted
    assert store.manifest.groupby("patient_id")["split"].nunique().max() == 1
    assert (out / result["figures"][0]["path"]).stat().st_size > 1000


def test_the_true_latents_are_kept_beside_the_store(small):
    out, result = small
    truth = pd.read_parquet(out / result["artefacts"]["latents"])
    manifest = Store.open(out).manifest
    assert list(truth["image_id"]) == list(manifest["image_id"])
    assert set(SEVERITIES) & set(manifest.columns) == {"infection"}, "a label of that name, 0 or 1"
    first = sample_patient(0, seed=4)
    assert truth.loc[0, "congestion"] == first.congestion and truth.loc[0, "rhythm"] == first.rhythm
    assert list(truth["acquisition_view"]) == list(manifest["view"])


def test_the_number_of_workers_changes_no_byte(small, tmp_path):
    out, _ = small
    simulate(out=tmp_path / "store", patients=17, size=32, seed=4, workers=2)
    one, two = Store.open(out), Store.open(tmp_path / "store")
    assert one.content_hash == two.content_hash
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.ecg, two.ecg)
    pd.testing.assert_frame_equal(one.labs, two.labs)


def test_a_larger_cohort_begins_with_the_smaller_one(small, tmp_path):
    out, _ = small
    simulate(out=tmp_path / "store", patients=5, size=32, seed=4, workers=1)
    large, less = Store.open(out), Store.open(tmp_path / "store")
    np.testing.assert_array_equal(large.images[: len(less)], less.images)
    pd.testing.assert_frame_equal(large.labs.iloc[: len(less)], less.labs)


def test_an_interrupted_run_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    whole, out = Store.open(small[0]), tmp_path / "store"
    recorded, real = [], filling.simulate_ecg

    def interrupted_at_the_sixth(patient, rng):
        if len(recorded) == 5:
            raise KeyboardInterrupt
        recorded.append(patient)
        return real(patient, rng)

    def counted(patient, rng):
        recorded.append(patient)
        return real(patient, rng)

    monkeypatch.setattr(filling, "simulate_ecg", interrupted_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        simulate(out=out, patients=17, size=32, seed=4, workers=1)
    with pytest.raises(PacxError, match="other settings"):
        simulate(out=out, patients=17, size=32, seed=5, workers=1)
    monkeypatch.setattr(filling, "simulate_ecg", counted)
    simulate(out=out, patients=17, size=32, seed=4, workers=1)
    assert len(recorded) == len(whole), "no row twice"
    assert Store.open(out).content_hash == whole.content_hash


def test_a_run_that_was_stopped_after_its_store_was_finished_does_the_rest(small, tmp_path):
    simulate(out=tmp_path / "store", patients=17, size=32, seed=4, workers=1)
    (tmp_path / "store" / "result.json").unlink()
    (tmp_path / "store" / "latents.parquet").unlink()
    result = simulate(out=tmp_path / "store", patients=17, size=32, seed=4, workers=1)
    assert result["results"] == small[1]["results"]
    assert Store.open(tmp_path / "store").content_hash == Store.open(small[0]).content_hash
    assert (tmp_path / "store" / "latents.parquet").is_file()


def test_rows_lose_their_ecg_and_labs_at_random_as_asked(small, tmp_path):
    simulate(out=tmp_path / "store", patients=17, size=32, seed=4, missing_ecg=0.4, missing_labs=0.6, workers=1)
    whole, holed = Store.open(small[0]), Store.open(tmp_path / "store")
    has_ecg, has_labs = holed.manifest["has_ecg"].to_numpy(), holed.manifest["has_labs"].to_numpy()
    assert 0.2 < has_ecg.mean() < 0.95 and 0.1 < has_labs.mean() < 0.8
    assert np.isnan(np.asarray(holed.ecg[~has_ecg], dtype=np.float32)).all()
    np.testing.assert_array_equal(holed.ecg[has_ecg], whole.ecg[has_ecg])
    pd.testing.assert_frame_equal(holed.labs[has_labs], whole.labs[has_labs])
    assert holed.labs[~has_labs].isna().all(axis=None)


def test_a_cohort_of_images_alone_has_no_ecg_and_no_labs(tmp_path):
    simulate(out=tmp_path / "store", patients=3, size=32, ecg=False, labs=False, workers=1)
    store = Store.open(tmp_path / "store")
    assert store.ecg is None and store.labs is None and not store.has("ecg")


@pytest.mark.parametrize(
    "wrong",
    [{"patients": 0}, {"size": 8}, {"seed": -1}, {"images_per_patient": 4.0}, {"missing_ecg": 1.5}, {"workers": 0}],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(wrong, tmp_path):
    with pytest.raises(PacxError, match=f"--{next(iter(wrong))}"):
        simulate(out=tmp_path / "store", **({"patients": 3, "size": 32} | wrong))
    assert not (tmp_path / "store").exists()


def test_a_finished_cohort_is_not_replaced_unless_asked(small):
    with pytest.raises(PacxError, match="overwrite"):
        simulate(out=small[0], patients=17, size=32, seed=4, workers=1)
