"""The rule that copies the gradient into a state: what a codec is tested with, as nothing is computed before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optgen.diagnostics import Source
from optgen.ir.nodes import Assign, Domain, Hyper, Kind, Op, Program, Ref, Role, State, Symbol
from optgen.spec.model import Spec
from optgen.spec.resolve import MAXIMIZE

__all__ = ["codec_program", "codec_spec"]


def codec_program(state: State) -> Program:
    """`m = g` and `p = p - lr*m`, with m stored as `state` is, whatever the size of the parameter."""
    assert state.storage is not None
    storage = replace(state.storage, min_size=0, min_ndim=1)
    copied = State("m", "m", unsigned=state.unsigned, storage=storage)
    symbols = [
        Symbol("p", Role.PARAM, Kind.REAL, Domain.ELEMENT),
        Symbol("g", Role.GRAD, Kind.REAL, Domain.ELEMENT),
        Symbol("t", Role.STEP, Kind.REAL, Domain.HOST),
        Symbol("lr", Role.HYPER, Kind.REAL, Domain.HOST),
        Symbol("maximize", Role.HYPER, Kind.BOOL, Domain.HOST),
        Symbol("m", Role.STATE, Kind.REAL, Domain.ELEMENT),
    ]
    body = (
        Assign("p", Op("sub", (Ref("p"), Op("mul", (Ref("lr"), Ref("m")))))),
        Assign("m", Ref("g")),
    )
    by_name = {symbol.name: symbol for symbol in symbols}
    hypers = (Hyper("lr", 1.0, "1.0"), MAXIMIZE)
    return Program("CopyGradient", by_name, {"maximize": Ref("maximize")}, hypers, (copied,), body)


def codec_spec(program: Program) -> Spec:
    """What the printers need to know of a program that has no spec."""
    source = Source(str(Path("copy_gradient.yaml")), "")
    return Spec(
        name=program.name,
        summary="Copies the gradient into a state.",
        reference="",
        source=source,
        hypers=tuple(hyper for hyper in program.hypers if hyper != MAXIMIZE),
        states=program.states,
        conditions={},
        inits={},
        update=(),
        update_text="p = p - lr*m\nm = g",
        spans={},
    )
