"""One step of distillation, and what is measured on the way; `pacx.stages.distill` is the command."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pacx.data.bank import Bank
from pacx.models.student import Student
from pacx.objectives import TeacherTerms, distillation_loss, gather_rows, joint_distillation_loss
from pacx.stages.pairing import COLLAPSED, Paired, cosines, hits, join, spread
from pacx.stages.run import LossGuard, adamw_with_warmup

__all__ = ["Distillation"]

log = logging.getLogger("pacx")


class Distillation(L.LightningModule):
    """One step of distillation.

    Args:
        student: adapted encoder and heads.
        banks: what each teacher says, by name.
        image_ids: the store's ids by row, to name images whose loss is not finite.
        patient: (N,) a number for each row's patient, so that a patient's rows are no negatives; None = they are.
        contrastive_weight: weight of the contrastive term.
        regression_weight: weight of the regression term.
        anchor_weight: weight of the distance of patch tokens to the base encoder's; the student must be anchored.
        teacher_weights: of the teachers within both terms; 1 where none is given.
        label_smoothing: of the contrastive term.
        learning_rate: peak learning rate.
        weight_decay: decay of matrices.
        warmup_epochs: linear warm-up, in epochs.
    """

    def __init__(
        self,
        student: Student,
        banks: Mapping[str, Bank],
        *,
        image_ids: list[str],
        patient: NDArray[Any] | None = None,
        contrastive_weight: float,
        regression_weight: float,
        anchor_weight: float = 0.0,
        teacher_weights: Mapping[str, float] | None = None,
        label_smoothing: float,
        learning_rate: float,
        weight_decay: float,
        warmup_epochs: float,
    ) -> None:
        super().__init__()
        self.student = student
        self.banks = banks
        self.guard = LossGuard(image_ids)
        self.patient = patient
        self.weights = {
            "contrastive_weight": contrastive_weight,
            "regression_weight": regression_weight,
            "anchor_weight": anchor_weight,
            "teacher_weights": dict(teacher_weights or {}),
            "label_smoothing": label_smoothing,
        }
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self._seen: list[dict[str, Any]] = []
        self._warned = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compare images with their teachers; the guard sees to losses that are not finite."""
        made = self.forward(batch)
        parts = self.loss(made)
        if self.guard.accepts(parts["loss"], batch["index"]):
            named = {f"train_{key}": value for key, value in parts.items()}
            self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(batch["index"]), sync_dist=True)
        skipped = float(self.guard.skipped)
        self.log("skipped_steps", skipped, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)
        return parts["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep what the student makes of the batch; the loss needs the whole split."""
        self._seen.append(self.forward(batch))

    def on_validation_epoch_end(self) -> None:
        """Measure the whole validation split at once, on every process, each row counted once."""
        loader: Any = self.trainer.val_dataloaders
        made = _of_all_processes(join(self._seen), num_rows=loader.sampler.num_rows)
        self._seen = []
        found = self.measure(made)
        self.log_dict({f"val_{key}": value for key, value in found.items()}, sync_dist=True)
        if found["spread"] < COLLAPSED and not self._warned and not self.trainer.sanity_checking:
            self._warned = True
            log.warning("distill: all validation images have nearly the same embedding (spread %.4f).", found["spread"])
        self.log("temperature", 1 / self.student.scale().detach(), sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Return what the student and the teachers make of the batch."""
        return self.forward(batch)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Run student and projections over a batch.

        Returns:
            index (B,), shared (B, S), teachers {name: {projected, predicted, embedding, present}}, and where they are
            wanted patient (B,) and distance (B,).
        """
        output = self.student(batch["image"])
        rows = batch["index"].cpu().numpy()
        teachers = {}
        for name, bank in self.banks.items():
            present = bank.present[rows]
            said = np.where(present[:, None], bank.embeddings[rows], np.float32(0))  # a hole may hold anything
            embedding = self.student.standardisers[name](torch.from_numpy(said).to(self.device))
            teachers[name] = {
                "projected": self.student.project_teacher(name, embedding),
                "predicted": output["regression"][name],
                "embedding": embedding,
                "present": torch.from_numpy(present).to(self.device),
            }
        made = {"index": batch["index"], "shared": output["shared"], "teachers": teachers}
        if self.patient is not None:
            made["patient"] = torch.from_numpy(self.patient[rows]).to(self.device)
        if output["distance"] is not None:
            made["distance"] = output["distance"]
        return made

    def loss(self, made: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the objective over what `forward` made here and on the other processes, in full precision.

        Half of it would round the logits, which a small temperature makes large, and move the gradient by a percent.
        """
        with torch.autocast(self.device.type, enabled=False):
            return distillation_loss(*self._terms(made), **self._settings(made))

    @torch.no_grad()
    def measure(self, made: dict[str, Any]) -> dict[str, float]:
        """Return loss and its parts, cosines, retrieval and spread over a whole split, all of which is here."""
        found = {
            key: float(value)
            for key, value in joint_distillation_loss(*self._terms(made), **self._settings(made)).items()
        }
        if not {"contrastive", "regression"} & found.keys():
            found["loss"] = float("nan")  # nothing was measured, which is not the same as a perfect score
        for name, terms in made["teachers"].items():
            pair = Paired(**terms)
            numbers = cosines(made["shared"], pair.projected, pair.present)
            numbers |= hits(made["shared"], pair.projected, pair.present)
            found |= {f"{key}/{name}": value for key, value in numbers.items()}
        return {**found, "spread": spread(made["shared"])}

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up, cosine to 1 %; the temperature, norms and biases are not decayed."""
        return adamw_with_warmup(
            self.trainer,
            self.student,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            floor=0.01,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen: it is in the base encoder's folder already."""
        frozen = self._frozen()
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what is frozen."""
        frozen = self._frozen()
        checkpoint["state_dict"] |= {key: value for key, value in self.state_dict().items() if key in frozen}

    def _terms(self, made: dict[str, Any]) -> tuple[Tensor, dict[str, TeacherTerms]]:
        teachers = {
            name: TeacherTerms(**{key: one if key == "present" else one.float() for key, one in terms.items()})
            for name, terms in made["teachers"].items()
        }
        return made["shared"].float(), teachers

    def _settings(self, made: dict[str, Any]) -> dict[str, Any]:
        distance = made.get("distance")
        given = {"patient": made.get("patient"), "anchor": None if distance is None else distance.float()}
        return {"scale": self.student.scale(), **self.weights, **given}

    def _frozen(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}


def _of_all_processes(made: dict[str, Any], *, num_rows: int) -> dict[str, Any]:
    """Put the shares of all processes together in the order of the rows, without those that came twice.

    `pacx.data.batches.EpochSampler` deals the rows out in turn: row i is the process's i mod (number of processes).
    """
    return {
        key: _of_all_processes(value, num_rows=num_rows) if isinstance(value, dict) else _in_turn(value)[:num_rows]
        for key, value in made.items()
    }


def _in_turn(share: Tensor) -> Tensor:
    joined = gather_rows(share)
    by_process = joined.reshape(-1, *share.shape)
    return by_process.transpose(0, 1).reshape(joined.shape)
