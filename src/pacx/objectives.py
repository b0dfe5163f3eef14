# ruff: noqa: F722
"""What the networks learn to make small: pure functions of tensors.

* `masked_pixel_loss`: stage 1, masked autoencoding (He et al. 2021, section 3).
* `info_nce`, `cosine_regression`, and their sum `distillation_loss`: stage 2 (PaCX-MAE, "L_total").
* `token_distance`: how far the student's patch tokens have gone from the base encoder's (ours; off in the paper).
* Each loss returns a dict with `loss` and its parts, all scalars.

**Holes.** A row (an image) may lack a modality: `present` says which rows have it. A row that lacks it is neither
anchor nor negative there, and gets no gradient from that term; through its other modalities it still trains. Its
entries must be finite numbers (zeros, say), because 0 x NaN in a backward pass is NaN.

**Patients.** Two X-rays of one patient often have the same ECG or nearly the same blood: telling them apart is no task
worth learning. With `patient` given, rows of the same patient are not each other's negatives.

**Several devices.** `distillation_loss` first gathers all rows from all devices and then computes the whole loss on
each of them. So the value is the same everywhere, negatives come from everywhere, holes may fall anywhere, and after
the usual averaging of gradients over devices every gradient is that of one device with the joint batch. The price is
one similarity matrix per device instead of a slice of it, which is nothing beside a vision transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pacx.errors import PacxError

__all__ = [
    "TeacherTerms",
    "cosine_regression",
    "distillation_loss",
    "gather_rows",
    "info_nce",
    "joint_distillation_loss",
    "masked_pixel_loss",
    "token_distance",
]

NORM_EPS = 1e-6  # of the L2 normalisation in the contrastive space


class TeacherTerms(NamedTuple):
    """What the student and one teacher have to say about the same B rows."""

    projected: Tensor
    """The teacher's embedding in the shared space, (B, S); trainable."""
    predicted: Tensor
    """The student's prediction of the teacher's embedding, (B, D)."""
    embedding: Tensor
    """The teacher's embedding as its bank holds it, (B, D); a constant."""
    present: Tensor
    """Which rows have this modality, (B,) bool."""


def masked_pixel_loss(
    prediction: Float[Tensor, "B N P"], target: Float[Tensor, "B N P"], mask: Float[Tensor, "B N"] | None = None
) -> dict[str, Tensor]:
    """Compute the mean squared error over the pixels of masked patches.

    L = sum_n mask_n mean_p (prediction_np - target_np)^2 / sum_n mask_n, over all patches n of the batch.

    Args:
        prediction: pixels of N patches with P values each.
        target: the true pixels, normalised.
        mask: 1 where a patch was masked, 0 where it was visible; None when only masked patches are given.
    """
    if mask is None:
        return {"loss": F.mse_loss(prediction, target)}
    error = (prediction - target).square().mean(dim=-1)
    return {"loss": (error * mask).sum() / mask.sum()}


def info_nce(
    image: Float[Tensor, "B S"],
    teacher: Float[Tensor, "B S"],
    present: Bool[Tensor, " B"],
    *,
    scale: Float[Tensor, ""] | float,
    label_smoothing: float = 0.02,
    patient: Int64[Tensor, " B"] | None = None,
) -> dict[str, Tensor]:
    """Compute the symmetric contrastive loss between images and one teacher.

    Over the n present rows, with u, v the L2-normalised rows, z_ij = scale u_i . v_j, and C_i the rows that i is
    compared with, which are all of them, or i itself and those of other patients:

        L(image -> teacher) = -1/n sum_i sum_{j in C_i} q_ij log softmax_{j in C_i}(z_ij)
        L = (L(image -> teacher) + L(teacher -> image)) / 2

    with q_ij = (1 - s) [i = j] + s / |C_i| for label smoothing s (van den Oord et al. 2018; Radford et al. 2021). A row
    with nobody else in C_i has nothing to be told apart from: its share of the loss is 0. Below two present rows that
    is all of it, and the gradients are zeros.

    Args:
        image: image embeddings in the shared space.
        teacher: the teacher's, row for row.
        present: rows that have this modality.
        scale: inverse temperature, kept in [1, 100] by the caller.
        label_smoothing: s above.
        patient: a number for each patient; without it everybody is another one.

    Returns:
        `loss`, `image_to_teacher`, `teacher_to_image` (both in nats; chance is log n) and `positive_cosine`.
    """
    if int(present.sum()) < 2:
        zero = _attached_zero(image, teacher)
        return dict.fromkeys(("loss", "image_to_teacher", "teacher_to_image", "positive_cosine"), zero)
    u, v = (F.normalize(rows[present], dim=-1, eps=NORM_EPS) for rows in (image, teacher))
    cosine = u @ v.T
    logits = scale * cosine
    excluded = None if patient is None else _same_patient(patient[present])
    forth = _match(logits, label_smoothing, excluded)
    back = _match(logits.T, label_smoothing, excluded)
    return {
        "loss": (forth + back) / 2,
        "image_to_teacher": forth.detach(),
        "teacher_to_image": back.detach(),
        "positive_cosine": cosine.detach().diagonal().mean(),
    }


def _match(logits: Tensor, smoothing: float, excluded: Tensor | None) -> Tensor:
    """Cross-entropy of every row against its own column, over the columns that are not excluded."""
    if excluded is None:
        own = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, own, label_smoothing=smoothing)
    log_share = logits.masked_fill(excluded, float("-inf")).log_softmax(dim=1)
    # Excluded entries are -inf, and 0 x inf is NaN: they are left out of the mean, not weighted with 0.
    everybody = log_share.masked_fill(excluded, 0.0).sum(dim=1) / (~excluded).sum(dim=1)
    return -((1 - smoothing) * log_share.diagonal() + smoothing * everybody).mean()


def _has_negatives(present: Tensor, patient: Tensor | None) -> bool:
    """Say whether any present row has another one to be told apart from; if one has, all have."""
    if patient is None:
        return int(present.sum()) > 1
    people = patient[present]
    return bool((people != people[:1]).any())


def _same_patient(patient: Tensor) -> Tensor:
    """Return (n, n), True for another row of the same patient."""
    return (patient[:, None] == patient) & ~torch.eye(len(patient), dtype=torch.bool, device=patient.device)


def cosine_regression(
    prediction: Float[Tensor, "B D"], target: Float[Tensor, "B D"], present: Bool[Tensor, " B"]
) -> dict[str, Tensor]:
    """Compute 1 - cos(prediction, teacher embedding), averaged over present rows; in [0, 2].

    The target is the teacher's embedding before any projection, so the encoder cannot make the task easier. Without
    a present row the loss is 0 and its gradients are zeros.
    """
    if not bool(present.any()):
        return {"loss": _attached_zero(prediction)}
    return {"loss": 1 - F.cosine_similarity(prediction[present], target[present], dim=-1).mean()}


def token_distance(tokens: Float[Tensor, "B N D"], base: Float[Tensor, "B N D"]) -> Float[Tensor, " B"]:
    """Return 1 - cos between the patch tokens of two encoders, averaged over the patches of each image; in [0, 2].

    Distillation looks at the class token alone, so nothing holds the patch tokens where they were, and tasks that the
    teachers know nothing of can lose (the paper's QaTa segmentation does). This is what holds them.

    Args:
        tokens: after the final norm, of the encoder that learns.
        base: the same of the encoder that it started from; constants.
    """
    return 1 - F.cosine_similarity(tokens, base, dim=-1).mean(dim=1)


def distillation_loss(
    image: Float[Tensor, "B S"],
    teachers: Mapping[str, TeacherTerms],
    *,
    scale: Float[Tensor, ""] | float,
    contrastive_weight: float = 0.5,
    regression_weight: float = 1.0,
    teacher_weights: Mapping[str, float] | None = None,
    label_smoothing: float = 0.02,
    patient: Int64[Tensor, " B"] | None = None,
    anchor: Float[Tensor, " B"] | None = None,
    anchor_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Compute the stage-2 loss over the rows of all devices: `joint_distillation_loss` of what they have together.

    Args:
        image: this device's image embeddings in the shared space; equally many rows on every device.
        teachers: by name; the same names on every device.
        scale: inverse temperature, in [1, 100].
        contrastive_weight: lambda_C; at 0 the term is not computed.
        regression_weight: lambda_R; at 0 the term is not computed.
        teacher_weights: w_t by name; 1 where none is given.
        label_smoothing: of the contrastive term.
        patient: a number for each patient, the same on every device; rows of one patient are then no negatives.
        anchor: how far the patch tokens of each image have gone from the base encoder's (`token_distance`).
        anchor_weight: lambda_A.

    Raises:
        PacxError: a weight for a teacher that is not there.
    """
    return joint_distillation_loss(
        gather_rows(image),
        {name: TeacherTerms(*(gather_rows(rows) for rows in terms)) for name, terms in teachers.items()},
        scale=scale,
        contrastive_weight=contrastive_weight,
        regression_weight=regression_weight,
        teacher_weights=teacher_weights,
        label_smoothing=label_smoothing,
        patient=None if patient is None else gather_rows(patient),
        anchor=None if anchor is None else gather_rows(anchor),
        anchor_weight=anchor_weight,
    )


def joint_distillation_loss(
    image: Float[Tensor, "B S"],
    teachers: Mapping[str, TeacherTerms],
    *,
    scale: Float[Tensor, ""] | float,
    contrastive_weight: float = 0.5,
    regression_weight: float = 1.0,
    teacher_weights: Mapping[str, float] | None = None,
    label_smoothing: float = 0.02,
    patient: Int64[Tensor, " B"] | None = None,
    anchor: Float[Tensor, " B"] | None = None,
    anchor_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Compute the stage-2 loss over any number of teachers, complete rows or not.

    L = lambda_C L_C + lambda_R L_R + lambda_A L_A, the first two the weighted mean over the teachers that are there:

        L_C = sum_t w_t InfoNCE_t / sum_t w_t   over teachers with a present row that has a negative in the batch,
        L_R = sum_t w_t (1 - cos)_t / sum_t w_t   over teachers with at least one,
        L_A = the mean `token_distance` over all rows, where it is given.

    Averaging over what is there keeps the size of the loss the same however many holes a batch has. With complete
    rows and equal weights it is the plain mean over teachers. Teachers are never contrasted with each other.

    Args:
        image: image embeddings in the shared space, of rows that are all here.
        teachers: by name.
        scale: inverse temperature, in [1, 100].
        contrastive_weight: lambda_C; at 0 the term is not computed.
        regression_weight: lambda_R; at 0 the term is not computed.
        teacher_weights: w_t by name; 1 where none is given.
        label_smoothing: of the contrastive term.
        patient: a number for each patient; rows of one patient are then no negatives of each other.
        anchor: how far the patch tokens of each image have gone from the base encoder's (`token_distance`).
        anchor_weight: lambda_A.

    Returns:
        `loss`, `contrastive`, `regression`, `anchor`, and for each teacher that counts in them `contrastive/NAME`,
        `positive_cosine/NAME` and `regression/NAME`. A term that nothing was there for is absent, not 0.

    Raises:
        PacxError: a weight for a teacher that is not there.
    """
    unknown = set(teacher_weights or {}) - set(teachers)
    if unknown:
        raise PacxError(f"There are weights for {sorted(unknown)}, but the teachers are {sorted(teachers)}.")
    contrastive, regression, parts = {}, {}, {}
    for name, terms in teachers.items():
        if contrastive_weight and _has_negatives(terms.present, patient):
            pair = info_nce(
                image, terms.projected, terms.present, scale=scale, label_smoothing=label_smoothing, patient=patient
            )
            contrastive[name] = pair["loss"]
            parts[f"positive_cosine/{name}"] = pair["positive_cosine"]
        if regression_weight and bool(terms.present.any()):
            regression[name] = cosine_regression(terms.predicted, terms.embedding, terms.present)["loss"]
    # Every head takes part in every step, with zero gradients if need be: distributed training waits for all of them.
    loss = _attached_zero(
        image,
        *(rows for terms in teachers.values() for rows in (terms.projected, terms.predicted)),
        *([scale] if isinstance(scale, Tensor) else []),
    )
    for title, weight, losses in (
        ("contrastive", contrastive_weight, contrastive),
        ("regression", regression_weight, regression),
    ):
        if losses:
            mean = _weighted_mean(losses, teacher_weights or {})
            loss = loss + weight * mean
            parts[title] = mean.detach()
            parts.update({f"{title}/{name}": value.detach() for name, value in losses.items()})
    if anchor is not None:
        loss = loss + anchor_weight * anchor.mean()
        parts["anchor"] = anchor.detach().mean()
    return {"loss": loss, **parts}


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all devices in the order of their ranks; gradients flow back to where a row came from.

    The backward pass adds up what all devices send to a row. When each of them computes the same loss from the joint
    rows, this is the number of devices times its gradient, which the averaging of data-parallel training undoes.

    Args:
        rows: (B, ...), equal B on every device.

    Returns:
        (devices x B, ...); `rows` itself where nothing is distributed.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    if rows.dtype == torch.bool:  # not every backend sends booleans
        return gather_rows(rows.to(torch.uint8)).bool()
    joined: Tensor = _GatherRows.apply(rows)
    return joined


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.num_rows
        return gradient[first : first + ctx.num_rows]


def _weighted_mean(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    total = sum(weights.get(name, 1.0) for name in losses)
    if total <= 0:
        return _attached_zero(*losses.values())
    return torch.stack([weights.get(name, 1.0) / total * value for name, value in losses.items()]).sum()


def _attached_zero(*tensors: Tensor) -> Tensor:
    """Return a zero that hangs on the graph of all tensors, so that each gets a gradient of zeros."""
    return torch.stack([tensor.sum() * 0 for tensor in tensors]).sum()
