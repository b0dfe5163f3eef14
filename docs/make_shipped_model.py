"""Make the small model that ships with pacx, from a finished simulated study.

pacx run phantom/study
python docs/make_shipped_model.py runs/phantom/study

The first of the study's five distilled encoders (seed 0, decided before any was looked at), a head for six of the
study's eight findings on all training labels, both as one ONNX file, 200 training images as its gallery, and the model
card with what was measured on the way.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pacx.evaluation.probe import probe
from pacx.models.encoder import load_encoder, save_encoder
from pacx.models.readout_head import ReadoutHead, load_head, save_head
from pacx.serving.export import export
from pacx.serving.gallery import gallery_path

NAME = "phantom-small"
FOLDER = Path("src/pacx/shipped") / NAME
TASKS = ["lvh_or_dilation", "heart_failure", "renal_failure", "infection", "copd", "device"]
ABOUT = (
    "A small encoder trained on simulated chest X-rays, with a head for six simulated findings. It makes every command "
    "and the server work at once. It has never seen a real X-ray and says nothing about one."
)
GALLERY = 200

CARD = """# phantom-small

A vision transformer ({width} wide, {depth} blocks, {image_size} x {image_size} pixels, patches of {patch_size}) for
simulated chest X-rays. It ships with pacx so that every command, the server and the documentation's examples work
without training or download.

**Not for clinical use.** It has never seen a real X-ray; what it says of one means nothing.

* **Training**: masked autoencoding, then distillation of an ECG and a laboratory teacher: `pacx run phantom/study`, its
  encoder `pacx-0`. The head is a logistic regression on all training labels, calibrated on the validation split
  (Platt).
* **Left out**: nodules and rib fractures, the study's other two findings, which this encoder hardly tells from chance.
* **Data**: the simulated cohort of that recipe, {num_train} training images. No person's data.
* **Files**: `encoder/` (weights `{hash}...`), `head/`, `model.onnx` (both, {megabytes:.1f} MB), and a gallery of
  {gallery} training images, {edge} pixels wide.
* **ONNX against torch** on {num_images} test images, largest difference: embedding {embedding:.1e}, probability
  {probability:.1e}, attention {attention:.1e}.
* **Licence**: Apache-2.0, as pacx.

On {num_test} test images of other simulated patients, calibration error {ece:.3f}:

| finding | AUROC [95 %] | threshold | sensitivity | specificity |
|---|---|---|---|---|
{rows}

Made by `python docs/make_shipped_model.py runs/phantom/study`, which wrote this file.
"""


def main(study: Path) -> None:
    """Write the folder."""
    source = study / "pacx-0" / "encoder"
    with TemporaryDirectory() as scratch:
        run = Path(scratch) / "probe"
        probe(
            store=study / "cohort", encoder=str(source), out=run, tasks=TASKS, fractions=[1.0], seeds=1,
            neighbours=False, name=NAME,
        )  # fmt: skip
        head = load_head(run)
    encoder = load_encoder(source)
    save_encoder(encoder, FOLDER / "encoder")
    save_head(ReadoutHead(head.weight, head.bias, head.readout, head.encoder_hash, encoder=""), FOLDER / "head")
    model = FOLDER / "model.onnx"
    found = export(
        str(FOLDER), out=model, store=study / "cohort", gallery=GALLERY, name=NAME, about=ABOUT, licence="Apache-2.0",
        overwrite=True,
    )  # fmt: skip
    config, readout = encoder.config, head.readout
    rows = "\n".join(
        f"| {output.name} | {output.auroc:.3f} [{output.auroc_low:.3f}, {output.auroc_high:.3f}] | "
        f"{output.threshold:.3f} | {output.sensitivity:.3f} | {output.specificity:.3f} |"
        for output in readout.outputs
    )
    card = CARD.format(
        width=config.width, depth=config.depth, image_size=config.preprocess.image_size, patch_size=config.patch_size,
        num_train=_num_train(study), hash=head.encoder_hash[:12], megabytes=found["bytes"] / 1e6, gallery=GALLERY,
        edge=96,
        num_test=max(output.num_test for output in readout.outputs), ece=readout.calibration.ece, rows=rows,
        **found["parity"],
    )  # fmt: skip
    (FOLDER / "README.md").write_text(card, encoding="utf-8")
    print(f"{FOLDER}: {sum(path.stat().st_size for path in FOLDER.rglob('*') if path.is_file()) / 1e6:.1f} MB")
    assert gallery_path(model).is_file()


def _num_train(study: Path) -> int:
    from pacx.data.store import Store

    return len(Store.open(study / "cohort").rows("train", needs=("image",)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
