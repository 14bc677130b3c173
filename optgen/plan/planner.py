"""The planner: for each rule, which variants of storage a parameter can have, and one kernel for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optgen.ir.infer import knows_rows, refs
from optgen.ir.nodes import VECTORS, Domain, Hyper, Kind, Program, Role, State, Storage, Store, Symbol
from optgen.plan.levels import sliced
from optgen.plan.lower_storage import lower_storage
from optgen.plan.nodes import CHUNK, COLUMNS, Kernel, Plan, RulePlan, Variant
from optgen.plan.rename import rename_functions
from optgen.plan.splitter import used_sweep
from optgen.plan.sweeps import split_sweeps
from optgen.storage.codebooks import half_gap

__all__ = ["make_plan"]


def make_plan(name: str, hypers: tuple[Hyper, ...], rules: Sequence[tuple[str, Program]]) -> Plan:
    """Plan an optimizer with these arguments and rules, by name, which have gone through all passes."""
    return Plan(name, hypers, tuple(_rule(rule, program) for rule, program in rules))


def _rule(name: str, program: Program) -> RulePlan:
    kernels = tuple(_kernel(program, variant, name) for variant in _variants(program))
    read = {name for kernel in kernels for name in kernel.columns}
    columns = tuple(name for name in program.symbols if name in read)
    inputs = [name for statement in program.host for name in refs(statement.value)] + list(columns)
    roles = (Role.HYPER, Role.FACT, Role.STATE)
    host_inputs = tuple(
        name for name, s in program.symbols.items() if name in inputs and s.role in roles and s.domain == Domain.HOST
    )
    points = tuple((point, _point(point, name, own)) for point, own in program.points)
    return RulePlan(
        name=name,
        program=program,
        kernels=kernels,
        host_inputs=host_inputs,
        host=program.host,
        columns=columns,
        outputs=program.outputs,
        points=points,
    )


def _point(point: str, rule: str, program: Program) -> RulePlan:
    """A move of p: bodies that store nothing else."""
    plan = _rule(rule, replace(program, points=()))
    kernels = []
    for kernel in plan.kernels:
        ends = [i for i, s in enumerate(kernel.body) if isinstance(s, Store) and s.buffer == "param"]
        body = tuple(kernel.body[i] for i in sliced(kernel.body, ends))
        name = f"to_{point}{kernel.name.removeprefix('update')}"
        used = used_sweep(name, kernel.buffers, kernel.columns, body, ()).buffers
        buffers = [next((b for b in used if b.name == old.name), replace(old, written=False)) for old in kernel.buffers]
        kernels.append(replace(kernel, name=name, buffers=tuple(buffers), body=body, sweeps=()))
    return replace(plan, kernels=tuple(kernels))


def _variants(program: Program) -> list[Variant]:
    """The sets of states that can be stored as codes together, from none to all.

    States of one shape with equal conditions on it (rank, size, block) are stored together. What meets a condition
    meets every weaker one, but two conditions need not be comparable, so every union of them is a variant.
    """
    groups: dict[tuple[Domain, tuple[int, ...]], list[str]] = {}
    for state in program.states:
        if state.storage is not None:
            groups.setdefault((state.domain, _condition(state.storage)), []).append(state.name)
    subsets: list[list[tuple[Domain, tuple[int, ...]]]] = [[]]
    for condition in groups:
        subsets += [[*subset, condition] for subset in subsets]
    order = [state.name for state in program.states]
    names = [[name for name in order if any(name in groups[c] for c in subset)] for subset in subsets]
    return [Variant(tuple(stored), _facts(program, stored)) for stored in names if _closed(stored, program)]


def _condition(storage: Storage) -> tuple[int, ...]:
    return storage.min_ndim, storage.min_size, storage.block


def _closed(stored: list[str], program: Program) -> bool:
    """Whether some parameter has just this set: no state left out has a condition that those of its shape imply."""
    held: dict[Domain, tuple[int, ...]] = {}  # the strongest condition that the parameter meets
    for state in program.states:
        if state.storage is not None and state.name in stored:
            condition = _condition(state.storage)
            held[state.domain] = tuple(map(max, held.get(state.domain, condition), condition))
    return all(
        state.domain not in held
        or any(need > have for need, have in zip(_condition(state.storage), held[state.domain], strict=True))
        for state in program.states
        if state.storage is not None and state.name not in stored
    )


def _facts(program: Program, stored: list[str]) -> dict[str, float]:
    """The values of `bits(m)` and `half_gap(m)` for one variant."""
    facts = {}
    for name, symbol in program.symbols.items():
        if symbol.role == Role.FACT:
            word, state = next((w, s) for w in ("half_gap", "bits") for s in program.states if name == f"{w}_{s.name}")
            facts[name] = _fact(word, state, state.name in stored)
    return facts


def _fact(word: str, state: State, coded: bool) -> float:
    if not coded or state.storage is None:
        return (16.0 if state.floats is not None else 32.0) if word == "bits" else 0.0
    return float(state.storage.bits) if word == "bits" else float(half_gap(state.storage, state.unsigned) or 0.0)


def _kernel(program: Program, variant: Variant, rule: str) -> Kernel:
    lowered = lower_storage(program, variant.stored)
    if rule:
        lowered = rename_functions(lowered, rule)
    read = {name for statement in lowered.body for name in refs(statement.value)}
    host = {name for name, symbol in program.symbols.items() if symbol.domain == Domain.HOST}
    name = _kernel_name(program, variant, rule)
    columns = tuple(name for name in program.symbols if name in read & host)
    known = replace(program, symbols={**program.symbols, **lowered.symbols}, body=tuple(lowered.body))
    grid = knows_rows(known)
    chunks = {over: variant.wide(program, over) or (COLUMNS if grid else CHUNK) for over in (Domain.ELEMENT, *VECTORS)}
    split = split_sweeps(name, lowered.buffers, columns, lowered.body, known, chunks)
    symbols = {**lowered.symbols, **{b.name: _buffer_symbol(b.name) for b in (*lowered.buffers, *split.scratch)}}
    return Kernel(
        name=name,
        variant=variant,
        buffers=tuple(lowered.buffers),
        functions=tuple(lowered.functions),
        columns=columns,
        body=tuple(lowered.body),
        program=replace(program, symbols=symbols, functions=tuple(lowered.functions)),
        sweeps=tuple(split.sweeps),
        scratch=tuple(split.scratch),
        copies=tuple(split.copies),
        grid=grid,
    )


def _kernel_name(program: Program, variant: Variant, rule: str) -> str:
    name = f"update_{rule}" if rule else "update"
    if not variant.stored:
        return name
    every = [state.name for state in program.states if state.storage is not None]
    return f"{name}_coded" if list(variant.stored) == every else f"{name}_coded_{'_'.join(variant.stored)}"


def _buffer_symbol(name: str) -> Symbol:
    return Symbol(name, Role.LOCAL, Kind.REAL, Domain.ELEMENT)
