import numpy as np
import pandas as pd
import pytest
import timm
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from pacx.data.manifest import Manifest, Task
from pacx.data.splits import reference_rows, subset_rows
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError
from pacx.evaluation.epochs import plan_epoch
from pacx.evaluation.paper_probe import FIRST_SEED
from pacx.evaluation.probe import probe
from pacx.evaluation.published_probes import OTHER, published_probe
from pacx.frozen.features import preprocessed
from pacx.models.encoder import load_encoder, weights_hash

EPOCHS, BATCH = 40, 16
RATES = [3e-3, 3e-2]


@pytest.fixture(scope="module")
def run(store, encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "paper"
    result = probe(
        store=store.path, encoder=encoder_folder, out=out, protocol="paper", fractions=[0.2, 1.0], seeds=2, draws=50,
        learning_rates=RATES, head_batch_size=BATCH,
    )  # fmt: skip
    return result["results"], pd.read_parquet(out / "predictions.parquet"), out


def _entry(results, **wanted):
    found = [e for e in results["scores"] if all(e[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def train_in_the_loop(encoder, store, labels, *, kind, rate, seed):
    """The backbone runs for every batch of every epoch; returns (validation AUROC, test logits) epoch by epoch."""
    rows = {split: store.rows(split) for split in ("train", "val", "test")}
    images = {split: preprocessed(encoder, store, own) for split, own in rows.items()}
    y = {split: torch.from_numpy(store.manifest[labels].to_numpy(np.float64)[own]) for split, own in rows.items()}
    outputs = 3 if kind == "multiclass" else len(labels)
    torch.manual_seed(FIRST_SEED + seed)
    head = nn.Linear(16, outputs)
    groups = [{"params": [head.weight]}, {"params": [head.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), weight_decay=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=EPOCHS)

    def logits(batch):
        with torch.no_grad():
            token = encoder.tokens(batch)[:, 0]
        return head(token)

    found = []
    for epoch in range(EPOCHS):
        plan = plan_epoch(len(rows["train"]), seed=FIRST_SEED + seed, epoch=epoch)
        flip = torch.from_numpy(plan.mirrored)
        for turn in torch.from_numpy(plan.order).split(BATCH):
            batch = images["train"][turn]
            batch = torch.where(flip[turn, None, None, None], batch.flip(-1), batch)
            target, found_logits = y["train"][turn], logits(batch)
            if kind == "multiclass":
                loss = F.cross_entropy(found_logits, target[:, 0].long())
            else:
                known = ~target.isnan()
                loss = F.binary_cross_entropy_with_logits(found_logits[known], target[known].float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        cosine.step()
        with torch.no_grad():
            val, test = logits(images["val"]).numpy(), logits(images["test"]).numpy()
        truth = y["val"].numpy()
        if kind == "multiclass":
            truth = np.eye(3)[truth[:, 0].astype(int)]
        known = ~np.isnan(truth)
        columns = range(outputs)
        aurocs = [roc_auc_score(truth[known[:, k], k], val[known[:, k], k]) for k in columns]
        found.append((np.mean(aurocs), test))
    return found


@pytest.mark.parametrize(
    ("task", "labels", "kind"),
    [
        ("side", ["side"], "binary"),
        ("several", ["side", "partly", "coin"], "multilabel"),
        ("third", ["third"], "multiclass"),
    ],
)
def test_the_probe_on_cached_features_is_the_one_with_the_backbone_in_the_loop(run, store, encoder, task, labels, kind):
    results, predictions, _ = run
    loops = [train_in_the_loop(encoder, store, labels, kind=kind, rate=rate, seed=1) for rate in RATES]
    best = [max(range(EPOCHS), key=lambda epoch: loop[epoch][0]) for loop in loops]
    rate = int(np.argmax([loop[epoch][0] for loop, epoch in zip(loops, best, strict=True)]))
    entry = _entry(results, task=task, label=labels[0], fraction=1.0, seed=1)
    assert (entry["learning_rate"], entry["epoch"]) == (RATES[rate], best[rate] + 1)
    expected = loops[rate][best[rate]][1]
    if kind == "multiclass":
        p = F.softmax(torch.from_numpy(expected).double(), dim=1)
        expected = (p.log() - (1 - p).log()).numpy()
    mine = predictions[(predictions["task"] == task) & (predictions["fraction"] == 1.0) & (predictions["seed"] == 1)]
    outputs = ["top", "middle", "bottom"] if kind == "multiclass" else labels
    place = {name: number for number, name in enumerate(store.manifest["image_id"].iloc[store.rows("test")])}
    for number, output in enumerate(outputs):
        own = mine[mine["output"] == output]
        theirs = expected[[place[name] for name in own["image_id"]], number]
        assert np.abs(own["score"].to_numpy() - theirs).max() < 1e-4


def test_summary_and_intervals_are_there_as_for_the_honest_protocol(run):
    results, predictions, out = run
    assert results["protocol"]["name"] == "paper"
    assert results["protocol"]["heads"]["side"] == {
        "data_set": OTHER.name, "learning_rates": RATES, "batch_size": BATCH, "epochs": 40, "weight_decay": 0.01
    }  # fmt: skip
    own = predictions[(predictions["task"] == "side") & (predictions["fraction"] == 1.0)]
    aurocs = [roc_auc_score(one["target"], one["score"]) for _, one in own.groupby("seed")]
    (entry,) = [row for row in results["summary"] if row["task"] == "side" and row["fraction"] == 1.0]
    assert len(aurocs) == entry["num_seeds"] == 2  # at 100 % too, a seed is a fresh head, order and flips
    assert entry["value"] == pytest.approx(np.mean(aurocs))
    assert entry["low"] < entry["value"] < entry["high"]
    assert "neighbours" not in results and not (out / "neighbours.parquet").exists()


def test_validation_scores_are_written_and_have_the_auroc_that_was_chosen_on(run, store):
    results, _, out = run
    val = pd.read_parquet(out / "val_predictions.parquet")
    assert set(val["image_id"]) <= set(store.manifest["image_id"].iloc[store.rows("val")])
    for seed in (0, 1):
        own = val[(val["task"] == "several") & (val["fraction"] == 0.2) & (val["seed"] == seed)]
        aurocs = [roc_auc_score(one["target"], one["score"]) for _, one in own.groupby("output", observed=True)]
        entry = _entry(results, task="several", label="coin", fraction=0.2, seed=seed)
        assert entry["val_auroc"] == pytest.approx(np.mean(aurocs), abs=1e-12)


def test_subsets_are_the_published_ones_unless_patients_are_asked_for(run, store, encoder_folder, tmp_path):
    results, _, _ = run
    assert (results["protocol"]["sampler"], results["protocol"]["subsets_by"]) == ("reference", "image")
    train = store.rows("train")
    for task, labels in (("third", ["third"]), ("several", ["side", "partly", "coin"])):
        rows = reference_rows(store.manifest, train, fraction=0.2, seed=FIRST_SEED + 1, labels=labels)
        known = store.manifest[labels[0]].iloc[rows].notna().sum()
        assert _entry(results, task=task, label=labels[0], fraction=0.2, seed=1)["num_train"] == known
    other = probe(
        store=store.path, encoder=encoder_folder, out=tmp_path / "run", protocol="paper", fractions=[0.2], seeds=1,
        draws=5, tasks=["several"], sampler="patients", epochs=2,
    )["results"]  # fmt: skip
    rows = subset_rows(store.manifest, train, fraction=0.2, seed=0, label=["side", "partly", "coin"])
    assert (other["protocol"]["sampler"], other["protocol"]["subsets_by"]) == ("patients", "patient")
    counts = store.manifest.iloc[rows][["side", "partly", "coin"]].notna().sum()
    assert [row["num_train"] for row in other["scores"]] == counts.tolist()


def test_of_several_learning_rates_the_best_on_validation_is_tested(store, encoder_folder, run, tmp_path):
    results, _, _ = run
    alone = [
        probe(
            store=store.path, encoder=encoder_folder, out=tmp_path / str(rate), protocol="paper", fractions=[1.0],
            seeds=1, draws=5, tasks=["several"], learning_rates=[rate], head_batch_size=BATCH,
        )["results"]["scores"][0]
        for rate in RATES
    ]  # fmt: skip
    together = _entry(results, task="several", label="side", fraction=1.0, seed=0)
    best = int(np.argmax([entry["val_auroc"] for entry in alone]))
    assert (together["learning_rate"], together["epoch"]) == (RATES[best], alone[best]["epoch"])
    assert together["value"] == pytest.approx(alone[best]["value"], abs=1e-12)


def test_one_class_in_training_or_validation_gives_nan_or_the_last_epoch_and_a_note(run):
    results, predictions, _ = run
    rare = _entry(results, task="rare", label="rare", fraction=1.0, seed=0)
    assert rare["value"] is rare["learning_rate"] is None and rare["notes"] == ["one class in the training subset"]
    assert "rare" not in set(predictions["task"])
    quiet = _entry(results, task="quiet_val", label="quiet_val", fraction=1.0, seed=0)
    assert (quiet["learning_rate"], quiet["epoch"], quiet["val_auroc"]) == (RATES[0], EPOCHS, None)
    assert quiet["notes"] == ["one class in the validation split: the last epoch of the first learning rate"]
    assert quiet["value"] is not None


def _tiny_store(path, *, name, splits, tasks, **columns):
    table = pd.DataFrame({"image_id": [f"i{i}" for i in range(len(splits))], "split": splits, **columns})
    table["patient_id"] = table["image_id"]
    writer = StoreWriter(path, name=name, num_rows=len(table), image_size=16)
    rng = np.random.default_rng(0)
    for row in range(len(table)):
        writer.write(row, image=rng.random((16, 16)))
    writer.finish(Manifest(name, table, {task.name: task for task in tasks}), source={})
    return Store.open(path)


def test_one_class_in_the_test_split_is_nan_with_a_note_also_for_one_label_of_several(encoder_folder, tmp_path):
    splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    alternating = [0.0, 1.0] * 12
    store = _tiny_store(
        tmp_path / "store", name="nih14", splits=splits, tasks=[Task("findings", ("a", "b"), "multilabel")],
        a=alternating, b=alternating[:18] + [0.0] * 6,
    )  # fmt: skip
    found = probe(
        store=store.path, encoder=encoder_folder, out=tmp_path / "run", protocol="paper", fractions=[1.0], seeds=1,
        draws=5, epochs=2,
    )["results"]  # fmt: skip
    a, b = found["scores"]
    assert a["value"] is not None and a["notes"] == []
    assert b["value"] is None and b["notes"] == ["one class in the test split"]
    assert found["protocol"]["heads"]["findings"]["data_set"] == "NIH ChestX-ray14"
    assert found["protocol"]["heads"]["findings"]["learning_rates"] == [3e-3]


def test_a_store_without_validation_images_is_refused_before_anything_is_written(encoder_folder, tmp_path):
    tasks = [Task("a", ("a",), "binary")]
    store = _tiny_store(
        tmp_path / "store", name="s", splits=["train"] * 4 + ["test"] * 4, tasks=tasks, a=[0.0, 1.0] * 4
    )
    with pytest.raises(PacxError, match="val split"):
        probe(store=store.path, encoder=encoder_folder, out=tmp_path / "run", protocol="paper")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "published"}, "honest, paper"),
        ({"protocol": "paper", "learning_rates": [1e-3, 0.0]}, "Learning rates must be above 0"),
        ({"protocol": "paper", "learning_rates": []}, "Learning rates must be above 0"),
        ({"protocol": "paper", "learning_rates": [float("nan")]}, "Learning rates must be above 0"),
        ({"protocol": "paper", "head_batch_size": 0}, "batch size of the heads must be at least 1"),
        ({"protocol": "paper", "epochs": 0}, "number of epochs must be at least 1"),
        ({"protocol": "paper", "sampler": "images"}, "patients, reference"),
        ({"protocol": "paper", "token": "auto"}, "does not choose a token"),
        ({"protocol": "paper", "fractions": [0.0]}, "fractions"),
        ({"protocol": "paper", "seeds": 0}, "at least one seed"),
        ({"learning_rates": [1e-3], "epochs": 3}, "--learning-rates, --epochs: the honest protocol"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(store, encoder_folder, tmp_path, arguments, message):
    with pytest.raises(PacxError, match=message):
        probe(store=store.path, encoder=encoder_folder, out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("store_name", "task", "expected"),
    [
        ("nih14", "findings", (512, 3e-3)),
        ("covid-qu-ex", "covid", (256, 2e-3)),
        ("COVIDx", "covid", (512, 3e-3)),
        ("covid_qu_small", "covid", (256, 2e-3)),
        ("CheXchoNet", "composite", (512, 3e-3)),
        ("mimic", "medmod-phys", (512, 3e-3)),
        ("vindr-cxr", "findings", (256, 2e-3)),
        ("chestx6", "class", (256, 2e-3)),
        ("kermany", "pneumonia", (128, 1e-3)),
        ("tb-shenzhen", "tb", (32, 1e-3)),
        ("tbilisi", "opacity", (512, 3e-3)),
        ("cohort", "pneumonia", (512, 3e-3)),
    ],
)
def test_batch_size_and_learning_rate_are_the_published_ones_of_the_data_set(store_name, task, expected):
    found = published_probe(store_name, task)
    assert (found.batch_size, found.learning_rate) == expected
    assert (found is OTHER) == (store_name in {"tbilisi", "cohort"})


def test_foreign_and_fresh_backbones_are_probed_like_ours(store, encoder_folder, tmp_path):
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 1}
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=2, **shape)
    torch.save({"state_dict": vit.state_dict()}, tmp_path / "rival.pth")
    for backbone, name in ((str(tmp_path / "rival.pth"), "rival"), (f"random:{encoder_folder}:3", "random")):
        found = probe(
            store=store.path, encoder=backbone, out=tmp_path / name, protocol="paper", fractions=[1.0], seeds=1,
            draws=5, tasks=["third"], learning_rates=[3e-2], head_batch_size=8,  # a side would not survive flips
        )  # fmt: skip
        assert found["results"]["encoder_name"] == name
        assert found["inputs"]["encoder"]["hash"] == weights_hash(load_encoder(backbone))
        assert found["results"]["summary"][0]["value"] > 0.6
