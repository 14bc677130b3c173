"""Kind and domain of every expression, from the table of operations; the one place that knows the rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optgen.ir.nodes import VECTORS, Call, Const, Domain, Expr, Function, Kind, Op, Program, Ref, Symbol
from optgen.ir.ops import OPS, OVER, REDUCED, SCOPES

__all__ = ["KindError", "holds", "infer", "infer_op", "joined", "knows_rows", "refs", "substitute", "walk"]


class KindError(Exception):
    """An expression mixes kinds: `node` is the culprit."""

    def __init__(self, node: Expr, expected: Kind, got: Kind) -> None:
        """Hold the culprit, the kind that it should have and the one that it has."""
        super().__init__(f"expected {expected.value}, got {got.value}")
        self.node = node
        self.expected = expected
        self.got = got


def infer(value: Expr, symbols: Mapping[str, Symbol], functions: Mapping[str, Function] | None = None) -> tuple[Kind, Domain]:
    """Kind and domain of `value`.

    Raises:
        KindError: where an operation gets an argument of a wrong kind.
        KeyError: where a name is not in `symbols`.
    """
    match value:
        case Const(value=bool()):
            return Kind.BOOL, Domain.HOST
        case Const(value=str()):
            return Kind.TEXT, Domain.HOST
        case Const(value=number):
            return (Kind.INT if isinstance(number, int) else Kind.REAL), Domain.HOST
        case Ref(name=name):
            return symbols[name].kind, symbols[name].domain
        case Call(function=name):
            result = (functions or {})[name].result
            return result.kind, result.domain
        case Op():
            return infer_op(value, [infer(arg, symbols, functions) for arg in value.args])


def infer_op(value: Op, args: list[tuple[Kind, Domain]]) -> tuple[Kind, Domain]:
    """Kind and domain of an operation whose arguments are known."""
    info = OPS[value.op]
    shared = _shared_kind(value, [kind for kind, _ in args])
    for expected, (kind, _), arg in zip(info.kinds(len(args)), args, value.args, strict=True):
        wanted = shared if expected is None else expected
        if kind != wanted and not (kind == Kind.INT and wanted == Kind.REAL and _is_literal(arg)):
            raise KindError(arg, wanted, kind)
    if value.op in REDUCED:
        (_, domain), (over, _) = args[0], REDUCED[value.op]
        return info.result or shared, OVER[over][1].get(domain, domain)
    return info.result or shared, info.domain if info.domain is not None else joined(domain for _, domain in args)


def joined(domains: Iterable[Domain]) -> Domain:
    """The smallest domain that has a value for each combination of these; that of rows and columns is elements."""
    found = {Domain.HOST, *domains}
    largest = max(found)
    return Domain.ELEMENT if Domain.COL in found and largest > Domain.COL else largest


def holds(target: Domain, value: Domain) -> bool:
    """Whether a name of domain `target` can have values of domain `value`."""
    return joined((target, value)) == target


def _is_literal(value: Expr) -> bool:
    """Whether a number is made of constants alone, so that it adapts to the kind of what it meets."""
    if isinstance(value, Op):
        return all(_is_literal(arg) for arg in (value.args[1:] if value.op == "where" else value.args))
    return isinstance(value, Const)


def _shared_kind(value: Op, kinds: list[Kind]) -> Kind:
    """The kind that the numeric arguments agree on: INT only if all are INT."""
    expected = OPS[value.op].kinds(len(kinds))
    numeric = [kind for kind, want in zip(kinds, expected, strict=True) if want is None]
    for alike in (Kind.BOOL, Kind.TEXT):
        if (
            (value.op in ("eq", "ne") or (value.op == "where" and alike == Kind.BOOL))
            and numeric
            and all(kind == alike for kind in numeric)
        ):
            return alike
    return Kind.INT if numeric and all(kind == Kind.INT for kind in numeric) else Kind.REAL


def knows_rows(program: Program) -> bool:
    """Whether something is computed or kept of rows, columns or matrices."""
    if any(symbol.domain in VECTORS for symbol in program.symbols.values()):
        return True
    nodes = [node for statement in program.body for node in walk(statement.value)]
    return any(isinstance(node, Op) and node.op in REDUCED and REDUCED[node.op][0] not in ("all", *SCOPES) for node in nodes)


def walk(value: Expr) -> list[Expr]:
    """Every node of an expression, parents before children, left to right."""
    nodes: list[Expr] = [value]
    if isinstance(value, Op | Call):
        for arg in value.args:
            nodes += walk(arg)
    return nodes


def refs(value: Expr) -> list[str]:
    """The names an expression reads, in order, each once."""
    return list(dict.fromkeys(node.name for node in walk(value) if isinstance(node, Ref)))


def substitute(value: Expr, names: Mapping[str, Expr]) -> Expr:
    """`value` with every reference to a key of `names` replaced."""
    match value:
        case Ref(name=name) if name in names:
            return names[name]
        case Op(op=op, args=args):
            return Op(op, tuple(substitute(arg, names) for arg in args), value.span)
        case Call(function=function, args=args):
            return Call(function, tuple(substitute(arg, names) for arg in args), value.span)
        case _:
            return value
