"""Linear probes: what can be read off a frozen encoder, with how few labels.

The protocol, chosen so that no number depends on luck or on the test patients:

* Features are computed once (`pacx.frozen.features`) and standardised with mean and standard deviation of all
  training images. It is labels that are scarce in a label-efficiency curve, not images.
* L2-regularised logistic regression, one against the rest for multiclass labels. It is convex: no learning rate, no
  epochs, no seed. C is the best of `STRENGTHS` by AUROC on the validation split, the stronger regularisation on
  a tie. If the validation split holds one class only, C = 1/D, under which the log-odds of a standardised image have
  a prior variance of 1, and the score says so.
* Training subsets are nested (1 % within 10 % within 100 %), drawn by patient, the same for every encoder; several
  seeds give several subsets. At 100 % there is one subset and so one seed.
* Unknown labels (NaN) are left out label by label. A label without positives or negatives in its training subset or
  in the test split gets NaN and a note, never .5.
* Known difference to a clinic with few labels: the validation split keeps all its labels at every fraction. That
  favours small fractions a little, and every encoder alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pacx.data.manifest import Task
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.linear import STRENGTHS, Attempt, ProbeData, make_problems, predictions_table, run_probes
from pacx.frozen.features import Token, encoder_name, extract, feature_cache, open_encoder
from pacx.models.encoder import weights_hash
from pacx.runs import open_run
from pacx.scoring import MACRO, Scored, summarise

__all__ = ["FRACTIONS", "probe"]

FRACTIONS = (0.01, 0.1, 1.0)


def probe(
    *,
    store: Path,
    encoder: str,
    out: Path,
    tasks: list[str] | None = None,
    fractions: list[float] | None = None,
    seeds: int = 5,
    token: Token = "cls",
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
        encoder: an encoder folder, random:FOLDER[:SEED] for the same architecture with fresh weights, or any foreign
            weights that `pacx convert` takes.
        out: the run folder to make.
        tasks: names of the tasks; all tasks of the store if not given.
        fractions: shares of the training labels; 0.01, 0.1 and 1 if not given.
        seeds: training subsets per fraction; a fraction of 1 has one.
        token: what stands for an image: class token, mean of the patch tokens, or both side by side.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, protocol, scores (one entry per task, label, fraction
        and seed) and summary (the mean over seeds; label "macro" is the mean over a task's labels).

    Raises:
        PacxError: an unknown task, a store without images, tasks or training rows, a fraction outside (0, 1].
    """
    config = {**locals()}
    shares = sorted(set(FRACTIONS if fractions is None else fractions))
    _check_numbers(shares, seeds)
    cohort = Store.open(store)
    chosen = _tasks(cohort, tasks)
    network = open_encoder(encoder)
    with open_run(out, command="probe", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(encoder)
        run.read("store", path=store, name=cohort.name, hash=cohort.content_hash, split_hash=cohort.meta["split_hash"])
        run.read("encoder", path=encoder, name=label, hash=weights_hash(network))
        rows = cohort.rows(needs=("image",))
        features = extract(network, cohort, rows, token=token, batch_size=batch_size, cache=feature_cache(out))
        data = ProbeData.standardised(cohort, rows, features)
        attempts = run_probes(data, make_problems(data, chosen, fractions=shares, seeds=seeds))
        predictions = predictions_table(cohort, attempts)
        predictions.to_parquet(run.artefact("predictions", "predictions.parquet"))
        scored = summarise(predictions, draws=draws)
        return run.finish(
            {
                "encoder_name": label,
                "protocol": {
                    "name": "honest",
                    "token": token,
                    "strengths": STRENGTHS,
                    "chosen_on": "AUROC on the whole validation split",
                    "draws": draws,
                    "level": 0.95,
                },
                "scores": _score_rows(attempts, scored),
                "summary": _summary_rows(chosen, attempts, scored),
            }
        )


_UNDEFINED = {"value": np.nan, "low": np.nan, "high": np.nan}
_UNTESTED = {"num_test": 0, "num_test_patients": 0, "positives": 0}


def _score_rows(attempts: Sequence[Attempt], scored: Scored) -> list[dict[str, Any]]:
    """One entry per task, label, fraction and seed, also for what could not be fitted."""
    rows = []
    for attempt in attempts:
        problem = attempt.problem
        key = (problem.task.name, problem.label, problem.fraction)
        interval = scored.single.get((*key, 0, problem.seed))
        tested = scored.mean.get(key, _UNTESTED)
        rows.append(
            {
                **_name(problem.task, problem.label, problem.fraction),
                "seed": problem.seed,
                **(interval._asdict() if interval else _UNDEFINED),
                "C": attempt.strength,
                "num_train": len(problem.rows),
                "num_train_positives": attempt.num_positives,
                **{name: tested[name] for name in _UNTESTED},
                "notes": attempt.notes,
            }
        )
    return rows


def _summary_rows(tasks: Sequence[Task], attempts: Sequence[Attempt], scored: Scored) -> list[dict[str, Any]]:
    """One entry per task, label and fraction: the mean over seeds; then the mean over the labels of each task."""
    by_name = {task.name: task for task in tasks}
    trained: dict[tuple[str, str, float], list[Attempt]] = {}
    for attempt in attempts:
        problem = attempt.problem
        trained.setdefault((problem.task.name, problem.label, problem.fraction), []).append(attempt)
    undefined = {**_UNDEFINED, "sd_over_seeds": np.nan, "sd_over_runs": np.nan, "num_seeds": 0, "num_runs": 0}
    untested = {**undefined, **_UNTESTED}
    rows = [
        {
            **_name(by_name[key[0]], key[1], key[2]),
            **scored.mean.get(key, untested),
            "num_train": float(np.mean([len(attempt.problem.rows) for attempt in own])),
            "num_train_positives": float(np.mean([attempt.num_positives for attempt in own])),
            "notes": sorted({note for attempt in own for note in attempt.notes}),
        }
        for key, own in trained.items()
    ]
    macro = [{**_name(by_name[key[0]], *key[1:]), **row} for key, row in scored.mean.items() if key[1] == MACRO]
    return rows + macro


def _name(task: Task, label: str, fraction: float) -> dict[str, Any]:
    return {"task": task.name, "label": label, "group": task.group, "fraction": fraction, "metric": "auroc"}


def _tasks(store: Store, names: Sequence[str] | None) -> list[Task]:
    if not store.tasks:
        raise PacxError(f"The store {store.name!r} ({store.path}) has no task to probe. Prepare it with label columns.")
    if not store.has("image"):
        raise PacxError(f"The store {store.name!r} ({store.path}) holds no images. Choose a store with X-rays.")
    for split in ("train", "test"):
        if not len(store.rows(split, needs=("image",))):
            raise PacxError(f"The store {store.name!r} ({store.path}) has no image in its {split} split to probe with.")
    return [store.task(name) for name in dict.fromkeys(store.tasks if names is None else names)]


def _check_numbers(fractions: Sequence[float], seeds: int) -> None:
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise PacxError(f"Label fractions must lie in (0, 1]; found {list(fractions)}.")
    if seeds < 1:
        raise PacxError(f"A probe needs at least one seed; found {seeds}.")
