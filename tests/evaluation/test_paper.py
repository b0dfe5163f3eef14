"""The paper's numbers: as the facts have them, found by name, and set beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import report_runs

from pacx.evaluation.paper import DATA_SETS, ENCODERS, PUBLISHED, data_set_of, encoder_of, of_data_set
from pacx.evaluation.report import report
from pacx.evaluation.reporting.published import published_part


def value(data_set: str, encoder: str, metric: str, **wanted: Any) -> tuple[float, float]:
    wanted = {"fraction": 1.0, "teacher": "", "source": "main results", **wanted}
    own = [one for one in of_data_set(data_set) if (one.encoder, one.metric) == (encoder, metric)]
    own = [one for one in own if all(getattr(one, key) == item for key, item in wanted.items())]
    assert len(own) == 1
    return own[0].value, own[0].tolerance


def test_numbers_are_those_of_the_paper() -> None:
    assert value("VinDr-CXR", "PaCX-MAE", "f1") == (0.256, 0.0005)
    assert value("QaTa-COV19", "MAE", "iou") == (0.726, 0.0005)
    assert value("MedMod", "regression only", "auroc", source="ablations") == (0.673, 0.0005)
    assert value("CheXchoNet", "PaCX-MAE", "auroc", fraction=0.01, source="label efficiency") == (0.742, 0.002)
    assert value("Symile-MIMIC", "MAE", "cosine", teacher="labs", source="alignment") == (0.239, 0.0005)


def test_there_are_nine_benchmarks_with_two_metrics_and_three_encoders_each() -> None:
    main = [one for one in PUBLISHED if one.source == "main results"]
    assert len(main) == 9 * 2 * 3
    assert len({one.data_set for one in main}) == 9
    assert {one.data_set for one in PUBLISHED} == set(DATA_SETS)
    assert {one.encoder for one in PUBLISHED} == set(ENCODERS)
    sizes = {source: sum(one.source == source for one in PUBLISHED) for source in {one.source for one in PUBLISHED}}
    assert sizes == {"main results": 54, "ablations": 24, "label efficiency": 16, "alignment": 4}
    keys = [(one.data_set, one.encoder, one.metric, one.fraction, one.teacher) for one in PUBLISHED]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nih", "NIH-14"),
        ("NIH ChestX-ray14", "NIH-14"),
        ("MEDMOD-PHYS", "MedMod"),
        ("VINDR", "VinDr-CXR"),
        ("composite_slvh_dlv", "CheXchoNet"),
        ("COVIDQU", "COVID-QU-Ex"),
        ("symile-mimic", "Symile-MIMIC"),
        ("phantom", None),
        ("nih-val", None),
        ("MEDMOD-MORT", None),
    ],
)
def test_data_sets_are_known_by_any_spelling_of_their_names(name: str, expected: str | None) -> None:
    assert data_set_of(name) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("pacx", "PaCX-MAE"),
        ("pacx-0", "PaCX-MAE"),
        ("mae-seed3", "MAE"),
        ("pacx-no-ecg", "labs teacher only"),
        ("contrastive-only-0", "contrastive only"),
        ("pacx-shuffled", None),
        ("random", None),
    ],
)
def test_encoders_are_known_by_their_labels(label: str, expected: str | None) -> None:
    assert encoder_of(label) == expected


def _content(*, probes: Any = (), segmentation: Any = (), alignment: Any = ()) -> dict[str, Any]:
    return {"probes": probes, "segmentation": segmentation, "alignment": alignment}


def _probe(store: str, task: str, value: float, *, half: float = 0.01, **more: Any) -> dict[str, Any]:
    names = {"encoder": "pacx", "task": task, "label": "macro", "fraction": 1.0}
    score = {**names, "value": value, "low": value - half, "high": value + half}
    measures = [{**names, **one} for one in more.get("measures", [])]
    protocols = {"pacx": more.get("protocol", {"name": "honest"})}
    return {"store": store, "protocols": protocols, "scores": [score], "measures": measures}


def test_ours_stands_beside_the_paper_with_the_difference_and_whether_its_number_is_in_our_interval() -> None:
    near, far = (published_part(_content(probes=[_probe("nih", "findings", value)])) for value in (0.79, 0.70))
    assert len(near) == 1
    assert (near[0]["published"], near[0]["value"], near[0]["inside"]) == (0.783, 0.79, True)
    assert near[0]["difference"] == pytest.approx(0.007)
    assert far[0]["inside"] is False


def test_a_published_number_is_only_as_exact_as_it_was_printed() -> None:
    # our interval ends at .7826, and .783 may stand for .7825
    within, beyond = (
        published_part(_content(probes=[_probe("nih", "x", value, half=0.01)])) for value in (0.7726, 0.7724)
    )
    assert within[0]["inside"] is True
    assert beyond[0]["inside"] is False


def test_f1_is_compared_at_the_published_threshold() -> None:
    common = {"metric": "f1", "subgroup_kind": "", "subgroup": "", "output": "macro", "note": ""}
    rows = [
        {**common, "rule": "half", "value": 0.25, "low": 0.24, "high": 0.26},
        {**common, "rule": "val_f1", "value": 0.4, "low": 0.39, "high": 0.41},
    ]
    found = published_part(_content(probes=[_probe("vindr", "findings", 0.87, measures=rows)]))
    assert [(one["metric"], one["value"]) for one in found] == [("auroc", 0.87), ("f1", 0.25)]
    classes = [{**rows[0], "rule": "argmax", "value": 0.9}, rows[0]]
    found = published_part(_content(probes=[_probe("chestx6", "findings", 0.99, measures=classes)]))
    assert [one["value"] for one in found] == [0.99, 0.9]


def test_a_fine_tuned_encoder_beside_a_published_probe_is_called_so() -> None:
    parts = [_probe("nih", "findings", 0.79, protocol={"name": name}) for name in ("honest", "finetune")]
    notes = [one["note"] for part in parts for one in published_part(_content(probes=[part]))]
    assert notes == ["", "fine-tuned, not a linear probe"]


def test_masks_of_validation_images_beside_a_published_number_are_called_so() -> None:
    entry = {"encoder": "mae", "iou": {"value": 0.72, "low": 0.71, "high": 0.73}, "dice": None, "split": "val"}
    part = {"store": "QaTa-COV19", "mask": "infection", "encoders": [entry]}
    (found,) = published_part(_content(segmentation=[part]))
    assert found["note"] == "per image, not pooled, on validation images, which also chose the epoch"


def test_a_store_with_several_tasks_is_told_by_their_names() -> None:
    part = _probe("nih", "nih", 0.79)
    part["scores"] += _probe("nih", "pneumonia", 0.6)["scores"]
    assert [one["value"] for one in published_part(_content(probes=[part]))] == [0.79]


def test_segmentation_and_alignment_have_published_numbers_too() -> None:
    interval = {"value": 0.72, "low": 0.71, "high": 0.73}
    entry = {"encoder": "mae", "iou": interval, "dice": None, "published": {"iou": 0.728, "dice": 0.84}}
    found = published_part(_content(segmentation=[{"store": "QaTa-COV19", "mask": "infection", "encoders": [entry]}]))
    assert [(one["metric"], one["published"], one["inside"]) for one in found] == [("iou", 0.726, True)]
    assert found[0]["note"] == "per image; pooled as published 0.728"
    teachers = {"ecg": {"cosine_centred": {"value": 0.3, "low": 0.28, "high": 0.32}}}
    aligned = {"store": "symile-mimic", "encoders": [{"encoder": "pacx", "teachers": teachers}]}
    found = published_part(_content(alignment=[aligned]))
    assert [(one["teacher"], one["published"], one["inside"]) for one in found] == [("ecg", 0.229, False)]


def test_the_report_shows_published_numbers_of_runs_that_are_named_like_the_papers(tmp_path: Path) -> None:
    for name in ("mae", "pacx"):
        report_runs.probe(tmp_path, name, num_test=60, draws=20, store={"name": "CheXchoNet", "hash": "x"})
        _keep_task(tmp_path / f"probe-{name}", "copd")
    report(runs=[tmp_path], out=tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    shown = {(one["encoder"], one["metric"], one["fraction"], one["published"]) for one in numbers["published"]}
    assert shown == {
        ("mae", "auroc", 1.0, 0.788), ("mae", "auroc", 0.1, 0.76), ("mae", "auroc", 0.01, 0.66),
        ("pacx", "auroc", 1.0, 0.803), ("pacx", "auroc", 0.1, 0.777), ("pacx", "auroc", 0.01, 0.742),
        ("mae", "f1", 1.0, 0.215), ("pacx", "f1", 1.0, 0.266),
    }  # fmt: skip
    for name in ("report.html", "report.md", "report.tex"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "Beside the paper" in text
        assert "0.803" in text


def _keep_task(folder: Path, task: str) -> None:
    path = folder / "result.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("summary", "measures"):
        content["results"][key] = [row for row in content["results"][key] if row["task"] == task]
    path.write_text(json.dumps(content), encoding="utf-8")
    table = pd.read_parquet(folder / "predictions.parquet")
    table[table["task"] == task].to_parquet(folder / "predictions.parquet")


def test_simulated_stores_have_nothing_beside_them(tmp_path: Path) -> None:
    report_runs.probe(tmp_path, "mae", num_test=40, draws=20)
    report(runs=[tmp_path], out=tmp_path / "report")
    assert json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["published"] == []
    assert 'id="paper"' not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
