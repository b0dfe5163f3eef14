"""Which distillation runs made the encoders that other runs judged.

An encoder's path names the run that made it, wherever the runs lie in their folders: `study/ctrl/encoder` was made by
the run `study/ctrl`, though the encoder is called `ctrl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pacx.evaluation.reporting.collect import Run, of_command
from pacx.evaluation.reporting.encoders import encoder_label

__all__ = ["control_runs", "distillations_behind"]


def distillations_behind(run: Run, distilled: Sequence[Run]) -> list[Run]:
    """Return the distillation runs that made the encoders which a run, or the members of a pool, judged.

    Args:
        run: the run that judged them.
        distilled: all distillation runs.
    """
    found = {made.name: made for source in _sources(run) if (made := _made(source, distilled))}
    return list(found.values())


def control_runs(runs: Sequence[Run]) -> set[str]:
    """Return the names of the runs that judged a negative control: an encoder distilled from shuffled pairs.

    An encoder whose path leads to no run, such as a copy, counts by its label.
    """
    distilled = of_command(runs, "distill")
    found = set()
    for run in runs:
        called = _made(encoder_label(run), distilled)
        behind = distillations_behind(run, distilled) or ([called] if called else [])
        if any(made.results.get("shuffled_teachers") for made in behind):
            found.add(run.name)
    return found


def _sources(run: Run) -> list[str]:
    """Return the paths of the encoders that a probe, or the members of a pool, judged."""
    if run.command == "pool":
        members = (run.inputs.get("runs") or {}).get("members") or []
        return [str(one["encoder"].get("path") or one["encoder"].get("name")) for one in members]
    return [str((run.inputs.get("encoder") or {}).get("path") or run.config.get("encoder"))]


def _made(source: str, distilled: Sequence[Run]) -> Run | None:
    """Find the run that made an encoder: by its path, else by the only run of that name (runs may have moved)."""
    if source.startswith("random:"):
        return None  # fresh weights, of whatever architecture
    path = Path(source.replace("\\", "/"))
    folder = path.parent if path.name == "encoder" else path
    exact = [run for run in distilled if run.folder == folder.resolve()]
    named = [run for run in distilled if run.folder.name == folder.name]
    if exact or len(named) == 1:
        return (exact or named)[0]
    return None
