"""Pass `fold-scalar-factors`: the host scalars of a product become one factor, and so does what it has one number of.

    lr*(m/c1)/(sqrt(v/c2) + eps)  ->  (lr/c1)*m/(sqrt(1/c2)*sqrt(v) + eps)
    rms(p)*u/max(1, rms(u))       ->  rms(p)/max(1, rms(u))*u

The first factor is computed in float64 once a step, one of numbers of the tensor, of a row, a column or a matrix once for
each, if no divisor can be so small that its inverse is infinite; a division per element becomes a multiplication. The factors
per element keep their order. Out of a root comes a factor that is never negative, of a value that never is, so that a sum
behind the root can take it in one instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optgen.ir.constants import fold_finite
from optgen.ir.infer import infer, joined
from optgen.ir.nodes import Const, Domain, Expr, Op, Program
from optgen.ir.signs import Signs
from optgen.passes.rewrite import map_values

__all__ = ["fold_scalar_factors"]

SMALL = 1e-37  # its inverse is a float32 too


def fold_scalar_factors(program: Program) -> Program:
    """Collect the scalar factors of every product per element."""

    def is_host(value: Expr) -> bool:
        return infer(value, program.symbols)[1] == Domain.HOST

    signs = Signs(program)

    def rewrite(value: Expr) -> Expr:
        if not isinstance(value, Op):
            return value
        if value.op == "sqrt" and not is_host(value):
            return split(Op("sqrt", (rewrite(value.args[0]),), value.span))
        if value.op in ("mul", "div") and not is_host(value):
            product = _Product()
            product.take(value, is_host, inverted=False)
            return product.rebuild(rewrite, lambda factor: infer(factor, program.symbols)[1])
        return Op(value.op, tuple(rewrite(arg) for arg in value.args), value.span)

    def split(root: Op) -> Expr:
        match root.args[0]:
            case Op(op="mul", args=(x, y)) if is_host(x) != is_host(y) and signs.is_nonnegative(x) and signs.is_nonnegative(y):
                scalar, element = (x, y) if is_host(x) else (y, x)
                return Op("mul", (Op("sqrt", (scalar,)), Op("sqrt", (element,))), root.span)
        return root

    return map_values(program, rewrite)


@dataclass
class _Product:
    """The factors of nested products and quotients, in the order written."""

    scalars: list[tuple[Expr, bool]] = field(default_factory=list)
    elements: list[tuple[Expr, bool]] = field(default_factory=list)
    scalar_first: bool = False

    def take(self, value: Expr, is_host: Callable[[Expr], bool], inverted: bool) -> None:
        if is_host(value):
            self.scalar_first |= not self.elements and not self.scalars
            self.scalars.append((value, inverted))
        elif isinstance(value, Op) and value.op in ("mul", "div"):
            left, right = value.args
            self.take(left, is_host, inverted)
            self.take(right, is_host, inverted != (value.op == "div"))
        else:
            self.elements.append((value, inverted))

    def rebuild(self, rewrite: Callable[[Expr], Expr], domain: Callable[[Expr], Domain]) -> Expr:
        elements = [(rewrite(value), inverted) for value, inverted in self.grouped(domain)]
        product = _multiply(None, self.scalars)
        scalar = None if product is None else fold_finite(product)
        if scalar is None:
            return _multiply(None, elements) or Const(1)
        if self.scalar_first or elements[0][1]:
            return _multiply(scalar, elements) or scalar
        first, _ = elements[0]
        return _multiply(Op("mul", (first, scalar)), elements[1:]) or scalar

    def grouped(self, domain: Callable[[Expr], Domain]) -> list[tuple[Expr, bool]]:
        """The factors per element; those that have one number of the tensor, of a row, a column or a matrix are one if they divide."""
        domains = [domain(value) for value, _ in self.elements]
        if joined(domains) != Domain.ELEMENT:
            return self.elements
        keys = [
            own if own != Domain.ELEMENT and (not inverted or _is_large(value)) else None
            for own, (value, inverted) in zip(domains, self.elements, strict=True)
        ]
        divided = {key for key, (_, inverted) in zip(keys, self.elements, strict=True) if key is not None and inverted}
        groups = {key: [each for each, k in zip(self.elements, keys, strict=True) if k == key] for key in divided}
        found: list[tuple[Expr, bool]] = []
        for key, factor in zip(keys, self.elements, strict=True):
            if key is None or key not in divided:
                found.append(factor)
            elif key in groups:  # the first one of its group
                product = _multiply(None, sorted(groups.pop(key), key=lambda each: each[1]))
                assert product is not None
                found.append((product, False))
        return found


def _is_large(value: Expr) -> bool:
    """Whether a divisor is never so small that its inverse is infinite."""
    bounds = [x.value for x in value.args if isinstance(x, Const)] if isinstance(value, Op) and value.op == "max" else []
    return any(not isinstance(bound, str) and bound >= SMALL for bound in bounds)


def _multiply(start: Expr | None, factors: list[tuple[Expr, bool]]) -> Expr | None:
    result = start
    for value, inverted in factors:
        if result is None:
            result = Op("div", (Const(1), value)) if inverted else value
        else:
            result = Op("div" if inverted else "mul", (result, value))
    return result
