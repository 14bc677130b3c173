"""A program with other names for some of its symbols and flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from optgen.ir.infer import substitute
from optgen.ir.nodes import Assign, Expr, Guard, Hyper, Program, Ref, State, Statement, Symbol

__all__ = ["arguments_first", "rename", "rename_hyper", "rename_text", "taken_hypers"]


def rename(program: Program, names: Mapping[str, str]) -> Program:
    """The program with `names` in place of others, wherever they stand; states keep theirs."""
    refs: dict[str, Expr] = {old: Ref(new) for old, new in names.items()}

    def guard(old: Guard) -> Guard:
        return Guard(names.get(old.flag, old.flag), old.holds)

    def statement(old: Statement) -> Statement:
        changed = replace(old, value=substitute(old.value, refs), guards=tuple(map(guard, old.guards)))
        return replace(changed, target=names.get(changed.target, changed.target)) if isinstance(changed, Assign) else changed

    def state(old: State) -> State:
        same = tuple(names.get(name, name) for name in old.same)
        return replace(old, init=substitute(old.init, refs), when=guard(old.when) if old.when is not None else None, same=same)

    symbols = {names.get(name, name): replace(symbol, name=names.get(name, name)) for name, symbol in program.symbols.items()}
    return replace(
        program,
        symbols=symbols,
        flags={names.get(name, name): substitute(condition, refs) for name, condition in program.flags.items()},
        hypers=tuple(rename_hyper(hyper, names) for hyper in program.hypers),
        states=tuple(map(state, program.states)),
        inputs=tuple(replace(each, flag=guard(each.flag)) for each in program.inputs),
        body=tuple(map(statement, program.body)),
        points=tuple((name, rename(point, names)) for name, point in program.points),
    )


def rename_hyper(hyper: Hyper, names: Mapping[str, str]) -> Hyper:
    """A hyperparameter and its parts by their new names."""
    return replace(hyper, name=names.get(hyper.name, hyper.name), names=tuple(names.get(part, part) for part in hyper.names))


def rename_text(text: str, names: Mapping[str, str]) -> str:
    """Formulas as they were written, with other names; words in quotes stay."""
    if not names:
        return text
    pattern = re.compile(rf"\"[^\"\n]*\"|'[^'\n]*'|\b(?:{'|'.join(map(re.escape, names))})\b")
    return pattern.sub(lambda match: names.get(match.group(), match.group()), text)


def taken_hypers(program: Program, read: set[str]) -> Program:
    """The program without the hyperparameters, and their symbols, of which nothing is in `read`."""
    kept = tuple(h for h in program.hypers if h.name == "maximize" or read & {h.name, *h.names})
    gone = {name for h in program.hypers if h not in kept for name in (h.name, *h.names)}
    return replace(program, hypers=kept, symbols={name: symbol for name, symbol in program.symbols.items() if name not in gone})


def arguments_first(program: Program, hypers: tuple[Hyper, ...]) -> Program:
    """The program with its hyperparameters as they are declared in `hypers`, and its symbols in their order."""
    names = {hyper.name for hyper in program.hypers}
    kept = tuple(hyper for hyper in hypers if hyper.name in names)
    order = [name for hyper in kept for name in hyper.names or (hyper.name,)]
    inputs = list(program.symbols)[:3]
    first = [*inputs, *(name for name in order if name in program.symbols)]
    symbols: dict[str, Symbol] = {name: program.symbols[name] for name in first}
    return replace(program, hypers=kept, symbols={**symbols, **program.symbols})
