"""Finished runs as the commands would leave them, made up: every kind of result, and the awkward cases."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pacx.evaluation.curve_areas import summarise_curves
from pacx.evaluation.pool import pool
from pacx.measures import measure
from pacx.runs import open_run
from pacx.scoring import summarise
from pacx.statistics import bootstrap_mean, retrieval

STORE = {"name": "phantom", "hash": "hash-of-store"}
TASKS = {
    "lvh_or_dilation": "physiology", "heart_failure": "physiology", "renal_failure": "physiology",
    "copd": "physiology", "nodule": "control", "device": "control",
}  # fmt: skip
SKILL = {
    "random": 0.25, "mae": 0.8, "pacx": 1.15, "pacx-shuffled": 0.78, "pacx-no-ecg": 0.95, "pacx-contrastive-only": 1.05,
    "ctrl": 1.15,
}  # fmt: skip
FRACTIONS = (0.01, 0.1, 1.0)


def make_runs(root: Path, *, num_test: int = 160, draws: int = 200) -> Path:
    """Write a recipe's worth of runs below `root` and return it."""
    simulate(root)
    pretrain(root)
    teachers(root)
    for name in ("pacx", "pacx-shuffled"):
        distill(root, name)
    for name in ("random", "mae", "pacx", "pacx-shuffled"):
        probe(root, name, num_test=num_test, draws=draws, measured=name in {"mae", "pacx"})
    for name in ("random", "mae", "pacx"):
        align(root, name)
    for name in ("mae", "pacx"):
        explain(root, name)
    for name in ("random", "mae", "pacx"):
        segment(root, name)
    return root


def make_arms(root: Path, arms: Sequence[str], *, seeds: int = 2, num_test: int = 120, draws: int = 50) -> Path:
    """Write an ablation: each arm distilled and probed with several seeds, and pooled; probes of random and MAE."""
    for name in ("random", "mae"):
        probe(root, name, num_test=num_test, draws=draws, measured=False)
    for arm in arms:
        for seed in range(seeds):
            distill(root, f"{arm}-{seed}")
            probe(root, f"{arm}-{seed}", num_test=num_test, draws=draws, measured=False)
        pool(runs=[root / f"probe-{arm}-{seed}" for seed in range(seeds)], out=root / f"pool-{arm}", draws=draws)
    return root


def encoder_path(root: Path, name: str) -> str:
    return f"random:{root}/mae/encoder:0" if name == "random" else f"{root}/{name}/encoder"


def simulate(root: Path) -> None:
    config = {"patients": 640, "size": 64, "seed": 0, "workers": None}
    with open_run(root / "cohort", command="simulate", config=config) as run:
        gray = np.random.default_rng(0).integers(0, 255, (192, 384), dtype=np.uint8)
        Image.fromarray(gray).save(run.figure("contact_sheet.png", caption="The first X-rays, one per patient."))
        run.artefact("store", ".")
        counts = {"positives": 90, "negatives": 700, "unknown": 10}
        splits = {"train": 480, "val": 80, "test": 240}
        run.finish(
            {
                "name": "phantom", "num_images": 800, "num_patients": 640, "splits": splits, "rejects": 0,
                "tasks": {task: {task: {**counts, "positives": 20 * (i + 1)}} for i, task in enumerate(TASKS)},
            }
        )  # fmt: skip


def pretrain(root: Path) -> None:
    with open_run(root / "mae", command="pretrain", config={"store": f"{root}/cohort", "epochs": 30}) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        write_metrics(run.path, start=1.0, end=0.31)
        run.figure("missing.png", caption="A figure that was lost.")
        gray = np.random.default_rng(1).integers(0, 255, (200, 800), dtype=np.uint8)
        Image.fromarray(gray).save(run.figure("reconstructions.png", caption="X-ray, what is seen, what is filled in."))
        run.finish(
            {
                "epochs": 30, "steps": 900, "images_per_second": 210.0, "train_loss": 0.32, "val_loss": 0.31,
                "num_parameters": 1_500_000, "mask_ratio": 0.9, "visible_tokens": 6, "num_images": 480,
            }
        )  # fmt: skip


def write_metrics(folder: Path, *, start: float, end: float) -> None:
    rng = np.random.default_rng(2)
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["epoch", "step", "train_loss", "val_loss"])
        for epoch in range(1, 31):
            level = end + (start - end) * np.exp(-epoch / 6)
            val = f"{level + 0.02 + 0.005 * rng.normal():.4f}" if epoch != 3 else ""
            table.writerow([epoch, epoch * 30, f"{level + 0.004 * rng.normal():.4f}", val])


def teachers(root: Path) -> None:
    labels = ("atrial_fibrillation", "lbbb", "lvh_voltage", "st_elevation")
    with open_run(root / "ecg-teacher", command="fit-ecg", config={"store": f"{root}/cohort"}) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        auroc = {
            label: {"value": 0.7 + 0.06 * i, "low": 0.63 + 0.06 * i, "high": 0.76 + 0.05 * i, "n": 240, "positives": 30}
            for i, label in enumerate(labels)
        }
        auroc["st_elevation"] = {"value": None, "low": None, "high": None, "n": 240, "positives": 0}
        macro = {"value": 0.77, "low": 0.72, "high": 0.81}
        run.finish({"macro_auroc": macro, "auroc": auroc, "num_parameters": 210_000, "num_records": 480})
    with open_run(root / "labs-teacher", command="fit-labs", config={"store": f"{root}/cohort"}) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        rng = np.random.default_rng(5)
        names = ["Creatinine", "Urea", "Potassium", "NT-proBNP", "C-reactive protein", *(f"Lab {i}" for i in range(12))]
        per_lab = {
            name: {"imputation_mse": 0.085 * rng.uniform(0.45, 1.05), "baseline_mse": 0.085, "n": 40} for name in names
        }
        per_lab["Never hidden"] = {"imputation_mse": None, "baseline_mse": None, "n": 0}
        run.finish(
            {
                "clean_mse": 0.01, "imputation_mse": 0.061, "imputation_mse_column_median": 0.085,
                "imputation_mse_difference": {"value": -0.024, "low": -0.028, "high": -0.02, "p_value": 0.002},
                "num_rows": 480, "num_labs": len(names), "per_lab": per_lab,
            }
        )  # fmt: skip
    for name, dim in (("ecg", 64), ("labs", 32)):
        config = {"store": f"{root}/cohort", "teacher": f"{root}/{name}-teacher"}
        with open_run(root / f"{name}-bank", command="bank", config=config) as run:
            run.read("store", path=f"{root}/cohort", **STORE)
            run.finish({"teacher": name, "kind": name, "num_rows": 800, "num_present": 720, "dim": dim})


def distill(root: Path, name: str, *, shuffled: bool | None = None) -> None:
    shuffled = "shuffled" in name if shuffled is None else shuffled
    number = int(name[-1]) if name[-1].isdigit() else 0
    config = {
        "store": f"{root}/cohort", "encoder": f"{root}/mae/encoder", "shuffle_teachers": shuffled,
        "banks": [f"{root}/ecg-bank", f"{root}/labs-bank"],
    }  # fmt: skip
    with open_run(root / name, command="distill", config=config) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        write_metrics(run.path, start=4.0, end=3.6 if shuffled else 2.4)
        found = {}
        for seed, teacher in enumerate(("ecg", "labs")):
            signal, noise = np.random.default_rng(seed + 10 * number).normal(size=(2, 200, 8))
            ways = {
                way: retrieval(signal, noise if shuffled else signal * 0.55 + noise, draws=100)
                for way in ("image_to_teacher", "teacher_to_image")
            }
            chance, n = ways["image_to_teacher"]["chance"], 200
            found[teacher] = {**{way: {k: way_found[k] for k in ("r1", "r5", "r10", "median_rank")}
                                 for way, way_found in ways.items()}, "chance": chance, "n": n}  # fmt: skip
        run.finish(
            {
                "val_loss": 2.4, "temperature": 0.08, "positive_cosine": 0.41, "negative_cosine": 0.02,
                "embedding_spread": 0.83, "shuffled_teachers": shuffled, "teachers": found,
                "trainable_parameters": 90_000, "total_parameters": 1_640_000, "images_per_second": 100.0 + number,
            }
        )  # fmt: skip


def manifest(*, num_test: int) -> pd.DataFrame:
    """What is known of the test images."""
    rng = np.random.default_rng(6)
    image = [f"image{i}" for i in range(num_test)]
    sex, age = rng.choice(["F", "M"], num_test), rng.uniform(25, 90, num_test)
    return pd.DataFrame({"image_id": image, "sex": sex, "age": age, "view": "PA"})


def predictions(name: str, *, num_test: int, cohort: int = 100) -> pd.DataFrame:
    """Predictions whose quality follows the encoder's skill; all encoders see the same patients and labels."""
    rows = []
    for number, (task, group) in enumerate(TASKS.items()):
        shared = np.random.default_rng(cohort + number)
        target = (shared.random(num_test) < 0.25).astype(float)
        common = shared.normal(size=num_test)
        own = np.random.default_rng([sum(map(ord, name)), number])
        skill = (
            SKILL[name.rstrip("-0123456789")]
            if group == "physiology"
            else SKILL["random" if name == "random" else "mae"]
        )
        for fraction in FRACTIONS:
            for seed in range(1 if fraction == 1.0 else 2):
                if task == "device" and fraction == 0.01:
                    continue  # no positive among so few labels
                strength = skill * (0.55 + 0.15 * np.log10(fraction * 1000))
                score = strength * target + 0.8 * common + 0.4 * own.normal(size=num_test)
                rows.append(
                    pd.DataFrame(
                        {
                            "task": task, "label": task, "output": task, "fraction": fraction, "seed": seed,
                            "image_id": [f"image{i}" for i in range(num_test)],
                            "patient_id": [f"patient{i // 2}" for i in range(num_test)],
                            "target": target, "score": score,
                        }
                    )
                )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def probe(
    root: Path,
    name: str,
    *,
    num_test: int,
    draws: int,
    store: Mapping[str, str] = STORE,
    measured: bool = True,
    command: str = "probe",
    more: Mapping[str, object] | None = None,
) -> None:
    """Write a probe; `store` is what it says of its store, `more` goes into its results."""
    config = {"store": f"{root}/cohort", "encoder": encoder_path(root, name), "seeds": 2, "tasks": None}
    with open_run(root / f"{command}-{name}", command=command, config=config) as run:
        run.read("store", path=f"{root}/cohort", **store)
        run.read("encoder", path=encoder_path(root, name), name=name, hash=f"weights of {name}")
        table = predictions(name, num_test=num_test)
        table.to_parquet(run.artefact("predictions", "predictions.parquet"))
        scored = summarise(table, draws=draws).mean
        summary = []
        for task, group in TASKS.items():
            for fraction in FRACTIONS:
                found = scored.get((task, task, fraction))
                undefined = {"value": np.nan, "low": np.nan, "high": np.nan, "num_test": 0, "positives": 0}
                notes = [] if found else ["no positive label in the training subset"]
                summary.append(
                    {
                        "task": task, "label": task, "group": group, "fraction": fraction, "metric": "auroc",
                        **(found or undefined), "num_train": 480 * fraction, "num_train_positives": 60 * fraction,
                        "notes": notes,
                    }
                )  # fmt: skip
        results = {"encoder_name": name, "protocol": {"name": "honest"}, "scores": [], "summary": summary}
        if measured:
            val = predictions(name, num_test=num_test, cohort=200)
            measures = measure(table, val, manifest(num_test=num_test), draws=min(draws, 50))
            results["measures"] = measures.to_dict("records")
        run.finish({**results, **(more or {})})


def finetune(root: Path, name: str, *, num_test: int, draws: int, label: str | None = None) -> None:
    """Write a fine-tuning of the encoder `name`, which is called `label` from then on."""
    more = {"encoder_name": label or f"{name}-finetuned", "protocol": {"name": "finetune"}}
    probe(root, name, num_test=num_test, draws=draws, command="finetune", more=more)


def align(root: Path, name: str) -> None:
    config = {"store": f"{root}/cohort", "encoder": encoder_path(root, name), "banks": [f"{root}/ecg-bank"]}
    with open_run(root / f"align-{name}", command="align", config=config) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        tables, found = [], {}
        for number, teacher in enumerate(("ecg", "labs")):
            rng = np.random.default_rng(number)
            patient = np.array([f"p{i // 2}" for i in range(200)])
            cosine = rng.normal(0.05 + 0.1 * SKILL[name], 0.2, 200)
            hits = (rng.random((200, 3)) < np.array([0.01, 0.05, 0.1]) * (1 + SKILL[name])).astype(float)
            table = pd.DataFrame({"teacher": teacher, "image_id": [f"i{i}" for i in range(200)], "patient_id": patient})
            found_at = {f"r{k}": hits[:, column] for column, k in enumerate((1, 5, 10))}
            tables.append(table.assign(cosine=cosine, cosine_centred=cosine, **found_at))
            numbers = {
                "r2": 0.02, "cosine_centred": bootstrap_mean(cosine, patient, draws=100),
                "random_pair_cosine_centred": 0.001, "n_test": 200, "alpha": 10.0,
                "retrieval": {"image_to_teacher": {"r10": bootstrap_mean(hits[:, 2], patient, draws=100),
                                                   "chance": {"r10": 0.05}, "n": 200}},
            }  # fmt: skip
            found[teacher] = {**numbers, "shuffled": numbers}
        pd.concat(tables).to_parquet(run.artefact("alignment", "alignment.parquet"))
        protocol = {"name": "honest", "fit_on": "val"}
        run.finish({"encoder_name": name, "protocol": protocol, "shuffled_teachers": False, "teachers": found})


def explain(root: Path, name: str, *, split: str = "test") -> None:
    config = {"store": f"{root}/cohort", "encoder": encoder_path(root, name)}
    area = {"lung": 0.28, "heart": 0.09, "outside": 0.63}
    with open_run(root / f"explain-{name}", command="explain", config=config) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        gain = {"lung": 1.0, "heart": 1.0 + 0.3 * (SKILL[name] - 0.8), "outside": 0.97}
        table = pd.DataFrame(
            [
                {"image_id": f"i{i}", "patient_id": f"p{i}", "region": region, "area": size,
                 "mass": size * gain[region] * np.random.default_rng([i, len(region)]).uniform(0.9, 1.1)}
                for i in range(80) for region, size in area.items()
            ]
        )  # fmt: skip
        table.to_parquet(run.artefact("mass", "mass.parquet"))
        gray = np.random.default_rng(3).integers(0, 255, (440, 1600), dtype=np.uint8)
        Image.fromarray(gray).save(run.figure("attention.png", caption=f"Attention rollout of {name}."))
        mass = {
            region: bootstrap_mean(rows["mass"], rows["patient_id"], draws=100)
            for region, rows in table.groupby("region", sort=False)
        }
        curves = deletion(name)
        curves.to_parquet(run.artefact("curves", "curves.parquet"))
        run.finish(
            {
                "encoder_name": name, "mass": mass, "area": area, "num_images": 80, "method": "attention rollout",
                "split": split,
                "head": {"task": "heart_failure", "C": 1.0, "auroc": 0.8},
                "faithfulness": summarise_curves(curves, draws=50),
            }
        )  # fmt: skip


def deletion(name: str) -> pd.DataFrame:
    """Deletion curves of 40 images; the better the encoder, the earlier the probability falls."""
    fraction = np.linspace(0, 1, 5)
    rows = []
    for image in range(40):
        sure = np.random.default_rng([image, 7]).uniform(0.7, 0.9)
        for order, speed in (("attention", 1 + 2 * SKILL[name]), ("random", 1.0), ("reverse", 0.5)):
            falls = sure * (1 - fraction) ** speed
            names = {"image_id": f"i{image}", "patient_id": f"p{image}", "order": order}
            rows.append(pd.DataFrame({**names, "fraction": fraction, "probability": falls}))
    return pd.concat(rows, ignore_index=True)


def segment(root: Path, name: str, *, split: str = "test") -> None:
    config = {"store": f"{root}/cohort", "encoder": encoder_path(root, name), "mask": "lung"}
    with open_run(root / f"lungs-{name}", command="segment", config=config) as run:
        run.read("store", path=f"{root}/cohort", **STORE)
        rng = np.random.default_rng(4)
        dice = np.clip(rng.normal(0.86 + 0.06 * min(1.0, SKILL[name]), 0.03, 100), 0, 1)
        table = pd.DataFrame({"image_id": [f"i{i}" for i in range(100)], "patient_id": [f"p{i}" for i in range(100)]})
        table = table.assign(dice=dice, iou=dice / (2 - dice))
        table.to_parquet(run.artefact("scores", "scores.parquet"))
        run.finish(
            {
                "mask": "lung", "encoder": encoder_path(root, name), "num_test": 100, "split": split,
                "protocol": "small",
                "dice": bootstrap_mean(table["dice"], table["patient_id"], draws=100),
                "iou": bootstrap_mean(table["iou"], table["patient_id"], draws=100),
            }
        )  # fmt: skip
