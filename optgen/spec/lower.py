"""Spec -> Program: nested `if`s become guards on a flat list of assignments, and every name gets a kind."""

from __future__ import annotations

from dataclasses import replace

from optgen.diagnostics import Diagnostics, Label, Span
from optgen.diagnostics.diagnostic import suggest
from optgen.ir.formula import Assignment, Branch, FormulaText, parse_expression
from optgen.ir.infer import KindError, infer, refs, walk
from optgen.ir.names import INPUTS, is_reserved, is_symbol_name, name_for
from optgen.ir.nodes import Assign, Const, Domain, Expr, Guard, Hyper, Kind, Op, Program, Ref, Role, State, Symbol
from optgen.spec.check import check_program
from optgen.spec.model import Spec
from optgen.spec.read import read_spec
from optgen.storage.codebooks import half_gap

__all__ = ["load_program", "lower"]

FACTS = {"bits_of": "bits", "half_gap_of": "half_gap"}
MAXIMIZE = Hyper("maximize", False, "False", doc="ascend instead of descend: the gradient changes sign first")


def load_program(path: str) -> tuple[Spec, Program]:
    """Read, lower and check the spec at `path`.

    Raises:
        SpecError: with every independent fault.
    """
    spec = read_spec(path)
    return spec, lower(spec)


def lower(spec: Spec) -> Program:
    """Turn a spec into a program, or raise a `SpecError` with everything that is wrong with its update rule."""
    found = Diagnostics()
    lowering = _Lowering(spec, found)
    program = lowering.program()
    check_program(spec, program, found)
    found.raise_if_any()
    return program


class _Lowering:
    """Walks the update rule once, in order, and knows the names seen so far."""

    def __init__(self, spec: Spec, found: Diagnostics) -> None:
        self.spec = spec
        self.found = found
        self.flags: dict[str, Expr] = {}
        self.body: list[Assign] = []
        self.symbols = {symbol.name: symbol for symbol in _declared(spec)}
        self.poisoned: set[str] = set()

    def program(self) -> Program:
        states = tuple(self.with_formulas(state) for state in self.spec.states)
        self.flags.setdefault("maximize", Ref("maximize"))
        self.body.append(Assign("g", Op("neg", (Ref("g"),)), (Guard("maximize"),)))
        self.initial_values(states)
        self.block(self.spec.update, ())
        hypers = (*self.spec.hypers, MAXIMIZE)
        return Program(self.spec.name, self.symbols, self.flags, hypers, states, tuple(self.body))

    def initial_values(self, states: tuple[State, ...]) -> None:
        """States are created as zeros; one with another `init` takes it at the start of its first step."""
        for state in states:
            if state.init != Const(0):
                first = self.run_time_condition(Op("eq", (Ref("t"), Const(1))), ())
                guards = (first,) if state.when is None else (state.when, first)
                self.body.append(Assign(state.name, state.init, guards))

    def with_formulas(self, state: State) -> State:
        """Resolve a state's `when` and `init`, which may speak of hyperparameters only (and of p and g in `init`)."""
        when, init = self.spec.conditions.get(state.name), self.spec.inits.get(state.name)
        guard = self.when(state, when) if when is not None else None
        start = self.init(state, init) if init is not None else None
        return replace(state, when=guard, init=start if start is not None else state.init)

    def when(self, state: State, text: FormulaText) -> Guard | None:
        condition = self.resolved(parse_expression(text, self.found), Kind.BOOL)
        if condition is None:
            return None
        if not self.is_static(condition):
            span = Span(text.source, text.starts[0], text.starts[0] + len(text.text))
            help_text = "use flags, choices and numbers, but neither t nor lr, which change while training"
            self.found.add(
                "not-static", f"'when' of state '{state.name}' must not change from step to step", span, help=help_text
            )
            return None
        return self.flag(condition)

    def init(self, state: State, text: FormulaText) -> Expr | None:
        value = self.resolved(parse_expression(text, self.found), Kind.REAL)
        if value is None:
            return None
        for node in walk(value):
            name = node.name if isinstance(node, Ref) else None
            symbol = self.symbols[name] if name else None
            per_element = symbol is not None and symbol.role in (Role.PARAM, Role.GRAD)
            if symbol is not None and (symbol.role in (Role.STATE, Role.STEP) or (per_element and state.scalar)):
                allowed = "hyperparameters" if state.scalar else "hyperparameters, p and g"
                message = f"'{name}' is not known when state '{state.name}' is created"
                assert node.span is not None
                self.found.add("bad-init", message, node.span, help=f"'init' may use numbers, {allowed}")
                return None
        return value

    def block(self, statements: tuple[Assignment | Branch, ...], guards: tuple[Guard, ...]) -> None:
        for statement in statements:
            if isinstance(statement, Assignment):
                self.assignment(statement, guards)
            else:
                self.branch(statement, guards)

    def assignment(self, statement: Assignment, guards: tuple[Guard, ...]) -> None:
        if not self.may_assign(statement):
            return
        value = self.resolved(statement.value)
        if value is None:
            self.poison(statement.target)
            return
        kind, domain = infer(value, self.symbols)
        kind = Kind.REAL if kind == Kind.INT else kind
        if not self.fits(statement, kind, domain):
            return
        known = self.symbols.get(statement.target)
        if known is None or (known.role == Role.LOCAL and domain > known.domain):
            self.symbols[statement.target] = Symbol(statement.target, Role.LOCAL, kind, domain)
        self.body.append(Assign(statement.target, self.facts(value), guards, statement.span))

    def facts(self, value: Expr) -> Expr:
        """`half_gap(m)` -> `half_gap_m`: a host scalar whose value the storage of the parameter decides."""
        if not isinstance(value, Op):
            return value
        if value.op in FACTS and isinstance(value.args[0], Ref):
            name = f"{FACTS[value.op]}_{value.args[0].name}"
            self.symbols[name] = Symbol(name, Role.FACT, Kind.REAL, Domain.HOST)
            return Ref(name, value.span)
        return Op(value.op, tuple(self.facts(arg) for arg in value.args), value.span)

    def may_assign(self, statement: Assignment) -> bool:
        """Report a target that is not a parameter, a state or a new name."""
        name, span = statement.target, statement.target_span
        known = self.symbols.get(name)
        if known is not None and known.role in (Role.GRAD, Role.STEP, Role.HYPER):
            help_text = f"assign to a new name, for example '{name}_new = ...'"
            self.found.add(
                "assign-to-input", f"'{name}' is the {known.role.value} and cannot be assigned", span, help=help_text
            )
            return False
        if known is None and is_reserved(name):
            self.found.add("reserved-name", f"'{name}' already has a meaning", span, help=f"write '{name}_value'")
            return False
        if known is None and not is_symbol_name(name):
            help_text = (
                "names have lower-case letters, digits and underscores, start with a letter and have at most 40 characters"
            )
            self.found.add("bad-name", f"'{name[:60]}' cannot be a name here", span, help=help_text)
            return False
        return True

    def fits(self, statement: Assignment, kind: Kind, domain: Domain) -> bool:
        """Report a value that its target cannot hold."""
        known = self.symbols.get(statement.target)
        if kind == Kind.TEXT:
            self.found.add("kind-mismatch", "a choice cannot be assigned", statement.span, help="compare it in an 'if'")
            return False
        if known is None or statement.target in self.poisoned:
            return True
        if known.kind != kind:
            words = {Kind.REAL: "a number", Kind.BOOL: "a condition"}
            message = f"'{statement.target}' is {words[known.kind]} and cannot become {words[kind]}"
            self.found.add("kind-mismatch", message, statement.span)
            return False
        if known.role == Role.STATE and known.domain < domain:
            declared = (Label(self.spec.spans[known.name], "declared as a scalar here"),)
            message = f"the scalar state '{known.name}' cannot hold a value per element"
            self.found.add("scalar-gets-elements", message, statement.span, secondary=declared, help="declare 'like: p'")
            return False
        return True

    def branch(self, statement: Branch, guards: tuple[Guard, ...]) -> None:
        condition = self.resolved(statement.condition, Kind.BOOL)
        if condition is None:
            for target in _targets(statement):
                self.poison(target)
            return
        if infer(condition, self.symbols)[1] != Domain.HOST:
            help_text = "write where(condition, x, y), which chooses element by element"
            self.found.add("condition-per-element", "'if' chooses for the whole parameter", statement.span, help=help_text)
            return
        static = self.is_static(condition)
        guard = self.flag(condition) if static else self.run_time_condition(self.facts(condition), guards)
        self.block(statement.then, (*guards, guard))
        self.block(statement.otherwise, (*guards, Guard(guard.flag, not guard.holds)))

    def flag(self, condition: Expr) -> Guard:
        """The compile-time flag of a condition: the flag of the same name, or a named condition."""
        if isinstance(condition, Op) and condition.op == "not":
            inner = self.flag(condition.args[0])
            return Guard(inner.flag, not inner.holds)
        for name, known in self.flags.items():
            if known == condition:
                return Guard(name)
        name = condition.name if isinstance(condition, Ref) else name_for(condition, set(self.symbols) | set(self.flags))
        self.flags[name] = condition
        return Guard(name)

    def run_time_condition(self, condition: Expr, guards: tuple[Guard, ...]) -> Guard:
        """Keep a condition on t in a local, so that what follows cannot change it; without guards where it can be."""
        for known in self.body:
            if known.value == condition and not known.guards and not self.reads_locals(condition):
                return Guard(known.target)
        name = name_for(condition, set(self.symbols) | set(self.flags))
        self.symbols[name] = Symbol(name, Role.LOCAL, Kind.BOOL, Domain.HOST)
        self.body.append(Assign(name, condition, guards if self.reads_locals(condition) else (), condition.span))
        return Guard(name)

    def reads_locals(self, value: Expr) -> bool:
        """Whether a value depends on what earlier statements computed."""
        return any(self.symbols[read].role in (Role.LOCAL, Role.STATE) for read in refs(value))

    def is_static(self, condition: Expr) -> bool:
        """Whether a condition depends on hyperparameters alone, other than the learning rate, which may be a tensor."""
        for node in walk(condition):
            if isinstance(node, Ref) and (self.symbols[node.name].role != Role.HYPER or node.name == "lr"):
                return False
            if isinstance(node, Op) and node.op in FACTS:
                return False
        return True

    def poison(self, name: str) -> None:
        """Treat a name as known after a fault in its formula, so that the fault is reported once."""
        self.poisoned.add(name)
        self.symbols.setdefault(name, Symbol(name, Role.LOCAL, Kind.REAL, Domain.HOST))

    def resolved(self, value: Expr | None, kind: Kind | None = None) -> Expr | None:
        """`value` if all its names and kinds are right; else None, after a report."""
        if value is None or not self.names_known(value) or not self.words_fit(value):
            return None
        if any(isinstance(node, Ref) and node.name in self.poisoned for node in walk(value)):
            return None
        try:
            got, _ = infer(value, self.symbols)
        except KindError as error:
            assert error.node.span is not None
            self.found.add("kind-mismatch", error.message, error.node.span)
            return None
        if (kind == Kind.BOOL) != (got == Kind.BOOL) and kind is not None:
            assert value.span is not None
            expected = "a condition" if kind == Kind.BOOL else "a number"
            self.found.add("kind-mismatch", f"expected {expected}", value.span)
            return None
        return value

    def names_known(self, value: Expr) -> bool:
        good = True
        for node in walk(value):
            if isinstance(node, Ref) and node.name not in self.symbols:
                assert node.span is not None
                hint = suggest(node.name, self.symbols)
                names = [h.name for h in self.spec.hypers if h.names]
                if node.name in names:
                    hint = f"use its parts: {', '.join(next(h.names for h in self.spec.hypers if h.name == node.name))}"
                self.found.add("unknown-symbol", f"unknown symbol '{node.name}'", node.span, "not known here", help=hint)
                good = False
        return good

    def words_fit(self, value: Expr) -> bool:
        """Report bits(x) and half_gap(x) of something that is not a state, and choices that do not exist."""
        good = True
        for node in walk(value):
            if isinstance(node, Op) and node.op in FACTS:
                good = self.fact_exists(node) and good
            if isinstance(node, Op) and node.op in ("eq", "ne"):
                good = self.choices_exist(node) and good
        return good

    def fact_exists(self, node: Op) -> bool:
        arg = node.args[0]
        assert arg.span is not None
        state = next((s for s in self.spec.states if isinstance(arg, Ref) and s.name == arg.name), None)
        if state is None:
            names = ", ".join(f"'{state.name}'" for state in self.spec.states) or "none is declared"
            self.found.add("wrong-arguments", "this word takes the name of a state", arg.span, help=f"states: {names}")
            return False
        if node.op == "half_gap_of" and state.storage is not None and half_gap(state.storage, state.unsigned) is None:
            message = f"the levels of '{state.name}' differ from block to block, so they have no fixed gap"
            self.found.add("wrong-arguments", message, arg.span)
            return False
        return True

    def choices_exist(self, node: Op) -> bool:
        named = [arg.name for arg in node.args if isinstance(arg, Ref)]
        for arg in node.args:
            if isinstance(arg, Const) and isinstance(arg.value, str):
                hyper = next((h for h in self.spec.hypers if h.name in named and h.choices), None)
                if hyper is not None and arg.value not in hyper.choices:
                    assert arg.span is not None
                    message = f"'{hyper.name}' is never '{arg.value}'"
                    self.found.add("bad-value", message, arg.span, help=suggest(arg.value, hyper.choices))
                    return False
        return True


def _declared(spec: Spec) -> list[Symbol]:
    """The symbols that are known before the first statement."""
    p, g, t = INPUTS
    symbols = [
        Symbol(p, Role.PARAM, Kind.REAL, Domain.ELEMENT),
        Symbol(g, Role.GRAD, Kind.REAL, Domain.ELEMENT),
        Symbol(t, Role.STEP, Kind.REAL, Domain.HOST),
    ]
    for hyper in (*spec.hypers, MAXIMIZE):
        kind = Kind.BOOL if isinstance(hyper.default, bool) else Kind.TEXT if hyper.choices else Kind.REAL
        symbols += [Symbol(name, Role.HYPER, kind, Domain.HOST) for name in hyper.names or (hyper.name,)]
    for state in spec.states:
        symbols.append(Symbol(state.name, Role.STATE, Kind.REAL, Domain.HOST if state.scalar else Domain.ELEMENT))
    return symbols


def _targets(statement: Branch) -> list[str]:
    names = []
    for inner in (*statement.then, *statement.otherwise):
        names += [inner.target] if isinstance(inner, Assignment) else _targets(inner)
    return names
