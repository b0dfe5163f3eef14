"""torch.compile: which parts, and what a user hears where there is no compiler."""

import logging

import pytest
import torch

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.mae import MaskedAutoencoder
from pacx.preprocess import Preprocess
from pacx.stages.compiling import compile_blocks

torch.set_num_threads(1)
CPU = torch.device("cpu")


def autoencoder(decoder: str = "standard") -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(Preprocess(image_size=16), patch_size=4, width=16, depth=3, heads=2))
    return MaskedAutoencoder(encoder, decoder=decoder, decoder_width=16, decoder_depth=2, decoder_heads=2)


@pytest.mark.parametrize("decoder", ["standard", "cross"])
def test_compiled_blocks_are_the_ones_that_compute(decoder: str, monkeypatch: pytest.MonkeyPatch):
    called = []

    def spy(function, **options):
        def call(*arguments, **named):
            called.append(function)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(torch, "compile", spy)
    model, plain = autoencoder(decoder), autoencoder(decoder)
    names = list(model.state_dict())
    compile_blocks(model, CPU)
    called.clear()
    images, noise = torch.randn(2, 1, 16, 16), torch.rand(2, 16)
    loss = model(images, noise).loss
    assert len(called) == 3 + 2
    assert list(model.state_dict()) == names
    assert loss.item() == pytest.approx(plain(images, noise).loss.item(), rel=1e-5)


def test_a_missing_compiler_is_said_before_training(monkeypatch: pytest.MonkeyPatch):
    def broken(function, **options):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(PacxError, match=r"does not work here: InvalidCxxCompiler.*C\+\+ compiler such as g\+\+.*leave"):
        compile_blocks(autoencoder(), CPU)


def test_on_a_cpu_the_user_hears_that_compiling_does_not_pay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    with caplog.at_level(logging.WARNING, "pacx"):
        compile_blocks(autoencoder(), CPU)
    assert "without --compile is faster" in caplog.text


@pytest.mark.slow
def test_a_really_compiled_step_gives_the_same_loss_and_gradients():
    model, plain = autoencoder(), autoencoder()
    compile_blocks(model, CPU)
    images, noise = torch.randn(2, 1, 16, 16), torch.rand(2, 16)
    for network in (model, plain):
        network(images, noise).loss.backward()
    for (name, a), (_, b) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert "_orig_mod" not in name
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_real_lack_of_a_compiler_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path):
    import subprocess
    import sys

    code = (
        "import torch\nfrom pacx.stages.compiling import compile_blocks\n"
        "compile_blocks(torch.nn.Linear(1, 1), torch.device('cpu'))"
    )
    environment = {"CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "PacxError: torch.compile does not work here: InvalidCxxCompiler" in done.stderr
