from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pacx.data.batches import Augment, EpochSampler, StoreDataset, make_loader
from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter
from pacx.errors import PacxError
from pacx.preprocess import Preprocess

torch.set_num_threads(1)
SIZE, ROWS = 32, 11
PREPROCESS = Preprocess(image_size=24, mean=(0.4,), std=(0.2,))
SAME_SIZE = Preprocess(image_size=SIZE, mean=(0.4,), std=(0.2,))
EDEMA = Task("edema", ("edema",), "binary")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A smooth blob per image; the mask is where the blob is brighter than one half."""
    path = tmp_path_factory.mktemp("store") / "s"
    writer = StoreWriter(path, name="demo", num_rows=ROWS, image_size=SIZE, mask_names=("heart", "blob"), ecg=True)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    for row in range(ROWS):
        image = np.exp(-((rows - 0.5) ** 2 + (columns - 0.2 - 0.05 * row) ** 2) * 20)
        masks = {"blob": image > 0.5, "heart": image < 0}
        writer.write(row, image=image, masks=masks, ecg=None if row == 3 else np.full((12, 5000), row))
    table = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(ROWS)],
            "patient_id": [f"p{row}" for row in range(ROWS)],
            "split": "train",
            "edema": [np.nan, *np.arange(ROWS - 1) % 2.0],
        }
    )
    writer.finish(Manifest("demo", table, tasks={"edema": EDEMA}), source={})
    return Store.open(path)


def dataset(
    store: Store, augment: Augment, *, preprocess: Preprocess | None = PREPROCESS, **more: object
) -> StoreDataset:
    return StoreDataset(store, store.rows(), preprocess=preprocess, augment=augment, **more)


def epoch_of(loader: torch.utils.data.DataLoader, epoch: int) -> dict[int, dict[str, torch.Tensor]]:
    """Collect an epoch as row -> sample, so that order and batch size drop out."""
    loader.sampler.set_epoch(epoch)
    samples = {}
    for batch in loader:
        for position, row in enumerate(batch["index"].tolist()):
            samples[row] = {key: value[position].clone() for key, value in batch.items()}
    return samples


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for row in a:
        assert a[row].keys() == b[row].keys()
        for key in a[row]:
            torch.testing.assert_close(a[row][key], b[row][key], rtol=0, atol=0, equal_nan=True)


def test_without_augmentation_a_batch_is_the_normalised_store(store: Store) -> None:
    batch = dataset(store, Augment.none(), preprocess=SAME_SIZE).__getitems__([(0, 4), (0, 2)])
    expected = SAME_SIZE.normalise(store.images[[4, 2]].astype(np.float32) / 255)
    np.testing.assert_array_equal(batch["image"].numpy(), expected)
    assert batch["image"].shape == (2, 1, SIZE, SIZE)
    assert batch["index"].tolist() == [4, 2]


def test_resizing_agrees_with_the_preprocessing_contract(store: Store) -> None:
    image = dataset(store, Augment.none())[(0, 5)]["image"].numpy()
    expected = PREPROCESS(store.images[5].astype(np.float32) / 255)
    np.testing.assert_allclose(image, expected, atol=2e-5)


def test_a_gray_image_is_repeated_for_a_three_channel_encoder(store: Store) -> None:
    rgb = Preprocess(image_size=24, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    image = dataset(store, Augment.pretrain(), preprocess=rgb)[(0, 1)]["image"]
    assert image.shape == (3, 24, 24)
    gray = image * torch.tensor(rgb.std)[:, None, None] + torch.tensor(rgb.mean)[:, None, None]
    torch.testing.assert_close(gray[0], gray[2])


def test_labels_masks_and_ecgs_come_when_asked_for(store: Store) -> None:
    sample = dataset(store, Augment.none(), task=EDEMA, mask="blob", ecg=True, preprocess=SAME_SIZE)
    batch = sample.__getitems__([(0, 0), (0, 2), (0, 3)])
    assert sorted(batch) == ["ecg", "image", "index", "label", "mask"]
    assert batch["label"].shape == (3, 1) and torch.isnan(batch["label"][0]) and batch["label"][1] == 1
    np.testing.assert_array_equal(batch["mask"][:, 0].numpy(), store.mask("blob", [0, 2, 3]))
    assert (batch["ecg"][1] == 2).all() and torch.isnan(batch["ecg"][2]).all() and batch["ecg"].dtype == torch.float32


def test_batches_need_no_images(store: Store) -> None:
    batch = dataset(store, Augment.none(), preprocess=None, ecg=True, task=EDEMA).__getitems__([(0, 1)])
    assert sorted(batch) == ["ecg", "index", "label"]


@pytest.mark.parametrize("augment", [Augment.none(), Augment.pretrain(), Augment.distill(), Augment.segment()])
def test_two_workers_give_what_none_gives_bit_for_bit(store: Store, augment: Augment) -> None:
    data = dataset(store, augment, seed=3, mask="blob")
    alone = make_loader(data, batch_size=4, shuffle=True, seed=3)
    helped = make_loader(data, batch_size=4, shuffle=True, seed=3, workers=2)
    for epoch in (0, 2):
        assert_same(epoch_of(alone, epoch), epoch_of(helped, epoch))
        assert [batch["index"].tolist() for batch in alone] == [batch["index"].tolist() for batch in helped]


@pytest.mark.parametrize("augment", [Augment.none(), Augment.distill()])
def test_batch_size_and_order_do_not_change_a_sample(store: Store, augment: Augment) -> None:
    data = dataset(store, augment, seed=1, mask="blob")
    one = epoch_of(make_loader(data, batch_size=1, shuffle=False), 5)
    many = epoch_of(make_loader(data, batch_size=7, shuffle=True, seed=9), 5)
    assert_same(one, many)
    reverse = StoreDataset(store, store.rows()[::-1], preprocess=PREPROCESS, augment=augment, seed=1, mask="blob")
    assert_same(one, epoch_of(make_loader(reverse, batch_size=4, shuffle=False), 5))


def test_each_epoch_seed_and_image_is_changed_in_its_own_way(store: Store) -> None:
    def crop(epoch: int, position: int, seed: int) -> torch.Tensor:
        return dataset(store, Augment.pretrain(), seed=seed)[(epoch, position)]["image"]

    images = [crop(0, 1, 0), crop(1, 1, 0), crop(0, 1, 1), crop(0, 2, 0)]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert torch.equal(crop(1, 1, 0), images[1])


def test_the_order_depends_on_seed_and_epoch_and_covers_everything() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        assert {e for e, _ in sampler} == {epoch}
        return [position for _, position in sampler]

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3
    assert [position for _, position in EpochSampler(5, shuffle=False)] == [0, 1, 2, 3, 4]


def test_processes_of_distributed_training_share_an_epoch_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    def deal(rank: int, world: int, num_rows: int) -> list[int]:
        monkeypatch.setattr("pacx.data.batches._world", lambda: (rank, world))
        sampler = EpochSampler(num_rows, shuffle=True, seed=4)
        positions = [position for _, position in sampler]
        assert len(positions) == len(sampler)
        return positions

    assert sorted(deal(0, 2, 10) + deal(1, 2, 10)) == list(range(10))
    assert len(deal(0, 2, 11)) == len(deal(1, 2, 11)) == 6
    assert set(deal(0, 2, 11) + deal(1, 2, 11)) == set(range(11))


@pytest.mark.parametrize(("num_rows", "world"), [(10, 2), (11, 2), (11, 4), (2, 4)])
def test_processes_take_equally_many_items_and_know_which_of_theirs_others_have_too(num_rows, world, monkeypatch):
    shares, fresh = [], []
    for rank in range(world):
        monkeypatch.setattr("pacx.data.batches._world", lambda rank=rank: (rank, world))
        sampler = EpochSampler(num_rows, shuffle=True, seed=3)
        positions = [position for _, position in sampler]
        shares.append(len(positions))
        fresh += positions[: sampler.num_fresh()]
    assert len(set(shares)) == 1
    assert sum(shares) < num_rows + world
    assert sorted(fresh) == list(range(num_rows))


def test_drop_last_leaves_out_the_smaller_batch(store: Store) -> None:
    data = dataset(store, Augment.none())
    assert [len(b["index"]) for b in make_loader(data, batch_size=4, shuffle=False)] == [4, 4, 3]
    assert [len(b["index"]) for b in make_loader(data, batch_size=4, shuffle=False, drop_last=True)] == [4, 4]


def test_what_the_store_lacks_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="no mask 'lung'"):
        dataset(store, Augment.none(), mask="lung")
    with pytest.raises(PacxError, match=r"made square by 'squash'.*--geometry pad"):
        dataset(store, Augment.none(), preprocess=Preprocess(image_size=24, geometry="pad"))
    writer = StoreWriter(tmp_path / "labs", name="labs", num_rows=ROWS)
    for row in range(ROWS):
        writer.write(row)
    writer.finish(Manifest("labs", store.manifest), source={})
    with pytest.raises(PacxError, match="holds no ECGs"):
        dataset(Store.open(tmp_path / "labs"), Augment.none(), preprocess=None, ecg=True)
    with pytest.raises(PacxError, match="holds no images"):
        dataset(Store.open(tmp_path / "labs"), Augment.none())
