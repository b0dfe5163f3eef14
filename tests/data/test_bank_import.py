import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pacx.data.bank_import import import_bank
from pacx.data.embedding_files import file_hash
from pacx.errors import PacxError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype(np.float32)


class Toy(SimpleNamespace):
    def __len__(self):
        return len(self.manifest)


@pytest.fixture
def toy():
    table = {"image_id": list("abcdef"), "patient_id": list("112334"), "study_id": list("uvwxyz")}
    return Toy(name="toy", content_hash="h", manifest=pd.DataFrame(table))


def array(path, x=X):
    np.save(path, x)
    return path


def text(path, ids):
    path.write_text("\n".join(ids) + "\n")
    return str(path)


def run(toy, files, tmp_path, **more):
    bank, counts = import_bank(toy, files, tmp_path / "bank", name="ppg", **more)
    bank.check(toy)
    return bank, counts


def test_embeddings_find_their_rows_by_id_whatever_their_order(toy, tmp_path):
    ids = text(tmp_path / "ids.txt", ["d", "a", "f"])
    bank, counts = run(toy, [array(tmp_path / "x.npy", X[:3])], tmp_path, ids=[ids])
    np.testing.assert_array_equal(bank.embeddings, [X[1], 0 * X[0], 0 * X[0], X[0], 0 * X[0], X[2]])
    assert bank.present.tolist() == [True, False, False, True, False, True]
    assert counts == {"num_unknown": 0, "num_repeated": 0, "num_with_nan": 0, "num_all_zero": 0}


def test_the_meta_says_what_was_imported(toy, tmp_path):
    file = array(tmp_path / "x.npy")
    bank, _ = run(toy, [file], tmp_path, ids=["order"], kind="wave")
    assert (bank.name, bank.meta["kind"], bank.dim) == ("ppg", "wave", 4)
    assert bank.meta["source"] == [{"file": "x.npy", "rows": 6, "sha256": file_hash(file)}]
    assert bank.meta["store"] == {"name": "toy", "hash": "h"}
    assert len(bank.meta["weights_hash"]) == 64 and bank.meta["pacx_version"]
    np.testing.assert_array_equal(bank.embeddings, X)


@pytest.mark.parametrize("kind", ["npy", "bytes.npy", "integers.npy", "csv", "parquet"])
def test_ids_come_from_any_usual_file(toy, tmp_path, kind):
    path = tmp_path / f"ids.{kind}"
    if kind == "integers.npy":
        toy.manifest["image_id"] = list("123456")
    ids = toy.manifest["image_id"].tolist()[::-1]
    if kind.endswith("npy"):
        np.save(path, np.array(ids, dtype={"npy": str, "bytes.npy": "S4", "integers.npy": np.int64}[kind]))
    elif kind == "csv":
        pd.DataFrame({"age": range(6), "image_id": ids}).to_csv(path, index=False)
    else:
        pd.DataFrame({"any_name": ids}).to_parquet(path)
    bank, _ = run(toy, [array(tmp_path / "x.npy")], tmp_path, ids=[str(path)])
    np.testing.assert_array_equal(bank.embeddings, X[::-1])


def test_several_files_are_one_after_the_other(toy, tmp_path):
    files = [array(tmp_path / "train.npy", X[:4]), array(tmp_path / "val.npy", X[4:])]
    ids = [text(tmp_path / "train.txt", "fedc"), text(tmp_path / "val.txt", "ba")]
    assert np.array_equal(run(toy, files, tmp_path, ids=ids)[0].embeddings, X[::-1])
    assert np.array_equal(run(toy, files, tmp_path, ids=["order"])[0].embeddings, X)
    with pytest.raises(PacxError, match="2 files of embeddings need as many of ids; --ids names 1"):
        run(toy, files, tmp_path, ids=ids[:1])
    with pytest.raises(PacxError, match=r"train\.npy has 4 rows, .*val\.txt 2 ids"):
        run(toy, files, tmp_path, ids=ids[::-1])
    with pytest.raises(PacxError, match="different lengths"):
        run(toy, [files[0], array(tmp_path / "short.npy", X[:2, :3])], tmp_path, ids=["order"])


def test_a_parquet_file_may_hold_lists_or_a_column_per_number(toy, tmp_path):
    lists = pd.DataFrame({"image_id": list("fedcba"), "embedding": list(X), "site": ["x"] * 6})
    lists.at[2, "embedding"] = None
    lists.to_parquet(tmp_path / "lists.parquet")
    bank, counts = run(toy, [tmp_path / "lists.parquet"], tmp_path)
    np.testing.assert_array_equal(bank.embeddings[[5, 4, 2]], X[[0, 1, 3]])
    assert not bank.present[3] and counts["num_with_nan"] == 1
    wide = pd.DataFrame(X, columns=[f"e{i}" for i in range(4)]).assign(who=list("abcdef"), patient_id=9)
    wide.to_parquet(tmp_path / "wide.parquet")
    np.testing.assert_array_equal(run(toy, [tmp_path / "wide.parquet"], tmp_path, ids=["who"])[0].embeddings, X)
    with pytest.raises(PacxError, match=r"no column 'image_id'. It has: e0, e1, e2, e3, who, patient_id"):
        run(toy, [tmp_path / "wide.parquet"], tmp_path)
    wide.to_parquet(tmp_path / "text.parquet")
    with pytest.raises(PacxError, match="columns that are no numbers: who"):
        run(toy, [tmp_path / "text.parquet"], tmp_path, ids=["patient_id"])


@pytest.mark.parametrize("label", [None, "row"])
def test_row_labels_that_pandas_saves_are_no_part_of_an_embedding(toy, tmp_path, label):
    table = pd.DataFrame(X, columns=[f"e{i}" for i in range(4)]).assign(image_id=list("abcdef"))
    table.sample(frac=1, random_state=0).rename_axis(label).to_parquet(tmp_path / "shuffled.parquet")
    np.testing.assert_array_equal(run(toy, [tmp_path / "shuffled.parquet"], tmp_path)[0].embeddings, X)
    table.set_index("image_id").to_parquet(tmp_path / "ids.parquet")  # here the labels are the ids
    np.testing.assert_array_equal(run(toy, [tmp_path / "ids.parquet"], tmp_path)[0].embeddings, X)


def test_one_embedding_of_a_patient_goes_to_all_rows_of_that_patient(toy, tmp_path):
    pd.DataFrame({"patient_id": [3, 1], "e": [1.0, 2.0], "f": [5.0, 6.0]}).to_parquet(tmp_path / "p.parquet")
    bank, _ = run(toy, [tmp_path / "p.parquet"], tmp_path, match="patient_id")
    np.testing.assert_array_equal(bank.embeddings[:, 0], [2, 2, 0, 1, 1, 0])
    np.testing.assert_array_equal(bank.present, [True, True, False, True, True, False])


def test_nan_makes_a_hole_and_infinity_an_error(toy, tmp_path):
    x = X.copy()
    x[2, 1] = np.nan
    bank, counts = run(toy, [array(tmp_path / "x.npy", x)], tmp_path, ids=["order"])
    assert counts["num_with_nan"] == 1 and bank.present.sum() == 5 and not bank.embeddings[2].any()
    x[[1, 4], 0] = [np.inf, -np.inf]
    with pytest.raises(PacxError, match=r"2 embeddings hold infinite numbers, .*: b, e"):
        run(toy, [array(tmp_path / "x.npy", x)], tmp_path, ids=["order"])
    with pytest.raises(PacxError, match="too large ones for float32"):
        run(toy, [array(tmp_path / "x.npy", X.astype(np.float64) * 1e300)], tmp_path, ids=["order"])
    x[[1, 4], 0], x[3] = 0, 1e30  # finite itself, and its length is not
    with pytest.raises(PacxError, match=r"1 embeddings hold .* too large ones for float32 to have a length: d\."):
        run(toy, [array(tmp_path / "x.npy", x)], tmp_path, ids=["order"])
    with pytest.raises(PacxError, match="All embeddings hold NaN"):
        run(toy, [array(tmp_path / "x.npy", np.full((6, 2), np.nan))], tmp_path, ids=["order"])
    assert not (tmp_path / "bank" / ".partial").exists()


def test_unknown_ids_are_an_error_unless_they_may_be_ignored(toy, tmp_path):
    file, ids = array(tmp_path / "x.npy", X[:3]), text(tmp_path / "ids.txt", ["a", "nobody", "b"])
    with pytest.raises(PacxError, match=r"1 of 3 ids are no image_id of store 'toy': nobody.*--ignore-unknown"):
        run(toy, [file], tmp_path, ids=[ids])
    bank, counts = run(toy, [file], tmp_path, ids=[ids], ignore_unknown=True)
    assert counts["num_unknown"] == 1
    np.testing.assert_array_equal(bank.embeddings[:2], X[[0, 2]])
    with pytest.raises(PacxError, match=r"3 of 3 ids are no patient_id.*The store has 1, 2, 3, 4"):
        run(toy, [file], tmp_path, ids=[ids], ignore_unknown=True, match="patient_id")


def test_an_id_twice_is_counted_if_it_says_the_same_and_refused_if_not(toy, tmp_path):
    ids = text(tmp_path / "ids.txt", "aba")
    bank, counts = run(toy, [array(tmp_path / "x.npy", X[[0, 1, 0]])], tmp_path, ids=[ids])
    assert counts["num_repeated"] == 1 and bank.present.sum() == 2
    with pytest.raises(PacxError, match="id 'a' comes twice, with different embeddings"):
        run(toy, [array(tmp_path / "x.npy", X[:3])], tmp_path, ids=[ids])
    x = X[[0, 1, 0]]
    x[0] = np.nan
    with pytest.raises(PacxError, match="id 'a' comes twice"):
        run(toy, [array(tmp_path / "x.npy", x)], tmp_path, ids=[ids])


def test_order_has_to_be_asked_for_and_to_fit(toy, tmp_path):
    with pytest.raises(PacxError, match=r"numbers without ids.*--ids order"):
        run(toy, [array(tmp_path / "x.npy")], tmp_path)
    with pytest.raises(PacxError, match="the files hold 5, store 'toy' 6"):
        run(toy, [array(tmp_path / "x.npy", X[:5])], tmp_path, ids=["order"])


def test_python_objects_are_refused_and_not_unpickled(toy, tmp_path):
    with pytest.raises(PacxError, match="holds Python objects"):
        run(toy, [array(tmp_path / "x.npy", np.array([None, {}] * 3))], tmp_path, ids=["order"])
    np.save(tmp_path / "ids.npy", np.array(list("abcdef"), dtype=object))
    with pytest.raises(PacxError, match=r"holds Python objects.*ids as text"):
        run(toy, [array(tmp_path / "x.npy")], tmp_path, ids=[str(tmp_path / "ids.npy")])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :, None], r"shape \(6, 4, 1\); embeddings are real numbers of shape \(N, D\)"),
        (X[:, 0], r"shape \(6,\)"),
        (X > 0, "holds bool"),
        (X.astype(complex), "holds complex128"),
    ],
)
def test_arrays_of_another_kind_are_refused(toy, tmp_path, x, message):
    with pytest.raises(PacxError, match=message):
        run(toy, [array(tmp_path / "x.npy", x)], tmp_path, ids=["order"])


def test_files_that_cannot_be_read_are_users_errors(toy, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "x.csv").write_text("a")
    (tmp_path / "text.npy").write_text("hello")
    for name, message in (
        ("x.npy", "no readable .npy"), ("x.parquet", "no readable parquet"), ("x.csv", "neither .npy nor .parquet"),
        ("absent.npy", "does not exist"), ("text.npy", r"no readable \.npy file \(it does not begin as one"),
    ):  # fmt: skip
        with pytest.raises(PacxError, match=message):
            run(toy, [tmp_path / name], tmp_path, ids=["order"])
    for name, content in (("a.txt", b"\xff\xfe\xff"), ("b.csv", b""), ("c.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PacxError, match=f"{name} cannot be read"):
            run(toy, [array(tmp_path / "y.npy")], tmp_path, ids=[str(tmp_path / name)])
    with pytest.raises(PacxError, match="1 of 2 ids are empty, first at row 1"):
        run(toy, [array(tmp_path / "y.npy", X[:2])], tmp_path, ids=[text(tmp_path / "ids.txt", ["a", " "])])
    with pytest.raises(PacxError, match="--match 'study_id': store 'toy' has the ids image_id, patient_id"):
        del toy.manifest["study_id"]
        run(toy, [tmp_path / "y.npy"], tmp_path, ids=["order"], match="study_id")


@pytest.mark.parametrize(
    ("item", "found"), [(["a", "b"], "string"), ([[1.0, 2.0], [3.0, 4.0]], "list<")], ids=["text", "nested"]
)
def test_lists_of_anything_but_numbers_are_refused(toy, tmp_path, item, found):
    pd.DataFrame({"image_id": list("abcdef"), "e": [item] * 6}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(PacxError, match=f"the lists in column 'e' hold (large_)?{found}"):
        import_bank(toy, [tmp_path / "x.parquet"], tmp_path / "bank", name="ppg")


def test_zeros_in_place_of_missing_embeddings_are_warned_of(toy, tmp_path, caplog):
    x = X.copy()
    x[:2] = 0
    with caplog.at_level(logging.WARNING, logger="pacx"):
        _, counts = run(toy, [array(tmp_path / "x.npy", x)], tmp_path, ids=["order"])
    assert counts["num_all_zero"] == 2 and "2 embeddings are all zeros" in caplog.text


def test_large_files_come_in_pieces(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("pacx.data.embedding_files._ROWS_AT_ONCE", 4)
    pd.DataFrame({"image_id": list("abcdef"), "e": list(X)}).to_parquet(tmp_path / "x.parquet")
    for file, ids in ((tmp_path / "x.parquet", None), (array(tmp_path / "x.npy"), ["order"])):
        np.testing.assert_array_equal(run(toy, [file], tmp_path, ids=ids)[0].embeddings, X)
