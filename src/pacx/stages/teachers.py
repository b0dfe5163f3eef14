"""Frozen teachers: one way to open any of them, and one way to ask them about a store.

A teacher says for which rows it has an input (`present`), and embeds those. A row without the modality is a hole: it is
not embedded as zeros or means, and asking for it is an error. Each teacher brings its own preprocessing, the one it was
trained with, so a bank cannot be made with another.

Another modality joins by writing a class with these members and adding its kind to `open_teacher`; or, without any
code, by bringing its embeddings as a bank.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pacx.data.ecg import RATE
from pacx.data.ecg_recipe import RECIPE, check_recipe, prepare_ecgs
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.ecg_weights import load_ecg_net, load_ecgfounder
from pacx.models.ecgfounder import EcgNet
from pacx.models.labs_autoencoder import REFERENCE_FILE, LabsAutoencoder, load_labs_autoencoder
from pacx.models.weights import CONFIG_FILE, read_config, weights_hash

__all__ = ["EcgTeacher", "LabsTeacher", "Teacher", "open_teacher"]

log = logging.getLogger("pacx")

Embeddings = NDArray[np.float32]


class Teacher(Protocol):
    """A frozen network that embeds one modality of a store."""

    name: str
    """by which results are reported"""
    kind: str
    """the modality"""
    dim: int
    """length of an embedding"""
    weights_hash: str
    preprocessing: dict[str, Any]
    """what is done to the raw modality first"""

    def present(self, store: Store) -> NDArray[np.bool_]:
        """Return for each row (N,) whether there is an input."""

    def embed(self, store: Store, rows: NDArray[np.int64], *, batch_size: int = 64) -> Embeddings:
        """Embed rows that are present, (len(rows), dim)."""


class EcgTeacher:
    """The 12-lead ECG network; its embedding is the mean over time of the last stage."""

    kind = "ecg"

    def __init__(
        self, net: EcgNet, *, preprocessing: dict[str, Any], name: str = "ecg", workers: int | None = None
    ) -> None:
        check_recipe(preprocessing["recipe"], rate=preprocessing["rate"])
        self.net = net.eval()
        self.name = name
        self.dim = net.config.dim
        self.weights_hash = weights_hash(net)
        self.preprocessing = dict(preprocessing)
        self.workers = workers

    def present(self, store: Store) -> NDArray[np.bool_]:
        """Return for each row whether the store has an ECG."""
        return store.manifest["has_ecg"].to_numpy(dtype=bool)

    def embed(self, store: Store, rows: NDArray[np.int64], *, batch_size: int = 64) -> Embeddings:
        """Filter and embed ECGs; filtering runs in processes of its own."""
        _refuse_holes(self, store, rows)
        batches = prepare_ecgs(
            store.path / "ecg.npy",
            rows,
            version=self.preprocessing["recipe"],
            rate=self.preprocessing["rate"],
            batch_size=batch_size,
            workers=self.workers,
        )
        device = _device_of(self.net)
        embeddings = np.empty((len(rows), self.dim), dtype=np.float32)
        done = 0
        with torch.inference_mode():
            for batch in batches:
                embeddings[done : done + len(batch)] = (
                    self.net.features(torch.from_numpy(batch).to(device)).cpu().numpy()
                )
                done += len(batch)
        return embeddings


class LabsTeacher:
    """The labs autoencoder with the reference distribution that it was trained with."""

    kind = "labs"

    def __init__(
        self, net: LabsAutoencoder, reference: LabReference, *, preprocessing: dict[str, Any], name: str = "labs"
    ) -> None:
        if len(reference) != net.num_labs:
            raise PacxError(
                f"The reference distribution has {len(reference)} labs, the network {net.num_labs}. "
                "Fit the teacher again with `pacx fit-labs`."
            )
        self.net = net.eval()
        self.reference = reference
        self.name = name
        self.dim = net.dim
        self.weights_hash = weights_hash(net)
        self.preprocessing = dict(preprocessing)
        self._compared: set[Path] = set()

    def present(self, store: Store) -> NDArray[np.bool_]:
        """Return for each row whether any lab of the reference was measured."""
        if store.labs is None:
            return np.zeros(len(store), dtype=bool)
        self._compare(store)
        _, observed = self.reference.transform(store.labs, ignore=True)
        return np.asarray(observed.any(axis=1))

    def embed(self, store: Store, rows: NDArray[np.int64], *, batch_size: int = 64) -> Embeddings:
        """Embed lab values; labs that the store lacks count as unobserved."""
        _refuse_holes(self, store, rows)
        if store.labs is None or not len(rows):
            return np.empty((0, self.dim), dtype=np.float32)
        percentiles, observed = self.reference.transform(store.labs.iloc[rows], ignore=True)
        device = _device_of(self.net)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                chunk = slice(start, start + batch_size)
                x, mask = torch.from_numpy(percentiles[chunk]), torch.from_numpy(observed[chunk])
                parts.append(self.net.encode(x.to(device), mask.to(device)).cpu().numpy())
        return np.concatenate(parts)

    def _compare(self, store: Store) -> None:
        """Note which labs differ from the reference's; refuse another unit, which would shift every percentile."""
        if store.labs is None or store.path in self._compared:
            return
        self._compared.add(store.path)
        known, there = set(self.reference.labs), set(map(str, store.labs.columns))
        if there - known:
            log.info(
                "%s: labs that the teacher does not know are ignored: %s", self.name, ", ".join(sorted(there - known))
            )
        if known - there:
            log.info(
                "%s: labs that the store lacks count as unobserved: %s", self.name, ", ".join(sorted(known - there))
            )
        for lab in sorted(known & there):
            expected, found = self.reference.units[lab], store.lab_units.get(lab, "")
            if expected and found and expected.casefold() != found.casefold():
                raise PacxError(
                    f"Lab {lab!r} is in {found} in store {store.name!r}, but the teacher was fitted in {expected}. "
                    "Convert the store's values, or fit a teacher on it."
                )


def open_teacher(path: Path, *, name: str | None = None, device: str = "cpu", workers: int | None = None) -> Teacher:
    """Open a frozen teacher.

    Args:
        path: the run folder of `fit-ecg` or `fit-labs`, the teacher folder in it, or ECGFounder's .pth checkpoint.
        name: by which results are reported; the kind of the teacher if not given.
        device: where the network computes, as PyTorch names it.
        workers: processes that prepare the input; one per processor if not given.

    Raises:
        PacxError: no teacher there, one of an unknown kind, or one that is damaged.
    """
    path = Path(path)
    if path.is_file():
        founder = load_ecgfounder(path).to(device)
        preprocessing = {"recipe": RECIPE, "rate": RATE}
        return EcgTeacher(founder, preprocessing=preprocessing, name=name or "ecgfounder", workers=workers)
    folder = path / "teacher" if (path / "teacher" / CONFIG_FILE).is_file() else path
    if not (folder / CONFIG_FILE).is_file():
        raise PacxError(
            f"{path} is not a teacher. Give the --out folder of `pacx fit-ecg` or `pacx fit-labs`, "
            "or the file 12_lead_ECGFounder.pth."
        )
    kind = read_config(folder).get("kind")
    if kind == "ecg":
        net, config = load_ecg_net(folder)
        return EcgTeacher(net.to(device), preprocessing=config["preprocessing"], name=name or "ecg", workers=workers)
    if kind == "labs":
        autoencoder, config = load_labs_autoencoder(folder)
        reference = LabReference.load(folder / REFERENCE_FILE)
        return LabsTeacher(
            autoencoder.to(device), reference, preprocessing=config["preprocessing"], name=name or "labs"
        )
    raise PacxError(f"{folder} holds a model of kind {kind!r}; teachers are of kind 'ecg' or 'labs'.")


def _refuse_holes(teacher: Teacher, store: Store, rows: NDArray[np.int64]) -> None:
    if not teacher.present(store)[rows].all():
        raise PacxError(
            f"Some of the rows to embed have no input for the teacher {teacher.name!r}; ask `present` first."
        )


def _device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
