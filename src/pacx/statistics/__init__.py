"""Numbers with intervals: AUROC, rank correlation, means and retrieval, resampled by patient.

* **Patients, not images, are drawn.** Images of one patient resemble each other; drawing images would make every
  interval too narrow. A draw gives each patient a count (multinomial, as if patients were drawn with replacement),
  and every image carries the count of its patient as its weight.
* **Pairs share their draws.** Two encoders scored on the same images are compared draw by draw, which removes the
  part of the uncertainty that both share.
* **Intervals are percentile intervals** (Efron 1979). Draws in which a statistic is undefined (an AUROC of a draw
  without positives) are left out. A statistic that is undefined on the data itself is NaN, never 0.5.
* Labels are 0, 1 or NaN; NaN is "unknown" and leaves the row out.
"""

from __future__ import annotations

from pacx.statistics.bootstrap import (
    Difference,
    Interval,
    Resamples,
    bootstrap_mean,
    difference_of,
    interval_of,
    mean_draws,
    mean_of_defined,
    paired_mean_difference,
    resample_patients,
)
from pacx.statistics.correlation import spearman, spearman_draws
from pacx.statistics.ranking import (
    auroc,
    auroc_draws,
    average_precision,
    bootstrap_auroc,
    bootstrap_macro_auroc,
    macro_auroc,
    macro_auroc_draws,
    paired_auroc_difference,
    paired_macro_auroc_difference,
)
from pacx.statistics.retrieval import retrieval, retrieval_hits, unit_rows

__all__ = [
    "Difference",
    "Interval",
    "Resamples",
    "auroc",
    "auroc_draws",
    "average_precision",
    "bootstrap_auroc",
    "bootstrap_macro_auroc",
    "bootstrap_mean",
    "difference_of",
    "interval_of",
    "macro_auroc",
    "macro_auroc_draws",
    "mean_draws",
    "mean_of_defined",
    "paired_auroc_difference",
    "paired_macro_auroc_difference",
    "paired_mean_difference",
    "resample_patients",
    "retrieval",
    "retrieval_hits",
    "spearman",
    "spearman_draws",
    "unit_rows",
]
