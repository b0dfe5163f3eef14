"""Models that ship with the package: `shipped:NAME` wherever an encoder or a model is asked for.

NAME/encoder/              for torch: `pacx.load_encoder("shipped:NAME")`
NAME/head/                 its trained head
NAME/model.onnx            both, for the server and for installations without torch
NAME/model.onnx.gallery.npz
NAME/README.md             the model card, with the recipe that made it
"""

from __future__ import annotations

from pathlib import Path

from pacx.errors import PacxError

__all__ = ["PREFIX", "shipped_folder", "shipped_names"]

PREFIX = "shipped:"
_HERE = Path(__file__).parent


def shipped_names() -> list[str]:
    """List the models that ship with this pacx."""
    return sorted(path.name for path in _HERE.iterdir() if (path / "README.md").is_file())


def shipped_folder(source: str) -> Path:
    """Return the folder of `shipped:NAME`.

    Raises:
        PacxError: no model of that name ships with this pacx.
    """
    name = source.removeprefix(PREFIX)
    if name not in shipped_names():
        raise PacxError(f"No model {name!r} ships with pacx. There is: {', '.join(shipped_names()) or 'none'}.")
    return _HERE / name
