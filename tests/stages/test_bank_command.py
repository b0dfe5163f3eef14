from pathlib import Path

import numpy as np
import pytest
import torch

from pacx.data.bank import Bank
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.labs_autoencoder import LabsAutoencoder, save_labs_autoencoder
from pacx.models.weights import weights_hash
from pacx.stages.bank import bank, fill_bank


class Echo:
    """A teacher whose embedding of a row is its number."""

    name, kind, dim, weights_hash = "echo", "echo", 3, "0"

    def __init__(self, present: np.ndarray) -> None:
        self.preprocessing: dict = {}
        self._present = present

    def present(self, store: Store) -> np.ndarray:
        return self._present

    def embed(self, store: Store, rows: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        assert self._present[rows].all()
        return np.repeat(rows[:, None], 3, axis=1).astype(np.float32)


def test_each_row_gets_its_own_embedding_and_holes_stay_holes(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pacx.stages.bank._CHUNK", 10)
    present = np.arange(len(store)) % 3 > 0
    made = fill_bank(store, Echo(present))
    np.testing.assert_array_equal(made.present, present)
    np.testing.assert_array_equal(made.embeddings[:, 0], np.arange(len(store)) * present)
    assert made.image_ids == tuple(store.manifest["image_id"])


def test_a_teacher_without_any_input_is_refused(store: Store):
    with pytest.raises(PacxError, match="No row of store toy has an input for the teacher 'echo'"):
        fill_bank(store, Echo(np.zeros(len(store), dtype=bool)))


def test_command_embeds_the_labs_of_a_store(store: Store, tmp_path: Path):
    torch.manual_seed(0)
    net = LabsAutoencoder(2, hidden=8, dim=4)
    assert store.labs is not None
    reference = LabReference.fit(store.labs)
    save_labs_autoencoder(net, tmp_path / "teacher", reference=reference.to_dict(), training={})
    result = bank(store=store.path, teacher=tmp_path / "teacher", name="blood", out=tmp_path / "bank", device="cpu")
    found = Bank.open(tmp_path / "bank")
    found.check(store)
    measured = store.labs.notna().any(axis=1).to_numpy()
    assert result["results"] == {
        "teacher": "blood", "kind": "labs", "num_rows": 96, "num_present": int(measured.sum()), "dim": 4,
    }  # fmt: skip
    np.testing.assert_array_equal(found.present, measured)
    assert found.meta["weights_hash"] == weights_hash(net)
    assert found.meta["store"] == {"name": "toy", "hash": store.content_hash}
    row = int(np.flatnonzero(measured)[5])
    x, mask = reference.transform(store.labs.iloc[[row]])
    with torch.inference_mode():
        expected = net.eval().encode(torch.from_numpy(x), torch.from_numpy(mask)).numpy()[0]
    np.testing.assert_allclose(found.embeddings[row], expected, atol=1e-6)
