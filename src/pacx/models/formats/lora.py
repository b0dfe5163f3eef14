"""Merge LoRA adapters, as PEFT names them, into the weights that they adapt.

    X.base_layer.weight  W    X.lora_A.NAME.weight  A (r x in)    X.lora_B.NAME.weight  B (out x r)
    X.weight = W + alpha / r  B A                                   (Hu et al. 2021, section 4.1)

The rank r is A's number of rows; alpha is in no tensor, so it comes from the checkpoint's hyper-parameters, from the
user, or from the convention of the format, and is recorded. `X.modules_to_save.NAME.*` are trained copies that stand in
for `X.original_module.*`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pacx.errors import PacxError
from pacx.models.weights import name_some

__all__ = ["find_alpha", "has_adapters", "merge"]

_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_SAVED = re.compile(r"(?P<layer>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)")
_OF_PEFT = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|original_module)(\.|$)")


def has_adapters(names: Mapping[str, Tensor]) -> bool:
    """Say whether some names are PEFT's."""
    return any(_OF_PEFT.search(name) for name in names)


def find_alpha(others: Mapping[str, Any]) -> float | None:
    """Look for `lora_alpha` among a checkpoint's hyper-parameters, also one level down."""
    settings = others.get("hyper_parameters")
    if not isinstance(settings, Mapping):
        return None
    for place in (settings, *(item for item in settings.values() if isinstance(item, Mapping))):
        value = place.get("lora_alpha")
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def merge(tensors: Mapping[str, Tensor], *, alpha: float | None, source: str) -> tuple[dict[str, Tensor], list[int]]:
    """Return the tensors under their names without PEFT, adapters merged, and the ranks that were found.

    Raises:
        PacxError: an adapter without its other half or its layer, several adapters, another kind, or no alpha.
    """
    parts = _sort(tensors)
    _check(parts, tensors, source)
    if parts.factors and alpha is None:
        raise PacxError(
            f"{source} holds LoRA adapters without their alpha, by which they count alpha / rank times. Pass it as "
            "lora_alpha."
        )
    merged = {
        name.replace(".base_layer.", "."): value
        for name, value in parts.plain.items()
        if ".original_module." not in name
    }
    for layer, pair in parts.factors.items():
        scale = (alpha or 0.0) / pair["A"].shape[0]
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"].float() + scale * (pair["B"].float() @ pair["A"].float())
    return {**merged, **parts.saved}, sorted({pair["A"].shape[0] for pair in parts.factors.values()})


@dataclass
class _Parts:
    """The tensors of a PEFT network by what they are for."""

    plain: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """layer -> A and B"""
    saved: dict[str, Tensor] = field(default_factory=dict)
    """`modules_to_save`, under their names without PEFT"""
    adapters: set[str] = field(default_factory=set)


def _sort(tensors: Mapping[str, Tensor]) -> _Parts:
    parts = _Parts()
    for name, value in tensors.items():
        if match := _FACTOR.fullmatch(name):
            parts.factors.setdefault(match["layer"], {})[match["side"]] = value
            parts.adapters.add(match["adapter"] or "")
        elif match := _SAVED.fullmatch(name):
            parts.saved[f"{match['layer']}.{match['rest']}"] = value
            parts.adapters.add(match["adapter"])
        else:
            parts.plain[name] = value
    return parts


def _check(parts: _Parts, names: Iterable[str], source: str) -> None:
    wrapped = {name.partition(".base_layer.")[0] for name in parts.plain if ".base_layer." in name}
    if parts.factors and not wrapped:
        raise PacxError(
            f"{source} is a LoRA adapter without the network that it adapts. Merge the two with PEFT "
            "(`merge_and_unload`) and save the result, or give the checkpoint of both."
        )
    if len(parts.adapters) > 1:
        listed = ", ".join(sorted(parts.adapters))
        raise PacxError(f"{source} holds several adapters: {listed}. Keep the one that you want.")
    there = set(names)
    missing, unknown = _missing(parts, wrapped, there), [name for name in names if not _is_known(name, there)]
    shapes = [] if missing else [_shapes(layer, parts) for layer in parts.factors if not _fits(layer, parts)]
    faults = [(missing, "missing"), (unknown, "of a kind that is not known"), (shapes, "of shapes that do not fit")]
    if any(faulty for faulty, _ in faults):
        listed = "; ".join(f"{len(faulty)} {fault}: {name_some(faulty)}" for faulty, fault in faults if faulty)
        raise PacxError(f"The LoRA adapters in {source} cannot be merged. {listed}. Nothing was loaded.")


def _missing(parts: _Parts, wrapped: set[str], names: Container[str]) -> list[str]:
    dot_adapter = "".join(f".{name}" for name in parts.adapters if name)
    adapted = sorted(wrapped | set(parts.factors))
    missing = [f"{layer}.base_layer.{kind}" for layer in adapted for kind in ("weight", "bias")]
    missing += [f"{layer}.lora_{side}{dot_adapter}.weight" for layer in adapted for side in "AB"]
    for name in parts.plain:
        layer, mark, rest = name.partition(".original_module.")
        if mark:
            missing.append(f"{layer}.modules_to_save{dot_adapter}.{rest}")
    return [name for name in missing if name not in names]


def _is_known(name: str, names: Container[str]) -> bool:
    if match := _SAVED.fullmatch(name):
        return f"{match['layer']}.original_module.{match['rest']}" in names
    if _FACTOR.fullmatch(name) or ".original_module." in name:
        return True
    return name.endswith((".base_layer.weight", ".base_layer.bias")) or not _OF_PEFT.search(name)


def _fits(layer: str, parts: _Parts) -> bool:
    weight, a, b = parts.plain[f"{layer}.base_layer.weight"], parts.factors[layer]["A"], parts.factors[layer]["B"]
    return a.ndim == b.ndim == 2 and b.shape[1] == a.shape[0] and weight.shape == (b.shape[0], a.shape[1])


def _shapes(layer: str, parts: _Parts) -> str:
    weight, pair = parts.plain[f"{layer}.base_layer.weight"], parts.factors[layer]
    return f"{layer} {tuple(weight.shape)} with B {tuple(pair['B'].shape)} and A {tuple(pair['A'].shape)}"
