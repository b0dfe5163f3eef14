"""Ask a frozen teacher about every row of a store, once, and keep the answers; or take answers that others gave.

Distillation needs only the answers: the teacher network, its preprocessing and its raw input are done with here.
Rows without the modality are holes, marked as such and never filled in. See `pacx.data.bank` for the folder.

A run that was killed goes on with the batch that it was at, and ends with the same numbers to the last bit: batches are
cut in the same way, and each is computed by itself. A few batches are in memory at a time, whatever the store's size.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from pacx import __version__
from pacx.data.bank import Bank, has_length
from pacx.data.bank_changes import with_mean_cosine, with_noise
from pacx.data.bank_import import import_bank
from pacx.data.bank_writer import BankWriter
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.heads import check_teacher_name
from pacx.models.patients import save_patients
from pacx.runs import open_run
from pacx.stages.checkpoints import Resume
from pacx.stages.teachers import Teacher, choose_device, open_teacher, patients_of_teacher

__all__ = ["bank", "fill_bank"]

log = logging.getLogger("pacx")

_MUCH_ALIKE = 0.95


def bank(
    *,
    store: Path,
    teacher: Path | None = None,
    embeddings: list[Path] | None = None,
    ids: list[str] | None = None,
    match: Literal["image_id", "study_id", "patient_id"] = "image_id",
    ignore_unknown: bool = False,
    like: Path | None = None,
    noise: float = 0.0,
    mean_cosine: float | None = None,
    seed: int = 0,
    name: str | None = None,
    kind: str | None = None,
    batch_size: int = 32,
    device: str = "auto",
    workers: int | None = None,
    resume: Resume = "auto",
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embed a store with a frozen teacher, or take embeddings from files or from another bank.

    Args:
        store: the store with the teacher's modality (ECGs, labs), or with the images that embeddings belong to.
        teacher: run folder of `fit-ecg` or `fit-labs`, or ECGFounder's checkpoint file.
        embeddings: in place of a teacher: .npy or .parquet files of embeddings, one after the other.
        ids: of embeddings: a column of the parquet files, files of ids (.npy, .txt, .csv, .parquet; as many as of
            embeddings), or "order" if row i belongs to row i of the store; the column named by --match if not given.
        match: of embeddings: what the ids are; one of a patient goes to all of the patient's rows.
        ignore_unknown: of embeddings: leave out ids that the store does not have.
        like: in place of a teacher: another bank of the store, to be made worse on purpose, for studies.
        noise: with like: normal noise to add, in standard deviations of each number.
        mean_cosine: with like: how alike two embeddings shall be on average, in [0, 1); differences stay as they are.
        seed: with like: of the noise.
        name: the teacher's name in distillation and reports; its kind (ecg, labs) if not given.
        kind: of embeddings: the modality; the name if not given.
        batch_size: rows per forward pass.
        device: where the teacher computes: cpu, cuda, mps, or auto.
        workers: processes that prepare the teacher's input, and on a CPU the network's threads; one per processor if
            not given.
        resume: auto = go on with an unfinished bank of the same teacher, store and settings, else start anew; true = go
            on or say what differs; false = start anew.
        out: the run folder to write, which is also the bank.
        overwrite: replace a finished run in `out`.

    Example:
        pacx bank --store stores/pairs --teacher runs/fit-ecg --out runs/bank-ecg
    """
    arguments = dict(locals())
    _check_arguments(arguments)
    cohort = Store.open(store)
    if teacher is not None:
        expert = open_teacher(teacher, name=name, device=choose_device(device), workers=workers)
    with open_run(out, command="bank", config=arguments, overwrite=overwrite) as run:
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash)
        target = run.artefact("bank", ".")
        counts: dict[str, int] = {}
        if teacher is not None:
            run.read("teacher", path=teacher, hash=expert.weights_hash)
            answers = fill_bank(cohort, expert, target, batch_size=batch_size, resume=resume)
        elif like is not None:
            answers = _change(cohort, like, target, noise=noise, mean_cosine=mean_cosine, name=name, seed=seed)
            run.read("bank", path=like, teacher=answers.name, weights_hash=answers.meta.get("weights_hash"))
        else:
            answers, counts = import_bank(
                cohort, embeddings or [], target, name=name or "", kind=kind, ids=ids, match=match,
                ignore_unknown=ignore_unknown,
            )  # fmt: skip
            run.read("embeddings", files=answers.meta["source"], hash=answers.meta["weights_hash"])
        save_patients(None if teacher is None else patients_of_teacher(teacher), target)
        judged = _judged(answers)
        return run.finish(
            {
                "teacher": answers.name,
                "kind": answers.meta["kind"],
                "num_rows": len(answers),
                "num_present": int(answers.present.sum()),
                "dim": answers.dim,
                **counts,
                **judged,
            }
        )


def fill_bank(store: Store, teacher: Teacher, folder: Path, *, batch_size: int = 32, resume: Resume = "auto") -> Bank:
    """Embed every row that has the teacher's modality, into a folder.

    Args:
        store: what to embed.
        teacher: by which.
        folder: the bank's folder; an unfinished bank of the same teacher, store and batch size in it is continued.
        batch_size: rows per forward pass.
        resume: as in `pacx.data.bank_writer.BankWriter`.

    Raises:
        PacxError: no row has the modality, the teacher gives numbers that are not finite, or `resume` is true and there
            is nothing to go on with.
    """
    present = teacher.present(store)
    rows = np.flatnonzero(present)
    if not len(rows):
        raise PacxError(
            f"No row of store {store.name} has an input for the teacher {teacher.name!r} (kind {teacher.kind}). "
            "Choose a store with this modality, or another teacher."
        )
    image_ids = list(map(str, store.manifest["image_id"]))
    plan = {
        "teacher": teacher.name,
        "kind": teacher.kind,
        "weights_hash": teacher.weights_hash,
        "preprocessing": teacher.preprocessing,
        "store": {"name": store.name, "hash": store.content_hash},
        "num_rows": len(store),
        "num_present": len(rows),
        "dim": teacher.dim,
        "batch_size": batch_size,
        "pacx_version": __version__,
    }
    writer = BankWriter(folder, plan, resume=resume)
    try:
        if not writer.complete:
            with tqdm(total=len(rows), initial=writer.done, desc="bank", unit="row", disable=None) as bar:
                for part in teacher.stream(store, rows[writer.done :], batch_size=batch_size):
                    at = rows[writer.done : writer.done + len(part)]
                    _refuse_not_finite(part, [image_ids[row] for row in at], teacher)
                    writer.write(at, part)
                    bar.update(len(part))
            writer.finish(present, image_ids, {})
    finally:
        writer.close()
    return Bank.open(folder)


def _change(
    store: Store, source: Path, folder: Path, *, noise: float, mean_cosine: float | None, name: str | None, seed: int
) -> Bank:
    """Write a changed copy of a bank: first what it says of everybody, then the noise."""
    answers = Bank.open(source)
    answers.check(store)
    if mean_cosine is not None:
        answers = with_mean_cosine(answers, mean_cosine)
    answers = with_noise(answers, noise, seed=seed)
    replace(answers, meta={**answers.meta, "teacher": name or answers.name}).save(folder)
    return Bank.open(folder)


def _refuse_not_finite(part: np.ndarray[Any, Any], image_ids: list[str], teacher: Teacher) -> None:
    wrong = [image_ids[row] for row in np.flatnonzero(~has_length(part))]
    if wrong:
        raise PacxError(
            f"The teacher {teacher.name!r} gives numbers that are not finite for {', '.join(wrong[:5])}, or too large "
            "for float32 to have a length. Look at the raw input of these rows, and at the teacher's training."
        )


def _judged(answers: Bank) -> dict[str, Any]:
    """Say what the bank is and how its embeddings lie; warn of a teacher that tells patients hardly apart."""
    found = answers.shape_of_cloud()
    cosine = "unknown, of fewer than two" if found["mean_cosine"] is None else f"{found['mean_cosine']:.3f}"
    log.info("%r\n  mean cosine between rows %s", answers, cosine)
    if (found["mean_cosine"] or 0) > _MUCH_ALIKE:
        log.warning(
            "bank: the embeddings of %r point nearly the same way for everybody (mean cosine %.3f); centring them "
            "(minus the mean over the training rows) gives distillation more to tell apart.",
            answers.name, found["mean_cosine"],
        )  # fmt: skip
    if found["constant_dims"]:
        log.warning("bank: %d of %d numbers are the same for everybody", found["constant_dims"], answers.dim)
    return found


def _check_arguments(given: dict[str, Any]) -> None:
    sources = [flag for flag in ("teacher", "embeddings", "like") if given[flag]]
    if len(sources) != 1:
        found = " and ".join(f"--{flag}" for flag in sources) or "none of them"
        raise PacxError(
            f"A bank is made with --teacher, from --embeddings or --like another bank; found {found}. Give one."
        )
    if given["like"] is None and (given["noise"] or given["mean_cosine"] is not None):
        raise PacxError("--noise and --mean-cosine change a bank that exists: name it with --like.")
    if given["embeddings"] and not given["name"]:
        raise PacxError("Embeddings from files need a name for reports: --name ppg.")
    if given["name"] is not None:
        check_teacher_name(str(given["name"]))
    foreign = [flag for flag in ("ids", "kind", "ignore_unknown") if given[flag]]
    if not given["embeddings"] and (foreign or given["match"] != "image_id"):
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in foreign or ["match"])
        raise PacxError(f"{flags} belongs to --embeddings; else the rows are the store's own. Leave it out.")
    for flag in ("batch_size", "workers"):
        if given[flag] is not None and given[flag] < 1:
            raise PacxError(f"--{flag.replace('_', '-')} is {given[flag]}; it must be 1 or more.")
