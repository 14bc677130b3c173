"""A spec file -> Spec and a Program for each of its rules; all user errors end here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.nodes import Expr, Program
from optgen.spec.arguments import added_hypers, argument_names, check_argument
from optgen.spec.check_used import check_everything_used, check_hypers_used, read_names
from optgen.spec.compose import composed
from optgen.spec.define import Definition
from optgen.spec.lower import lower
from optgen.spec.model import Rule, Spec
from optgen.spec.points import fitted_points, with_points
from optgen.spec.read import read
from optgen.spec.rename import arguments_first, rename, rename_text, taken_hypers
from optgen.spec.resolve import MAXIMIZE
from optgen.spec.transforms_of_all import over_all_rules, with_transforms_of_all

__all__ = ["load_program", "load_programs"]


def load_program(path: str | Definition) -> tuple[Spec, Program]:
    """Read, lower and check a spec that has no rules.

    Raises:
        SpecError: with every independent fault.
        ValueError: for a spec with rules.
    """
    spec, (program,) = load_programs(path)
    return spec, program


def load_programs(path: str | Definition) -> tuple[Spec, tuple[Program, ...]]:
    """Read, lower and check the spec at `path`, or one that was defined in Python; a program for each of `spec.parts`.

    Raises:
        SpecError: with every independent fault.
    """
    found = Diagnostics()
    spec = read(path, found)
    programs: tuple[Program, ...] = ()
    if spec is not None and spec.rules:
        spec, programs = _with_rules(spec, found)
    elif spec is not None:
        _check_blocks(spec, found)
        program = lower(spec, found)
        if not len(found):
            program = with_points(spec, program, found)
        if not len(found):
            check_everything_used(spec, program, found)
            spec, program = _with_transforms(spec, program, found)
            program = fitted_points(program) if program.points else program
            check_hypers_used(spec, (program,), found)
        programs = (program,)
    found.raise_if_any()
    assert spec is not None
    return spec, programs


def _check_blocks(spec: Spec, found: Diagnostics) -> None:
    """The states of a block are dropped at the end of its turn, and what all parameters share would be among them."""
    shared = next((state for state in spec.states if state.shared), None)
    if spec.blocks is not None and shared is not None:
        message = f"state '{shared.name}' is one for all parameters, and the states of blocks end with their turns"
        found.add("bad-rule", message, spec.spans[shared.name], help="remove 'blocks', or let each parameter have its own")


def _with_transforms(spec: Spec, program: Program, found: Diagnostics) -> tuple[Spec, Program]:
    """A spec and its program with what stands in its `before` and `after`."""
    faults = len(found)
    before, after = ([_transform(rule, found) for rule in rules] for rules in (spec.before, spec.after))
    if len(found) > faults or not (before or after):
        return spec, program
    return composed(spec, program, before, after, found)


def _transform(rule: Rule, found: Diagnostics) -> Program:
    """The program of a transform, checked by itself."""
    faults, spec = len(found), rule.spec
    program = lower(spec, found)
    if len(found) == faults:
        check_everything_used(spec, program, found)
        check_hypers_used(spec, (program,), found)
    return over_all_rules(program) if rule.of_all else program


def _with_rules(spec: Spec, found: Diagnostics) -> tuple[Spec, tuple[Program, ...]]:
    """Lower every rule, and give the hyperparameters of used specs their names as arguments."""
    for rule in spec.rules:
        if rule.spec.points:
            assert rule.span is not None
            help_text = "let a rule use a spec without them, for example one that extends it and has 'eval:' and 'train:' empty"
            found.add("bad-rule", f"{quoted(rule.uses)} has 'eval' and 'train', a rule has not", rule.span, help=help_text)
    spec = with_transforms_of_all(spec, found)
    lowered = [lower(rule.spec, found) for rule in spec.rules]
    if len(found):
        return spec, ()
    for rule, program in zip(spec.rules, lowered, strict=True):
        check_everything_used(rule.spec, program, found)
    wholes = [_with_transforms(rule.spec, program, found) for rule, program in zip(spec.rules, lowered, strict=True)]
    programs = [program for _, program in wholes]
    changed = zip(spec.rules, wholes, strict=True)
    spec = replace(spec, rules=tuple(replace(rule, spec=whole) for rule, (whole, _) in changed))
    for rule, program in zip(spec.rules, programs, strict=True):
        if rule.uses:
            check_hypers_used(rule.spec, [program], found)
    names = [argument_names(rule, spec) for rule in spec.rules]
    for rule, program, new in zip(spec.rules, programs, names, strict=True):
        _check_names_free(rule, program, new, found)
    _check_arguments(spec, names, found)
    if len(found):
        return spec, ()
    own = [rename(program, new) for program, new in zip(programs, names, strict=True)]
    check_hypers_used(spec, own, found)
    added = [hyper for rule, new in zip(spec.rules, names, strict=True) for hyper in added_hypers(rule, new)]
    hypers = (*spec.hypers, *added)
    rules = tuple(_renamed(rule, new) for rule, new in zip(spec.rules, names, strict=True))
    known = _Flags()
    made = [known.unified(rule, taken_hypers(p, read_names(p))) for rule, p in zip(rules, own, strict=True)]
    ordered = tuple(arguments_first(program, (*hypers, MAXIMIZE)) for program in made)
    return replace(spec, hypers=hypers, rules=rules), ordered


def _check_names_free(rule: Rule, program: Program, new: dict[str, str], found: Diagnostics) -> None:
    """Report an argument's name that the used spec has for something else."""
    hypers = {name for h in rule.spec.hypers for name in (h.name, *h.names)}
    taken = (program.symbols.keys() | program.flags.keys()) - hypers
    for old, name in new.items():
        if name in taken:
            assert rule.span is not None
            message = f"'{old}' of {quoted(rule.uses)} cannot be called '{name}', which has another meaning there"
            found.add("name-clash", message, rule.span, help="give the rule another 'name'")


def _check_arguments(spec: Spec, names: Sequence[dict[str, str]], found: Diagnostics) -> None:
    """Report names of arguments that are taken, or no names."""
    taken = {name for hyper in spec.hypers for name in (hyper.name, *hyper.names)}
    for rule, new in zip(spec.rules, names, strict=True):
        apart = {name for hyper in rule.added for name in (hyper.name, *hyper.names)}
        for old, name in new.items():
            if old in apart:
                check_argument(rule, old, name, found, what="rule", is_taken=name in taken)
        taken |= {new[name] for name in apart}


def _renamed(rule: Rule, names: dict[str, str]) -> Rule:
    """A rule whose formulas, as the documentation shows them, speak of the arguments."""
    spec = rule.spec
    return replace(
        rule,
        spec=replace(
            spec,
            update_text=rename_text(spec.update_text, names),
            conditions={name: replace(t, text=rename_text(t.text, names)) for name, t in spec.conditions.items()},
            inits={name: replace(text, text=rename_text(text.text, names)) for name, text in spec.inits.items()},
        ),
    )


class _Flags:
    """The compile-time flags of all rules so far: one name is one condition."""

    def __init__(self) -> None:
        self.known: dict[str, Expr] = {}

    def unified(self, rule: Rule, program: Program) -> Program:
        new: dict[str, str] = {}
        for name, condition in program.flags.items():
            chosen = name
            while self.known.get(chosen, condition) != condition or (chosen != name and chosen in program.symbols):
                chosen = f"{chosen}_{rule.name}"
            new |= {name: chosen} if chosen != name else {}
            self.known[chosen] = condition
        return rename(program, new) if new else program
