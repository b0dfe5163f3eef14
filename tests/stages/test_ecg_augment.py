import pytest
import torch

from pacx.errors import PacxError
from pacx.stages.ecg_augment import EcgAugment

torch.set_num_threads(1)


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(64, 12, 50)


def test_nothing_happens_when_all_is_off(x):
    assert torch.equal(EcgAugment()(x), x)


def test_a_shift_rotates_and_keeps_the_leads_together(x):
    shifted = EcgAugment(shift=True)(x)
    assert not torch.equal(shifted, x)
    torch.testing.assert_close(shifted.sort(dim=2).values, x.sort(dim=2).values)
    clocks = EcgAugment(shift=True)(torch.arange(50.0).expand(64, 12, 50))
    assert torch.equal(clocks, clocks[:, :1].expand_as(clocks))
    assert len(clocks[:, 0, 0].unique()) > 20  # each record by its own amount


@pytest.mark.parametrize("shift", [False, True])
def test_a_crop_is_a_window_of_one_length_at_places_of_their_own(shift):
    torch.manual_seed(0)
    clocks = torch.arange(50.0).expand(64, 12, 50)
    lengths = []
    for _ in range(200):
        window = EcgAugment(crop=0.5, shift=shift)(clocks)
        lengths.append(window.shape[-1])
        assert ((window.diff() == 1) | (window.diff() == -49)).all()  # neighbours stay neighbours, around the end
        assert shift or (window.diff() == 1).all()
        assert window.shape[-1] == 50 or len(window[:, 0, 0].unique()) > 1
    assert (min(lengths), max(lengths)) == (25, 50)


def test_a_dropped_lead_is_zero_and_the_others_are_untouched(x):
    dropped = EcgAugment(lead_dropout=0.25)(x)
    gone = (dropped == 0).all(dim=2)
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(dropped[~gone], x[~gone])


def test_the_gain_is_one_factor_per_record(x):
    factor = EcgAugment(gain=0.2)(x) / x
    torch.testing.assert_close(factor, factor[:, :1, :1].expand_as(factor), rtol=1e-3, atol=1e-3)
    assert factor[:, 0, 0].std().item() == pytest.approx(0.2, rel=0.3)


def test_noise_has_the_deviation_asked_for(x):
    assert (EcgAugment(noise=0.1)(x) - x).std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"crop": 0.0}, "crop is 0"), ({"crop": 1.5}, "crop is 1.5"), ({"lead_dropout": 1.0}, "lead_dropout is 1"),
     ({"noise": -1.0}, "noise -1"), ({"gain": -0.1}, "gain is -0.1")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(PacxError, match=message):
        EcgAugment(**settings)
