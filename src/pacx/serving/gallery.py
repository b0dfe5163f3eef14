"""Known images beside a model, so that a reader can see what the model takes for alike: `MODEL.onnx.gallery.npz`.

    embedding     float32 (n, D), unit rows: of the training mean taken off, so that "alike" is not "a chest X-ray"
    mean          float32 (D,)
    thumbnail     uint8 (n, T, T)
    image_id      text (n,)
    label         float32 (n, L), NaN = unknown;  label_name  text (L,)
    weights_hash  of the encoder that embedded them

Plain arrays, read without pickles. The pictures are small, and still pictures of patients: a gallery is made only when
it is asked for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pacx.errors import PacxError

__all__ = ["Gallery", "Neighbour", "gallery_path", "open_gallery", "unit_rows"]


@dataclass(frozen=True)
class Neighbour:
    """A known image that is like another."""

    row: int
    image_id: str
    similarity: float
    """cosine, -1 to 1"""
    labels: dict[str, float | None]
    """1, 0, a class's number, or None = unknown"""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Known images of one model."""

    embedding: NDArray[np.float32]
    mean: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]
    image_id: NDArray[np.str_]
    label: NDArray[np.float32]
    label_name: NDArray[np.str_]
    weights_hash: str

    def __len__(self) -> int:
        return len(self.embedding)

    def nearest(self, embedding: NDArray[np.float32], *, k: int = 5) -> list[Neighbour]:
        """Return the k known images with the largest cosine to an embedding (D,), best first."""
        similarity = self.embedding @ unit_rows((embedding - self.mean)[None])[0]
        return [self._neighbour(int(row), float(similarity[row])) for row in np.argsort(-similarity, kind="stable")[:k]]

    def picture(self, row: int) -> bytes:
        """Return a known image as a small PNG.

        Raises:
            PacxError: there is no such row.
        """
        if not 0 <= row < len(self):
            raise PacxError(f"The gallery has the images 0 to {len(self) - 1}; {row} is asked for.")
        return _png(self.thumbnail[row].tobytes(), self.thumbnail.shape[1:])

    def _neighbour(self, row: int, similarity: float) -> Neighbour:
        values = [None if np.isnan(value) else float(value) for value in self.label[row]]
        labels = dict(zip(map(str, self.label_name), values, strict=True))
        return Neighbour(row, str(self.image_id[row]), similarity, labels)


def gallery_path(model: Path) -> Path:
    """Return where the gallery of a model lies."""
    return model.with_name(f"{model.name}.gallery.npz")


def open_gallery(path: Path, *, weights_hash: str) -> Gallery:
    """Read a gallery.

    Args:
        path: the file.
        weights_hash: of the model's encoder; embeddings of another one are not comparable.

    Raises:
        PacxError: the file is damaged, or of another encoder.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
        owner = str(arrays.pop("weights_hash"))
        gallery = Gallery(**arrays, weights_hash=owner)
        num = len(gallery.embedding)
        whole = all(len(array) == num for array in (gallery.thumbnail, gallery.image_id, gallery.label))
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise PacxError(
            f"The gallery {path} cannot be read ({error}). Export the model again with --gallery."
        ) from error
    if owner != weights_hash or not whole or not num:
        raise PacxError(
            f"The gallery {path} belongs to another encoder or is not whole. Delete it, or export the model again with "
            "--gallery."
        )
    return gallery


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows (n, D) to length 1."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), dtype=np.float32)


@lru_cache(maxsize=512)
def _png(levels: bytes, shape: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.frombuffer(levels, dtype=np.uint8).reshape(shape)).save(buffer, "PNG")
    return buffer.getvalue()
