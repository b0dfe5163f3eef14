"""What the paper reports: PaCX-MAE (Liu, Maeda and Pancholy, ICML 2026, arXiv 2606.01537 v2).

* Main results: linear probes and decoders on nine benchmarks, three encoders; one seed, no intervals, F1 at a threshold
  of .5, IoU and Dice pooled over a batch. Printed with three digits, so true to +-.0005.
* Label efficiency: read off the paper's figure, true to +-.002.
* Ablations: which teacher and which loss. Printed with three digits.
* Alignment: centred cosine of a ridge read-out with the teachers' embeddings on Symile-MIMIC.

A run is recognised by the name of its store, or of its task, written in any case and with any punctuation. Splits and
label sets of other users may differ from the authors', which no name tells; so a difference is a hint, not a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

__all__ = ["DATA_SETS", "ENCODERS", "PUBLISHED", "Metric", "Published", "data_set_of", "encoder_of", "of_data_set"]

Metric = Literal["auroc", "f1", "iou", "dice", "cosine"]

PRINTED, READ_OFF = 0.0005, 0.002
"""half a unit of the last printed digit; how well a figure can be read"""

DATA_SETS: dict[str, tuple[str, ...]] = {
    "TB": ("tb", "shenzhen", "tbshenzhen"),
    "CheXchoNet": ("chexchonet", "compositeslvhdlv"),
    "VinDr-CXR": ("vindrcxr", "vindr"),
    "NIH-14": ("nih14", "nih", "nihchestxray14", "chestxray14"),
    "MedMod": ("medmod", "medmodphys"),
    "ChestX6": ("chestx6",),
    "CXL-Seg": ("cxlseg",),
    "COVID-QU-Ex": ("covidquex", "covidqu"),
    "QaTa-COV19": ("qatacov19", "qatacov19v2", "qata"),
    "Symile-MIMIC": ("symilemimic", "symile"),
}
"""the paper's names, and how stores and tasks are called, in small letters and digits alone"""

ENCODERS: dict[str, tuple[str, ...]] = {
    "ImageNet": ("imagenet",),
    "MAE": ("mae",),
    "PaCX-MAE": ("pacx", "pacxmae"),
    "ECG teacher only": ("ecgonly", "pacxecgonly", "nolabs", "pacxnolabs"),
    "labs teacher only": ("labsonly", "pacxlabsonly", "noecg", "pacxnoecg"),
    "contrastive only": ("contrastiveonly", "pacxcontrastiveonly"),
    "regression only": ("regressiononly", "pacxregressiononly"),
}
"""the paper's encoders, and the labels that reports give them"""


class Published(NamedTuple):
    """A number of the paper."""

    data_set: str
    encoder: str
    metric: Metric
    value: float
    fraction: float = 1.0
    """share of the training labels"""
    teacher: str = ""
    """whose embedding is read off, for alignment"""
    tolerance: float = PRINTED
    """how far the true number may lie from the printed one"""
    source: str = "main results"


_MAIN: Mapping[str, Mapping[Metric, tuple[float, float, float]]] = {  # ImageNet, MAE, PaCX-MAE
    "TB": {"auroc": (0.887, 0.899, 0.910), "f1": (0.818, 0.814, 0.846)},
    "CheXchoNet": {"auroc": (0.728, 0.788, 0.803), "f1": (0.147, 0.215, 0.266)},
    "VinDr-CXR": {"auroc": (0.751, 0.847, 0.871), "f1": (0.097, 0.191, 0.256)},
    "NIH-14": {"auroc": (0.721, 0.772, 0.783), "f1": (0.048, 0.113, 0.115)},
    "MedMod": {"auroc": (0.612, 0.695, 0.722), "f1": (0.091, 0.231, 0.253)},
    "ChestX6": {"auroc": (0.983, 0.988, 0.989), "f1": (0.876, 0.905, 0.906)},
    "CXL-Seg": {"iou": (0.984, 0.996, 0.996), "dice": (0.992, 0.998, 0.998)},
    "COVID-QU-Ex": {"iou": (0.894, 0.942, 0.942), "dice": (0.943, 0.970, 0.970)},
    "QaTa-COV19": {"iou": (0.622, 0.726, 0.715), "dice": (0.766, 0.841, 0.833)},
}
_ABLATIONS: Mapping[str, Mapping[str, tuple[float, float]]] = {  # AUROC, F1
    "ECG teacher only": {"CheXchoNet": (0.801, 0.296), "MedMod": (0.717, 0.243), "VinDr-CXR": (0.871, 0.233)},
    "labs teacher only": {"CheXchoNet": (0.795, 0.275), "MedMod": (0.721, 0.245), "VinDr-CXR": (0.875, 0.248)},
    "contrastive only": {"CheXchoNet": (0.799, 0.273), "MedMod": (0.722, 0.258), "VinDr-CXR": (0.866, 0.241)},
    "regression only": {"CheXchoNet": (0.789, 0.227), "MedMod": (0.673, 0.131), "VinDr-CXR": (0.843, 0.130)},
}
_EFFICIENCY: Mapping[str, Mapping[float, tuple[float, float]]] = {  # AUROC of MAE, PaCX-MAE; 100 % is a main result
    "NIH-14": {0.01: (0.637, 0.673), 0.1: (0.724, 0.751)},
    "CheXchoNet": {0.01: (0.660, 0.742), 0.1: (0.760, 0.777)},
    "VinDr-CXR": {0.01: (0.722, 0.767), 0.1: (0.802, 0.839)},
    "MedMod": {0.01: (0.572, 0.623), 0.1: (0.646, 0.684)},
}
_ALIGNMENT: Mapping[str, tuple[float, float]] = {"ecg": (0.204, 0.229), "labs": (0.239, 0.252)}  # MAE, PaCX-MAE


def _published() -> Iterator[Published]:
    for data_set, metrics in _MAIN.items():
        for metric, values in metrics.items():
            for encoder, value in zip(("ImageNet", "MAE", "PaCX-MAE"), values, strict=True):
                yield Published(data_set, encoder, metric, value)
    for encoder, data_sets in _ABLATIONS.items():
        for data_set, (auroc, f1) in data_sets.items():
            yield Published(data_set, encoder, "auroc", auroc, source="ablations")
            yield Published(data_set, encoder, "f1", f1, source="ablations")
    for data_set, fractions in _EFFICIENCY.items():
        for fraction, pair in fractions.items():
            for encoder, value in zip(("MAE", "PaCX-MAE"), pair, strict=True):
                yield Published(
                    data_set, encoder, "auroc", value, fraction, tolerance=READ_OFF, source="label efficiency"
                )
    for teacher, pair in _ALIGNMENT.items():
        for encoder, value in zip(("MAE", "PaCX-MAE"), pair, strict=True):
            yield Published("Symile-MIMIC", encoder, "cosine", value, teacher=teacher, source="alignment")


PUBLISHED: tuple[Published, ...] = tuple(_published())


def data_set_of(name: str) -> str | None:
    """Return the paper's name of the data set that a store or a task is named after."""
    return _lookup(name, DATA_SETS)


def encoder_of(label: str) -> str | None:
    """Return the paper's name of an encoder from its label in a report; numbers of seeds at its end do not count."""
    return _lookup(re.sub(r"([-_.](seed|run)?\d+)+$", "", label), ENCODERS)


def of_data_set(data_set: str, *, source: str | None = None) -> list[Published]:
    """List what the paper reports on a data set."""
    return [one for one in PUBLISHED if one.data_set == data_set and source in {None, one.source}]


def _lookup(name: str, known: Mapping[str, tuple[str, ...]]) -> str | None:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((published for published, names in known.items() if plain in names), None)
