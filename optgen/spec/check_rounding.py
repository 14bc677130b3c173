"""Warnings: averages that rounding to 16 bits would freeze."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optgen.diagnostics import Diagnostic, Diagnostics
from optgen.ir.constants import fold
from optgen.ir.infer import substitute
from optgen.ir.nodes import Assign, Const, Expr, Op, Program, Ref
from optgen.spec.model import Spec

__all__ = ["rounding_warnings"]

HALF_ULP = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # the largest, of the smallest mantissa, in units of the value


def rounding_warnings(spec: Spec, programs: Sequence[Program]) -> tuple[Diagnostic, ...]:
    """What a spec without errors will lose to rounding, with the defaults of its hyperparameters.

    An average `x = ema(x, y, beta)` moves by (1 - beta)*(y - x). Where y is smaller than x, that is less than (1 - beta)*x:
    below half a unit in the last place of x, rounding to the nearest leaves x as it is, step after step.
    """
    found = Diagnostics()
    for rule, program in zip(spec.parts, programs, strict=True):
        _check(rule.spec, program, found)
    return tuple(replace(diagnostic, severity="warning") for diagnostic in found)


def _check(spec: Spec, program: Program, found: Diagnostics) -> None:
    for state in program.states:
        if state.floats is None or state.floats.rounding != "nearest":
            continue
        half = HALF_ULP[state.floats.dtype]
        for beta in _rates(program, state.name):
            if 0 < 1 - beta < half:
                low, high = f"{half / 2:.2g}", f"{half:.2g}"
                found.add(
                    "frozen-average",
                    f"'{state.name}' can freeze: a step moves it by 1 - {beta:g} = {1 - beta:.2g} of its value at most when it "
                    f"falls, and {state.floats.dtype} rounds away less than {low} to {high}",
                    spec.spans[state.name],
                    help=f"write 'storage: {{codebook: {state.floats.dtype}, rounding: stochastic}}', or 'storage: float32'",
                )


def _rates(program: Program, state: str) -> list[float]:
    """The beta of every `ema(state, y, beta)` that the state takes, where the defaults decide it."""
    defaults: dict[str, Expr] = {}
    for hyper in program.hypers:
        parts = (
            zip(hyper.names, hyper.default, strict=True) if isinstance(hyper.default, tuple) else [(hyper.name, hyper.default)]
        )
        defaults |= {name: Const(value) for name, value in parts}
    rates = []
    for statement in program.body:
        match statement:
            case Assign(target=target, value=Op(op="ema", args=(Ref(name=name), _, beta))) if target == name == state:
                value = fold(substitute(beta, defaults))
                if isinstance(value, Const) and isinstance(value.value, float | int):
                    rates.append(float(value.value))
    return rates
