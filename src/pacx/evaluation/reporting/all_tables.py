"""All tables of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pacx.evaluation.reporting.measure_tables import labels_table, measures_table, subgroups_table
from pacx.evaluation.reporting.probe_tables import (
    arms_table,
    group_differences_table,
    probes_table,
    published_table,
)
from pacx.evaluation.reporting.side_tables import (
    alignment_table,
    attention_table,
    faithfulness_table,
    physiology_table,
    segmentation_table,
)
from pacx.evaluation.reporting.tables import Table
from pacx.evaluation.reporting.views import Tones

__all__ = ["all_tables", "arm_tables"]


def all_tables(content: Mapping[str, Any]) -> list[Table]:
    """Make the tables of the content of `report.json`."""
    tones = Tones(content["encoders"])
    tables = [published_table(content["published"], tones), *arm_tables(content)]
    for part in content["probes"]:
        names = tones.within(part)
        tables += [group_differences_table(part, names), probes_table(part, names), measures_table(part, names)]
        tables += [labels_table(part, names), subgroups_table(part, names)]
    tables += [alignment_table(part, tones) for part in content["alignment"]]
    tables += [attention_table(part, tones) for part in content["attention"]]
    tables += [faithfulness_table(part, tones) for part in content["attention"]]
    tables += [segmentation_table(part, tones) for part in content["segmentation"]]
    tables += [physiology_table(part, tones) for part in content["physiology"]]
    return [table for table in tables if table is not None]


def arm_tables(content: Mapping[str, Any]) -> list[Table]:
    """Make the tables of arms alone."""
    return [arms_table(part, Tones(content["encoders"])) for part in content["arms"]]
