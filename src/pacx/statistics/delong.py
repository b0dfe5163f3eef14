"""DeLong's variance of AUROCs, of one score or of several on the same rows.

    V10_i = AUROC of positive i against all negatives,   V01_j = AUROC of negative j against all positives
    covariance of AUROC_a and AUROC_b = cov(V10_a, V10_b) / m + cov(V01_a, V01_b) / n        (DeLong et al. 1988)

m positives, n negatives. The placements V come from mid-ranks in O((m + n) log(m + n)) (Sun and Xu 2014):

    V10_i = (rank of i among all - rank of i among the positives) / n

* **Rows count as independent.** Two X-rays of one patient are not, and the variance is then too small: give it one
  image per patient (`one_row_each` says whether that is so), else use the bootstrap over patients.
* **Intervals** are Wald intervals of logit(AUROC), which stay in [0, 1], or plain ones, as most packages print them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from pacx.errors import PacxError
from pacx.statistics.bootstrap import Array, Difference, Interval
from pacx.statistics.ordering import checked

__all__ = ["DeLong", "delong", "delong_contrast", "delong_difference", "delong_interval", "one_row_each"]


class DeLong(NamedTuple):
    """AUROCs of K scores on the same rows."""

    auroc: Array
    """(K,)"""
    covariance: Array
    """(K, K)"""


def delong(target: ArrayLike, scores: ArrayLike) -> DeLong:
    """AUROCs and their covariance.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        scores: (N, K), or (N,) for one score; higher = more positive.

    Returns:
        NaN throughout with fewer than two positives or two negatives.

    Raises:
        PacxError: a label other than 0, 1, NaN, or a NaN score on a labelled row.
    """
    columns = np.asarray(scores, dtype=np.float64)
    columns = columns.reshape(len(columns), -1)
    for column in columns.T:
        y, _ = checked(target, column)
    positive, negative = columns[y == 1].T, columns[y == 0].T
    num = len(columns.T)
    if min(positive.shape[1], negative.shape[1]) < 2:
        return DeLong(np.full(num, np.nan), np.full((num, num), np.nan))
    both = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    m, n = positive.shape[1], negative.shape[1]
    won = (both[:, :m] - rankdata(positive, axis=1)) / n
    beaten = 1 - (both[:, m:] - rankdata(negative, axis=1)) / m
    return DeLong(won.mean(axis=1), np.atleast_2d(np.cov(won)) / m + np.atleast_2d(np.cov(beaten)) / n)


def delong_interval(
    target: ArrayLike, score: ArrayLike, *, level: float = 0.95, scale: Literal["logit", "plain"] = "logit"
) -> Interval:
    """AUROC with DeLong's interval.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) or (N, K); of several scores (of an encoder's training subsets) the mean AUROC.
        level: coverage of the interval.
        scale: logit, or plain: value +- z se, cut at 0 and 1. At an AUROC of 0 or 1 the logit has no interval.
    """
    found = delong(target, score)
    weight = np.full(len(found.auroc), 1 / len(found.auroc))
    value, se = float(weight @ found.auroc), float(np.sqrt(weight @ found.covariance @ weight))
    reach = float(norm.ppf((1 + level) / 2)) * se
    if scale == "plain":
        low, high = np.clip([value - reach, value + reach], 0, 1)
    elif 0 < value < 1:
        low, high = expit(logit(value) + np.array([-reach, reach]) / (value * (1 - value)))
    else:
        low, high = np.nan, np.nan
    return Interval(value, float(low), float(high))


def delong_difference(target: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, *, level: float = 0.95) -> Difference:
    """AUROC of `score_a` minus AUROC of `score_b` on the same rows, with DeLong's interval and z-test.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score_a: (N,) or (N, K); of several scores the mean AUROC.
        score_b: (N,) or (N, L).
        level: coverage of the interval.
    """
    a, b = (np.asarray(side, dtype=np.float64).reshape(np.size(target), -1) for side in (score_a, score_b))
    contrast = np.concatenate([np.full(a.shape[1], 1 / a.shape[1]), np.full(b.shape[1], -1 / b.shape[1])])
    return delong_contrast(delong(target, np.concatenate([a, b], axis=1)), contrast, level=level)


def delong_contrast(found: DeLong, contrast: ArrayLike, *, level: float = 0.95) -> Difference:
    """A linear contrast (K,) of AUROCs with interval and two-sided z-test; p is 1 if it does not vary and is 0."""
    weight = np.asarray(contrast, dtype=np.float64)
    if weight.shape != found.auroc.shape:
        raise PacxError(f"A contrast of {len(found.auroc)} AUROCs has as many numbers; found {weight.size}.")
    if not np.isfinite(found.covariance).all():
        return Difference(np.nan, np.nan, np.nan, np.nan)
    variance = float(weight @ found.covariance @ weight)
    value, se = float(weight @ found.auroc), max(0.0, variance) ** 0.5  # rounding may take a variance of 0 below it
    reach = float(norm.ppf((1 + level) / 2)) * se
    p_value = float(2 * norm.sf(abs(value) / se)) if se > 0 else float(abs(value) < 1e-12)
    return Difference(value, value - reach, value + reach, p_value)


def one_row_each(patient: ArrayLike) -> bool:
    """Say whether no patient has several rows, so that rows are independent."""
    names = np.asarray(patient)
    return len(np.unique(names)) == len(names)
