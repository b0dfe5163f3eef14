"""Laboratory values that come as percentiles already, with or without a mask of what was observed.

A percentile lies in [0, 1]; anything else is another quantity and refused. In a store such a lab is kept as it is,
empty where unobserved, with the unit "percentile": the labs teacher's own reference is then close to the identity.

The mask means 1 = observed, always. Files disagree about that (Symile-MIMIC's array of that meaning is called
missingness), and a mask read the wrong way round trains without any error, so it is held against the data:

* a raw value beside it is there exactly where the mask is 1;
* without raw values, an imputed lab is one constant where it is unobserved and varies where it is observed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.errors import PacxError

__all__ = ["UNIT", "check_percentiles", "percentile_columns"]

UNIT = "percentile"
_PERCENTILE, _OBSERVED, _MISSING = "_percentile", "_observed", "_missing"
_ENOUGH_TO_JUDGE = 5


def check_percentiles(
    percentiles: pd.DataFrame, observed: pd.DataFrame | None = None, *, raw: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return percentiles with NaN where unobserved.

    Args:
        percentiles: (N, L) in [0, 1], NaN = not measured.
        observed: (N, L) with the same columns, 1 = observed, 0 = not; None where NaN says it all.
        raw: values in any unit for some of the labs, NaN = not measured; only looked at to check the mask.

    Raises:
        PacxError: a percentile is outside [0, 1], the mask holds anything but 0 and 1, an observed entry is empty, or
            the mask is the wrong way round.
    """
    for name in percentiles.columns:
        numbers = _numbers(percentiles[name])
        outside = numbers[(numbers < 0) | (numbers > 1)]
        if len(outside):
            raise PacxError(
                f"{len(outside)} percentiles of lab {name!r} lie outside [0, 1], e.g. {outside[0]:g}. Divide by 100 if "
                "they are in per cent; if these are laboratory values, read them without --lab_percentiles."
            )
    result = percentiles.astype(np.float64)
    if observed is None:
        return result
    for name in percentiles.columns:
        mask = _numbers(observed[name])
        wrong = mask[~np.isin(mask, (0, 1))]
        if len(wrong):
            raise PacxError(f"The mask of lab {name!r} holds {wrong[0]:g}. It is 1 where observed and 0 elsewhere.")
        _check_polarity(str(name), _numbers(percentiles[name]), mask == 1, None if raw is None else raw.get(name))
        result[name] = result[name].where(mask == 1)
    return result


def percentile_columns(source: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Take percentile columns out of a table, with the masks and raw values beside them.

    Args:
        source: the table.
        columns: percentile columns, X or X_percentile. A column X_observed (1 = observed) or X_missing (1 = missing)
            beside it is its mask, a column X beside X_percentile its raw value.

    Returns:
        One column X per lab, NaN where unobserved.

    Raises:
        PacxError: see `check_percentiles`.
    """
    names = {column: column.removesuffix(_PERCENTILE) for column in columns}
    percentiles = source[list(columns)].rename(columns=names)
    masks, raw = pd.DataFrame(index=source.index), pd.DataFrame(index=source.index)
    for column, name in names.items():
        if name + _OBSERVED in source:
            masks[name] = source[name + _OBSERVED]
        elif name + _MISSING in source:
            masks[name] = 1 - pd.Series(_numbers(source[name + _MISSING]), index=source.index)
        else:
            masks[name] = percentiles[name].notna().astype(np.float64)
        if column != name and name in source:
            raw[name] = source[name]
    return check_percentiles(percentiles, masks, raw=raw)


def _check_polarity(
    name: str, percentiles: NDArray[np.float64], observed: NDArray[np.bool_], raw: pd.Series | None
) -> None:
    if np.isnan(percentiles[observed]).any():
        raise PacxError(
            f"{int(np.isnan(percentiles[observed]).sum())} entries of lab {name!r} are observed by the mask but empty. "
            "The mask is 1 where observed: turn it round if it says what is missing."
        )
    if raw is not None:
        measured = raw.notna().to_numpy()
        differing = int((measured != observed).sum())
        if differing:
            turned = differing == len(measured)
            raise PacxError(
                f"The mask of lab {name!r} and its raw values disagree in {differing} of {len(measured)} rows"
                + (": the mask is the wrong way round. It is 1 where observed." if turned else ". Check both.")
            )
        return
    enough = min(observed.sum(), (~observed).sum()) >= _ENOUGH_TO_JUDGE
    hidden = percentiles[~observed]
    if enough and np.ptp(percentiles[observed]) == 0 and not np.isnan(hidden).any() and np.ptp(hidden) > 0:
        raise PacxError(
            f"The mask of lab {name!r} is the wrong way round: where it says observed, all {int(observed.sum())} "
            "percentiles are the same, and where it says missing, they differ. It is 1 where observed."
        )


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise PacxError(f"The column {str(column.name)!r} holds what is no number ({error}).") from error
