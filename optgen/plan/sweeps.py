"""The body of a kernel -> sweeps: a reduction over a row or the tensor ends a sweep, and later ones read its result.

    m = ema(m, g, beta)                sweep 1: m = ema(m, g, beta)
    m_scale = tensor_max(m)                     write m_scale_parts, the largest of each block
    write codes(m, m_scale)     ->     reduce m_scale_parts to m_scale_whole
                                       sweep 2: m = ema(m, g, beta)
                                                m_scale = read m_scale_whole
                                                write codes(m, m_scale)

What a later sweep needs again is computed again: reading states twice costs less than writing and reading a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from optgen.ir.infer import refs
from optgen.ir.nodes import Assign, Const, Expr, Op, Program, Ref, Statement, Store
from optgen.ir.ops import WIDE_REDUCTIONS
from optgen.plan.nodes import Buffer, Layout, Reduction, Sweep

__all__ = ["Sweeps", "split_sweeps"]

WIDE = (Layout.ROW, Layout.TENSOR)


@dataclass
class Sweeps:
    """The sweeps of a kernel, and what they need beside its buffers. `taken` holds the names of all that is there."""

    taken: set[str]
    sweeps: list[Sweep] = field(default_factory=list)
    scratch: list[Buffer] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)

    def free(self, name: str) -> str:
        """This name, or a longer one where something has it already."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def split_sweeps(
    name: str, buffers: Sequence[Buffer], columns: Sequence[str], body: Sequence[Statement], program: Program
) -> Sweeps:
    """Split `body` at its wide reductions; without any it is one sweep. `program` has the symbols of the body."""
    out = Sweeps({*program.symbols, *program.flags, *(buffer.name for buffer in buffers)})
    if not any(map(_reduction, body)):
        out.sweeps.append(Sweep(name, tuple(buffers), tuple(columns), tuple(body)))
        return out
    levels = _levels(body)
    last = max(levels[i] + 1 for i, statement in enumerate(body) if _reduction(statement))
    results: dict[int, Buffer] = {}  # of the reduction at each place
    for level in range(last):
        ends = [i for i, statement in enumerate(body) if _reduction(statement) and levels[i] == level]
        statements = _slice([_resolved(i, s, results) for i, s in enumerate(body)], ends)
        stores, reductions = [], []
        for place in ends:
            store, reduction = _partial(body[place], _block(place, body, program), out, results, place)
            stores.append(store)
            reductions.append(reduction)
        statements = [s for s in statements if not _reduction(s)]
        out.sweeps.append(_sweep(f"{name}_{level + 1}", [*buffers, *out.scratch], columns, [*statements, *stores], reductions))
    resolved = [_resolved(i, s, results) for i, s in enumerate(body)]
    final = _slice(resolved, [i for i, s in enumerate(resolved) if isinstance(s, Store)])
    final = [_deferred(s, buffers, out) for s in final]
    out.sweeps.append(_sweep(name, [*buffers, *out.scratch], columns, final, []))
    return out


def _reduction(statement: Statement) -> bool:
    return isinstance(statement.value, Op) and statement.value.op in WIDE_REDUCTIONS


def _levels(body: Sequence[Statement]) -> list[int]:
    """For each statement how many reductions, one after the other, its value waits for."""
    known: dict[str, int] = {}
    levels = []
    for statement in body:
        level = max((known.get(name, 0) for name in refs(statement.value)), default=0)
        levels.append(level)
        if isinstance(statement, Assign):
            after = level + 1 if _reduction(statement) else level
            known[statement.target] = max(after, known.get(statement.target, 0)) if statement.guards else after
    return levels


def _slice(body: Sequence[Statement], ends: Iterable[int]) -> list[Statement]:
    """The statements that those at the places `ends` need, and these."""
    needed: set[str] = set()
    kept, wanted = [], set(ends)
    for place in reversed(range(len(body))):
        statement = body[place]
        if place not in wanted and not (isinstance(statement, Assign) and statement.target in needed):
            continue
        if isinstance(statement, Assign) and not statement.guards:
            needed.discard(statement.target)
        needed |= set(refs(statement.value))
        kept.append(statement)
    return kept[::-1]


def _block(place: int, body: Sequence[Statement], program: Program) -> int:
    """The size of the blocks that a reduction is over, from where its argument was arranged in blocks."""
    names = set(refs(body[place].value))
    for statement in reversed(body[:place]):
        if isinstance(statement, Assign) and statement.target in names:
            match statement.value:
                case Op(op="blocks", args=(_, Const(value=int(number)))):
                    storage = program.states[number].storage
                    assert storage is not None
                    return storage.block
            names |= set(refs(statement.value))
    raise AssertionError("a reduction over a row or the tensor is one of blocks")


def _resolved(place: int, statement: Statement, results: dict[int, Buffer]) -> Statement:
    """A reduction of an earlier sweep is read."""
    if place not in results:
        return statement
    return replace(statement, value=Op("load", (Ref(results[place].name),)))


def _partial(statement: Statement, block: int, out: Sweeps, results: dict[int, Buffer], place: int) -> tuple[Store, Reduction]:
    """What each tile writes of a reduction over blocks of this size, and how the parts become one."""
    assert isinstance(statement, Assign) and isinstance(statement.value, Op)
    scope, op = WIDE_REDUCTIONS[statement.value.op]
    when = statement.guards[0] if statement.guards else None
    word = {"row": "rows", "tensor": "whole"}[scope]
    parts, result = (
        Buffer(
            out.free(f"{statement.target}_{suffix}"),
            layout,
            "float32",
            None,
            None,
            False,
            False,
            f"{op} of each {what}",
            when,
            block,
        )
        for suffix, layout, what in (("parts", Layout.BLOCK, "block"), (word, Layout(scope), scope))
    )
    out.scratch += [parts, result]
    results[place] = result
    partial: Expr = Op(f"block_{op}", statement.value.args)
    return Store(parts.name, partial, statement.guards), Reduction(op, parts.name, result.name)


def _deferred(statement: Statement, buffers: Sequence[Buffer], out: Sweeps) -> Statement:
    """What one tile writes and others still read goes to a scratch buffer first, and is copied in the end."""
    if not isinstance(statement, Store):
        return statement
    target = next(b for b in buffers if b.name == statement.buffer)
    if target.layout not in WIDE or not target.read:
        return statement
    new = replace(
        target,
        name=out.free(f"{target.name}_new"),
        key=None,
        read=False,
        doc=f"{target.doc}, its next value",
        when=target.guard,
    )
    new = replace(new, state=None)
    out.scratch.append(new)
    out.copies.append((new.name, target.name))
    return replace(statement, buffer=new.name)


def _sweep(
    name: str,
    buffers: Sequence[Buffer],
    columns: Sequence[str],
    body: Sequence[Statement],
    reductions: Sequence[Reduction],
) -> Sweep:
    read = {name for statement in body for name in refs(statement.value)}
    written = {statement.buffer for statement in body if isinstance(statement, Store)}
    read |= {"correction"} if "param" in read else set()  # goes with the parameter
    written |= {"correction"} if "param" in written else set()
    used = [replace(b, read=b.name in read, written=b.name in written) for b in buffers if b.name in read | written]
    return Sweep(name, tuple(used), tuple(c for c in columns if c in read), tuple(body), tuple(reductions))
