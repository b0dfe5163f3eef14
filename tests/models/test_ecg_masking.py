import pytest
import torch

from pacx.models.ecg_masking import EcgFiller, hidden_error, hide_segments
from pacx.models.ecgfounder import EcgNet, EcgNetConfig

torch.set_num_threads(1)


def filler(**changes) -> EcgFiller:
    torch.manual_seed(0)
    settings = {"stem_width": 8, "widths": (8, 16), "blocks": (1, 1), "group_width": 8} | changes
    return EcgFiller(EcgNet(EcgNetConfig(0, **settings)), width=8).eval()


def test_hidden_segments_have_the_length_and_the_share_asked_for():
    hidden = hide_segments(200, 12, 1000, segment=50, ratio=0.4)
    assert hidden.float().mean().item() == pytest.approx(0.4, abs=0.03)
    edges = [torch.nonzero(lead.diff()).flatten() + 1 for lead in hidden[:, 0].int()]
    for record in edges:
        assert (record % 50).unique().numel() <= 1  # all on one grid
    phases = {int(record[0]) % 50 for record in edges if len(record)}
    assert len(phases) > 30  # each record's grid begins elsewhere


def test_in_half_of_the_records_the_leads_are_hidden_together():
    torch.manual_seed(0)
    hidden = hide_segments(400, 12, 500, segment=50, ratio=0.5)
    together = (hidden == hidden[:, :1]).all(dim=(1, 2))
    assert together.float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_the_same_generator_hides_the_same():
    def drawn() -> torch.Tensor:
        return hide_segments(3, 12, 100, segment=7, ratio=0.5, generator=torch.Generator().manual_seed(5))

    assert torch.equal(drawn(), drawn())


@pytest.mark.parametrize("length", [64, 100, 101, 733])
def test_a_record_of_any_length_is_filled_in_at_its_length(length):
    x = torch.randn(2, 12, length)
    assert filler()(x, torch.zeros_like(x, dtype=torch.bool)).shape == x.shape


def test_what_is_hidden_cannot_be_seen_by_the_network():
    x = torch.randn(2, 12, 96)
    hidden = hide_segments(2, 12, 96, segment=10, ratio=0.5)
    other = torch.where(hidden, torch.randn_like(x), x)
    net = filler()
    assert torch.equal(net(x, hidden), net(other, hidden))
    assert not torch.equal(net(x, ~hidden), net(other, ~hidden))


def test_the_decoders_numbers_lie_at_the_time_of_their_position():
    """A decoder that writes its position and channel: sample t of lead l must come from position t // stride."""
    net = filler()
    stride = net.net.config.stride
    assert stride == 8
    net.decoder = torch.nn.Identity()
    channels = torch.arange(12 * stride).float()[None, :, None]
    net.net.feature_map = lambda x: channels + 1000 * torch.arange(4.0)
    filled = net(torch.zeros(1, 12, 30), torch.zeros(1, 12, 30, dtype=torch.bool))[0]
    lead, t = 5, 19
    assert filled[lead, t].item() == 1000 * (t // stride) + lead * stride + t % stride


def test_only_hidden_samples_count():
    x, hidden = torch.zeros(1, 1, 4), torch.tensor([[[True, False, True, False]]])
    filled = torch.tensor([[[1.0, 9.0, 3.0, 9.0]]])
    assert hidden_error(filled, x, hidden).item() == 5.0
    assert hidden_error(filled, x, torch.zeros_like(hidden)).item() == 0
