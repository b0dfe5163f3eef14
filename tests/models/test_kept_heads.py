import json

import pytest
import torch

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig, weights_hash
from pacx.models.kept_heads import open_heads
from pacx.models.standardise import fit_standardiser
from pacx.models.student import Student
from pacx.models.weights import save_tensors
from pacx.preprocess import Preprocess

TEACHERS = {"ecg": 6, "labs": 5}


@pytest.fixture
def student():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(Preprocess(image_size=16), patch_size=8, width=12, depth=1, heads=2))
    student = Student(encoder, TEACHERS, adaptation="full").eval()
    for weight in student.regressors.parameters():
        torch.nn.init.normal_(weight)
    return student


@pytest.fixture
def run(student, tmp_path):
    return _save(student, tmp_path)


def _save(student, folder):
    heads = {key: value for key, value in student.state_dict().items() if not key.startswith("encoder.")}
    save_tensors(heads, folder / "heads.safetensors")
    facts = {
        "teachers": TEACHERS, "encoder_hash": weights_hash(student.encoder),
        "banks": [{"teacher": name, "kind": name, "weights_hash": f"hash-of-{name}"} for name in TEACHERS],
    }  # fmt: skip
    (folder / "heads.json").write_text(json.dumps(facts))
    return folder


def test_a_kept_head_predicts_the_direction_that_the_student_predicted(student, run):
    features = torch.randn(7, 12)
    heads = open_heads(run).heads
    for name in TEACHERS:
        expected = torch.nn.functional.normalize(student.regressors[name](features), dim=-1)
        assert torch.allclose(heads[name].direction(features), expected, atol=1e-6)


def test_standardising_is_undone_with_the_length_that_fits_best(student, tmp_path):
    true = 3 + torch.randn(40, 5) @ torch.randn(5, 5)
    student.standardisers["labs"] = fit_standardiser(true.numpy(), "whiten")
    head = open_heads(_save(student, tmp_path)).heads["labs"]
    standardised = student.standardisers["labs"](true)
    direction = torch.nn.functional.normalize(standardised, dim=-1)
    length = head.scale(direction, true)
    tried = [((c * direction - standardised) ** 2).sum() for c in (0.99 * length, length, 1.01 * length)]
    assert tried[1] < min(tried[0], tried[2])
    lengths = standardised.norm(dim=-1)
    assert length == pytest.approx(float(lengths.mean()), rel=1e-5)
    alike = torch.stack([direction[i] * lengths[i] for i in range(40)])
    assert torch.allclose(head.standardiser.inverse(alike), true, atol=1e-3)
    assert torch.allclose(head.embedding(direction, length=2.0), head.standardiser.inverse(2 * direction), atol=1e-6)


def test_a_run_from_before_standardisers_reads_embeddings_as_they_are(student, tmp_path):
    _save(student, tmp_path)
    tensors = {key: value for key, value in student.state_dict().items() if key.startswith("regressors.")}
    save_tensors(tensors, tmp_path / "heads.safetensors")
    direction = torch.randn(3, 6)
    assert torch.equal(open_heads(tmp_path).heads["ecg"].embedding(direction, length=1.5), 1.5 * direction)


def test_a_head_is_found_by_the_weights_of_its_teacher(run):
    heads = open_heads(run)
    assert heads.of(weights="hash-of-labs", what="the labs teacher").name == "labs"
    with pytest.raises(PacxError, match=r"No head in .* learned from the labs teacher .*ecg \(hash-of-ecg\)"):
        heads.of(weights="another", what="the labs teacher")


def test_heads_of_another_encoder_are_refused(student, run):
    heads = open_heads(run)
    heads.check(student.encoder)
    other = Encoder(student.encoder.config)
    with pytest.raises(PacxError, match="belong to another encoder"):
        heads.check(other)


def test_heads_that_do_not_fit_their_description_are_refused(student, run, tmp_path):
    with pytest.raises(PacxError, match="holds no heads"):
        open_heads(tmp_path / "elsewhere")
    facts = json.loads((run / "heads.json").read_text())
    (run / "heads.json").write_text(json.dumps({**facts, "teachers": {"ecg": 7}}))
    with pytest.raises(PacxError, match=r"regression head of ecg .* of another shape"):
        open_heads(run)
