"""Opens whatever can answer for an image: an ONNX file, a shipped model, or an encoder or trained head in torch."""

from __future__ import annotations

from pathlib import Path

from pacx.errors import MissingExtraError
from pacx.serving.runtime import Model, OnnxModel
from pacx.shipped import PREFIX, shipped_folder

__all__ = ["open_model", "open_onnx"]


def open_model(source: str, *, encoder: str | None = None) -> Model:
    """Open a model by what it is.

    Args:
        source: an ONNX file of `pacx export`; `shipped:NAME`; the run folder of `pacx probe` or `pacx finetune`; or an
            encoder, as `load_encoder` takes it. The last two need torch.
        encoder: where a head's encoder is now, if it was moved.

    Raises:
        PacxError: nothing of the kind.
        MissingExtraError: torch, or ONNX Runtime, is needed and not installed.
    """
    if source.startswith(PREFIX) or source.lower().endswith(".onnx"):
        return open_onnx(source)
    try:
        from pacx.serving.torch_model import open_trained
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"Opening {source} (an ONNX file needs no torch; this)", extra="train") from error
    return open_trained(source, encoder=encoder)


def open_onnx(source: str, *, threads: int | None = None) -> OnnxModel:
    """Open an ONNX file of `pacx export`, or `shipped:NAME`."""
    path = shipped_folder(source) / "model.onnx" if source.startswith(PREFIX) else Path(source)
    return OnnxModel(path, threads=threads)
