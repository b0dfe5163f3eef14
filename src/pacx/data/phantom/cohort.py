"""The simulated cohort: patients, their visits and labels, written as a store or in a published set's form.

A patient has one to three visits; a visit has one X-ray, one ECG, one set of labs and one set of labels, all drawn from
the same latent state (`latents.py` has the causal graph) by streams of random numbers of their own.

Beside the store, `latents.parquet` keeps the true latent state and the acquisition of each image, for studies that need
the truth. No command reads it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pacx.data.labs import PANEL
from pacx.data.manifest import SPLITS, Manifest, split_patients
from pacx.data.phantom.anatomy import sample_acquisition
from pacx.data.phantom.blood import simulate_labs
from pacx.data.phantom.filling import Cohort, Visit, fill
from pacx.data.phantom.formats import Format, Simulated, check_format, write_format
from pacx.data.phantom.labels import TASKS, sample_labels
from pacx.data.phantom.latents import random_stream, sample_patient
from pacx.data.store import Store
from pacx.data.store_writer import StoreWriter
from pacx.errors import PacxError
from pacx.runs import open_run

__all__ = ["MASKS", "SPLIT_FRACTIONS", "TASKS", "num_visits", "sample_labels", "sample_patient", "simulate"]

MASKS = ("lung", "heart", "body")
SPLIT_FRACTIONS = (0.6, 0.1, 0.3)
_MAX_VISITS = 3
_COHORT = ".cohort"  # the store that another format is made of, until it is


def num_visits(index: int, *, seed: int, mean: float = 1.25) -> int:
    """Draw how many visits a patient has: 1 + Binomial(2, (mean - 1) / 2)."""
    p = (mean - 1.0) / (_MAX_VISITS - 1)
    return 1 + int(random_stream("visits", seed, index).binomial(_MAX_VISITS - 1, p))


def simulate(
    *,
    out: Path,
    patients: int = 3000,
    size: int = 224,
    seed: int = 0,
    images_per_patient: float = 1.25,
    ecg: bool = True,
    labs: bool = True,
    missing_ecg: float = 0.0,
    missing_labs: float = 0.0,
    format: Format = "store",  # noqa: A002 - the flag's name
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Simulate a cohort of chest X-rays with ECGs, labs and labels.

    The store depends on the arguments but not on the number of workers. An interrupted run goes on when it is started
    again with the same arguments.

    Example:
        pacx simulate --patients 3000 --size 224 --out runs/simulate

    Args:
        out: folder to make.
        patients: number of patients.
        size: edge of the square images in pixels.
        seed: another seed gives another cohort.
        images_per_patient: mean number of images per patient, between 1 and 3.
        ecg: simulate 12-lead ECGs.
        labs: simulate the 50 laboratory values.
        missing_ecg: share of the rows without an ECG, at random.
        missing_labs: share of the rows without any laboratory value, at random.
        format: what to write: a store, or a miniature of a public data set with its folders, file names, columns and
            types, for `pacx prepare` of that name. In symile-mimic X-rays have 320 px, made from `size`, and a row
            takes 1.5 MB.
        workers: processes; by default one per available core.
        overwrite: replace a finished store or release in `out`.

    Returns:
        The result, also in `result.json`: name, num_images, num_patients, splits, rejects, tasks.

    Raises:
        PacxError: an argument is out of range, `out` is not usable, or the disk is full.
    """
    config = {key: value for key, value in locals().items() if key not in {"out", "overwrite"}}
    _check(config)
    cohort = Cohort(size=size, seed=seed, ecg=ecg)
    visits = _visits(patients, seed=seed, mean=images_per_patient, missing_ecg=missing_ecg, missing_labs=missing_labs)
    out = Path(out)
    manifest, truth = _describe(visits, seed=seed, labs=labs)
    check_format(format, config=config, manifest=manifest, out=out)
    with open_run(out, command="simulate", config=config, overwrite=overwrite) as run:
        folder = out if format == "store" else out / _COHORT
        # A store without result.json was finished by a run that was stopped right after: only the rest is to do.
        if not _is_finished(folder, fingerprint=_fingerprint(config)):
            writer = StoreWriter(
                folder,
                name="phantom",
                num_rows=len(visits),
                image_size=size,
                mask_names=MASKS,
                ecg=ecg,
                fingerprint=_fingerprint(config),
            )
            fill(writer, cohort, [visits[row] for row in writer.todo()], total=len(visits), workers=workers)
            writer.finish(manifest, source={"command": "simulate", **config})
        truth.to_parquet(run.artefact("latents", "latents.parquet"), index=False)
        run.artefact("store" if format == "store" else "release", ".")
        sheet = run.figure("contact_sheet.png", caption="The first simulated X-rays of the cohort, one per patient.")
        _contact_sheet(folder, manifest.table).save(sheet)
        if format != "store":
            write_format(format, Simulated(Store.open(folder), truth, seed), out)
            shutil.rmtree(folder)
        return run.finish(_summary(manifest))


def _is_finished(out: Path, *, fingerprint: str) -> bool:
    return (out / "meta.json").is_file() and Store.open(out).meta.get("fingerprint") == fingerprint


def _check(config: dict[str, Any]) -> None:
    limits = {
        "patients": (1, 10_000_000),
        "size": (32, 4096),
        "seed": (0, 2**63),
        "images_per_patient": (1, _MAX_VISITS),
        "missing_ecg": (0, 1),
        "missing_labs": (0, 1),
    }
    for name, (low, high) in limits.items():
        if not low <= config[name] <= high:
            raise PacxError(f"--{name} {config[name]} is out of range. Give a value from {low} to {high}.")
    if config["workers"] is not None and config["workers"] < 1:
        raise PacxError(f"--workers {config['workers']} cannot work. Give 1 or more, or leave it out for one per core.")


def _fingerprint(config: dict[str, Any]) -> str:
    """What the rows depend on; neither the number of workers nor the format is among it."""
    from pacx import __version__

    rows = {key: config[key] for key in sorted(config) if key not in {"workers", "format"}}
    return json.dumps({"pacx": __version__, **rows})


def _visits(patients: int, *, seed: int, mean: float, missing_ecg: float, missing_labs: float) -> list[Visit]:
    keys = [
        (patient, number) for patient in range(patients) for number in range(num_visits(patient, seed=seed, mean=mean))
    ]
    visits = []
    for row, key in enumerate(keys):
        u = random_stream("missing", seed, *key).uniform(size=2)
        visits.append(Visit(row, *key, ecg=bool(u[0] >= missing_ecg), labs=bool(u[1] >= missing_labs)))
    return visits


def _describe(visits: Sequence[Visit], *, seed: int, labs: bool) -> tuple[Manifest, pd.DataFrame]:
    """Make the manifest, and the table of true latents and acquisitions."""
    rows, truth, blood = [], [], []
    for visit in visits:
        key = (seed, visit.patient, visit.number)
        patient = sample_patient(visit.patient, seed=seed, visit=visit.number)
        acquisition = sample_acquisition(patient, random_stream("acquisition", *key))
        image_id = f"{patient.patient_id}-{visit.number}"
        seen = {
            "image_id": image_id,
            "patient_id": patient.patient_id,
            "study_id": image_id,
            "view": acquisition.view,
            "age": float(np.floor(patient.age)),
            "sex": patient.sex,
        }
        rows.append(seen | sample_labels(patient, random_stream("labels", *key)))
        settings = {f"acquisition_{name}": value for name, value in asdict(acquisition).items()}
        truth.append({"image_id": image_id, "visit": visit.number, **asdict(patient), **settings})
        if labs:
            measured = simulate_labs(patient, random_stream("labs", *key)) if visit.labs else {}
            blood.append({lab.name: measured.get(lab.name, np.nan) for lab in PANEL})
    table = pd.DataFrame(rows)
    table.insert(6, "split", split_patients(table, fractions=SPLIT_FRACTIONS, seed=seed))
    manifest = Manifest(
        name="phantom",
        table=table,
        tasks=TASKS,
        labs=pd.DataFrame(blood, index=pd.Index(table["image_id"], name="image_id")) if labs else None,
        lab_units={lab.name: lab.unit for lab in PANEL} if labs else {},
        license="Apache-2.0 (made by pacx)",
        patients_of=f"phantom:{seed}",  # who a patient is depends on the number and the seed alone
        about=f"Simulated chest X-rays with ECG, labs and labels from one latent physiology (seed {seed}).",
    )
    return manifest, pd.DataFrame(truth)


def _summary(manifest: Manifest) -> dict[str, Any]:
    table = manifest.table
    counts = {
        name: {
            label: {
                "positives": int((table[label] == 1).sum()),
                "negatives": int((table[label] == 0).sum()),
                "unknown": int(table[label].isna().sum()),
            }
            for label in task.labels
        }
        for name, task in manifest.tasks.items()
    }
    return {
        "name": manifest.name,
        "num_images": len(table),
        "num_patients": int(table["patient_id"].nunique()),
        "splits": {split: int((table["split"] == split).sum()) for split in SPLITS},
        "rejects": 0,
        "tasks": counts,
    }


def _contact_sheet(store: Path, table: pd.DataFrame, *, columns: int = 6, rows: int = 3) -> Image.Image:
    """Tile the first images, one per patient."""
    images = np.load(store / "images.npy", mmap_mode="r")
    first = np.flatnonzero(~table["patient_id"].duplicated().to_numpy())[: columns * rows]
    size = images.shape[1]
    sheet: NDArray[np.uint8] = np.zeros((size * -(-len(first) // columns), size * columns), dtype=np.uint8)
    for place, row in enumerate(first):
        top, left = place // columns * size, place % columns * size
        sheet[top : top + size, left : left + size] = images[row]
    return Image.fromarray(sheet)
