import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from teacher_store import LABS, make_store

from pacx.data.ecg.recipe import prepare_ecg
from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.labs_autoencoder import LabsAutoencoder, save_labs_autoencoder
from pacx.models.weights import weights_hash
from pacx.stages.teachers import open_teacher

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("teachers") / "store", num_rows=20)


@pytest.fixture(scope="module")
def ecg_net() -> EcgNet:
    torch.manual_seed(0)
    return EcgNet(EcgNetConfig(2, stem_width=16, widths=(16, 32), blocks=(1, 1), batch_norm=True)).eval()


@pytest.fixture(scope="module")
def ecg_folder(ecg_net, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("ecg-run")
    preprocessing = {"recipe": "ecgfounder-1", "rate": 100}
    save_ecg_net(ecg_net, run / "teacher", labels=("a", "b"), preprocessing=preprocessing, training={})
    return run


def labs_folder(path: Path, store: Store, *, labs: list[str] = LABS, units: str = "mg/dL") -> Path:
    torch.manual_seed(0)
    values = store.labs.reindex(columns=labs).fillna(dict.fromkeys(set(labs) - set(LABS), 1.0))
    reference = LabReference.fit(values, units=dict.fromkeys(labs, units))
    net = LabsAutoencoder(len(labs), hidden=8, dim=5)
    save_labs_autoencoder(net, path / "teacher", reference=reference.to_dict(), training={})
    return path


def test_an_ecg_teacher_embeds_with_its_own_preprocessing(store, ecg_folder, ecg_net):
    teacher = open_teacher(ecg_folder, workers=1)
    rows = np.array([7, 0, 3])
    prepared = np.stack([prepare_ecg(store.ecg[row], rate=100) for row in rows])
    expected = ecg_net.features(torch.from_numpy(prepared)).detach().numpy()
    embeddings = teacher.embed(store, rows, batch_size=2)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert embeddings.dtype == np.float32
    assert (teacher.name, teacher.kind, teacher.dim) == ("ecg", "ecg", 32)
    assert teacher.weights_hash == weights_hash(ecg_net)
    assert teacher.preprocessing == {"recipe": "ecgfounder-1", "rate": 100}


def test_presence_is_what_the_store_has(store, ecg_folder, tmp_path):
    np.testing.assert_array_equal(open_teacher(ecg_folder).present(store), np.arange(20) % 10 != 4)
    labs = open_teacher(labs_folder(tmp_path / "labs", store)).present(store)
    np.testing.assert_array_equal(labs, store.labs.notna().any(axis=1))
    assert not labs[[9, 19]].any()


def test_a_hole_is_never_embedded(store, ecg_folder, tmp_path):
    for teacher, hole in ((open_teacher(ecg_folder), 4), (open_teacher(labs_folder(tmp_path / "labs", store)), 9)):
        with pytest.raises(PacxError, match="have no input for the teacher"):
            teacher.embed(store, np.array([0, hole]))
        assert teacher.embed(store, np.array([], dtype=np.int64)).shape == (0, teacher.dim)


def test_a_labs_teacher_sees_percentiles_and_zeros_under_the_mask(store, tmp_path):
    folder = labs_folder(tmp_path / "labs", store)
    teacher = open_teacher(folder / "teacher", name="blood")
    rows = np.array([5, 1, 2])
    percentiles, observed = LabReference.load(folder / "teacher" / "reference.json").transform(store.labs.iloc[rows])
    assert (percentiles[observed == 0] == 0).all()
    torch.manual_seed(0)
    net = LabsAutoencoder(4, hidden=8, dim=5).eval()
    expected = net.encoder(torch.from_numpy(np.concatenate([percentiles, observed], axis=1))).detach().numpy()
    np.testing.assert_allclose(teacher.embed(store, rows, batch_size=2), expected, atol=1e-6)
    assert (teacher.name, teacher.kind, teacher.dim) == ("blood", "labs", 5)


def test_labs_are_matched_by_name_and_differences_are_noted(store, tmp_path, caplog):
    teacher = open_teacher(labs_folder(tmp_path / "labs", store, labs=["Sodium", "Troponin"]))
    with caplog.at_level(logging.INFO, logger="pacx"):
        present = teacher.present(store)
        teacher.present(store)
    np.testing.assert_array_equal(present, store.labs["Sodium"].notna())
    assert [record.getMessage() for record in caplog.records] == [
        "labs: labs that the teacher does not know are ignored: Creatinine, Potassium, Urea",
        "labs: labs that the store lacks count as unobserved: Troponin",
    ]


def test_another_unit_is_refused_and_another_spelling_is_not(store, tmp_path):
    teacher = open_teacher(labs_folder(tmp_path / "si", store, units="mmol/L"))
    with pytest.raises(
        PacxError, match=r"'Creatinine' is in mg/dL in store 'toy', but the teacher was fitted in mmol/L"
    ):
        teacher.present(store)
    assert open_teacher(labs_folder(tmp_path / "us", store, units="MG/DL")).present(store).any()


def test_a_stream_is_cut_into_batches_in_order_whatever_the_number_of_workers(store, ecg_folder, tmp_path):
    for folder in (ecg_folder, labs_folder(tmp_path / "labs", store)):
        rows = np.flatnonzero(open_teacher(folder).present(store))[:7]
        parts = [
            list(open_teacher(folder, workers=workers).stream(store, rows, batch_size=3)) for workers in (1, 2, None)
        ]
        assert [[len(batch) for batch in part] for part in parts] == [[3, 3, 1]] * 3
        for part in parts[1:]:
            np.testing.assert_array_equal(np.concatenate(part), np.concatenate(parts[0]))


def test_large_lab_tables_are_transformed_in_pieces(store, tmp_path, monkeypatch):
    folder = labs_folder(tmp_path / "labs", store)
    whole = open_teacher(folder)
    rows = np.flatnonzero(whole.present(store))
    expected = list(whole.stream(store, rows, batch_size=3))
    monkeypatch.setattr("pacx.stages.teachers._LAB_ROWS", 7)
    pieces = open_teacher(folder)
    np.testing.assert_array_equal(pieces.present(store), whole.present(store))
    for mine, theirs in zip(pieces.stream(store, rows, batch_size=3), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_another_reference_is_another_teacher_though_the_weights_are_the_same(store, tmp_path):
    folder = labs_folder(tmp_path / "labs", store)
    first = open_teacher(folder)
    reference = LabReference.fit(store.labs * 2, units=dict.fromkeys(LABS, "mg/dL"))
    reference.save(folder / "teacher" / "reference.json")
    second = open_teacher(folder)
    assert second.weights_hash == first.weights_hash
    assert second.preprocessing["reference_hash"] != first.preprocessing["reference_hash"]


def test_a_device_that_is_not_there_is_refused(ecg_folder):
    for device in ("cuda:77", "abacus"):
        with pytest.raises(PacxError, match=f"no device '{device}' here"):
            open_teacher(ecg_folder, device=device)


def test_the_published_checkpoint_is_a_teacher_of_500_hz(tmp_path):
    torch.manual_seed(0)
    net = EcgNet()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "12_lead_ECGFounder.pth")
    teacher = open_teacher(tmp_path / "12_lead_ECGFounder.pth")
    assert (teacher.name, teacher.dim) == ("ecgfounder", 1024)
    assert teacher.preprocessing == {"recipe": "ecgfounder-1", "rate": 500}
    assert teacher.weights_hash == weights_hash(net)


def test_what_is_no_teacher_is_refused(tmp_path, ecg_folder):
    with pytest.raises(PacxError, match="is not a teacher"):
        open_teacher(tmp_path)
    with pytest.raises(PacxError, match=r"12_lead_ECGFounder\.pth does not exist\. .* PKUDigitalHealth/ECGFounder\)"):
        open_teacher(tmp_path / "12_lead_ECGFounder.pth")
    (tmp_path / "config.json").write_text(json.dumps({"kind": "ppg"}))
    with pytest.raises(PacxError, match="kind 'ppg'; teachers are of kind 'ecg' or 'labs'"):
        open_teacher(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": "pacx-encoder-1"}))
    with pytest.raises(PacxError, match="kind None"):
        open_teacher(tmp_path)


def test_a_preprocessing_of_a_later_version_is_refused(ecg_net, tmp_path):
    preprocessing = {"recipe": "ecgfounder-9", "rate": 100}
    save_ecg_net(ecg_net, tmp_path / "t", labels=("a", "b"), preprocessing=preprocessing, training={})
    with pytest.raises(PacxError, match="'ecgfounder-9' is not known"):
        open_teacher(tmp_path / "t")


def test_a_network_and_a_reference_that_disagree_are_refused(store, tmp_path):
    folder = labs_folder(tmp_path / "labs", store)
    LabReference.fit(pd.DataFrame({"A": [1.0]})).save(folder / "teacher" / "reference.json")
    with pytest.raises(PacxError, match="has 1 labs, the network 4"):
        open_teacher(folder)
