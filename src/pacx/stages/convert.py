"""Turn any weights that pacx reads into an encoder folder of pacx, timm or Hugging Face.

The run folder is the usual one, with the encoder in `OUT/encoder`, so that a recipe's later steps find it under
`{step}/encoder` like that of any training step, whichever layout it was written in: `load_encoder` reads all three.
Conversion changes no weight unless asked to (`fold`, `image_size`, and the merging of LoRA adapters).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pacx.models.encoder import load_encoder, weights_hash
from pacx.models.formats.export import Target, check_target, export
from pacx.preprocess import Geometry
from pacx.runs import open_run

__all__ = ["convert"]

log = logging.getLogger("pacx")


def convert(
    source: str,
    *,
    out: Path,
    to: Target = "pacx",
    fold: bool = False,
    image_size: int | None = None,
    eps: float | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    geometry: Geometry | None = None,
    heads: int | None = None,
    lora_alpha: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert weights of timm, MAE, Hugging Face or the authors of PaCX-MAE, in or out.

    The format is told from the content of the file or folder. Every tensor of the encoder must be there and nothing
    else may be; decoders and heads are dropped and recorded. Pickles that want to run code are refused.

    Args:
        source: a file of weights, a model folder, timm:NAME or hf-hub:OWNER/NAME.
        out: the run folder to write; the encoder is in OUT/encoder.
        to: the layout to write: pacx, timm or huggingface.
        fold: turn several input channels into one for gray images, with the same embeddings.
        image_size: edge of the images in pixels, if other than in training; positions are computed or resampled.
        eps: LayerNorm epsilon, in place of what the source says or its format takes for granted.
        mean: pixel mean per channel of the source, likewise, with pixels in [0, 1].
        std: standard deviation per channel of the source, likewise.
        geometry: how a rectangle becomes a square, likewise: squash, crop or pad.
        heads: attention heads, likewise; width / 64 if nothing says.
        lora_alpha: LoRA's numerator, if the source holds adapters and does not say.
        overwrite: replace a finished run in `out`.

    Example:
        pacx convert mae_pretrain_vit_base.pth --fold --out runs/imagenet-mae

    Returns:
        The content of `result.json`. Its results: format (of the source), to, weights_hash, num_parameters, encoder
        (its configuration with the provenance: what was dropped, stated, assumed, given and changed).

    Raises:
        PacxError: no weights that pacx knows or can represent, or a layout that cannot express them.
    """
    config = {**locals()}
    encoder = load_encoder(  # before the run folder is made: a source that cannot be used leaves nothing behind
        source,
        fold=fold,
        image_size=image_size,
        eps=eps,
        mean=mean,
        std=std,
        geometry=geometry,
        heads=heads,
        lora_alpha=lora_alpha,
    )
    check_target(encoder.config, to=to)
    provenance = encoder.config.provenance
    with open_run(out, command="convert", config=config, overwrite=overwrite) as run:
        run.read("source", path=source, sha256=provenance.get("sha256"))
        log.info("convert: %s is of format %s", source, provenance.get("format", "pacx"))
        export(encoder, run.artefact("encoder", "encoder"), to=to)
        return run.finish(
            {
                "format": provenance.get("format", "pacx"),
                "to": to,
                "weights_hash": weights_hash(encoder),
                "num_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
                "encoder": encoder.config.to_dict(),
            }
        )
