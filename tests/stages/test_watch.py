"""Pictures in TensorBoard: there, the same puzzles each time, and without a trace in the run itself."""

import io
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pacx.data.store import Store
from pacx.stages.pretrain import pretrain
from pacx.stages.reconstruct import fixed_images
from pacx.stages.watch import WatchReconstructions

TINY = {
    "width": 32, "depth": 1, "heads": 2, "patch_size": 4, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
    "batch_size": 24, "learning_rate": 3e-3, "warmup_epochs": 1.0, "accelerator": "cpu",
}  # fmt: skip


def pictures(out: Path) -> list[tuple[int, np.ndarray]]:
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [
        (event.step, np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("L")))
        for event in events.Images("reconstructions")
    ]


def test_tensorboard_shows_input_what_is_seen_and_what_is_filled_in(store: Store, tmp_path: Path):
    pretrain(store=store.path, out=tmp_path / "a", epochs=3, **TINY)
    (first, one), _, (last, three) = pictures(tmp_path / "a")
    assert (first, last) == (2, 6)
    images, _ = fixed_images(store, "val", preprocess=store.preprocess(), count=8)
    preprocess = store.preprocess()
    gray = np.asarray(images[:, 0] * preprocess.std[0] + preprocess.mean[0]) * 255
    assert one.shape == three.shape == (3 * 34, 8 * 34)
    for sheet in (one, three):
        rows = [[sheet[34 * r : 34 * r + 32, 34 * c : 34 * c + 32] for c in range(8)] for r in range(3)]
        for column in range(8):
            np.testing.assert_allclose(rows[0][column], gray[column], atol=1)
            seen = rows[1][column] != 63  # hidden patches are a dark gray
            assert 6 * 16 - 8 <= seen.sum() <= 6 * 16  # a visible pixel may have that gray by chance
            np.testing.assert_array_equal(rows[2][column][seen], rows[0][column][seen])
    assert np.array_equal(one[: 2 * 34], three[: 2 * 34])  # the same puzzles
    assert not np.array_equal(one[2 * 34 :], three[2 * 34 :])  # better solved


def test_a_run_with_pictures_ends_like_one_without(store: Store, tmp_path: Path, monkeypatch):
    drawn = []
    real = WatchReconstructions.on_train_epoch_end

    def checked(self, trainer, pl_module):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        real(self, trainer, pl_module)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        drawn.append(torch.equal(before[0], after[0]) and before[1:] == after[1:])

    monkeypatch.setattr(WatchReconstructions, "on_train_epoch_end", checked)
    pretrain(store=store.path, out=tmp_path / "with", epochs=2, **TINY)
    monkeypatch.setattr(WatchReconstructions, "on_train_epoch_end", lambda *_: None)
    pretrain(store=store.path, out=tmp_path / "without", epochs=2, **TINY)
    assert drawn == [True, True]
    with_, without = (load_file(tmp_path / name / "mae.safetensors") for name in ("with", "without"))
    assert all(torch.equal(with_[key], without[key]) for key in with_)


def test_long_runs_are_watched_twenty_times():
    watch = WatchReconstructions(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1), epochs=400)
    assert watch.every == 20
