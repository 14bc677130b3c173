"""What becomes of each parameter of an optimizer, and why, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optgen.runtime.description import State
from optgen.runtime.layout import vector_shape
from optgen.runtime.rules import Parameter, kernels_of, parameters
from optgen.runtime.states import float_dtype

__all__ = ["explain"]

HEADS = ("parameter", "shape", "dtype", "rule", "why", "backend", "kernel", "states")


def explain(optimizer: Any) -> str:
    """A line of columns for each parameter, below a line that names them."""
    rows: list[tuple[str, ...]] = [HEADS]
    for group in optimizer.param_groups:
        kernels = kernels_of(optimizer, group)
        for p, kernel, parameter in zip(group["params"], kernels, parameters(optimizer, group), strict=True):
            rows.append(_row(optimizer, group, p, kernel, parameter))
    if not optimizer.description.has_rules:
        rows = [(*row[:3], *row[5:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _row(optimizer: Any, group: dict[str, Any], p: Tensor, index: int, parameter: Parameter) -> tuple[str, ...]:
    rule, kernel = optimizer.description.rule_of(index), optimizer.description.kernels[index]
    flags = type(optimizer).flags(group)
    states = [_state(s, p, kernel.stored, rule.seen(p.shape, group)) for s in rule.states if s.exists(flags)]
    tags = f" (tags: {', '.join(sorted(parameter.tags))})" if parameter.tags else ""
    return (
        parameter.name or optimizer._name_of(p),
        str(tuple(p.shape)),
        str(p.dtype).removeprefix("torch."),
        rule.name,
        rule.when + tags,
        _backend(optimizer, p),
        kernel.name,
        "; ".join(states) or "none",
    )


def _backend(optimizer: Any, p: Tensor) -> str:
    """What a step would take for this parameter."""
    try:
        return str(optimizer._backend(p.device))
    except RuntimeError as error:  # a parameter on a device that the backend asked for cannot update
        return f"none: {error}"


def _state(state: State, p: Tensor, stored: tuple[str, ...], seen: Sequence[int]) -> str:
    if state.scalar:
        return f"{state.name} one number"
    if state.scope:
        return f"{state.name} one number of the {state.scope}"
    if state.whole:
        return f"{state.name} one number of all elements"
    if state.name in stored and state.codes is not None:
        codes = state.codes
        where = f"in blocks of {codes.block}" if codes.scope == "block" else f"with one scale per {codes.scope}"
        where = "with scales of rows and columns" if codes.scope == "rank1" else where
        return f"{state.name} {codes.bits} bits {where} ({codes.reason(p.shape)})"
    form = f" {vector_shape(state.shape, seen)}" if state.shape else ""
    why = "" if state.codes is None else f" ({'as asked' if state.codes.applies_to(p.shape) else state.codes.reason(p.shape)})"
    if form and state.codes is None and state.dtype is None:
        return f"{state.name}{form}"
    return f"{state.name}{form} {str(float_dtype(state, p.dtype)).removeprefix('torch.')}{why}"
