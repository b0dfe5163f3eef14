# ruff: noqa: F722
"""One step of fine-tuning a classifier, its loss, and the scores of its outputs; `pacx.stages.finetune` is the command.

    binary, multilabel   mean over known labels of BCE(logit, (1 - s) y + s / 2)
    multiclass           mean over known images of CE(logits, (1 - s) onehot(y) + s / K)

with label smoothing s (Szegedy et al. 2016, arXiv 1512.00567). A score is the log-odds of an output: the logit, or for
one of several classes z_k - log sum_{j != k} exp z_j.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pacx.data.manifest import TaskKind
from pacx.models.classifier import Classifier
from pacx.stages.ecg_objectives import StepSize, known_label_loss
from pacx.stages.layer_decay import layer_groups
from pacx.stages.lesson import Lesson
from pacx.stages.optimisation import adamw_over_groups
from pacx.stages.run import LossGuard
from pacx.statistics import macro_auroc

__all__ = ["FineTuning", "label_loss", "log_odds"]


class FineTuning(L.LightningModule):
    """One step of fine-tuning.

    Args:
        classifier: encoder and head.
        lesson: labels by store row.
        image_ids: the store's ids by row, to name images whose loss is not finite.
        step: how the head's weights move.
        layer_decay: factor on the learning rate from one layer to the next lower one.
        label_smoothing: share s of a label that is spread over all its values.
    """

    def __init__(
        self,
        classifier: Classifier,
        lesson: Lesson,
        *,
        image_ids: list[str],
        step: StepSize,
        layer_decay: float,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.lesson = lesson
        self.guard = LossGuard(image_ids)
        self.step = step
        self.layer_decay = layer_decay
        self.label_smoothing = label_smoothing
        self._seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Classify; the guard sees to losses that are not finite."""
        rows = batch["index"]
        labels = torch.from_numpy(self.lesson.learnt[rows.cpu().numpy()]).to(rows.device)
        logits = self.classifier(batch["image"])
        loss = label_loss(logits, labels, kind=self.lesson.task.kind, smoothing=self.label_smoothing)
        if self.guard.accepts(loss, rows):
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(rows))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start from nothing."""
        self._seen = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Remember the logits of all images: an AUROC is no mean over batches."""
        self._seen.append((batch["index"].cpu(), self.classifier(batch["image"]).float().cpu()))

    def on_validation_epoch_end(self) -> None:
        """Measure the loss without smoothing, and the mean AUROC over the outputs that are learnt."""
        rows, logits = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        kind, index = self.lesson.task.kind, rows.numpy()
        target = self.lesson.one_against_rest(index)
        learnable = self.lesson.learnable()
        auroc = macro_auroc(target[:, learnable], log_odds(logits, kind=kind).numpy()[:, learnable])
        loss = label_loss(logits, torch.from_numpy(self.lesson.targets[index]), kind=kind)
        self.log_dict({"val_loss": loss, "val_auroc": torch.tensor(auroc)})

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return index (B,) and score (B, K), the log-odds."""
        logits = self.classifier(batch["image"]).float()
        return {"index": batch["index"], "score": log_odds(logits, kind=self.lesson.task.kind)}

    def configure_optimizers(self) -> Any:
        """AdamW with betas (.9, .999) and layer-wise rates, warm-up and cosine to zero."""
        groups = layer_groups(
            self.classifier, depth=self.classifier.encoder.config.depth, decay=self.layer_decay,
            learning_rate=self.step.learning_rate, weight_decay=self.step.weight_decay,
        )  # fmt: skip
        return adamw_over_groups(
            self.trainer, groups, learning_rate=self.step.learning_rate, warmup_epochs=self.step.warmup_epochs
        )


def label_loss(
    logits: Float[Tensor, "B K"], labels: Float[Tensor, "B L"], *, kind: TaskKind, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Average the loss over known labels; unknown ones (NaN) add nothing. 0 where none is known.

    Args:
        logits: one per label, or one per class.
        labels: 0, 1 or NaN; for a multiclass task one column of class numbers or NaN.
        kind: of the task.
        smoothing: share of a label that is spread over all its values, [0, 1).
    """
    if kind != "multiclass":
        return known_label_loss(logits, labels * (1 - smoothing) + smoothing / 2)
    known = torch.isfinite(labels[:, 0])
    if not bool(known.any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], labels[known, 0].long(), label_smoothing=smoothing)


def log_odds(logits: Float[Tensor, "B K"], *, kind: TaskKind) -> Float[Tensor, "B K"]:
    """Return log(p / (1 - p)) of each output; higher = more positive."""
    if kind != "multiclass":
        return logits
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None, :].expand(-1, logits.shape[1], -1).masked_fill(own, float("-inf"))
    return logits - others.logsumexp(dim=-1)
