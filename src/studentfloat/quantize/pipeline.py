"""The one pipeline that every method is: its steps on one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from studentfloat.quantize.inputs import InputStatistics
from studentfloat.quantize.method import Method, without_inputs
from studentfloat.quantize.parts import InputTransform
from studentfloat.quantize.parts.registry import in_order
from studentfloat.quantize.rounding.nearest import check_tensor
from studentfloat.quantize.scheme import Scheme
from studentfloat.quantize.steps.state import SharedInput, WeightState
from studentfloat.quantize.weight import QuantizedWeight

__all__ = ["MethodResult", "quantize_weight"]


@dataclass(frozen=True, eq=False)
class MethodResult:
    """A quantized weight, what was really done, and in words what differed."""

    weight: QuantizedWeight
    method: str
    notes: tuple[str, ...] = ()


def quantize_weight(
    weight: Tensor,
    scheme: Scheme,
    method: Method,
    inputs: InputStatistics | None = None,
    *,
    transforms: Sequence[InputTransform] | None = None,
    name: str = "weight",
) -> MethodResult:
    """Quantize one matrix by a method.

    Parameters
    ----------
    weight
        Of shape ``(..., in_features)``, floating point, finite.
    scheme
        What to, with blocks along the last axis.
    method
        How.
    inputs
        What the layer is fed with, before any transform; None or without tokens rounds to
        nearest where the method needs inputs, and says so.
    transforms
        Of the input, in the order in which they are applied to it, where they were chosen
        beforehand for all weights that share it; None lets the method choose for this one.

    Raises
    ------
    DataError
        If the weight or what is known of its inputs holds NaN or infinity; the message names
        it.
    """
    check_tensor(weight, name)
    scheme = method.on_scheme(scheme)
    notes: list[str] = []
    if inputs is not None and not inputs.count:
        inputs = None
    if inputs is not None:
        inputs.check(name)
    if inputs is None and method.needs_inputs(scheme):
        notes.append("no input seen: rounded to nearest")
        scheme, method = without_inputs(scheme)
    if transforms is None:
        transforms = tuple(_transforms(method, SharedInput((weight,), inputs, scheme)))
    for transform in transforms:
        weight = transform.absorb(weight)
        inputs = None if inputs is None else transform.statistics(inputs)
    notes += _idle_experts(inputs)
    state = WeightState(
        name,
        weight,
        scheme,
        method.steps,
        inputs=inputs,
        transforms=tuple(transforms),
        notes=tuple(notes),
    )
    for step in method.steps:
        state = step.apply(state)
    return MethodResult(_put_together(state), method.name, state.notes)


def _transforms(method: Method, shared: SharedInput) -> Iterator[InputTransform]:
    """Those of an input that one weight has to itself."""
    for step in method.transforms:
        found = step.find(shared)
        if found is not None:
            shared = shared.transformed(found)
            yield found


def _put_together(state: WeightState) -> QuantizedWeight:
    assert state.base is not None
    # Inputs meet the last part first.
    return QuantizedWeight(state.base, (*in_order(state.parts), *reversed(state.transforms)))


def _idle_experts(inputs: InputStatistics | None) -> list[str]:
    if inputs is None or not inputs.tokens.dim():
        return []
    idle = (inputs.tokens == 0).nonzero().flatten().tolist()
    if not idle:
        return []
    listed = ", ".join(map(str, idle))
    return [f"experts without tokens, rounded to nearest: {listed}"]
