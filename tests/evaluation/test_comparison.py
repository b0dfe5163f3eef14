import numpy as np
import pandas as pd
import pytest

from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_attention, compare_probes
from pacx.evaluation.reporting.group_scores import GroupScores
from pacx.statistics import auroc, delong_difference, holm, paired_auroc_difference


def _predictions(*, noise, seeds=(0,), images=80, outputs=("sick",), task="t"):
    parts = []
    for seed in seeds:
        for k, output in enumerate(outputs):
            rng = np.random.default_rng(100 * seed + k)
            target = (np.arange(images) % (k + 3) == 0).astype(int)
            parts.append(
                pd.DataFrame(
                    {
                        "task": task,
                        "label": "sick",
                        "output": output,
                        "fraction": 0.1,
                        "seed": seed,
                        "image_id": [f"i{i:03d}" for i in range(images)],
                        "patient_id": [f"p{i // 2}" for i in range(images)],
                        "target": target,
                        "score": target + noise * rng.normal(size=images),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def test_one_seed_equals_the_paired_difference_of_the_statistics_module():
    a, b = _predictions(noise=0.5), _predictions(noise=2.0)
    expected = paired_auroc_difference(a["target"], a["score"], b["score"], a["patient_id"], draws=200)
    row = compare_probes(a, b.sample(frac=1, random_state=0), draws=200).iloc[0]
    assert np.allclose(row[["difference", "low", "high", "p_value"]].astype(float), expected)
    assert row["value_a"] - row["value_b"] == pytest.approx(row["difference"])
    assert (row["num_test"], row["num_test_patients"]) == (80, 40)


def test_swapping_the_sides_swaps_the_sign():
    a, b = _predictions(noise=0.5, seeds=(0, 1)), _predictions(noise=2.0, seeds=(0, 1))
    forth, back = compare_probes(a, b).iloc[0], compare_probes(b, a).iloc[0]
    assert forth["difference"] == pytest.approx(-back["difference"])
    assert forth["low"] == pytest.approx(-back["high"])
    assert forth["p_value"] == back["p_value"]


def test_an_encoder_does_not_differ_from_itself():
    a = _predictions(noise=1.0, seeds=(0, 1, 2))
    row = compare_probes(a, a).iloc[0]
    assert (row["difference"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)


def test_p_values_are_adjusted_over_all_questions_of_the_comparison():
    sides = [
        pd.concat([_predictions(noise=noise, task=task) for task, noise in tasks.items()])
        for tasks in ({"same": 1.0, "better": 0.4, "odd": 1.4}, {"same": 1.0, "better": 3.0, "odd": 1.5})
    ]
    table = compare_probes(*sides).set_index("task")
    assert table["p_holm"].to_numpy() == pytest.approx(holm(table["p_value"]))
    assert table.loc["better", "p_holm"] == pytest.approx(3 * table.loc["better", "p_value"])
    assert table.loc["same", "p_holm"] == 1


def test_delongs_p_value_is_given_where_every_patient_has_one_image():
    a, b = _predictions(noise=0.5), _predictions(noise=2.0)
    assert np.isnan(compare_probes(a, b, draws=20).iloc[0]["p_delong"])
    single = [side.assign(patient_id=side["image_id"]) for side in (a, b)]
    expected = delong_difference(a["target"], a["score"], b["score"]).p_value
    assert compare_probes(*single, draws=20).iloc[0]["p_delong"] == pytest.approx(expected)
    several = [_predictions(noise=noise, outputs=("x", "y")) for noise in (0.5, 2.0)]
    several = [side.assign(patient_id=side["image_id"]) for side in several]
    assert np.isnan(compare_probes(*several, draws=20).iloc[0]["p_delong"])


def test_only_shared_seeds_are_compared():
    row = compare_probes(_predictions(noise=1.0, seeds=(0, 1, 2)), _predictions(noise=1.0, seeds=(1, 2, 3))).iloc[0]
    assert row["num_seeds"] == 2
    assert row["difference"] == 0


def test_all_trainings_on_all_labels_are_compared_whatever_their_seed():
    ours = pd.concat(
        [_predictions(noise=noise, seeds=(seed,)).assign(run=seed) for seed, noise in enumerate((1, 2, 4))]
    )
    ours, theirs = ours.assign(fraction=1.0), _predictions(noise=1.5, seeds=(5,)).assign(fraction=1.0)
    row = compare_probes(ours, theirs, draws=100).iloc[0]
    assert (row["num_runs_a"], row["num_runs_b"], row["note"]) == (3, 1, "")
    values = [auroc(own["target"], own["score"]) for _, own in ours.groupby("seed")]
    assert row["value_a"] == pytest.approx(np.mean(values))
    assert row["value_b"] == pytest.approx(auroc(theirs["target"], theirs["score"]))
    assert row["low"] < row["difference"] == pytest.approx(row["value_a"] - row["value_b"])


def test_trainings_that_are_left_out_are_counted():
    ours, theirs = _predictions(noise=1.0, seeds=(0, 1, 2)), _predictions(noise=1.0, seeds=(1,))
    assert compare_probes(ours, theirs).iloc[0]["note"].startswith("2 of the 3 trainings of the first had")
    assert (
        "1 of the 2 trainings of the second"
        in compare_probes(theirs, _predictions(noise=1, seeds=(1, 4))).iloc[0]["note"]
    )


def test_an_output_that_only_other_subsets_could_teach_is_not_asked_of_the_shared_one():
    both = _predictions(noise=1.0, seeds=(0, 1), outputs=("x", "y"))
    ours = both[(both["output"] == "x") | (both["seed"] == 1)]
    theirs = _predictions(noise=2.0, seeds=(0,))
    row = compare_probes(ours.assign(output=ours["output"].replace("x", "sick")), theirs).iloc[0]
    x = ours[(ours["output"] == "x") & (ours["seed"] == 0)]
    assert row["value_a"] == pytest.approx(auroc(x["target"], x["score"]))


def test_a_question_that_cannot_be_compared_does_not_take_the_others_with_it():
    ours = pd.concat([_predictions(noise=1.0), _predictions(noise=1.0, task="other", images=78)])
    theirs = pd.concat([_predictions(noise=2.0), _predictions(noise=2.0, task="other")])
    table = compare_probes(ours, theirs, draws=50).set_index("task")
    assert np.isfinite(table.loc["t", "difference"])
    assert np.isnan(table.loc["other", "difference"])
    assert "same images" in table.loc["other", "note"]
    assert table.loc["t", "p_holm"] == table.loc["t", "p_value"]


def test_probes_without_a_common_subset_are_refused():
    with pytest.raises(PacxError, match=r"no training subset for t/sick at 10% of the labels: seeds \[0\] and \[1\]"):
        compare_probes(_predictions(noise=1.0), _predictions(noise=1.0, seeds=(1,)))


def test_multiclass_outputs_are_averaged():
    row = compare_probes(_predictions(noise=0.1, outputs=("x", "y")), _predictions(noise=5.0, outputs=("x", "y"))).iloc[
        0
    ]
    assert row["value_a"] > 0.99
    assert row["label"] == "sick"


def test_other_test_images_are_refused():
    with pytest.raises(PacxError, match="same images"):
        compare_probes(_predictions(noise=1.0), _predictions(noise=1.0, images=78))


def test_probes_without_a_common_task_are_refused():
    with pytest.raises(PacxError, match="in common"):
        compare_probes(_predictions(noise=1.0), _predictions(noise=1.0, task="other"))


def test_attention_is_compared_image_by_image(tmp_path):
    rng = np.random.default_rng(0)
    base = pd.DataFrame(
        {
            "image_id": np.tile([f"i{i}" for i in range(30)], 2),
            "patient_id": np.tile([f"p{i // 3}" for i in range(30)], 2),
            "region": np.repeat(["heart", "lung"], 30),
            "mass": rng.random(60),
            "area": 0.2,
        }
    )
    more = base.assign(mass=base["mass"] + np.where(base["region"] == "heart", 0.1, 0.0))
    more.to_parquet(tmp_path / "mass.parquet")
    table = compare_attention(tmp_path / "mass.parquet", base.iloc[::-1]).set_index("region")
    assert table.loc["heart", "difference"] == pytest.approx(0.1)
    assert table.loc["heart", "low"] == pytest.approx(0.1)
    assert table.loc["lung", "p_value"] == 1
    assert table.loc["heart", "num_images"] == 30


def test_images_without_a_map_on_one_side_are_in_no_number():
    table = pd.DataFrame(
        {"image_id": list("abcd"), "patient_id": list("abcd"), "region": "heart", "mass": [0.1, 0.2, 0.3, 0.4]}
    )
    row = compare_attention(table, table.assign(mass=[np.nan, 0.1, 0.1, 0.1]), draws=50).iloc[0]
    assert (row["value_a"], row["value_b"], row["num_images"]) == (pytest.approx(0.3), pytest.approx(0.1), 3)
    assert row["difference"] == pytest.approx(0.2)


def test_groups_of_tasks_compare_the_same_trainings():
    pooled = pd.concat([_predictions(noise=noise, seeds=(seed,)).assign(run=seed) for seed, noise in enumerate((1, 3))])
    tables = {"ours": pooled.assign(fraction=1.0), "theirs": _predictions(noise=1.5, seeds=(5,)).assign(fraction=1.0)}
    tables = {name: pd.concat([table, table.assign(fraction=0.1)]) for name, table in tables.items()}
    scores, row = GroupScores(tables, draws=100), compare_probes(*tables.values(), draws=100).iloc[0]
    found = scores.difference("ours", "theirs", {"t": "sick"}, fraction=1.0)
    for key in ("value_a", "value_b", "difference", "low", "high"):
        assert found[key] == pytest.approx(row[key])
    assert np.isnan(scores.score("ours", {"t": "sick"}, fraction=0.1, among=["theirs"])["value"])  # no subset in common


def test_a_missing_file_is_a_users_error(tmp_path):
    with pytest.raises(PacxError, match="does not exist"):
        compare_probes(tmp_path / "none.parquet", tmp_path / "none.parquet")
