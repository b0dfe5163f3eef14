"""FLOPs of the ECG network by formula against those that PyTorch counts while it computes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pacx.models.ecg_flops import ecg_flops
from pacx.models.ecgfounder import EcgNet, EcgNetConfig


@pytest.mark.parametrize(
    "config",
    [EcgNetConfig.named(size, num_classes=3) for size in ("ecgfounder", "small", "medium")],
    ids=["ecgfounder", "small", "medium"],
)
@pytest.mark.parametrize("samples", [1000, 1999])
def test_a_record_takes_what_pytorch_counts(config: EcgNetConfig, samples: int) -> None:
    net = EcgNet(config).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 12, samples, device="meta"))
    assert ecg_flops(config, samples=samples) == counter.get_total_flops()


def test_a_published_record_takes_what_is_written() -> None:
    assert round(ecg_flops(EcgNetConfig(), samples=5000) / 1e9, 1) == 2.3
