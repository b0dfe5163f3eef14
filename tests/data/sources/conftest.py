"""Miniatures of the public data sets, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pacx.data.phantom.cohort import simulate

INSIDE = {
    "chexpert": "CheXpert-v1.0-small",
    "chestx6": "chest-xray",
    "kermany": "chest_xray",
    "qata-cov19": "QaTa-COV19/QaTa-COV19-v2",
    "tb-shenzhen": "",
}
"""where below a miniature the root of its data set is, if not at its top"""

Miniature = Callable[..., Path]


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """Return the root of a data set's miniature; made when first asked for, not to be written to."""
    made: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("miniatures") / name
            arguments: dict[str, Any] = {"patients": 60, "size": 32, "seed": 5, "workers": 1, "ecg": False}
            simulate(out=made[name], labs=False, format=name, **arguments)  # type: ignore[arg-type]
        return made[name] / INSIDE.get(name, "")

    return root
