# ruff: noqa: F722
"""Where an encoder looks: attention rollout, as a picture and as a number.

Rollout (Abnar and Zuidema 2020, arXiv 2005.00928): token i of the last block depends on token j of the input through
every path of attention and residual connections. With A_l the attention of block l, averaged over heads,

    A'_l = rows of (A_l + I) scaled to sum 1,        R = A'_L ... A'_2 A'_1

and the class token's row of R, without its own entry, says how much each patch contributed. It is scaled to sum 1.

* **As a number**: the share of that mass inside the heart, the lungs, and outside of every mask, beside the share of
  the *area* that they cover, which is what an encoder without preference scores. A mask is averaged over each
  patch, so patches on its border count in part. Shares come with patient-level intervals, and per image in
  `mass.parquet`, so that two encoders can be compared image by image (`pacx.evaluation.comparison`).
* Images enter as the encoder's own preprocessing makes them. Nothing is min-max scaled before it is measured.
* **What it is not**: rollout ignores the values and the MLPs, and attention is not importance. It says where
  information could have come from, and is the measure that the paper's figures use.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.overlays import save_overlays
from pacx.frozen.features import encoder_name, open_encoder, preprocessed
from pacx.models.encoder import Encoder, weights_hash
from pacx.preprocess import fit_square
from pacx.runs import open_run
from pacx.statistics import bootstrap_mean, paired_mean_difference

__all__ = ["OUTSIDE", "HeadFusion", "attention_rollout", "explain", "patch_coverage", "rollout_maps"]

HeadFusion = Literal["mean", "max", "min"]
"""How the heads of a block become one map."""

OUTSIDE = "outside"
"""Region outside of every mask."""


def explain(
    *,
    store: Path,
    encoder: str,
    out: Path,
    split: str = "test",
    num_images: int = 200,
    num_figures: int = 8,
    head_fusion: HeadFusion = "mean",
    start_layer: int = 0,
    name: str | None = None,
    batch_size: int = 16,
    draws: int = 1000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Show and measure where an encoder looks, by attention rollout.

    Example:
        pacx explain --store stores/cohort --encoder runs/pacx/encoder --out runs/explain-pacx

    Args:
        store: a store with images; masks make the attention measurable.
        encoder: an encoder folder, random:FOLDER[:SEED] for the same architecture with fresh weights, or any foreign
            weights that `pacx convert` takes.
        out: the run folder to make.
        split: which images: train, val or test.
        num_images: how many images are measured; the same ones for every encoder on this store.
        num_figures: how many of them are drawn.
        head_fusion: how the heads of a block become one map: mean, max or min.
        start_layer: first block of the rollout; later ones show late attention only.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, mass and area by region (share of attention and share
        of the image), excess (mass minus area, with p-value), num_images, method. Regions are the store's masks and
        "outside"; without masks there are none.

    Raises:
        PacxError: no images in this split, or a start layer that the encoder does not have.
    """
    config = {**locals()}
    cohort = Store.open(store)
    rows = _choose_images(cohort, split, num_images)
    network = open_encoder(encoder)
    _check_start(start_layer, network)
    with open_run(out, command="explain", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash, split_hash=cohort.meta["split_hash"])
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        maps = _all_maps(network, cohort, rows, head_fusion=head_fusion, start_layer=start_layer, batch_size=batch_size)
        table = _mass_table(maps, cohort, rows, network)
        table.to_parquet(run.artefact("mass", "mass.parquet"))
        if num_figures > 0:
            caption = (
                f"Attention rollout of {label} on {min(num_figures, len(rows))} {split} images. Above: the X-ray with "
                "the outlines of its masks. Below: attention per patch in multiples of even attention, one scale for "
                "all pictures."
            )
            save_overlays(
                run.figure("attention.png", caption=caption),
                cohort,
                rows[:num_figures],
                maps[:num_figures],
                title=label,
            )
        results = _regions(table, draws=draws)
        method = f"attention rollout, heads: {head_fusion}, from block {start_layer}"
        return run.finish({"encoder_name": label, **results, "num_images": len(rows), "method": method})


def attention_rollout(
    maps: Iterable[Float[Tensor, "B heads T T"]], *, head_fusion: HeadFusion = "mean", start_layer: int = 0
) -> Float[Tensor, "B T T"]:
    """Multiply the attention of all blocks, each with its residual connection.

    Args:
        maps: softmax maps, first block first; rows are queries and sum to 1.
        head_fusion: how heads become one map.
        start_layer: blocks before this one are left out.

    Returns:
        R, (B, T, T): row i says how much of token i of the output came from each input token; rows sum to 1.
    """
    rollout: Tensor | None = None
    for number, attention in enumerate(maps):
        if number < start_layer:
            continue
        fused = _fuse(attention.double(), head_fusion)
        step = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
        step = step / step.sum(dim=-1, keepdim=True)
        rollout = step if rollout is None else step @ rollout
    if rollout is None:
        raise PacxError(f"There is no block from layer {start_layer} on; choose an earlier --start_layer.")
    return rollout


@torch.inference_mode()
def rollout_maps(
    encoder: Encoder,
    images: Float[Tensor, "B C H W"],
    *,
    head_fusion: HeadFusion = "mean",
    start_layer: int = 0,
) -> NDArray[np.float64]:
    """Return how much each patch contributed to the class token, (B, grid, grid); each map sums to 1."""
    rollout = attention_rollout(encoder.iter_attention(images), head_fusion=head_fusion, start_layer=start_layer)
    patches = rollout[:, 0, 1:]
    patches = patches / patches.sum(dim=1, keepdim=True)
    grid = encoder.config.grid
    return np.asarray(patches.reshape(-1, grid, grid).cpu().numpy(), dtype=np.float64)


def patch_coverage(mask: NDArray[np.bool_], grid: int) -> NDArray[np.float64]:
    """Return which share of each patch a mask covers.

    Args:
        mask: (S, S). If S is not a multiple of `grid`, the mask is first resized to the next multiple.
        grid: patches along an edge.

    Returns:
        (grid, grid), values in [0, 1].
    """
    size = len(mask)
    pixels = mask.astype(np.float32)
    if size % grid:
        size = -(-size // grid) * grid
        pixels = fit_square(pixels, size)
    edge = size // grid
    return np.asarray(pixels.reshape(grid, edge, grid, edge).mean(axis=(1, 3)), dtype=np.float64)


def _fuse(attention: Tensor, head_fusion: HeadFusion) -> Tensor:
    if head_fusion == "mean":
        return attention.mean(dim=1)
    return attention.amax(dim=1) if head_fusion == "max" else attention.amin(dim=1)


def _all_maps(
    encoder: Encoder,
    store: Store,
    rows: NDArray[np.int64],
    *,
    head_fusion: HeadFusion,
    start_layer: int,
    batch_size: int,
) -> NDArray[np.float64]:
    device = next(encoder.parameters()).device
    parts = []
    for start in tqdm(range(0, len(rows), batch_size), desc="attention", unit="batch", leave=False, disable=None):
        images = preprocessed(encoder, store, rows[start : start + batch_size]).to(device)
        parts.append(rollout_maps(encoder, images, head_fusion=head_fusion, start_layer=start_layer))
    return np.concatenate(parts)


def _mass_table(maps: NDArray[np.float64], store: Store, rows: NDArray[np.int64], encoder: Encoder) -> pd.DataFrame:
    """One row per image and region: mass = share of attention, area = share of the image."""
    columns = ["image_id", "patient_id", "region", "mass", "area"]
    if not store.mask_names:
        return pd.DataFrame(columns=columns)
    ids = store.manifest.iloc[rows][["image_id", "patient_id"]].astype(str).to_numpy()
    records = []
    for row, (image_id, patient_id), attention in zip(rows, ids, maps, strict=True):
        masks = {name: store.mask(name, np.array([row]))[0] for name in store.mask_names}
        masks[OUTSIDE] = ~np.logical_or.reduce(list(masks.values()))
        for region, mask in masks.items():
            coverage = patch_coverage(mask, encoder.config.grid)
            records.append((image_id, patient_id, region, float(np.sum(attention * coverage)), float(coverage.mean())))
    return pd.DataFrame.from_records(records, columns=columns)


def _regions(table: pd.DataFrame, *, draws: int) -> dict[str, Any]:
    """Average over images, with patient-level intervals."""
    results: dict[str, Any] = {"mass": {}, "area": {}, "excess": {}}
    for region, images in table.groupby("region", sort=False):
        patient = images["patient_id"].to_numpy()
        results["mass"][region] = bootstrap_mean(images["mass"], patient, draws=draws)
        results["area"][region] = float(images["area"].mean())
        results["excess"][region] = paired_mean_difference(images["mass"], images["area"], patient, draws=draws)
    return results


def _choose_images(store: Store, split: str, num_images: int) -> NDArray[np.int64]:
    """Pick images at random, but the same ones for every encoder; with masks if the store has any."""
    needs: tuple[Literal["image", "mask"], ...] = ("image", "mask") if store.has("mask") else ("image",)
    rows = store.rows(split, needs=needs)
    if not len(rows) or num_images < 1:
        raise PacxError(
            f"The store {store.name!r} ({store.path}) has {len(rows)} {split} images with {' and '.join(needs)}, of "
            f"which {num_images} were asked for. At least one is needed."
        )
    return np.random.Generator(np.random.PCG64(0)).permutation(rows)[:num_images]


def _check_start(start_layer: int, encoder: Encoder) -> None:
    if not 0 <= start_layer < encoder.config.depth:
        raise PacxError(
            f"--start_layer {start_layer} was given; the encoder has blocks 0 to {encoder.config.depth - 1}."
        )
