import json
import os

import pytest
import torch

from pacx.errors import PacxError
from pacx.models.ecg_weights import load_ecg_net, load_ecgfounder, read_statements, save_ecg_net, with_head
from pacx.models.ecgfounder import EcgNet, EcgNetConfig
from pacx.models.weights import weights_hash

torch.set_num_threads(1)
PREPROCESSING = {"recipe": "ecgfounder-1", "rate": 100}


def small() -> EcgNet:
    torch.manual_seed(0)
    return EcgNet(EcgNetConfig(2, stem_width=16, widths=(16, 32), blocks=(1, 1), batch_norm=True)).eval()


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return EcgNet().state_dict()


def test_a_teacher_folder_comes_back_with_its_weights_and_what_it_must_be_fed(tmp_path):
    net = small()
    net.train()(torch.randn(4, 12, 100))  # so that num_batches_tracked is not 0
    net.eval()
    save_ecg_net(net, tmp_path / "t", labels=("a", "b"), preprocessing=PREPROCESSING, training={"epochs": 3})
    again, config = load_ecg_net(tmp_path / "t")
    x = torch.randn(2, 12, 300)
    assert torch.equal(again(x), net(x))
    assert not again.training
    assert weights_hash(again) == weights_hash(net) == config["weights_hash"]
    assert (config["kind"], config["labels"], config["preprocessing"]) == ("ecg", ["a", "b"], PREPROCESSING)


def test_weights_that_are_not_the_recorded_ones_are_refused(tmp_path):
    save_ecg_net(small(), tmp_path / "t", labels=("a", "b"), preprocessing=PREPROCESSING, training={})
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    (tmp_path / "t" / "config.json").write_text(json.dumps({**config, "weights_hash": "0" * 64}))
    with pytest.raises(PacxError, match=r"are not those its config\.json describes"):
        load_ecg_net(tmp_path / "t")
    config["architecture"]["widths"] = [16, 48]
    (tmp_path / "t" / "config.json").write_text(json.dumps(config))
    with pytest.raises(PacxError, match=r"do not fit the network.*instead of"):
        load_ecg_net(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_text(json.dumps({**config, "kind": "labs"}))
    with pytest.raises(PacxError, match="of kind 'labs'"):
        load_ecg_net(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_text(json.dumps({**config, "architecture": {"widths": [16]}}))
    with pytest.raises(PacxError, match="architecture has the keys"):
        load_ecg_net(tmp_path / "t")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_of_the_published_form_loads_strictly(tmp_path, published, wrapped, prefix):
    named = {f"{prefix}{name}": value for name, value in published.items()}
    torch.save({"state_dict": named, "epoch": 3} if wrapped else named, tmp_path / "w.pth")
    net = load_ecgfounder(tmp_path / "w.pth")
    assert all(torch.equal(value, published[name]) for name, value in net.state_dict().items())
    assert not net.training


def test_a_checkpoint_with_a_tensor_missing_left_over_or_misshapen_is_refused_by_name(tmp_path, published):
    name = "stage_list.3.block_list.2.conv2.conv.weight"
    cases = {
        "missing first_bn.running_var": {k: v for k, v in published.items() if k != "first_bn.running_var"},
        "unexpected stranger": published | {"stranger": torch.zeros(1)},
        "unexpected module.dense.bias": {
            (f"module.{key}" if key == "dense.bias" else key): value for key, value in published.items()
        },
        f"{name} has shape": published | {name: torch.zeros(400, 16, 15)},
    }
    for message, state in cases.items():
        torch.save({"state_dict": state}, tmp_path / "w.pth")
        with pytest.raises(PacxError, match=message):
            load_ecgfounder(tmp_path / "w.pth")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, tmp_path / "w.pth")
    with pytest.raises(PacxError, match="It was not executed"):
        load_ecgfounder(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_other_numbers_is_refused(tmp_path, published):
    name = "dense.bias"
    for change, message in (
        ({name: torch.zeros(150, dtype=torch.int8)}, "dense.bias holds torch.int8"),
        ({name: torch.full((150,), float("nan"))}, "dense.bias is not finite"),
        ({7: torch.zeros(1)}, "no state_dict of tensors"),
    ):
        torch.save({**published, **change}, tmp_path / "x.pth")
        with pytest.raises(PacxError, match=message):
            load_ecgfounder(tmp_path / "x.pth")


def test_a_teacher_folder_with_half_a_configuration_is_refused(tmp_path):
    save_ecg_net(small(), tmp_path / "t", labels=("a", "b"), preprocessing=PREPROCESSING, training={})
    whole = json.loads((tmp_path / "t" / "config.json").read_text())
    for key in ("architecture", "preprocessing", "labels"):
        (tmp_path / "t" / "config.json").write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(PacxError, match=f"lacks {key}"):
            load_ecg_net(tmp_path / "t")


@pytest.mark.parametrize(
    ("preprocessing", "absent"),
    [({}, "recipe and rate"), ({"recipe": "ecgfounder-1"}, "rate"), ({"rate": 100}, "recipe"), ([], "recipe and rate"),
     ({"recipe": "ecgfounder-1", "rate": "100"}, "rate")],
)  # fmt: skip
def test_a_teacher_folder_that_does_not_say_how_to_prepare_ecgs_is_refused(tmp_path, preprocessing, absent):
    save_ecg_net(small(), tmp_path / "t", labels=("a", "b"), preprocessing=PREPROCESSING, training={})
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    (tmp_path / "t" / "config.json").write_text(json.dumps({**config, "preprocessing": preprocessing}))
    with pytest.raises(PacxError, match=f"does not say the {absent} of its preprocessing"):
        load_ecg_net(tmp_path / "t")


def test_files_that_are_no_checkpoint_are_user_errors(tmp_path):
    with pytest.raises(PacxError, match="does not exist"):
        load_ecgfounder(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(PacxError, match="cannot be loaded as plain tensors"):
        load_ecgfounder(tmp_path / "text.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(PacxError, match="holds no state_dict"):
        load_ecgfounder(tmp_path / "list.pth")


def names(count: int = 150) -> list[str]:
    return [f"Statement {number}" for number in range(count)]


def test_output_names_are_read_in_order_whatever_the_editor_left_at_the_ends(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("\ufeff" + "\r\n".join(f"  {name} " for name in names()) + "\r\n\r\n", encoding="utf-8")
    assert read_statements(path) == tuple(names())
    path.write_text("a\nb\n")
    assert read_statements(path, count=2) == ("a", "b")


def test_the_published_checkpoint_becomes_a_teacher_folder_with_the_names_of_its_outputs(tmp_path, published):
    torch.save({"state_dict": published}, tmp_path / "w.pth")
    (tmp_path / "tasks.txt").write_text("\n".join(names()))
    labels = read_statements(tmp_path / "tasks.txt")
    net = load_ecgfounder(tmp_path / "w.pth")
    save_ecg_net(net, tmp_path / "t", labels=labels, preprocessing=PREPROCESSING, training={})
    again, config = load_ecg_net(tmp_path / "t")
    assert config["labels"] == names()
    assert all(torch.equal(value, published[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join(names(149)), "has 149 names for 150 outputs"),
        ("", "has 0 names for 150 outputs"),
        ("\n".join([*names(149), "Statement 7"]), r"'Statement 7' more than once \(lines 8, 150\)"),
        ("\n".join([*names(3), "", *names(147)]), "Line 4 of .* is blank"),
    ],
)
def test_names_that_cannot_be_matched_to_outputs_are_refused(tmp_path, content, message):
    (tmp_path / "tasks.txt").write_text(content)
    with pytest.raises(PacxError, match=message):
        read_statements(tmp_path / "tasks.txt")


def test_a_file_of_names_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(PacxError, match="does not exist"):
        read_statements(tmp_path / "none.txt")
    (tmp_path / "w.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PacxError, match="cannot be read as UTF-8 text"):
        read_statements(tmp_path / "w.bin")


def test_a_new_head_keeps_the_outputs_whose_names_are_known():
    net = small()
    x = torch.randn(2, 12, 100)
    other = with_head(net, ("a", "b"), ("new", "b", "newer"))
    assert torch.equal(other(x)[:, 1], net(x)[:, 1])
    assert not torch.equal(other(x)[:, 0], net(x)[:, 0])
    assert torch.equal(other.features(x), net.features(x))
    assert with_head(net, (), ("a", "b")).dense.weight.ne(net.dense.weight).any()  # names unknown: nothing to match
    bare = with_head(net, ("a", "b"), ())
    assert torch.equal(bare(x), net.features(x))
    assert with_head(bare, (), ("a",))(x).shape == (2, 1)
    other.dense.weight.data.zero_()  # a copy: the network it came from is not touched
    assert net.dense.weight.ne(0).any()
