"""Predicted physiology: what can be told of a patient's blood, and of his ECG's embedding, from a lone X-ray.

An analysis of encoders, for research: it says for which labs an X-ray carries anything at all. It is no measurement and
no medical device.

* `--encoder E` reads every lab by a ridge regression on frozen features, so that any two encoders can be compared.
* `--distilled RUN --labs_teacher RUN` asks the heads that distillation kept: no further training but a line per lab.

`pacx.evaluation.lab_readouts` says how no test row is looked at, `pacx.evaluation.lab_scores` how the result is judged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.bank import open_banks
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.head_readouts import decode_labs, measure_embeddings, open_decoder
from pacx.evaluation.lab_readouts import KnownLab, ReadOff, by_line, by_ridge, known_labs, tabulate
from pacx.evaluation.lab_scores import COLUMNS, ENOUGH, ENOUGH_PATIENTS, compare_physiology, summarise_physiology
from pacx.frozen.features import Token, encoder_name, extract, feature_cache, open_encoder
from pacx.frozen.seen import check_unseen
from pacx.models.encoder import Encoder, weights_hash
from pacx.models.kept_heads import open_heads
from pacx.runs import RunFolder, open_run

__all__ = ["compare_physiology", "physiology", "summarise_physiology"]

log = logging.getLogger("pacx")


def physiology(
    *,
    store: Path,
    out: Path,
    encoder: str | None = None,
    distilled: Path | None = None,
    labs_teacher: Path | None = None,
    banks: list[Path] | None = None,
    labs: list[str] | None = None,
    token: Token = "cls",
    name: str | None = None,
    batch_size: int = 64,
    draws: int = 1000,
    allow_seen_patients: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict laboratory values from lone X-rays of the test split, and say for which labs that works.

    Research use only: a rank correlation over a group says nothing certain about one patient.

    Example:
        pacx physiology --store stores/cohort --encoder runs/pacx/encoder --out runs/physiology-pacx

    Args:
        store: a store with images and labs.
        out: the run folder to make.
        encoder: read-out by ridge regression: an encoder folder, random:FOLDER[:SEED] for the same architecture with
            fresh weights, or any foreign weights that `pacx convert` takes.
        distilled: read-out by kept heads, instead of `encoder`: the run folder of `pacx distill`.
        labs_teacher: with `distilled`, the labs teacher that was distilled, for its decoder.
        banks: with `distilled`, true embeddings to compare the predicted ones with, such as the ECG bank.
        labs: names of labs to read; all of the store if not given.
        token: what stands for an image, with `encoder`: class token, mean of the patch tokens, or both side by side.
            Heads read the class token.
        name: how a report calls this encoder; taken from its folder if not given.
        batch_size: images per forward pass; only speed and memory depend on it.
        draws: bootstrap draws of the intervals.
        allow_seen_patients: judge the encoder even if it was trained on some of these patients; the result says so.
        overwrite: replace a finished run in `out`.

    Returns:
        The content of `result.json`. Its results: encoder_name, seen_patients, protocol, left_out (labs that could not
        be read, and why), embeddings (by teacher, with `banks`), and those of
        `pacx.evaluation.lab_scores.summarise_physiology`, where each lab also says how its read-out was fitted.

    Raises:
        PacxError: neither or both of `encoder` and `distilled`, a store without labs or images, a lab that it does not
            have, heads, teacher and banks that do not belong together, or test patients that the encoder was trained
            on.
    """
    config = {**locals()}
    read_out = _read_out(encoder=encoder, distilled=distilled, labs_teacher=labs_teacher, banks=banks, token=token)
    cohort = Store.open(store)
    known, left_out = known_labs(cohort, labs)
    source = str(Path(distilled) / "encoder") if distilled is not None else str(encoder)
    network = open_encoder(source)
    seen = check_unseen(network, cohort, allow=allow_seen_patients)
    with open_run(out, command="physiology", config=config, overwrite=overwrite) as run:
        label = name or encoder_name(source)
        run.read("store", **cohort.identity())
        run.read("encoder", path=source, name=label, hash=weights_hash(network))
        features = _features(network, cohort, token=token, batch_size=batch_size, cache=feature_cache(out))
        found: dict[str, Any] = {"embeddings": {}}
        if distilled is not None and labs_teacher is not None:
            heads = open_heads(distilled)
            heads.check(network)
            decoder = open_decoder(labs_teacher, cohort)
            run.read("labs_teacher", path=labs_teacher, hash=decoder.weights)
            if banks:
                opened = open_banks(banks, cohort)
                found["embeddings"] = measure_embeddings(heads, opened, features, cohort, draws=draws)
            decoded, found["decoding"] = decode_labs(heads, decoder, features, cohort)
            left_out |= {lab.name: "the labs teacher does not know it" for lab in known if lab.name not in decoded}
            known = [lab for lab in known if lab.name in decoded]
            read = [by_line(lab, decoded[lab.name]) for lab in known]
        else:
            patient = cohort.manifest["patient_id"].to_numpy(dtype=str)
            read = [by_ridge(lab, features, patient=patient) for lab in known]
        _say_left_out(known, left_out)
        predictions = _predictions(cohort, known, read, read_out=read_out)
        predictions.to_parquet(run.artefact("predictions", "predictions.parquet"))
        scored = summarise_physiology(predictions, draws=draws)
        scored["labs"] = _with_facts(scored["labs"], known, read)
        _draw(run, scored, encoder=label)
        protocol = {"read_out": read_out, "token": token, "draws": draws, "level": 0.95}
        facts = {"encoder_name": label, "seen_patients": seen, "protocol": protocol, "left_out": left_out}
        return run.finish({**facts, **found, **scored})


def _read_out(
    *, encoder: str | None, distilled: Path | None, labs_teacher: Path | None, banks: list[Path] | None, token: Token
) -> str:
    if (encoder is None) == (distilled is None):
        raise PacxError(
            f"Found {'neither' if encoder is None else 'both'} of --encoder and --distilled. Give --encoder for the "
            "ridge read-out of any encoder, or --distilled with --labs_teacher for the heads of a distillation."
        )
    if (distilled is None) != (labs_teacher is None):
        raise PacxError(
            "--distilled and --labs_teacher belong together: heads predict embeddings, the teacher decodes."
        )
    if distilled is None and banks:
        raise PacxError("--banks are compared with what heads predict: give --distilled, or use `pacx align`.")
    if distilled is not None and token != "cls":
        raise PacxError(f"The heads were trained on the class token; --token {token} is for --encoder.")
    return "ridge" if distilled is None else "heads"


def _features(network: Encoder, store: Store, *, token: Token, batch_size: int, cache: Path) -> NDArray[np.float32]:
    """Return features (N, D), zeros where a row has no image."""
    rows = store.rows(needs=("image",))
    found = extract(network, store, rows, token=token, batch_size=batch_size, cache=cache)
    features = np.zeros((len(store), found.shape[1]), dtype=np.float32)
    features[rows] = found
    return features


def _say_left_out(known: Sequence[KnownLab], left_out: dict[str, str]) -> None:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    if not known:
        raise PacxError(f"No lab can be read here ({reasons or 'the store has none'}).")
    if reasons:
        log.info("physiology: labs left out: %s", reasons)


def _predictions(store: Store, known: Sequence[KnownLab], read: Sequence[ReadOff], *, read_out: str) -> pd.DataFrame:
    tables = [tabulate(store, lab, one, read_out=read_out) for lab, one in zip(known, read, strict=True)]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def _with_facts(
    rows: Sequence[dict[str, Any]], known: Sequence[KnownLab], read: Sequence[ReadOff]
) -> list[dict[str, Any]]:
    facts = {
        lab.name: {"num_train": len(lab.rows["train"]), "num_val": len(lab.rows["val"]), **one.facts}
        for lab, one in zip(known, read, strict=True)
    }
    return [{**row, **facts[row["lab"]]} for row in rows]


def _draw(run: RunFolder, scored: dict[str, Any], *, encoder: str) -> None:
    """Draw every lab with its intervals, the best ordered on top; hollow: too few test values to judge by."""
    from matplotlib.figure import Figure

    labs = scored["labs"][::-1]
    path = run.figure(
        "physiology.png",
        caption=(
            f"Laboratory values read off X-rays ({encoder}, {scored['read_out']}): rank correlation with the truth and "
            f"skill over the training mean, patient-level 95 % intervals. Hollow: fewer than {ENOUGH} test "
            f"values or {ENOUGH_PATIENTS} patients."
        ),
    )
    figure = Figure(figsize=(8.0, 1.1 + 0.27 * len(labs)), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, metric, title in ((left, "spearman", "Spearman with the truth"), (right, "skill", "skill over the mean")):
        for height, lab in enumerate(labs):
            found = lab[metric]
            colour = "#1f5fa8" if found.low > 0 else "#777777"
            axis.plot([found.low, found.high], [height, height], color=colour, linewidth=1.4)
            axis.plot(found.value, height, "o", color=colour, markersize=5, fillstyle="none" if lab["few"] else "full")
        axis.axvline(0, color="#333333", linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(y=0.5 / max(len(labs), 1))
    left.set_yticks(range(len(labs)), [f"{lab['lab']} (n={lab['n']})" for lab in labs])
    right.set_xlim(left=max(-1.0, right.get_xlim()[0]))
    figure.savefig(path)
