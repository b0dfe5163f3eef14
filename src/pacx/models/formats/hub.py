"""Weights that have a name and no file yet: `timm:NAME` through timm, `hf-hub:OWNER/NAME[@REVISION]` as a folder.

Both end in the local cache of huggingface_hub, so that a second call needs no network (`HF_HUB_OFFLINE=1` asks for none
at all). Nothing but weights and configurations is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pacx.errors import PacxError
from pacx.models.formats.names import take, vit_names
from pacx.models.formats.network import Found
from pacx.models.formats.timm import TIMM, describe
from pacx.models.patients import PATIENTS_FILE

__all__ = ["download", "is_timm_name", "read_timm_name"]

_FILES = ["config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json", PATIENTS_FILE]
_OFFLINE = "Check the connection, or fetch the files elsewhere and give the file or folder."


def is_timm_name(name: str) -> bool:
    """Say whether timm has an architecture of this name, `vit_base_patch16_224` or with a tag after a point."""
    import timm

    return bool(timm.is_model(name))


def read_timm_name(name: str) -> Found:
    """Let timm make a pre-trained network, downloading its weights if they are not in the cache.

    Raises:
        PacxError: timm has no such weights, they cannot be fetched, or they are of no plain ViT.
    """
    source = f"timm:{name}"
    network = _pretrained(name, source)
    cfg: dict[str, Any] = dict(network.pretrained_cfg)
    tensors = dict(network.state_dict())
    depth = len(network.blocks) if hasattr(network, "blocks") else 0
    taken, dropped = take(tensors, vit_names(depth), prefix="", drops=TIMM.drops, source=source)
    stated, expects = describe(network, cfg, source=source)
    named = ("architecture", "tag", "hf_hub_id", "url", "license")
    origin = {"name": source, **{key: str(cfg[key]) for key in named if cfg.get(key)}}
    return Found(TIMM, taken, source, origin, dropped, stated, expects)


def download(name: str) -> Path:
    """Fetch a model folder from the hub, or find it in the cache.

    Args:
        name: OWNER/NAME, with @REVISION for a certain one.

    Raises:
        PacxError: there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=[*_FILES, "model-*.safetensors"])
        )
        if not list(folder.glob("model*.safetensors")):
            folder = Path(
                snapshot_download(repository, revision=revision or None, allow_patterns=["pytorch_model.bin"])
            )
    except Exception as error:  # the hub's client raises its HTTP library's classes, which differ by version
        raise PacxError(f"hf-hub:{name} cannot be fetched ({_reason(error)}). {_OFFLINE}") from error
    return folder


def _pretrained(name: str, source: str) -> Any:
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*", pretrained=True)[:4])
        raise PacxError(f"timm has no architecture {name!r}.{f' Did you mean one of {near}?' if near else ''}")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # as above; and timm itself raises RuntimeError for unknown tags
        raise PacxError(f"{source} cannot be fetched ({_reason(error)}). {_OFFLINE}") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
