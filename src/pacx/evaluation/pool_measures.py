"""All measures of pooled probes: averaged over the runs, with intervals over the test patients.

Thresholds were chosen run by run, on each run's validation images; every run keeps its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pacx.evaluation.members import Member, together
from pacx.measures import kept_groups, measure_all
from pacx.scoring import FOLD, MACRO

__all__ = ["pool_measures"]

_OUTPUT = ("task", "label", "output", "fraction", "subgroup_kind", "subgroup")
"""what names an output, or the mean over several, on all test images or on those of a subgroup"""
_QUESTION = (*_OUTPUT, "metric", "rule")
"""what names a measure"""
_SIZES = ("num", "positives", "num_patients")


class _Bounds(NamedTuple):
    low: float = np.nan
    high: float = np.nan


def pool_measures(members: Sequence[Member], predictions: pd.DataFrame, *, draws: int) -> list[dict[str, Any]]:
    """Average every measure over the runs.

    Args:
        members: runs of probes or fine-tunings; without measures of their own there are none of the pool.
        predictions: of all of them, joined.
        draws: bootstrap draws of the intervals.

    Returns:
        One row per measure. value is the mean over the runs; low and high its interval over test patients, all runs on
        the same draws; sd_over_runs the spread. Single classes of several folds have no interval,
        nor have subgroups that are too small in a fold.
        num, positives and num_patients are of all folds together.
    """
    rows = [{**row, "fold": member.fold} for member in members for row in member.results.get("measures") or []]
    if not rows:
        return []
    table = pd.DataFrame(rows)
    bounds, sizes = _bounds(members, predictions, draws=draws), _sizes(table)
    pooled = []
    for key, own in table.groupby(list(_QUESTION), sort=False, dropna=False):
        values = own["value"].astype(np.float64)
        everywhere = bool(values.notna().all()) and len(own) == len(members)
        pooled.append(
            {
                **dict(zip(_QUESTION, key, strict=True)),
                "value": float(values.mean()) if everywhere else np.nan,
                **(bounds.get(key, _Bounds()) if everywhere else _Bounds())._asdict(),
                "sd_over_runs": float(values.std(ddof=1)),
                "threshold": np.nan,
                **sizes[key[: len(_OUTPUT)]],
                "num_runs": len(members),
                "note": "" if everywhere else f"not defined in each of the {len(members)} runs",
            }
        )
    return pooled


def _sizes(table: pd.DataFrame) -> dict[tuple[Hashable, ...], dict[str, int]]:
    """Add up over folds, one run of each, how many images, positives and patients there were."""
    one_run = table.drop_duplicates([*_OUTPUT, "fold"])
    sums = one_run.groupby(list(_OUTPUT), sort=False)[list(_SIZES)].sum()
    # The rarest output of all folds need not be the rarest of any of them, so the folds' counts do not add up to its.
    outputs = sums["positives"].reset_index().query("output != @MACRO")
    of_several = pd.concat([outputs, outputs.assign(label=MACRO)]).assign(output=MACRO)
    rarest = of_several.groupby(list(_OUTPUT))["positives"].min()
    sums["positives"] = rarest.reindex(sums.index).fillna(sums["positives"])
    return {
        key: {name: int(size) for name, size in zip(_SIZES, own, strict=True)}
        for key, *own in sums[list(_SIZES)].itertuples(name=None)
    }


def _bounds(members: Sequence[Member], predictions: pd.DataFrame, *, draws: int) -> dict[tuple[Hashable, ...], _Bounds]:
    """Measure all runs on the same draws of their patients; the names are those that a single run uses."""
    level = float(members[0].protocol.get("level", 0.95))
    found = measure_all(predictions, _validation(members), _groups(members), draws=draws, level=level)
    outputs = found["output"].astype(str)
    folded = outputs.str.contains(FOLD, regex=False)
    if folded.any():
        # A label with one output has one per fold now; their mean is the label's.
        single = found.assign(output=outputs.str.partition(FOLD)[0])[folded].groupby("label")["output"].nunique() == 1
        # A mean that leaves a fold out, where a group is too small in it, is not the mean of the runs.
        found.loc[found["note"] != "", ["low", "high"]] = np.nan
        mean = found["label"].map(single).fillna(False).astype(bool) & (outputs == MACRO)
        found = found.assign(output=outputs.where(~mean, found["label"]))[~folded]
    rows = found[[*_QUESTION, "low", "high"]].itertuples(index=False, name=None)
    return {row[:-2]: _Bounds(*row[-2:]) for row in rows}


def _groups(members: Sequence[Member]) -> pd.DataFrame:
    """Join what the runs say of sex, age and view; nothing if an older one kept none."""
    kept = [kept_groups(member.folder) for member in members]
    tables = [table for table in kept if table is not None]
    return pd.concat(tables, ignore_index=True) if len(tables) == len(members) else pd.DataFrame({"image_id": []})


def _validation(members: Sequence[Member]) -> pd.DataFrame | None:
    """Join the predictions on validation images, if every run kept them."""
    paths = [
        member.folder / str(member.content["artefacts"].get("val_predictions", "val_predictions.parquet"))
        for member in members
    ]
    if not all(path.is_file() for path in paths):
        return None
    return together(members, [pd.read_parquet(path) for path in paths])
