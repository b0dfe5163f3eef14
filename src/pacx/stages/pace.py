"""How fast a training run is, and how much of the machine it uses.

* Data wait: the share of the training time in which the loop stood still for the next batch. Near 0 the loader keeps
  up; above a few per cent more `--workers` or a faster disk would help.
* FLOP utilisation: what the model's arithmetic comes to per second (`pacx.models.flops`), over what one large matrix
  product reaches on the same device, threads and number format. The yardstick is measured when training starts, so it
  holds on any machine and needs no table of data sheets; it lies a little below those, and utilisation a little above.
* Peak memory: resident memory of the main process on a CPU, allocated device memory on a GPU.

All of it costs two clock readings per batch, and 0.2 s at the start.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler

from pacx.runs import peak_memory_mib as process_memory_mib

__all__ = ["LoaderClock", "Pace", "describe_peak", "matmul_flops", "peak_memory_mib"]

_DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16, "16-true": torch.half}
_MEASURE_SECONDS = 0.2


@dataclass
class Pace:
    """What an epoch's training has taken so far; validation and the writing of checkpoints left out."""

    epoch: int = -1
    """the epoch that this is about, from 0"""
    images: int = 0
    """images trained on, in all processes"""
    seconds: float = 0.0
    waited: float = 0.0
    """seconds of these in which the loop waited for a batch"""
    elapsed: float = 0.0
    """seconds of the whole epoch, with all that is left out above, before this process went on with it"""

    @property
    def images_per_second(self) -> float:
        """Images over seconds, waiting included; 0 before the first batch."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for batches, [0, 1]."""
        return min(1.0, self.waited / self.seconds) if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return asdict(self)


class LoaderClock(Profiler):
    """Notes when Lightning's training loop asks for a batch, and adds up how long it waits for it.

    Lightning tells its profiler when it starts and stops each action. A callback would not do: what it sees between
    two batches also holds the writing of checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked: float | None = None
        self._since = 0.0
        self._waited = 0.0

    def start(self, action_name: str) -> None:
        """Note when the loop begins to wait."""
        if action_name.endswith("train_dataloader_next"):
            self._since = time.perf_counter()
            self._asked = self._since if self._asked is None else self._asked

    def stop(self, action_name: str) -> None:
        """Add the time since then."""
        if action_name.endswith("train_dataloader_next"):
            self._waited += time.perf_counter() - self._since

    def take(self) -> tuple[float | None, float]:
        """Return when the loop first asked since the last call, None if it did not, and the seconds that it waited."""
        asked, waited = self._asked, self._waited
        self._asked, self._waited = None, 0.0
        return asked, waited


def matmul_flops(device: torch.device, precision: str) -> float:
    """Measure what a large matrix product reaches, FLOP/s; measured once per process, device, format and threads.

    Args:
        device: where.
        precision: Lightning's name, such as 32-true or bf16-mixed, which decides the number format.
    """
    return _measure(device, _DTYPES.get(precision, torch.float32), torch.get_num_threads())


def describe_peak(device: torch.device, precision: str) -> str:
    """Say what `matmul_flops` measures."""
    threads = torch.get_num_threads()
    where = str(device) if device.type != "cpu" else f"{threads} CPU thread{'s' * (threads > 1)}"
    dtype = str(_DTYPES.get(precision, torch.float32)).removeprefix("torch.")
    return f"measured with a {dtype} matrix product on {where}"


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory since the run began, MiB: of this process on a CPU, of the device's tensors on a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else process_memory_mib()


@cache
def _measure(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    edge = 1024 if device.type == "cpu" else 8192
    a = torch.linspace(-1, 1, edge * edge, device=device).view(edge, edge).to(dtype)  # draws nothing at random
    best = float("inf")
    begun = time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < _MEASURE_SECONDS:
        started = time.perf_counter()
        torch.mm(a, a)
        _synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * edge**3 / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
