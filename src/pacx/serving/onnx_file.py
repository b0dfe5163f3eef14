"""Writes ONNX files: from torch, in full precision, in half, or with 8-bit weights; facts inside.

* torch's own exporter makes the graph, ONNX Runtime's own tools reduce it; nothing of either is written again here.
* Half precision halves the file. Inputs and outputs stay float32. x86 processors compute it in float32.
* Eight bits: the weights of all matrix products, one scale per output channel. Activations are rounded as they come
  (`int8`), or by ranges found on calibration images (`int8-static`). Products of two activations (attention) stay as
  they are: their rounding costs accuracy and saves nothing.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pacx.errors import MissingExtraError
from pacx.serving.facts import METADATA_KEY, ModelFacts, Precision
from pacx.serving.network import ExportNetwork

__all__ = ["reduce_precision", "trace", "with_facts"]

_OPSET = 20
_LARGEST_BATCH = 1 << 12
_CALIBRATION_BATCH = 4


def trace(network: ExportNetwork, images: NDArray[np.float32]) -> Any:
    """Turn a network into an ONNX model with a dynamic batch.

    Args:
        network: in evaluation mode.
        images: (B, C, S, S), at least two; they only set the shapes.

    Raises:
        MissingExtraError: the packages that write ONNX are not installed.
    """
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (torch.from_numpy(images[:2]),),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=["image"],
                output_names=list(network.names),
                opset_version=_OPSET,
                optimize=True,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise MissingExtraError("Writing ONNX files", extra="export") from error
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # line numbers of the machine that exported, with its paths
        node.ClearField("doc_string")
    return model


def reduce_precision(model: Any, precision: Precision, calibration: NDArray[np.float32]) -> Any:
    """Return the model in another precision.

    Args:
        model: from `trace`.
        precision: what to make; fp32 is given back as it is.
        calibration: (n, C, S, S) images whose activations set the ranges of int8-static.
    """
    if precision == "fp32":
        return model
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with _quiet():
            return convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=False)
    return _eight_bits(model, None if precision == "int8" else calibration)


def with_facts(model: Any, facts: ModelFacts) -> bytes:
    """Write the facts into the model's metadata; return the content of the file."""
    from onnx.helper import set_model_props

    set_model_props(model, {METADATA_KEY: facts.to_json()})
    model.producer_name, model.producer_version, model.doc_string = "pacx", facts.pacx_version, facts.about
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _eight_bits(model: Any, calibration: NDArray[np.float32] | None) -> Any:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, ready, after = (Path(folder) / name for name in ("before.onnx", "ready.onnx", "after.onnx"))
        onnx.save(model, before)
        quant_pre_process(before, ready, skip_symbolic_shape=True)
        common = {
            "op_types_to_quantize": ["MatMul", "Gemm"],
            "nodes_to_exclude": _products_by_head(onnx.load(ready).graph),
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            "extra_options": {"MatMulConstBOnly": True},
        }
        if calibration is None:
            quantize_dynamic(ready, after, **common)
        else:
            quantize_static(
                ready, after, _Calibration(calibration), quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8, **common,
            )  # fmt: skip
        return onnx.load(after)


def _products_by_head(graph: Any) -> list[str]:
    """Name the products with one weight matrix per head, for which ONNX Runtime has no 8 bits (last block, one row)."""
    joint = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in joint]


class _Calibration:
    """Hands images to ONNX Runtime's calibration, a few at a time."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(
            np.array_split(images, max(1, len(images) // _CALIBRATION_BATCH))
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporter and quantiser say about themselves from the user; errors still come."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
