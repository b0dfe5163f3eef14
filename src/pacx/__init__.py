"""pacx puts physiology into chest X-ray encoders.

Names are imported on first use, so that `import pacx` stays light and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacx.data.ecg import Ecg, read_ecg
    from pacx.data.images import CxrImage, read_cxr
    from pacx.data.store import Store
    from pacx.errors import PacxError
    from pacx.models.encoder import Encoder, load_encoder
    from pacx.preprocess import Preprocess

__version__ = "0.1.0.dev0"

__all__ = [
    "CxrImage",
    "Ecg",
    "Encoder",
    "PacxError",
    "Preprocess",
    "Store",
    "__version__",
    "load_encoder",
    "read_cxr",
    "read_ecg",
]

_HOME = {
    "CxrImage": "pacx.data.images",
    "read_cxr": "pacx.data.images",
    "Ecg": "pacx.data.ecg",
    "read_ecg": "pacx.data.ecg",
    "Store": "pacx.data.store",
    "PacxError": "pacx.errors",
    "Encoder": "pacx.models.encoder",
    "load_encoder": "pacx.models.encoder",
    "Preprocess": "pacx.preprocess",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pacx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
