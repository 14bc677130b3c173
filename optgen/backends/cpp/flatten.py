"""A sweep's body -> the same statements with every reduction over a block in a statement of its own.

Functions that reduce are written out in place, because a reduction ends a loop over elements; all others stay functions of
vectors, whether their values stand for elements or for blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optgen.ir.infer import infer, substitute, walk
from optgen.ir.nodes import Assign, Call, Const, Expr, Function, Guard, Op, Ref, Role, Statement, Store, Symbol
from optgen.ir.ops import PARTS
from optgen.plan.nodes import Buffer, Layout
from optgen.storage.lookup import LARGEST

__all__ = ["REDUCTIONS", "flatten", "reduces"]

REDUCTIONS = ("block_max", "block_min", "block_count", "block_low", "block_select", *PARTS)


def reduces(value: Expr, functions: Mapping[str, Function]) -> bool:
    """Whether a value needs all elements of a block."""
    nodes = walk(value)
    called = [functions[node.function] for node in nodes if isinstance(node, Call)]
    return any(isinstance(node, Op) and node.op in REDUCTIONS for node in nodes) or any(
        reduces(statement.value, functions) for function in called for statement in function.body
    )


def flatten(
    body: Sequence[Statement], symbols: Mapping[str, Symbol], functions: Mapping[str, Function], buffers: Mapping[str, Buffer]
) -> tuple[list[Statement], dict[str, Symbol]]:
    """The statements, and the symbols of all names in them."""
    flattener = _Flattener(symbols, functions, buffers)
    for statement in body:
        flattener.add(statement)
    return flattener.out, flattener.symbols


class _Flattener:
    def __init__(self, symbols: Mapping[str, Symbol], functions: Mapping[str, Function], buffers: Mapping[str, Buffer]) -> None:
        self.symbols = dict(symbols)
        self.functions = functions
        self.buffers = buffers
        self.out: list[Statement] = []

    def add(self, statement: Statement) -> None:
        guards = statement.guards
        if isinstance(statement, Store) and self.buffers[statement.buffer].layout == Layout.STRIPS:
            value = self.lifted(statement.value, statement.buffer, guards)
            assert isinstance(value, Op)
            part = value.args[0] if isinstance(value.args[0], Ref) else self.assigned(statement.buffer, value.args[0], guards)
            self.out.append(Store(statement.buffer, Op(value.op, (part,)), guards))
        elif isinstance(statement, Store):
            value = self.lifted(statement.value, statement.buffer, guards)
            if self.buffers[statement.buffer].layout != Layout.ELEMENT and not isinstance(value, Ref):
                value = self.assigned(statement.buffer, value, guards)
            self.out.append(Store(statement.buffer, value, guards))
        elif isinstance(statement.value, Call) and reduces(statement.value, self.functions):
            self.out.append(Assign(statement.target, self.written_out(statement.value, statement.target, guards), guards))
        else:
            value = self.lifted(statement.value, statement.target, guards, is_whole=True)
            self.out.append(Assign(statement.target, value, guards))

    def written_out(self, call: Call, target: str, guards: tuple[Guard, ...]) -> Expr:
        """The value of a call; the statements in front of it are added, their names after the state's."""
        function = self.functions[call.function]
        known: dict[str, Expr] = {p.name: arg for p, arg in zip(function.params, call.args, strict=True)}
        prefix = target.removesuffix(function.name.split("_")[0]).rstrip("_") or target
        for statement in function.body:
            value = substitute(statement.value, known)
            if statement is function.body[-1]:
                return self.lifted(value, target, guards, is_whole=True)
            known[statement.target] = self.assigned(
                f"{prefix}_{statement.target}", self.lifted(value, target, guards, is_whole=True), guards
            )
        raise AssertionError(f"{function.name} has no statements")

    def lifted(self, value: Expr, name: str, guards: tuple[Guard, ...], *, is_whole: bool = False) -> Expr:
        """A value whose reductions, where they are parts of it, have got names of their own."""
        if not isinstance(value, Op | Call):
            return value
        args = tuple(self.lifted(arg, name, guards) for arg in value.args)
        if isinstance(value, Call):
            return Call(value.function, args)
        if value.op == "block_low":
            return self.low(args, name, guards)
        if value.op == "block_select" and not isinstance(args[0], Ref):
            args = (self.assigned(f"{name}_values", args[0], guards), *args[1:])
        value = Op(value.op, args)
        if is_whole or value.op not in REDUCTIONS:
            return value
        return self.assigned(f"{name}_{value.op}", value, guards)

    def low(self, args: Sequence[Expr], name: str, guards: tuple[Guard, ...]) -> Expr:
        """A quantile of the values above zero, by counting and selecting."""
        x, quantile, bound = args
        is_positive = Op("gt", (x, Const(0.0)))
        count = self.assigned(f"{name}_count", Op("block_count", (is_positive,)), guards)
        last = Op("real", (Op("max", (Op("sub", (count, Const(1))), Const(0))),))
        rank = self.assigned(f"{name}_rank", Op("trunc", (Op("mul", (last, quantile)),)), guards)
        values = self.assigned(f"{name}_values", Op("where", (is_positive, x, Const(LARGEST))), guards)
        return self.assigned(f"{name}_select", Op("block_select", (values, rank, bound)), guards)

    def assigned(self, name: str, value: Expr, guards: tuple[Guard, ...]) -> Ref:
        """A new local with this value."""
        while name in self.symbols or name in self.buffers:
            name += "_"
        self.symbols[name] = Symbol(name, Role.LOCAL, *infer(value, self.symbols, self.functions))
        self.out.append(Assign(name, value, guards))
        return Ref(name)
