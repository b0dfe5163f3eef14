import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from pacx.data.manifest import Manifest, Task
from pacx.data.splits import reference_rows, subset_rows
from pacx.data.store import StoreWriter
from pacx.errors import PacxError
from pacx.evaluation.epochs import plan_epoch
from pacx.evaluation.paper_probe import FIRST_SEED
from pacx.evaluation.probe import probe
from pacx.evaluation.published_probes import OTHER, published_probe
from pacx.frozen.features import preprocessed

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
        print(task, output, np.abs(own["score"].to_numpy() - theirs).max())
        assert np.abs(own["score"].to_numpy() - theirs).max() < 1e-4
