"""Leave out the patients and images of a list, such as `pacx data audit` writes.

The list is a CSV with the columns namespace, patient_id, store, image_id, reason. A row names a patient of a namespace
(all its images go) or one image of a store; what is empty is not looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pacx.data.manifest import Manifest
from pacx.errors import PacxError

__all__ = ["COLUMNS", "exclude_listed"]

log = logging.getLogger("pacx")

COLUMNS = ("namespace", "patient_id", "store", "image_id", "reason")


def exclude_listed(manifest: Manifest, lists: Sequence[Path]) -> None:
    """Drop the rows of a manifest that are on one of the lists, and say how many.

    Raises:
        PacxError: a list cannot be read, or nothing would remain.
    """
    table = manifest.table
    out = pd.Series(False, index=table.index)
    for path in lists:
        listed = _read(path)
        # As with seen patients: where one of the two names no namespace, equal ids count as equal patients.
        ours = listed["namespace"].isin(["", manifest.patients_of]) | (manifest.patients_of == "")
        patients = set(listed.loc[ours & (listed["patient_id"] != ""), "patient_id"])
        images = set(listed.loc[(listed["store"] == manifest.name) & (listed["image_id"] != ""), "image_id"])
        here = table["patient_id"].astype(str).isin(patients) | table["image_id"].astype(str).isin(images)
        log.info("%s: %d of %d rows are on the list %s and left out", manifest.name, here.sum(), len(table), path.name)
        out |= here
    if out.all():
        raise PacxError(f"All {len(table)} rows of {manifest.name} are on the lists given with --exclude.")
    manifest.table = table[~out].reset_index(drop=True)
    if manifest.labs is not None:
        manifest.labs = manifest.labs[manifest.labs.index.isin(manifest.table["image_id"])]


def _read(path: Path) -> pd.DataFrame:
    try:
        listed = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise PacxError(f"--exclude {path} cannot be read as a table ({' '.join(str(error).split())}).") from error
    missing = [column for column in COLUMNS[:-1] if column not in listed]
    if missing:
        raise PacxError(
            f"--exclude {path} has no column {', '.join(missing)}; a list of exclusions has {', '.join(COLUMNS)}, as "
            "`pacx data audit` writes it."
        )
    return listed
