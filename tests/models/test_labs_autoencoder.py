import json

import pytest
import torch

from pacx.errors import PacxError
from pacx.models.labs_autoencoder import (
    LabsAutoencoder,
    hide_entries,
    load_labs_autoencoder,
    reconstruction_loss,
    save_labs_autoencoder,
)

torch.set_num_threads(1)
REFERENCE = {"about": "", "labs": [{"name": f"lab{i}", "unit": "", "values": [1.0], "counts": [1]} for i in range(4)]}


def net() -> LabsAutoencoder:
    torch.manual_seed(0)
    return LabsAutoencoder(4, hidden=8, dim=3).eval()


def test_the_default_network_is_the_published_one():
    published = LabsAutoencoder(50)
    assert sum(parameter.numel() for parameter in published.parameters()) == 341_298
    assert {name.rpartition(".")[0] for name in published.state_dict()} == {
        "encoder.0", "encoder.1", "encoder.3", "decoder.0", "decoder.2",
    }  # fmt: skip
    assert published.encoder[0].weight.shape == (512, 100)
    reconstruction, z = published(torch.rand(3, 50), torch.ones(3, 50))
    assert z.shape == (3, 256)
    assert ((reconstruction > 0) & (reconstruction < 1)).all()


def test_what_lies_under_the_mask_does_not_matter():
    observed = torch.tensor([[1.0, 0, 1, 0]])
    x = torch.rand(1, 4)
    other = torch.where(observed == 0, torch.rand(1, 4), x)
    assert torch.equal(net().encode(x, observed), net().encode(other, observed))


def test_a_value_of_zero_differs_from_an_unobserved_one():
    x = torch.tensor([[0.0, 0.5, 0.5, 0.5]])
    assert not torch.equal(net().encode(x, torch.ones(1, 4)), net().encode(x, torch.tensor([[0.0, 1, 1, 1]])))


def test_hiding_takes_observed_entries_only_at_the_given_rate():
    observed = (torch.rand(400, 50, generator=torch.Generator().manual_seed(0)) < 0.7).float()
    shown = hide_entries(observed, probability=0.15, generator=torch.Generator().manual_seed(1))
    assert ((shown == 0) | (observed == 1)).all()
    assert 1 - shown.sum() / observed.sum() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(hide_entries(observed, probability=0.0), observed)
    assert hide_entries(observed, probability=1.0).sum() == 0


def test_the_loss_is_the_mean_over_weighted_entries():
    reconstruction = torch.tensor([[0.5, 0.9], [0.2, 0.0]])
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert reconstruction_loss(reconstruction, x, weight).item() == pytest.approx((0.25 + 0.04 + 1.0) / 3, rel=1e-5)
    assert reconstruction_loss(reconstruction, x, torch.zeros(2, 2)).item() == 0


def test_a_teacher_folder_holds_weights_architecture_and_reference(tmp_path):
    save_labs_autoencoder(net(), tmp_path / "t", reference=REFERENCE, training={"epochs": 1})
    again, config = load_labs_autoencoder(tmp_path / "t")
    x, observed = torch.rand(2, 4), torch.ones(2, 4)
    assert torch.equal(again.encode(x, observed), net().encode(x, observed))
    assert config["labs"] == ["lab0", "lab1", "lab2", "lab3"]
    assert json.loads((tmp_path / "t" / "reference.json").read_text()) == REFERENCE


def test_a_folder_of_another_kind_or_with_other_weights_is_refused(tmp_path):
    save_labs_autoencoder(net(), tmp_path / "t", reference=REFERENCE, training={})
    path = tmp_path / "t" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "kind": "ecg"}))
    with pytest.raises(PacxError, match="not a labs teacher"):
        load_labs_autoencoder(tmp_path / "t")
    path.write_text(json.dumps({**config, "weights_hash": "0"}))
    with pytest.raises(PacxError, match="are not those"):
        load_labs_autoencoder(tmp_path / "t")
    path.write_text(json.dumps({**config, "architecture": {"num_labs": 5, "hidden": 8, "dim": 3}}))
    with pytest.raises(PacxError, match="do not fit the architecture"):
        load_labs_autoencoder(tmp_path / "t")
