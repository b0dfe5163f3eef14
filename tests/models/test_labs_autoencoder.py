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


def test_a_teacher_with_train_means_embeds_mean_filled_percentiles_and_their_mask(tmp_path):
    means = [0.5, 0.4, 0.3, 0.6]
    save_labs_autoencoder(net(), tmp_path / "t", reference=REFERENCE, training={}, train_means=means)
    again, config = load_labs_autoencoder(tmp_path / "t")
    assert (config["preprocessing"]["unobserved"], config["preprocessing"]["train_means"]) == ("train-mean", means)
    x, observed = torch.tensor([[0.1, 0.0, 0.9, 0.0]]), torch.tensor([[1.0, 0, 1, 0]])
    filled = torch.tensor([[0.1, 0.4, 0.9, 0.6, 1, 0, 1, 0]])
    torch.testing.assert_close(again.encode(x, observed), net().encoder(filled))
    assert (again.encode(x, observed) - net().encode(x, observed)).abs().max() > 0.01
    assert torch.equal(again(x, observed)[0], net()(x, observed)[0])  # values are filled in as in training


def test_the_usual_teacher_embeds_zeros_under_the_mask_as_in_training(tmp_path):
    save_labs_autoencoder(net(), tmp_path / "t", reference=REFERENCE, training={})
    again, config = load_labs_autoencoder(tmp_path / "t")
    x, observed = torch.rand(2, 4), torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]])
    assert config["preprocessing"] == {"values": "percentiles", "unobserved": "zeros", "reference": "reference.json"}
    assert torch.equal(again.encode(x, observed), again(x, observed)[1])
    torch.testing.assert_close(again.encode(x, observed), net().encoder(torch.cat([x * observed, observed], dim=1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unobserved": "median"}, "says 'median' of unobserved labs; known are zeros, train-mean"),
        ({"unobserved": "train-mean"}, "no list of 4 mean percentiles"),
        ({"unobserved": "train-mean", "train_means": [0.5, 0.5]}, "no list of 4 mean percentiles"),
        ({"unobserved": "train-mean", "train_means": [0.5, 0.5, 0.5, 140.0]}, "from 0 to 1"),
        ({"unobserved": "train-mean", "train_means": [0.5, 0.5, 0.5, "a"]}, "from 0 to 1"),
    ],
)
def test_a_preprocessing_that_is_not_known_is_refused(tmp_path, change, message):
    save_labs_autoencoder(net(), tmp_path / "t", reference=REFERENCE, training={})
    path = tmp_path / "t" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "preprocessing": {**config["preprocessing"], **change}}))
    with pytest.raises(PacxError, match=message):
        load_labs_autoencoder(tmp_path / "t")


@pytest.mark.parametrize("sizes", [{"dim": 0}, {"hidden": 0}, {"hidden": -1}])
def test_a_network_without_units_is_refused(sizes):
    with pytest.raises(PacxError, match="must be 1 or more"):
        LabsAutoencoder(4, **sizes)


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
