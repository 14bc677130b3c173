"""One choice of the passes that write states -> the passes, with what passes between them.

A statement of values per element may stand in several passes, which compute it again. One of rows, columns or matrices
stands in one pass over these, as early as it can; where other passes need its value, that is written for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from optgen.ir.infer import refs
from optgen.ir.nodes import PLURALS, VECTORS, Assign, Const, Domain, Expr, Guard, Op, Program, Ref, Statement, Store
from optgen.ir.ops import JOINT, OF_ALL_RULES, REDUCED, REDUCTIONS, SPREAD, WIDE_REDUCTIONS
from optgen.plan.homes import Homes, is_reduction
from optgen.plan.levels import is_of_all, joint_names, levels_of, phases_of, sliced
from optgen.plan.nodes import STRIP, VECTOR_LAYOUTS, Buffer, Joint, Layout, Reduction, Sweep

__all__ = ["Splitter", "Sweeps", "used_sweep"]

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


class Place(NamedTuple):
    """When a sweep runs: behind the reductions of lower levels; of one level those over fewer values are first."""

    level: int
    over: Domain


@dataclass
class Splitter:
    """The parts of a kernel that become sweeps."""

    name: str
    buffers: Sequence[Buffer]
    columns: Sequence[str]
    body: Sequence[Statement]
    program: Program
    chunks: Mapping[Domain, int]

    @cached_property
    def levels(self) -> list[int]:
        """For each statement how many reductions, one after the other, its value waits for."""
        return levels_of(self.body, self.program)

    @cached_property
    def homes(self) -> list[Domain]:
        """For each statement what the sweeps are over that it belongs to; a reduction belongs to its argument."""
        return self.where.homes

    @cached_property
    def where(self) -> Homes:
        """Where statements belong, and which of them read and write what is rounded."""
        return Homes(self.buffers, self.body, self.program)

    def place(self, i: int) -> Place:
        """The sweep that a statement belongs to, if it is one of vectors or ends a sweep."""
        return Place(self.levels[i], self.homes[i])

    def split(self, last: int, sweep_of: Mapping[int, int], out: Sweeps) -> Sweeps | None:
        """The sweeps up to level `last` if each store at a place of `sweep_of` is done at that level; None if that cannot be."""
        results, parts, reductions = self.reduced(out)
        stores = {i: Place(self.level_of_store(i, sweep_of, last), self.homes[i]) for i in self.stores}
        wanted: dict[int, Buffer] = {}  # what is written of the vectors at each place, because another sweep needs it
        made: dict[Place, list[tuple[int, Statement]]] = {}
        possible = {*stores.values(), *map(self.place, range(len(self.body)))}
        for place in sorted(possible, reverse=True):
            done = [i for i, at in stores.items() if at < place and i in sweep_of]
            ends = [i for i in (*results, *wanted) if self.place(i) == place] + [i for i, at in stores.items() if at == place]
            found = _View(self, place, results, done, wanted, out).slice(ends)
            if found is None:
                return None
            if found:
                made[place] = found
        for place in sorted(made):
            ended = {i for i in results if self.place(i) == place}
            own = {i: self.kept(i, buffer) for i, buffer in wanted.items() if self.place(i) == place}
            statements = [(i, _deferred(s, self.buffers, out)) for i, s in made[place]]
            body = _with_parts(_with_wanted(statements, own), {i: part for i, part in parts.items() if i in ended})
            joins = [reduction for i, reduction in reductions.items() if i in ended]
            out.sweeps.append(self.sweep(self.label(place, made, out), place, body, joins, out))
        return out

    def kept(self, i: int, buffer: Buffer) -> Store:
        """The write, behind a statement, of what it has assigned."""
        statement = self.body[i]
        assert isinstance(statement, Assign)
        return Store(buffer.name, Ref(statement.target), self.exists(i))

    def exists(self, i: int) -> tuple[Guard, ...]:
        """The guards under which a name has a value behind a statement: those that all its assignments so far share."""
        target = getattr(self.body[i], "target", None)
        assigned = [s.guards for s in self.body[: i + 1] if isinstance(s, Assign) and s.target == target]
        return tuple(guard for guard in assigned[-1] if all(guard in guards for guards in assigned))

    def sweep(self, label: str, place: Place, body: Sequence[Statement], joins: Sequence[Reduction], out: Sweeps) -> Sweep:
        """One pass, with the buffers and host scalars that it uses."""
        statements = [_seen(statement, place.over) for statement in body]
        return replace(used_sweep(label, [*self.buffers, *out.scratch], self.columns, statements, joins), over=place.over)

    def may_be_early(self, i: int) -> bool:
        """Whether a store can be done before the last sweep, if later ones need no more what was there, or read it."""
        buffer = self.where.buffer(getattr(self.body[i], "buffer", ""))
        return buffer.layout not in WIDE and not self.where.is_inexact(i)

    def is_exact(self, i: int) -> bool:
        """Whether a later sweep may read what a store has left instead of computing it again: a state that is not rounded."""
        store = self.body[i]
        assert isinstance(store, Store)
        buffer = self.where.buffer(store.buffer)
        whole = buffer.layout in (Layout.ELEMENT, *VECTOR_LAYOUTS.values())
        if not whole or buffer.dtype != "real" or not isinstance(store.value, Ref) or store.guards:
            return False
        assigned = [s for s in self.body if isinstance(s, Assign) and s.target == store.value.name]
        return not assigned[-1].guards

    @cached_property
    def stores(self) -> list[int]:
        """The places of all stores."""
        return [i for i, statement in enumerate(self.body) if isinstance(statement, Store)]

    def label(self, place: Place, made: Iterable[Place], out: Sweeps) -> str:
        """The name of a sweep's function: the last one over elements has the kernel's own."""
        if place.over == Domain.ELEMENT:
            final = max(other for other in made if other.over == Domain.ELEMENT)
            return self.name if place == final else out.free(f"{self.name}_{place.level + 1}")
        return out.free(f"{self.name}_{PLURALS[place.over]}_{place.level}")

    def level_of_store(self, place: int, sweep_of: Mapping[int, int], last: int) -> int:
        """When a store is done; of what is not chosen, behind everything that may read the old value.

        What is rounded is stored where it is made: the sweeps that read the old value behind that find it written out.
        """
        return (
            self.levels[place] if self.where.is_inexact(place) else sweep_of.get(place, last + (self.homes[place] in VECTORS))
        )

    def reduced(self, out: Sweeps) -> tuple[dict[int, Buffer], dict[int, Statement], dict[int, Reduction]]:
        """Of the reduction at each place its result, what a tile writes of it, and how the parts are joined."""
        results: dict[int, Buffer] = {}
        parts: dict[int, Statement] = {}
        reductions: dict[int, Reduction] = {}
        ends = [i for i, statement in enumerate(self.body) if is_reduction(statement)]
        for i in sorted(ends, key=lambda i: self.levels[i]):
            parts[i], reductions[i], results[i] = self.partial(i, out)
        return results, parts, reductions

    def partial(self, place: int, out: Sweeps) -> tuple[Store, Reduction, Buffer]:
        """What each tile writes of a reduction, how the parts become one, and where that is."""
        statement = self.body[place]
        assert isinstance(statement, Assign) and isinstance(statement.value, Op)
        op, home = statement.value.op, self.homes[place]
        if op in REDUCTIONS:
            how, dtype = REDUCTIONS[op], "real"
            layout = VECTOR_LAYOUTS.get(self.program.symbols[statement.target].domain, Layout.TENSOR)
            is_strip = REDUCED[op][0] == "rows" and home == Domain.ELEMENT
            part = f"{'strip' if is_strip else 'part'}_{'sum' if how == 'mean' else how}"
            lie, block = (Layout.STRIPS, STRIP) if is_strip else (Layout.BLOCK, self.chunks[home])
        else:
            scope, how = WIDE_REDUCTIONS[op]
            dtype, layout, part = "float32", Layout(scope), f"block_{how}"
            lie, block = Layout.BLOCK, _block(place, self.body, self.program)
        joint = None
        if op in JOINT:
            name, scope, phase = joint_names(self.body)[place], JOINT[op], phases_of(self.body)[place] + 1
            joint = Joint(name, scope.removeprefix(OF_ALL_RULES), phase, home, is_of_all(statement), statement.guards)
        when = statement.guards[0] if statement.guards else None
        word = {Layout.ROW: "rows", Layout.TENSOR: "whole"}.get(layout, layout.value)

        def buffer(suffix: str, lies: Layout, what: str) -> Buffer:
            name = out.free(f"{statement.target}_{suffix}")
            return Buffer(name, lies, dtype, None, None, False, False, f"{how} of {what}", when, block, home)

        left = buffer("parts", lie, "each block" if lie == Layout.BLOCK else "each column of a strip")
        words = {Layout.ROWS: "row", Layout.COLS: "column", Layout.MATRICES: "matrix"}
        result = buffer(word, layout, f"{joint.scope}'s tensors" if joint else f"each {words.get(layout, layout.value)}")
        out.scratch += [left, result]
        partial: Expr = Op(part, statement.value.args)
        return Store(left.name, partial, statement.guards), Reduction(how, left.name, result.name, joint), result


@dataclass
class _View:
    """The body as one sweep sees it: what earlier ones left is read."""

    splitter: Splitter
    place: Place
    results: Mapping[int, Buffer]
    stored: Sequence[int]  # the places of stores that earlier sweeps have done, of states that are not rounded
    wanted: dict[int, Buffer]
    out: Sweeps

    def slice(self, ends: Sequence[int]) -> list[tuple[int, Statement]] | None:
        """The statements that those at the places `ends` need, and these, by place; None if one needs an old value too late."""
        body = self.splitter.body
        loads = {_last_assignment(i, body): _load(body[i]) for i in self.stored if self.splitter.is_exact(i)}
        seen = [loads.get(i) or self.seen(i, statement) for i, statement in enumerate(body)]
        places = sliced(seen, ends, self.wanted)
        gone = {s.buffer for s in map(body.__getitem__, self.stored) if isinstance(s, Store)}
        if any(_is_load(body[i]) and seen[i] == body[i] and gone & set(refs(body[i].value)) for i in places):
            return None  # an old value, when the new one has taken its place
        return [(i, self.passed(i) if i not in loads and self.is_passed(i) else seen[i]) for i in places]

    def seen(self, i: int, statement: Statement) -> Statement:
        """The reduction of an earlier sweep is read, and so is what a sweep over vectors made, whatever it was made of."""
        if i in self.results and self.splitter.levels[i] < self.place.level:
            return replace(statement, value=Op("load", (Ref(self.results[i].name),)))
        return replace(statement, value=Const(0.0), guards=()) if self.is_passed(i) else statement

    def is_passed(self, i: int) -> bool:
        """Whether the value of a statement comes from another sweep, over vectors."""
        statement, place = self.splitter.body[i], self.splitter.place(i)
        if place.over not in VECTORS or not isinstance(statement, Assign) or i in self.results or place == self.place:
            return False
        state = self.splitter.where.decoded(i)
        if state is not None:
            stored = max(self.splitter.levels[store] for store in self.splitter.where.stores(state))
            return self.place.over != place.over or self.place.level > stored
        return not _is_load(statement)

    def passed(self, i: int) -> Assign:
        """The read of a vector that another sweep writes."""
        statement = self.splitter.body[i]
        assert isinstance(statement, Assign)
        if i not in self.wanted:
            layout = VECTOR_LAYOUTS[self.splitter.homes[i]]
            name = self.out.free(f"{statement.target}_{layout.value}")
            when = next(iter(self.splitter.exists(i)), None)
            self.wanted[i] = Buffer(
                name, layout, "real", None, None, False, False, f"{statement.target} for other sweeps", when
            )
            self.out.scratch.append(self.wanted[i])
        return Assign(statement.target, Op("load", (Ref(self.wanted[i].name),)), self.splitter.exists(i))


def _is_load(statement: Statement) -> bool:
    return isinstance(statement.value, Op) and statement.value.op in ("load", "load_codes")


def _with_wanted(statements: Sequence[tuple[int, Statement]], wanted: Mapping[int, Store]) -> list[tuple[int, Statement]]:
    """A sweep's statements, and behind those whose values others want their stores."""
    kept: list[tuple[int, Statement]] = []
    for place, statement in statements:
        kept.append((place, statement))
        if place in wanted:
            kept.append((place, wanted[place]))
    return kept


def _seen(statement: Statement, over: Domain) -> Statement:
    """A statement as a sweep over vectors has it: what is spread over these is spread over its elements."""

    def seen(value: Expr) -> Expr:
        if not isinstance(value, Op):
            return value
        return Op("spread" if value.op == SPREAD[over] else value.op, tuple(map(seen, value.args)), value.span)

    return replace(statement, value=seen(statement.value))


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


def _load(store: Statement) -> Assign:
    """The statement that reads the value of a state."""
    assert isinstance(store, Store) and isinstance(store.value, Ref)
    return Assign(store.value.name, Op("load", (Ref(store.buffer),)))


def _last_assignment(store: int, body: Sequence[Statement]) -> int:
    """The place of the assignment that makes the value of the state that is stored at a place."""
    value = body[store].value
    assert isinstance(value, Ref)
    return max(i for i, s in enumerate(body) if isinstance(s, Assign) and s.target == value.name)


def _block(place: int, body: Sequence[Statement], program: Program) -> int:
    """The size of the blocks that a reduction of blocks is over, from where its argument was arranged in them."""
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
        when=next(iter(statement.guards), None),
    )
    new = replace(new, state=None)
    out.scratch.append(new)
    out.copies.append((new.name, target.name))
    return replace(statement, buffer=new.name)


def used_sweep(
    name: str,
    buffers: Sequence[Buffer],
    columns: Sequence[str],
    body: Sequence[Statement],
    reductions: Sequence[Reduction],
) -> Sweep:
    """A sweep with the buffers and host scalars that its body uses."""
    read = {name for statement in body for name in refs(statement.value)}
    written = {statement.buffer for statement in body if isinstance(statement, Store)}
    read |= {"correction"} if "param" in read else set()  # goes with the parameter
    written |= {"correction"} if "param" in written else set()
    used = [replace(b, read=b.name in read, written=b.name in written) for b in buffers if b.name in read | written]
    return Sweep(name, tuple(used), tuple(c for c in columns if c in read), tuple(body), tuple(reductions))
