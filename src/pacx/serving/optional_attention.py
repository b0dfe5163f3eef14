"""Makes an ONNX graph compute attention maps only where somebody wants them.

What no other output needs is put under an `If`. Its condition is an input with a default, so that whoever feeds images
alone gets everything.
"""

from __future__ import annotations

from typing import Any

from pacx.serving.facts import WANT_ATTENTION

__all__ = ["attention_on_request"]


def attention_on_request(model: Any) -> Any:
    """Return the model with an input that says whether attention is wanted; without it, it is.

    The mean over heads is taken, or not, right where a block made its maps; else the maps of all blocks and heads would
    have to be kept until the end of the pass. All that follows is under one more `If`, at the end.

    Args:
        model: in its final precision; given back as it is if it has no output `attention`.
    """
    from onnx import TensorProto, helper, shape_inference

    if "attention" not in {output.name for output in model.graph.output}:
        return model
    types = _element_types(shape_inference.infer_shapes(model).graph)
    model = type(model).FromString(model.SerializeToString())
    graph = model.graph
    needed = _ancestors(graph, [output.name for output in graph.output if output.name != "attention"])
    spare = [node for node in graph.node if node.output[0] not in needed]
    made_by_spare = {name for node in spare for name in node.output}
    means = [node for node in spare if node.op_type == "ReduceMean" and node.input[0] not in made_by_spare]
    rest = [node for node in spare if node not in means]
    replaced: dict[str, Any] = {mean.output[0]: _if_wanted([mean], mean.output[0], types) for mean in means}
    kept = [replaced.get(node.output[0], node) for node in graph.node if node not in rest]
    described = [value for value in graph.value_info if value.name not in made_by_spare or value.name in replaced]
    del graph.node[:], graph.value_info[:]
    graph.value_info.extend(described)
    graph.node.extend([*kept, _if_wanted(rest, "attention", types)])
    graph.input.append(helper.make_tensor_value_info(WANT_ATTENTION, TensorProto.BOOL, []))
    graph.initializer.append(helper.make_tensor(WANT_ATTENTION, TensorProto.BOOL, [], [True]))
    return model


def _if_wanted(nodes: list[Any], output: str, types: dict[str, int]) -> Any:
    """Put nodes under a condition; what they made is an empty array of three dimensions where it is not wanted."""
    from onnx import helper

    made, empty = f"{output}/wanted", f"{output}/unwanted"
    inner = [type(node).FromString(node.SerializeToString()) for node in nodes]
    for node in inner:
        node.output[:] = [made if name == output else name for name in node.output]
    nothing = helper.make_node("Constant", [], [empty], value=helper.make_tensor(empty, types[output], [0, 0, 0], []))

    def branch(name: str, content: list[Any]) -> Any:
        return helper.make_graph(content, name, [], [helper.make_tensor_value_info(name, types[output], [None] * 3)])

    return helper.make_node(
        "If", [WANT_ATTENTION], [output], then_branch=branch(made, inner), else_branch=branch(empty, [nothing])
    )


def _ancestors(graph: Any, names: list[str]) -> set[str]:
    """Return the names of all values from which some are computed, those included."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in makers:
            waiting += makers[name].input
    return found


def _element_types(graph: Any) -> dict[str, int]:
    values = [*graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}
