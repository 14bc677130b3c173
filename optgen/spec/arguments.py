"""What the hyperparameters of a used spec are called as arguments of the spec that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.names import is_reserved, is_symbol_name
from optgen.ir.nodes import Hyper
from optgen.spec.model import Rule, Spec
from optgen.spec.rename import rename_hyper

__all__ = ["added_hypers", "argument_names", "check_argument"]


def argument_names(rule: Rule, spec: Spec) -> dict[str, str]:
    """What the hyperparameters of a used spec, and their parts, are called as arguments of the whole spec."""
    names: dict[str, str] = {}
    own = {hyper.name: hyper for hyper in spec.hypers}
    for hyper in rule.spec.hypers if rule.uses else ():
        if hyper.name not in rule.shared:
            names |= {name: f"{rule.name}_{name}" for name in (hyper.name, *hyper.names)}
        else:
            taken = own[rule.shared[hyper.name]]
            names |= dict(zip((hyper.name, *hyper.names), (taken.name, *taken.names), strict=True))
    return {old: new for old, new in names.items() if old != new}


def added_hypers(rule: Rule, names: Mapping[str, str]) -> list[Hyper]:
    """The arguments that a used spec adds, by their names there."""
    return [replace(rename_hyper(hyper, names), doc=f"{rule.name}: {hyper.doc or hyper.name}") for hyper in rule.added]


def check_argument(rule: Rule, old: str, new: str, found: Diagnostics, *, what: str, is_taken: bool) -> None:
    """Report an argument whose name something else has, or that cannot be a name; `what` is a "rule" or a "transform"."""
    assert rule.span is not None
    if is_taken:
        message = f"the argument '{new}', for '{old}' of {quoted(rule.uses)}, is declared already"
        help_text = f"give the {what} another 'name', or share it: 'hyper: {{{old}: {new}}}'"
        found.add("name-clash", message, rule.span, help=help_text)
    elif not is_symbol_name(new) or is_reserved(new):
        message = f"'{old}' of {quoted(rule.uses)} would be the argument {quoted(new)}, which cannot be a name"
        share = f"share one of this spec: 'hyper: {{{old}: ...}}'"
        found.add("bad-name", message, rule.span, help=f"{share}, or give the {what} a shorter 'name'")
