import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pacx.data.bank import Bank
from pacx.errors import PacxError


@pytest.fixture
def bank():
    rng = np.random.default_rng(0)
    present = np.array([True, True, False, True, True, True])
    meta = {"teacher": "ecg", "kind": "ecg", "weights_hash": "abc", "store": {"name": "s", "hash": "h"}}
    return Bank(rng.normal(size=(6, 3)).astype(np.float32), present, tuple("abcdef"), meta)


def _store(ids, content_hash="h"):
    return SimpleNamespace(name="s", content_hash=content_hash, manifest=pd.DataFrame({"image_id": ids}))


def test_a_saved_bank_reads_back_with_zeros_where_the_teacher_had_nothing(bank, tmp_path):
    bank.save(tmp_path / "bank")
    read = Bank.open(tmp_path / "bank")
    assert np.array_equal(read.embeddings[bank.present], bank.embeddings[bank.present])
    assert not read.embeddings[2].any()
    assert np.array_equal(read.present, bank.present)
    assert read.image_ids == bank.image_ids
    assert (read.name, read.dim, len(read)) == ("ecg", 3, 6)
    assert read.meta["weights_hash"] == "abc"


def test_shuffling_keeps_each_splits_embeddings_but_gives_none_to_its_own_row(bank):
    split = np.array(["train"] * 4 + ["test"] * 2)
    patient = np.arange(6)
    shuffled = bank.shuffled(split, patient=patient, seed=1)
    for rows in ([0, 1, 3], [4, 5]):
        before = sorted(map(tuple, bank.embeddings[rows]))
        assert sorted(map(tuple, shuffled.embeddings[rows])) == before
    assert not (shuffled.embeddings == bank.embeddings)[bank.present].any()
    assert np.array_equal(shuffled.present, bank.present)
    assert np.array_equal(shuffled.embeddings, bank.shuffled(split, patient=patient, seed=1).embeddings)


def test_thinning_forgets_whole_patients_but_none_of_the_test_split_and_smaller_shares_are_nested():
    patient = np.repeat(np.arange(300), 2)
    split = np.where(patient % 3 == 0, "test", np.where(patient % 3 == 1, "val", "train"))
    rows = len(patient)
    bank = Bank(np.ones((rows, 2), np.float32), np.ones(rows, bool), tuple(map(str, range(rows))), {"teacher": "ecg"})
    half, quarter = (bank.thinned(share, split=split, patient=patient, seed=0).present for share in (0.5, 0.25))
    assert half[split == "test"].all()
    assert (half[0::2] == half[1::2]).all()  # both rows of a patient, or none
    assert 0.4 < half[split == "train"].mean() < 0.6
    assert not (quarter & ~half).any()
    assert quarter[split == "train"].mean() < 0.35
    other = Bank(bank.embeddings, bank.present, bank.image_ids, {"teacher": "labs"})
    theirs = other.thinned(0.5, split=split, patient=patient, seed=0).present
    both = (half & theirs)[split != "test"].mean()
    assert 0.18 < both < 0.32  # teachers lose different patients
    assert bank.thinned(1.0, split=split, patient=patient, seed=0).present.all()
    for share in (0.0, 1.5):
        with pytest.raises(PacxError, match="makes no sense"):
            bank.thinned(share, split=split, patient=patient, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_gives_no_row_an_embedding_of_its_own_patient(seed):
    patient = np.repeat(np.arange(12), [1, 3, 2, 1, 1, 2, 3, 1, 1, 2, 1, 2])
    rows = len(patient)
    own = np.stack([patient, np.arange(rows)], axis=1).astype(np.float32)
    ids = tuple(map(str, range(rows)))
    bank = Bank(own, np.ones(rows, bool), ids, {"teacher": "ecg"})
    shuffled = bank.shuffled(np.full(rows, "train"), patient=patient, seed=seed)
    assert (shuffled.embeddings[:, 0] != patient).all()
    assert sorted(shuffled.embeddings[:, 1]) == list(range(rows))


def test_a_bank_fits_only_the_store_that_it_was_made_from(bank):
    bank.check(_store(list("abcdef")))
    with pytest.raises(PacxError, match="Rows must agree"):
        bank.check(_store(list("abcdfe")))
    with pytest.raises(PacxError, match="5 images, of which 5"):
        bank.check(_store(list("abcde")))


def test_a_bank_of_a_store_that_was_made_anew_is_refused(bank):
    with pytest.raises(PacxError, match="earlier content"):
        bank.check(_store(list("abcdef"), content_hash="other"))


@pytest.mark.parametrize("name", ["meta.json", "embeddings.npy", "present.npy", "image_ids.json"])
def test_an_incomplete_bank_names_what_is_missing(bank, tmp_path, name):
    bank.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(PacxError, match=name):
        Bank.open(tmp_path)


def test_a_truncated_bank_is_a_users_error(bank, tmp_path):
    bank.save(tmp_path)
    whole = (tmp_path / "embeddings.npy").read_bytes()
    (tmp_path / "embeddings.npy").write_bytes(whole[:-8])
    with pytest.raises(PacxError, match="cannot be read"):
        Bank.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta.json", "[]", r"meta\.json holds list, not a JSON object"),
        ("image_ids.json", "5", r"image_ids\.json holds int, not a list of ids"),
        ("embeddings.npy", np.full((6, 3), "a"), r"embeddings\.npy holds <U1, not real numbers"),
        ("embeddings.npy", np.ones((6, 3), complex), r"embeddings\.npy holds complex128, not real numbers"),
        ("present.npy", np.full(6, "a"), r"present\.npy holds <U1, not true and false"),
    ],
)
def test_a_bank_with_content_of_another_type_is_a_users_error(bank, tmp_path, name, content, message):
    bank.save(tmp_path)
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(PacxError, match=message):
        Bank.open(tmp_path)


def test_a_bank_of_another_version_is_refused(bank, tmp_path):
    bank.save(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "bank_version": 99}))
    with pytest.raises(PacxError, match="99"):
        Bank.open(tmp_path)


def test_embeddings_that_are_not_finite_are_refused(bank):
    broken = bank.embeddings.copy()
    broken[0, 0] = np.nan
    with pytest.raises(PacxError, match="not finite"):
        Bank(broken, bank.present, bank.image_ids, bank.meta)
    broken[0, 0], broken[3, 0] = 0, 1e30  # its square is infinite in float32
    with pytest.raises(PacxError, match=r"holds 1 embeddings that are .* too large for float32 to have a length: d\."):
        Bank(broken, bank.present, bank.image_ids, bank.meta)
    broken[3, 0], broken[2, 0] = 0, np.nan  # row 2 is a hole
    Bank(broken, bank.present, bank.image_ids, bank.meta)


def test_an_opened_bank_leaves_its_embeddings_on_the_disk(bank, tmp_path):
    bank.save(tmp_path)
    read = Bank.open(tmp_path)
    assert isinstance(read.embeddings, np.memmap)
    assert not read.embeddings.flags.writeable
    assert read.embeddings[[0, 3]].flags.writeable  # what is taken out is a copy, as training wants it
    shuffled = read.shuffled(np.array(["train"] * 6), patient=np.arange(6), seed=0)
    assert np.array_equal(np.sort(shuffled.embeddings[bank.present, 0]), np.sort(bank.embeddings[bank.present, 0]))
    assert np.array_equal(Bank.open(tmp_path).embeddings, read.embeddings)


def test_a_bank_says_in_a_few_words_what_it_is(bank):
    lines = repr(bank).splitlines()
    assert lines[0] == "Bank 'ecg' (kind ecg): 5 of 6 rows, dim 3, of store 's'"
    assert "weights abc" in lines[1]


def test_blocks_hold_what_is_there_and_nothing_else(bank, monkeypatch):
    monkeypatch.setattr("pacx.data.bank._ROWS_AT_ONCE", 2)
    blocks = list(bank.blocks())
    assert [len(block) for block in blocks] == [2, 1, 2]
    assert np.array_equal(np.concatenate(blocks), bank.embeddings[bank.present])


def test_the_mean_cosine_is_over_all_pairs_of_present_rows(bank, monkeypatch):
    monkeypatch.setattr("pacx.data.bank._ROWS_AT_ONCE", 4)
    x = bank.embeddings[bank.present].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (x @ x.T)[~np.eye(5, dtype=bool)]
    found = bank.shape_of_cloud()
    assert found["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert found["constant_dims"] == 0


def test_numbers_that_are_the_same_for_everybody_are_counted():
    x = np.array([[1, 2, 0], [1, 3, 0], [9, 9, 9]], dtype=np.float32)
    bank = Bank(x, np.array([True, True, False]), tuple("abc"), {})
    assert bank.shape_of_cloud()["constant_dims"] == 2
    assert Bank(x, np.array([True, False, False]), tuple("abc"), {}).shape_of_cloud()["mean_cosine"] is None
