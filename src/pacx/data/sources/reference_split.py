"""The splits of the published implementation: by image, with scikit-learn's generator, seed 42.

They are here to reproduce published numbers. Where a patient has several images these splits leak: images of one
patient train and test. `pacx prepare` says how many do, and marks the store.
"""

from __future__ import annotations

import pandas as pd

from pacx.errors import MissingExtraError

__all__ = ["reference_split"]

_SEED = 42


def reference_split(
    table: pd.DataFrame, *, test: float, val: float, stratify: pd.Series | None = None, seed: int = _SEED
) -> pd.Series:
    """Split as scikit-learn's `train_test_split` does, applied twice.

    Args:
        table: rows in the order of the published tables; the order decides.
        test: share of all rows that test; 0 leaves the test split to somebody else.
        val: share of the rest that validates.
        stratify: class of each row, spread evenly; None for a plain random split.
        seed: of the generator.

    Returns:
        train, val or test per row, with the table's index.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise MissingExtraError("`pacx prepare --split reference` (package scikit-learn)", extra="train") from error
    split = pd.Series("train", index=table.index, name="split")
    rest = table.index
    for name, share in (("test", test), ("val", val)):
        if share > 0:
            classes = None if stratify is None else stratify.loc[rest]
            rest, chosen = train_test_split(rest, test_size=share, random_state=seed, stratify=classes)
            split.loc[chosen] = name
    return split
