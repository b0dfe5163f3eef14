import json

import jsonschema
import numpy as np
import pytest
from lab_runs import make_predictions

from pacx.evaluation.lab_scores import summarise_physiology
from pacx.evaluation.pool import pool
from pacx.evaluation.report import report
from pacx.runs import open_run

STORE = {"name": "ward", "hash": "h", "split_hash": "s"}


def make_run(path, *, encoder, noise, read_out="ridge", store=STORE, fold=0):
    with open_run(path, command="physiology", config={"store": "stores/ward", "draws": 50}) as run:
        run.read("store", path="stores/ward", **store)
        run.read("encoder", path=f"runs/{encoder}/encoder", name=encoder, hash=f"{encoder}-{fold}")
        table = make_predictions(noise=noise, fold=fold, seed=fold).drop(columns=["fold", "run"])
        table = table.assign(read_out=read_out)
        table.to_parquet(run.artefact("predictions", "predictions.parquet"))
        embedding = {
            "cosine": {"value": 0.4, "low": 0.3, "high": 0.5},
            "cosine_of_mean": {"value": 0.3, "low": 0.2, "high": 0.4},
            "difference": {"value": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01}, "n_test": 80,
        }  # fmt: skip
        run.finish(
            {
                "encoder_name": encoder,
                "protocol": {"read_out": read_out, "token": "cls", "draws": 50},
                "embeddings": {"ecg": embedding} if read_out == "heads" else {},
                **summarise_physiology(table, draws=50),
            }
        )
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "labs-random", encoder="random", noise=2.0)
    make_run(root / "labs-mae", encoder="mae", noise=0.8)
    make_run(root / "labs-pacx", encoder="pacx", noise=0.2)
    make_run(root / "heads-pacx", encoder="pacx", noise=0.3, read_out="heads")
    report(runs=[root], out=root / "report")
    return root / "report"


def test_encoders_and_heads_are_set_side_by_side_with_paired_differences(made):
    content = json.loads((made / "report.json").read_text())
    (part,) = content["physiology"]
    assert [one["encoder"] for one in part["encoders"]] == ["random", "mae", "pacx", "pacx (heads)"]
    assert content["baseline"] == "mae"
    rows = {(row["encoder"], row["metric"]): row for row in part["differences"]}
    value = {one["encoder"]: one["labs"][0]["spearman"]["value"] for one in part["encoders"]}
    for encoder in ("random", "pacx", "pacx (heads)"):
        assert rows[encoder, "spearman"]["difference"] == pytest.approx(value[encoder] - value["mae"])
    assert rows["pacx", "spearman"]["low"] > 0 > rows["random", "spearman"]["high"]


def test_the_numbers_follow_the_schema_and_the_page_has_the_section(made):
    from importlib import resources

    schema = json.loads((resources.files("pacx.evaluation") / "templates" / "report.schema.json").read_text("utf-8"))
    numbers = json.loads((made / "report.json").read_text())
    jsonschema.validate(numbers, schema)
    del numbers["physiology"][0]["encoders"][0]["labs"][0]["few"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(numbers, schema)
    page = (made / "report.html").read_text()
    assert 'id="physiology"' in page
    assert "80 values of 40 patients" in page
    assert "PaCX (heads)" in page
    assert "0.400 <small>[0.300, 0.500]" in page  # the predicted ECG embedding


def test_a_pool_over_folds_stands_for_its_runs(tmp_path):
    for encoder, noise in (("mae", 1.0), ("pacx", 0.2)):
        runs = [
            make_run(
                tmp_path / f"labs-{encoder}-{fold}", encoder=encoder, noise=noise, fold=fold,
                store={**STORE, "hash": f"h{fold}"},
            )
            for fold in range(2)
        ]  # fmt: skip
        pool(runs=runs, out=tmp_path / f"pool-{encoder}", draws=50)
    report(runs=[tmp_path], out=tmp_path / "report")
    (part,) = json.loads((tmp_path / "report" / "report.json").read_text())["physiology"]
    assert [(one["encoder"], one["run"]) for one in part["encoders"]] == [("mae", "pool-mae"), ("pacx", "pool-pacx")]
    assert [one["labs"][0]["n"] for one in part["encoders"]] == [160, 160]
    row = next(row for row in part["differences"] if row["metric"] == "spearman")
    assert row["n"] == 160 and row["low"] > 0


def test_encoders_tested_on_other_rows_are_shown_and_not_compared(tmp_path):
    make_run(tmp_path / "labs-mae", encoder="mae", noise=1.0)
    make_run(tmp_path / "labs-pacx", encoder="pacx", noise=0.2, fold=1)
    report(runs=[tmp_path], out=tmp_path / "report")
    (part,) = json.loads((tmp_path / "report" / "report.json").read_text())["physiology"]
    assert part["differences"] == []
    assert "not tested on the same values of 'crp'" in part["notes"][0]
    assert np.isfinite(part["encoders"][1]["labs"][0]["spearman"]["value"])
