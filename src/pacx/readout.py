"""What a trained head says about an X-ray, and how well it was found to say it: the facts that travel with it.

A head is one linear map from an embedding to log-odds, one column per output; every output is a yes-or-no question with
a threshold. This module holds the facts, not the numbers of the map, so that a server reads them without torch:
`pacx probe` writes them beside the head, `pacx export` into the ONNX file, and `pacx serve` answers with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pacx.errors import PacxError

__all__ = ["Calibration", "HeadToken", "Output", "Readout", "known"]

HeadToken = Literal["cls", "mean", "both"]
"""What a head reads: the class token, the mean of the patch tokens, or the two side by side."""


@dataclass(frozen=True)
class Output:
    """One yes-or-no question. Shares and scores lie in [0, 1]; None where they could not be measured."""

    name: str
    """the label, or TASK/CLASS for a class of several"""
    task: str
    """the task that it belongs to"""
    threshold: float
    """probability from which on the answer is yes: the one with the largest F1 on the validation split"""
    prevalence: float
    """share of yes among the training images"""
    auroc: float | None
    """on the test split"""
    auroc_low: float | None
    """lower end of its 95 % interval over patients"""
    auroc_high: float | None
    """upper end"""
    sensitivity: float | None
    """on the test split at the threshold"""
    specificity: float | None
    """likewise"""
    num_test: int
    """test images with a known answer"""


@dataclass(frozen=True)
class Calibration:
    """How log-odds were turned into probabilities that come true as often as they say."""

    method: str
    """Platt, or none where the validation split was too small"""
    fitted_on: str
    """which images"""
    ece: float | None
    """expected calibration error on the test split, the mean over the outputs"""


@dataclass(frozen=True)
class Readout:
    """Everything that is known of a head."""

    outputs: tuple[Output, ...]
    """one per column of the head, in order"""
    token: HeadToken
    """what the head reads"""
    calibration: Calibration
    """of all outputs"""
    trained_on: str
    """name of the store"""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(output.name for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Readout:
        """Build from `to_dict`'s result.

        Raises:
            PacxError: an entry is missing, unknown or not allowed.
        """
        try:
            outputs = tuple(Output(**output) for output in content["outputs"])
            calibration = Calibration(**content["calibration"])
            rest = {key: content[key] for key in ("token", "trained_on")}
        except (KeyError, TypeError) as error:
            raise PacxError(f"The facts of a head are not complete or not known to this pacx ({error}).") from error
        left = set(content) - {item.name for item in fields(cls)}
        if left or not outputs or not all(0 <= output.threshold <= 1 for output in outputs):
            raise PacxError(
                f"The facts of a head need at least one output with a threshold in [0, 1] and nothing else; unknown: "
                f"{sorted(left) or 'none'}."
            )
        return cls(outputs, calibration=calibration, **rest)


def known(value: float) -> float | None:
    """Return a number, or None for NaN, which JSON has not."""
    return float(value) if math.isfinite(value) else None
