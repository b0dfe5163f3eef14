"""A tiny store whose images carry a known signal, and a tiny encoder."""

import numpy as np
import pandas as pd
import pytest
import torch

from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder

SIZE, PATIENTS = 16, 100


def _table(rng: np.random.Generator) -> pd.DataFrame:
    patient = np.concatenate([np.arange(PATIENTS), np.arange(0, PATIENTS, 2)])
    split = np.repeat(["train", "val", "test"], [50, 20, 30])
    side = rng.integers(0, 2, len(patient)).astype(float)
    third = rng.integers(0, 3, len(patient)).astype(float)
    unknown = np.where(rng.random(len(patient)) < 0.3, np.nan, side)
    rare = np.where(split[patient] == "train", 0.0, side)
    quiet_val = np.where(split[patient] == "val", 0.0, side)
    return pd.DataFrame(
        {
            "image_id": [f"i{i:03d}" for i in range(len(patient))],
            "patient_id": [f"p{i:03d}" for i in patient],
            "split": split[patient],
            "side": side,
            "partly": unknown,
            "coin": rng.integers(0, 2, len(patient)).astype(float),
            "third": third,
            "rare": rare,
            "quiet_val": quiet_val,
        }
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """150 images of 100 patients: `side` is a bright half, `third` a bright band, `coin` is in no pixel."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    table = _table(rng)
    path = tmp_path_factory.mktemp("stores") / "tiny"
    writer = StoreWriter(path, name="tiny", num_rows=len(table), image_size=SIZE, mask_names=("heart", "lung"))
    heart, lung = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    heart[8:12, 8:12] = True
    lung[:, :6] = True
    for row in range(len(table)):
        image = rng.uniform(0.2, 0.5, (SIZE, SIZE))
        image[:, slice(0, 8) if table["side"][row] else slice(8, 16)] += 0.3
        image[5 * int(table["third"][row]) : 5 * int(table["third"][row]) + 5] += 0.2
        writer.write(row, image=image, masks={"heart": heart, "lung": lung} if row % 3 else None)
    tasks = [
        Task("side", ("side",), "binary", group="physiology"),
        Task("several", ("side", "partly", "coin"), "multilabel", group="control"),
        Task("third", ("third",), "multiclass", classes=("top", "middle", "bottom")),
        Task("rare", ("rare",), "binary"),
        Task("quiet_val", ("quiet_val",), "binary"),
    ]
    writer.finish(Manifest("tiny", table, {task.name: task for task in tasks}), source={})
    return Store.open(path)


@pytest.fixture(scope="session")
def encoder(store: Store) -> Encoder:
    """An untrained encoder of 2 blocks, 16 patches, width 16."""
    torch.manual_seed(0)
    config = EncoderConfig(store.preprocess(), patch_size=4, width=16, depth=2, heads=2)
    return Encoder(config).eval()


@pytest.fixture(scope="session")
def encoder_folder(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same encoder, saved."""
    return str(save_encoder(encoder, tmp_path_factory.mktemp("runs") / "tiny-run" / "encoder"))
