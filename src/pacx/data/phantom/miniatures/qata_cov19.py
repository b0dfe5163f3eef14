"""A simulated cohort in the form of QaTa-COV19 v2: {Train Set,Test Set}/{Images,Ground-truths}.

All lies under an outer folder QaTa-COV19/QaTa-COV19-v2. The "infected region" is the lung's lower half: a simulated
state has no outline of its own.
"""

from __future__ import annotations

from pathlib import Path

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import mask, picture, save, write_notice

__all__ = ["write"]


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    root = folder / "QaTa-COV19" / "QaTa-COV19-v2"
    for row, split in enumerate(simulated.store.manifest["split"]):
        place, name = root / ("Test Set" if split == "test" else "Train Set"), f"covid_{row}.png"
        region = mask(simulated, row, "lung")
        region[: len(region) // 2] = 0
        save(picture(simulated, row), place / "Images" / name)
        save(region, place / "Ground-truths" / f"mask_{name}")
    write_notice(root, title="QaTa-COV19 v2")
