"""Which of several processes this is, as known before torch is there to ask.

Training on several devices is one process per device, and each of them runs the whole command:

* `pacx pretrain --devices 4`: the first process starts the others when training begins (LOCAL_RANK tells them apart).
* torchrun starts all of them (RANK), and so does srun on a SLURM cluster (SLURM_PROCID).

The first one writes; the others only read, train along, and leave when training is over.
"""

from __future__ import annotations

import os

__all__ = ["is_first", "num_started", "rank"]


def rank() -> int:
    """Return this process's number, 0 for the first.

    Where several computers are used without torchrun or srun, the number counts within the computer; it is 0 on the
    first computer only.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if _by_srun():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("LOCAL_RANK", "0")) or int(os.environ.get("NODE_RANK", "0"))


def is_first() -> bool:
    """Say whether this is the process that writes."""
    return rank() == 0


def num_started() -> int:
    """Return how many processes torchrun or srun started side by side; 1 without them."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ["SLURM_NTASKS"]) if _by_srun() else 1


def _by_srun() -> bool:
    """Tell srun from the shell of a job; the same test as Lightning's."""
    return {"SLURM_NTASKS", "SLURM_PROCID"} <= os.environ.keys() and os.environ.get("SLURM_JOB_NAME") not in {
        "bash",
        "interactive",
    }
