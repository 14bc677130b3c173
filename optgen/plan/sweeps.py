"""The body of a kernel -> sweeps: a reduction over a row or the tensor ends a sweep, and later ones read its result.

    m = ema(m, g, beta)                sweep 1: m = ema(m, g, beta)
    m_scale = tensor_max(m)                     write m_scale_parts, the largest of each block
    write codes(m, m_scale)     ->     reduce m_scale_parts to m_scale_whole
                                       sweep 2: m = ema(m, g, beta)
                                                m_scale = read m_scale_whole
                                                write codes(m, m_scale)

What a later sweep needs again is computed again: reading states twice costs less than writing and reading a value. A state
that is not rounded may be written by an earlier sweep than the last; later ones then read it and not what it was made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from optgen.ir.infer import refs
from optgen.ir.nodes import Assign, Const, Expr, Op, Program, Ref, Statement, Store
from optgen.ir.ops import REDUCTIONS, WIDE_REDUCTIONS
from optgen.plan.nodes import Buffer, Layout, Reduction, Sweep
from optgen.plan.traffic import buffer_bytes

__all__ = ["Sweeps", "split_sweeps"]

WIDE = (Layout.ROW, Layout.TENSOR)
MOST_CHOICES = 1024  # of sweeps that write states: so many are all tried


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
    name: str, buffers: Sequence[Buffer], columns: Sequence[str], body: Sequence[Statement], program: Program, chunk: int
) -> Sweeps:
    """Split `body` at its wide reductions; without any it is one sweep.

    Of all choices of the sweeps that write states, the one with the fewest bytes is taken, of equal ones that which writes
    last; of very many, a good one. `program` has the symbols of the body, `chunk` is how many elements are a part of a
    reduction of the rule.
    """
    taken = {*program.symbols, *program.flags, *(buffer.name for buffer in buffers)}
    wide = {buffer.name for buffer in buffers if buffer.layout in WIDE}
    if not any(_reduction(s) or (isinstance(s, Store) and s.buffer in wide) for s in body):
        return Sweeps(taken, [Sweep(name, tuple(buffers), tuple(columns), tuple(body))])
    levels = _levels(body)
    last = max((levels[i] + 1 for i, statement in enumerate(body) if _reduction(statement)), default=0)
    early = {i: range(levels[i], last + 1) for i, s in enumerate(body) if isinstance(s, Store) and _is_exact(s, body, buffers)}
    splitter = _Splitter(name, buffers, columns, body, program, chunk)

    def split(choice: Sequence[int]) -> tuple[float, Sweeps] | None:
        found = splitter.split(last, levels, dict(zip(early, choice, strict=True)), Sweeps(set(taken)))
        return None if found is None else (_bytes(found), found)

    choices = [tuple(reversed(sweeps)) for sweeps in early.values()]
    if math.prod(map(len, choices)) <= MOST_CHOICES:
        return min(filter(None, map(split, product(*choices))), key=lambda found: found[0])[1]
    return _improved(choices, split)


def _improved(choices: Sequence[Sequence[int]], split: Callable[[Sequence[int]], tuple[float, Sweeps] | None]) -> Sweeps:
    """Of too many choices a good one: that of all last sweeps, changed at one place at a time as long as that helps."""
    now = [sweeps[0] for sweeps in choices]
    best = split(now)
    assert best is not None, "all stores in the last sweep is a choice"
    changed = True
    while changed:
        changed = False
        for place, sweep in ((i, sweep) for i, sweeps in enumerate(choices) for sweep in sweeps):
            tried = [*now[:place], sweep, *now[place + 1 :]]
            found = split(tried)
            if found is not None and found[0] < best[0]:
                now, best, changed = tried, found, True
    return best[1]


def _bytes(split: Sweeps) -> float:
    """Bytes per element, parameters and gradients being float32."""
    return sum(buffer_bytes(b, param=4, grad=4) for sweep in split.sweeps for b in sweep.buffers if b.guard is None)


def _is_exact(store: Store, body: Sequence[Statement], buffers: Sequence[Buffer]) -> bool:
    """Whether a later sweep may read what was stored instead of computing it again: a state that is not rounded."""
    buffer = next(b for b in buffers if b.name == store.buffer)
    exact = buffer.layout == Layout.ELEMENT and buffer.dtype == "real" and isinstance(store.value, Ref)
    return exact and not store.guards and not body[_last_assignment(store, body)].guards


def _last_assignment(store: Store, body: Sequence[Statement]) -> int:
    """The place of the assignment that makes the value of a state."""
    assert isinstance(store.value, Ref)
    return max(i for i, s in enumerate(body) if isinstance(s, Assign) and s.target == store.value.name)


@dataclass
class _Splitter:
    """The parts of a kernel that become sweeps."""

    name: str
    buffers: Sequence[Buffer]
    columns: Sequence[str]
    body: Sequence[Statement]
    program: Program
    chunk: int

    def split(self, last: int, levels: Sequence[int], sweep_of: Mapping[int, int], out: Sweeps) -> Sweeps | None:
        """The sweeps 0 to `last` if each store at a place of `sweep_of` is done in that sweep; None if that cannot be."""
        body, name = self.body, self.name
        results: dict[int, Buffer] = {}  # of the reduction at each place
        for number in range(last + 1):
            before = [s for i, s in enumerate(body) if isinstance(s, Store) and sweep_of.get(i, last) < number]
            loads = {_last_assignment(store, body): _load(store) for store in before}
            seen = [loads.get(i) or _resolved(i, s, results) for i, s in enumerate(body)]
            ends = [i for i, s in enumerate(body) if _reduction(s) and levels[i] == number]
            now = [i for i, s in enumerate(body) if isinstance(s, Store) and sweep_of.get(i, last) == number]
            places = _slice(seen, [*ends, *now])
            if any(body[i] == load for i in places for load in loads.values()):
                return None  # an old value, when the new one has taken its place
            parts, reductions = dict[int, Statement](), []
            for place in ends:
                block = _block(place, body, self.program, self.chunk)
                parts[place], reduction = _partial(body[place], block, out, results, place)
                reductions.append(reduction)
            statements = _with_parts([(i, _deferred(seen[i], self.buffers, out)) for i in places], parts)
            label = name if number == last else f"{name}_{number + 1}"
            out.sweeps.append(_sweep(label, [*self.buffers, *out.scratch], self.columns, statements, reductions))
        return out


def _with_parts(statements: Sequence[tuple[int, Statement]], parts: Mapping[int, Statement]) -> list[Statement]:
    """A sweep's statements, with the stores of parts in place of the reductions: behind all others where they can be.

    A part of what is assigned again stands at its place.
    """
    kept: list[Statement] = []
    last: list[Statement] = []
    for number, (place, statement) in enumerate(statements):
        if place not in parts:
            kept.append(statement)
            continue
        names = set(refs(parts[place].value))
        changed = {s.target for _, s in statements[number + 1 :] if isinstance(s, Assign)}
        (kept if names & changed else last).append(parts[place])
    return [*kept, *last]


def _load(store: Store) -> Assign:
    """The statement that reads the value of a state."""
    assert isinstance(store.value, Ref)
    return Assign(store.value.name, Op("load", (Ref(store.buffer),)))


def _reduction(statement: Statement) -> bool:
    return isinstance(statement.value, Op) and statement.value.op in (*WIDE_REDUCTIONS, *REDUCTIONS)


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


def _slice(body: Sequence[Statement], ends: Iterable[int]) -> list[int]:
    """The places of the statements that those at the places `ends` need, and these."""
    needed: set[str] = set()
    kept, wanted = [], set(ends)
    for place in reversed(range(len(body))):
        statement = body[place]
        if place not in wanted and not (isinstance(statement, Assign) and statement.target in needed):
            continue
        if isinstance(statement, Assign) and not statement.guards:
            needed.discard(statement.target)
        needed |= set(refs(statement.value))
        kept.append(place)
    return kept[::-1]


def _block(place: int, body: Sequence[Statement], program: Program, chunk: int) -> int:
    """The size of the blocks that a reduction is over, from where its argument was arranged in blocks."""
    value = body[place].value
    if isinstance(value, Op) and value.op in REDUCTIONS:
        return chunk
    names = set(refs(value))
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
    if statement.value.op in REDUCTIONS:
        (op, part), dtype, scope = REDUCTIONS[statement.value.op], "real", "tensor"
    else:
        (scope, op), dtype = WIDE_REDUCTIONS[statement.value.op], "float32"
        part = f"block_{op}"
    when = statement.guards[0] if statement.guards else None
    word = {"row": "rows", "tensor": "whole"}[scope]
    parts, result = (
        Buffer(
            out.free(f"{statement.target}_{suffix}"),
            layout,
            dtype,
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
    partial: Expr = Op(part, statement.value.args)
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
