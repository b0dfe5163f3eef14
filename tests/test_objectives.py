"""Objectives against brute force in NumPy, with holes, and on two processes against one."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray

from pacx.errors import PacxError
from pacx.objectives import (
    TeacherTerms,
    cosine_regression,
    distillation_loss,
    gather_rows,
    info_nce,
    masked_pixel_loss,
)

torch.set_num_threads(1)
Array = NDArray[np.float64]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_info_nce(image: Array, teacher: Array, present: NDArray[np.bool_], scale: float, smoothing: float) -> float:
    """Compute the equation of the docstring with loops."""
    rows = np.flatnonzero(present)
    u = [image[i] / np.linalg.norm(image[i]) for i in rows]
    v = [teacher[i] / np.linalg.norm(teacher[i]) for i in rows]
    n, total = len(rows), 0.0
    for one, other in ((u, v), (v, u)):
        for i in range(n):
            z = np.array([scale * one[i] @ other[j] for j in range(n)])
            log_p = z - np.log(np.exp(z).sum())
            q = np.full(n, smoothing / n)
            q[i] += 1 - smoothing
            total -= (q * log_p).sum() / n / 2
    return float(total)


def brute_regression(prediction: Array, target: Array, present: NDArray[np.bool_]) -> float:
    rows = np.flatnonzero(present)
    norms = [np.linalg.norm(prediction[i]) * np.linalg.norm(target[i]) for i in rows]
    return float(np.mean([1 - prediction[i] @ target[i] / norm for i, norm in zip(rows, norms, strict=True)]))


def example(num_rows: int = 6) -> tuple[torch.Tensor, dict[str, TeacherTerms]]:
    """Make rows in which the ECG is missing once and the labs twice."""
    ecg, labs = torch.ones(num_rows, dtype=torch.bool), torch.ones(num_rows, dtype=torch.bool)
    ecg[1], labs[0], labs[num_rows - 2] = False, False, False
    image = random(num_rows, 4, seed=0)
    return image, {
        "ecg": TeacherTerms(random(num_rows, 4, seed=1), random(num_rows, 7, seed=2), random(num_rows, 7, seed=3), ecg),
        "labs": TeacherTerms(
            random(num_rows, 4, seed=4), random(num_rows, 3, seed=5), random(num_rows, 3, seed=6), labs
        ),
    }


def test_masked_pixel_loss_counts_masked_patches_only() -> None:
    prediction, target = random(2, 5, 3, seed=0), random(2, 5, 3, seed=1)
    mask = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.float64)
    error = (prediction - target).numpy() ** 2
    expected = np.mean([error[b, n].mean() for b, n in ((0, 0), (0, 2), (1, 1), (1, 2), (1, 3))])
    assert masked_pixel_loss(prediction, target, mask)["loss"].item() == pytest.approx(expected, abs=1e-12)
    changed = prediction.clone()
    changed[0, 1] += 100
    assert masked_pixel_loss(changed, target, mask)["loss"].item() == pytest.approx(expected, abs=1e-12)
    only = masked_pixel_loss(prediction[mask.bool()][None], target[mask.bool()][None])["loss"]
    assert only.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("absent", [(), (0, 3)])
def test_info_nce_equals_brute_force(smoothing: float, absent: tuple[int, ...]) -> None:
    image, teacher = random(6, 4, seed=0), random(6, 4, seed=1)
    present = torch.ones(6, dtype=torch.bool)
    present[list(absent)] = False
    found = info_nce(image, teacher, present, scale=14.3, label_smoothing=smoothing)
    expected = brute_info_nce(image.numpy(), teacher.numpy(), present.numpy(), 14.3, smoothing)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-6)
    assert (found["image_to_teacher"] + found["teacher_to_image"]).item() / 2 == pytest.approx(expected, abs=1e-6)


def test_info_nce_of_strangers_is_log_n_at_small_scale() -> None:
    found = info_nce(random(32, 4, seed=0), random(32, 4, seed=1), torch.ones(32, dtype=torch.bool), scale=1e-9)
    assert found["loss"].item() == pytest.approx(np.log(32), abs=1e-6)


def test_absent_rows_are_neither_anchor_nor_negative_and_get_no_gradient() -> None:
    image, teachers = example()
    image.requires_grad_()
    terms = TeacherTerms(*(rows.clone() for rows in teachers["ecg"]))
    terms.projected.requires_grad_()
    loss = info_nce(image, terms.projected, terms.present, scale=10.0)["loss"]
    loss.backward()
    assert image.grad is not None and terms.projected.grad is not None
    assert not image.grad[1].any() and not terms.projected.grad[1].any()
    assert image.grad[0].any()
    with torch.no_grad():
        terms.projected[1] = 1e6
    assert info_nce(image, terms.projected, terms.present, scale=10.0)["loss"].item() == loss.item()


@pytest.mark.parametrize("num_present", [0, 1])
def test_info_nce_of_fewer_than_two_rows_is_zero_with_zero_gradients(num_present: int) -> None:
    image = random(3, 4, seed=0).requires_grad_()
    present = torch.arange(3) < num_present
    loss = info_nce(image, random(3, 4, seed=1), present, scale=10.0)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert image.grad is not None and not image.grad.any()


def test_cosine_regression_equals_brute_force() -> None:
    _, teachers = example()
    terms = teachers["labs"]
    found = cosine_regression(terms.predicted, terms.embedding, terms.present)["loss"].item()
    arrays = (terms.predicted.numpy(), terms.embedding.numpy(), terms.present.numpy())
    assert found == pytest.approx(brute_regression(*arrays), abs=1e-6)
    assert cosine_regression(terms.embedding, 3 * terms.embedding, terms.present)["loss"].item() == pytest.approx(0)


def test_distillation_loss_is_the_weighted_mean_over_teachers() -> None:
    image, teachers = example()
    weights = {"ecg": 2.0, "labs": 0.5}
    contrastive, regression = 0.0, 0.0
    for name, terms in teachers.items():
        present = terms.present.numpy()
        part = brute_info_nce(image.numpy(), terms.projected.numpy(), present, 14.0, 0.02)
        contrastive += weights[name] / 2.5 * part
        regression += weights[name] / 2.5 * brute_regression(terms.predicted.numpy(), terms.embedding.numpy(), present)
    found = distillation_loss(
        image, teachers, scale=14.0, contrastive_weight=0.7, regression_weight=1.3, teacher_weights=weights
    )
    assert found["contrastive"].item() == pytest.approx(contrastive, abs=1e-6)
    assert found["regression"].item() == pytest.approx(regression, abs=1e-6)
    assert found["loss"].item() == pytest.approx(0.7 * contrastive + 1.3 * regression, abs=1e-6)


def test_a_teacher_without_present_rows_leaves_the_loss_of_the_others() -> None:
    image, teachers = example()
    nobody = teachers["labs"]._replace(present=torch.zeros(6, dtype=torch.bool))
    alone = distillation_loss(image, {"ecg": teachers["ecg"]}, scale=10.0)
    both = distillation_loss(image, {"ecg": teachers["ecg"], "labs": nobody}, scale=10.0)
    assert both["loss"].item() == pytest.approx(alone["loss"].item(), abs=1e-12)
    assert "regression/labs" not in both and "contrastive/labs" not in both


def test_one_present_row_counts_for_regression_and_not_for_contrast() -> None:
    image, teachers = example()
    one = teachers["labs"]._replace(present=torch.arange(6) == 2)
    found = distillation_loss(image, {"labs": one}, scale=10.0)
    assert "contrastive" not in found
    assert found["loss"].item() == pytest.approx(found["regression/labs"].item())


def test_rows_of_one_patient_count_for_regression_and_not_for_contrast() -> None:
    image, teachers = example()
    teachers["ecg"] = teachers["ecg"]._replace(present=torch.tensor([True, True, False, False, False, False]))
    patient = torch.tensor([7, 7, 1, 2, 3, 4])
    parts = distillation_loss(image, teachers, scale=5.0, patient=patient)
    assert "contrastive/ecg" not in parts
    assert "regression/ecg" in parts
    assert float(parts["contrastive"]) == float(parts["contrastive/labs"])
    strangers = distillation_loss(image, teachers, scale=5.0)
    assert "contrastive/ecg" in strangers


def test_a_weight_of_zero_leaves_zero_gradients_and_no_part() -> None:
    image, teachers = example()
    terms = teachers["ecg"]
    terms.projected.requires_grad_(), terms.predicted.requires_grad_()
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    found = distillation_loss(image, {"ecg": terms}, scale=scale, contrastive_weight=0)
    found["loss"].backward()
    assert "contrastive" not in found
    assert terms.projected.grad is not None and not terms.projected.grad.any()
    assert scale.grad is not None and scale.grad == 0
    assert terms.predicted.grad is not None and terms.predicted.grad.any()


def test_a_weight_for_an_unknown_teacher_is_refused() -> None:
    image, teachers = example()
    with pytest.raises(PacxError, match=r"\['egc'\].*\['ecg', 'labs'\]"):
        distillation_loss(image, teachers, scale=10.0, teacher_weights={"egc": 2.0})


def test_gather_rows_is_a_pass_through_without_devices() -> None:
    rows = random(3, 2, seed=0)
    assert gather_rows(rows) is rows


Weights = dict[str, torch.Tensor]


def step(rows: slice) -> tuple[float, Weights]:
    """Take one small 'training step' on some rows: linear maps in front of the loss stand for the networks."""
    image, teachers = example(8)
    weights = {name: (random(4, 4, seed=10 + i) / 2).requires_grad_() for i, name in enumerate(["image", *teachers])}
    weights |= {
        f"{name}.regression": random(4, terms.predicted.shape[1], seed=20).requires_grad_()
        for name, terms in teachers.items()
    }
    weights["scale"] = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    mine = image[rows]
    terms = {
        name: TeacherTerms(
            t.projected[rows] @ weights[name], mine @ weights[f"{name}.regression"], t.embedding[rows], t.present[rows]
        )
        for name, t in teachers.items()
    }
    loss = distillation_loss(mine @ weights["image"], terms, scale=weights["scale"].exp())["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: value.grad for name, value in weights.items() if value.grad is not None}


def work(rank: int, port: int, folder: str) -> None:
    """Do half of the rows and average gradients over processes, as data-parallel training does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    loss, gradients = step(slice(4 * rank, 4 * rank + 4))
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient.div_(2)
    flags = gather_rows(torch.tensor([rank == 0, True]))
    torch.save({"loss": torch.tensor(loss), "flags": flags, **gradients}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    loss, gradients = step(slice(0, 8))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.pop("flags").tolist() == [True, True, False, True]
        assert found.pop("loss").item() == pytest.approx(loss, abs=1e-5)
        assert set(found) == set(gradients)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)
            assert gradient.abs().max() > 1e-3
