"""Numbers with intervals: AUROC, average precision, thresholds, calibration, correlation, retrieval; by patient.

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
from pacx.statistics.calibration import (
    CalibrationBin,
    brier,
    brier_draws,
    calibration_curve,
    calibration_error,
    calibration_error_draws,
)
from pacx.statistics.confusion import RATES, Rates, multiclass_draws, rates, rates_draws
from pacx.statistics.correlation import spearman, spearman_draws
from pacx.statistics.delong import DeLong, delong, delong_contrast, delong_difference, delong_interval, one_row_each
from pacx.statistics.multiplicity import benjamini_hochberg, holm
from pacx.statistics.operating import (
    f1_threshold,
    sensitivity_at_specificity,
    sensitivity_at_specificity_draws,
    specificity_threshold,
)
from pacx.statistics.precision_recall import average_precision, average_precision_draws
from pacx.statistics.ranking import (
    auroc,
    auroc_draws,
    bootstrap_auroc,
    bootstrap_macro_auroc,
    macro_auroc,
    macro_auroc_draws,
    paired_auroc_difference,
    paired_macro_auroc_difference,
)
from pacx.statistics.retrieval import retrieval, retrieval_hits, unit_rows

__all__ = [
    "RATES",
    "CalibrationBin",
    "DeLong",
    "Difference",
    "Interval",
    "Rates",
    "Resamples",
    "auroc",
    "auroc_draws",
    "average_precision",
    "average_precision_draws",
    "benjamini_hochberg",
    "bootstrap_auroc",
    "bootstrap_macro_auroc",
    "bootstrap_mean",
    "brier",
    "brier_draws",
    "calibration_curve",
    "calibration_error",
    "calibration_error_draws",
    "delong",
    "delong_contrast",
    "delong_difference",
    "delong_interval",
    "difference_of",
    "f1_threshold",
    "holm",
    "interval_of",
    "macro_auroc",
    "macro_auroc_draws",
    "mean_draws",
    "mean_of_defined",
    "multiclass_draws",
    "one_row_each",
    "paired_auroc_difference",
    "paired_macro_auroc_difference",
    "paired_mean_difference",
    "rates",
    "rates_draws",
    "resample_patients",
    "retrieval",
    "retrieval_hits",
    "sensitivity_at_specificity",
    "sensitivity_at_specificity_draws",
    "spearman",
    "spearman_draws",
    "specificity_threshold",
    "unit_rows",
]
