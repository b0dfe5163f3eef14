"""An encoder in torch, with or without a trained head, in the clothes of an exported model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pacx import __version__
from pacx.errors import PacxError
from pacx.models.encoder import Encoder, load_encoder, weights_hash
from pacx.models.readout_head import ReadoutHead, find_head, load_head
from pacx.serving.facts import ModelFacts, as_name
from pacx.serving.network import ExportNetwork
from pacx.serving.runtime import Answers
from pacx.shipped import PREFIX, shipped_folder

__all__ = ["TorchModel", "open_trained"]


class TorchModel:
    """Answers as `OnnxModel` does, computed by torch.

    Attributes:
        facts: what an exported file would know of itself.
        encoder: the encoder.
        head: the trained head, if there is one.
    """

    def __init__(self, encoder: Encoder, head: ReadoutHead | None, *, name: str, attention: bool = True) -> None:
        self.encoder, self.head = encoder, head
        self.network = ExportNetwork(encoder, head, attention=attention).eval()
        config = encoder.config
        self.facts = ModelFacts(
            name=name,
            about=_about(head),
            licence=str(config.provenance.get("licence") or ""),
            preprocess=config.preprocess,
            width=config.width,
            grid=config.grid,
            attention=attention,
            readout=head.readout if head else None,
            precision="fp32",
            weights_hash=weights_hash(encoder),
            training_data=_training_data(config.provenance),
            provenance=_without_places(config.provenance),
            pacx_version=__version__,
        )

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32], *, want: Collection[str]) -> Answers:
        """Answer for normalised images (B, C, S, S)."""
        device = next(self.encoder.parameters()).device
        found = self.network(torch.from_numpy(images).to(device))
        by_name = {name: value.float().cpu().numpy() for name, value in zip(self.network.names, found, strict=True)}
        return Answers(*(by_name.get(name) if name in want else None for name in Answers._fields))


def open_trained(source: str, *, encoder: str | None = None, name: str | None = None) -> TorchModel:
    """Open an encoder, or a trained head with the encoder that it reads.

    Args:
        source: whatever `load_encoder` takes, or the run folder of `pacx probe` or `pacx finetune`.
        encoder: where the head's encoder is, if it is no longer where the head was trained.
        name: how the model is called; taken from its folder if not given.

    Raises:
        PacxError: neither an encoder nor a head, or a head of another encoder.
    """
    folder = find_head(Path(source))
    if folder is None and source.startswith(PREFIX):
        folder = find_head(shipped_folder(source))
    if folder is None:
        return TorchModel(load_encoder(source), None, name=name or _name(source))
    head = load_head(folder)
    where = encoder or _beside(folder) or head.encoder
    network = load_encoder(where)
    if weights_hash(network) != head.encoder_hash:
        raise PacxError(
            f"The head in {folder} was trained on another encoder than {where} (its weights differ). Give the right "
            "one with --encoder."
        )
    return TorchModel(network, head, name=name or _name(str(folder.parent)))


def _beside(folder: Path) -> str | None:
    beside = folder.parent / "encoder"
    return str(beside) if beside.is_dir() else None


def _name(source: str) -> str:
    path = Path(source).absolute()
    named = path.parent.name if path.name in {"encoder", "head"} else path.name
    return as_name(named)


def _about(head: ReadoutHead | None) -> str:
    if head is None:
        return "A chest X-ray encoder: embeddings, no predictions."
    return f"A chest X-ray encoder with a linear head, trained on {head.readout.trained_on}."


def _training_data(provenance: dict[str, Any]) -> str:
    data = provenance.get("data")
    parts = [data] if isinstance(data, dict) else data if isinstance(data, list) else []
    words = [
        f"{part.get('name')} ({part.get('split', 'all')}, {part.get('license') or 'licence not stated'})"
        for part in parts
    ]
    return "; ".join(words)


def _without_places(value: Any) -> Any:
    """Leave out where files were: a model that travels need not tell of the computer that made it."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items() if key != "path"}
    return [_without_places(item) for item in value] if isinstance(value, list) else value
