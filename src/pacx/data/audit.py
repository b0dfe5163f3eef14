"""The `data audit` command: what stores share that a test must not share with a training.

* **Patients** and **studies** by their ids, within a namespace (`patients_of`): equal names share patients, different
  names do not; where one of two stores names none, equal ids count as equal patients (docs/leaks.md).
* **Images**: equal byte for byte, or copies (`pacx.data.near_duplicates`).

Counted are pairs of splits, within a store and between stores. What joins a train or val row to a test row is a leak;
the list of exclusions holds the rows whose removal ends all leaks: those of training, or with `--keep train` those of
test. Ids are pseudonyms of people: they are in the files of the run folder, not in the log.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pacx.data.manifest import SPLITS
from pacx.data.near_duplicates import FINE, Copy, find_copies, fingerprints, joined
from pacx.data.sources.exclusion import COLUMNS
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.runs import RunFolder, open_run

__all__ = ["audit"]

log = logging.getLogger("pacx")


def audit(
    stores: list[Path],
    *,
    out: Path,
    images: bool = True,
    similarity: float = FINE,
    keep: Literal["test", "train"] = "test",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Find patients, studies and images that stores share, and list what to leave out so that no test leaks.

    Example:
        pacx data audit stores/symile stores/medmod stores/cxl-seg --out runs/audit

    Args:
        stores: one store, or several.
        out: the run folder to make: shared.csv (counts), patients.csv, pairs.csv (copies of images), and
            exclusions.csv for `pacx prepare --exclude`.
        images: compare images too; without, only ids.
        similarity: correlation of their details from which on two images count as copies.
        keep: which side of a leak stays: test loses nothing and training does, or the other way about.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of result.json. Its results: clean, num_leaking_patients, num_leaking_images, num_copies,
        num_exclusions, shared (counts by pair of stores and splits).

    Raises:
        PacxError: a path is no store, two stores have one name, or the similarity is not in (0, 1].
    """
    config = {**locals()}
    if not 0 < similarity <= 1:
        raise PacxError(f"--similarity {similarity:g} is no correlation to ask for; give one in (0, 1], as {FINE}.")
    opened = [Store.open(path) for path in stores]
    names = [store.name for store in opened]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PacxError(
            f"Several stores are called {', '.join(twice)} and cannot be told apart. Give one of each name."
        )
    with open_run(out, command="data audit", config=config, overwrite=overwrite) as run:
        for store in opened:
            run.read(f"store {store.name}", **store.identity())
        rows = pd.concat([_rows(store) for store in opened], ignore_index=True)
        copies = _copies(opened, rows, similarity) if images else pd.DataFrame(columns=_PAIR_COLUMNS)
        return run.finish(_findings(run, rows, copies, names, keep=keep))


def _rows(store: Store) -> pd.DataFrame:
    """One row per row of the store: what can be shared."""
    table = store.manifest
    study = table["study_id"] if "study_id" in table else pd.Series(pd.NA, index=table.index)
    return pd.DataFrame(
        {
            "store": store.name,
            "namespace": store.patients_of,
            "split": table["split"].astype(str),
            "patient_id": table["patient_id"].astype(str),
            "study_id": study.astype("string"),
            "image_id": table["image_id"].astype(str),
            "has_image": table["has_image"],
        }
    )


_PAIR_COLUMNS = (
    "store_a", "image_a", "split_a", "store_b", "image_b", "split_b", "kind", "correlation", "mirrored", "same_patient",
)  # fmt: skip


def _copies(stores: Sequence[Store], rows: pd.DataFrame, similarity: float) -> pd.DataFrame:
    """Compare all images; one line per pair of copies."""
    with_image = [np.flatnonzero(store.manifest["has_image"]) for store in stores]
    parts = [fingerprints(store, own) for store, own in zip(stores, with_image, strict=True) if len(own)]
    if not parts:
        return pd.DataFrame(columns=_PAIR_COLUMNS)
    places = rows.index[rows["has_image"]].to_numpy()
    digests = [
        hashlib.sha256(np.asarray(store.images[row]).tobytes()).digest()
        for store, own in zip(stores, with_image, strict=True)
        for row in own
        if store.images is not None
    ]
    lines = [_line(rows, places, digests, copy) for copy in find_copies(joined(parts), fine=similarity)]
    return pd.DataFrame(lines, columns=_PAIR_COLUMNS)


def _line(rows: pd.DataFrame, places: np.ndarray[Any, Any], digests: Sequence[bytes], copy: Copy) -> tuple[Any, ...]:
    a, b = rows.loc[places[copy.first]], rows.loc[places[copy.second]]
    kind = "equal" if digests[copy.first] == digests[copy.second] else "copy"
    same = a["patient_id"] == b["patient_id"] and _share_names(a["namespace"], b["namespace"])
    ends = [one[key] for one in (a, b) for key in ("store", "image_id", "split")]
    return (*ends, kind, round(copy.correlation, 4), copy.mirrored, bool(same))


def _share_names(a: str, b: str) -> bool:
    return a == b or not a or not b


def _findings(
    run: RunFolder, rows: pd.DataFrame, copies: pd.DataFrame, names: Sequence[str], *, keep: Literal["test", "train"]
) -> dict[str, Any]:
    shared = pd.DataFrame([line for pair in _pairs(names) for line in _shared(rows, copies, *pair)])
    patients = pd.concat([_leaking_patients(rows, *pair) for pair in _pairs(names)], ignore_index=True)
    leaks = copies[_is_leak(copies["split_a"], copies["split_b"])]
    exclusions = _exclusions(rows, patients, leaks, keep=keep)
    for name, table in (("shared", shared), ("patients", patients), ("pairs", copies), ("exclusions", exclusions)):
        table.to_csv(run.artefact(name, f"{name}.csv"), index=False)
    if len(shared):
        for line in shared.to_dict("records"):
            log.info(
                "audit: %(store_a)s/%(split_a)s and %(store_b)s/%(split_b)s share %(patients)d patients, "
                "%(studies)d studies, %(copies)d images",
                line,
            )
    clean = not len(patients) and not len(leaks)
    verdict = "no test shares a patient or an image with a training" if clean else "exclusions.csv ends the leaks"
    log.info("audit: %d rows of %d stores: %s", len(rows), len(names), verdict)
    return {
        "clean": clean,
        "num_leaking_patients": int(patients["patient_id"].nunique()) if len(patients) else 0,
        "num_leaking_images": len(leaks),
        "num_copies": len(copies),
        "num_exclusions": len(exclusions),
        "shared": shared.to_dict("records"),
    }


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from combinations_with_replacement(names, 2)


def _is_leak(a: pd.Series, b: pd.Series) -> pd.Series:
    return (a == "test") != (b == "test")


def _shared(rows: pd.DataFrame, copies: pd.DataFrame, name_a: str, name_b: str) -> Iterator[dict[str, Any]]:
    """Count what each pair of splits of two stores shares; pairs that share nothing are left out."""
    a, b = rows[rows["store"] == name_a], rows[rows["store"] == name_b]
    named = _share_names(a["namespace"].iloc[0], b["namespace"].iloc[0])
    pair = copies[(copies["store_a"] == name_a) & (copies["store_b"] == name_b)]
    for split_a in SPLITS:
        for split_b in SPLITS:
            if name_a == name_b and SPLITS.index(split_a) >= SPLITS.index(split_b):
                continue  # within a store: each pair of its splits once
            own_a, own_b = a[a["split"] == split_a], b[b["split"] == split_b]
            between = (pair["split_a"] == split_a) & (pair["split_b"] == split_b)
            if name_a == name_b:
                between |= (pair["split_a"] == split_b) & (pair["split_b"] == split_a)
            counts = {
                "patients": len(set(own_a["patient_id"]) & set(own_b["patient_id"])) if named else 0,
                "studies": len(set(own_a["study_id"].dropna()) & set(own_b["study_id"].dropna())) if named else 0,
                "copies": int(between.sum()),
            }
            if any(counts.values()):
                yield {"store_a": name_a, "split_a": split_a, "store_b": name_b, "split_b": split_b, **counts}


def _leaking_patients(rows: pd.DataFrame, name_a: str, name_b: str) -> pd.DataFrame:
    """List the patients who test in one place and train or validate in another."""
    a, b = rows[rows["store"] == name_a], rows[rows["store"] == name_b]
    found = []
    if _share_names(a["namespace"].iloc[0], b["namespace"].iloc[0]):
        for test, train in ((a, b), (b, a)) if name_a != name_b else ((a, a),):
            tested = set(test.loc[test["split"] == "test", "patient_id"])
            others = train[(train["split"] != "test") & train["patient_id"].isin(tested)]
            listed = others[["namespace", "patient_id", "store"]].drop_duplicates()
            found.append(listed.rename(columns={"store": "trains"}).assign(tests=test["store"].iloc[0]))
    columns = ["namespace", "patient_id", "trains", "tests"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _exclusions(
    rows: pd.DataFrame, patients: pd.DataFrame, leaks: pd.DataFrame, *, keep: Literal["test", "train"]
) -> pd.DataFrame:
    """List the images whose removal ends all leaks: one line per image of the side that loses."""
    loses = rows["split"] != "test" if keep == "test" else rows["split"] == "test"
    side = "trains" if keep == "test" else "tests"
    by_patient = rows[loses].merge(
        patients[["patient_id", side]].drop_duplicates(),
        left_on=["patient_id", "store"],
        right_on=["patient_id", side],
    )
    reasons = [by_patient.assign(reason="its patient tests" if keep == "test" else "its patient trains")]
    for end in ("a", "b"):
        images = leaks[[f"store_{end}", f"image_{end}"]].set_axis(["store", "image_id"], axis=1)
        own = rows[loses].merge(images.drop_duplicates(), on=["store", "image_id"])
        reasons.append(own.assign(reason=f"a copy of it {'tests' if keep == 'test' else 'trains'}"))
    listed = pd.concat(reasons, ignore_index=True).drop_duplicates(["store", "image_id"])
    # Named by image: the same patient may stay in a store where he is on the side that keeps.
    return listed.assign(patient_id="", namespace=listed["namespace"])[list(COLUMNS)]
