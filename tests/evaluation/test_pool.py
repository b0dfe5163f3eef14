"""Pools: several seeds, several folds, and what is neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_probes
from pacx.evaluation.members import read_member
from pacx.evaluation.pool import pool
from pacx.measures import measure
from pacx.runs import open_run, read_result, write_json
from pacx.scoring import MACRO, summarise
from pacx.statistics import auroc

Summary = dict[tuple[str, str, float], dict[str, Any]]


def predictions(
    *, skill: float = 1.0, seed: int = 0, fold: int = 0, num_test: int = 60, subsets: int = 2, scale: float = 1.0
) -> pd.DataFrame:
    """A task of two labels; who is tested depends on the fold, the target on the patient, the score on all."""
    shared = np.random.default_rng(fold)
    images = [f"fold{fold}-image{i:03d}" for i in range(num_test)]
    parts = []
    for label in ("effusion", "edema"):
        target = (shared.random(num_test) < 0.4).astype(float)
        noise = shared.normal(size=num_test)
        for fraction in (0.1, 1.0):
            for subset in range(subsets if fraction < 1 else 1):
                own = np.random.default_rng([seed, fold, subset, round(10 * fraction), len(label)])
                score = scale * (skill * fraction**0.2 * target + noise + 0.7 * own.normal(size=num_test))
                parts.append(
                    pd.DataFrame(
                        {
                            "task": "water", "label": label, "output": label, "fraction": fraction, "seed": subset,
                            "image_id": images, "patient_id": [f"fold{fold}-patient{i // 2}" for i in range(num_test)],
                            "target": target, "score": score,
                        }
                    )
                )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def probe(
    root: Path, table: pd.DataFrame, *, name: str, encoder: str | None = None, store: str = "store", token: str = "cls"
) -> Path:
    """Leave what `pacx probe` would."""
    out = root / f"probe-{name}"
    with open_run(out, command="probe", config={"seeds": int(table["seed"].max()) + 1}) as run:
        run.read("store", name="cohort", hash=store, split_hash=f"split of {store}")
        run.read("encoder", path=f"runs/{name}/encoder", name=encoder or name, hash=f"weights of {name}")
        table.to_parquet(run.artefact("predictions", "predictions.parquet"))
        scored = summarise(table, draws=20)
        named = {"group": "physiology", "metric": "auroc", "num_train": 50, "num_train_positives": 10, "notes": []}
        summary = [
            {**dict(zip(("task", "label", "fraction"), key, strict=True)), **named, **found}
            for key, found in scored.mean.items()
        ]
        scores = [
            {"task": task, "label": label, "fraction": fraction, "seed": seed, **named, **interval._asdict()}
            for (task, label, fraction, _, seed), interval in scored.single.items()
            if label != MACRO
        ]
        run.finish(
            {
                "encoder_name": encoder or name, "protocol": {"token": token, "draws": 20},
                "scores": scores, "summary": summary,
            }
        )  # fmt: skip
    return out


def pooled(runs: Sequence[Path], out: Path, **more: Any) -> tuple[dict[str, Any], Summary]:
    content = pool(runs=list(runs), out=out, draws=200, **more)
    rows = content["results"]["summary"]
    return content, {(row["task"], row["label"], row["fraction"]): row for row in rows}


def seeds(root: Path, name: str, *, skill: float, number: int = 3) -> list[Path]:
    return [probe(root, predictions(skill=skill, seed=seed), name=f"{name}-{seed}") for seed in range(number)]


def folds(root: Path, name: str, *, skill: float, number: int = 3, seed: int = 0) -> list[Path]:
    return [
        probe(
            root,
            predictions(skill=skill, seed=seed, fold=fold, num_test=40 + 10 * fold, scale=10.0**fold),
            name=f"{name}-{fold}-{seed}",
            store=f"fold {fold}",
        )
        for fold in range(number)
    ]


def mean_auroc(table: pd.DataFrame, **wanted: object) -> float:
    """The mean over all classifiers of a question, by brute force."""
    rows = table.loc[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    return float(np.mean([auroc(own["target"], own["score"]) for _, own in rows.groupby(["label", "seed"])]))


def test_over_seeds_the_mean_and_its_spread_are_those_of_the_runs(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "pacx", skill=1.0)
    content, summary = pooled(runs, tmp_path / "pool")
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    means = [mean_auroc(table, label="edema", fraction=0.1) for table in tables]
    row = summary["water", "edema", 0.1]
    assert row["value"] == pytest.approx(np.mean(means))
    assert row["sd_over_runs"] == pytest.approx(np.std(means, ddof=1))
    assert (row["num_runs"], row["num_seeds"], row["num_test"], row["num_test_patients"]) == (3, 2, 60, 30)
    macro = [mean_auroc(table, fraction=1.0) for table in tables]
    assert summary["water", "macro", 1.0]["value"] == pytest.approx(np.mean(macro))
    assert {key: content["results"]["protocol"][key] for key in ("token", "pooled", "num_runs", "num_folds")} == {
        "token": "cls", "pooled": "seeds", "num_runs": 3, "num_folds": 1,
    }  # fmt: skip
    assert (content["results"]["encoder_name"], content["results"]["of"]) == ("pacx", "probe")
    assert content["inputs"]["store"] == read_result(runs[0])["inputs"]["store"]
    assert [row["run"] for row in content["results"]["scores"]] == sorted([0, 1, 2] * 6)


def test_over_folds_each_fold_is_ranked_by_itself(tmp_path: Path) -> None:
    """Scores of the three classifiers differ by factors of 10: ranking them together would give another number."""
    runs = folds(tmp_path, "pacx", skill=1.0)
    content, summary = pooled(runs, tmp_path / "pool")
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    row = summary["water", "effusion", 1.0]
    assert row["value"] == pytest.approx(np.mean([mean_auroc(t, label="effusion", fraction=1.0) for t in tables]))
    mixed = mean_auroc(pd.concat(tables), label="effusion", fraction=1.0)
    assert abs(row["value"] - mixed) > 0.01
    assert (row["num_test"], row["num_test_patients"], row["num_runs"]) == (150, 75, 1)
    positives = [table.query("label == 'effusion' and fraction == 1")["target"].sum() for table in tables]
    assert row["positives"] == sum(positives)
    assert content["results"]["protocol"]["pooled"] == "folds"
    assert content["results"]["protocol"]["num_folds"] == 3


def test_pooling_folds_narrows_the_interval(tmp_path: Path) -> None:
    runs = folds(tmp_path, "pacx", skill=1.0)
    _, summary = pooled(runs, tmp_path / "pool")
    single = summarise(pd.read_parquet(runs[0] / "predictions.parquet"), draws=200).mean["water", "macro", 1.0]
    both = summary["water", "macro", 1.0]
    assert both["high"] - both["low"] < 0.8 * (single["high"] - single["low"])


def test_folds_and_seeds_together_are_the_mean_over_both(tmp_path: Path) -> None:
    runs = [run for seed in (0, 1) for run in folds(tmp_path, "pacx", skill=1.0, seed=seed)]
    content, summary = pooled(runs, tmp_path / "pool")
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    row = summary["water", "edema", 1.0]
    assert row["value"] == pytest.approx(np.mean([mean_auroc(t, label="edema", fraction=1.0) for t in tables]))
    assert row["num_runs"] == 2
    assert content["results"]["protocol"]["pooled"] == "folds and seeds"
    assert content["results"]["encoder_name"] == "pacx"


def test_two_pools_over_the_same_folds_meet_in_whatever_order_they_were_given(tmp_path: Path) -> None:
    ours, theirs = folds(tmp_path, "pacx", skill=1.5), folds(tmp_path, "mae", skill=0.5)
    a, found = pooled(ours, tmp_path / "a")
    b, reference = pooled(theirs[::-1], tmp_path / "b")
    assert a["inputs"]["store"] == b["inputs"]["store"]
    assert a["inputs"]["store"]["name"] == "cohort (3 folds)"
    compared = compare_probes(tmp_path / "a" / "predictions.parquet", tmp_path / "b" / "predictions.parquet")
    row = compared.query("label == 'macro' and fraction == 1").iloc[0]
    key = ("water", "macro", 1.0)
    assert row["difference"] == pytest.approx(found[key]["value"] - reference[key]["value"])
    assert row["low"] > 0


def test_a_pool_of_seeds_is_compared_with_one_encoder_over_the_same_training_subsets(tmp_path: Path) -> None:
    """Not only with the first of its runs, as matching the numbers of all classifiers would do."""
    runs = seeds(tmp_path, "pacx", skill=1.5)
    _, summary = pooled(runs, tmp_path / "pool")
    one = predictions(skill=0.5, seed=9)
    row = compare_probes(tmp_path / "pool" / "predictions.parquet", one).query("label == 'edema' and fraction == .1")
    assert row["value_a"].item() == pytest.approx(summary["water", "edema", 0.1]["value"])
    assert row["value_b"].item() == pytest.approx(mean_auroc(one, label="edema", fraction=0.1))
    assert (row["num_seeds"].item(), row["num_runs_a"].item(), row["num_runs_b"].item()) == (2, 3, 1)
    alone = compare_probes(tmp_path / "pool" / "predictions.parquet", one[one["seed"] == 1])
    first = alone.query("label == 'edema' and fraction == .1")
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    wanted = [mean_auroc(table, label="edema", fraction=0.1, seed=1) for table in tables]
    assert first["value_a"].item() == pytest.approx(np.mean(wanted))


def test_what_could_not_be_scored_in_one_fold_is_noted_and_left_out(tmp_path: Path) -> None:
    runs = folds(tmp_path, "pacx", skill=1.0)
    table = pd.read_parquet(runs[1] / "predictions.parquet")
    table[table["label"] != "edema"].to_parquet(runs[1] / "predictions.parquet")
    path = runs[1] / "result.json"
    text = path.read_text(encoding="utf-8")
    edema = text.index('"label": "edema"', text.index('"summary"'))
    path.write_text(text[:edema] + text[edema:].replace('"notes": []', '"notes": ["one class"]', 1), encoding="utf-8")
    _, summary = pooled(runs, tmp_path / "pool")
    row = next(row for key, row in summary.items() if row.get("notes"))
    assert row["notes"] == ["one class (fold 1 of 3)"]
    others = [pd.read_parquet(runs[fold] / "predictions.parquet") for fold in (0, 2)]
    wanted = np.mean([mean_auroc(table, label="edema", fraction=1.0) for table in others])
    assert summary["water", "edema", 1.0]["value"] == pytest.approx(wanted)


def test_what_is_neither_seeds_nor_folds_is_refused(tmp_path: Path) -> None:
    base = probe(tmp_path, predictions(), name="pacx-0")
    part = predictions(seed=1).query("image_id < 'fold0-image040'")
    wrong = {
        "overlap": (probe(tmp_path, part, name="pacx-1"), r"some of the same patients \('fold0-patient"),
        "store": (probe(tmp_path, predictions(seed=1), name="pacx-2", store="other"), "out of different stores"),
        "token": (probe(tmp_path, predictions(seed=1), name="pacx-3", token="mean"), r"token \(cls and mean\)"),
        "subsets": (probe(tmp_path, predictions(seed=1, subsets=3), name="pacx-4"), r"seeds \(2 and 3\)"),
        "fractions": (
            probe(tmp_path, predictions(seed=1, subsets=2).query("fraction == .1"), name="pacx-5"),
            r"water/effusion at 1 \(asked and absent\)",
        ),
        "twice": (base, "judged the same encoder on the same images"),
        "name": (probe(tmp_path, predictions(seed=1), name="mae-1"), r"called pacx-0, mae-1.*--name"),
    }
    for run, message in wrong.values():
        with pytest.raises(PacxError, match=message):
            pool(runs=[base, run], out=tmp_path / "pool")
    with pytest.raises(PacxError, match="needs two runs at least; found 1"):
        pool(runs=[base], out=tmp_path / "pool")
    uneven = [probe(tmp_path, predictions(seed=1), name="pacx-6"), *folds(tmp_path, "mae", skill=1.0)[1:]]
    with pytest.raises(PacxError, match="different numbers of runs"):
        pool(runs=[base, *uneven], out=tmp_path / "pool", name="all")
    assert not (tmp_path / "pool").exists()


def test_pools_and_other_commands_are_not_pooled(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "pacx", skill=1.0, number=2)
    pool(runs=runs, out=tmp_path / "pool", draws=20)
    with pytest.raises(PacxError, match=r"is a run of `pool`.*probe, finetune, .* or explain"):
        pool(runs=[*runs, tmp_path / "pool"], out=tmp_path / "again")
    (runs[1] / "predictions.parquet").unlink()
    with pytest.raises(PacxError, match="no predictions left"):
        pool(runs=runs, out=tmp_path / "again")


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("pacx-0", "pacx-1"), "pacx"),
        (("random", "random"), "random"),
        (("pacx-r8-seed0", "pacx-r8-seed1"), "pacx-r8"),
        (("pacx.0.1", "pacx.1.1"), "pacx"),
        (("vit16", "vit16"), "vit16"),
    ],
)
def test_a_pool_is_called_by_what_its_encoders_have_in_common(
    tmp_path: Path, names: tuple[str, str], label: str
) -> None:
    runs = [
        probe(tmp_path, predictions(seed=seed, num_test=20), name=f"run-{seed}", encoder=name)
        for seed, name in enumerate(names)
    ]
    assert pool(runs=runs, out=tmp_path / "pool", draws=20)["results"]["encoder_name"] == label
    assert pool(runs=runs, out=tmp_path / "named", draws=20, name="ours")["results"]["encoder_name"] == "ours"


def test_measures_of_a_pool_are_means_with_the_spread_over_runs(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "pacx", skill=1.0)
    values = [0.2, 0.3, 0.7]
    for run, value in zip(runs, values, strict=True):
        content = read_result(run)
        names = {"task": "water", "label": "edema", "output": "edema", "fraction": 1.0, "subgroup_kind": ""}
        sizes = {"num": 60, "positives": 9, "num_patients": 30, "threshold": value, "low": 0.1, "high": 0.8, "note": ""}
        measure = {**names, "subgroup": "", "metric": "f1", "rule": "half", "value": value, **sizes}
        lonely = {**measure, "rule": "val_f1"}
        content["results"]["measures"] = [measure, *([lonely] if value == 0.2 else [])]
        write_json(run / "result.json", content)
    content, _ = pooled(runs, tmp_path / "pool")
    shared, lonely = content["results"]["measures"]
    assert shared["value"] == pytest.approx(0.4)
    assert shared["sd_over_runs"] == pytest.approx(np.std(values, ddof=1))
    assert (shared["num"], shared["num_runs"], shared["note"]) == (60, 3, "")
    assert lonely["value"] is None or np.isnan(lonely["value"])
    assert lonely["note"] == "not defined in each of the 3 runs"


def measured(run: Path, *, seed: int, by_sex: bool = False) -> Path:
    """Add what a probe measures, with thresholds from other predictions as its validation images'."""
    table = pd.read_parquet(run / "predictions.parquet")
    val = predictions(seed=seed, fold=9)
    val.to_parquet(run / "val_predictions.parquet")
    content = read_result(run)
    images = table[["image_id"]].drop_duplicates()
    images = images.assign(sex=np.where(np.arange(len(images)) % 2, "M", "F")) if by_sex else images
    content["results"]["measures"] = measure(table, val, images, draws=20).to_dict("records")
    images.to_parquet(run / "groups.parquet")
    write_json(run / "result.json", content)
    return run


QUESTION = ["task", "label", "output", "fraction", "metric", "rule"]


def test_measures_of_pooled_seeds_have_the_interval_of_their_mean(tmp_path: Path) -> None:
    runs = [measured(run, seed=seed) for seed, run in enumerate(seeds(tmp_path, "pacx", skill=1.0))]
    content, summary = pooled(runs, tmp_path / "pool")
    found = pd.DataFrame(content["results"]["measures"]).set_index(QUESTION)
    tables = {
        name: pd.concat(
            [pd.read_parquet(run / f"{name}.parquet").assign(run=number) for number, run in enumerate(runs)]
        )
        for name in ("predictions", "val_predictions")
    }
    expected = measure(*tables.values(), tables["predictions"][["image_id"]], draws=200).set_index(QUESTION)
    assert len(found) == len(expected) > 30
    for column in ("value", "low", "high"):
        own, other = (table[column].astype(float).loc[expected.index] for table in (found, expected))
        np.testing.assert_allclose(own, other, atol=1e-12)
    auroc_row = found.loc[("water", "edema", "edema", 1.0, "auroc", "")]
    of_summary = summary["water", "edema", 1.0]
    assert (auroc_row["low"], auroc_row["high"]) == pytest.approx((of_summary["low"], of_summary["high"]))
    thresholded = found.loc[("water", "edema", "edema", 1.0, "f1", "val_f1")]
    assert thresholded["low"] < thresholded["value"] < thresholded["high"]


def test_a_probe_that_could_score_nothing_is_not_taken_for_attention_without_masks(tmp_path: Path) -> None:
    run = probe(tmp_path, predictions(num_test=20), name="mae")
    pd.read_parquet(run / "predictions.parquet").iloc[:0].to_parquet(run / "predictions.parquet")
    member = read_member(run, tables={"probe": "predictions"})
    assert (member.tested, member.patients) == (frozenset(), frozenset())


def test_subgroups_of_pooled_seeds_have_the_interval_of_their_mean(tmp_path: Path) -> None:
    runs = [measured(run, seed=seed, by_sex=True) for seed, run in enumerate(seeds(tmp_path, "pacx", skill=1.0))]
    content, _ = pooled(runs, tmp_path / "pool")
    found = pd.DataFrame(content["results"]["measures"]).query("subgroup == 'F'").set_index(QUESTION)
    tables = {
        name: pd.concat(
            [pd.read_parquet(run / f"{name}.parquet").assign(run=number) for number, run in enumerate(runs)]
        )
        for name in ("predictions", "val_predictions")
    }
    sex = pd.read_parquet(runs[0] / "groups.parquet")
    expected = measure(*tables.values(), sex, draws=200).query("subgroup == 'F'").set_index(QUESTION)
    assert len(found) == len(expected) > 10
    for column in ("value", "low", "high"):
        own, other = (table[column].astype(float).loc[expected.index] for table in (found, expected))
        np.testing.assert_allclose(own, other, atol=1e-12)
    row = found.loc[("water", "edema", "edema", 1.0, "auroc", "")]
    assert row["low"] < row["value"] < row["high"] and row["num"] == 30
    (runs[1] / "groups.parquet").unlink()  # as an older run
    older, _ = pooled(runs, tmp_path / "older")
    without = pd.DataFrame(older["results"]["measures"]).query("subgroup == 'F'")
    assert without["low"].isna().all() and without["value"].notna().any()


def test_subgroups_of_pooled_folds_have_an_interval_that_holds_their_mean(tmp_path: Path) -> None:
    """In fold 2 an image in four is of a patient with a known label: edema is too rare there among either sex."""
    runs = []
    for fold in range(3):
        table = predictions(fold=fold, num_test=120)
        rare = (table["label"] == "edema") & (table["image_id"].str[-2:].astype(int) % 4 > 0) & (fold == 2)
        run = probe(tmp_path, table.mask(rare).dropna(subset=["label"]), name=f"mae-{fold}", store=f"fold {fold}")
        runs.append(measured(run, seed=0, by_sex=True))
    content, _ = pooled(runs, tmp_path / "pool")
    found = pd.DataFrame(content["results"]["measures"]).query("subgroup == 'M' and metric == 'auroc'")
    found = found.set_index("label")
    assert found.loc["effusion", "low"] < found.loc["effusion", "value"] < found.loc["effusion", "high"]
    assert np.isnan(found.loc["edema", "low"]) and found.loc["edema", "note"] == "not defined in each of the 3 runs"


def test_measures_of_pooled_folds_are_means_with_the_interval_of_all_patients(tmp_path: Path) -> None:
    runs = [measured(run, seed=0) for run in folds(tmp_path, "mae", skill=1.0)]
    content, summary = pooled(runs, tmp_path / "pool")
    found = pd.DataFrame(content["results"]["measures"]).set_index(QUESTION)
    own = found.loc[("water", "edema", "edema", 1.0, "auroc", "")]
    of_summary = summary["water", "edema", 1.0]
    for column in ("value", "low", "high"):
        assert own[column] == pytest.approx(of_summary[column])
    single = pd.concat([pd.DataFrame(read_result(run)["results"]["measures"]) for run in runs]).set_index(QUESTION)
    key = ("water", "edema", "edema", 1.0, "f1", "val_f1")
    assert found.loc[key, "value"] == pytest.approx(single.loc[key, "value"].astype(float).mean())
    assert found.loc[key, "low"] < found.loc[key, "value"] < found.loc[key, "high"]


def test_whom_the_encoders_of_a_pool_had_seen_is_said_of_the_pool(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "pacx", skill=1.0)
    said = [
        {"num_patients": 0, "num_test_patients": 30, "allowed": False, "checked": True, "unknown": []},
        {"num_patients": 7, "num_test_patients": 30, "allowed": True, "checked": True, "unknown": []},
        {"num_patients": 2, "num_test_patients": 30, "allowed": True, "checked": False, "unknown": ["imagenet"]},
    ]
    assert pooled(runs, tmp_path / "pool")[0]["results"]["seen_patients"] is None
    for number, (run, seen) in enumerate(zip(runs, said, strict=True)):
        content = read_result(run)
        content["results"]["seen_patients"] = seen
        write_json(run / "result.json", content)
        found = pooled(runs, tmp_path / f"pool-{number}")[0]["results"]["seen_patients"]
        assert found["num_patients"] == max(one["num_patients"] for one in said[: number + 1])
        assert found["checked"] is False  # not all runs say, or one of them does not know
    assert found == {**said[1], "checked": False, "unknown": ["imagenet"]}
    assert pooled(runs[:2], tmp_path / "known")[0]["results"]["seen_patients"] == said[1]


def test_sizes_of_pooled_folds_are_those_of_all_folds(tmp_path: Path) -> None:
    """Also the positives of the rarest output, which is not the same one in each fold."""
    runs = [run for seed in (0, 1) for run in folds(tmp_path, "mae", skill=1.0, seed=seed)]
    runs = [measured(run, seed=0, by_sex=True) for run in runs]
    content, summary = pooled(runs, tmp_path / "pool")
    found = pd.DataFrame(content["results"]["measures"])
    tables = pd.concat([pd.read_parquet(run / "predictions.parquet") for run in runs[:3]]).query("fraction == 1")
    positives = {str(label): int(own["target"].sum()) for label, own in tables.groupby("label")}
    rarest = [int(own.groupby("label")["target"].sum().min()) for _, own in tables.groupby(tables["image_id"].str[:5])]
    assert sum(rarest) < min(positives.values())
    everybody = found.query("subgroup_kind == '' and fraction == 1").groupby("label")
    for label, wanted in {**positives, MACRO: min(positives.values())}.items():
        sizes = everybody.get_group(label)[["num", "positives", "num_patients"]].drop_duplicates()
        assert sizes.to_numpy().tolist() == [[150, wanted, 75]]
        of_summary = summary["water", label, 1.0]
        assert (of_summary["num_test"], of_summary["positives"], of_summary["num_test_patients"]) == (150, wanted, 75)
    groups = found.query("subgroup_kind == 'sex' and label == 'edema'").drop_duplicates("subgroup")
    assert groups.set_index("subgroup")["num"].to_dict() == {"F": 75, "M": 75}
    assert groups["positives"].sum() == positives["edema"]
