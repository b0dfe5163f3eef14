"""A simulated cohort in the form of COVIDx CXR-4: {train,val,test}.txt and folders of images beside them.

One patient is in all three lists, as in the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pacx.data.manifest import Manifest
from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import overt, picture, save, write_notice
from pacx.errors import PacxError
from pacx.runs import write_text

__all__ = ["check", "write"]


def check(config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse a cohort that leaves a list empty.

    Raises:
        PacxError: a split has no image.
    """
    del out
    if manifest.table["split"].nunique() < len(_SPLITS):
        raise PacxError(f"{config['patients']} patients leave a list empty. Give more --patients, e.g. 20.")


_SPLITS = ("train", "val", "test")


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    seen = simulated.store.manifest
    ill = overt(simulated, {"ill": (lambda t: t["infection"], 0.0)})["ill"]
    for split in _SPLITS:
        lines = []
        for place, row in enumerate(seen.index[seen["split"] == split]):
            patient = "A860070" if place == 0 else f"p{seen['patient_id'].iloc[row]}"
            name = f"{patient}_{row}.png" if row % 2 else f"{row:08x}.jpg"
            save(picture(simulated, int(row)), folder / split / name)
            lines.append(f"{patient} {name} {'positive bimcv' if ill[row] else 'negative rsna'}")
        write_text(folder / f"{split}.txt", "\n".join(lines) + "\n")
    write_notice(folder, title="COVIDx CXR-4")
