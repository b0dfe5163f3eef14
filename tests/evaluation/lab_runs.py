"""A store whose images show one lab and not another, and a distillation of those labs, in miniature."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pacx.data.bank import Bank
from pacx.data.labs import LabReference
from pacx.data.manifest import Manifest
from pacx.data.store import Store, StoreWriter
from pacx.frozen.features import extract
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder, weights_hash
from pacx.models.labs_autoencoder import LabsAutoencoder, reconstruction_loss, save_labs_autoencoder
from pacx.models.student import Student
from pacx.models.weights import save_tensors
from pacx.objectives import cosine_regression

SIZE = 16


def make_store(path: Path, *, patients: int = 160, num_val: int = 30, units: dict[str, str] | None = None) -> Store:
    """Two images per patient: `seen` makes a half bright, `hidden` is in no pixel, `rare` is known of a few rows."""
    rng = np.random.default_rng(0)
    rows = 2 * patients
    people = np.arange(rows) // 2
    split = np.select([people < patients // 2, people < patients // 2 + num_val], ["train", "val"], "test")
    level = rng.random(rows)
    labs = pd.DataFrame({"seen": np.exp(5 * level), "hidden": rng.random(rows), "rare": level})
    labs.loc[rng.random(rows) < 0.2, "seen"] = np.nan
    labs.loc[8:, "rare"] = np.nan
    ids = [f"i{row:03d}" for row in range(rows)]
    table = pd.DataFrame({"image_id": ids, "patient_id": [f"p{one:03d}" for one in people], "split": split})
    writer = StoreWriter(path, name="blood", num_rows=rows, image_size=SIZE, mask_names=())
    for row in range(rows):
        image = rng.uniform(0.1, 0.3, (SIZE, SIZE))
        image[:, :8] += 0.6 * level[row]
        writer.write(row, image=image)
    writer.finish(Manifest("blood", table, labs=labs.set_axis(ids), lab_units=units or {"seen": "mg/L"}), source={})
    return Store.open(path)


def make_encoder(store: Store, path: Path) -> Path:
    torch.manual_seed(0)
    return save_encoder(Encoder(EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=2, heads=2)), path)


def make_teacher(store: Store, path: Path, *, steps: int = 300) -> Path:
    """A labs autoencoder of `seen` and `hidden`."""
    assert store.labs is not None
    torch.manual_seed(1)
    table = store.labs.iloc[store.rows("train")][["seen", "hidden"]]
    reference = LabReference.fit(table, units=store.lab_units)
    x, observed = map(torch.from_numpy, reference.transform(table))
    net = LabsAutoencoder(2, hidden=16, dim=6)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        reconstruction_loss(net(x, observed)[0], x, observed).backward()
        optimiser.step()
    save_labs_autoencoder(net.eval(), path / "teacher", reference=reference.to_dict(), training={})
    return path


def make_bank(store: Store, teacher: LabsAutoencoder, reference: LabReference) -> Bank:
    assert store.labs is not None
    x, observed = reference.transform(store.labs, ignore=True)
    with torch.inference_mode():
        embeddings = teacher.encode(torch.from_numpy(x), torch.from_numpy(observed)).numpy()
    meta = {"teacher": "labs", "kind": "labs", "weights_hash": weights_hash(teacher)}
    return Bank(embeddings, observed.any(axis=1), tuple(store.manifest["image_id"].astype(str)), meta)


def distil_heads(store: Store, encoder: Encoder, bank: Bank, path: Path, *, steps: int = 300) -> Path:
    """Train a regression head on frozen features, and leave what `pacx distill` leaves."""
    torch.manual_seed(2)
    student = Student(encoder, {bank.name: bank.dim}, adaptation="full", head_dropout=0.0)
    rows = store.rows("train")
    rows = rows[bank.present[rows]]
    features = torch.from_numpy(extract(encoder, store, rows))
    target = torch.from_numpy(np.array(bank.embeddings[rows]))
    head = student.regressors[bank.name]
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        cosine_regression(head(features), target, torch.ones(len(rows), dtype=torch.bool))["loss"].backward()
        optimiser.step()
    save_encoder(encoder, path / "encoder")
    heads = {key: value for key, value in student.state_dict().items() if not key.startswith("encoder.")}
    save_tensors(heads, path / "heads.safetensors")
    facts = {"teachers": {bank.name: bank.dim}, "encoder_hash": weights_hash(encoder), "banks": [bank.meta]}
    (path / "heads.json").write_text(json.dumps(facts))
    return path


def make_predictions(
    *, rows: int = 80, noise: float = 0.3, lab: str = "crp", seed: int = 0, fold: int | None = None
) -> pd.DataFrame:
    """What a read-out of one lab leaves, right but for `noise`; two rows per patient."""
    rng = np.random.default_rng(seed)
    value = rng.integers(0, 40, rows).astype(float)
    truth = pd.Series(value).rank(pct=True).to_numpy()
    predicted = np.clip(truth + noise * rng.normal(size=rows), 0, 1)
    table = pd.DataFrame(
        {
            "image_id": [f"{fold}-i{i}" for i in range(rows)], "patient_id": [f"{fold}-p{i // 2}" for i in range(rows)],
            "lab": lab, "value": value, "truth": truth, "score": 100 * predicted, "predicted": predicted,
            "baseline": 0.5, "read_out": "ridge",
        }
    )  # fmt: skip
    return table if fold is None else table.assign(fold=fold, run=0)
