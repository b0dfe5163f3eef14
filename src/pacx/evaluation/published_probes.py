"""Batch size and learning rate of the published linear probes, by data set.

They are those of the final table runs of PaCX-MAE's implementation, which took the same for every backbone and for
every share of the labels, and 40 epochs and a weight decay of .01 everywhere. The data set is recognised by the store's
name, else by the task's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["EPOCHS", "PUBLISHED", "PublishedProbe", "published_probe"]

EPOCHS = 40


class PublishedProbe(NamedTuple):
    """How the heads of one data set were trained."""

    name: str
    pattern: str
    """regular expression for names of stores and tasks, in small letters"""
    batch_size: int
    learning_rate: float


PUBLISHED: Sequence[PublishedProbe] = (
    # COVID-QU-Ex before COVID: the first that fits counts.
    PublishedProbe("COVID-QU-Ex", r"\bcovid[-_ ]?qu", 256, 2e-3),
    PublishedProbe("COVIDx", r"\bcovid(x|\b)", 512, 3e-3),
    PublishedProbe("NIH ChestX-ray14", r"\bnih|chest-?x-?ray-?14", 512, 3e-3),
    PublishedProbe("CheXchoNet", r"chexchonet", 512, 3e-3),
    PublishedProbe("MedMod", r"medmod", 512, 3e-3),
    PublishedProbe("ChestX6", r"chest-?x-?6", 256, 2e-3),
    PublishedProbe("VinDr-CXR", r"vindr", 256, 2e-3),
    PublishedProbe("Kermany pneumonia", r"kermany", 128, 1e-3),
    PublishedProbe("TB Shenzhen", r"\btb\b|shenzhen", 32, 1e-3),
)

OTHER = PublishedProbe("none of the published data sets", "", 512, 3e-3)
"""What most of them took, for everything else."""


def published_probe(store: str, task: str) -> PublishedProbe:
    """Look up how heads for a task of a store were trained; `OTHER` if the data set is none of theirs."""
    for name in (store, task):
        words = name.lower().replace("_", "-")
        for probe in PUBLISHED:
            if re.search(probe.pattern, words):
                return probe
    return OTHER
