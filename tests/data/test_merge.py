"""Parts of a data set, prepared one by one and joined, are the store of the whole, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacx.data.merge import merge_stores
from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.errors import PacxError

ARRAYS = ("images.npy", "masks.npy", "ecg.npy")
KEYS = ("content_hash", "split_hash", "mean", "std", "fingerprint", "num_rows", "tasks", "patients_of", "lab_units")


@pytest.fixture(scope="module")
def covid(tmp_path_factory) -> Path:
    """A release with masks, in which one image cannot be read."""
    out = tmp_path_factory.mktemp("merge") / "covid"
    simulate(out=out, patients=30, size=32, seed=4, workers=1, ecg=False, labs=False, format="covid-qu-ex")
    broken = sorted(out.rglob("images/*.png"))[5]
    broken.write_bytes(broken.read_bytes()[:60])
    return out


@pytest.fixture(scope="module")
def symile(tmp_path_factory) -> Path:
    """A release with ECGs and labs."""
    out = tmp_path_factory.mktemp("merge") / "symile"
    simulate(out=out, patients=16, size=64, seed=3, workers=1, format="symile-mimic")
    return out


def part(name: str, root: Path, out: Path, shard: str | None = None, size: int = 32) -> Path:
    given = {} if name == "symile-mimic" else {"partial": True}
    prepare(name, root, size=size, workers=1, shard=shard, out=out, **given)
    return out


@pytest.mark.parametrize("name", ["covid-qu-ex", "symile-mimic"])
def test_the_joined_parts_are_the_whole(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    root = request.getfixturevalue("covid" if name == "covid-qu-ex" else "symile")
    whole = part(name, root, tmp_path / "whole")
    shards = [part(name, root, tmp_path / f"part-{i}", f"{i}/3") for i in (2, 1, 3)]
    result = merge_stores(shards, out=tmp_path / "joined")
    a, b = Store.open(whole), Store.open(tmp_path / "joined")
    for file in ARRAYS:
        assert (whole / file).is_file() == (tmp_path / "joined" / file).is_file()
        if (whole / file).is_file():
            assert (whole / file).read_bytes() == (tmp_path / "joined" / file).read_bytes()
    assert {key: a.meta[key] for key in KEYS} == {key: b.meta[key] for key in KEYS}
    assert a.manifest.equals(b.manifest)
    assert (a.labs is None) == (b.labs is None)
    if a.labs is not None and b.labs is not None:
        assert a.labs.equals(b.labs)
    for table in ("rejects.csv", "ecg-steps.csv"):
        assert (whole / table).is_file() == (tmp_path / "joined" / table).is_file()
        if (whole / table).is_file():
            assert (whole / table).read_text() == (tmp_path / "joined" / table).read_text()
    assert result["results"] == a.summary()
    assert sum(len(Store.open(path)) for path in shards) == len(a)


def test_an_interrupted_merge_starts_over(covid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [part("covid-qu-ex", covid, tmp_path / f"part-{i}", f"{i}/2") for i in (1, 2)]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pacx.data.merge._manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            merge_stores(shards, out=tmp_path / "joined")
    with pytest.raises(PacxError, match="unfinished"):
        Store.open(tmp_path / "joined")
    merge_stores(shards, out=tmp_path / "joined")
    whole = Store.open(part("covid-qu-ex", covid, tmp_path / "whole"))
    assert Store.open(tmp_path / "joined").content_hash == whole.content_hash
    rejects = (tmp_path / "joined" / "rejects.csv").read_text()
    assert rejects == (tmp_path / "whole" / "rejects.csv").read_text() and rejects.count(".png") == 1


def test_parts_that_are_no_whole_are_refused(covid: Path, tmp_path: Path) -> None:
    one, two = (part("covid-qu-ex", covid, tmp_path / f"part-{i}", f"{i}/3") for i in (1, 2))
    with pytest.raises(PacxError, match=r"Of the 3 parts of covid-qu-ex missing: 3\. Give each part once"):
        merge_stores([one, two], out=tmp_path / "joined")
    with pytest.raises(PacxError, match=r"missing: 2, 3; there twice: 1"):
        merge_stores([one, one], out=tmp_path / "joined")
    larger = part("covid-qu-ex", covid, tmp_path / "larger", "3/3", size=40)
    with pytest.raises(PacxError, match="is a part of another whole"):
        merge_stores([one, two, larger], out=tmp_path / "joined")
    whole = part("covid-qu-ex", covid, tmp_path / "whole")
    with pytest.raises(PacxError, match="whole is no such part"):
        merge_stores([one, whole], out=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "three", "1/", "1/9999"])
def test_a_shard_that_cannot_be_is_refused(covid: Path, tmp_path: Path, shard: str) -> None:
    with pytest.raises(PacxError, match="--shard"):
        part("covid-qu-ex", covid, tmp_path / "part", shard)
    assert not (tmp_path / "part").exists()
