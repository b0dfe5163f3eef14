"""Data sets without a table: the folder of an image says its class and its split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pacx.data.sources.reading import images_below
from pacx.errors import PacxError

__all__ = ["class_folders"]


def class_folders(
    root: Path, *, splits: Mapping[str, str], classes: Sequence[str], below: str = "", numbers: Sequence[int] = ()
) -> pd.DataFrame:
    """List images in folders SPLIT/CLASS.

    Args:
        root: the data set.
        splits: folder -> train, val or test.
        classes: folders of the classes, in the order of their numbers.
        below: folder inside that of the class in which the images lie.
        numbers: of the classes, if not 0, 1, ...

    Returns:
        image_id (path without suffix), path, class (float), split, in the order of the paths.

    Raises:
        PacxError: a class has no folder or no images, or there is a folder that is no class.
    """
    rows = []
    for folder, split in splits.items():
        here = root / folder
        found = sorted(path.name for path in here.iterdir() if path.is_dir() and not path.name.startswith("."))
        if set(found) != set(classes):
            raise PacxError(
                f"{here} has the folders {', '.join(found) or 'none'}; expected is one for each class: "
                f"{', '.join(classes)}. Give the data set as it was published."
            )
        for place, name in enumerate(classes):
            images = images_below(here / name / below, "*")
            if not images:
                raise PacxError(f"{here / name / below} holds no images. Complete the download.")
            number = float(numbers[place] if numbers else place)
            for path in images.values():
                relative = path.relative_to(root)
                rows.append((relative.with_suffix("").as_posix(), relative.as_posix(), number, split))
    return pd.DataFrame.from_records(rows, columns=["image_id", "path", "class", "split"])
