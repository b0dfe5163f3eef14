"""The head that a probe leaves behind says what the probe measured, calibrated."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.probe import probe
from pacx.models.encoder import load_encoder, weights_hash
from pacx.models.readout_head import find_head, load_head
from pacx.statistics import f1_threshold
from pacx.statistics.platt import fit_platt


def read(out: Path, name: str) -> pd.DataFrame:
    table = pd.read_parquet(out / f"{name}.parquet")
    return table[(table["fraction"] == table["fraction"].max()) & (table["seed"] == 0)]


@pytest.fixture(scope="module", params=["cls", "mean", "both", "auto"])
def kept(request, store, encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("kept") / "probe"
    result = probe(
        store=store.path, encoder=str(encoder_folder), out=out, fractions=[0.2, 1.0], seeds=2, draws=50,
        token=request.param, neighbours=False,
    )  # fmt: skip
    return result["results"], load_head(out), out


def features(store: Store, folder: Path, token: str) -> tuple[np.ndarray, np.ndarray]:
    rows = store.rows("test", needs=("image",))
    encoder = load_encoder(folder)
    tokens = encoder.tokens([store.images[row] for row in rows]).detach().numpy()
    by_name = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(axis=1)}
    both = np.concatenate([by_name["cls"], by_name["mean"]], axis=1)
    return rows, both if token == "both" else by_name[token]


def test_weights_give_the_calibrated_predictions(kept, store, encoder_folder):
    results, head, out = kept
    assert head.encoder_hash == weights_hash(load_encoder(encoder_folder))
    assert list(head.readout.names) == results["head"]
    rows, x = features(store, encoder_folder, head.readout.token)
    logits = pd.DataFrame(x @ head.weight.T + head.bias, columns=head.readout.names)
    logits.index = store.manifest["image_id"].iloc[rows]
    test, val = read(out, "predictions"), read(out, "val_predictions")
    for (task, label, output), own in test.groupby(["task", "label", "output"], observed=True):
        names = [
            one.name for one in head.readout.outputs if one.task == task and one.name in {output, f"{task}/{output}"}
        ]
        assert len(names) == 1
        before = val[(val["task"] == task) & (val["label"] == label) & (val["output"] == output)]
        platt = fit_platt(before["target"], before["score"])
        expected = platt.slope * own["score"].to_numpy() + platt.shift
        np.testing.assert_allclose(logits[names[0]].loc[own["image_id"]], expected, atol=2e-2, rtol=2e-2)


def test_outputs_are_named_and_measured(kept, store):
    _, head, out = kept
    by_name = {output.name: output for output in head.readout.outputs}
    # `side` is a task of its own and a label of `several`; the classes of `third` stand by themselves.
    assert {"side/side", "several/side", "partly", "coin", "third/top", "third/middle", "third/bottom"} <= set(by_name)
    assert "rare" not in by_name  # nothing to learn in training
    val, test = read(out, "val_predictions"), read(out, "predictions")
    own = val[(val["task"] == "several") & (val["label"] == "partly")]
    platt = fit_platt(own["target"], own["score"])
    cut = f1_threshold(own["target"], own["score"])
    assert by_name["partly"].threshold == pytest.approx(expit(platt.slope * cut + platt.shift), abs=1e-6)
    known = test[(test["task"] == "several") & (test["label"] == "partly")]
    called = known["score"] >= cut
    assert by_name["partly"].sensitivity == pytest.approx(called[known["target"] == 1].mean())
    assert by_name["partly"].specificity == pytest.approx(1 - called[known["target"] == 0].mean())
    assert by_name["partly"].num_test == len(known)
    low, value, high = (getattr(by_name["partly"], name) for name in ("auroc_low", "auroc", "auroc_high"))
    assert low <= value <= high
    train = store.manifest["partly"].iloc[store.rows("train", needs=("image",))]
    assert by_name["partly"].prevalence == pytest.approx(train.mean())


def test_an_output_that_validation_cannot_calibrate_is_left_as_it_is(kept):
    _, head, _ = kept
    (quiet,) = [output for output in head.readout.outputs if output.name == "quiet_val"]
    assert quiet.threshold == 0.5
    assert head.readout.calibration.method.startswith("Platt for ")


def test_the_paper_protocol_leaves_no_head(store, encoder_folder, tmp_path):
    out = tmp_path / "paper"
    probe(
        store=store.path, encoder=str(encoder_folder), out=out, protocol="paper", tasks=["side"], fractions=[1.0],
        seeds=1, epochs=1, draws=20,
    )  # fmt: skip
    assert find_head(out) is None
    with pytest.raises(PacxError, match="holds no trained head"):
        load_head(out)


def test_a_damaged_head_is_refused(kept, tmp_path):
    import shutil

    _, _, out = kept
    for name, content in (("head.safetensors", b"x" * 50), ("head.json", b"{}")):
        folder = tmp_path / name
        shutil.copytree(out / "head", folder)
        (folder / name).write_bytes(content)
        with pytest.raises(PacxError, match=r"cannot be read|has format"):
            load_head(folder)
