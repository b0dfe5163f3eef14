"""Linear probes: what can be read off a frozen encoder, with how few labels.

`honest`, chosen so that no number depends on luck or on the test patients:

* Features are computed once (`pacx.frozen.features`) and standardised with mean and standard deviation of all
  training images. It is labels that are scarce in a label-efficiency curve, not images.
* L2-regularised logistic regression, one against the rest for multiclass labels. It is convex: no learning rate, no
  epochs, no seed. C is the best of `STRENGTHS` by AUROC on the validation split, the stronger regularisation on
  a tie. If the validation split holds one class only, C = 1/D, under which the log-odds of a standardised image have
  a prior variance of 1, and the score says so. With `--token auto` the token is chosen there as well.
* Training subsets are nested (1 % within 10 % within 100 %), drawn by patient, the same for every encoder; several
  seeds give several subsets. At 100 % there is one subset and so one seed.
* k nearest neighbours beside it (`pacx.evaluation.neighbours`), on the same features and subsets.

`paper`, as published (batch size and learning rate by data set: `pacx.evaluation.published_probes`):

* One linear layer per task on the raw class token, mirrored in training with probability .5; binary cross-entropy, or
  cross-entropy for classes; AdamW, weight decay .01 (not on the bias), no warm-up, half a cosine to 0, 40 epochs.
* The epoch with the best macro AUROC on the validation split, and among several learning rates the best, is tested.
* Subsets by image, see `pacx.data.splits.reference_rows`; each seed, at 100 % too, has its own head, order and flips.
* Known difference: an unknown label (NaN) is left out of the loss. Theirs counts it as 0.

Both:

* Unknown labels (NaN) are left out label by label. A label without positives or negatives in its training subset or
  in the test split gets NaN and a note, never .5.
* Known difference to a clinic with few labels: the validation split keeps all its labels at every fraction. That
  favours small fractions a little, and every encoder alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pacx.data.manifest import Task
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.paper_probe import Sampler
from pacx.evaluation.protocols import Asked, Features, HeadArguments, ProbeToken, honest, paper
from pacx.frozen.features import encoder_name, feature_cache, open_encoder
from pacx.frozen.seen import check_unseen
from pacx.models.encoder import weights_hash
from pacx.runs import open_run

__all__ = ["FRACTIONS", "Protocol", "probe"]

FRACTIONS = (0.01, 0.1, 1.0)
Protocol = Literal["honest", "paper"]


def probe(
    *,
    store: Path,
    encoder: str,
    out: Path,
    protocol: Protocol = "honest",
    tasks: list[str] | None = None,
    fractions: list[float] | None = None,
    seeds: int = 5,
    token: ProbeToken = "cls",
    sampler: Sampler | None = None,
    learning_rates: list[float] | None = None,
    head_batch_size: int | None = None,
    epochs: int | None = None,
    neighbours: bool = True,
    name: str | None = None,
    batch_size: int = 64,
    draws: int = 1000,
    allow_seen_patients: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Probe a frozen encoder linearly: all tasks, several label fractions, patient-level intervals.

    Example:
        pacx probe --store stores/cohort --encoder runs/pacx/encoder --out runs/probe-pacx --fractions 0.01 0.1 1

    Args:
        store: a store with images and tasks.
        encoder: an encoder folder, random:FOLDER[:SEED] for the same architecture with fresh weights, timm:NAME, or any
            foreign weights that `pacx convert` takes.
        out: the run folder to make.
        protocol: honest (logistic regression, everything chosen on the validation split) or paper (AdamW heads, as
            published).
        tasks: names of the tasks; all tasks of the store if not given.
        fractions: shares of the training labels; 0.01, 0.1 and 1 if not given.
        seeds: training subsets per fraction; at a fraction of 1, honest has one and paper trains as many heads.
        token: what stands for an image: class token, mean of the patch tokens, both side by side, or (honest only) the
            best of these by validation AUROC, task by task.
        sampler: how paper draws training subsets: reference, by image as published (if not given), or patients, nested
            and stratified as under honest.
        learning_rates: of paper's heads; the published one for the data set if not given. Of several, the best by
            validation AUROC is tested.
        head_batch_size: images per step of paper's heads; the published one for the data set if not given.
        epochs: of paper's heads; 40 if not given.
        neighbours: whether honest reports k nearest neighbours too.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        allow_seen_patients: judge the encoder even if it was trained on some of these patients; the result says so.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, seen_patients, protocol, scores (one entry per task,
        label, fraction and seed), summary (the mean over seeds; label "macro" is the mean over a task's labels),
        measures (AUPRC, F1, sensitivity, calibration and more, see `pacx.measures`) and, of honest, head
        (names of the outputs in the calibrated `head/` that `pacx predict` and `pacx export` use) and neighbours (a
        summary of k nearest neighbours). Beside it `predictions.parquet`, `val_predictions.parquet` and
        `neighbours.parquet`, as `pacx.scoring` describes them, and `measures.parquet`.

    Raises:
        PacxError: an unknown task or protocol, a store without images, tasks, training rows or (paper) validation
            rows, a fraction outside (0, 1], a learning rate, batch size or number of epochs that is not positive, an
            argument of the other protocol, or test patients that the encoder was trained on.
    """
    config = {**locals()}
    shares = sorted(set(FRACTIONS if fractions is None else fractions))
    _check_numbers(shares, seeds)
    heads = HeadArguments(sampler, learning_rates, head_batch_size, epochs)
    _check_protocol(protocol, token, heads)
    cohort = Store.open(store)
    chosen = _tasks(cohort, tasks, protocol=protocol)
    network = open_encoder(encoder)
    seen = check_unseen(network, cohort, allow=allow_seen_patients)
    with open_run(out, command="probe", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", **cohort.identity())
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        features = Features(network, cohort, batch_size, feature_cache(out), encoder)
        asked = Asked(chosen, shares, seeds, draws)
        if protocol == "paper":
            found = paper(run, features, asked, token=token, arguments=heads)
        else:
            found = honest(run, features, asked, token=token, neighbours=neighbours)
        return run.finish({"encoder_name": label, "seen_patients": seen, **found})


def _tasks(store: Store, names: Sequence[str] | None, *, protocol: Protocol) -> list[Task]:
    if not store.tasks:
        raise PacxError(f"The store {store.name!r} ({store.path}) has no task to probe. Prepare it with label columns.")
    if not store.has("image"):
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no images. Choose a store with X-rays.")
    for split in ("train", "test"):
        if not len(store.rows(split, needs=("image",))):
            raise PacxError(f"The store {store.name!r} ({store.path}) has no image in its {split} split to probe with.")
    if protocol == "paper" and not len(store.rows("val", needs=("image",))):
        raise PacxError(
            f"The store {store.name!r} ({store.path}) has no image in its val split. The paper protocol chooses the "
            "epoch there: prepare the store with a validation split, or use --protocol honest."
        )
    return [store.task(name) for name in dict.fromkeys(store.tasks if names is None else names)]


def _check_protocol(protocol: str, token: ProbeToken, heads: HeadArguments) -> None:
    if protocol not in get_args(Protocol):
        raise PacxError(f"There is no protocol {protocol!r}. The protocols are: {', '.join(get_args(Protocol))}.")
    if protocol == "honest":
        given = [f"--{name.replace('_', '-')}" for name, value in heads._asdict().items() if value is not None]
        if given:
            raise PacxError(f"{', '.join(given)}: the honest protocol has no such setting. Use --protocol paper.")
        return
    if token == "auto":
        raise PacxError("The paper protocol does not choose a token. Give --token cls, as published, mean or both.")
    if heads.sampler not in (None, *get_args(Sampler)):
        raise PacxError(f"There is no sampler {heads.sampler!r}. The samplers are: {', '.join(get_args(Sampler))}.")
    rates = heads.learning_rates
    if rates is not None and not (rates and all(0 < rate < np.inf for rate in rates)):
        raise PacxError(f"Learning rates must be above 0; found {rates}.")
    for name, value in (("batch size of the heads", heads.head_batch_size), ("number of epochs", heads.epochs)):
        if value is not None and value < 1:
            raise PacxError(f"The {name} must be at least 1; found {value}.")


def _check_numbers(fractions: Sequence[float], seeds: int) -> None:
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise PacxError(f"Label fractions must lie in (0, 1]; found {list(fractions)}.")
    if seeds < 1:
        raise PacxError(f"A probe needs at least one seed; found {seeds}.")
