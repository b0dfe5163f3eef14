import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pacx.data.array_rows import open_array, read_row, split_row
from pacx.errors import PacxError


def test_a_reference_is_split_into_file_and_row():
    assert split_row("a/cxr_train.npy::17") == (Path("a/cxr_train.npy"), 17)
    assert split_row(Path("/a/b.npy::0")) == (Path("/a/b.npy"), 0)


@pytest.mark.parametrize("plain", ["a/b.png", "records/00001_lr", "a/b.npy", "c++::17", "a.png::3"])
def test_other_names_are_whole_files(plain):
    assert split_row(plain) == (Path(plain), None)


@pytest.mark.parametrize("row", ["-1", "x", "", "1.5", "²"])
def test_what_is_no_row_number_is_refused(row):
    with pytest.raises(PacxError, match="no row number"):
        split_row(f"a.npy::{row}")


def test_a_row_is_a_copy_with_the_type_of_the_file(tmp_path):
    values = np.arange(24, dtype=">i2").reshape(4, 2, 3)
    np.save(tmp_path / "a.npy", values)
    row = read_row(tmp_path / "a.npy", 2)
    np.testing.assert_array_equal(row, values[2])
    assert row.dtype == np.int16 and row.dtype.isnative and row.flags.writeable
    row[:] = 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)


def test_columns_first_arrays_give_the_same_rows(tmp_path):
    values = np.asfortranarray(np.arange(24.0).reshape(4, 6))
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_row(tmp_path / "a.npy", 3), values[3])


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_that_is_not_there_is_refused(row, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    with pytest.raises(PacxError, match=rf"rows 0 to 3 .*row {row} is asked for"):
        read_row(tmp_path / "a.npy", row)


def test_an_array_without_rows_is_refused(tmp_path):
    for values in (np.zeros((0, 2)), np.float64(3)):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(PacxError, match="no rows"):
            read_row(tmp_path / "a.npy", 0)


def test_damaged_and_foreign_files_are_refused_with_the_reason(tmp_path):
    np.save(tmp_path / "whole.npy", np.zeros((50, 30)))
    data = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:5000])
    (tmp_path / "header.npy").write_bytes(data[:40])
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("not an array at all, but text")
    for name, reason in {
        "cut": r"cut off \(5,000 bytes", "header": "cut off", "empty": "cut off", "text": "not a .npy file",
        "absent": "No such file",
    }.items():  # fmt: skip
        with pytest.raises(PacxError, match=rf"{name}\.npy cannot be .*{reason}"):
            open_array(tmp_path / f"{name}.npy")


def test_python_objects_are_refused_and_no_code_of_theirs_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.save(tmp_path / "a.npy", np.array([Trap(), 1], dtype=object), allow_pickle=True)
    with pytest.raises(PacxError, match="Python objects"):
        read_row(tmp_path / "a.npy", 0)
    assert not (tmp_path / "sprung").exists()


def test_a_file_is_opened_once_until_it_changes(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    first = open_array(tmp_path / "a.npy")
    assert open_array(tmp_path / "a.npy") is first
    np.save(tmp_path / "new.npy", np.ones((5, 2)))
    (tmp_path / "new.npy").replace(tmp_path / "a.npy")
    assert read_row(tmp_path / "a.npy", 4).tolist() == [1, 1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere a child counts its parent's peak too")
def test_rows_of_a_huge_array_are_read_in_the_memory_of_one(tmp_path):
    header = {"descr": "<f4", "fortran_order": False, "shape": (10_000, 3, 320, 320)}
    with (tmp_path / "big.npy").open("wb") as file:  # 12 GB of holes
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 10_000 * 3 * 320 * 320 * 4)
    code = (
        "import sys; from pathlib import Path; from pacx.data.array_rows import read_row\n"
        "from pacx.runs import peak_memory_mib\n"
        "print({read_row(Path(sys.argv[1]), row).shape for row in range(9_800, 10_000)})\n"
        "print(peak_memory_mib())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "big.npy"], capture_output=True, text=True, check=True
    )
    shape, peak = done.stdout.splitlines()
    assert shape == "{(3, 320, 320)}"
    assert float(peak) < 150, "MiB; the array has 11,719, and these 200 rows 234"
