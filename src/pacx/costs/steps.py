"""What each command takes, and what it leaves behind for later steps."""

from __future__ import annotations

from collections.abc import Callable

from pacx.costs.judging import align_need, bank_need, explain_need, probe_need, segment_need
from pacx.costs.known import Known
from pacx.costs.need import WEIGHT_BYTES, Arguments, Need
from pacx.costs.networks import encoder_parameters
from pacx.costs.trainings import distill_need, finetune_need, fit_ecg_need, fit_labs_need, pretrain_need
from pacx.costs.volumes import Volume, prepared, simulated
from pacx.recipe_file import Step

__all__ = ["Need", "need"]


def need(step: Step, known: Known) -> Need | None:
    """Return what a step takes, and note what it leaves behind for later ones.

    Args:
        step: of a checked recipe.
        known: of the steps before it.

    Returns:
        What it takes; None where the size of its store is not known beforehand.
    """
    counted = _COMMANDS.get(step.command)
    return counted(step.arguments, known) if counted else Need()


def _prepare_need(arguments: Arguments, known: Known) -> Need | None:
    return _store(arguments, known, prepared(arguments))


def _simulate_need(arguments: Arguments, known: Known) -> Need | None:
    return _store(arguments, known, simulated(arguments))


def _store(arguments: Arguments, known: Known, planned: Volume | None) -> Need | None:
    path = str(arguments["out"])
    volume = known.store(path) or planned  # a store that is there says it best
    known.stores[path] = volume
    return Need(volume.rows, disk=volume.disk) if volume else None


def _convert_need(arguments: Arguments, known: Known) -> Need:
    config = known.encoder(arguments["source"])
    known.encoders[f"{arguments['out']}/encoder"] = config
    return Need(disk=WEIGHT_BYTES * encoder_parameters(config))


_COMMANDS: dict[str, Callable[[Arguments, Known], Need | None]] = {
    "align": align_need,
    "bank": bank_need,
    "convert": _convert_need,
    "distill": distill_need,
    "explain": explain_need,
    "finetune": finetune_need,
    "fit-ecg": fit_ecg_need,
    "fit-labs": fit_labs_need,
    "physiology": align_need,
    "prepare": _prepare_need,
    "pretrain": pretrain_need,
    "probe": probe_need,
    "segment": segment_need,
    "simulate": _simulate_need,
}
