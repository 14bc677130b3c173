"""`before` and `after` of a spec with rules: transforms that every rule has, with one set of arguments.

What such a transform reduces over a group or the optimizer it reduces over the parameters of all rules.
"""

from __future__ import annotations

from dataclasses import replace

from optgen.diagnostics import Diagnostics, Span
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.nodes import Assign, Expr, Hyper, Op, Program
from optgen.ir.ops import OF_ALL_RULES, REDUCED, SCOPES
from optgen.spec.arguments import check_argument
from optgen.spec.model import Rule, Spec
from optgen.spec.rename import rename_hyper

__all__ = ["over_all_rules", "with_transforms_of_all"]


def with_transforms_of_all(spec: Spec, found: Diagnostics) -> Spec:
    """The spec whose rules have its transforms, around their own, and whose hyperparameters are those of transforms too."""
    if not spec.before and not spec.after:
        return spec
    hypers, spans = list(spec.hypers), dict(spec.spans)
    taken = {name for hyper in hypers for name in (hyper.name, *hyper.names)}
    shared: dict[str, Rule] = {}
    for transform in (*spec.before, *spec.after):
        names = dict(transform.shared)
        for hyper in transform.added:
            new = {part: f"{transform.name}_{part}" for part in (hyper.name, *hyper.names)}
            for old, name in new.items():
                check_argument(transform, old, name, found, what="transform", is_taken=name in taken)
                spans[name] = transform.spec.spans[old]
            taken |= {*new.values()}
            names[hyper.name] = new[hyper.name]
            hypers.append(replace(rename_hyper(hyper, new), doc=f"{transform.name}: {hyper.doc or hyper.name}"))
        shared[transform.name] = replace(transform, shared=names, of_all=True)
    before = tuple(shared[each.name] for each in spec.before)
    after = tuple(shared[each.name] for each in spec.after)
    wanted = {name for transform in shared.values() for name in transform.shared.values()}
    known = {hyper.name: hyper for hyper in hypers}
    rules = [_rule(rule, tuple(hypers), {name: known[name] for name in sorted(wanted)}, spans, found) for rule in spec.rules]
    whole = (replace(r, spec=replace(r.spec, before=(*before, *r.spec.before), after=(*r.spec.after, *after))) for r in rules)
    return replace(spec, hypers=tuple(hypers), spans=spans, rules=tuple(whole), before=(), after=())


def _rule(rule: Rule, hypers: tuple[Hyper, ...], wanted: dict[str, Hyper], spans: dict[str, Span], found: Diagnostics) -> Rule:
    """A rule that knows the hyperparameters of all, or of a spec that it uses one that knows those which transforms take."""
    if not rule.uses:
        return replace(rule, spec=replace(rule.spec, hypers=hypers, spans={**spans, **rule.spec.spans}))
    new = {}
    for name, hyper in wanted.items():
        if any(name in (own.name, *own.names) for own in rule.spec.hypers):
            if rule.shared.get(name) != name:
                assert rule.span is not None
                message = (
                    f"{quoted(rule.uses)} has a hyperparameter '{name}' of its own, and a transform takes that of this spec"
                )
                help_text = f"share it, 'hyper: {{{name}: {name}}}', or give the transform another one"
                found.add("name-clash", message, rule.span, help=help_text)
            continue
        new[name] = hyper
    added = {part: spans[part] for hyper in new.values() for part in (hyper.name, *hyper.names)}
    spec = replace(rule.spec, hypers=(*rule.spec.hypers, *new.values()), spans={**added, **rule.spec.spans})
    return replace(rule, spec=spec, shared={**rule.shared, **{name: name for name in new}})


def over_all_rules(program: Program) -> Program:
    """The program of such a transform: its reductions of several parameters are of those of all rules."""

    def widened(value: Expr) -> Expr:
        if not isinstance(value, Op):
            return value
        over, how = REDUCED.get(value.op, ("", ""))
        op = f"{OF_ALL_RULES}{over}_{how}" if over in SCOPES else value.op
        return Op(op, tuple(map(widened, value.args)), value.span)

    body = tuple(replace(s, value=widened(s.value)) if isinstance(s, Assign) else s for s in program.body)
    return replace(program, body=body)
