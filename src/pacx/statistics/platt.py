"""Platt scaling: from log-odds that rank well to probabilities that come true as often as they say (Platt 1999).

With scores s and answers y of images that the head was not fitted on, a and c minimise

    - sum_i [ t_i log p_i + (1 - t_i) log(1 - p_i) ],      p_i = 1 / (1 + exp(-(a s_i + c)))

where t is (N+ + 1) / (N+ + 2) for a yes and 1 / (N- + 2) for a no: what a uniform prior expects of the next image.
So a score that separates these images perfectly does not become certain.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from pacx.statistics.bootstrap import Array
from pacx.statistics.ordering import checked

__all__ = ["FEWEST_OF_A_KIND", "Platt", "fit_platt"]

FEWEST_OF_A_KIND = 5
"""Positives and negatives that a fit needs; two numbers from fewer would be worse than none."""


class Platt(NamedTuple):
    """Calibrated log-odds are slope * score + shift."""

    slope: float
    shift: float
    fitted: bool
    """false: too few images, or a score that falls where it should rise; then the scores are left as they are"""


def fit_platt(target: ArrayLike, score: ArrayLike) -> Platt:
    """Fit slope and shift.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) log-odds, higher = more positive.
    """
    y, s = checked(target, score)
    known = ~np.isnan(y)
    y, s = y[known], s[known]
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    if min(positives, negatives) < FEWEST_OF_A_KIND or not np.ptp(s):
        return Platt(1.0, 0.0, fitted=False)
    wanted = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(s.mean()), float(s.std())
    unit = (s - middle) / spread

    def loss(parameters: Array) -> tuple[float, Array]:
        logit = parameters[0] * unit + parameters[1]
        residual = expit(logit) - wanted
        return float(np.sum(np.logaddexp(0.0, logit) - wanted * logit)), np.array([residual @ unit, residual.sum()])

    slope, shift = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    if slope <= 0:
        return Platt(1.0, 0.0, fitted=False)
    return Platt(float(slope / spread), float(shift - slope * middle / spread), fitted=True)
