"""The tables of a simulated Symile-MIMIC release: who was admitted, what was found, which rows the retrieval game has.

Columns, their order and their meaning are those of the release (`pacx.data.sources.symile_mimic` says what is known of
it). Ids lie outside MIMIC's ranges: subjects from 90,000,000, admissions from 80,000,000, studies from 70,000,000. The
last part of `cxr_path` is the cohort's own image id.

What the report's labeller would say follows from the latent state, seen through an error of its own (e ~ N(0, 1)):

    Cardiomegaly      max(lv_dilation, .8 lv_hypertrophy) + .3 e > 1.0
    Edema             congestion                          + .3 e > 1.0
    Pleural Effusion  congestion + .25 renal_dysfunction  + .3 e > 1.2
    Lung Opacity      max(infection, 1.2 if a nodule)     + .3 e > 0.9
    Atelectasis       - inspiration of this exposure      + .3 e > 0.9

A finding is stated (1), or, in one of ten, stated as uncertain (-1). A finding that is absent is denied (0) in half of
the reports and passed over in the others. `No Finding` is 1 where no other finding is 1 or -1, else empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.labs import PANEL
from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream

__all__ = ["CANDIDATES", "CSV_ITEMS", "FINDINGS", "make_tables", "percentiles", "report", "with_distractors"]

FINDINGS = ("Atelectasis", "Cardiomegaly", "Edema", "Lung Opacity", "No Finding", "Pleural Effusion")
CANDIDATES = 10
"""rows of each query in the retrieval game, itself included"""

# fmt: off
CSV_ITEMS = (  # the order of the lab columns in the release's tables; its arrays ascend by item id
    51221, 51265, 50912, 50971, 51222, 51301, 51249, 51279, 51250, 51248,
    51277, 51006, 50983, 50902, 50882, 50868, 50931, 50960, 50893, 50970,
    51237, 51274, 51275, 51146, 51256, 51254, 51200, 51244, 52172, 50934,
    51678, 50947, 50861, 50878, 50813, 50863, 50885, 50820, 50862, 50802,
    50821, 50804, 50818, 52075, 52073, 52074, 52069, 51133, 50910, 52135,
)
# fmt: on
_LIMITS: dict[str, tuple[Callable[[pd.DataFrame], Any], float]] = {
    "Atelectasis": (lambda t: -t["acquisition_inspiration"], 0.9),
    "Cardiomegaly": (lambda t: np.maximum(t["lv_dilation"], 0.8 * t["lv_hypertrophy"]), 1.0),
    "Edema": (lambda t: t["congestion"], 1.0),
    "Lung Opacity": (lambda t: np.maximum(t["infection"], 1.2 * t["nodule"]), 0.9),
    "Pleural Effusion": (lambda t: t["congestion"] + 0.25 * t["renal_dysfunction"], 1.2),
}


def make_tables(simulated: Simulated) -> dict[str, pd.DataFrame]:
    """Make one table per split of the release, indexed by the row of the cohort.

    Returns:
        symile_mimic_data (every admission, with age, sex and view), train, val, val_retrieval and test.
    """
    everybody = _admissions(simulated)
    split = simulated.store.manifest["split"]
    labs = [str(item) for item in CSV_ITEMS]
    columns = ["subject_id", "hadm_id", "cxr_path", *FINDINGS, "ecg_path", *labs]
    shuffled = random_stream("symile", simulated.seed).permutation(len(everybody))
    ordered = everybody.iloc[shuffled]
    parts = {name: ordered.loc[split[ordered.index] == name, columns] for name in ("train", "val", "test")}
    ranks = {name: percentiles(part[labs], training=parts["train"][labs]) for name, part in parts.items()}
    parts = {name: pd.concat([part, ranks[name].add_suffix("_percentile")], axis=1) for name, part in parts.items()}
    queries = {name: parts[name].assign(label_hadm_id=parts[name]["hadm_id"], label=1) for name in ("val", "test")}
    return {
        "symile_mimic_data": everybody,
        "train": parts["train"],
        "val": queries["val"],
        "val_retrieval": with_distractors(queries["val"], random_stream("distractors", simulated.seed, 0)),
        "test": with_distractors(queries["test"], random_stream("distractors", simulated.seed, 1)),
    }


def percentiles(values: pd.DataFrame, *, training: pd.DataFrame) -> pd.DataFrame:
    """Return for each value the share of training values that are not larger, NaN where there is none."""
    ranks = {}
    for name in values:
        known = np.sort(training[name].dropna().to_numpy())
        share = np.searchsorted(known, values[name].to_numpy(), side="right") / max(len(known), 1)
        ranks[name] = np.where(values[name].isna() | (len(known) == 0), np.nan, share)
    return pd.DataFrame(ranks, index=values.index)


def report(truth: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Write down the findings of every X-ray by the rules in the module's docstring: 1, 0, -1 or NaN."""
    said: dict[str, NDArray[np.float64]] = {}
    for name, (severity, limit) in _LIMITS.items():
        present = np.asarray(severity(truth) + 0.3 * rng.standard_normal(len(truth)) > limit)
        u = rng.uniform(size=len(truth))
        said[name] = np.where(present, np.where(u < 0.1, -1.0, 1.0), np.where(u < 0.5, 0.0, np.nan))
    mentioned = np.any([np.abs(column) == 1 for column in said.values()], axis=0)
    said["No Finding"] = np.where(mentioned, np.nan, 1.0)
    return pd.DataFrame(said, index=truth.index)[list(FINDINGS)]


def with_distractors(queries: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Append nine other admissions for each query, marked with the query's id and label 0.

    In a split of fewer than ten admissions some distractors of a query are the same.
    """
    rows = []
    for place in range(len(queries)):
        others = np.delete(np.arange(len(queries)), place)
        drawn = rng.choice(others, CANDIDATES - 1, replace=len(others) < CANDIDATES - 1)
        rows.append(queries.iloc[drawn].assign(label_hadm_id=queries["hadm_id"].iloc[place], label=0))
    return pd.concat([queries, *rows])


def _admissions(simulated: Simulated) -> pd.DataFrame:
    table, truth = simulated.store.manifest, simulated.truth
    number = np.arange(len(table))
    subject = 90_000_000 + table["patient_id"].str.rpartition("-")[2].astype(np.int64)
    study = 70_000_000 + number
    folder = "files/p" + (subject // 10**6).astype(str) + "/p" + subject.astype(str) + "/s" + study.astype(str)
    people = pd.DataFrame(
        {
            "subject_id": subject,
            "hadm_id": 80_000_000 + number,
            "gender": table["sex"],
            "age": table["age"].astype(np.int64),
            "study_id": study,
            "cxr_ViewPosition": table["view"],
            "cxr_path": folder + "/" + table["image_id"] + ".jpg",
        }
    )
    findings = report(truth, random_stream("reports", simulated.seed))
    labs = simulated.store.labs
    assert labs is not None  # `check` of the format refuses a cohort without
    raw = labs.rename(columns={lab.name: str(lab.item_id) for lab in PANEL})
    raw = raw[[str(item) for item in CSV_ITEMS]].set_axis(people.index)
    ecg_path = "files/p" + (subject // 10**4).astype(str) + "/p" + subject.astype(str) + "/s" + study.astype(str)
    everything: pd.DataFrame = pd.concat([people, findings, ecg_path.rename("ecg_path"), raw], axis=1)
    return everything
