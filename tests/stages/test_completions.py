"""What is hidden, what is filled in, how far off it is, and the figure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.mae import MaskedAutoencoder
from pacx.preprocess import Preprocess
from pacx.stages.completions import complete, draw_completion, hidden_errors

torch.set_num_threads(1)


def autoencoder(*, channels: int = 1, **options) -> MaskedAutoencoder:
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=16, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.25, 0.3)[:channels])
    encoder = Encoder(EncoderConfig(preprocess, patch_size=4, width=16, depth=1, heads=2))
    small = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.75}
    return MaskedAutoencoder(encoder, **{**small, **options})


def constant(model: MaskedAutoencoder, value: float) -> MaskedAutoencoder:
    """Have the decoder answer one number everywhere, in its own units."""
    with torch.no_grad():
        model.decoder_pixels.weight.zero_()
        model.decoder_pixels.bias.fill_(value)
    return model


def gray(count: int = 2, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1], and the same normalised."""
    image = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(1)).expand(-1, channels, -1, -1)
    mean, std = (torch.tensor(v[:channels]).view(-1, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    return image[:, 0], (image - mean) / std


NOISE = torch.rand(2, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("decoder", ["standard", "cross"])
def test_every_hidden_patch_is_filled_in_and_visible_ones_are_as_they_are(decoder: str):
    image, images = gray()
    made = complete(constant(autoencoder(decoder=decoder), 2.0).train(), images, NOISE)
    torch.testing.assert_close(made.image, image)
    assert made.hidden.sum(dim=(1, 2)).tolist() == [12 * 16] * 2
    torch.testing.assert_close(made.filled[~made.hidden], image[~made.hidden])
    torch.testing.assert_close(made.filled[made.hidden], torch.full((2 * 192,), 2.0 * 0.2 + 0.4))


def test_the_patches_with_the_smallest_noise_are_seen():
    made = complete(autoencoder(), gray()[1], NOISE)
    patch = made.hidden.reshape(2, 4, 4, 4, 4)[:, :, 0, :, 0].reshape(2, 16)
    for row, noise in zip(patch, NOISE, strict=True):
        assert set(torch.where(~row)[0].tolist()) == set(noise.argsort()[:4].tolist())


def test_colour_predictions_are_shown_as_their_mean_in_gray():
    _, images = gray(channels=3)
    made = complete(constant(autoencoder(channels=3), 1.0), images, NOISE)
    torch.testing.assert_close(made.filled[made.hidden], torch.full((2 * 192,), (0.6 + 0.75 + 0.9) / 3))


def test_predictions_beyond_white_are_shown_white():
    made = complete(constant(autoencoder(), 50.0), gray()[1], NOISE)
    assert made.filled.max() == 1


def test_errors_are_those_of_hidden_pixels_in_gray_values():
    image, images = gray()
    made = complete(constant(autoencoder(), 0.5), images, NOISE)
    errors = hidden_errors(made)
    assert errors["hidden_mse"] == pytest.approx(float((image - 0.5)[made.hidden].square().mean()), rel=1e-5)
    means = [float(i[~h].mean()) for i, h in zip(image, made.hidden, strict=True)]
    each = [float((i - m)[h].square().mean()) for i, m, h in zip(image, means, made.hidden, strict=True)]
    assert errors["mean_gray_mse"] == pytest.approx(np.mean(each), rel=1e-5)


def test_normalised_targets_are_measured_against_the_true_mean_of_each_patch():
    _, images = gray()
    errors = hidden_errors(complete(constant(autoencoder(normalise_targets=True), 0.0), images, NOISE))
    assert errors["hidden_mse"] == pytest.approx(errors["mean_gray_mse"], rel=1e-4)  # it answers that mean


def test_completing_draws_nothing_at_random_and_leaves_the_mode():
    model = autoencoder().train()
    before = torch.get_rng_state()
    complete(model, gray()[1], NOISE)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_figure_has_a_block_per_eight_images_and_shows_their_pixels(tmp_path: Path):
    _, images = gray(11)
    noise = torch.rand(11, 16, generator=torch.Generator().manual_seed(3))
    made = complete(constant(autoencoder(), 50.0), images, noise)  # hidden patches are white
    draw_completion(made, seen="seen: 4 of 16", path=tmp_path / "eleven.png")
    draw_completion(
        made._replace(**{k: v[:8] for k, v in made._asdict().items()}), seen="", path=tmp_path / "eight.png"
    )
    eleven, eight = (Image.open(tmp_path / f"{name}.png") for name in ("eleven", "eight"))
    assert eleven.width == eight.width
    assert 1.8 < eleven.height / eight.height < 2
    colours = {tuple(colour) for _, colour in eight.convert("RGB").getcolors(1 << 20)}
    assert (0x27, 0x36, 0x4A) in colours  # hidden patches
    assert any(red > blue + 60 for red, _, blue in colours)  # filled in too bright
