"""What lies outside of the recipes, shared by their tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")

sys.path.insert(0, str(Path(__file__).parent))

from outside_roots import Outside


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """Return what lies outside."""
    return Outside(tmp_path_factory.mktemp("outside"))
