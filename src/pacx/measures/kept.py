"""What a run keeps of its measures: the table, and who is in which group, so that a pool can measure groups too."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import pandas as pd

from pacx.measures.on_all_cores import measure_all
from pacx.measures.subgroups import KINDS
from pacx.runs import RunFolder

__all__ = ["keep_measures", "kept_groups"]

_GROUPS = "groups"
"""table of the test images: image_id, and of sex, age and view what the store knows"""


def keep_measures(
    run: RunFolder,
    predictions: pd.DataFrame,
    val_predictions: pd.DataFrame | None,
    manifest: pd.DataFrame,
    *,
    draws: int,
    level: float,
) -> list[dict[Hashable, object]]:
    """Measure all predictions, write `measures.parquet` and `groups.parquet`, and return the rows of the former.

    Args:
        run: the open run.
        predictions: scores of the test images, as `pacx.scoring` describes them.
        val_predictions: the same of the validation images, which thresholds come from; without them there is none
            but .5.
        manifest: image_id, and of sex, age and view what there is.
        draws: number of bootstrap draws.
        level: coverage of the intervals.
    """
    found = measure_all(predictions, val_predictions, manifest, draws=draws, level=level)
    found.to_parquet(run.artefact("measures", "measures.parquet"))
    tested = manifest["image_id"].astype(str).isin(set(predictions["image_id"].astype(str)))
    known = manifest.loc[tested, ["image_id", *(kind for kind in KINDS if kind in manifest)]]
    known.reset_index(drop=True).to_parquet(run.artefact(_GROUPS, f"{_GROUPS}.parquet"))
    return found.to_dict("records")


def kept_groups(run: Path) -> pd.DataFrame | None:
    """Read image_id, sex, age and view of a run's test images; None where an older run kept none."""
    path = run / f"{_GROUPS}.parquet"
    return pd.read_parquet(path) if path.is_file() else None
