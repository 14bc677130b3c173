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
from itertools import product

from optgen.ir.nodes import VECTORS, Assign, Domain, Program, Ref, Statement, Store
from optgen.plan.homes import is_reduction
from optgen.plan.nodes import VECTOR_LAYOUTS, Buffer, Layout, Sweep
from optgen.plan.splitter import Splitter, Sweeps
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
    wide = {buffer.name for buffer in buffers if buffer.layout in WIDE}
    if not any(is_reduction(s) or (isinstance(s, Store) and s.buffer in wide) for s in body):
        return Sweeps(taken, [Sweep(name, tuple(buffers), tuple(columns), tuple(body))])
    splitter = Splitter(name, buffers, columns, body, program, chunks)
    levels = splitter.levels
    last = max((levels[i] + 1 for i, statement in enumerate(body) if is_reduction(statement)), default=0)
    early = {
        i: range(levels[i], last + 1 + (splitter.homes[i] in VECTORS))
        for i in splitter.stores
        if _is_exact(body[i], body, buffers)
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


def _bytes(split: Sweeps) -> float:
    """Bytes per element, parameters and gradients being float32."""
    return sum(sweep_bytes(sweep, param=4, grad=4) for sweep in split.sweeps)


def _is_exact(store: Statement, body: Sequence[Statement], buffers: Sequence[Buffer]) -> bool:
    """Whether a later sweep may read what was stored instead of computing it again: a state that is not rounded."""
    assert isinstance(store, Store)
    buffer = next(b for b in buffers if b.name == store.buffer)
    whole = buffer.layout in (Layout.ELEMENT, *VECTOR_LAYOUTS.values())
    if not whole or buffer.dtype != "real" or not isinstance(store.value, Ref) or store.guards:
        return False
    assigned = [s for s in body if isinstance(s, Assign) and s.target == store.value.name]
    return not assigned[-1].guards
