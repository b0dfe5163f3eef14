"""The laboratory teacher on real labs: how well it fills in, what its embedding is worth, how fast it embeds.

    python -m benchmarks.labs_teacher [--quick] [--data ../shared/data]

The 39 labs of the open sample's ICU stays (eICU and MIMIC-III demos), 1,696 of them for training; `prepare` and
`fit_labs` with their defaults, three seeds.

* **Filling in.** Entries of the test stays are hidden, 15 % at random and then each by itself, the same for every side:
  ours, the median, `KNNImputer` and `IterativeImputer` (BayesianRidge) of scikit-learn on the same percentiles, and
  `IterativeImputer` on raw values, whose answers become percentiles afterwards. Neighbours, sweeps and bounds are
  those with the lowest error on the validation stays; answers are clipped to [0, 1]. Ours is the mean over seeds of
  the squared error.
* **Mortality.** Logistic regression on standardised features, C chosen on the validation stays. The embedding (three
  seeds, the mean of their AUROCs) against the raw table with medians in the holes, and against other tables. The test
  split has few deaths, so the whole comparison, teacher included, is also made in five folds.
* **Speed.** Rows per second through the percentiles and the network, and through the network alone; one thread.

Intervals are 95 % percentile intervals from drawing stays; differences are paired.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.labs_mortality import compare, fold_store, judge, rounded
from benchmarks.labs_sides import Fill, Tables, fit_peers, read_tables
from benchmarks.measure import interleave, peak_rss_mib, say, spread
from benchmarks.results import Row, finish
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.models.labs_autoencoder import LabsAutoencoder, load_labs_autoencoder
from pacx.stages.fit_labs import fit_labs
from pacx.stages.imputation import hide_once, single_entries
from pacx.stages.teachers import open_teacher
from pacx.statistics import bootstrap_mean, paired_mean_difference

Floats = NDArray[Any]
SEEDS, FOLDS, HIDE = (0, 1, 2), 5, 0.15
PUBLISHED = {"epochs": 50, "learning_rate": 3e-4}
BATCH = 1024
_NAMES = {
    "ours": "ours",
    "median": "column median",
    "knn": "KNNImputer",
    "iterative": "IterativeImputer",
    "iterative_raw": "IterativeImputer on raw values",
    "ours_published_settings": "ours, 50 epochs at 3e-4",
}
DATA = Path(__file__).parents[2] / "shared" / "data"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labs_teacher", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, two seeds, two folds: shows that it runs")
    parser.add_argument("--data", type=Path, default=DATA, help="the open sample [../shared/data]")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; give the folder of the open sample with --data")
    torch.set_num_threads(1)
    logging.getLogger("pacx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="pacx-benchmark-") as folder:
        results = measure(options.data, Path(folder), quick=options.quick)
    finish("labs_teacher", results, quick=options.quick)


def measure(data: Path, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Prepare, fit, fill in, predict and time.

    Args:
        data: the open sample.
        folder: an empty folder.
        quick: see that it runs.
    """
    prepare("open-sample", data, part="labs", out=folder / "icu")
    store = Store.open(folder / "icu")
    reference, splits = read_tables(store)
    seeds = SEEDS[:2] if quick else SEEDS
    few: dict[str, Any] = {"epochs": 3, "warmup_steps": 2} if quick else {}
    fitted = {f"ours_{seed}": _fit(store, folder / f"ours-{seed}", seed=seed, **few) for seed in seeds}
    published = _fit(store, folder / "published", **(few or PUBLISHED))
    say("fitting the peers")
    shown = hide_once(splits["val"].observed, probability=HIDE, seed=0)
    fills, facts = fit_peers(reference, splits["train"], splits["val"], shown, quick=quick)
    nets = {name: load_labs_autoencoder(run / "teacher")[0] for name, (run, _) in fitted.items()}
    fills |= {name: _network_fill(net) for name, net in nets.items()}
    fills |= {"ours_published_settings": _network_fill(load_labs_autoencoder(published[0] / "teacher")[0])}
    fills["median"] = _median_fill(splits["train"])
    filling = {way: fill_in(fills, splits["test"], way=way) for way in ("random", "one")}
    say("predicting mortality")
    judged = [judge(splits, [run for run, _ in fitted.values()], store)]
    folds = []
    for fold in range(2 if quick else FOLDS):
        say(f"fold {fold + 1} of {FOLDS}")
        cut = fold_store(store, folder / f"fold-{fold}", fold=fold, folds=FOLDS)
        folds.append(judge(read_tables(cut)[1], [_fit(cut, folder / f"fold-{fold}-run", **few)[0]], cut))
    mortality = {"test": compare(judged), "folds": compare(folds)}
    rounds = 2 if quick else 11
    return {
        "embedding_auroc": mortality["test"]["sides"]["embedding"]["auroc"]["value"],
        "embedding_minus_raw_auroc": mortality["test"]["embedding_minus"]["raw"]["value"],
        "embedding_minus_raw_auroc_folds": mortality["folds"]["embedding_minus"]["raw"]["value"],
        **{f"{name}_mse": found["mse"]["value"] for name, found in filling["random"]["sides"].items()},
        "rounds": rounds,
        "num_stays": {split: len(of.x) for split, of in splits.items()},
        "num_labs": len(reference),
        "observed_share": round(float(splits["train"].observed.mean()), 4),
        "fit_seconds": {
            "ours": [round(seconds, 1) for _, seconds in fitted.values()],
            "published": round(published[1], 1),
        },
        "peers": facts,
        "filling_in": filling,
        "mortality": mortality,
        "rows_per_second": throughput(store, next(iter(fitted.values()))[0], rounds=rounds),
        "batch": BATCH,
        "peak_memory_mib": round(peak_rss_mib()),
    }


def fill_in(fills: Mapping[str, Fill], test: Tables, *, way: str) -> dict[str, Any]:
    """Hide entries of the test stays, ask every side, and average the squared errors.

    Args:
        fills: the sides; "ours_SEED" are summed up as "ours".
        test: the stays.
        way: "random" hides 15 % of the observed entries at once, "one" each of them alone.
    """
    if way == "random":
        rows, shown = np.arange(len(test.x)), hide_once(test.observed, probability=HIDE, seed=0)
        row, column = np.nonzero(test.observed > shown)
        asked = row
    else:
        rows, column = single_entries(test.observed, seed=0)
        row, asked = rows, np.arange(len(rows))
        shown = test.observed[rows]
        shown[asked, column] = 0
    truth = test.x[row, column].astype(np.float64)
    errors, seconds = {}, {}
    for name, fill in fills.items():
        given = test.raw.to_numpy() if name == "iterative_raw" else test.x
        start = time.perf_counter()
        errors[name] = (fill(given[rows], shown)[asked, column] - truth) ** 2
        seconds[name] = time.perf_counter() - start
    ours = [name for name in fills if name.removeprefix("ours_").isdigit()]
    sides = {"ours": np.mean([errors[name] for name in ours], axis=0)}
    sides |= {name: errors[name] for name in fills if name not in ours}
    seconds["ours"] = float(np.mean([seconds[name] for name in ours]))
    patient = test.patient[row]
    return {
        "num_entries": len(truth),
        "sides": {
            name: {"mse": rounded(bootstrap_mean(error, patient)), "seconds": round(seconds[name], 3)}
            for name, error in sides.items()
        },
        "ours_by_seed": [round(float(errors[name].mean()), 5) for name in ours],
        "ours_minus": {
            name: rounded(paired_mean_difference(sides["ours"], error, patient))
            for name, error in sides.items()
            if name != "ours"
        },
    }


def throughput(store: Store, run: Path, *, rounds: int) -> dict[str, Any]:
    """Time the whole teacher and the network alone on all rows with labs, in turns."""
    teacher = open_teacher(run)
    rows = store.rows(needs=("labs",))
    net, _ = load_labs_autoencoder(run / "teacher")
    x, mask = torch.rand(len(rows), net.num_labs), torch.ones(len(rows), net.num_labs)

    def network() -> None:
        with torch.inference_mode():
            for part in range(0, len(rows), BATCH):
                net.encode(x[part : part + BATCH], mask[part : part + BATCH])

    sides = {"teacher": lambda: teacher.embed(store, rows, batch_size=BATCH), "network": network}
    seconds = interleave(sides, rounds=rounds)
    return {name: spread([len(rows) / one for one in times], digits=0) for name, times in seconds.items()}


def rows(results: dict[str, Any]) -> list[Row]:
    """Lay the results out for the table; of quality, the second column is the 95 % interval."""
    random, one = (results["filling_in"][way] for way in ("random", "one"))
    mortality, speeds = results["mortality"], results["rows_per_second"]
    error = random["sides"]["ours"]["mse"]["value"] / random["sides"]["median"]["mse"]["value"]
    wheres = {"test stays": mortality["test"], "five folds": mortality["folds"]}
    return [
        Row("error of hidden labs, 15 % at once, ours as a share of the column median's", error, at_most=1.0),
        *(
            Row(f"1000 x squared error, {how} hidden, {_NAMES[side]}", _interval(found["mse"], times=1000.0))
            for how, filled in (("15 %", random), ("one", one))
            for side, found in filled["sides"].items()
        ),
        *(
            Row(f"AUROC of mortality, {side.replace('_', ' + ')}, {where}", _interval(found["auroc"]))
            for where, part in wheres.items()
            for side, found in part["sides"].items()
        ),
        *(
            Row(f"the same, embedding minus raw, {where}", _interval(part["embedding_minus"]["raw"]), at_least=0.0)
            for where, part in wheres.items()
        ),
        Row("seconds to fit, ours", spread(results["fit_seconds"]["ours"], digits=1)),
        *(Row(f"seconds to fit, {_NAMES[side]}", facts["fit_seconds"]) for side, facts in results["peers"].items()),
        Row("embedding, rows/s, percentiles and network", speeds["teacher"]),
        Row("embedding, rows/s, network alone", speeds["network"]),
        Row("peak memory of the whole benchmark, MiB", float(results["peak_memory_mib"])),
    ]


def _fit(store: Store, out: Path, **more: Any) -> tuple[Path, float]:
    say(f"fitting {out.name}")
    start = time.perf_counter()
    fit_labs(store=store.path, out=out, accelerator="cpu", **more)
    return out, time.perf_counter() - start


def _network_fill(net: LabsAutoencoder) -> Fill:
    def fill(x: Floats, shown: Floats) -> Floats:
        with torch.inference_mode():
            return net(torch.from_numpy(x), torch.from_numpy(shown))[0].numpy()

    return fill


def _median_fill(train: Tables) -> Fill:
    medians = np.nanmedian(np.where(train.observed > 0, train.x, np.nan), axis=0)
    return lambda x, shown: np.broadcast_to(medians, x.shape)


def _interval(found: Mapping[str, float], *, times: float = 1.0) -> dict[str, float]:
    return {"median": times * found["value"], "lowest": times * found["low"], "highest": times * found["high"]}


if __name__ == "__main__":
    main()
