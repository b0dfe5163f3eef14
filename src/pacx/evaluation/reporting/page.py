"""From numbers to the page: a template with autoescaping, its style sheet and the charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import ChainableUndefined, Environment, FunctionLoader

from pacx.evaluation.reporting import (
    arm_views,
    measure_tables,
    measure_views,
    physiology,
    probe_tables,
    side_tables,
    training_views,
    views,
    ways,
    wording,
)
from pacx.evaluation.reporting.charts import marker
from pacx.evaluation.reporting.encoders import display_name
from pacx.evaluation.reporting.pictures import Picture

__all__ = ["render_page"]


def render_page(content: Mapping[str, Any], *, pictures: Sequence[Picture] = (), recipe: str = "") -> str:
    """Render the whole page.

    Args:
        content: the content of `report.json`.
        pictures: figures of the runs.
        recipe: YAML text that makes the runs again.
    """
    page = _environment().get_template("report.html.j2")
    return page.render(
        **content, pictures=pictures, recipe=recipe, tones=views.Tones(content["encoders"]), views=views,
        training=training_views, arm_views=arm_views, lab_views=physiology, measure_views=measure_views,
        probe_tables=probe_tables, measure_tables=measure_tables, side_tables=side_tables,
        ways=ways,
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=ChainableUndefined,  # what an older run did not report is shown as n/a
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(wording, name) for name in wording.__all__}
    environment.filters |= {"display_name": display_name, "readable": views.readable}
    environment.filters |= {name: getattr(ways, name) for name in ("fine_tuned", "has_probes", "is_mixed")}
    environment.globals |= {"marker": marker}
    return environment


def _template(name: str) -> str:
    folder = resources.files("pacx.evaluation") / "templates"
    return (folder / name).read_text(encoding="utf-8")
