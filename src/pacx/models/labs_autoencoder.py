# ruff: noqa: F722
"""The laboratory network: a denoising autoencoder that knows which values were measured.

    [percentiles * mask, mask] (B, 2L) -> Linear -> LayerNorm -> GELU -> Linear -> z (B, dim)
                                        z -> Linear -> GELU -> Linear -> sigmoid -> percentiles (B, L)

* Percentiles under the mask are set to 0 in the network itself, so training and use cannot differ. (The published
  implementation trained so, but extracted its embeddings from mean-filled values.)
* In training each observed entry is hidden with probability p, value and mask both. The loss runs over all observed
  entries, hidden and shown: `sum((x_hat - x)^2 * mask) / (sum(mask) + 1e-6)`. What nobody measured never counts.
* The embedding z is what distillation sees; the decoder exists only to train it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pacx.errors import PacxError
from pacx.models.weights import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_weights,
    new_folder,
    read_config,
    save_weights,
    weights_hash,
)

__all__ = [
    "REFERENCE_FILE",
    "LabsAutoencoder",
    "hide_entries",
    "load_labs_autoencoder",
    "reconstruction_loss",
    "save_labs_autoencoder",
]

REFERENCE_FILE = "reference.json"


class LabsAutoencoder(nn.Module):
    """Lab percentiles and their mask to an embedding, and back."""

    def __init__(self, num_labs: int, *, hidden: int = 512, dim: int = 256) -> None:
        super().__init__()
        self.num_labs = num_labs
        self.hidden = hidden
        self.dim = dim
        self.encoder = nn.Sequential(
            nn.Linear(2 * num_labs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, dim)
        )
        self.decoder = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, num_labs), nn.Sigmoid())

    def encode(self, x: Float[Tensor, "B L"], observed: Float[Tensor, "B L"]) -> Float[Tensor, "B dim"]:
        """Embed percentiles; what lies under the mask is ignored.

        Args:
            x: percentiles in [0, 1].
            observed: 1 = observed, 0 = not.
        """
        z: Tensor = self.encoder(torch.cat([x * observed, observed], dim=1))
        return z

    def forward(
        self, x: Float[Tensor, "B L"], observed: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B dim"]]:
        """Return the reconstructed percentiles in (0, 1) and the embedding."""
        z = self.encode(x, observed)
        return self.decoder(z), z


def hide_entries(
    observed: Float[Tensor, "B L"], *, probability: float, generator: torch.Generator | None = None
) -> Float[Tensor, "B L"]:
    """Return the mask with each observed entry hidden, independently, with the given probability."""
    kept = torch.rand(observed.shape, generator=generator, device=observed.device) >= probability
    return observed * kept


def reconstruction_loss(
    reconstruction: Float[Tensor, "B L"], x: Float[Tensor, "B L"], weight: Float[Tensor, "B L"]
) -> Float[Tensor, ""]:
    """Mean squared error over the entries of weight 1."""
    return ((reconstruction - x).square() * weight).sum() / (weight.sum() + 1e-6)


def save_labs_autoencoder(
    net: LabsAutoencoder, folder: Path, *, reference: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    """Write a teacher folder: weights, architecture and the reference distribution.

    Args:
        net: the network; its weights' hash is recorded.
        folder: where to; an older model folder there is replaced.
        reference: content of `reference.json`, what `LabReference.to_dict` gives.
        training: where the weights come from. Free form, JSON.
    """
    content = {
        "kind": "labs",
        "architecture": {"num_labs": net.num_labs, "hidden": net.hidden, "dim": net.dim},
        "preprocessing": {"values": "percentiles", "unobserved": "zeros", "reference": REFERENCE_FILE},
        "labs": [lab["name"] for lab in reference["labs"]],
        "training": dict(training),
        "weights_hash": weights_hash(net),
    }
    with new_folder(folder) as filling:
        save_weights(net, filling / WEIGHTS_FILE)
        (filling / REFERENCE_FILE).write_text(json.dumps(dict(reference), indent=1) + "\n", encoding="utf-8")
        (filling / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_labs_autoencoder(folder: Path) -> tuple[LabsAutoencoder, dict[str, Any]]:
    """Read a teacher folder; its reference distribution is read with `LabReference.load(folder / REFERENCE_FILE)`.

    Returns:
        The network in eval mode, and the folder's configuration.

    Raises:
        PacxError: not a labs teacher, or weights that do not fit its architecture or its recorded hash.
    """
    folder = Path(folder)
    config = read_config(folder)
    if config.get("kind") != "labs":
        raise PacxError(f"{folder} holds a model of kind {config.get('kind')!r}, not a labs teacher (kind 'labs').")
    architecture = config["architecture"]
    net = LabsAutoencoder(architecture["num_labs"], hidden=architecture["hidden"], dim=architecture["dim"])
    load_weights(net, folder / WEIGHTS_FILE)
    if weights_hash(net) != config.get("weights_hash"):
        raise PacxError(
            f"The weights in {folder} are not those its {CONFIG_FILE} describes. Fit or copy the teacher again."
        )
    return net.eval(), config
