# ruff: noqa: F722
"""How well images and teachers have come together in the shared space: numbers that do not depend on a batch size.

All of them are measured over a whole split. Within batches, as is often done, retrieval gets easier with every row
that the batch lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from pacx.statistics import retrieval, retrieval_hits

__all__ = ["COLLAPSED", "Paired", "cosines", "hits", "join", "search", "spread"]


COLLAPSED = 0.02
"""spread of the image embeddings below which they are all but one point"""


@dataclass(frozen=True)
class Paired:
    """What the student made of some rows, and what one teacher said about the same rows."""

    projected: Tensor
    """(N, S): the teacher's embeddings in the shared space"""
    predicted: Tensor
    """(N, D): the student's predictions of the teacher's embeddings"""
    embedding: Tensor
    """(N, D): the teacher's embeddings"""
    present: Tensor
    """(N,) bool: where the teacher had an input; other rows are not looked at"""


def cosines(
    image: Float[Tensor, "N S"], teacher: Float[Tensor, "N S"], present: Bool[Tensor, " N"]
) -> dict[str, float]:
    """Return the mean cosine of true pairs and of all others; NaN below two present rows."""
    u, v = (F.normalize(rows[present].double(), dim=-1) for rows in (image, teacher))
    count = len(u)
    if count < 2:
        return {"positive_cosine": float("nan"), "negative_cosine": float("nan")}
    own = float((u * v).sum())
    everything = float(u.sum(0) @ v.sum(0))  # the sum over all pairs, without forming them
    return {"positive_cosine": own / count, "negative_cosine": (everything - own) / (count * (count - 1))}


def spread(image: Float[Tensor, "N S"]) -> float:
    """Return 1 - |mean of the unit vectors|^2: 0 when all images fall on one point (collapse), at most 1.

    NaN below two images.
    """
    if len(image) < 2:
        return float("nan")
    return 1.0 - float(F.normalize(image.double(), dim=-1).mean(0).square().sum())


def hits(image: Tensor, teacher: Tensor, present: Tensor) -> dict[str, float]:
    """Return the share of images that find their teacher embedding within the first 1 and 5, and the other way."""
    if int(present.sum()) < 2:
        return {}
    q, g = image[present].double().cpu().numpy(), teacher[present].double().cpu().numpy()
    forth, back = retrieval_hits(q, g, ks=(1, 5))[0].mean(0), retrieval_hits(g, q, ks=(1, 5))[0].mean(0)
    return {"image_r1": forth[0], "image_r5": forth[1], "teacher_r1": back[0], "teacher_r5": back[1]}


def search(image: Tensor, paired: Paired, patient: ArrayLike, *, seed: int = 0) -> dict[str, Any]:
    """Retrieve both ways over the present rows, with patient-level intervals and the level of chance."""
    present = paired.present.cpu().numpy()
    people = np.asarray(patient)[present]
    q = image.double().cpu().numpy()[present]
    g = paired.projected.double().cpu().numpy()[present]
    found: dict[str, Any] = {}
    for way, (query, gallery) in {"image_to_teacher": (q, g), "teacher_to_image": (g, q)}.items():
        scores = retrieval(query, gallery, patient=people, seed=seed)
        found["chance"], found["n"] = scores.pop("chance"), scores.pop("n")
        found[way] = scores
    return found


def join(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Concatenate dicts of tensors, nested ones included, along the rows."""
    return {
        key: join([part[key] for part in parts])
        if isinstance(value, Mapping)
        else torch.cat([part[key] for part in parts])
        for key, value in parts[0].items()
    }
