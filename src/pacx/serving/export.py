"""The `export` command: an encoder or a trained head becomes one ONNX file that says all it needs about itself.

Nothing is written that was not compared with the trained network first, on images of a store or of simulated patients.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.data.image_files import list_images
from pacx.data.images import read_cxr
from pacx.data.phantom.acquisition import sample_acquisition
from pacx.data.phantom.anatomy import render
from pacx.data.phantom.latents import random_stream, sample_patient
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.preprocess import Preprocess
from pacx.serving.checks import LIMITS, auroc_change, parity, refuse_difference, speed_ratio, store_batches
from pacx.serving.facts import Precision, as_name
from pacx.serving.gallery import gallery_path
from pacx.serving.gallery_maker import make_gallery
from pacx.serving.onnx_file import reduce_precision, trace, with_facts
from pacx.serving.optional_attention import attention_on_request
from pacx.serving.runtime import Answers, OnnxModel
from pacx.serving.torch_model import TorchModel, open_trained

__all__ = ["export"]

_DRAFTS = ".pacx-export."
"""how the folder of what is not finished begins"""
_PARITY_IMAGES = 16
_CALIBRATION_IMAGES = 64
_LARGEST_LOSS = 0.005
"""AUROC that 8 bits may cost, the mean over the outputs"""
_SMALLEST_COSINE = 0.99
"""between an embedding in 8 bits and in full, where there is no head to judge by"""
log = logging.getLogger("pacx")


class _Images(NamedTuple):
    """Preprocessed images (n, C, S, S), and in words what they are."""

    values: NDArray[np.float32]
    source: str


def export(
    source: str,
    *,
    out: Path,
    precision: Precision = "fp32",
    store: Path | None = None,
    images: list[str] | None = None,
    encoder: str | None = None,
    attention: bool = True,
    gallery: int = 0,
    name: str | None = None,
    about: str | None = None,
    licence: str | None = None,
    force: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write an encoder, or a trained head with its encoder, as one ONNX file for `pacx serve` and others.

    Class names, thresholds, preprocessing, hashes and licence are in the file. It is compared with the trained network
    before it is written, and not written if it says something else.

    Example:
        pacx export runs/probe-pacx --store stores/mine --out model.onnx

    Args:
        source: the run folder of `pacx probe` (protocol honest) or `pacx finetune`, for predictions; or an encoder, for
            embeddings alone.
        out: the file to write.
        precision: fp32; fp16, half the size; int8, a quarter of the size and faster on most processors, activations
            rounded as they come; int8-static, likewise with ranges found on training images of --store.
        store: its test images are those that are compared, and on which the cost of fewer bits is measured.
        images: files to compare on instead; without --store and --images, simulated X-rays are.
        encoder: where the head's encoder is now, if it was moved.
        attention: make the file able to say where the model looked.
        gallery: how many training images of --store to keep beside the file (OUT.gallery.npz: embedding, small picture,
            labels), so that a server can show the nearest known images. Only where these images may be shown.
        name: how a server calls the model: letters, digits, and - _ . between them; taken from the folder if not given.
        about: a sentence for its users.
        licence: of the weights.
        force: write int8 even if it is slower, worse, or could not be judged.
        overwrite: replace the file if it is there. Its gallery goes with it.

    Returns:
        path, bytes, and what was measured: parity, auroc_change, speed_ratio (fewer bits against fp32, here).

    Raises:
        PacxError: no such source, a file that is there already, a difference that is too large, or int8 that is not
            worth it.
        MissingExtraError: the packages that write ONNX are not installed.
    """
    _check(out, store=store, precision=precision, gallery=gallery, name=name, overwrite=overwrite)
    cohort = None if store is None else Store.open(store)
    trained = open_trained(source, encoder=encoder, name=name)
    trained = _with_attention(trained, attention)
    facts = replace(
        trained.facts,
        about=about or trained.facts.about,
        licence=licence or trained.facts.licence,
        precision=precision,
    )
    chosen = _images(trained.facts.preprocess, cohort, images)
    traced = trace(trained.network, chosen.values)
    expected = trained.run(chosen.values, want=Answers._fields)
    calibration = _calibration(trained, cohort) if precision == "int8-static" else chosen.values
    result: dict[str, Any] = {}
    with _drafts(out) as folder:
        draft, full, known = folder / "draft.onnx", folder / "full.onnx", folder / "gallery.npz"
        full.write_bytes(with_facts(attention_on_request(traced), facts))
        reduced = attention_on_request(reduce_precision(traced, precision, calibration))
        draft.write_bytes(with_facts(reduced, facts))
        model = OnnxModel(draft)
        found = model.run(chosen.values, want=Answers._fields)
        measured = parity(expected, found)
        if precision in LIMITS:
            refuse_difference(measured, LIMITS[precision], num_images=len(chosen.values))
        if precision != "fp32":
            original = OnnxModel(full)
            result["speed_ratio"] = speed_ratio(model, original, chosen.values[:4])
            if cohort is not None and facts.readout is not None:
                result["auroc_change"], result["num_images"] = auroc_change(model, original, cohort, facts.readout)
            result["cosine"] = _smallest_cosine(expected, found)
        if precision.startswith("int8"):
            _judge(result, has_head=facts.readout is not None, force=force)
        facts = replace(
            facts,
            parity={**measured, "num_images": len(chosen.values)},
            auroc_change=result.get("auroc_change", {}),
        )
        draft.write_bytes(with_facts(reduced, facts))
        if gallery:
            assert cohort is not None, "is refused before"
            make_gallery(OnnxModel(draft), cohort, num=gallery, path=known)
        draft.chmod(0o644)
        draft.replace(out)
        _replace_gallery(gallery_path(out), known)
    size = out.stat().st_size
    _tell(out, size, facts.parity, chosen.source, result)
    return {"path": str(out), "bytes": size, "compared_on": chosen.source, "parity": facts.parity, **result}


def _check(
    out: Path, *, store: Path | None, precision: Precision, gallery: int, name: str | None, overwrite: bool
) -> None:
    if out.suffix.lower() != ".onnx":
        raise PacxError(f"{out} does not end in .onnx. Choose --out NAME.onnx.")
    for path in (out, gallery_path(out)):
        if path.exists() and not (overwrite and path.is_file()):
            raise PacxError(f"{path} is there already. Choose another --out, or pass --overwrite true to replace it.")
    if name is not None and name != as_name(name):
        raise PacxError(
            f"Found --name {name!r}; allowed: up to 200 letters, digits, and - _ . between them. For instance: "
            f"{as_name(name)}."
        )
    if precision == "int8-static" and store is None:
        raise PacxError("int8-static finds its ranges on training images. Give a --store, or use --precision int8.")
    if gallery < 0 or (gallery and store is None):
        raise PacxError(f"Found --gallery {gallery}; a gallery is a number of training images of a --store.")


@contextmanager
def _drafts(out: Path) -> Iterator[Path]:
    """Make a folder beside the file for what is not finished; name the file, not this folder, if that fails."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=_DRAFTS) as folder:
            yield Path(folder)
    except OSError as error:
        if not _is_about(out, error):
            raise
        raise PacxError(f"{out} cannot be written ({error.strerror or error}). Choose another --out.") from error


def _is_about(out: Path, error: OSError) -> bool:
    """Say whether an error came from writing, and not from a store or image that was read meanwhile."""
    if error.filename is None:  # a full disk
        return True
    touched, target = Path(os.fsdecode(error.filename)).resolve(), out.resolve()
    return target.is_relative_to(touched) or touched == gallery_path(target) or _DRAFTS in str(touched)


def _replace_gallery(path: Path, made: Path) -> None:
    """Put the new gallery beside the new model, or take away the one of the model before."""
    if made.exists():
        made.replace(path)
    elif path.exists():
        path.unlink()
        log.info("export: %s, of the model that was here, is removed", path)


def _with_attention(trained: TorchModel, attention: bool) -> TorchModel:
    return trained if attention else TorchModel(trained.encoder, trained.head, name=trained.facts.name, attention=False)


def _images(preprocess: Preprocess, store: Store | None, files: list[str] | None) -> _Images:
    """Choose what is compared on: files, test images of a store, or simulated X-rays."""
    if files:
        read = [preprocess(read_cxr(item.path).pixels) for item in list_images(files)[:_PARITY_IMAGES]]
        return _Images(_at_least_two(np.stack(read)), f"{len(read)} files")
    if store is not None:
        rows = store.rows("test", needs=("image",))[:_PARITY_IMAGES]
        if not len(rows):
            raise PacxError(f"The store {store.name!r} has no image in its test split to compare on. Give --images.")
        values = np.concatenate(list(store_batches(preprocess, store, rows)))
        return _Images(_at_least_two(values), f"{len(values)} test images of {store.name}")
    drawn = [preprocess(_simulated(index, preprocess.image_size)) for index in range(_PARITY_IMAGES)]
    return _Images(np.stack(drawn), f"{len(drawn)} simulated X-rays")


def _simulated(index: int, size: int) -> NDArray[np.float32]:
    rng = random_stream("export", 0, index)
    patient = sample_patient(index, seed=0)
    return render(patient, sample_acquisition(patient, rng), size=size, rng=rng).pixels


def _at_least_two(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values if len(values) > 1 else np.repeat(values, 2, axis=0)  # a batch of one would be traced as constant


def _calibration(trained: TorchModel, store: Store | None) -> NDArray[np.float32]:
    assert store is not None, "is refused before"
    rows = store.rows("train", needs=("image",))[:_CALIBRATION_IMAGES]
    return np.concatenate(list(store_batches(trained.facts.preprocess, store, rows)))


def _smallest_cosine(expected: Answers, found: Answers) -> float:
    own, other = expected.embedding, found.embedding
    assert own is not None
    assert other is not None
    return float(((own * other).sum(axis=1) / (np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1))).min())


def _judge(result: dict[str, Any], *, has_head: bool, force: bool) -> None:
    """Refuse 8 bits that are slower or worse, unless they are wanted all the same."""
    reasons = []
    if result["speed_ratio"] < 1:
        reasons.append(f"it is slower here ({result['speed_ratio']:.2f} x the speed of fp32)")
    changes = result.get("auroc_change")
    mean = 0.0 if changes is None else float(np.mean(list(changes.values())))
    if mean < -_LARGEST_LOSS:
        reasons.append(f"its AUROC is lower by {-mean:.3f} on average (allowed {_LARGEST_LOSS})")
    if has_head and changes is None:
        reasons.append("its AUROC was not measured, because no --store with labels was given")
    if not has_head and result["cosine"] < _SMALLEST_COSINE:
        reasons.append(f"an embedding turns (cosine {result['cosine']:.3f}, allowed {_SMALLEST_COSINE})")
    if reasons and not force:
        raise PacxError(
            f"int8 is not worth it: {'; '.join(reasons)}. Nothing was written. Use another --precision, or --force."
        )
    for reason in reasons:
        log.warning("export: int8 was forced although %s", reason)


def _tell(out: Path, size: int, measured: dict[str, float], source: str, result: dict[str, Any]) -> None:
    words = ", ".join(f"{name} {value:.1e}" for name, value in measured.items() if name != "num_images")
    log.info("export: %s, %.1f MB; largest difference to the trained network on %s: %s", out, size / 1e6, source, words)
    if "speed_ratio" in result:
        log.info("export: %.2f x the speed of fp32 here", result["speed_ratio"])
    if result.get("auroc_change"):
        changes = list(result["auroc_change"].values())
        log.info(
            "export: AUROC changes by %+.4f on average (%+.4f to %+.4f) on %d test images",
            np.mean(changes), min(changes), max(changes), result["num_images"],
        )  # fmt: skip
