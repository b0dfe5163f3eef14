"""What a finished distillation is worth, and what it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning as L
import torch

from pacx import __version__
from pacx.data.bank import Bank
from pacx.data.store import Store
from pacx.models.encoder import Encoder, save_encoder, weights_hash
from pacx.models.patients import SeenPatients
from pacx.models.student import Student
from pacx.models.weights import save_tensors
from pacx.runs import RunFolder, write_json
from pacx.stages.distillation import Distillation
from pacx.stages.pairing import Paired, join, search
from pacx.stages.provenance import training_data
from pacx.stages.run import predict
from pacx.statistics import bootstrap_mean

__all__ = ["judge", "keep_student", "sizes"]


def judge(
    trainer: L.Trainer,
    module: Distillation,
    true: Mapping[str, Bank],
    store: Store,
    *,
    watched: Any | None,
    judged: tuple[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Measure the kept student: on validation as it was trained, and on unseen rows against the true banks.

    Args:
        trainer: what computes.
        module: holds the student, with the banks that it was taught by.
        true: the banks before anything was shuffled or forgotten.
        store: whose rows these are.
        watched: loader of the validation rows, if there are any.
        judged: the split to judge on, and its loader.
        seed: of the bootstrap.
    """
    split, loader = judged
    measured = module.measure(join(predict(trainer, module, loader if watched is None else watched)))
    module.banks = true
    made = join(predict(trainer, module, loader))
    patient = store.manifest["patient_id"].to_numpy(dtype=str)[made["index"].numpy()]
    teachers = {}
    for name, terms in made["teachers"].items():
        pair = Paired(**terms)
        cosine = torch.cosine_similarity(pair.predicted, pair.embedding, dim=-1)[pair.present].double().numpy()
        teachers[name] = {
            **search(made["shared"], pair, patient, seed=seed),
            "regression_cosine": bootstrap_mean(cosine, patient[pair.present.numpy()], seed=seed),
        }
    return {
        "val_loss": float("nan") if watched is None else measured["loss"],
        "anchor_distance": measured.get("anchor", float("nan")),
        "temperature": 1 / float(module.student.scale().detach()),
        "positive_cosine": _mean([measured[f"positive_cosine/{name}"] for name in true]),
        "negative_cosine": _mean([measured[f"negative_cosine/{name}"] for name in true]),
        "embedding_spread": measured["spread"],
        "retrieval_split": split,
        "teachers": teachers,
    }


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def sizes(student: Student) -> dict[str, int]:
    """Count parameters: all, those that were trained, and those of them that stay."""
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    in_encoder = [parameter for parameter in student.encoder.parameters() if parameter.requires_grad]
    return {
        "trainable_parameters": sum(parameter.numel() for parameter in learned),
        "trainable_encoder_parameters": sum(parameter.numel() for parameter in in_encoder),
        "total_parameters": sum(parameter.numel() for parameter in student.parameters()),
    }


def keep_student(
    run: RunFolder,
    student: Student,
    base: Encoder,
    banks: Mapping[str, Bank],
    store: Store,
    arguments: Mapping[str, Any],
    *,
    seen: SeenPatients,
) -> None:
    """Write the merged encoder with those whom it has `seen`, the adapter, and the heads."""
    merged = student.merged_encoder()
    merged.patients = seen
    facts = [
        {key: bank.meta.get(key) for key in ("teacher", "kind", "weights_hash", "preprocessing", "store")}
        for bank in banks.values()
    ]
    provenance = {
        "method": f"distillation from {', '.join(banks)} ({arguments['adaptation']}), {arguments['epochs']} epochs",
        "parent": {"hash": weights_hash(base), "provenance": base.config.provenance},
        "teachers": facts,
        "shuffled_teachers": arguments["shuffle_teachers"],
        "data": training_data(store),
        "pacx_version": __version__,
    }
    merged.config = replace(merged.config, provenance=json.loads(json.dumps(provenance)))
    save_encoder(merged, run.artefact("encoder", "encoder"))
    if arguments["adaptation"] == "lora":
        student.save_adapter(run.artefact("adapter", "adapter"))
    heads = {key: value for key, value in student.state_dict().items() if not key.startswith(("encoder.", "base."))}
    save_tensors(heads, run.artefact("heads", "heads.safetensors"))
    write_json(
        run.path / "heads.json",
        {
            "shared_width": arguments["shared_width"],
            "standardise": arguments["standardise"],
            "teachers": {name: bank.dim for name, bank in banks.items()},
            "encoder_hash": weights_hash(merged),
            "banks": facts,
        },
    )
