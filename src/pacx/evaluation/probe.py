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

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pacx.data.manifest import Task
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.heads import Schedule
from pacx.evaluation.linear import STRENGTHS, run_probes
from pacx.evaluation.neighbours import run_neighbours
from pacx.evaluation.paper_probe import Sampler, run_paper_probes
from pacx.evaluation.probe_rows import score_rows, summary_rows
from pacx.evaluation.problems import Attempt, ProbeData, make_problems, predictions_table
from pacx.evaluation.published_probes import EPOCHS, published_probe
from pacx.evaluation.token_choice import choose_token
from pacx.frozen.features import Token, encoder_name, extract, feature_cache, open_encoder
from pacx.models.encoder import Encoder, weights_hash
from pacx.runs import RunFolder, open_run
from pacx.scoring import summarise

__all__ = ["FRACTIONS", "ProbeToken", "Protocol", "probe"]

FRACTIONS = (0.01, 0.1, 1.0)
Protocol = Literal["honest", "paper"]
ProbeToken = Literal["cls", "mean", "both", "auto"]
"""What stands for an image, or auto: the best of the three on the validation split."""

log = logging.getLogger("pacx")


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
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, protocol, scores (one entry per task, label, fraction
        and seed), summary (the mean over seeds; label "macro" is the mean over a task's labels) and neighbours (the
        same for k nearest neighbours). Beside it `predictions.parquet`, `val_predictions.parquet` and
        `neighbours.parquet`, as `pacx.scoring` describes.

    Raises:
        PacxError: an unknown task or protocol, a store without images, tasks, training rows or (paper) validation
            rows, a fraction outside (0, 1], a learning rate, batch size or number of epochs that is not positive, or
            an argument of the other protocol.
    """
    config = {**locals()}
    shares = sorted(set(FRACTIONS if fractions is None else fractions))
    _check_numbers(shares, seeds)
    heads = _HeadArguments(sampler, learning_rates, head_batch_size, epochs)
    _check_protocol(protocol, token, heads)
    cohort = Store.open(store)
    chosen = _tasks(cohort, tasks, protocol=protocol)
    network = open_encoder(encoder)
    with open_run(out, command="probe", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash, split_hash=cohort.meta["split_hash"])
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        features = _Features(network, cohort, batch_size, feature_cache(out))
        ask = _Ask(chosen, shares, seeds, draws)
        if protocol == "paper":
            found = _paper(run, features, ask, token, heads)
        else:
            found = _honest(run, features, ask, token, neighbours=neighbours)
        return run.finish({"encoder_name": label, **found})


class _Ask(NamedTuple):
    """What both protocols are asked."""

    tasks: list[Task]
    fractions: list[float]
    seeds: int
    draws: int


class _HeadArguments(NamedTuple):
    """Arguments that the paper protocol alone has."""

    sampler: Sampler | None
    learning_rates: list[float] | None
    head_batch_size: int | None
    epochs: int | None


class _Features(NamedTuple):
    """Where features come from."""

    encoder: Encoder
    store: Store
    batch_size: int
    cache: Path

    def of(
        self, rows: NDArray[np.int64], token: Token, *, flip: bool = False, exact: bool = False
    ) -> NDArray[np.float32]:
        """Compute or read features (n, D)."""
        return extract(
            self.encoder, self.store, rows, token=token, batch_size=self.batch_size, cache=self.cache, flip=flip,
            exact=exact,
        )  # fmt: skip


def _honest(run: RunFolder, features: _Features, ask: _Ask, token: ProbeToken, *, neighbours: bool) -> dict[str, Any]:
    rows = features.store.rows(needs=("image",))
    tokens: tuple[Token, ...] = ("cls", "mean", "both") if token == "auto" else (token,)
    data = {one: ProbeData.standardised(features.store, rows, features.of(rows, one)) for one in tokens}
    problems = make_problems(data[tokens[0]], ask.tasks, fractions=ask.fractions, seeds=ask.seeds)
    attempts = choose_token({one: run_probes(data[one], problems) for one in tokens})
    protocol = {
        "name": "honest",
        "token": token,
        "strengths": STRENGTHS,
        "chosen_on": "AUROC on the whole validation split",
        "draws": ask.draws,
        "level": 0.95,
    }
    found = {"protocol": protocol, **_scored(run, features.store, ask, attempts)}
    if neighbours:
        nearest = choose_token({one: run_neighbours(data[one], problems) for one in tokens})
        found["neighbours"] = _nearest(run, features.store, ask, nearest)
    return found


def _paper(
    run: RunFolder, features: _Features, ask: _Ask, token: ProbeToken, arguments: _HeadArguments
) -> dict[str, Any]:
    assert token != "auto"  # _check_protocol
    store, rows = features.store, features.store.rows(needs=("image",))
    # 40 epochs of AdamW let the rounding of half precision grow to 1e-3 in the logits.
    data = ProbeData.raw(store, rows, features.of(rows, token, exact=True))
    mirrored = features.of(data.rows["train"], token, flip=True, exact=True)
    published = {task: published_probe(store.name, task.name) for task in ask.tasks}
    schedules = {
        task: Schedule(
            tuple(arguments.learning_rates or (own.learning_rate,)),
            arguments.head_batch_size or own.batch_size,
            arguments.epochs or EPOCHS,
        )
        for task, own in published.items()
    }
    sampler = arguments.sampler or "reference"
    attempts = run_paper_probes(data, mirrored, schedules, fractions=ask.fractions, seeds=ask.seeds, sampler=sampler)
    protocol = {
        "name": "paper",
        "token": token,
        "sampler": sampler,
        "subsets_by": "image" if sampler == "reference" else "patient",
        "heads": {task.name: {"data_set": published[task].name, **schedules[task]._asdict()} for task in ask.tasks},
        "chosen_on": "macro AUROC of the task on the whole validation split, epoch by epoch",
        "draws": ask.draws,
        "level": 0.95,
    }
    return {"protocol": protocol, **_scored(run, store, ask, attempts)}


def _scored(run: RunFolder, store: Store, ask: _Ask, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Write the predictions; return scores and summary."""
    _warn_of_gaps(attempts)
    predictions = predictions_table(store, attempts)
    predictions.to_parquet(run.artefact("predictions", "predictions.parquet"))
    val_predictions = predictions_table(store, attempts, split="val")
    val_predictions.to_parquet(run.artefact("val_predictions", "val_predictions.parquet"))
    scored = summarise(predictions, draws=ask.draws)
    return {"scores": score_rows(attempts, scored), "summary": summary_rows(ask.tasks, attempts, scored)}


def _nearest(run: RunFolder, store: Store, ask: _Ask, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Write the neighbours' predictions; return a summary in the same form, with every k that was chosen."""
    predictions = predictions_table(store, attempts)
    predictions.to_parquet(run.artefact("neighbours", "neighbours.parquet"))
    summary = summary_rows(ask.tasks, attempts, summarise(predictions, draws=ask.draws))
    for row in summary:
        row["k"] = [
            attempt.chosen["k"]
            for attempt in attempts
            if (attempt.problem.task.name, attempt.problem.label, attempt.problem.fraction)
            == (row["task"], row["label"], row["fraction"])
        ]
    return summary


def _warn_of_gaps(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        if not attempt.outputs:
            problem, why = attempt.problem, ", ".join(attempt.notes)
            log.warning("%s/%s at %g: %s, not probed", problem.task.name, problem.label, problem.fraction, why)


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


def _check_protocol(protocol: str, token: ProbeToken, heads: _HeadArguments) -> None:
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
