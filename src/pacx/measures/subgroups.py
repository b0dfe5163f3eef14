"""Groups of patients that a classifier may serve unequally: by sex, age and view.

A group is what the manifest says; images of which it says nothing are in no group, and what all images have in common
makes no groups. Ages are banded in years: below 40, 40-59, 60-79, 80 and above.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["AGE_BANDS", "FEWEST", "KINDS", "Subgroup", "subgroups"]

KINDS = ("sex", "age", "view")
AGE_BANDS = {"<40": (0.0, 40.0), "40-59": (40.0, 60.0), "60-79": (60.0, 80.0), ">=80": (80.0, np.inf)}
"""lowest age, and the one from which the next band begins"""
FEWEST = 10
"""positives, and negatives, below which a group is not measured: one image more or less would decide"""


class Subgroup(NamedTuple):
    """Some of the images."""

    kind: str
    """one of `KINDS`"""
    name: str
    rows: NDArray[np.bool_]
    """(N,)"""


def subgroups(manifest: pd.DataFrame, image_id: NDArray[np.object_]) -> list[Subgroup]:
    """List the groups that images belong to.

    Args:
        manifest: image_id, and of sex, age and view what there is.
        image_id: (N,) the images.
    """
    table = manifest.assign(image_id=manifest["image_id"].astype(str)).drop_duplicates("image_id")
    table = table.set_index("image_id").reindex(image_id.astype(str))
    found = []
    for kind in KINDS:
        if kind in table:
            names = _bands(table[kind]) if kind == "age" else table[kind].astype("string").str.strip()
            present = set(names.dropna()) - {""}
            order = [name for name in AGE_BANDS if name in present] if kind == "age" else sorted(present)
            groups = [Subgroup(kind, name, names.eq(name).fillna(False).to_numpy(dtype=bool)) for name in order]
            found += groups if len(groups) > 1 else []
    return found


def _bands(age: pd.Series) -> pd.Series:
    years = pd.to_numeric(age, errors="coerce")
    bounds = [low for low, _ in AGE_BANDS.values()] + [np.inf]
    return pd.cut(years, bounds, right=False, labels=list(AGE_BANDS)).astype("string")
