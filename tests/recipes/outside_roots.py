"""What a user brings to the recipes of the paper, each made once: releases in miniature, foreign weights."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from pacx.data.phantom.cohort import simulate
from pacx.data.phantom.formats import Simulated, write_format
from pacx.data.store import Store
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.preprocess import Preprocess

SEED = 5
BELOW = {
    "chexpert": "CheXpert-v1.0-small",
    "chestx6": "chest-xray",
    "kermany": "chest_xray",
    "qata-cov19": "QaTa-COV19/QaTa-COV19-v2",
}
"""where below a miniature the root of its data set is, if not at its top"""


class Outside:
    """Roots of the paper's recipes by name; each is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, root: str) -> Path:
        """Return a root, not to be written to."""
        if root == "mimic-cxr-jpg":
            return self["medmod"] / "mimic-cxr-jpg"
        place = self.folder / root
        if not place.exists():
            make = {"imagenet": _imagenet, "ecgfounder": _ecgfounder, "symile": _pairs}.get(root, self._miniature)
            make(place)
        return place / BELOW.get(root, "")

    def _miniature(self, place: Path) -> None:
        """Write one cohort, simulated once, as each of the data sets."""
        cohort = self.folder / ".cohort"
        if not cohort.exists():
            simulate(out=cohort, patients=60, size=32, seed=SEED, ecg=False, labs=False, workers=1)
        place.mkdir()
        truth = pd.read_parquet(cohort / "latents.parquet")
        write_format(place.name, Simulated(Store.open(cohort), truth, SEED), place)


def _pairs(place: Path) -> None:
    simulate(out=place, patients=40, size=32, seed=SEED, format="symile-mimic", workers=1)


def _imagenet(place: Path) -> None:
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    save_encoder(Encoder(EncoderConfig(preprocess, patch_size=8, width=32, depth=2, heads=2)), place)


def _ecgfounder(place: Path) -> None:
    torch.manual_seed(0)
    net = EcgNet(EcgNetConfig(2, stem_width=16, widths=(16, 32), blocks=(1, 1), batch_norm=True)).eval()
    asked = {"recipe": "ecgfounder-1", "rate": 500}
    save_ecg_net(net, place, labels=("a", "b"), preprocessing=asked, training={})
