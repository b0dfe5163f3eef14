"""What the tests of joint training run in processes of their own.

python two_processes.py jobs JOBS.json     the same trainings, one after the other, in each of two processes
python two_processes.py pacx ARGUMENTS     the command line, with a fault built in (environment: FAULT)
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)


def poison(spoiled: list[list[int]]) -> Callable[[], None]:
    """Spoil images: (epoch, store row) pairs whose pixels become NaN; return what undoes it."""
    from pacx.stages.masked_pretraining import MaskedPretraining

    plain = MaskedPretraining.training_step

    def training_step(self: Any, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        for place, row in enumerate(batch["index"].tolist()):
            if [self.current_epoch, row] in spoiled:
                batch["image"][place] = float("nan")
        return plain(self, batch, batch_idx)

    MaskedPretraining.training_step = training_step  # type: ignore[method-assign]
    return lambda: setattr(MaskedPretraining, "training_step", plain)


def with_paths(arguments: dict[str, Any]) -> dict[str, Any]:
    """Turn what JSON has as text into paths."""
    found = {key: Path(item) if key in {"store", "out"} else item for key, item in arguments.items()}
    return found | {"banks": [Path(item) for item in found["banks"]]} if "banks" in found else found


def run_jobs(path: Path) -> None:
    """Run the jobs and write down how each ended in this process."""
    from pacx.errors import PacxError
    from pacx.stages.distill import distill
    from pacx.stages.pretrain import pretrain

    commands: dict[str, Callable[..., Any]] = {"pretrain": pretrain, "distill": distill}
    logging.getLogger("pacx").setLevel(logging.INFO)
    rank = os.environ["LOCAL_RANK"]
    ends = {}
    for number, job in enumerate(json.loads(path.read_text())):
        os.environ["MASTER_PORT"] = str(int(os.environ["FIRST_PORT"]) + number)
        undo = poison(job["spoiled"])
        try:
            commands[job["command"]](**with_paths(job["arguments"]))
            ends[job["name"]] = "finished"
        except SystemExit as end:
            ends[job["name"]] = f"left with {end.code}"
        except PacxError as error:
            ends[job["name"]] = f"PacxError: {error}"
        finally:
            undo()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    path.with_name(f"ends{rank}.json").write_text(json.dumps(ends))


def run_pacx(arguments: list[str]) -> int:
    """Run `pacx`; the fault strikes at the first training step of epoch 2, on the process that it names.

    `early SIGTERM` strikes between the last exchange before the first batch and that batch.
    """
    from pacx import cli
    from pacx.stages.checkpoints import SafeCheckpointIO
    from pacx.stages.masked_pretraining import MaskedPretraining
    from pacx.stages.progress import EpochTable

    start = EpochTable.on_train_start

    def on_train_start(self: Any, trainer: Any, pl_module: Any) -> None:
        if fault == f"early SIGTERM on {trainer.global_rank}":
            os.kill(os.getpid(), signal.SIGTERM)
        start(self, trainer, pl_module)

    EpochTable.on_train_start = on_train_start  # type: ignore[method-assign]
    plain = MaskedPretraining.training_step
    fault = os.environ.get("FAULT")

    def training_step(self: Any, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        here = f"on {self.global_rank}" if self.current_epoch == 1 and batch_idx == 0 else "nowhere"
        if fault == f"die {here}":
            os._exit(7)
        if fault == f"SIGTERM {here}":
            os.kill(os.getpid(), signal.SIGTERM)
        if fault == f"freeze {here}":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == f"one exchange more {here}":
            print("waits", file=sys.stderr, flush=True)
            torch.distributed.barrier()
        if self.current_epoch == 1 and fault == "full disk":

            def save(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device", "last.ckpt")

            SafeCheckpointIO.save_checkpoint = save  # type: ignore[method-assign]
        return plain(self, batch, batch_idx)

    MaskedPretraining.training_step = training_step  # type: ignore[method-assign]
    return cli.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "jobs":
        run_jobs(Path(sys.argv[2]))
    else:
        sys.exit(run_pacx(sys.argv[2:]))
