"""Masked autoencoding: how much is hidden, what is seen, what is compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pacx.errors import PacxError
from pacx.models.encoder import Encoder, EncoderConfig
from pacx.models.mae import MaskedAutoencoder, patchify, unpatchify
from pacx.preprocess import Preprocess

torch.set_num_threads(1)


def autoencoder(
    *, image_size: int = 32, channels: int = 1, patch_size: int = 8, **options: object
) -> MaskedAutoencoder:
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=image_size, mean=(0.5,) * channels, std=(0.25,) * channels)
    encoder = Encoder(EncoderConfig(preprocess, patch_size=patch_size, width=24, depth=2, heads=3))
    return MaskedAutoencoder(encoder, **{"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2, **options})  # type: ignore[arg-type]


def images(size: int = 32, channels: int = 1) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))


def seen_tokens(model: MaskedAutoencoder, batch: Tensor) -> int:
    """Count the tokens that leave the encoder's last block."""
    counts: list[int] = []
    hook = model.encoder.vit.norm.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
    model(batch)
    hook.remove()
    return counts[0]


@pytest.mark.parametrize(("ratio", "visible"), [(0.9, 19), (0.75, 49), (0.999, 1)])
def test_the_encoder_sees_the_class_token_and_the_visible_patches_of_a_224_px_image(ratio: float, visible: int) -> None:
    model = autoencoder(image_size=224, patch_size=16, mask_ratio=ratio)
    assert seen_tokens(model, images(224)) == 1 + visible
    mask = model(images(224)).mask
    assert mask.shape == (3, 196)
    assert (mask == 0).sum(dim=1).tolist() == [visible] * 3


def test_a_share_that_divides_the_patches_is_kept_exactly() -> None:
    assert autoencoder(image_size=160, patch_size=16).num_visible == 10  # in floats 100 * (1 - .9) is a hair below 10


def test_ninety_percent_is_the_default() -> None:
    assert autoencoder(image_size=224, patch_size=16).num_visible == 19


def test_each_image_draws_its_own_mask_and_each_pass_a_new_one() -> None:
    model = autoencoder(image_size=64, mask_ratio=0.5)
    first, second = model(images(64)).mask, model(images(64)).mask
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_noise_fixes_the_mask_smallest_values_stay_visible() -> None:
    model = autoencoder(mask_ratio=0.75)
    noise = torch.rand(3, 16)
    mask = model(images(), noise).mask
    for row, values in zip(mask, noise, strict=True):
        assert set(torch.where(row == 0)[0].tolist()) == set(values.argsort()[:4].tolist())


def test_patches_are_in_reading_order_and_lie_as_a_convolution_kernel_does() -> None:
    batch = images(channels=3)
    patches = patchify(batch, 8)
    torch.testing.assert_close(patches[1, 6], batch[1, :, 8:16, 16:24].reshape(-1))
    torch.testing.assert_close(unpatchify(patches, 8), batch)


def test_visible_patches_are_embedded_as_the_encoder_would() -> None:
    model = autoencoder(channels=3).eval()
    batch = images(channels=3)
    everything = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(model.encode_visible(patchify(batch, 8), everything), model.encoder.tokens(batch))


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    model = autoencoder(mask_ratio=0.75).eval()
    noise = torch.rand(3, 16)
    before = model(images(), noise)
    hidden = model.pixel_mask(before.mask)
    after = model(images() + 5 * hidden, noise)
    torch.testing.assert_close(after.prediction, before.prediction)
    assert after.loss > before.loss


def test_loss_is_the_mean_squared_error_of_hidden_patches() -> None:
    model = autoencoder(mask_ratio=0.75)
    output = model(images(), torch.rand(3, 16))
    hidden = output.mask.bool()
    error = (output.prediction[hidden] - patchify(images(), 8)[hidden]).square().mean()
    assert output.loss.item() == pytest.approx(error.item(), rel=1e-5)
    assert not output.prediction[~hidden].any()


def test_normalised_targets_ignore_brightness_and_contrast_of_a_hidden_patch() -> None:
    model = autoencoder(mask_ratio=0.75, normalise_targets=True).eval()
    noise = torch.rand(3, 16)
    before = model(images(), noise)
    hidden = model.pixel_mask(before.mask)
    changed = torch.where(hidden.bool(), 3 * images() + 2, images())
    assert model(changed, noise).loss.item() == pytest.approx(before.loss.item(), rel=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_reconstruction_pastes_visible_patches_back(normalise: bool) -> None:
    model = autoencoder(mask_ratio=0.75, normalise_targets=normalise)
    noise = torch.rand(3, 16)
    batch = images()
    painted = model.reconstruct(batch, noise)
    hidden = model.pixel_mask(model(batch, noise).mask).bool()
    torch.testing.assert_close(painted[~hidden], batch[~hidden])
    assert not torch.isclose(painted[hidden], batch[hidden]).any(dim=0).all()
    if normalise:  # mean and contrast are the true patch's; the pattern is not
        weights = model.decoder_pixels
        with torch.no_grad():
            weights.weight.zero_(), weights.bias.zero_()
        flat = patchify(model.reconstruct(batch, noise), 8)
        torch.testing.assert_close(flat.mean(-1), patchify(batch, 8).mean(-1))


def test_every_trainable_weight_gets_a_gradient() -> None:
    model = autoencoder(mask_ratio=0.75)
    model(images()).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_training_overfits_one_batch() -> None:
    model = autoencoder(mask_ratio=0.5, decoder_width=32)
    batch, noise = images()[:1], torch.rand(1, 16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model(batch, noise).loss.item()
    for _ in range(60):
        optimiser.zero_grad()
        model(batch, noise).loss.backward()
        optimiser.step()
    assert model(batch, noise).loss.item() < 0.2 * first


def test_the_decoder_of_the_paper_has_its_parameters() -> None:
    with torch.device("meta"):
        preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
        model = MaskedAutoencoder(Encoder(EncoderConfig.named("base", preprocess=preprocess)))
    decoder = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    # 768->512, mask token, 8 blocks (12 D^2 + 13 D), norm, 512->768 pixels
    assert decoder == 393_728 + 512 + 8 * 3_152_384 + 1_024 + 393_984


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "1.0"),
        ({"mask_ratio": 0}, "0"),
        ({"decoder_heads": 3}, "3 heads"),
        ({"patch_size": 32}, "single"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(PacxError, match=message):
        autoencoder(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 1, 16, 16), (3, 1, 16, 64), (3, 1, 64, 64), (3, 3, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PacxError, match=r"takes \(B, 1, 32, 32\)"):
        autoencoder()(torch.zeros(shape))


def test_noise_for_another_number_of_patches_is_refused() -> None:
    with pytest.raises(PacxError, match=r"one number per patch: \(3, 16\)"):
        autoencoder()(images(), torch.rand(3, 9))


# --- the cross decoder ---


def cross(**changes: Any) -> MaskedAutoencoder:
    return autoencoder(decoder="cross", **changes)


def test_a_cross_decoder_predicts_the_chosen_share_of_the_hidden_patches_in_training_and_all_in_evaluation() -> None:
    model, batch = cross(predict_share=0.25), images()
    hidden = round(model(batch).mask[0].sum().item())
    assert model.train()(batch).predicted.sum(dim=1).tolist() == [round(hidden * 0.25)] * len(batch)
    output = model.eval()(batch)
    assert torch.equal(output.predicted, output.mask)


def test_what_a_cross_decoder_predicts_was_hidden_and_its_loss_looks_there_alone() -> None:
    model, batch = cross().train(), images()
    output = model(batch)
    assert ((output.predicted == 1) <= (output.mask == 1)).all()
    error = (output.prediction - patchify(batch, model.encoder.config.patch_size)) ** 2
    looked_at = output.predicted.bool()
    torch.testing.assert_close(output.loss, error[looked_at].mean())
    assert (output.prediction[~looked_at] == 0).all()


def test_a_cross_decoder_predicts_each_patch_by_itself() -> None:
    model, batch = cross().eval(), images()
    noise = torch.rand(len(batch), model.encoder.config.num_patches)
    few, every = model._complete(batch, noise, share=0.3), model._complete(batch, noise, share=1.0)
    chosen = few.predicted.bool()
    torch.testing.assert_close(few.prediction[chosen], every.prediction[chosen], rtol=1e-5, atol=1e-5)


def test_a_cross_decoder_learns_from_every_part_of_the_network() -> None:
    model = cross().train()
    model(images()).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_reconstruction_fills_in_every_hidden_patch_even_in_training_mode() -> None:
    model, batch = cross().train(), images()
    noise = torch.rand(len(batch), model.encoder.config.num_patches)
    torch.testing.assert_close(model.reconstruct(batch, noise), model.eval().reconstruct(batch, noise))


def test_the_published_depths_are_the_defaults_of_the_two_decoders() -> None:
    assert (len(autoencoder(decoder_depth=None).decoder_blocks), len(cross(decoder_depth=None).decoder_blocks)) == (
        8,
        12,
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"decoder": "both"}, "standard, cross"), ({"decoder": "cross", "predict_share": 0}, "above 0")],
)
def test_a_decoder_that_does_not_exist_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PacxError, match=words):
        autoencoder(**wrong)
