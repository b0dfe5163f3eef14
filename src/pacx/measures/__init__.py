"""Everything that is measured of predictions on test images, of probes and of fine-tuned encoders alike.

`pacx.scoring` scores each question by AUROC; here are AUPRC, F1, sensitivity, calibration and more, and subgroups.
"""

from __future__ import annotations

from pacx.measures.kept import keep_measures, kept_groups
from pacx.measures.on_all_cores import measure_all, summarise_all
from pacx.measures.table import COLUMNS, measure

__all__ = ["COLUMNS", "keep_measures", "kept_groups", "measure", "measure_all", "summarise_all"]
