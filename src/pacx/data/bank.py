"""The teacher bank: what a frozen teacher says about every row of a store.

    BANK/
      embeddings.npy   float32 (N, D), row i belongs to store row i; zeros where the teacher had no input
      present.npy      bool (N,), whether the teacher had an input (an ECG, a blood sample) for that row
      image_ids.json   N image ids, in the order of the store
      meta.json        teacher, kind, dim, weights hash, preprocessing, store name and hash, pacx version; written last

Opened, the embeddings are a map of the file: what is never asked for is never in memory. Distillation and alignment
know teachers only through banks, so any number of teachers of any kind can be given, each with holes of its own, and
no teacher network is ever loaded beside the student.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.data.splits import uniform
from pacx.errors import PacxError
from pacx.runs import write_json

if TYPE_CHECKING:
    from pacx.data.store import Store

__all__ = ["BANK_FILES", "BANK_VERSION", "Bank", "has_length", "open_banks"]

BANK_VERSION = 1
BANK_FILES = ("embeddings.npy", "present.npy", "image_ids.json", "meta.json")
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, repr=False)
class Bank:
    """Embeddings of one teacher for all rows of one store."""

    embeddings: NDArray[np.float32]
    """(N, D), of an opened bank a read-only map; rows where `present` is False hold zeros and must not be used"""
    present: NDArray[np.bool_]
    """(N,)"""
    image_ids: tuple[str, ...]
    meta: dict[str, Any]
    """teacher (its name), kind ("ecg", "labs", ...), weights_hash, preprocessing, store: {name, hash}"""

    def __post_init__(self) -> None:
        rows = len(self.image_ids)
        if self.embeddings.ndim != 2 or len(self.embeddings) != rows or self.present.shape != (rows,):
            raise PacxError(
                f"A teacher bank needs one embedding per image: found {rows} image ids, embeddings of shape "
                f"{self.embeddings.shape} and {self.present.shape} presence flags."
            )
        usable = np.concatenate([has_length(block) for block in self.blocks()] or [np.empty(0, dtype=bool)])
        wrong = [self.image_ids[row] for row in np.flatnonzero(self.present)[~usable]]
        if wrong:
            raise PacxError(
                f"Teacher bank '{self.name}' holds {len(wrong)} embeddings that are not finite, or too large for "
                f"float32 to have a length: {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}. Mend them "
                "and make the bank again."
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __repr__(self) -> str:
        source = self.meta.get("store")
        store = source.get("name") if isinstance(source, dict) else None
        preprocessing = self.meta.get("preprocessing") or {}
        facts = {key: item for key, item in preprocessing.items() if not isinstance(item, list | dict)}
        lines = [
            f"Bank {self.name!r} (kind {self.meta.get('kind')}): {int(self.present.sum())} of {len(self)} rows, "
            f"dim {self.dim}, of store {store!r}",
            f"  weights {str(self.meta.get('weights_hash'))[:12]}, made by pacx {self.meta.get('pacx_version')}",
            f"  preprocessing {facts}",
        ]
        return "\n".join(lines)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings that are there, (b, D), in the order of the rows, some thousands at a time."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            yield np.asarray(self.embeddings[rows][self.present[rows]])

    def shape_of_cloud(self) -> dict[str, float | int | None]:
        """Say how the embeddings lie: a teacher that says nearly the same of everybody has little to teach.

        Returns:
            mean_cosine: the mean over all pairs of different rows; 0 = directions spread evenly, 1 = all the same.
            constant_dims: how many of the D numbers are the same in every row.
        """
        total, unit = 0, np.zeros(self.dim)
        low, high = np.full(self.dim, np.inf), np.full(self.dim, -np.inf)
        for block in self.blocks():
            length = np.linalg.norm(block, axis=1, keepdims=True)
            unit += np.sum(block / np.maximum(length, 1e-12), axis=0, dtype=np.float64)
            low, high = (
                np.minimum(low, block.min(axis=0, initial=np.inf)),
                np.maximum(high, block.max(axis=0, initial=-np.inf)),
            )
            total += len(block)
        # All pairs at once: |sum u|^2 = n + sum over pairs.
        cosine = (float(unit @ unit) - total) / (total * (total - 1)) if total > 1 else None
        return {"mean_cosine": cosine, "constant_dims": int(np.sum(high <= low))}

    @property
    def name(self) -> str:
        """Name of the teacher, by which results are reported."""
        return str(self.meta.get("teacher", "teacher"))

    @property
    def dim(self) -> int:
        """Width D of an embedding."""
        return int(self.embeddings.shape[1])

    @classmethod
    def open(cls, path: Path) -> Bank:
        """Open a bank folder; the embeddings stay on the disk.

        Raises:
            PacxError: the folder is absent, incomplete, damaged or of an unknown version.
        """
        path = Path(path)
        missing = [name for name in BANK_FILES if not (path / name).is_file()]
        if missing:
            raise PacxError(
                f"{path} is not a teacher bank: {', '.join(missing)} not found. Give the --out folder of `pacx bank`."
            )
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            image_ids = json.loads((path / "image_ids.json").read_text(encoding="utf-8"))
            embeddings = np.load(path / "embeddings.npy", mmap_mode="r", allow_pickle=False)
            present = np.load(path / "present.npy", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise PacxError(f"Teacher bank {path} cannot be read ({error}). Make it again with `pacx bank`.") from error
        _refuse_other_types(path, meta, image_ids, embeddings, present)
        if meta.get("bank_version") != BANK_VERSION:
            raise PacxError(
                f"Teacher bank {path} has version {meta.get('bank_version')}, this pacx reads {BANK_VERSION}. "
                "Make it again with `pacx bank`."
            )
        if embeddings.dtype != np.float32:  # of a bank that was written by other software
            with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
                embeddings = embeddings.astype(np.float32)
        return cls(embeddings, present.astype(bool), tuple(map(str, image_ids)), meta)

    def save(self, folder: Path) -> None:
        """Write the bank; `meta.json` comes last, so a half-written folder is not taken for a bank."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.json").unlink(missing_ok=True)  # of an older bank there
        np.save(folder / "embeddings.npy", np.where(self.present[:, None], self.embeddings, 0).astype(np.float32))
        np.save(folder / "present.npy", self.present)
        write_json(folder / "image_ids.json", self.image_ids)
        write_json(folder / "meta.json", {**self.meta, "bank_version": BANK_VERSION, "dim": self.dim})

    def check(self, store: Store) -> None:
        """Make sure that row i of the bank is row i of the store, with the content that the teacher saw.

        Raises:
            PacxError: other images, the same images in another order, or a store that was made anew since.
        """
        ids = tuple(map(str, store.manifest["image_id"]))
        if ids == self.image_ids:
            self._check_content(store)
            return
        shared = len(set(ids) & set(self.image_ids))
        raise PacxError(
            f"Teacher bank '{self.name}' was made from store {self.meta.get('store')} with {len(self)} images; store "
            f"'{store.name}' has {len(ids)} images, of which {shared} are in the bank. Rows must agree one by one: "
            "make the bank again from this store with `pacx bank`."
        )

    def _check_content(self, store: Store) -> None:
        source = self.meta.get("store")
        made_from = source.get("hash") if isinstance(source, dict) else None  # a bank from elsewhere names no store
        if made_from is not None and made_from != store.content_hash:
            raise PacxError(
                f"Teacher bank '{self.name}' was made from an earlier content of store '{store.name}': the ids agree, "
                "the content does not. Make the bank again with `pacx bank`."
            )

    def thinned(self, share: float, *, split: ArrayLike, patient: ArrayLike, seed: int) -> Bank:
        """Forget the embeddings of some patients in training and validation, as if they had never been measured.

        Who is kept depends on the seed, the teacher's name and the patient's id alone: teachers lose different
        patients, and whoever is kept at one share is kept at any larger one. The test split keeps everybody.

        Args:
            share: of the patients to keep, in (0, 1].
            split: (N,) split of each row.
            patient: (N,) patient of each row.
            seed: another seed keeps others.

        Raises:
            PacxError: the share is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise PacxError(f"A share of {share} of the teacher '{self.name}' makes no sense; give one in (0, 1].")
        people, of_row = np.unique(np.asarray(patient).astype(str), return_inverse=True)
        kept = np.array([uniform(f"keep:{seed}:{self.name}:{person}") < share for person in people])
        present = self.present & (kept[of_row] | (np.asarray(split).astype(str) == "test"))
        return replace(self, present=present, meta={**self.meta, "kept_share": share})

    def shuffled(self, split: ArrayLike, *, patient: ArrayLike, seed: int) -> Bank:
        """Deal the embeddings out anew among the rows that have one, within each split: the negative control.

        Every marginal distribution stays as it is; only the pairing of image and teacher is destroyed. The patients are
        put in random order, the rows of each side by side, and every row takes the embedding from as many rows before
        as the patient with most rows has. So no row gets one of its own patient, unless that one patient has more than
        half of all rows.

        Args:
            split: (N,) split of each row.
            patient: (N,) patient of each row.
            seed: seed of the permutation.
        """
        names = np.asarray(split).astype(str)
        _, people = np.unique(np.asarray(patient).astype(str), return_inverse=True)
        rng = np.random.Generator(np.random.PCG64(seed))
        embeddings = np.array(self.embeddings)
        for name in np.unique(names):
            rows = np.flatnonzero(self.present & (names == name))
            if not len(rows):
                continue
            place = rng.permutation(people.max() + 1)
            order = rows[np.argsort(place[people[rows]], kind="stable")]
            embeddings[order] = self.embeddings[np.roll(order, np.bincount(people[rows]).max())]
        return replace(self, embeddings=embeddings, meta={**self.meta, "shuffled_seed": seed})


def has_length(embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say of each row, (b,) of (b, D), whether its length is a number in float32: distillation divides by it.

    Numbers beyond 1e19 are finite themselves, and their squares are not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.isfinite(np.linalg.norm(embeddings, axis=1)))


def _refuse_other_types(
    path: Path, meta: object, image_ids: object, embeddings: NDArray[Any], present: NDArray[Any]
) -> None:
    """Look at what other software may have written in the files of a bank.

    Raises:
        PacxError: a file whose content is of another type; all that are wrong are named.
    """
    wrong = [
        f"{name} holds {found}, not {wanted}"
        for name, fits, found, wanted in (
            ("meta.json", isinstance(meta, dict), type(meta).__name__, "a JSON object"),
            ("image_ids.json", isinstance(image_ids, list), type(image_ids).__name__, "a list of ids"),
            # Complex numbers would lose a part of them without a word.
            ("embeddings.npy", embeddings.dtype.kind in "fiu", embeddings.dtype, "real numbers"),
            ("present.npy", present.dtype.kind in "biuf", present.dtype, "true and false"),
        )
        if not fits
    ]
    if wrong:
        raise PacxError(f"Teacher bank {path} cannot be used: {'; '.join(wrong)}. Make it again with `pacx bank`.")


def open_banks(paths: list[Path], store: Store) -> dict[str, Bank]:
    """Open the banks by teacher name and check each against the store.

    Raises:
        PacxError: no bank, two of one name, or one of another store.
    """
    if not paths:
        raise PacxError("No teacher bank was given. Give at least one: --banks BANK [BANK ...] (see `pacx bank`).")
    banks: dict[str, Bank] = {}
    for path in paths:
        bank = Bank.open(path)
        bank.check(store)
        if bank.name in banks:
            raise PacxError(
                f"Two banks are of a teacher called {bank.name!r} ({', '.join(map(str, paths))}). "
                "Make one of them again with another `pacx bank --name`."
            )
        banks[bank.name] = bank
    return banks
