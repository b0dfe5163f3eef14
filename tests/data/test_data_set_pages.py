"""The committed pages of the data sets are those that their readers' docstrings and cards give."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_pages_are_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "make_data_sets.py"))["pages"]()
    committed = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "data-sets").glob("*.md")}
    assert made == committed, "run: python docs/make_data_sets.py"
