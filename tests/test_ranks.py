"""Which process this is, from what torchrun, srun and Lightning put into the environment."""

from __future__ import annotations

import pytest

from pacx.ranks import is_first, num_started, rank

NAMES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME"]
BY_SRUN = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}


@pytest.mark.parametrize(
    ("variables", "number", "started"),
    [
        ({}, 0, 1),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, 5, 8),  # torchrun, second computer
        ({"RANK": "4", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}, 4, 8),
        ({**BY_SRUN, "SLURM_JOB_NAME": "mae"}, 3, 8),
        ({**BY_SRUN, "SLURM_JOB_NAME": "interactive"}, 0, 1),  # a shell on the cluster
        ({**BY_SRUN, "SLURM_JOB_NAME": "bash", "LOCAL_RANK": "1"}, 1, 1),  # Lightning's child in such a shell
        ({"SLURM_NTASKS": "8"}, 0, 1),
        ({**BY_SRUN, "SLURM_PROCID": "0", "LOCAL_RANK": "2"}, 0, 8),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 0, 1),  # Lightning's first process
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 1, 1),
        ({"NODE_RANK": "2"}, 2, 1),  # the first process of the third computer
    ],
)
def test_rank_and_number_of_processes(
    variables: dict[str, str], number: int, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank() == number
    assert is_first() == (number == 0)
    assert num_started() == started
