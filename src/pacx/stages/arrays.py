"""Batches from arrays that are already what a network eats: filtered ECGs, lab percentiles.

Items are asked for by (epoch, position) like those of `pacx.data.batches`, so the order of an epoch is a function of
(seed, epoch) here too, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pacx.data.batches import Batch, EpochSampler, Item

__all__ = ["ArrayRows", "array_loader"]


class ArrayRows(Dataset[Batch]):
    """Rows of some arrays under their names, as float32.

    Args:
        rows: (M,) store row of each position; the batch's `index`.
        arrays: (M, ...) each; memory-mapped ones are read batch by batch.
    """

    def __init__(self, rows: NDArray[np.int64], *, arrays: Mapping[str, NDArray[Any]]) -> None:
        assert all(len(array) == len(rows) for array in arrays.values())
        self.rows = rows
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Item) -> Batch:
        """Return one sample: a batch of one without its first dimension."""
        return {key: value[0] for key, value in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Return a whole batch; the loader calls this once per batch."""
        positions = [position for _, position in items]
        batch = {"index": torch.from_numpy(self.rows[positions])}
        for name, array in self.arrays.items():
            batch[name] = torch.from_numpy(np.asarray(array[positions], dtype=np.float32))
        return batch


def array_loader(
    dataset: ArrayRows, *, batch_size: int, shuffle: bool, seed: int = 0, drop_last: bool = False
) -> DataLoader[Batch]:
    """Make a loader; it reads in the training process, since there is nothing to decode."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), shuffle=shuffle, seed=seed),
        collate_fn=_as_it_is,
        drop_last=drop_last,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
