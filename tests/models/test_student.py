"""The student: what trains, what it is compared with, and what remains of it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder, weights_hash
from pacx.models.student import Student
from pacx.objectives import TeacherTerms, distillation_loss
from pacx.preprocess import Preprocess

torch.set_num_threads(1)
TEACHERS = {"ecg": 10, "labs": 6}


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(Preprocess(image_size=32), patch_size=8, width=24, depth=2, heads=3))


def images() -> Tensor:
    return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def trained(student: Student) -> Student:
    """Move every trainable weight, as training would."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return student.eval()


def count(module: nn.Module, *, trainable: bool = True) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trainable)


def base_student(**options: Any) -> Student:
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig.named("base", preprocess=Preprocess()))
        return Student(encoder, {"ecg": 1024, "labs": 256}, **options)


def test_vit_b_student_has_the_published_parameters() -> None:
    student = base_student(train_norms="final")
    assert count(student.encoder) == 1_032_192 + 2 * 768
    assert count(student.image_projection) + count(student.teacher_projections) == 526_592
    assert count(student.regressors) == 986_880
    assert count(student) == 1_032_192 + 1_536 + 526_592 + 986_880 + 1


def test_all_norms_adds_two_per_block() -> None:
    student = base_student(train_norms="all")
    assert count(student.encoder) == 1_032_192 + 2 * 768 * (1 + 2 * 12)


def test_adapters_are_on_qkv_and_mlp_and_nowhere_else() -> None:
    names = [name for name, p in base_student().encoder.named_parameters() if p.requires_grad and "lora" in name]
    assert {name.split(".lora_")[0].split(".", 6)[-1] for name in names} == {"qkv", "fc1", "fc2"}
    assert len(names) == 12 * 3 * 2


def test_an_adapted_encoder_embeds_and_attends_like_the_merged_one() -> None:
    student = trained(Student(small_encoder(), TEACHERS))
    merged = student.merged_encoder()
    torch.testing.assert_close(student.encoder.tokens(images()), merged.tokens(images()), atol=1e-5, rtol=0)
    for adapted, plain in zip(student.encoder.attention(images()), merged.attention(images()), strict=True):
        torch.testing.assert_close(adapted, plain, atol=1e-5, rtol=0)


def test_last_blocks_trains_them_and_the_final_norm() -> None:
    student = Student(small_encoder(), TEACHERS, adaptation="last", last_blocks=1)
    names = [name for name, p in student.encoder.vit.named_parameters() if p.requires_grad]
    assert all(name.startswith(("blocks.1.", "norm.")) for name in names)
    assert len(names) == 12 + 2


def test_full_trains_everything_but_the_positions() -> None:
    student = Student(small_encoder(), TEACHERS, adaptation="full")
    assert [name for name, p in student.encoder.vit.named_parameters() if not p.requires_grad] == ["pos_embed"]


@pytest.mark.parametrize("adaptation", ["lora", "last", "full"])
def test_the_untrained_student_sees_what_its_encoder_sees(adaptation: Any) -> None:
    encoder = small_encoder().eval()
    student = Student(encoder, TEACHERS, adaptation=adaptation, last_blocks=1).eval()
    output = student(images())
    torch.testing.assert_close(output["embedding"], encoder(images()))
    assert output["shared"].shape == (4, 256)
    assert {name: value.shape for name, value in output["regression"].items()} == {"ecg": (4, 10), "labs": (4, 6)}
    assert student.project_teacher("ecg", torch.randn(4, 10)).shape == (4, 256)


@pytest.mark.parametrize("train_norms", ["all", "final"])
@pytest.mark.parametrize("adaptation", ["lora", "last", "full"])
def test_merged_encoder_is_plain_and_equal_and_the_base_is_untouched(
    adaptation: Any, train_norms: Any, tmp_path: Path
) -> None:
    encoder = small_encoder()
    before = weights_hash(encoder)
    student = trained(Student(encoder, TEACHERS, adaptation=adaptation, last_blocks=1, train_norms=train_norms))
    embedding = student(images())["embedding"]
    merged = student.merged_encoder()
    assert set(merged.state_dict()) == set(encoder.state_dict())
    assert type(merged.vit) is type(encoder.vit)
    torch.testing.assert_close(merged(images()), embedding, atol=1e-5, rtol=0)
    assert (encoder(images()) - embedding).abs().max() > 0.01
    assert weights_hash(encoder) == before
    torch.testing.assert_close(student(images())["embedding"], embedding)  # merging left the student as it was
    loaded = load_encoder(save_encoder(merged, tmp_path / "encoder"))
    torch.testing.assert_close(loaded(images()), embedding, atol=1e-5, rtol=0)


@pytest.mark.parametrize("train_norms", ["all", "final"])
def test_peft_loads_the_adapter_onto_the_base(train_norms: Any, tmp_path: Path) -> None:
    encoder = small_encoder()
    student = trained(Student(encoder, TEACHERS, train_norms=train_norms))
    folder = student.save_adapter(tmp_path / "adapter")
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = PeftModel.from_pretrained(copy.deepcopy(encoder.vit), str(folder)).eval()
    torch.testing.assert_close(loaded(images()), student(images())["embedding"], atol=1e-5, rtol=0)


def gradients(student: Student, *, weight: float = 0.0) -> dict[str, Tensor]:
    """Gradients of the whole objective, the anchor included."""
    batch = torch.randn(7, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    targets = {name: torch.randn(7, dim, generator=torch.Generator().manual_seed(5)) for name, dim in TEACHERS.items()}
    output = student(batch)
    terms = {
        name: TeacherTerms(
            student.project_teacher(name, rows), output["regression"][name], rows, torch.ones(7, dtype=torch.bool)
        )
        for name, rows in targets.items()
    }
    student.zero_grad()
    anchor = {"anchor": output["distance"], "anchor_weight": weight} if weight else {}
    distillation_loss(output["shared"], terms, scale=student.scale(), **anchor)["loss"].backward()
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("adaptation", ["lora", "last", "full"])
def test_gradient_caching_gives_the_gradients_of_the_whole_batch(adaptation: Any, weight: float) -> None:
    def made(**options: Any) -> dict[str, Tensor]:
        choices = {"adaptation": adaptation, "last_blocks": 1, "dropout": 0.0, "head_dropout": 0.0}
        student = trained(Student(small_encoder(), TEACHERS, anchored=weight > 0, **choices, **options))
        return gradients(student.train(), weight=weight)

    whole, cached = made(), made(chunk_size=3)
    assert whole.keys() == cached.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_gradient_caching_brings_back_the_dropout_of_each_chunk() -> None:
    """With dropout the second pass must draw what the first drew, or gradients belong to another network."""
    student = trained(Student(small_encoder(), TEACHERS, dropout=0.5, chunk_size=3)).train()
    batch = torch.randn(7, 1, 32, 32, generator=torch.Generator().manual_seed(4))

    def run(*, cached: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(6)
        student.zero_grad()
        if cached:
            embedding = student(batch)["embedding"]
        else:  # the same chunks in the same order, all kept
            embedding = torch.cat([student.encoder(part) for part in torch.split(batch, 3)])
        embedding.sin().sum().backward()
        return embedding.detach(), student.encoder.vit.blocks[0].mlp.fc1.lora_B["default"].weight.grad.clone()

    torch.testing.assert_close(run(cached=True), run(cached=False), atol=1e-6, rtol=1e-5)


def test_an_anchored_student_starts_at_no_distance_and_feels_no_pull() -> None:
    student = Student(small_encoder(), TEACHERS, anchored=True).eval()
    torch.testing.assert_close(student(images())["distance"], torch.zeros(4), atol=1e-5, rtol=0)
    away = trained(student)(images())["distance"]
    assert away is not None and (away > 0.005).all() and (away < 2).all()
    assert Student(small_encoder(), TEACHERS)(images())["distance"] is None


def test_the_anchor_pulls_patch_tokens_back_and_trains_nothing_of_the_base() -> None:
    student = trained(Student(small_encoder(), TEACHERS, anchored=True, dropout=0.0))
    assert student.base is not None and not any(p.requires_grad for p in student.base.parameters())
    learned = [p for p in student.encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=3e-3)
    distances = []
    for _ in range(20):
        distance = student(images())["distance"].mean()
        optimiser.zero_grad()
        distance.backward()
        optimiser.step()
        distances.append(float(distance))
    assert distances[-1] < 0.3 * distances[0]


def test_there_is_no_adapter_without_lora(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="no adapter"):
        Student(small_encoder(), TEACHERS, adaptation="full").save_adapter(tmp_path / "adapter")


def test_the_temperature_starts_at_seven_hundredths_and_stays_in_range() -> None:
    student = Student(small_encoder(), TEACHERS)
    assert student.scale().item() == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        student.logit_scale.fill_(9.0)
    scale = student.scale()
    assert scale.item() == pytest.approx(100, rel=1e-5)
    assert student.logit_scale.item() == pytest.approx(math.log(100))
    scale.backward()
    assert student.logit_scale.grad is not None and student.logit_scale.grad > 0  # it can come back
    with torch.no_grad():
        student.logit_scale.fill_(-3.0)
    assert student.scale().item() == pytest.approx(1)


def test_distillation_reaches_every_trainable_weight_and_no_other() -> None:
    student = Student(small_encoder(), TEACHERS)
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(3)
    targets = {name: torch.randn(4, dim) for name, dim in TEACHERS.items()}
    present = {"ecg": torch.tensor([True, False, True, True]), "labs": torch.tensor([True, True, True, False])}
    losses = []
    for _ in range(25):
        output = student(images())
        terms = {
            name: TeacherTerms(
                student.project_teacher(name, targets[name]), output["regression"][name], targets[name], present[name]
            )
            for name in TEACHERS
        }
        loss = distillation_loss(output["shared"], terms, scale=student.scale())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    without = [
        name for name, p in student.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert without == []
    assert all(p.grad is None for p in student.parameters() if not p.requires_grad)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("teachers", "options", "message"),
    [
        ({}, {}, "at least one teacher"),
        ({"12-lead.ecg": 4}, {}, "12-lead.ecg"),
        ({"keys": 4}, {}, "'keys'"),
        ({"training": 4}, {}, "'training'"),
        ({"ecg": 0}, {}, "length 0"),
        ({"ecg": 4}, {"adaptation": "some"}, "lora, last or full"),
        ({"ecg": 4}, {"train_norms": "none"}, "all or final"),
        ({"ecg": 4}, {"adaptation": "last", "last_blocks": 3}, "1 to 2"),
        ({"ecg": 4}, {"rank": 0}, "rank 0"),
        ({"ecg": 4}, {"chunk_size": 0}, "at least 1"),
    ],
)
def test_choices_that_do_not_exist_are_refused(teachers: dict[str, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(PacxError, match=message):
        Student(small_encoder(), teachers, **options)
