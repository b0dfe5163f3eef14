from pathlib import Path

import pytest
import torch

from pacx.errors import PacxError
from pacx.models.ecg_weights import save_ecg_net
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.weights import weights_hash
from pacx.runs import RunFolder
from pacx.stages.ecg_starting import EcgShape, ecg_start

torch.set_num_threads(1)
FRESH = EcgShape("small", None, None, None, None, None, None)
NAMES = tuple(f"statement {number}" for number in range(150))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "fit-ecg", {})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[EcgNet, Path]:
    """Build a checkpoint of the published form, with weights of chance, and the names of its outputs."""
    folder = tmp_path_factory.mktemp("founder")
    torch.manual_seed(0)
    net = EcgNet().eval()
    torch.save({"state_dict": net.state_dict()}, folder / "12_lead_ECGFounder.pth")
    (folder / "tasks.txt").write_text("\n".join(NAMES) + "\n")
    return net, folder


def test_a_fresh_network_looks_at_100_hz_and_the_published_one_at_500(run):
    small = ecg_start(run, weights=None, statements=None, shape=FRESH)
    wide = EcgShape("ecgfounder", (32, 64), (1, 1), 16, True, None, None)
    founder = ecg_start(run, weights=None, statements=None, shape=wide)
    assert (small.rate, founder.rate) == (100, 500)
    assert (founder.net.config.widths, founder.net.config.batch_norm) == ((32, 64), True)
    assert small.for_labels(("a", "b")).config.num_classes == 2
    assert run.inputs == {}


def test_outputs_of_the_published_network_are_taken_over_by_name(run, published):
    net, folder = published
    path = folder / "12_lead_ECGFounder.pth"
    start = ecg_start(run, weights=path, statements=folder / "tasks.txt", shape=FRESH)
    head = start.for_labels(("statement 149", "unheard of", "statement 3")).dense.weight
    assert torch.equal(head[[0, 2]], net.dense.weight[[149, 3]])
    assert (start.rate, start.parent) == (500, {"hash": weights_hash(net)})
    assert run.inputs["weights"]["hash"] == weights_hash(net)
    nameless = ecg_start(run, weights=path, statements=None, shape=FRESH).for_labels(("statement 3",))
    assert not torch.equal(nameless.dense.weight[0], net.dense.weight[3])
    assert torch.equal(nameless.first_conv.conv.weight, net.first_conv.conv.weight)


def test_a_teacher_brings_shape_rate_and_names(run, tmp_path):
    net = EcgNet(EcgNetConfig(2, 16, (16, 32), (1, 1), batch_norm=True))
    preprocessing = {"recipe": "ecgfounder-1", "rate": 250}
    save_ecg_net(net, tmp_path / "run" / "teacher", labels=("a", "b"), preprocessing=preprocessing, training={})
    for path in (tmp_path / "run", tmp_path / "run" / "teacher"):
        start = ecg_start(run, weights=path, statements=None, shape=FRESH)
        assert (start.rate, start.statements) == (250, ("a", "b"))
        assert torch.equal(start.for_labels(("b",)).dense.weight[0], net.dense.weight[1])


def test_arguments_that_contradict_the_weights_are_refused(run, published, tmp_path):
    path = published[1] / "12_lead_ECGFounder.pth"
    shape = EcgShape("medium", (16,), None, None, None, None, 100)
    with pytest.raises(PacxError, match="--weights together with --size, --widths, --rate"):
        ecg_start(run, weights=path, statements=None, shape=shape)
    with pytest.raises(PacxError, match="--statements without --weights"):
        ecg_start(run, weights=None, statements=tmp_path / "tasks.txt", shape=FRESH)
    with pytest.raises(PacxError, match="which names its outputs itself"):
        ecg_start(run, weights=tmp_path, statements=tmp_path / "tasks.txt", shape=FRESH)
    with pytest.raises(PacxError, match="does not exist"):
        ecg_start(run, weights=tmp_path / "none.pth", statements=None, shape=FRESH)
