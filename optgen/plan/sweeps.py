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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from optgen.ir.nodes import VECTORS, Domain, Guard, Program, Statement, Store
from optgen.plan.homes import is_reduction
from optgen.plan.levels import levels_of
from optgen.plan.nodes import Buffer, Layout, Sweep
from optgen.plan.splitter import Splitter, Sweeps, used_sweep
from optgen.plan.traffic import sweep_bytes

__all__ = ["split_sweeps"]

WIDE = (Layout.ROW, Layout.TENSOR)
MOST_CHOICES = 1024  # of sweeps that write states: so many are all tried


def split_sweeps(
    name: str,
    buffers: Sequence[Buffer],
    columns: Sequence[str],
    body: Sequence[Statement],
    program: Program,
    chunks: Mapping[Domain, int],
) -> Sweeps:
    """Split `body` at its wide reductions; without any it is one sweep.

    Of all choices of the sweeps that write states, the one with the fewest bytes is taken, of equal ones that which writes
    last; of very many, a good one. `program` has the symbols of the body, `chunks` say how many
    elements, or numbers of rows, columns or matrices, are a part of a reduction of the rule.
    """
    taken = {*program.symbols, *program.flags, *(buffer.name for buffer in buffers)}
    if not _reduces(body, buffers):
        return Sweeps(taken, [Sweep(name, tuple(buffers), tuple(columns), tuple(body))])
    splitter = Splitter(name, buffers, columns, body, program, chunks)
    whole = _split(splitter, taken)
    if any(reduction.joint for sweep in whole.sweeps for reduction in sweep.reductions):
        return whole
    found = (_by_flag(flag, splitter, taken) for flag in program.flags)
    better = [(saved, halves) for halves in found if halves is not None and (saved := _saved(whole, halves)) > 0]
    return max(better, key=lambda pair: pair[0])[1] if better else whole


def _reduces(body: Sequence[Statement], buffers: Sequence[Buffer]) -> bool:
    """Whether a body is more than one sweep."""
    wide = {buffer.name for buffer in buffers if buffer.layout in WIDE}
    return any(is_reduction(s) or (isinstance(s, Store) and s.buffer in wide) for s in body)


def _by_flag(flag: str, whole: Splitter, taken: set[str]) -> Sweeps | None:
    """Sweeps for both sides of a compile-time flag, each under it; None where a side waits for as much as both together."""
    sides = {holds: _side(whole.body, Guard(flag, holds)) for holds in (True, False)}
    if all(len(side) == len(whole.body) for side in sides.values()):
        return None
    levels = {id(s): level for s, level in zip(whole.body, whole.levels, strict=True)}
    alone = {holds: levels_of([s for _, s in side], whole.program) for holds, side in sides.items()}
    if all(sum(levels[id(old)] for old, _ in side) == sum(alone[holds]) for holds, side in sides.items()):
        return None
    both = Sweeps(set(taken))
    for holds, side in sides.items():
        own, statements = Guard(flag, holds), [statement for _, statement in side]
        name = both.free(f"{whole.name}_{'' if holds else 'not_'}{flag}")
        if _reduces(statements, whole.buffers):
            found = _split(replace(whole, name=name, body=statements), both.taken)
        else:
            found = Sweeps(both.taken, [used_sweep(name, whole.buffers, whole.columns, statements, ())])
        if found.copies:
            return None  # of what a sweep has not written
        both.taken = found.taken
        both.sweeps += [replace(sweep, when=own) for sweep in found.sweeps]
        both.scratch += [replace(buffer, when=buffer.when or own) for buffer in found.scratch]
    return both


def _side(body: Sequence[Statement], own: Guard) -> list[tuple[Statement, Statement]]:
    """The statements on one side of a flag, as they are and without its guard."""
    return [
        (statement, replace(statement, guards=tuple(guard for guard in statement.guards if guard != own)))
        for statement in body
        if Guard(own.flag, not own.holds) not in statement.guards
    ]


def _saved(whole: Sweeps, halves: Sweeps) -> float:
    """The bytes per element that sweeps of their own save on both sides of a flag."""
    flags = {sweep.when.flag: sweep.when.holds for sweep in halves.sweeps if sweep.when is not None}
    sides = [{flag: holds} for flag in flags for holds in (True, False)]
    return sum(_bytes(whole, side) - _bytes(halves, side) for side in sides)


def _split(splitter: Splitter, taken: set[str]) -> Sweeps:
    """The sweeps of a body that reduces, with names that are not taken."""
    levels = splitter.levels
    last = max((levels[i] + 1 for i, statement in enumerate(splitter.body) if is_reduction(statement)), default=0)
    early = {
        i: range(levels[i], last + 1 + (splitter.homes[i] in VECTORS)) for i in splitter.stores if splitter.may_be_early(i)
    }

    def split(choice: Sequence[int]) -> tuple[tuple[float, int, int], Sweeps] | None:
        found = splitter.split(last, dict(zip(early, choice, strict=True)), Sweeps(set(taken)))
        return None if found is None else ((_bytes(found), len(found.sweeps), len(found.scratch)), found)

    choices = [tuple(reversed(sweeps)) for sweeps in early.values()]
    if math.prod(map(len, choices)) <= MOST_CHOICES:
        return min(filter(None, map(split, product(*choices))), key=lambda found: found[0])[1]
    return _improved(choices, split)


def _improved(
    choices: Sequence[Sequence[int]], split: Callable[[Sequence[int]], tuple[tuple[float, int, int], Sweeps] | None]
) -> Sweeps:
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


def _bytes(split: Sweeps, flags: Mapping[str, bool] | None = None) -> float:
    """Bytes per element, parameters and gradients being float32; flags that are not given are off."""
    return sum(sweep_bytes(sweep, param=4, grad=4, flags=flags) for sweep in split.sweeps)
