import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from teacher_store import LABS, make_store

from pacx.data.labs import LabReference
from pacx.data.manifest import Manifest
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError
from pacx.models.labs_autoencoder import LabsAutoencoder, load_labs_autoencoder
from pacx.stages import fit_labs as stage
from pacx.stages.fit_labs import fit_labs
from pacx.stages.imputation import hide_once, imputation_errors, imputation_report, one_hidden, single_entries
from pacx.stages.teachers import open_teacher

torch.set_num_threads(1)
SMALL = {"dim": 8, "hidden": 32, "batch_size": 32, "learning_rate": 1e-2, "warmup_steps": 5, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("labs") / "store", num_rows=300, ecg=False)


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "labs"
    return out, fit_labs(store=store.path, out=out, epochs=40, **SMALL)["results"]


def test_hidden_labs_are_filled_in_better_than_by_the_median(fitted):
    _, results = fitted
    assert results["imputation_mse"] < 0.7 * results["imputation_mse_column_median"]
    assert results["imputation_mse_difference"]["high"] < 0
    assert results["per_lab"]["Creatinine"]["imputation_mse"] < 0.5 * results["per_lab"]["Creatinine"]["baseline_mse"]


def test_a_lab_that_follows_nothing_is_not_filled_in_by_magic(fitted):
    sodium = fitted[1]["per_lab"]["Sodium"]
    assert sodium["imputation_mse"] > 0.7 * sodium["baseline_mse"]


def test_the_result_says_what_was_done(fitted, store):
    out, results = fitted
    assert results["num_rows"] == len(store.rows("train", needs=("labs",)))
    assert (results["num_labs"], results["dim"], results["split"]) == (4, 8, "test")
    assert sum(lab["n"] for lab in results["per_lab"].values()) == results["num_hidden_entries"]
    assert json.loads((out / "result.json").read_text())["artefacts"]["teacher"] == "teacher"
    assert (out / "metrics.csv").is_file()


def test_each_lab_has_a_line_in_a_table_the_best_filled_in_first(fitted, store):
    out, results = fitted
    table = pd.read_csv(out / "labs.csv")
    assert sorted(table["lab"]) == sorted(LABS)
    assert table["lab"].iloc[-1] == "Sodium" and table["r2"].is_monotonic_decreasing
    creatinine = table.set_index("lab").loc["Creatinine"]
    alone = results["per_lab"]["Creatinine"]["one_hidden"]
    test = store.labs.iloc[store.rows("test", needs=("labs",))]
    assert creatinine["num"] == alone["n"] == test["Creatinine"].notna().sum()
    assert creatinine["num_train"] == store.labs.iloc[store.rows("train")]["Creatinine"].notna().sum()
    assert creatinine["r2"] == pytest.approx(alone["r2"], abs=1e-5) and alone["r2"] > 0.5 and alone["spearman"] > 0.7
    assert creatinine["mse_random"] == pytest.approx(results["per_lab"]["Creatinine"]["imputation_mse"], abs=1e-5)
    assert results["num_one_hidden_entries"] == test.notna().sum().sum() == table["num"].sum()
    assert results["one_hidden_mse"] < 0.6 * results["one_hidden_mse_column_median"]
    assert results["one_hidden_mse_difference"]["high"] < 0


def test_the_teacher_folder_holds_the_train_splits_distribution(fitted, store):
    out, _ = fitted
    net, config = load_labs_autoencoder(out / "teacher")
    reference = LabReference.load(out / "teacher" / "reference.json")
    train = store.labs.iloc[store.rows("train", needs=("labs",))]
    assert net.num_labs == 4
    assert reference.labs == tuple(LABS)
    assert reference.counts == train.notna().sum().to_dict()
    assert reference.units["Sodium"] == "mg/dL"
    assert config["training"]["data"]["content_hash"] == store.content_hash


def test_the_same_seed_gives_the_same_teacher_and_another_seed_another(store, tmp_path):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit_labs(store=store.path, out=tmp_path / name, epochs=2, seed=seed, **SMALL)
        hashes.append(load_labs_autoencoder(tmp_path / name / "teacher")[1]["weights_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_teacher_can_embed_unmeasured_labs_as_the_train_splits_mean_as_the_published_embeddings_were(store, tmp_path):
    runs = {choice: tmp_path / choice for choice in ("zeros", "train-mean")}
    for choice, out in runs.items():
        fit_labs(store=store.path, out=out, epochs=2, unobserved=choice, **SMALL)
    (usual, config), (_, other_config) = (load_labs_autoencoder(run / "teacher") for run in runs.values())
    assert config["weights_hash"] == other_config["weights_hash"]  # it is trained in the same way
    means = other_config["preprocessing"]["train_means"]
    assert means == pytest.approx([0.5] * 4, abs=1e-6)  # of mid-ranks
    rows = store.rows("test", needs=("labs",))
    percentiles, observed = LabReference.load(runs["zeros"] / "teacher" / "reference.json").transform(
        store.labs.iloc[rows]
    )
    assert 0 < observed.mean() < 1
    filled = torch.from_numpy(np.hstack([np.where(observed > 0, percentiles, 0.5), observed]).astype(np.float32))
    embedded = open_teacher(runs["train-mean"]).embed(store, rows)
    with torch.inference_mode():
        np.testing.assert_allclose(embedded, usual.encoder(filled).numpy(), atol=1e-6)
    assert np.abs(embedded - open_teacher(runs["zeros"]).embed(store, rows)).max() > 0.01


def test_without_a_number_of_epochs_there_are_as_many_steps_as_were_published(store, tmp_path, monkeypatch):
    rows = len(store.rows("train", needs=("labs",)))
    asked = []

    def only_ask(*_, epochs, **__):
        asked.append(epochs)
        raise PacxError("enough")

    monkeypatch.setattr(stage, "make_trainer", only_ask)
    for number, batch_size in enumerate((32, 4, 2, 1, 256)):
        with pytest.raises(PacxError, match="enough"):
            fit_labs(store=store.path, out=tmp_path / str(number), accelerator="cpu", batch_size=batch_size)
    assert rows == 179
    # steps per epoch: 5, 44, 89, 179 and, of all rows at once, 1
    assert asked == [math.ceil(1950 / 5), 50, 50, 50, 500]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"dropout": 1.5}, "dropout is 1.5; it must be from 0"),
        ({"dropout": 1.0}, "dropout is 1; it must be from 0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"learning_rate": 0.0}, "learning_rate is 0; it must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1; it must be 0 or more"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"dim": 0}, "dim is 0; it must be 1 or more"),
        ({"hidden": -3}, "hidden is -3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"unobserved": "median"}, "unobserved is 'median'; it must be zeros or train-mean"),
    ],
)
def test_a_flag_out_of_range_is_refused_before_training(store, tmp_path, flags, message):
    with pytest.raises(PacxError, match=message):
        fit_labs(store=store.path, out=tmp_path / "run", **{"epochs": 2, **SMALL, **flags})
    assert not (tmp_path / "run" / "teacher").exists()


def labs_store(path: Path, labs: pd.DataFrame, splits: list[str]) -> Path:
    ids = [f"row{number}" for number in range(len(labs))]
    table = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": splits})
    writer = StoreWriter(path, name="small", num_rows=len(labs))
    for row in range(len(labs)):
        writer.write(row)
    labs = labs.set_index(pd.Index(ids, name="image_id"))
    writer.finish(Manifest("small", table, labs=labs), source={"command": "test"})
    return path


FEW = {"dim": 4, "hidden": 8, "warmup_steps": 0, "epochs": 3, "accelerator": "cpu"}


def test_one_row_trains_a_teacher_whose_quality_is_said_to_be_unknown(tmp_path):
    path = labs_store(tmp_path / "store", pd.DataFrame({"A": [1.0], "B": [2.0]}), ["train"])
    results = fit_labs(store=path, out=tmp_path / "run", **FEW)["results"]
    assert (results["num_rows"], results["num_hidden_entries"], results["num_one_hidden_entries"]) == (1, 0, 0)
    assert results["imputation_mse"] is None and results["one_hidden_mse"] is None
    assert open_teacher(tmp_path / "run").embed(Store.open(path), np.array([0])).shape == (1, 4)


def test_a_lab_that_the_train_split_never_saw_is_never_asked_for(tmp_path):
    labs = pd.DataFrame({"A": np.arange(8.0), "Never": np.nan, "Later": [np.nan] * 6 + [1.0, 2.0]})
    path = labs_store(tmp_path / "store", labs, ["train"] * 6 + ["test"] * 2)
    results = fit_labs(store=path, out=tmp_path / "run", unobserved="train-mean", **FEW)["results"]
    assert [results["per_lab"][lab]["one_hidden"]["n"] for lab in labs] == [2, 0, 0]
    config = load_labs_autoencoder(tmp_path / "run" / "teacher")[1]
    assert config["preprocessing"]["train_means"] == pytest.approx([0.5, 0, 0])
    assert np.isfinite(open_teacher(tmp_path / "run").embed(Store.open(path), np.arange(8))).all()


def test_a_panel_of_500_labs_trains(tmp_path):
    rng = np.random.default_rng(0)
    labs = pd.DataFrame(rng.normal(size=(8, 500)), columns=[f"lab {number}" for number in range(500)])
    path = labs_store(tmp_path / "store", labs, ["train"] * 6 + ["val"] * 2)
    results = fit_labs(store=path, out=tmp_path / "run", **FEW)["results"]
    assert (results["num_labs"], results["split"], results["num_one_hidden_entries"]) == (500, "val", 1000)


def test_a_warm_up_longer_than_the_run_is_refused(store, tmp_path):
    rows = len(store.rows("train", needs=("labs",)))
    message = f"warmup_steps is 200, but {rows} rows make only {2 * (rows // 32)} steps in 2 epochs"
    with pytest.raises(PacxError, match=message):
        fit_labs(store=store.path, out=tmp_path / "run", epochs=2, **SMALL | {"warmup_steps": 200})


def test_a_store_without_labs_is_refused(tmp_path):
    table = pd.DataFrame({"image_id": ["a"], "patient_id": ["a"], "split": ["train"]})
    writer = StoreWriter(tmp_path / "store", name="bare", num_rows=1)
    writer.write(0)
    writer.finish(Manifest("bare", table), source={})
    with pytest.raises(PacxError, match=r"'bare' .* holds no labs"):
        fit_labs(store=tmp_path / "store", out=tmp_path / "run", **SMALL)


class Half(LabsAutoencoder):
    """Answers one half for everything, and notes which entries it was shown."""

    def forward(self, x, observed):
        self.shown = observed.numpy()
        return torch.full_like(x, 0.5), x


def test_imputation_counts_hidden_entries_only_and_the_median_is_the_train_splits():
    train = pd.DataFrame({"A": [1.0, 2.0, 3.0, 4.0, 5.0], "B": [1.0, 1.0, 1.0, 1.0, np.nan]})
    held_out = pd.DataFrame({"A": [1.0, np.nan, 5.0], "B": [np.nan, 1.0, 1.0]})
    net = Half(2, hidden=2, dim=2)
    reference = LabReference.fit(train)
    errors = imputation_errors(net, reference, train=train, held_out=held_out, hide=1.0, seed=0)
    assert net.shown.sum() == 0
    np.testing.assert_array_equal(errors.hidden, held_out.notna())
    single = one_hidden(net, reference, train=train, held_out=held_out, seed=0)
    patient = np.array(["p", "q", "r"], dtype=object)
    report = imputation_report(errors, single, labs=reference.labs, patient=patient, seed=0)
    # A: percentiles .1 and .9, the answer .5 and the median .5; B: a constant, always .5.
    alone = {lab: found.pop("one_hidden") for lab, found in report["per_lab"].items()}
    assert report["per_lab"]["A"] == pytest.approx({"imputation_mse": 0.16, "baseline_mse": 0.16, "n": 2})
    assert report["per_lab"]["B"] == pytest.approx({"imputation_mse": 0.0, "baseline_mse": 0.0, "n": 2})
    assert report["imputation_mse"] == report["one_hidden_mse"] == pytest.approx(0.08)
    assert report["imputation_mse_difference"].value == pytest.approx(0.0)
    assert (alone["A"]["imputation_mse"], alone["A"]["n"]) == (pytest.approx(0.16), 2)
    assert math.isnan(alone["A"]["r2"])  # of two values


def test_entries_are_hidden_one_at_a_time_and_each_answer_is_for_its_own():
    train = pd.DataFrame({"A": np.arange(9.0), "B": np.arange(9.0), "C": np.arange(9.0)})
    held_out = pd.DataFrame({"A": [0.0, 4, 8], "B": [0.0, np.nan, 8], "C": [8.0, 4, 0]})

    class Neighbour(LabsAutoencoder):
        """Answers for every lab the sum of what it is shown of the others."""

        def forward(self, x, observed):
            assert (observed.sum(dim=1) == torch.tensor([2.0, 2, 2, 1, 1, 2, 2, 2])).all()
            return (x * observed).sum(dim=1, keepdim=True) - x * observed, x

    reference = LabReference.fit(train)
    single = one_hidden(Neighbour(3, hidden=2, dim=2), reference, train=train, held_out=held_out, seed=0)
    low, middle, high = 0.5 / 9, 0.5, 8.5 / 9
    assert list(zip(single.row, single.column, strict=True)) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    np.testing.assert_allclose(single.truth, [low, low, high, middle, middle, high, high, low], rtol=1e-6)
    np.testing.assert_allclose(
        single.imputed, [low + high, low + high, 2 * low, middle, middle, high + low, high + low, 2 * high], rtol=1e-6
    )
    np.testing.assert_allclose(single.median, 0.5)


def test_the_figures_of_a_lab_are_scikit_learns_and_scipys():
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    train = pd.DataFrame(rng.integers(0, 20, size=(80, 2)).astype(float), columns=["A", "B"])
    reference = LabReference.fit(train)
    torch.manual_seed(0)
    net = LabsAutoencoder(2, hidden=8, dim=4).eval()
    single = one_hidden(net, reference, train=train, held_out=train, seed=0)
    errors = imputation_errors(net, reference, train=train, held_out=train, hide=0.5, seed=0)
    report = imputation_report(errors, single, labs=reference.labs, patient=np.arange(80).astype(object), seed=0)
    own = single.column == 1
    truth, imputed = single.truth[own].astype(float), single.imputed[own].astype(float)
    found = report["per_lab"]["B"]["one_hidden"]
    assert found["n"] == 80
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, imputed))
    assert found["spearman"] == pytest.approx(stats.spearmanr(truth, imputed).statistic)
    assert found["imputation_mse"] == pytest.approx(metrics.mean_squared_error(truth, imputed))


def test_of_very_many_entries_a_fixed_random_choice_is_asked_for():
    observed = np.ones((50, 10), dtype=np.float32)
    row, column = single_entries(observed, seed=0, most=30)
    again = single_entries(observed, seed=0, most=30)
    assert len(set(zip(row.tolist(), column.tolist(), strict=True))) == 30
    np.testing.assert_array_equal((row, column), again)
    assert (single_entries(observed, seed=1, most=30)[0] != row).any()


def test_the_hidden_entries_are_the_same_for_the_same_seed():
    observed = np.ones((20, 10), dtype=np.float32)
    first, again, other = (hide_once(observed, probability=0.3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
