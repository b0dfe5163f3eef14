"""Where an encoder looks: as a picture, as a share of attention by region, and checked against a trained head.

* **Maps**: attention rollout, or gradient-weighted rollout for one class (`pacx.evaluation.rollout`).
* **Regions**: the share of a map inside heart, lungs and outside, beside their share of the area
  (`pacx.evaluation.regions`), per image in `mass.parquet`.
* **Faithfulness**, with `--task`: a logistic regression is fitted on the frozen features of the training images, and
  patches are removed from test images in the order of the map (`pacx.evaluation.faithfulness`), per image in
  `curves.parquet`.
* **Two encoders**: `--against RUN` compares with an earlier run image by image, each encoder with its own head.
* Images enter as the encoder's own preprocessing makes them. Nothing is min-max scaled before it is measured.
* **What it is not**: attention is not importance. It says where information could have come from, and is the measure
  that the paper's figures use; the curves say how far it can be trusted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.class_head import ClassHead, Question, check_answers, find_question, fit_head
from pacx.evaluation.comparison import compare_attention
from pacx.evaluation.curve_areas import compare_faithfulness, summarise_curves
from pacx.evaluation.explain_images import explain_images
from pacx.evaluation.faithfulness import Judge, Removed, deletion_curves
from pacx.evaluation.overlays import save_curves, save_overlays
from pacx.evaluation.regions import mass_table, summarise_mass
from pacx.evaluation.rollout import HeadFusion, ReadToken, gradient_maps, rollout_maps
from pacx.frozen.features import encoder_name, extract, feature_cache, open_encoder, preprocessed
from pacx.frozen.seen import check_unseen
from pacx.models.encoder import Encoder, weights_hash
from pacx.runs import RunFolder, open_run, read_result

__all__ = ["Method", "explain"]

Method = Literal["rollout", "gradient"]


def explain(
    images: list[str] | None = None,
    *,
    store: Path | None = None,
    encoder: str,
    out: Path,
    method: Method = "rollout",
    task: str | None = None,
    split: str = "test",
    num_images: int = 200,
    num_figures: int = 8,
    head_fusion: HeadFusion = "mean",
    start_layer: int = 0,
    token: ReadToken = "cls",
    removed: Removed = "blur",
    steps: int = 16,
    against: Path | None = None,
    name: str | None = None,
    batch_size: int = 16,
    draws: int = 1000,
    allow_seen_patients: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Show and measure where an encoder looks, and whether that is what a trained head decides by.

    With IMAGES, an overlay is drawn of each file and nothing is measured; with --store, its images are measured.

    Example:
        pacx explain --store stores/cohort --encoder runs/pacx/encoder --task cardiomegaly --out runs/explain-pacx

    Args:
        images: files (DICOM, PNG, JPEG, TIFF), folders, patterns such as 'scans/*.dcm', or tables with a column `path`;
            of the other arguments only encoder, out, head_fusion, start_layer, token, name, batch_size and overwrite
            count then.
        store: a store with images; masks make the attention measurable.
        encoder: an encoder folder, random:FOLDER[:SEED] for the same architecture with fresh weights, or any foreign
            weights that `pacx convert` takes.
        out: the run folder to make.
        method: rollout = where information could have come from; gradient = what raises the score of --task.
        task: a task of the store, or TASK/OUTPUT where it has several outputs: a head is fitted on the training images,
            and patches are removed from images that have the finding. With it 3 x (steps + 1) forward passes per image.
        split: which images: train, val or test.
        num_images: how many images are measured; the same ones for every encoder on this store.
        num_figures: how many of them are drawn.
        head_fusion: rollout: how the heads of a block become one map: mean, max or min.
        start_layer: first block that counts; later ones show late attention only.
        token: what stands for an image, for map and head: class token, or mean of the patch tokens.
        removed: what a removed patch holds: a blurred copy of the image, or the pixel mean of the training images.
        steps: how often patches are removed, up to the empty image.
        against: an earlier explain run of another encoder on the same store, with the same settings, to compare with.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        allow_seen_patients: go on even if the encoder was trained on some of the test patients; the result says so.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, seen_patients, mass and area by region (share of
        attention and share of the image), excess (mass minus area, with p-value), num_images, num_undefined (images
        without a map), method; with `task` also head and faithfulness (see
        `pacx.evaluation.curve_areas.summarise_curves`); with `against` also comparison (this minus
        that). Regions are the store's masks and "outside"; without masks there are none.

    Raises:
        PacxError: no images in this split, a start layer that the encoder does not have, a task that cannot be learned,
            a run that cannot be compared with, or test patients that the encoder was trained on.
    """
    if (images is None) == (store is None):
        raise PacxError("Give images to draw overlays of, or a --store to measure on: one of the two.")
    if images is not None:
        if method == "gradient" or task is not None:
            raise PacxError("--method gradient and --task train a head on a store's labels. Give --store, no images.")
        return explain_images(
            images, encoder=encoder, out=out, head_fusion=head_fusion, start_layer=start_layer, token=token, name=name,
            batch_size=batch_size, overwrite=overwrite,
        )  # fmt: skip
    assert store is not None, "is refused before"
    config = {name: value for name, value in locals().items() if name != "images"}
    _check_arguments(method=method, task=task, steps=steps)
    cohort = Store.open(store)
    rows = _choose_images(cohort, split, num_images)
    question = None if task is None else find_question(cohort, task)
    affected = None if question is None else _with_finding(cohort, question, split, num_images)
    earlier = None if against is None else _earlier(against, config, cohort)
    network = open_encoder(encoder)
    _check_start(start_layer, network)
    seen = check_unseen(network, cohort, split=split, allow=allow_seen_patients or split != "test")
    with open_run(out, command="explain", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", **cohort.identity())
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        head = None
        if question is not None:
            head = _fit(network, cohort, question, token=token, batch_size=batch_size, cache=feature_cache(out))
        mapping = _Mapping(network, cohort, method, head_fusion, start_layer, token, head, batch_size)
        maps = mapping.of(rows)
        table = mass_table(maps, cohort, rows)
        table.to_parquet(run.artefact("mass", "mass.parquet"))
        _draw(run, mapping, rows[:num_figures], maps[:num_figures], name=label)
        results: dict[str, Any] = {
            **summarise_mass(table, draws=draws),
            "num_images": len(rows),
            "num_undefined": int(np.isnan(maps).any(axis=(1, 2)).sum()),
            "method": mapping.about(task),
            "split": split,
        }
        if head is not None and affected is not None:
            curves = deletion_curves(
                Judge(network, head, token), cohort, affected, mapping.of(affected), removed=removed, steps=steps,
                batch_size=batch_size,
            )  # fmt: skip
            curves.to_parquet(run.artefact("curves", "curves.parquet"))
            results["head"] = {"task": task, "C": head.strength, "auroc": head.auroc}
            found = {"removed": removed, "steps": steps, **summarise_curves(curves, draws=draws)}
            results["faithfulness"] = found
            save_curves(run.figure("deletion.png", caption=_curves_caption(label, task, found)), found)
        if earlier is not None:
            results["comparison"] = _compare(run.path, earlier, draws=draws)
        return run.finish({"encoder_name": label, "seen_patients": seen, **results})


class _Mapping(NamedTuple):
    """All that decides what the map of an image is."""

    encoder: Encoder
    store: Store
    method: Method
    head_fusion: HeadFusion
    start_layer: int
    token: ReadToken
    head: ClassHead | None
    batch_size: int

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the maps of store rows, (n, grid, grid)."""
        device = next(self.encoder.parameters()).device
        starts = tqdm(range(0, len(rows), self.batch_size), desc="attention", unit="batch", leave=False, disable=None)
        batches = (preprocessed(self.encoder, self.store, rows[start : start + self.batch_size]) for start in starts)
        return np.concatenate([self._of_images(images.to(device)) for images in batches])

    def _of_images(self, images: torch.Tensor) -> NDArray[np.float64]:
        if self.method == "gradient":
            assert self.head is not None
            direction = torch.from_numpy(self.head.weight)
            return gradient_maps(
                self.encoder, images, direction=direction, start_layer=self.start_layer, token=self.token
            )
        return rollout_maps(
            self.encoder, images, head_fusion=self.head_fusion, start_layer=self.start_layer, token=self.token
        )

    def about(self, task: str | None) -> str:
        """Say in words how maps are made."""
        start = f"from block {self.start_layer}" + ("" if self.token == "cls" else ", of the patch tokens' mean")
        if self.method == "gradient":
            return f"gradient-weighted rollout for {task}, {start}"
        return f"attention rollout, heads: {self.head_fusion}, {start}"


def _fit(
    encoder: Encoder, store: Store, question: Question, *, token: ReadToken, batch_size: int, cache: Path
) -> ClassHead:
    with_image = store.rows(needs=("image",))
    found = extract(encoder, store, with_image, token=token, batch_size=batch_size, cache=cache)
    features = np.zeros((len(store), found.shape[1]), dtype=np.float32)
    features[with_image] = found
    return fit_head(features, question.answers(store), store)


def _draw(run: RunFolder, mapping: _Mapping, rows: NDArray[np.int64], maps: NDArray[np.float64], *, name: str) -> None:
    if not len(rows):
        return
    kind = "Attention rollout" if mapping.method == "rollout" else "Gradient-weighted attention"
    caption = (
        f"{kind} of {name} on {len(rows)} images. Above: the X-ray with the outlines of its "
        "masks. Below: attention per patch in multiples of even attention, one scale for all pictures."
    )
    path = run.figure("attention.png", caption=caption)
    save_overlays(path, mapping.store, rows, maps, title=name, kind=mapping.method)


def _curves_caption(name: str, task: str | None, found: dict[str, Any]) -> str:
    holds = "a blurred copy of the image" if found["removed"] == "blur" else "the training images' mean pixel"
    return (
        f"What {name}'s head says of {task} in {found['num_images']} images that have it, as patches are removed: the "
        f"most attended first, the least attended first, or in random order. A removed patch holds {holds}. Bands: "
        "patient-level 95 % intervals."
    )


def _compare(path: Path, earlier: Path, *, draws: int) -> dict[str, Any]:
    """Return differences to an earlier run: this encoder minus that one."""
    other = read_result(earlier)
    regions = []
    if len(pd.read_parquet(path / "mass.parquet")):
        regions = compare_attention(path / "mass.parquet", earlier / "mass.parquet", draws=draws).to_dict("records")
    found: dict[str, Any] = {"baseline": other["results"]["encoder_name"], "mass": regions}
    if (path / "curves.parquet").is_file():
        found["faithfulness"] = compare_faithfulness(path / "curves.parquet", earlier / "curves.parquet", draws=draws)
    return found


_SHARED = ("method", "task", "split", "num_images", "head_fusion", "start_layer", "removed", "steps")


def _earlier(against: Path, config: dict[str, Any], store: Store) -> Path:
    """Refuse a run whose numbers are no counterpart of this one's; tokens may differ, each encoder has its own."""
    other = read_result(Path(against))
    if other["command"] != "explain":
        raise PacxError(f"{against} is a run of `pacx {other['command']}`. Give --against a run of `pacx explain`.")
    differing = [key for key in _SHARED if other["config"].get(key) != config[key]]
    if other["inputs"]["store"].get("hash") != store.content_hash:
        differing.insert(0, "store")
    if differing:
        raise PacxError(
            f"{against} was made with another {', '.join(differing)}, so its numbers are no counterpart of this run's. "
            "Explain both encoders in the same way."
        )
    return Path(against)


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


def _with_finding(store: Store, question: Question, split: str, num_images: int) -> NDArray[np.int64]:
    """Pick images that have the finding, the same ones for every encoder."""
    answers, rows = question.answers(store), store.rows(split, needs=("image",))
    check_answers(answers, store)
    rows = rows[answers[rows] == 1]
    if not len(rows):
        raise PacxError(
            f"No {split} image of the store {store.name!r} has {question.name}, so there is nothing to remove. Choose "
            "another --task or --split."
        )
    return np.random.Generator(np.random.PCG64(0)).permutation(rows)[:num_images]


def _check_arguments(*, method: Method, task: str | None, steps: int) -> None:
    if method == "gradient" and task is None:
        raise PacxError("--method gradient asks what raises a score; give the --task whose score is meant.")
    if steps < 1:
        raise PacxError(f"--steps is {steps}; patches are removed at least once.")


def _check_start(start_layer: int, encoder: Encoder) -> None:
    if not 0 <= start_layer < encoder.config.depth:
        raise PacxError(
            f"--start_layer {start_layer} was given; the encoder has blocks 0 to {encoder.config.depth - 1}."
        )
