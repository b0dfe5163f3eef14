"""What an exported model knows of itself: everything that a server needs beside the numbers, inside the file.

The ONNX file carries these facts as JSON under the metadata key `pacx`, so that preprocessing, class names, thresholds,
hashes and licence cannot be lost or mixed up with another file's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pacx.errors import PacxError
from pacx.preprocess import Preprocess
from pacx.readout import Readout

__all__ = ["INTENDED_USE", "METADATA_KEY", "WANT_ATTENTION", "ModelFacts", "Precision", "as_name"]

METADATA_KEY = "pacx"
WANT_ATTENTION = "want_attention"
"""input of the graph, true unless it is fed: whether to compute the output `attention`"""
INTENDED_USE = "Research use only. Not a medical device."
_FORMAT = "pacx-onnx-1"
_LONGEST_NAME = 200

Precision = Literal["fp32", "fp16", "int8", "int8-static"]
"""Numbers that the weights are kept in: int8 rounds activations as they come, int8-static by ranges found before."""


def as_name(text: str) -> str:
    """Make a model's name of any text: letters, digits, and - _ . between them, so that it fits into an address."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
    return kept.strip("-.")[:_LONGEST_NAME].rstrip("-.") or "model"


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one exported model."""

    name: str
    """how the server calls it"""
    about: str
    """one sentence or two"""
    licence: str
    """of the weights; "" if nobody said"""
    preprocess: Preprocess
    """what has to be done to pixels in [0, 1]"""
    width: int
    """length of the embedding"""
    grid: int
    """patches along one edge"""
    attention: bool
    """whether the file can say where the model looked"""
    readout: Readout | None
    """what the head says; None for an encoder without one"""
    precision: Precision
    """see `Precision`"""
    weights_hash: str
    """of the encoder's weights as they were trained"""
    parity: dict[str, float] = field(default_factory=dict)
    """largest differences to the trained network, found at export: embedding, probability, attention; num_images"""
    auroc_change: dict[str, float] = field(default_factory=dict)
    """by output, of reduced precision minus full precision, on the store that export was given"""
    training_data: str = ""
    """what the encoder was trained on, in words"""
    provenance: dict[str, Any] = field(default_factory=dict)
    """of the encoder; free JSON"""
    pacx_version: str = ""

    @property
    def kind(self) -> Literal["classifier", "encoder"]:
        """Whether it predicts, or only embeds."""
        return "classifier" if self.readout else "encoder"

    def to_json(self) -> str:
        """Return the text that is kept in the file."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["preprocess"] = self.preprocess.to_dict()
        content["readout"] = self.readout.to_dict() if self.readout else None
        return json.dumps({"format": _FORMAT, **content}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Read `to_json`'s text.

        Raises:
            PacxError: it is no JSON, of another version, or has entries that are missing, unknown or wrong.
        """
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
                raise PacxError(f"The facts in the model are not of the format {_FORMAT!r}. Export it again.")
            preprocess = Preprocess.from_dict(content.pop("preprocess"))
            readout = content.pop("readout")
            return cls(preprocess=preprocess, readout=_readout(readout), **content)
        except (ValueError, KeyError, TypeError) as error:
            raise PacxError(f"The facts in the model cannot be read ({error}). Export it again.") from error

    def card(self) -> dict[str, Any]:
        """Return the public facts, as `/v1/models` gives them out."""
        return {
            "name": self.name,
            "kind": self.kind,
            "about": self.about,
            "intended_use": INTENDED_USE,
            "licence": self.licence,
            "image_size": self.preprocess.image_size,
            "geometry": self.preprocess.geometry,
            "width": self.width,
            "precision": self.precision,
            "weights_hash": self.weights_hash,
            "attention": self.attention,
            "outputs": [asdict(output) for output in self.readout.outputs] if self.readout else [],
            "calibration": asdict(self.readout.calibration) if self.readout else None,
            "trained_on": self.readout.trained_on if self.readout else None,
            "training_data": self.training_data,
            "parity": max((value for name, value in self.parity.items() if name != "num_images"), default=None),
            "differences": self.parity,
            "auroc_change": self.auroc_change,
            "provenance": self.provenance,
        }


def _readout(content: Mapping[str, Any] | None) -> Readout | None:
    return None if content is None else Readout.from_dict(content)
