"""L2-regularised logistic regression, many problems on the same rows at once.

A probe tries many regularisation strengths for many labels on one feature matrix. Solved together, they share every
matrix product. For problem k, with labels y in {0, 1} and the strength C of scikit-learn:

    minimise over w, b:   1/2 |w|^2 + C_k * sum_i [ softplus(z_i) - y_ik z_i ],   z_i = w . x_i + b

* **Principal axes.** In them X'X is diagonal, and the Hessian lies below diag(1 + C/4 eigenvalue) (Boehning 1992).
  That diagonal is the starting metric of L-BFGS, so a wide spread of eigenvalues, usual for frozen features, costs
  few iterations. With fewer rows than features the solution lies in the span of the rows, and so do the axes.
* **One product forward, one back per iteration.** The line search works on logits, which are linear in the step.
* Columns that have converged leave the computation.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

__all__ = ["LogisticFit", "fit_logistic"]

Array = NDArray[np.float64]
log = logging.getLogger("pacx")

_MEMORY = 10
"""Steps that L-BFGS remembers (Nocedal and Wright 2006, section 7.2, advise 3 to 20)."""


class LogisticFit(NamedTuple):
    """Solutions of K problems."""

    weight: Array
    """(D, K)"""
    intercept: Array
    """(K,)"""

    def logits(self, x: ArrayLike) -> Array:
        """Score rows (n, D): log-odds (n, K)."""
        return np.asarray(np.asarray(x, dtype=np.float64) @ self.weight + self.intercept)


def fit_logistic(
    x: ArrayLike, y: ArrayLike, strength: ArrayLike, *, tolerance: float = 1e-10, max_iterations: int = 500
) -> LogisticFit:
    """Fit K logistic regressions on the same rows.

    Args:
        x: (n, D) features, best standardised; the intercept is not penalised.
        y: (n, K) labels, 0 or 1.
        strength: (K,) C of each problem; larger = less regularised.
        tolerance: a problem is solved when its predicted further decrease is below this share of its objective.
        max_iterations: a problem that needs more is returned as it is, with a warning.
    """
    features = np.asarray(x, dtype=np.float64)
    axes, curvature = _principal_axes(features)
    rows = np.column_stack([features @ axes, np.ones(len(features))])
    problem = _Problem(
        rows, np.append(curvature, len(rows)), np.asarray(y, np.float64), np.asarray(strength, np.float64)
    )
    solution = _minimise(problem, tolerance=tolerance, max_iterations=max_iterations)
    return LogisticFit(axes @ solution[:-1], solution[-1])


class _Problem(NamedTuple):
    rows: Array
    """(n, r+1) features in principal axes, then 1"""
    curvature: Array
    """(r+1,) squared lengths of the columns of `rows`"""
    y: Array
    """(n, K)"""
    strength: Array
    """(K,)"""

    def objective(self, theta: Array, logits: Array) -> Array:
        softplus = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0)
        loss = np.sum(softplus - self.y * logits, axis=0)
        return np.asarray(0.5 * np.sum(theta[:-1] ** 2, axis=0) + self.strength * loss)

    def gradient(self, theta: Array, logits: Array) -> Array:
        gradient = self.rows.T @ (self.strength * (expit(logits) - self.y))
        gradient[:-1] += theta[:-1]
        return np.asarray(gradient)

    def metric(self) -> Array:
        """Inverse of the diagonal upper bound on the Hessian, (r+1, K)."""
        bound = 0.25 * self.curvature[:, None] * self.strength
        bound[:-1] += 1.0
        return np.asarray(1.0 / bound)

    def columns(self, kept: NDArray[np.bool_]) -> _Problem:
        return self._replace(y=self.y[:, kept], strength=self.strength[kept])


def _principal_axes(x: Array) -> tuple[Array, Array]:
    """Orthonormal axes (D, r) that span the rows of x, and the sums of squares of x along them (r,)."""
    if len(x) < x.shape[1]:
        _, singular, axes = np.linalg.svd(x, full_matrices=False)
        return axes.T, singular**2
    eigenvalues, axes = np.linalg.eigh(x.T @ x)
    return axes, np.maximum(eigenvalues, 0.0)


def _minimise(problem: _Problem, *, tolerance: float, max_iterations: int) -> Array:
    """Minimise every column with L-BFGS (Nocedal and Wright 2006, algorithm 7.5); return (r+1, K)."""
    solution = np.zeros((problem.rows.shape[1], len(problem.strength)))
    open_columns = np.arange(len(problem.strength))
    theta, logits = solution.copy(), np.zeros(problem.y.shape)
    value, gradient = problem.objective(theta, logits), problem.gradient(theta, logits)
    steps: list[tuple[Array, Array]] = []
    for _ in range(max_iterations):
        direction = -_apply_inverse_hessian(gradient, problem.metric(), steps)
        slope = np.sum(gradient * direction, axis=0)
        solution[:, open_columns] = theta
        going = -slope > tolerance * np.maximum(value, 1e-12)
        if not going.any():
            return solution
        if not going.all():
            problem, open_columns = problem.columns(going), open_columns[going]
            theta, logits, gradient, direction = (a[:, going] for a in (theta, logits, gradient, direction))
            steps = [(step[:, going], change[:, going]) for step, change in steps]
            value, slope = value[going], slope[going]
        logits_direction = problem.rows @ direction
        length = _step_length(problem, theta, logits, direction, logits_direction, value, slope)
        theta, logits = theta + length * direction, logits + length * logits_direction
        value, previous = problem.objective(theta, logits), gradient
        gradient = problem.gradient(theta, logits)
        steps = [*steps[-_MEMORY + 1 :], (length * direction, gradient - previous)]
    solution[:, open_columns] = theta
    log.warning("logistic regression: %d of %d problems not converged", len(open_columns), solution.shape[1])
    return solution


def _apply_inverse_hessian(gradient: Array, metric: Array, steps: list[tuple[Array, Array]]) -> Array:
    """Two-loop recursion, column by column; a step without positive curvature (rounding) is skipped."""
    direction = gradient.copy()
    inverse, alphas = [], []
    for step, change in steps:
        curvature = np.sum(step * change, axis=0)
        inverse.append(np.divide(1.0, curvature, out=np.zeros_like(curvature), where=curvature > 0))
    for (step, change), rho in zip(reversed(steps), reversed(inverse), strict=True):
        alpha = rho * np.sum(step * direction, axis=0)
        direction -= alpha * change
        alphas.append(alpha)
    direction *= metric
    if steps:
        step, change = steps[-1]
        ratio = inverse[-1] * np.sum(change * metric * change, axis=0)
        direction *= np.divide(1.0, ratio, out=np.ones_like(ratio), where=ratio > 0)
    for (step, change), rho, alpha in zip(steps, inverse, reversed(alphas), strict=True):
        direction += (alpha - rho * np.sum(change * direction, axis=0)) * step
    return direction


def _step_length(
    problem: _Problem,
    theta: Array,
    logits: Array,
    direction: Array,
    logits_direction: Array,
    value: Array,
    slope: Array,
) -> Array:
    """Halve each column's step until its objective falls enough (Armijo, 1e-4 of the slope), (K,)."""
    length = np.ones(len(value))
    for _ in range(40):
        tried = problem.objective(theta + length * direction, logits + length * logits_direction)
        # The last term forgives rounding: near the minimum the decrease drowns in the last digits of the objective.
        too_long = tried > value + 1e-4 * length * slope + 1e-14 * np.abs(value)
        if not too_long.any():
            break
        length[too_long] /= 2
    return length
