# ruff: noqa: F722
"""The laboratory network: a denoising autoencoder that knows which values were measured.

    [percentiles * mask, mask] (B, 2L) -> Linear -> LayerNorm -> GELU -> Linear -> z (B, dim)
                                        z -> Linear -> GELU -> Linear -> sigmoid -> percentiles (B, L)

* Percentiles under the mask are set to 0 in the network itself, so training and use cannot differ.
* In training each observed entry is hidden with probability p, value and mask both. The loss runs over all observed
  entries, hidden and shown: `sum((x_hat - x)^2 * mask) / (sum(mask) + 1e-6)`. What nobody measured never counts.
* The embedding z is what distillation sees; the decoder exists only to train it.
* The published implementation trained in the same way, but extracted its embeddings from tables in which a missing
  entry held the lab's mean percentile in training, and did not zero it. A teacher can be told to do so too
  (`unobserved="train-mean"`): `encode` then sees means under the mask where training saw zeros. `forward`, which fills
  in values, keeps the zeros of training in either case.

Network, sizes, input, corruption and loss are the published ones; so are its parameters' names, behind the prefix
`model.` of the published checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

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
    "Unobserved",
    "hide_entries",
    "load_labs_autoencoder",
    "reconstruction_loss",
    "save_labs_autoencoder",
]

REFERENCE_FILE = "reference.json"

Unobserved = Literal["zeros", "train-mean"]
"""what `encode` sees under the mask: what training saw there, or each lab's mean percentile in training"""


class LabsAutoencoder(nn.Module):
    """Lab percentiles and their mask to an embedding, and back.

    Args:
        num_labs: L, length of the percentiles and of the mask.
        hidden: width of the hidden layers.
        dim: length of the embedding.

    Raises:
        PacxError: a size below 1.
    """

    under_mask: Tensor
    """(L,) what `encode` puts in the place of entries that are not observed"""

    def __init__(self, num_labs: int, *, hidden: int = 512, dim: int = 256) -> None:
        super().__init__()
        for name, size in (("num_labs", num_labs), ("hidden", hidden), ("dim", dim)):
            if size < 1:
                raise PacxError(f"{name} is {size}; it must be 1 or more.")
        self.num_labs = num_labs
        self.hidden = hidden
        self.dim = dim
        # No weight: the teacher folder keeps it with the preprocessing.
        self.register_buffer("under_mask", torch.zeros(num_labs), persistent=False)
        self.encoder = nn.Sequential(
            nn.Linear(2 * num_labs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, dim)
        )
        self.decoder = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, num_labs), nn.Sigmoid())

    def encode(self, x: Float[Tensor, "B L"], observed: Float[Tensor, "B L"]) -> Float[Tensor, "B dim"]:
        """Embed percentiles; what lies under the mask is ignored, and replaced by `under_mask` (zeros if not set).

        Args:
            x: percentiles in [0, 1].
            observed: 1 = observed, 0 = not.
        """
        z: Tensor = self.encoder(torch.cat([x * observed + self.under_mask * (1 - observed), observed], dim=1))
        return z

    def forward(
        self, x: Float[Tensor, "B L"], observed: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B dim"]]:
        """Return the reconstructed percentiles in (0, 1) and the embedding, with zeros under the mask."""
        z = self.encoder(torch.cat([x * observed, observed], dim=1))
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
    net: LabsAutoencoder,
    folder: Path,
    *,
    reference: Mapping[str, Any],
    training: Mapping[str, Any],
    train_means: Sequence[float] | None = None,
) -> None:
    """Write a teacher folder: weights, architecture and the reference distribution.

    Args:
        net: the network; its weights' hash is recorded.
        folder: where to; an older model folder there is replaced.
        reference: content of `reference.json`, what `LabReference.to_dict` gives.
        training: where the weights come from. Free form, JSON.
        train_means: (L,) mean percentile of each lab in training, [0, 1], to be put under the mask when the teacher
            embeds; zeros if not given.
    """
    preprocessing: dict[str, Any] = {"values": "percentiles", "unobserved": "zeros", "reference": REFERENCE_FILE}
    if train_means is not None:
        preprocessing |= {"unobserved": "train-mean", "train_means": [float(mean) for mean in train_means]}
    content = {
        "kind": "labs",
        "architecture": {"num_labs": net.num_labs, "hidden": net.hidden, "dim": net.dim},
        "preprocessing": preprocessing,
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
        The network in eval mode, which embeds as the folder's preprocessing says, and the folder's configuration.

    Raises:
        PacxError: not a labs teacher, weights that do not fit its architecture or its recorded hash, or a
            preprocessing that is not known here.
    """
    folder = Path(folder)
    config = read_config(folder)
    if config.get("kind") != "labs":
        raise PacxError(f"{folder} holds a model of kind {config.get('kind')!r}, not a labs teacher (kind 'labs').")
    try:
        architecture = config["architecture"]
        net = LabsAutoencoder(architecture["num_labs"], hidden=architecture["hidden"], dim=architecture["dim"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise PacxError(
            f"{folder / CONFIG_FILE} does not say a network's num_labs, hidden and dim. Fit or copy the teacher again."
        ) from error
    load_weights(net, folder / WEIGHTS_FILE)
    if weights_hash(net) != config.get("weights_hash"):
        raise PacxError(
            f"The weights in {folder} are not those its {CONFIG_FILE} describes. Fit or copy the teacher again."
        )
    net.under_mask = _under_mask(config.get("preprocessing") or {}, num_labs=net.num_labs, folder=folder)
    return net.eval(), config


def _under_mask(preprocessing: Mapping[str, Any], *, num_labs: int, folder: Path) -> Tensor:
    choice = preprocessing.get("unobserved")
    if choice == "zeros":
        return torch.zeros(num_labs)
    if choice != "train-mean":
        raise PacxError(
            f"{folder / CONFIG_FILE} says {choice!r} of unobserved labs; known are {', '.join(get_args(Unobserved))}. "
            "Fit the teacher again, or use the version of pacx that made it."
        )
    means = preprocessing.get("train_means")
    if (
        not isinstance(means, list)
        or len(means) != num_labs
        or not all(isinstance(mean, int | float) and 0 <= mean <= 1 for mean in means)
    ):
        raise PacxError(
            f"{folder / CONFIG_FILE} has no list of {num_labs} mean percentiles from 0 to 1 under `train_means`. "
            "Fit or copy the teacher again."
        )
    return torch.tensor(means, dtype=torch.float32)
