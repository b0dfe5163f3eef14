"""Our losses are what others compute: open_clip's contrastive loss, scikit-learn's cosines, NumPy from equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pacx.objectives import cosine_regression, info_nce

torch.set_num_threads(1)
Array = NDArray[np.float64]
EVERYBODY = torch.ones(12, dtype=torch.bool)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_info_nce_is_open_clips_loss_in_value_and_in_every_gradient(scale: float) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    found = {}
    for side in ("ours", "theirs"):
        image, teacher = (random(12, 16, seed=seed).requires_grad_() for seed in (0, 1))
        log_scale = torch.tensor(np.log(scale), dtype=torch.float64, requires_grad=True)
        if side == "ours":
            loss = info_nce(image, teacher, EVERYBODY, scale=log_scale.exp(), label_smoothing=0.0)["loss"]
        else:
            rows = [torch.nn.functional.normalize(part, dim=-1) for part in (image, teacher)]
            loss = open_clip.loss.ClipLoss()(*rows, log_scale.exp())
        loss.backward()
        found[side] = [loss.detach(), image.grad, teacher.grad, log_scale.grad]
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert theirs.abs().max() > 1e-3  # there is something to agree on


def reference(
    image: Array, teacher: Array, present: NDArray[np.bool_], patient: NDArray[np.int64], scale: float, smoothing: float
) -> float:
    """Compute the equations of `info_nce` one row and one column at a time."""
    rows = [int(row) for row in np.flatnonzero(present)]

    def one_way(queries: Array, keys: Array) -> float:
        total = 0.0
        for i in rows:
            compared = [j for j in rows if j == i or patient[j] != patient[i]]
            z = {
                j: scale * float(queries[i] @ keys[j]) / np.linalg.norm(queries[i]) / np.linalg.norm(keys[j])
                for j in compared
            }
            largest = max(z.values())
            log_sum = largest + np.log(sum(np.exp(value - largest) for value in z.values()))
            for j in compared:
                q = (1 - smoothing) * (i == j) + smoothing / len(compared)
                total -= q * (z[j] - log_sum)
        return total / len(rows)

    return (one_way(image, teacher) + one_way(teacher, image)) / 2


HOLES = {"complete": (), "holes": (0, 3, 7), "two rows": tuple(range(2, 12))}
PATIENTS = {
    "strangers": range(12),
    "pairs": [0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8],
    "one of six": [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6],
    "one patient": [0] * 12,
}


@pytest.mark.parametrize("smoothing", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("absent", HOLES.values(), ids=HOLES.keys())
@pytest.mark.parametrize("patient", PATIENTS.values(), ids=PATIENTS.keys())
def test_info_nce_follows_its_equations_with_smoothing_holes_and_patients(
    smoothing: float, absent: tuple[int, ...], patient: list[int]
) -> None:
    image, teacher = random(12, 5, seed=2), random(12, 5, seed=3)
    present = EVERYBODY.clone()
    present[list(absent)] = False
    people = torch.tensor(list(patient))
    expected = reference(image.numpy(), teacher.numpy(), present.numpy(), people.numpy(), 14.3, smoothing)
    found = info_nce(image, teacher, present, scale=14.3, label_smoothing=smoothing, patient=people)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-6)
    single = info_nce(image.float(), teacher.float(), present, scale=14.3, label_smoothing=smoothing, patient=people)
    assert single["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_the_gradients_of_info_nce_are_those_of_its_equations() -> None:
    """Central differences of the NumPy reference, with holes, smoothing and two rows of one patient."""
    patient, step = torch.tensor([0, 0, 1, 2, 3, 4]), 1e-5
    present = torch.tensor([True, True, True, False, True, True])
    image, teacher = random(6, 3, seed=4).requires_grad_(), random(6, 3, seed=5).requires_grad_()
    loss = info_nce(image, teacher, present, scale=5.0, label_smoothing=0.1, patient=patient)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    for place, rows in enumerate((image, teacher)):
        numbers = [image.detach().numpy().copy(), teacher.detach().numpy().copy()]
        slope = np.zeros_like(numbers[place])
        for entry in np.ndindex(slope.shape):
            ends = []
            for sign in (1, -1):
                numbers[place][entry] += sign * step
                ends.append(reference(*numbers, present.numpy(), patient.numpy(), 5.0, 0.1))
                numbers[place][entry] -= sign * step
            slope[entry] = (ends[0] - ends[1]) / (2 * step)
        assert rows.grad is not None
        np.testing.assert_allclose(rows.grad.numpy(), slope, atol=1e-6)
        assert np.abs(slope).max() > 0.01 and not slope[3].any()


@pytest.mark.parametrize("absent", HOLES.values(), ids=HOLES.keys())
def test_the_regression_is_one_minus_scikit_learns_cosine_of_the_present_rows(absent: tuple[int, ...]) -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise", reason="scikit-learn is not installed")
    prediction, target = random(12, 9, seed=8), random(12, 9, seed=9)
    present = EVERYBODY.clone()
    present[list(absent)] = False
    cosine = np.diagonal(pairwise.cosine_similarity(prediction.numpy(), target.numpy()))
    expected = float(np.mean(1 - cosine[present.numpy()]))
    assert cosine_regression(prediction, target, present)["loss"].item() == pytest.approx(expected, abs=1e-6)
