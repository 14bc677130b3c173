"""`before` and `after`: the program of a rule and those of transforms -> one program.

    before: [clip]     ->   clip_u = g; clip_u = clip_u/max(1, rms(clip_u)/clip_limit); g = clip_u
    (the rule)         ->   p_next = p; the rule, with p_next in place of p
    after: [ratio]     ->   ratio_u = p_next - p; ...; p = p + ratio_u

A transform is a whole optimizer too, that of p = p - u: so it is read, checked and verified like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.formula import FormulaText
from optgen.ir.infer import knows_rows
from optgen.ir.nodes import Assign, Domain, Expr, Hyper, Kind, Op, Program, Ref, Role, State, Statement, Symbol
from optgen.spec.arguments import added_hypers, argument_names, check_argument
from optgen.spec.lower import in_grid
from optgen.spec.model import Rule, Spec
from optgen.spec.read_states import with_rows
from optgen.spec.read_transforms import TRANSFORMED
from optgen.spec.rename import arguments_first, rename, rename_text
from optgen.spec.resolve import MAXIMIZE

__all__ = ["composed"]


def composed(
    spec: Spec, program: Program, before: Sequence[Program], after: Sequence[Program], found: Diagnostics
) -> tuple[Spec, Program]:
    """The spec and its program with the programs of its transforms in front and behind."""
    made = _Composition(spec, program, found)
    for rule, transform in zip(spec.before, before, strict=True):
        made.put_before(rule, transform)
    if after:
        made.put_rule_aside()
    else:
        made.body += made.rest
    for rule, transform in zip(spec.after, after, strict=True):
        made.put_after(rule, transform)
    return made.result()


@dataclass
class _Composition:
    spec: Spec
    program: Program
    found: Diagnostics
    symbols: dict[str, Symbol] = field(init=False)
    body: list[Statement] = field(init=False)
    rest: list[Statement] = field(init=False)
    states: list[State] = field(init=False)
    hypers: list[Hyper] = field(init=False)
    texts: list[str] = field(default_factory=list)
    change: Expr | None = None
    said: str = ""  # the change as text

    def __post_init__(self) -> None:
        self.symbols = dict(self.program.symbols)
        self.flags = dict(self.program.flags)
        self.body, self.rest = list(self.program.body[:1]), list(self.program.body[1:])  # the first one is of `maximize`
        self.states, self.hypers = list(self.program.states), list(self.spec.hypers)
        self.conditions, self.inits = dict(self.spec.conditions), dict(self.spec.inits)
        self.spans = dict(self.spec.spans)

    def free(self, name: str) -> str:
        """This name, or a longer one where something has it already."""
        while name in self.symbols or name in self.flags:
            name += "_"
        return name

    def put_before(self, rule: Rule, transform: Program) -> None:
        """Let a transform change the gradient."""
        name = self.take(rule, transform, Ref("g"))
        self.body.append(Assign("g", Ref(name)))
        self.texts[-1] = f"{name} = g\n{self.texts[-1]}\ng = {name}"

    def put_rule_aside(self) -> None:
        """Let the rule make the next value of p, whose difference to p is what transforms change."""
        following = self.free("p_next")
        aside = rename(replace(self.program, body=tuple(self.rest)), {"p": following})
        self.symbols[following] = Symbol(following, Role.LOCAL, Kind.REAL, Domain.ELEMENT)
        self.body += [Assign(following, Ref("p")), *aside.body]
        own = {state.name: state for state in aside.states}
        self.states = [own.get(state.name, state) for state in self.states]
        self.change, self.said = Op("sub", (Ref(following), Ref("p"))), f"{following} - p"
        self.texts.append(f"{following} = p\n{rename_text(self.spec.update_text, {'p': following})}")

    def put_after(self, rule: Rule, transform: Program) -> None:
        """Let a transform change the change of p."""
        assert self.change is not None
        name = self.take(rule, transform, self.change)
        self.texts[-1] = f"{name} = {self.said}\n{self.texts[-1]}"
        self.change, self.said = Ref(name), name

    def take(self, rule: Rule, transform: Program, value: Expr) -> str:
        """Add a transform's names and statements; returns the name of what it has changed `value` to."""
        names = self.names(rule, transform)
        renamed = rename(transform, names)
        for symbol in renamed.symbols.values():
            self.symbols.setdefault(symbol.name, symbol)
        self.flags |= renamed.flags
        self.states += [self.state(rule, state, names) for state in renamed.states]
        self.hypers += added_hypers(rule, names)
        self.spans |= {names[part]: rule.spec.spans[part] for hyper in rule.added for part in (hyper.name, *hyper.names)}
        self.conditions |= {names[name]: _renamed(text, names) for name, text in rule.spec.conditions.items()}
        self.inits |= {names[name]: _renamed(text, names) for name, text in rule.spec.inits.items()}
        self.spans |= {names[state.name]: rule.spec.spans[state.name] for state in rule.spec.states}
        self.texts.append(rename_text(rule.spec.update_text, names))
        whole = rule.spec.spans["update"]  # the place of what made an optimizer of it: its first and its last statement
        body = [(i, s) for i, s in enumerate(renamed.body) if isinstance(s, Assign)]
        start, begin = next((i, statement) for i, statement in body if statement.span == whole)
        self.body += [*renamed.body[1:start], replace(begin, value=value), *renamed.body[start + 1 : -1]]
        return names[TRANSFORMED]

    def state(self, rule: Rule, state: State, names: Mapping[str, str]) -> State:
        """A transform's state by its names here."""
        save_as = f"{rule.name}_{state.save_as}"
        if any(other.save_as == save_as for other in self.states):
            assert rule.span is not None
            message = f"two states would be saved as '{save_as}', one of them of {quoted(rule.uses)}"
            self.found.add("name-clash", message, rule.span, help="give the transform another 'name'")
        return replace(state, name=names[state.name], save_as=save_as)

    def names(self, rule: Rule, transform: Program) -> dict[str, str]:
        """What a transform's names are here: hyperparameters that are shared have the spec's, all others the transform's in front."""
        names = argument_names(rule, self.spec)
        for part in (part for hyper in rule.added for part in (hyper.name, *hyper.names)):
            new = names[part]
            is_taken = new in self.symbols or new in self.flags or any(new == hyper.name for hyper in self.hypers)
            check_argument(rule, part, new, self.found, what="transform", is_taken=is_taken)
        for name, symbol in transform.symbols.items():
            if symbol.role in (Role.LOCAL, Role.STATE):
                names[name] = self.free(f"{rule.name}_{name}")
        for state in transform.states:  # numbers that bits(m) and half_gap(m) stand for are called after their state
            names |= {
                f"{word}_{state.name}": f"{word}_{names[state.name]}"
                for word in ("bits", "half_gap")
                if f"{word}_{state.name}" in transform.symbols
            }
        flags = rename(transform, names).flags
        for name, condition in transform.flags.items():
            if name == MAXIMIZE.name:
                continue
            if self.flags.get(name, condition) != flags.get(name, condition) or name in self.symbols:
                names[name] = self.free(f"{rule.name}_{name}")
        return names

    def result(self) -> tuple[Spec, Program]:
        """The spec with all arguments, and its program."""
        if self.change is not None:
            self.body.append(Assign("p", Op("add", (Ref("p"), self.change))))
            self.texts.append(f"p = p + {self.said}")
        else:
            self.texts.append(self.spec.update_text)
        states = list(with_rows(self.states))
        hypers = (*self.hypers, MAXIMIZE)
        program = replace(
            self.program,
            symbols=self.symbols,
            flags=self.flags,
            hypers=hypers,
            states=tuple(states),
            body=tuple(self.body),
        )
        if knows_rows(program):
            states = [in_grid(state, self.spans, self.found) for state in states]
            program = replace(program, states=tuple(states))
        added = tuple(state for state in states if state.name in self.spans)
        spec = replace(
            self.spec,
            hypers=tuple(self.hypers),
            states=added,
            conditions=self.conditions,
            inits=self.inits,
            spans=self.spans,
            update_text="\n".join(self.texts),
        )
        return spec, arguments_first(program, hypers)


def _renamed(text: FormulaText, names: Mapping[str, str]) -> FormulaText:
    return replace(text, text=rename_text(text.text, names))
