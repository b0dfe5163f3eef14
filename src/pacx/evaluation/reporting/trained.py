"""Data, teachers, pre-training and distillation, as the runs themselves report them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence

from pacx.evaluation.reporting.collect import Record, Run, of_command
from pacx.evaluation.reporting.encoders import store_name

__all__ = ["data_part", "distillation_part", "pretraining_part", "step_part", "teacher_part"]


def step_part(runs: Sequence[Run]) -> list[Record]:
    """List what ran, in the order of start."""
    keys = ("command", "started", "seconds", "peak_memory_mib", "pacx_version", "config")
    return [{"name": run.name, **{key: run.content.get(key) for key in keys}} for run in runs]


def data_part(runs: Sequence[Run]) -> list[Record]:
    """Describe the stores."""
    keys = ("num_rows", "num_images", "num_ecgs", "num_labs", "num_masks", "num_patients", "splits", "rejects", "tasks")
    return [
        {
            "run": run.name,
            "command": run.command,
            "store": str(run.results.get("name", run.name)),
            **{key: run.results.get(key) for key in keys},
        }
        for run in of_command(runs, "simulate", "prepare")
    ]


def teacher_part(runs: Sequence[Run]) -> dict[str, list[Record]]:
    """Describe ECG and laboratory teachers, and the banks filled by them."""
    return {
        "ecg": [
            {"run": run.name, "store": store_name(run), **run.results, "curve": _curve(run)}
            for run in of_command(runs, "fit-ecg")
        ],
        "labs": [
            {"run": run.name, "store": store_name(run), **run.results, "curve": _curve(run)}
            for run in of_command(runs, "fit-labs")
        ],
        "banks": [{"run": run.name, "store": store_name(run), **run.results} for run in of_command(runs, "bank")],
    }


def pretraining_part(runs: Sequence[Run]) -> list[Record]:
    """Describe pre-training runs with their loss curves."""
    return [
        {"run": run.name, "store": store_name(run), **run.results, "curve": _curve(run)}
        for run in of_command(runs, "pretrain")
    ]


def distillation_part(runs: Sequence[Run]) -> list[Record]:
    """Describe distillation runs with their loss curves; each teacher's retrieval in one shape."""
    return [
        {
            "run": run.name,
            "store": store_name(run),
            **run.results,
            "teachers": {name: _two_ways(found) for name, found in run.results.get("teachers", {}).items()},
            "curve": _curve(run),
        }
        for run in of_command(runs, "distill")
    ]


def _two_ways(found: Record) -> Record:
    """Put chance level and number of rows beside each direction of retrieval, wherever the run wrote them."""
    ways: Record = {
        way: {"chance": found.get("chance"), "n": found.get("n"), **found[way]}
        for way in ("image_to_teacher", "teacher_to_image")
        if way in found
    }
    return {**found, **ways}


def _curve(run: Run) -> Record:
    """Read epoch, train_loss and val_loss from `metrics.csv`; empty cells become None."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return {"epoch": [], "train_loss": [], "val_loss": []}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [_number(row.get(key)) for row in rows] for key in ("epoch", "train_loss", "val_loss")}


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
