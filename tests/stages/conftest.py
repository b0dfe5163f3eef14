"""A tiny real store whose images encode a latent that a teacher's vector encodes too."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.evaluation.conftest import store as labelled

from pacx.data.bank import Bank
from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder

__all__ = ["labelled"]  # a fixture: 16 px images with tasks of every kind

torch.set_num_threads(1)
SIZE = 32
NUM_ROWS = 96
LATENTS = ["z_x", "z_y", "z_width", "z_level"]


def draw(latent: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image with one blob: place, width and background follow the latent; and the blob's mask."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / (SIZE - 1)
    x, y = 0.25 + 0.5 * latent[0], 0.25 + 0.5 * latent[1]
    width = 0.08 + 0.14 * latent[2]
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))
    image = 0.15 + 0.3 * latent[3] + 0.5 * blob + 0.02 * rng.standard_normal((SIZE, SIZE))
    return np.clip(image, 0, 1).astype(np.float32), blob > 0.5


def make_store(path: Path, *, num_rows: int = NUM_ROWS, seed: int = 0, name: str = "toy") -> Store:
    """Two rows per patient; half train, a quarter each val and test; 10 % of the labels unknown."""
    rng = np.random.default_rng(seed)
    latent = rng.random((num_rows, len(LATENTS)))
    table = pd.DataFrame(
        {
            "image_id": [f"image{row:03d}" for row in range(num_rows)],
            "patient_id": [f"patient{row // 2:03d}" for row in range(num_rows)],
            "split": [("train", "train", "val", "test")[row // 2 % 4] for row in range(num_rows)],
            "right": np.where(rng.random(num_rows) < 0.1, np.nan, (latent[:, 0] > 0.5).astype(float)),
        }
    ).join(pd.DataFrame(latent, columns=LATENTS))
    labs = pd.DataFrame({"A": latent[:, 0], "B": latent[:, 1]}, index=pd.Index(table["image_id"], name="image_id"))
    labs[rng.random(labs.shape) < 0.2] = np.nan
    writer = StoreWriter(path, name=name, num_rows=num_rows, image_size=SIZE, mask_names=("blob",))
    for row in range(num_rows):
        image, mask = draw(latent[row], rng)
        writer.write(row, image=image, masks={"blob": mask})
    tasks = {"right": Task("right", ("right",), "binary", group="physiology")}
    writer.finish(Manifest(name, table, tasks=tasks, labs=labs, license="CC0"), source={"command": "test"})
    return Store.open(path)


def make_bank(store: Store, path: Path, *, name: str = "latent", dim: int = 16, holes: float = 0.0) -> Path:
    """A bank whose embeddings are a fixed random linear map of the latents, with holes in a share of the rows."""
    rng = np.random.default_rng(sum(map(ord, name)))
    latent = store.manifest[LATENTS].to_numpy(dtype=np.float64) - 0.5
    embeddings = (latent @ rng.standard_normal((len(LATENTS), dim))).astype(np.float32)
    present = rng.random(len(store)) >= holes
    meta = {
        "teacher": name, "kind": "test", "weights_hash": f"hash-of-{name}", "preprocessing": {},
        "store": {"name": store.name, "hash": store.content_hash},
    }  # fmt: skip
    Bank(embeddings * present[:, None], present, tuple(store.manifest["image_id"]), meta).save(path)
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores") / "toy")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Enough rows to learn a pairing from."""
    return make_store(tmp_path_factory.mktemp("stores") / "pairs", num_rows=400, seed=1, name="pairs")


@pytest.fixture(scope="session")
def banks(pairs: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers of `pairs`, each silent on some rows."""
    folder = tmp_path_factory.mktemp("banks")
    return [
        make_bank(pairs, folder / "first", name="first", dim=16, holes=0.2),
        make_bank(pairs, folder / "second", name="second", dim=12, holes=0.4),
    ]


@pytest.fixture(scope="session")
def encoder_path(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder folder for 32 px images, 64 patches, width 32."""
    torch.manual_seed(0)
    config = EncoderConfig(store.preprocess(), patch_size=4, width=32, depth=2, heads=2, provenance={"method": "none"})
    return save_encoder(Encoder(config), tmp_path_factory.mktemp("encoders") / "encoder")
