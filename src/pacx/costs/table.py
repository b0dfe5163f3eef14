"""The table of a plan's costs: a line per step, sums at the end, 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from pacx.costs.gpus import GPUS, GpuName, gpu_hours
from pacx.costs.known import Known
from pacx.costs.steps import Need, need
from pacx.recipe_file import Recipe, Step

__all__ = ["cost_table"]

_WIDTHS = (27, 8, 14, 8, 8, 8, 7, 10)
_WIDTH = 100
_UNKNOWN, _NONE = "?", "-"
_BYTES = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}
_PREFIXES = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9}
_TIMES = {"h": 3600.0, "min": 60.0, "s": 1.0}


def cost_table(plans: Sequence[Recipe], *, gpu: GpuName, utilisation: float) -> str:
    """Return what recipes take, one after the other, as text.

    Args:
        plans: checked recipes.
        gpu: on which the hours are counted.
        utilisation: share of its peak that is reached.

    Raises:
        PacxError: a utilisation that cannot be.
    """
    known = Known()
    lines = [_line("step", "command", "rows x epochs", "disk", "memory", "GPU", "FLOP", f"{gpu} time"), "-" * _WIDTH]
    everything: list[Need | None] = []
    too_large: list[str] = []
    for plan in plans:
        counted = [(step, need(step, known)) for step in plan.steps]
        if len(plans) > 1:
            lines.append(plan.name)
            lines += _by_command(counted, gpu=gpu, utilisation=utilisation)
        else:
            lines += [_row(step.name, step.command, one, gpu=gpu, utilisation=utilisation) for step, one in counted]
        too_large += [step.full_name for step, one in counted if one and one.gpu_memory > GPUS[gpu].memory]
        everything += [one for _, one in counted]
    lines += ["-" * _WIDTH, _total(everything, gpu=gpu, utilisation=utilisation), ""]
    return "\n".join([*lines, *_wrapped(_notes(everything, known, too_large, gpu=gpu, utilisation=utilisation))])


def _wrapped(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in textwrap.wrap(note, width=_WIDTH, subsequent_indent="  ")]


def _by_command(counted: Sequence[tuple[Step, Need | None]], *, gpu: GpuName, utilisation: float) -> list[str]:
    """Write a line for the steps of each command, in the order of the first of each."""
    lines = []
    for command in dict.fromkeys(step.command for step, _ in counted):
        needs = [one for step, one in counted if step.command == command]
        known = [one for one in needs if one is not None]
        if known == [Need()] * len(needs):
            continue  # reports and the like
        name = f"  {len(needs)} steps" if len(needs) > 1 else "  1 step"
        alike = len({(one.rows, one.epochs) for one in known}) == 1
        total = _sum(known)._replace(rows=known[0].rows * alike, epochs=known[0].epochs * alike) if known else None
        lines.append(_row(name, command, total, gpu=gpu, utilisation=utilisation, at_least=len(known) < len(needs)))
    return lines


def _row(name: str, command: str, one: Need | None, *, gpu: GpuName, utilisation: float, at_least: bool = False) -> str:
    if one is None:
        return _line(name, command, *[_UNKNOWN] * 6)
    rows = f"{one.rows:,} x {one.epochs}" if one.epochs else f"{one.rows:,}" if one.rows else _NONE
    return _line(name, command, rows, *_amounts(one, gpu=gpu, utilisation=utilisation)) + (" +?" if at_least else "")


def _total(everything: Sequence[Need | None], *, gpu: GpuName, utilisation: float) -> str:
    counted = [one for one in everything if one is not None]
    name = "in all" if len(counted) == len(everything) else "in all, at least"
    return _line(name, "", "", *_amounts(_sum(counted), gpu=gpu, utilisation=utilisation))


def _sum(needs: Sequence[Need]) -> Need:
    """Sum up what adds up; memory is that of the step which takes most."""
    return Need(
        disk=sum(one.disk for one in needs),
        memory=max((one.memory for one in needs), default=0),
        gpu_memory=max((one.gpu_memory for one in needs), default=0),
        flops=sum(one.flops for one in needs),
    )


def _amounts(one: Need, *, gpu: GpuName, utilisation: float) -> list[str]:
    hours = gpu_hours(one.flops, gpu, utilisation=utilisation)
    sizes = [_scaled(size, _BYTES) for size in (one.disk, one.memory, one.gpu_memory)]
    return [*sizes, _scaled(one.flops, _PREFIXES), _scaled(hours * 3600, _TIMES)]


def _line(*cells: str) -> str:
    first, second, *numbers = cells
    left = f"{first:<{_WIDTHS[0]}} {second:<{_WIDTHS[1]}}"
    right = " ".join(f"{cell:>{width}}" for cell, width in zip(numbers, _WIDTHS[2:], strict=True))
    return f"{left} {right}".rstrip()


def _scaled(value: float, units: Mapping[str, float]) -> str:
    """Write a number in the largest unit of which it has one."""
    if not value:
        return _NONE
    unit, size = next(((unit, size) for unit, size in units.items() if value >= size), ("", 0))
    if not size:
        return f"<1 {min(units, key=lambda unit: units[unit])}"
    return f"{value / size:,.0f} {unit}" if value >= 100 * size else f"{value / size:.1f} {unit}"


def _notes(
    everything: Sequence[Need | None], known: Known, too_large: Sequence[str], *, gpu: GpuName, utilisation: float
) -> list[str]:
    peak = GPUS[gpu].peak / 1e12
    notes = [
        f"Time: of one {gpu} doing {utilisation:.0%} of {peak:g} TFLOP/s (16-bit numbers). Of n GPUs: an n-th.",
        "FLOP: P = 10^15, E = 10^18. Memory: what the host best holds (images, features), and what is on each GPU.",
        "Not counted: reading files into stores (hours of all cores for a large data set), and drawing intervals.",
    ]
    if known.assumed:
        notes.append(f"Taken to be a ViT-B/16 at 224 px: {', '.join(sorted(known.assumed))}.")
    if None in everything:
        notes.append(
            "?: how much the data set holds is not known before it is there; +?: and that of one of the steps."
        )
    if too_large:
        notes.append(
            f"More than an {gpu} has: {', '.join(too_large)}. Use a smaller batch_size with accumulate or devices, or "
            "for distill chunk_size."
        )
    return notes
