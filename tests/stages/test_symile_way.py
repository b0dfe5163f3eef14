"""From a released Symile-MIMIC folder to a distilled encoder, as docs/symile-mimic.md has it, tiny."""

import numpy as np
import pytest
import torch

from pacx.data.bank import Bank
from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.models.encoder import Encoder, EncoderConfig, save_encoder
from pacx.stages.bank import bank
from pacx.stages.distill import distill
from pacx.stages.fit_ecg import fit_ecg
from pacx.stages.fit_labs import fit_labs


@pytest.mark.slow
def test_a_release_becomes_a_store_banks_and_an_encoder(tmp_path):
    simulate(out=tmp_path / "release", format="symile-mimic", patients=16, size=32, seed=3, workers=1)
    prepare("symile-mimic", tmp_path / "release", size=32, workers=2, out=tmp_path / "store")
    store = Store.open(tmp_path / "store")
    quick = {"epochs": 1, "accelerator": "cpu", "devices": "1"}
    small = {"widths": (16, 16), "blocks": (1, 1), "stem_width": 16, "warmup_epochs": 0}
    fit_labs(store=store.path, hidden=8, dim=4, warmup_steps=0, out=tmp_path / "fit-labs", **quick)
    fit_ecg(store=store.path, objective="self-supervised", workers=1, out=tmp_path / "fit-ecg", **small, **quick)
    banks = []
    for name in ("labs", "ecg"):
        banks.append(tmp_path / name)
        bank(store=store.path, teacher=tmp_path / f"fit-{name}", name=name, device="cpu", workers=1, out=banks[-1])
        made = Bank.open(banks[-1])
        made.check(store)
        assert made.present.all() and np.ptp(made.embeddings, axis=0).max() > 0
    torch.manual_seed(0)
    config = EncoderConfig(store.preprocess(), patch_size=16, width=16, depth=1, heads=2)
    save_encoder(Encoder(config), tmp_path / "encoder")
    result = distill(
        store=store.path, encoder=str(tmp_path / "encoder"), banks=banks, shared_width=8, warmup_epochs=0, batch_size=8,
        workers=0, out=tmp_path / "distill", **quick,
    )  # fmt: skip
    assert (tmp_path / "distill" / "encoder" / "model.safetensors").is_file()
    assert result["command"] == "distill"
