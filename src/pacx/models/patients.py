"""Which patients a network has learned from, written down beside its weights without their ids.

    FOLDER/patients.safetensors
      "0", "1", ...   uint64, sorted: one fingerprint per patient of one part of one training
      metadata        `parts`: what each array stands for; `unknown`: what the network learned from beside them

A test on patients that the network was trained on measures memory. With this file the commands that judge an encoder
can refuse such a test (`pacx.frozen.seen`); without it they say that it could not be checked.

* A fingerprint is the first 8 bytes of SHA-256 over the patient's id, as a number. Two of a million patients share one
  with a probability of 3e-8.
* Ids of different data sets are no common namespace: patient 17 of one hospital is not patient 17 of another. Each part
  says whose ids its are (`patients_of`); "" means that nobody said, and then an overlap is looked for.
* Whoever validated counts too: validation rows choose epochs.
* **These are pseudonyms, no anonymous data.** Ids that can be guessed (eight digits, as MIMIC's) can be tried one by
  one, which tells who took part. Delete the file before weights are passed on if ids are sensitive; nothing else is
  lost.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pacx.errors import PacxError

__all__ = ["PATIENTS_FILE", "Part", "SeenPatients", "fingerprints", "load_patients", "save_patients"]

PATIENTS_FILE = "patients.safetensors"

_FORMAT = "pacx-patients-1"

Fingerprints = NDArray[np.uint64]


class Part(NamedTuple):
    """The patients of one split that took part in one training."""

    stage: str
    """the command that trained: pretrain, distill, fit-ecg, ..."""
    split: str
    """train: learned from; val: chose the epoch or watched"""
    store: str
    """name of the store"""
    patients_of: str
    """whose ids: mimic, chexpert, ...; "" if nobody said"""
    patients: Fingerprints
    """(n,) sorted"""

    def has(self, patients: Fingerprints, *, patients_of: str) -> NDArray[np.bool_]:
        """Say which of some patients (n,) are among these; nobody is if the ids are of another namespace."""
        another = bool(self.patients_of and patients_of and self.patients_of != patients_of)
        if another or not len(self.patients):
            return np.zeros(len(patients), dtype=bool)
        place = np.searchsorted(self.patients, patients)  # sorted already; np.isin would sort a million anew
        return np.asarray(self.patients[np.minimum(place, len(self.patients) - 1)] == patients)


@dataclass(frozen=True)
class SeenPatients:
    """Everybody that a network has learned from, as far as it is known. Empty: it has seen nobody."""

    parts: tuple[Part, ...] = ()
    unknown: tuple[str, ...] = ()
    """what it learned from without a record of the patients, in words"""

    def joined(self, *others: SeenPatients) -> SeenPatients:
        """Return who any of several networks has seen; what is there twice is kept once."""
        parts, unknown = list(self.parts), [*self.unknown]
        for other in others:
            unknown += other.unknown
            parts += [part for part in other.parts if not any(_same(part, known) for known in parts)]
        return SeenPatients(tuple(parts), tuple(dict.fromkeys(unknown)))

    def having(self, ids: ArrayLike, *, stage: str, split: str, store: str, patients_of: str) -> SeenPatients:
        """Return the same with the patients of a split added; `ids` may repeat and may be none."""
        found = np.unique(fingerprints(ids))
        return self.joined(SeenPatients((Part(stage, split, store, patients_of, found),))) if len(found) else self

    def of_stage(self, stage: str, *, split: str) -> SeenPatients:
        """Return those alone who took part in trainings of one kind, in one split."""
        kept = tuple(part for part in self.parts if part.stage == stage and part.split == split)
        return replace(self, parts=kept)

    def has(self, ids: ArrayLike, *, patients_of: str) -> NDArray[np.bool_]:
        """Say which of some patients (n,) it has seen."""
        asked = fingerprints(ids)
        found = np.zeros(len(asked), dtype=bool)
        for part in self.parts:
            found |= part.has(asked, patients_of=patients_of)
        return found


def fingerprints(ids: ArrayLike) -> Fingerprints:
    """Return a number per id (n,), the same on every machine; see the module."""
    texts, back = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
    numbers = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts.tolist()]
    return np.array(numbers, dtype=np.uint64)[back.reshape(-1)]


def save_patients(seen: SeenPatients | None, folder: Path) -> None:
    """Write the file into a model folder; if nobody knows whom the network has seen, leave none there."""
    path = Path(folder) / PATIENTS_FILE
    if seen is None:
        path.unlink(missing_ok=True)
        return
    parts = [{key: item for key, item in part._asdict().items() if key != "patients"} for part in seen.parts]
    arrays = {str(number): part.patients for number, part in enumerate(seen.parts)}
    facts = {"format": _FORMAT, "parts": json.dumps(parts), "unknown": json.dumps(seen.unknown)}
    save_file(arrays, path, metadata=facts)
    path.chmod(0o644)  # safetensors makes private files


def load_patients(folder: Path) -> SeenPatients | None:
    """Read the file of a model folder; None if there is none, as in folders of older versions and of others.

    Raises:
        PacxError: the file is damaged or of another version.
    """
    path = Path(folder) / PATIENTS_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, str] = file.metadata() or {}
            if facts.get("format") != _FORMAT:
                raise PacxError(f"{path} has format {facts.get('format')!r}, this pacx reads {_FORMAT!r}. {_ADVICE}")
            parts = [
                Part(**about, patients=_checked(file.get_tensor(str(number))))
                for number, about in enumerate(json.loads(facts["parts"]))
            ]
            return SeenPatients(tuple(parts), tuple(json.loads(facts["unknown"])))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PacxError(f"{path} cannot be read ({error}). {_ADVICE}") from error


_ADVICE = (
    "Copy the model folder again, or delete this file: then nobody can check whether the network has seen a patient."
)


def _checked(numbers: Any) -> Fingerprints:
    if not (isinstance(numbers, np.ndarray) and numbers.dtype == np.uint64 and numbers.ndim == 1):
        raise ValueError("an array is not a list of uint64")
    if (numbers[1:] <= numbers[:-1]).any():
        raise ValueError("an array is not sorted")
    return numbers


def _same(a: Part, b: Part) -> bool:
    return a[:4] == b[:4] and np.array_equal(a.patients, b.patients)
