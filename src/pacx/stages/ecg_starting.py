"""Where the training of an ECG network starts: fresh weights of any width, or weights trained before.

Weights come from the published checkpoint (`12_lead_ECGFounder.pth`) or from a teacher folder, self-supervised ones
included. Shape and sampling rate are then theirs. The head is made for the new labels: an output whose name the weights
already know keeps its weights, every other starts afresh.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pacx.data.ecg import RATE
from pacx.data.ecg.recipe import RECIPE, check_recipe
from pacx.errors import PacxError
from pacx.models.ecg_weights import load_ecg_net, load_ecgfounder, read_statements, with_head
from pacx.models.ecgfounder import EcgNet, EcgNetConfig, EcgNetSize
from pacx.models.patients import SeenPatients, load_patients
from pacx.models.weights import CONFIG_FILE, weights_hash
from pacx.runs import RunFolder

__all__ = ["EcgShape", "EcgStart", "ecg_start"]

log = logging.getLogger("pacx")


@dataclass(frozen=True)
class EcgShape:
    """What the user said of a fresh network; None = the size's own."""

    size: EcgNetSize
    widths: tuple[int, ...] | None
    blocks: tuple[int, ...] | None
    stem_width: int | None
    batch_norm: bool | None
    dropout: float | None
    rate: int | None

    @property
    def changes(self) -> dict[str, Any]:
        """Everything but the size and the rate."""
        return {key: value for key, value in vars(self).items() if key not in {"size", "rate"}}


@dataclass(frozen=True)
class EcgStart:
    """A network before training."""

    net: EcgNet
    """any head"""
    rate: int
    """samples per second that it looks at"""
    statements: tuple[str, ...] = ()
    """the names of the outputs, as far as they are known"""
    parent: dict[str, Any] | None = None
    """of which weights it comes"""
    patients: SeenPatients | None = field(default_factory=SeenPatients)
    """whom these had seen; None if that is not known"""

    def for_labels(self, labels: tuple[str, ...]) -> EcgNet:
        """Return the network with a head for these labels; no labels, no head."""
        kept = [label for label in labels if label in self.statements]
        if self.parent is not None and labels:
            log.info("fit-ecg: %d of %d outputs keep the weights of their name", len(kept), len(labels))
        return with_head(self.net, self.statements, labels)


def ecg_start(run: RunFolder, *, weights: Path | None, statements: Path | None, shape: EcgShape) -> EcgStart:
    """Make or load the network to train.

    Args:
        run: notes the weights that were read.
        weights: ECGFounder's checkpoint, a teacher folder, or the run folder of `fit-ecg`; None for fresh weights.
        statements: the names of the checkpoint's outputs.
        shape: of a fresh network.

    Raises:
        PacxError: no such weights, or arguments that do not fit together.
    """
    if weights is None:
        if statements is not None:
            raise PacxError("Found --statements without --weights. It names the outputs of 12_lead_ECGFounder.pth.")
        rate = shape.rate or (RATE if shape.size == "ecgfounder" else 100)
        check_recipe(RECIPE, rate=rate)
        return EcgStart(EcgNet(EcgNetConfig.named(shape.size, num_classes=0, **shape.changes)), rate)
    given = ["size"] * (shape.size != "small") + [
        name for name, value in {**shape.changes, "rate": shape.rate}.items() if value is not None
    ]
    if given:
        raise PacxError(
            f"Found --weights together with {', '.join(f'--{name}' for name in given)}. The given network has a shape "
            "and a sampling rate of its own; leave these out, or leave --weights out to start from fresh weights."
        )
    net, rate, names, patients = _loaded(weights, statements)
    digest = weights_hash(net)
    run.read("weights", path=weights, hash=digest)
    return EcgStart(net, rate, names, {"hash": digest}, patients)


class _Loaded(NamedTuple):
    net: EcgNet
    rate: int
    names: tuple[str, ...]
    patients: SeenPatients | None


def _loaded(weights: Path, statements: Path | None) -> _Loaded:
    weights = Path(weights)
    if weights.is_dir():
        if statements is not None:
            raise PacxError("Found --statements together with a teacher folder, which names its outputs itself.")
        inside = weights / "teacher"
        folder = inside if (inside / CONFIG_FILE).is_file() else weights
        net, config = load_ecg_net(folder)
        check_recipe(config["preprocessing"]["recipe"], rate=config["preprocessing"]["rate"])
        return _Loaded(net, config["preprocessing"]["rate"], tuple(config["labels"]), load_patients(folder))
    net = load_ecgfounder(weights)
    names = () if statements is None else read_statements(statements, net.config.num_classes)
    return _Loaded(net, RATE, names, None)
