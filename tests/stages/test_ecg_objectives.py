import numpy as np
import pytest
import torch

from pacx.errors import PacxError
from pacx.stages.ecg_objectives import Masking, known_label_loss

torch.set_num_threads(1)


def test_unknown_labels_add_nothing_to_the_loss():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])
    loss = known_label_loss(logits, labels)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert (logits.grad[:, 1] == 0).all()
    assert known_label_loss(logits, torch.full((2, 2), float("nan"))).item() == 0


def test_masks_of_validation_records_depend_on_seed_and_row_alone():
    masking = Masking(0.5, 10, seed=3)
    x, rows = torch.zeros(4, 12, 100), torch.tensor([7, 2, 9, 4])
    masks = masking.fixed(x, rows)
    assert torch.equal(masks[[2, 0]], masking.fixed(x[:2], rows[[2, 0]]))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, Masking(0.5, 10, seed=4).fixed(x, rows))


def test_masks_of_training_records_are_drawn_anew():
    masking, x = Masking(0.5, 10), torch.zeros(4, 12, 100)
    assert not torch.equal(masking.draw(x), masking.draw(x))


def test_impossible_masks_are_refused():
    for ratio in (0.0, 1.0):
        with pytest.raises(PacxError, match="mask_ratio is"):
            Masking(ratio, 10)
    with pytest.raises(PacxError, match="shorter than one sample"):
        Masking(0.5, 0)
