# ruff: noqa: F722
"""The chest X-ray encoder: a plain vision transformer that carries its own preprocessing.

* timm's `VisionTransformer`, so weights have the field's names and `timm.create_model(..., checkpoint_path=...)`
  loads ours.
* Class token, fixed 2-D sine-cosine positions, LayerNorm epsilon written into the file. The epsilon is not a detail:
  1e-6 in training and 1e-5 afterwards silently changes every feature.
* One input channel. A radiograph is gray; repeating it three times triples the patch embedding and adds nothing.
* On disk: a folder with `config.json` (`EncoderConfig`) and `model.safetensors`. Whoever loads it gets the geometry
  and normalisation that it was trained with, and cannot forget them. `patients.safetensors` beside them says whom the
  weights have learned from, so that nobody is tested whom they know (`pacx.models.patients`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from pacx.models.config import EncoderConfig, EncoderSize
from pacx.models.given_images import Image, Images, check_tensor, list_given, read_pixels, refuse_not_finite
from pacx.models.lean import is_hooked, run_blocks
from pacx.models.patients import SeenPatients, save_patients
from pacx.models.weights import CONFIG_FILE, WEIGHTS_FILE, new_folder, save_weights, weights_hash
from pacx.preprocess import Geometry
from pacx.runs import check_counts, write_json

__all__ = [
    "Encoder",
    "EncoderConfig",
    "EncoderSize",
    "Image",
    "Images",
    "initialise",
    "load_encoder",
    "save_encoder",
    "sincos_positions",
    "weights_hash",
]


def sincos_positions(width: int, grid: int) -> Float[Tensor, "1+N D"]:
    """Make the fixed position table of a square grid of patches, class token first.

    With w_i = 10000^(-4i/D), i = 0..D/4-1, a patch at (row, column) has
    [sin(column w), cos(column w), sin(row w), cos(row w)]: the sines of Vaswani et al. 2017 (section 3.5), column
    first as in the published MAE weights. The class token's position is zero. Patches are in reading order.
    """
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    angles = np.arange(grid)[:, None] * frequencies
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.zeros((1 + grid * grid, width), dtype=np.float32)
    table[1:, : width // 2] = np.tile(waves, (grid, 1))
    table[1:, width // 2 :] = np.repeat(waves, grid, axis=0)
    return torch.from_numpy(table)


def initialise(module: nn.Module) -> None:
    """Initialise a transformer as MAE does (He et al. 2021, appendix A.1): Xavier-uniform linears, zero biases.

    A patch convolution counts as the linear map that it is, from the pixels of a patch to a token.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(part.weight.shape[0], -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Encoder(nn.Module):
    """A vision transformer from normalised images to embeddings.

    Attributes:
        config: architecture, preprocessing, provenance.
        vit: timm's network; its state-dict keys are the keys in the file.
        patients: whom the weights have learned from; None if that is not known.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patients: SeenPatients | None = None
        self.vit = VisionTransformer(
            img_size=config.preprocess.image_size,
            patch_size=config.patch_size,
            in_chans=config.preprocess.in_chans,
            num_classes=0,
            global_pool="token",
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
            weight_init="skip",
        )
        initialise(self.vit)
        nn.init.normal_(self.vit.cls_token, std=0.02)
        with torch.no_grad():
            self.vit.pos_embed.copy_(sincos_positions(config.width, config.grid)[None])
        self.vit.pos_embed.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embed normalised images: the class token after the final norm.

        In the last block nobody asks what becomes of the patches, so there the class token alone is computed.
        """
        *blocks, last = self.vit.blocks
        embedding: Tensor = self.vit.norm(_class_token_after(last, run_blocks(blocks, self.embed(images))))
        return embedding

    def tokens(self, images: Images) -> Float[Tensor, "B 1+N D"]:
        """Return all tokens after the final norm, class token first, patches in reading order.

        Args:
            images: whatever `prepare` takes. Prepared tensors are joined to the tokens by gradients; files and arrays,
                which nobody trains on this way, have none.

        Raises:
            PacxError: no images, or something that is no image for this encoder.
        """
        if not isinstance(images, Tensor):
            with torch.no_grad():
                return self.tokens(self.prepare(images))
        tokens: Tensor = self.vit.norm(run_blocks(self.vit.blocks, self.embed(self.prepare(images))))
        return tokens

    def embed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1+N D"]:
        """Return what enters the first block: embedded patches and class token with their positions."""
        tokens: Tensor = self.vit._pos_embed(self.vit.patch_embed(images))
        return tokens

    def iter_attention(self, images: Float[Tensor, "B C H W"]) -> Iterator[Float[Tensor, "B heads 1+N 1+N"]]:
        """Yield each block's softmax maps, first block first; rows are queries and sum to one.

        One block is in memory at a time: B x heads x T^2 floats, 1.9 MB per image for a ViT-B at 224 px. Wrap the
        loop in `torch.no_grad()` unless gradients are wanted.
        """
        x = self.embed(images)
        for block in self.vit.blocks:
            with _recorded_map(block.attn) as maps:
                x = block(x)
            yield maps.pop()

    def tokens_with_attention(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, list[Tensor]]:
        """Return `tokens` and each block's softmax maps, joined by gradients: a score of the one by the others.

        All maps are in memory at once: depth x B x heads x T^2 floats.
        """
        maps, x = [], self.embed(images)
        for block in self.vit.blocks:
            with _recorded_map(block.attn) as found:
                x = block(x)
            maps.append(found.pop())
        tokens: Tensor = self.vit.norm(x)
        return tokens, maps

    def attention(self, images: Images) -> list[Tensor]:
        """Return the maps of `iter_attention` for all blocks at once: depth x (B, heads, 1+N, 1+N).

        Args:
            images: whatever `prepare` takes; with gradients for prepared tensors only, as in `tokens`.

        Raises:
            PacxError: no images, or something that is no image for this encoder.
        """
        if not isinstance(images, Tensor):
            with torch.no_grad():
                return self.attention(self.prepare(images))
        return list(self.iter_attention(self.prepare(images)))

    @torch.inference_mode()
    def encode(self, images: Images, *, batch_size: int = 32) -> NDArray[np.float32]:
        """Embed images; reading, preprocessing, batching and the device are taken care of.

        Args:
            images: whatever `prepare` takes.
            batch_size: images per forward pass.

        Returns:
            Embeddings (B, D), float32. The network computes in evaluation mode and is left in the mode it was in.

        Raises:
            PacxError: no images, something that is no image for this encoder, or a batch size below 1.
        """
        check_counts({"batch_size": batch_size})
        if isinstance(images, Tensor):
            check_tensor(images, self.config.preprocess)
        source = images if isinstance(images, Tensor) else list_given(images)
        training = self.training
        self.eval()
        try:
            parts = [
                self(self.prepare(source[start : start + batch_size])).float().cpu().numpy()
                for start in range(0, len(source), batch_size)
            ]
        finally:
            self.train(training)
        return np.concatenate(parts)

    def prepare(self, images: Images) -> Float[Tensor, "B C S S"]:
        """Read and preprocess images the way that this encoder was trained with; the result lies on its device.

        Args:
            images: one or several paths of files (DICOM, PNG, JPEG, TIFF), their bytes, open binary files, or gray
                arrays (H, W) of any size, as `read_cxr(...).pixels` gives them: floats in [0, 1], or uint8 or uint16
                over their full range. Arrays may be stacked (B, H, W), but for stacks that look like a colour picture
                (B of 3 or 4, or W of 1, 3 or 4): those are given as a list. A tensor (B, C, S, S) of floats counts as
                prepared; only its type and device become the weights'.

        Raises:
            PacxError: no images, a file that cannot be read, or a shape, type or range that is no image for this
                encoder. Tensors are searched for NaN and infinity on the CPU, or where no gradients are recorded.
        """
        preprocess, weights = self.config.preprocess, self.vit.cls_token
        if isinstance(images, Tensor):
            check_tensor(images, preprocess)
            if _is_searched(images):
                refuse_not_finite(images)
            return images.to(weights.device, weights.dtype)
        pixels = np.stack([preprocess(read_pixels(image)) for image in list_given(images)])
        return torch.from_numpy(pixels).to(weights.device, weights.dtype)


def save_encoder(encoder: Encoder, folder: Path) -> Path:
    """Write an encoder folder, whole or not at all.

    Args:
        encoder: a plain encoder; one with adapters is merged first (`Student.merged_encoder`).
        folder: made if absent; an older encoder folder is replaced.

    Returns:
        The folder.

    Raises:
        PacxError: the place holds something else or cannot be written.
    """
    folder = Path(folder)
    with new_folder(folder) as filling:
        save_weights(encoder.vit, filling / WEIGHTS_FILE)
        write_json(filling / CONFIG_FILE, encoder.config.to_dict())
        save_patients(encoder.patients, filling)
    return folder


def load_encoder(
    source: str | Path,
    *,
    image_size: int | None = None,
    fold: bool = False,
    eps: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    geometry: Geometry | None = None,
    heads: int | None = None,
    lora_alpha: float | None = None,
) -> Encoder:
    """Load an encoder, in evaluation mode, on the CPU.

    The format is told from the content. Every tensor of the encoder must be there and nothing else may be, but for
    decoders and heads, which are dropped. What was read, dropped and assumed is in `encoder.config.provenance`.

    Args:
        source: an encoder folder of pacx; a file of weights (safetensors or PyTorch) with the names of timm, MAE,
            Hugging Face's ViT or ViTMAE, or the authors' MAE and PaCX checkpoints; a folder of Hugging Face or timm;
            `timm:NAME` or `hf-hub:OWNER/NAME`, which may be downloaded; `shipped:NAME`, which comes with pacx; or
            `random:FOLDER[:SEED]`, the same architecture and preprocessing with fresh weights, the baseline that says
            what training brought.
        image_size: edge of the images, if other than the network was trained on; positions are computed or resampled.
        fold: turn a network with several input channels into one for gray images, with the same embeddings.
        eps: LayerNorm epsilon, in place of what the source says or its format takes for granted.
        mean: pixel mean per channel of the source, likewise, on the [0, 1] scale; one number if there is one channel.
        std: standard deviation per channel, likewise.
        geometry: how a rectangle becomes a square, likewise.
        heads: attention heads, likewise; width / 64 if nothing says.
        lora_alpha: LoRA's numerator, if the source holds adapters and does not say.

    Raises:
        PacxError: not an encoder, or one that ours cannot represent; weights that are missing or left over; a pickle
            that wants to run code; a name that cannot be fetched.
    """
    # Reading foreign files makes encoders, so it builds on this module.
    from pacx.models.formats.network import Overrides
    from pacx.models.formats.source import read_encoder

    overrides = Overrides(
        image_size=image_size,
        fold=fold,
        eps=eps,
        mean=_per_channel(mean),
        std=_per_channel(std),
        geometry=geometry,
        heads=heads,
        lora_alpha=lora_alpha,
    )
    return read_encoder(str(source), overrides)


def _is_searched(images: Tensor) -> bool:
    """Say whether a look at a tensor's values costs next to nothing; a step of training on a GPU would wait for it."""
    compiling = torch.compiler.is_compiling() or images.is_meta
    return not compiling and (images.is_cpu or not torch.is_grad_enabled())


def _per_channel(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    return value if value is None else tuple(value) if isinstance(value, Iterable) else (value,)


def _class_token_after(block: Any, x: Float[Tensor, "B 1+N D"]) -> Float[Tensor, "B D"]:
    """Run one of timm's pre-norm blocks for its first token, which asks all tokens.

    A block that is more than its formula (sharded, hooked, compiled) is called as it is.
    """
    if not isinstance(block, Block) or any(map(is_hooked, (block, block.attn, block.mlp))):
        everything: Tensor = block(x)
        return everything[:, 0]
    batch, length, width = x.shape
    attention, own = block.attn, x[:, :1]
    by_head = attention.qkv(block.norm1(x)).view(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = by_head.unbind(0)
    attended = F.scaled_dot_product_attention(query[:, :, :1], key, value).transpose(1, 2).reshape(batch, 1, width)
    own = own + attention.proj(attended)
    token: Tensor = (own + block.mlp(block.norm2(own)))[:, 0]
    return token


@contextmanager
def _recorded_map(attention: Any) -> Iterator[list[Tensor]]:
    """Catch the softmax map of a timm attention layer on its way into attention dropout.

    The fused kernel never forms the map, so it is switched off meanwhile.
    """
    maps: list[Tensor] = []
    fused = attention.fused_attn
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    attention.fused_attn = False
    try:
        yield maps
    finally:
        attention.fused_attn = fused
        hook.remove()
