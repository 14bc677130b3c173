"""`eval` and `train`: programs that move a parameter between the point that is trained and the one that is evaluated."""

from __future__ import annotations

from dataclasses import replace

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.infer import walk
from optgen.ir.nodes import Assign, Op, Program, Ref, Role
from optgen.ir.ops import REDUCED, SCOPES
from optgen.spec.lower import lower
from optgen.spec.model import Spec

__all__ = ["fitted_points", "with_points"]


def with_points(spec: Spec, program: Program, found: Diagnostics) -> Program:
    """The program with those of `eval` and `train`, checked."""
    points = {}
    for name, statements in spec.points.items():
        plain = replace(spec, update=statements, inits={}, inputs=(), before=(), after=(), points={})
        faults = len(found)
        points[name] = lower(plain, found)
        if len(found) == faults:
            _check(spec, name, points[name], found)
    return replace(program, points=tuple(points.items()))


def fitted_points(program: Program) -> Program:
    """The program and those of its points with the same symbols but for locals, and the same states, arguments and flags."""
    flags, symbols = dict(program.flags), dict(program.symbols)
    for _, point in program.points:
        flags |= point.flags
        symbols |= {name: symbol for name, symbol in point.symbols.items() if symbol.role == Role.FACT}
    known = {name: symbol for name, symbol in symbols.items() if symbol.role != Role.LOCAL}
    made = tuple(
        (
            name,
            replace(
                point,
                flags=flags,
                hypers=program.hypers,
                states=program.states,
                symbols={**known, **{n: s for n, s in point.symbols.items() if n not in known}},
            ),
        )
        for name, point in program.points
    )
    return replace(program, flags=flags, symbols=symbols, points=made)


def _check(spec: Spec, name: str, program: Program, found: Diagnostics) -> None:
    """P moves; states, gradients and other parameters have no part in it."""
    body = [s for s in program.body if isinstance(s, Assign) and s.span is not None]
    if not any(s.target == "p" for s in body):
        help_text = "end with 'p = ...'"
        found.add("bad-point", f"'{name}' never assigns to p", spec.spans[name], help=help_text)
    for statement in body:
        if program.symbols[statement.target].role == Role.STATE:
            message = f"'{name}' moves p, and state '{statement.target}' stays as it is"
            found.add("bad-point", message, _span(statement.span), help="assign to a new name")
        for node in walk(statement.value):
            if isinstance(node, Ref) and program.symbols[node.name].role in (Role.GRAD, Role.STEP):
                message = f"'{node.name}' is not known between steps"
                found.add("bad-point", message, _span(node.span), help="depend on p, states and hyperparameters")
            if isinstance(node, Op) and node.op in REDUCED and REDUCED[node.op][0] in SCOPES:
                message = "what is reduced over several parameters is not known between steps"
                found.add(
                    "bad-point", message, _span(node.span), help="keep it in a state of 'scope: group' or 'scope: optimizer'"
                )


def _span(span: Span | None) -> Span:
    assert span is not None, "what a spec says has a place"
    return span
