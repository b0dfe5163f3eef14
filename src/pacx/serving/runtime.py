"""Runs an exported model: pixels in, embeddings, probabilities and attention out. NumPy and ONNX Runtime, no torch.

* The file says how it wants to be fed (`ModelFacts`), and `Preprocess` does it: the same class as in training.
* Only what is asked for is computed: a request for probabilities does not pay for attention.
* ONNX Runtime's own threads wait without spinning, so that decoding beside it keeps its core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pacx.errors import MissingExtraError, PacxError
from pacx.serving.facts import METADATA_KEY, WANT_ATTENTION, ModelFacts

__all__ = ["Answers", "Model", "OnnxModel"]


class Answers(NamedTuple):
    """What a model says of B images; None for what was not asked or cannot be answered."""

    embedding: NDArray[np.float32] | None
    """(B, D)"""
    probability: NDArray[np.float32] | None
    """(B, K) calibrated, in [0, 1]"""
    attention: NDArray[np.float32] | None
    """(B, grid, grid) how much each patch contributed; each map sums to 1"""


class Model(Protocol):
    """Anything that answers for preprocessed images: an ONNX file, or an encoder in torch."""

    facts: ModelFacts

    def run(self, images: NDArray[np.float32], *, want: Collection[str]) -> Answers:
        """Answer for normalised images (B, C, S, S); `want` names fields of `Answers`."""
        ...


class OnnxModel:
    """An exported model, ready to run.

    Attributes:
        facts: what the file knows of itself.
        path: the file.
        digest: SHA-256 of the file, hexadecimal.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Open a file that `pacx export` wrote.

        Args:
            path: the ONNX file.
            threads: threads of one forward pass; all cores if not given.

        Raises:
            PacxError: no such file, no ONNX, or not written by `pacx export`.
            MissingExtraError: ONNX Runtime is not installed.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError("Running an ONNX model", extra="serve") from error
        self.path = Path(path)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PacxError(f"{path} cannot be opened ({error.strerror}). Give a file from `pacx export`.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for every fault
            raise PacxError(f"{path} is no ONNX model that can be run here. Give a file from `pacx export`.") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise PacxError(
                f"{path} does not say how it wants its images (no {METADATA_KEY!r} in its metadata). Give a file from "
                "`pacx export`."
            )
        self.facts = ModelFacts.from_json(metadata[METADATA_KEY])
        self.digest = hashlib.sha256(content).hexdigest()
        self._can_leave_out = WANT_ATTENTION in {one.name for one in self._session.get_overridable_initializers()}

    def run(self, images: NDArray[np.float32], *, want: Collection[str]) -> Answers:
        """Answer for normalised images.

        Args:
            images: (B, C, S, S), as `facts.preprocess` makes them.
            want: fields of `Answers` to compute; what the file does not have is None in the answer.
        """
        names = [output.name for output in self._session.get_outputs() if output.name in want]
        found: dict[str, Any] = dict.fromkeys(("embedding", "probability", "attention"))
        feed = {"image": images}
        if self._can_leave_out:
            feed[WANT_ATTENTION] = np.array("attention" in names)
        found |= dict(zip(names, self._session.run(names, feed), strict=True))
        return Answers(**found)
