# ruff: noqa: F722
"""The regression heads that distillation kept: what an X-ray says of each teacher's embedding.

    RUN/heads.safetensors   regressors.NAME.*, standardisers.NAME.{mean,forward_map,backward_map}, and projections
    RUN/heads.json          lengths of the teachers' embeddings, hash of the encoder, where the banks came from

* A head was trained on a cosine, so it gives a direction and no length. `scale` finds the one length that brings known
  embeddings nearest, by least squares: c = sum(<u_i, z_i>) / n, with u_i the predicted unit vectors and z_i the
  standardised embeddings.
* Heads fit one encoder only, the merged one of their run; its hash is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.encoder import Encoder
from pacx.models.heads import projection_head
from pacx.models.standardise import Standardiser
from pacx.models.weights import audit, fill, read_config, weights_hash

__all__ = ["KeptHeads", "TeacherHead", "open_heads"]

HEADS_FILE, FACTS_FILE = "heads.safetensors", "heads.json"


@dataclass(frozen=True)
class TeacherHead:
    """One teacher's regression head."""

    name: str
    regressor: nn.Module
    standardiser: Standardiser
    facts: Mapping[str, Any]
    """the bank that it learned from: teacher, kind, weights_hash, preprocessing, store"""

    @torch.inference_mode()
    def direction(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        """Predict the standardised embedding's direction, unit rows, from class tokens after the final norm."""
        return F.normalize(self.regressor(features).float(), dim=-1)

    @torch.inference_mode()
    def scale(self, direction: Float[Tensor, "N E"], embedding: Float[Tensor, "N E"]) -> float:
        """Return the length c that minimises |c u - z|^2 over rows whose embeddings (not standardised) are known.

        It is not positive where the head says less than nothing of these rows.
        """
        return float((direction * self.standardiser(embedding)).sum(dim=-1).mean())

    @torch.inference_mode()
    def embedding(self, direction: Float[Tensor, "N E"], *, length: float) -> Float[Tensor, "N E"]:
        """Return the teacher's embeddings, standardisation undone, that lie at this length in these directions."""
        return self.standardiser.inverse(length * direction)


@dataclass(frozen=True)
class KeptHeads:
    """All heads of a distillation run, by teacher."""

    heads: Mapping[str, TeacherHead]
    encoder_hash: str
    path: Path

    def check(self, encoder: Encoder) -> None:
        """Make sure that the heads were trained on this encoder.

        Raises:
            PacxError: they were not, and would read nonsense off it.
        """
        if weights_hash(encoder) != self.encoder_hash:
            raise PacxError(
                f"The heads in {self.path} belong to another encoder than the one in {self.path / 'encoder'}. Give the "
                "--out folder of `pacx distill` as it was written."
            )

    def of(self, *, weights: str, what: str) -> TeacherHead:
        """Return the head that learned from the teacher with these weights.

        Args:
            weights: hash of the teacher's weights.
            what: how the teacher is called in the error.

        Raises:
            PacxError: none did.
        """
        for head in self.heads.values():
            if head.facts.get("weights_hash") == weights:
                return head
        known = ", ".join(f"{name} ({str(head.facts.get('weights_hash'))[:12]})" for name, head in self.heads.items())
        raise PacxError(
            f"No head in {self.path} learned from {what} (weights {weights[:12]}). Its teachers are: {known}. Give the "
            "teacher whose bank was distilled."
        )


def open_heads(run: Path) -> KeptHeads:
    """Open the heads of a distillation run, in evaluation mode.

    Args:
        run: the --out folder of `pacx distill`.

    Raises:
        PacxError: there are none, or the two files do not fit together.
    """
    run = Path(run)
    if not (run / HEADS_FILE).is_file() or not (run / FACTS_FILE).is_file():
        raise PacxError(
            f"{run} holds no heads ({HEADS_FILE}, {FACTS_FILE}). Give the --out folder of a finished `pacx distill`."
        )
    facts = read_config(run, name=FACTS_FILE)
    try:
        tensors = load_file(run / HEADS_FILE)
        teachers = {str(name): int(dim) for name, dim in facts["teachers"].items()}
        encoder_hash = str(facts["encoder_hash"])
    except (SafetensorError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise PacxError(f"The heads in {run} cannot be read ({error}). Distil again.") from error
    banks = {str(bank.get("teacher")): bank for bank in facts.get("banks") or []}
    heads = {name: _head(name, dim, tensors, banks.get(name, {}), run=run) for name, dim in teachers.items()}
    return KeptHeads(heads, encoder_hash, run)


def _head(name: str, dim: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, run: Path) -> TeacherHead:
    own = _below(f"regressors.{name}.", tensors)
    width = next((weight.shape[1] for weight in own.values() if weight.ndim == 2), 1)
    regressor = projection_head(width, dim, dropout=0.0)
    _fill(regressor, own, what=f"The regression head of {name} in {run}")
    standardiser = Standardiser(dim)
    fitted = _below(f"standardisers.{name}.", tensors)
    if fitted:  # runs from before there were standardisers compared with embeddings as they are: the identity
        _fill(standardiser, fitted, what=f"The standardiser of {name} in {run}")
    return TeacherHead(name, regressor.eval(), standardiser.eval(), facts)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    audit(tensors, module.state_dict(), what=f"{what} does not fit its {FACTS_FILE}", advice="Distil again.")
    fill(module, tensors)
