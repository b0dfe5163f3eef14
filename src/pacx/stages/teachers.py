"""Frozen teachers: one way to open any of them, and one way to ask them about a store.

A teacher says for which rows it has an input (`present`), and embeds those. A row without the modality is a hole: it is
not embedded as zeros or means, and asking for it is an error. Each teacher brings its own preprocessing, the one it was
trained with, so a bank cannot be made with another.

A store may be large: a teacher gives its embeddings batch by batch, in the order of the rows, and holds a few batches
of input at a time. On a CPU the ECG teacher works in threads of its own (`pacx.models.ecg_inference`) beside the
processes that filter the next records. Everything is computed in float32.

Another modality joins without any code, by bringing its embeddings (`pacx bank --embeddings`); or by writing a class
with these members and adding its kind to `open_teacher`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pacx.data.ecg import RATE
from pacx.data.ecg.recipe import RECIPE, check_recipe, prepare_ecgs
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.data.workers import available_cores
from pacx.errors import PacxError
from pacx.models.ecg_inference import fast_features, side_by_side
from pacx.models.ecg_weights import load_ecg_net, load_ecgfounder
from pacx.models.ecgfounder import EcgNet
from pacx.models.labs_autoencoder import REFERENCE_FILE, LabsAutoencoder, load_labs_autoencoder
from pacx.models.patients import SeenPatients, load_patients
from pacx.models.weights import CONFIG_FILE, read_config, weights_hash

__all__ = ["EcgTeacher", "LabsTeacher", "Teacher", "choose_device", "open_teacher", "patients_of_teacher"]

log = logging.getLogger("pacx")

Embeddings = NDArray[np.float32]

_LAB_ROWS = 4096
"""rows of a lab table that are turned into percentiles at a time"""


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

    def stream(self, store: Store, rows: NDArray[np.int64], *, batch_size: int) -> Iterator[Embeddings]:
        """Yield the embeddings of rows that are present, (b, dim), in order; b = `batch_size` but for the last."""


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

    def stream(self, store: Store, rows: NDArray[np.int64], *, batch_size: int) -> Iterator[Embeddings]:
        """Filter and embed ECGs; filtering runs in processes of its own, ahead of the network."""
        if not self.present(store)[rows].all():
            raise _hole(self)
        batches = prepare_ecgs(
            store.path / "ecg.npy",
            rows,
            version=self.preprocessing["recipe"],
            rate=self.preprocessing["rate"],
            batch_size=batch_size,
            workers=self.workers,
        )
        if _device_of(self.net).type != "cpu":
            yield from map(self._features, batches)
            return
        threads = min(self.workers or available_cores(), -(-len(rows) // batch_size) or 1)
        yield from side_by_side(self._features, batches, threads=threads)

    def embed(self, store: Store, rows: NDArray[np.int64], *, batch_size: int = 32) -> Embeddings:
        """Embed rows that are present, (len(rows), dim)."""
        return _together(self, store, rows, batch_size)

    @torch.inference_mode()
    def _features(self, batch: NDArray[np.float32]) -> Embeddings:
        return fast_features(self.net, torch.from_numpy(batch).to(_device_of(self.net))).cpu().numpy()


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
        # Another reference gives other percentiles, and so other embeddings with the same weights.
        digest = hashlib.sha256(json.dumps(reference.to_dict(), sort_keys=True).encode()).hexdigest()
        self.preprocessing = {**preprocessing, "reference_hash": digest}
        self._compared: set[Path] = set()

    def present(self, store: Store) -> NDArray[np.bool_]:
        """Return for each row whether any lab of the reference was measured."""
        if store.labs is None:
            return np.zeros(len(store), dtype=bool)
        self._compare(store)
        seen = [
            self.reference.transform(store.labs.iloc[start : start + _LAB_ROWS], ignore=True)[1].any(axis=1)
            for start in range(0, len(store), _LAB_ROWS)
        ]
        return np.concatenate(seen)

    def stream(self, store: Store, rows: NDArray[np.int64], *, batch_size: int) -> Iterator[Embeddings]:
        """Embed lab values; labs that the store lacks count as unobserved."""
        # One computing thread: several would wait for each other longer than these layers take.
        yield from side_by_side(self._encode, self._batches(store, rows, batch_size), threads=1)

    def _batches(
        self, store: Store, rows: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        block = batch_size * max(1, _LAB_ROWS // batch_size)
        for start in range(0, len(rows), block):
            if store.labs is None:
                raise _hole(self)
            part = store.labs.iloc[rows[start : start + block]]
            percentiles, observed = self.reference.transform(part, ignore=True)
            if not observed.any(axis=1).all():
                raise _hole(self)
            for first in range(0, len(part), batch_size):
                chunk = slice(first, first + batch_size)
                yield percentiles[chunk], observed[chunk]

    def embed(self, store: Store, rows: NDArray[np.int64], *, batch_size: int = 32) -> Embeddings:
        """Embed rows that are present, (len(rows), dim)."""
        return _together(self, store, rows, batch_size)

    @torch.inference_mode()
    def _encode(self, batch: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Embeddings:
        x, mask = (torch.from_numpy(part).to(_device_of(self.net)) for part in batch)
        return self.net.encode(x, mask).cpu().numpy()

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
        PacxError: nothing or no teacher there, one of an unknown kind, one that is damaged, or a device that is not
            there.
    """
    path = Path(path)
    _check_device(device)
    if path.is_file():
        founder = load_ecgfounder(path).to(device)
        preprocessing = {"recipe": RECIPE, "rate": RATE}
        return EcgTeacher(founder, preprocessing=preprocessing, name=name or "ecgfounder", workers=workers)
    if not path.exists():
        raise PacxError(
            f"{path} does not exist. A teacher is the --out folder of `pacx fit-ecg` or `pacx fit-labs`, or "
            "ECGFounder's checkpoint (Hugging Face, PKUDigitalHealth/ECGFounder)."
        )
    folder = _folder(path)
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


def patients_of_teacher(path: Path) -> SeenPatients | None:
    """Return whom the teacher that `open_teacher` would open was trained on; None if that is not known."""
    return load_patients(_folder(Path(path)))


def choose_device(device: str) -> str:
    """Return a device as PyTorch names it; "auto" is an accelerator where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _folder(path: Path) -> Path:
    return path / "teacher" if (path / "teacher" / CONFIG_FILE).is_file() else path


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch that was built without CUDA
        raise PacxError(
            f"There is no device {device!r} here ({str(error).splitlines()[0]}). Use cpu, cuda, cuda:N, mps or auto."
        ) from error


def _hole(teacher: Teacher) -> PacxError:
    return PacxError(f"Some of the rows to embed have no input for the teacher {teacher.name!r}; ask `present` first.")


def _together(teacher: Teacher, store: Store, rows: NDArray[np.int64], batch_size: int) -> Embeddings:
    parts = list(teacher.stream(store, rows, batch_size=batch_size))
    return np.concatenate(parts) if parts else np.empty((0, teacher.dim), dtype=np.float32)


def _device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
