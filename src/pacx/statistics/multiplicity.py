"""p-values adjusted for how many questions were asked.

Of twenty true zeros about one has p < .05. An adjusted p-value may be read as if it were alone in its family, the list
of p-values that is given; NaN (undefined) belongs to no family and stays NaN.

* `holm`: the chance of any false finding in the family stays below the level (Holm 1979). Holds however the tests
  depend on each other, as labels of one patient do.
* `benjamini_hochberg`: the expected share of false ones among the findings stays below the level (Benjamini and
  Hochberg 1995). Holds for independent or positively dependent tests.
* **A bootstrap p-value of D draws is at least 2 / (D + 1)**, so with m questions Holm's smallest is at least
  2 m / (D + 1): a large family needs more draws before anything in it can be clear.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from pacx.errors import PacxError
from pacx.statistics.bootstrap import Array

__all__ = ["benjamini_hochberg", "holm"]


def holm(p_values: ArrayLike) -> Array:
    """Adjust for the family-wise error: p_(i) becomes the largest of (m - k + 1) p_(k) over k <= i, at most 1.

    Args:
        p_values: (M,) in [0, 1], or NaN.

    Returns:
        (M,) in the order given.
    """
    p, known = _checked(p_values)
    order = np.argsort(p[known], kind="stable")
    steps = np.arange(len(order), 0, -1) * p[known][order]
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    p[known] = adjusted
    return p


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """Adjust for the false discovery rate: p_(i) becomes the smallest of m p_(k) / k over k >= i.

    Args:
        p_values: (M,) in [0, 1], or NaN.

    Returns:
        (M,) in the order given.
    """
    p, known = _checked(p_values)
    p[known] = false_discovery_control(p[known], method="bh")
    return p


def _checked(p_values: ArrayLike) -> tuple[Array, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    p = np.array(p_values, dtype=np.float64).reshape(-1)
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise PacxError(f"p-values lie in [0, 1]; found {p[known].min():g} to {p[known].max():g}.")
    return p, known
