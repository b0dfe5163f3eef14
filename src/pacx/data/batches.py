"""Batches from a store: the same ones on any number of workers.

* An item is asked for by (epoch, position). The epoch is part of the question because it decides the augmentation,
  and because a loader's worker processes would not see an epoch that was set on the data set later.
* `EpochSampler` orders the positions by (seed, epoch). Under distributed training it deals them out to the processes
  itself; pass `use_distributed_sampler=False` to Lightning's Trainer, or Lightning would replace it. Lightning calls
  its `set_epoch`. A run that goes on inside an epoch has it `skip` what was trained on.
* A loader asks for the order when its first batch is wanted, not before: Lightning makes the iterator of a resumed run
  before it knows the epoch, and processes that read ahead would read those of epoch 0.
* A batch is read with one index into the memory map, then cropped, resized and normalised as a whole; rarer changes
  go image by image (see `pacx.data.augment`).

A batch is a dict: `image` float32 (B, C, S, S) normalised; `index` int64 (B,), the store row; and, when asked for,
`label` float32 (B, L) with NaN = unknown, `mask` float32 (B, 1, S, S) of 0 and 1, `ecg` float32 (B, 12, 5000) in mV
with NaN rows where absent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pacx.data.augment import Augment, change, draw
from pacx.data.manifest import Task
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.preprocess import Preprocess

__all__ = ["Augment", "Batch", "EpochSampler", "Item", "StoreDataset", "check_geometry", "make_loader"]

Batch = dict[str, Tensor]
Item = tuple[int, int]
"""(epoch, position among the data set's rows)"""


class StoreDataset(Dataset[Batch]):
    """Some rows of a store, as normalised images and what goes with them.

    Args:
        store: where the rows are.
        rows: store rows, in the order that positions count.
        preprocess: size and normalisation of the encoder that gets the images; None for batches without images.
        augment: random changes to the images.
        seed: seeds the changes, together with the epoch and the image id.
        task: adds `label`.
        mask: the name of a mask; adds `mask`.
        ecg: adds `ecg`.

    Raises:
        PacxError: the store lacks what is asked for, or its images were made square in another way than the encoder
            expects.
    """

    def __init__(
        self,
        store: Store,
        rows: npt.ArrayLike,
        *,
        preprocess: Preprocess | None,
        augment: Augment,
        seed: int = 0,
        task: Task | None = None,
        mask: str | None = None,
        ecg: bool = False,
    ) -> None:
        self.store = store
        self.rows = np.asarray(rows, dtype=np.int64)
        self.preprocess = preprocess
        self.augment = augment
        self.seed = seed
        self.mask = mask
        self.ecg = ecg
        self._check()
        self._image_id = store.manifest["image_id"].astype(str).to_numpy()
        self._label = None if task is None else torch.from_numpy(store.targets(task))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Item) -> Batch:
        """Return one sample: a batch of one without its first dimension."""
        return {key: value[0] for key, value in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Return a whole batch; the loader calls this once per batch."""
        epochs, positions = zip(*items, strict=True)
        rows = self.rows[list(positions)]
        batch = {"index": torch.from_numpy(rows)}
        if self.preprocess is not None:
            batch |= self._images(rows, epochs, self.preprocess)
        if self._label is not None:
            batch["label"] = self._label[rows]
        if self.ecg and self.store.ecg is not None:
            batch["ecg"] = torch.from_numpy(self.store.ecg[rows].astype(np.float32))
        return batch

    def _images(self, rows: npt.NDArray[np.int64], epochs: Sequence[int], preprocess: Preprocess) -> Batch:
        assert self.store.images is not None
        pixels = torch.from_numpy(self.store.images[rows])
        masks = None if self.mask is None else torch.from_numpy(self.store.mask(self.mask, rows))
        images, truths = change(
            pixels,
            masks,
            size=preprocess.image_size,
            mean=preprocess.mean,
            std=preprocess.std,
            augment=self.augment,
            drawn=draw(seed=self.seed, epochs=epochs, image_ids=self._image_id[rows].tolist()),
        )
        return {"image": images} if truths is None else {"image": images, "mask": truths}

    def _check(self) -> None:
        store = self.store
        if self.ecg and store.ecg is None:
            raise PacxError(f"The store {store.name!r} ({store.path}) holds no ECGs. Choose a store with ECGs.")
        if self.mask is not None:
            store.mask(self.mask, [])
        if self.preprocess is not None:
            check_geometry(store, self.preprocess)


def check_geometry(store: Store, preprocess: Preprocess) -> None:
    """Refuse images that were made square in another way than the encoder expects, or that are not there.

    Raises:
        PacxError: either of them.
    """
    made = store.preprocess().geometry
    if made != preprocess.geometry:
        raise PacxError(
            f"The images of {store.name!r} were made square by {made!r}, the encoder expects "
            f"{preprocess.geometry!r}. Prepare the store again with --geometry {preprocess.geometry}, "
            f"or, if the encoder comes from elsewhere, let `pacx convert --geometry {made}` state it."
        )


class EpochSampler(Sampler[Item]):
    """Yield (epoch, position) in an order that depends on (seed, epoch) only.

    In distributed training every process gets an equal share of that order; the order is wrapped around to make it
    divisible, as torch's `DistributedSampler` does, so a few positions may come twice: fewer than there are processes.

    Attributes:
        skip: how many of this process's items the next iteration leaves out, that one only.
    """

    def __init__(self, num_rows: int, *, shuffle: bool, seed: int = 0) -> None:
        self.num_rows = num_rows
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the items of a whole epoch for this process, whatever is skipped."""
        return math.ceil(self.num_rows / _world()[1])

    def num_fresh(self) -> int:
        """Return how many items of an epoch no other process has too; those that others have come last."""
        rank, world = _world()
        return len(range(rank, self.num_rows, world))

    def __iter__(self) -> Iterator[Item]:
        rank, world = _world()
        order = np.resize(self._order(), len(self) * world)[rank::world]
        skip, self.skip = self.skip, 0
        return iter([(self.epoch, position) for position in order[skip:].tolist()])

    def _order(self) -> npt.NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_rows)
        generator = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch]))
        return np.argsort(generator.random(self.num_rows), kind="stable")


class _Loader(DataLoader[Batch]):
    """A loader whose processes begin to read when the first batch is asked for."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()


def make_loader(
    dataset: StoreDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool = False,
) -> DataLoader[Batch]:
    """Make a loader whose batches do not depend on the number of workers.

    Args:
        dataset: what to load.
        batch_size: images per batch and process.
        shuffle: a new order each epoch (training), or the order of the rows (evaluation).
        seed: seeds the order.
        workers: processes that read ahead; 0 reads in this process. Changes the speed only.
        drop_last: leave out the last batch if it is smaller than the others.

    Raises:
        PacxError: the number of workers is negative.
    """
    if workers < 0:
        raise PacxError(f"workers is {workers}; it must be 0 (load in the training process) or more.")
    return _Loader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), shuffle=shuffle, seed=seed),
        num_workers=workers,
        worker_init_fn=_leave_group,
        persistent_workers=workers > 0,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
    )


def _as_it_is(batch: Any) -> Any:
    """Stand in for the loader's collation: `__getitems__` has made the batch already."""
    return batch


def _leave_group(worker: int) -> None:
    """Spare a reading process the signals meant for the training process, which needs its batches to stop in order.

    Ctrl-C in a terminal and SLURM's SIGTERM go to the whole process group. The reader still ends with its parent.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _world() -> tuple[int, int]:
    """Return this process's rank and the number of processes of distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
