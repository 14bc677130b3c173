"""Spec -> Program: nested `if`s become guards on a flat list of assignments, and every name gets a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optgen.diagnostics import Diagnostics, Label, Span
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.formula import Assignment, Branch, FormulaText, parse_expression
from optgen.ir.guards import asked
from optgen.ir.infer import holds, infer, joined, knows_rows, refs, substitute, walk
from optgen.ir.names import is_reserved, is_symbol_name, name_for
from optgen.ir.nodes import SHAPES, VECTORS, Assign, Const, Domain, Expr, Guard, Kind, Op, Program, Ref, Role, State, Symbol
from optgen.spec.check import check_program
from optgen.spec.check_shared import with_shared_states
from optgen.spec.model import Spec
from optgen.spec.resolve import FACTS, KIND_WORDS, MAXIMIZE, Resolver

__all__ = ["in_grid", "lower"]

WIDEST = 256  # elements of a block where the rule knows rows and columns: a tile has 32 rows as wide
STATIC = frozenset(
    {"given", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "neg", "add", "sub", "mul", "abs", "min", "max"}
)


def lower(spec: Spec, found: Diagnostics) -> Program:
    """Turn a spec into a program; everything that is wrong with its update rule goes to `found`.

    A local has one domain, the largest of all values that it is assigned until a line replaces it on every path by one of
    another domain. It is known at the end, so the rule is walked again until no line widens a local that an earlier line has used.
    """
    wide: dict[tuple[str, int], tuple[Domain, Span]] = {}
    while True:
        faults = Diagnostics()
        lowering = _Lowering(spec, faults, wide)
        program = lowering.program()
        if lowering.wide == wide:
            break
        wide = lowering.wide
    check_program(spec, program, lowering.poisoned, faults)
    if not len(faults):
        program = with_shared_states(spec, program, faults)
    found.extend(faults)
    return program


def in_grid(state: State, spans: Mapping[str, Span], found: Diagnostics) -> State:
    """A state as it is kept where something knows rows and columns: its blocks are not wider than tiles."""
    if state.storage is None:
        return state
    if state.storage.block > WIDEST:
        message = f"the blocks of '{state.name}' are too large for a rule that knows rows and columns"
        found.add("bad-value", message, spans[state.name], help=f"take blocks of {WIDEST} elements or fewer")
    return replace(state, storage=replace(state.storage, grid=True))


class _Lowering:
    """Walks the update rule once, in order, and knows the names seen so far."""

    def __init__(self, spec: Spec, found: Diagnostics, wide: dict[tuple[str, int], tuple[Domain, Span]]) -> None:
        self.spec = spec
        self.found = found
        self.flags: dict[str, Expr] = {}
        self.body: list[Assign] = []
        self.names = Resolver(spec, found)
        self.symbols, self.poisoned = self.names.symbols, self.names.poisoned
        self.taken = {*self.symbols, *(hyper.name for hyper in spec.hypers), *_targets(spec.update)}
        self.wide = dict(wide)  # locals with more values than their first one has: their domain, and where they get others
        self.begun: dict[str, int] = {}  # how often a local has begun anew
        self.assigned: dict[str, list[tuple[Guard, ...]]] = {}  # and under which guards it has values since

    def program(self) -> Program:
        inputs = tuple(replace(each, flag=self.flag(Op("given", (Ref(each.name),)))) for each in self.spec.inputs)
        states = tuple(self.with_formulas(state) for state in self.spec.states)
        self.flags.setdefault("maximize", Ref("maximize"))
        self.body.append(Assign("g", Op("neg", (Ref("g"),)), (Guard("maximize"),)))
        begun = [state for state in states if state.init != Const(0) and not state.shared]
        made = [mark for state in begun for mark in self.initial_value(state)]
        self.block(self.spec.update, ())
        hypers = (*self.spec.hypers, MAXIMIZE)
        ranked = any(state.storage is not None and state.storage.scope == "rank1" for state in states)
        program = Program(self.spec.name, self.symbols, self.flags, hypers, (*states, *made), tuple(self.body))
        if ranked or knows_rows(program):
            program = replace(program, states=(*map(self.with_rows, states), *made))
        return replace(program, cut=self.spec.cut, view=self.spec.view, inputs=inputs)

    def with_rows(self, state: State) -> State:
        """Where the rule knows rows and columns, a state's blocks lie in the rows of the last dimension."""
        if state.storage is not None and state.domain == Domain.ELEMENT and self.spec.cut in ("cols", "matrix"):
            message = f"'{state.name}' lies in rows of p, and this rule sees others: it has no storage"
            self.found.add("bad-value", message, self.spec.spans[state.name], help="remove its storage, or the view")
        if state.storage is not None and state.domain in VECTORS and self.spec.cut:
            message = f"'{state.name}' is of rows or columns of a view and has no storage"
            self.found.add("bad-value", message, self.spec.spans[state.name], help="remove its storage, or the view")
        return in_grid(state, self.spec.spans, self.found)

    def initial_value(self, state: State) -> list[State]:
        """States are created as zeros; one with another `init` takes it at the start of its first step.

        That is step 1, or the first with its condition: then a number beside the state says whether it has been made.
        """
        if state.when is None:
            first = self.run_time_condition(Op("eq", (Ref("t"), Const(1))), ())
            self.body.append(Assign(state.name, state.init, (first,)))
            return []
        mark = State(
            self.mark_of(state), f"{state.save_as}.made", Domain.HOST, when=state.when, doc=f"1 once {state.name} has begun"
        )
        self.symbols[mark.name] = Symbol(mark.name, Role.STATE, Kind.REAL, Domain.HOST)
        first = self.run_time_condition(Op("eq", (Ref(mark.name), Const(0.0))), (state.when,))
        self.body.append(Assign(state.name, state.init, (state.when, first)))
        self.body.append(Assign(mark.name, Const(1.0), (state.when,)))
        return [mark]

    def mark_of(self, state: State) -> str:
        """A free name for what says that a state has begun."""
        name = f"{state.name}_made"
        while name in self.taken or name in self.symbols:
            name += "_"
        return name

    def with_formulas(self, state: State) -> State:
        """Resolve a state's `when` and `init`, which may speak of hyperparameters only (and of p and g in `init`)."""
        when, init = self.spec.conditions.get(state.name), self.spec.inits.get(state.name)
        guard = self.when(state, when) if when is not None else None
        start = self.init(state, init) if init is not None else None
        return replace(state, when=guard, init=start if start is not None else state.init)

    def when(self, state: State, text: FormulaText) -> Guard | None:
        condition = self.names.resolved(parse_expression(text, self.found), Kind.BOOL)
        if condition is None:
            return None
        if not self.is_static(condition) or any(isinstance(node, Op) and node.op == "given" for node in walk(condition)):
            span = Span(text.source, text.starts[0], text.starts[0] + len(text.text))
            help_text = "use flags, choices and numbers, but neither t, lr nor given(...), which change while training"
            self.found.add(
                "not-static", f"'when' of state '{state.name}' must not change from step to step", span, help=help_text
            )
            return None
        return self.flag(condition)

    def init(self, state: State, text: FormulaText) -> Expr | None:
        value = self.names.resolved(parse_expression(text, self.found), Kind.REAL)
        if value is None:
            return None
        for node in walk(value):
            name = node.name if isinstance(node, Ref) else None
            symbol = self.symbols[name] if name else None
            per_element = symbol is not None and symbol.role in (Role.PARAM, Role.GRAD)
            if symbol is not None and (symbol.role in (Role.STATE, Role.STEP, Role.INPUT) or (per_element and state.scalar)):
                allowed = "numbers and hyperparameters" if state.scalar else "numbers, hyperparameters, p and g"
                message = f"'{name}' is not known when state '{state.name}' is created"
                assert node.span is not None
                more = "; with 'shape: tensor' also sums and norms of p and g" if per_element and state.scalar else ""
                self.found.add("bad-init", message, node.span, help=f"'init' may use {allowed}{more}")
                return None
        numbers = [hyper.name for hyper in self.spec.hypers if not hyper.names]
        if state.shared and not (isinstance(value, Const) or (isinstance(value, Ref) and value.name in numbers)):
            span = Span(text.source, text.starts[0], text.starts[0] + len(text.text))
            message = f"state '{state.name}' begins before any parameter is seen"
            self.found.add("bad-init", message, span, help="write a number, or the name of a hyperparameter that is one number")
            return None
        if not holds(state.domain, infer(value, self.symbols)[1]):
            span = Span(text.source, text.starts[0], text.starts[0] + len(text.text))
            help_text = "take sum(...), mean(...) or another reduction"
            shape = f"has the shape {state.shape}" if state.domain in VECTORS else "is one number"
            self.found.add("bad-init", f"state '{state.name}' {shape} and cannot start per element", span, help=help_text)
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
            if statement.target not in self.symbols:
                self.names.poison(statement.target)
            return
        value = self.names.resolved(statement.value)
        if value is None:
            self.names.poison(statement.target)
            return
        kind, domain = infer(value, self.symbols)
        kind = Kind.REAL if kind == Kind.INT else kind
        if not self.fits(statement, kind, domain):
            return
        if self.replaces(statement.target, domain, guards):
            value = self.begin_anew(statement.target, value)
        self.declare(statement, kind, domain)
        self.assigned.setdefault(statement.target, []).append(guards)
        self.body.append(Assign(statement.target, self.facts(value), guards, statement.span))

    def replaces(self, name: str, domain: Domain, guards: tuple[Guard, ...]) -> bool:
        """Whether a local has a value of another domain, of which an assignment under `guards` leaves nothing."""
        known = self.symbols.get(name)
        if known is None or known.role != Role.LOCAL or known.domain == domain or name in self.poisoned:
            return False
        return all(set(guards) <= set(before) for before in self.assigned.get(name, [()]))

    def begin_anew(self, name: str, value: Expr) -> Expr:
        """Give what a local has been so far another name, also in `value`, which is what it is to be."""
        count = self.begun[name] = self.begun.get(name, 0) + 1
        old = f"{name}_{count}"
        while old in self.taken or old in self.symbols or old in self.flags:
            old += "_"
        self.symbols[old] = replace(self.symbols.pop(name), name=old)
        self.assigned[name] = []
        new: dict[str, Expr] = {name: Ref(old)}
        for place, statement in enumerate(self.body):
            target = old if statement.target == name else statement.target
            self.body[place] = replace(statement, target=target, value=substitute(statement.value, new))
        return substitute(value, new)

    def declare(self, statement: Assignment, kind: Kind, domain: Domain) -> None:
        """Give a new local its symbol; note a value per element that comes after others."""
        name, known = statement.target, self.symbols.get(statement.target)
        key = name, self.begun.get(name, 0)
        if known is None:
            domain = joined((domain, self.wide[key][0])) if key in self.wide else domain
            self.symbols[name] = Symbol(name, Role.LOCAL, kind, domain)
        elif known.role == Role.LOCAL and not holds(known.domain, domain):
            _, place = self.wide.get(key, (domain, statement.span))
            self.wide[key] = (joined((known.domain, domain)), place)

    def facts(self, value: Expr) -> Expr:
        """`half_gap(m)` -> `half_gap_m`: a host scalar whose value the storage of the parameter decides.

        What `where` chooses between are real numbers: `where(c, 1, 0)` -> `where(c, 1.0, 0.0)`. A condition on hyperparameters becomes a flag: `where(nesterov, x, y)`, `mode == "l2" and t > 1`.
        """
        if infer(value, self.symbols)[0] == Kind.BOOL and self.is_static(value):
            return self.flag_value(value)
        if not isinstance(value, Op):
            return value
        if value.op in FACTS and isinstance(value.args[0], Ref):
            name = f"{FACTS[value.op]}_{value.args[0].name}"
            self.symbols[name] = Symbol(name, Role.FACT, Kind.REAL, Domain.HOST)
            return Ref(name, value.span)
        args = tuple(self.facts(arg) for arg in value.args)
        if value.op == "where":
            args = (args[0], *(_real(arg) for arg in args[1:]))
        return Op(value.op, args, value.span)

    def may_assign(self, statement: Assignment) -> bool:
        """Report a target that is not a parameter, a state or a new name."""
        name, span = statement.target, statement.target_span
        known = self.symbols.get(name)
        if known is not None and known.role in (Role.GRAD, Role.STEP, Role.HYPER, Role.INPUT):
            help_text = f"assign to a new name, for example '{name}_new = ...'"
            words = {Role.GRAD: "the gradient", Role.STEP: "the number of the step", Role.INPUT: "an input"}
            what = words.get(known.role, "a hyperparameter")
            self.found.add("assign-to-input", f"'{name}' is {what} and cannot be assigned", span, help=help_text)
            return False
        if known is None and is_reserved(name):
            self.found.add("reserved-name", f"'{name}' already has a meaning", span, help=f"write '{name}_value'")
            return False
        if known is None and not is_symbol_name(name):
            help_text = (
                "names have lower-case letters, digits and underscores, start with a letter and have at most 40 characters"
            )
            self.found.add("bad-name", f"{quoted(name)} cannot be a name here", span, help=help_text)
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
            message = f"'{statement.target}' is {KIND_WORDS[known.kind]} and cannot become {KIND_WORDS[kind]}"
            self.found.add("kind-mismatch", message, statement.target_span, help="take another name")
            return False
        if known.role == Role.STATE and not holds(known.domain, domain):
            declared = (Label(self.spec.spans[known.name], "declared as a scalar here"),)
            help_text = "declare 'like: p'"
            kind_of_value = "a value per element"
            if domain == Domain.TENSOR:
                help_text, kind_of_value = "declare 'shape: tensor'", "what is computed from all elements"
            if domain in VECTORS and known.domain < Domain.MATRIX:
                help_text, kind_of_value = f"declare 'shape: {SHAPES[domain]}'", "what is computed of rows or columns"
            if known.domain in VECTORS:
                other = f"declare 'shape: {SHAPES[domain]}'" if domain in VECTORS else "declare 'like: p'"
                help_text = f"reduce it over the other dimensions, or {other}"
                declared = (Label(self.spec.spans[known.name], f"declared with the shape {SHAPES[known.domain]} here"),)
                kind_of_value = f"values of the shape {SHAPES[domain]}" if domain in VECTORS else kind_of_value
            if known.domain == Domain.TENSOR:
                help_text = "take sum(...), mean(...) or another reduction, or declare 'like: p'"
                declared = (Label(self.spec.spans[known.name], "declared as one number here"),)
            kind_of_state = "scalar " if known.domain == Domain.HOST else ""
            message = f"the {kind_of_state}state '{known.name}' cannot hold {kind_of_value}"
            self.found.add("scalar-gets-elements", message, statement.span, secondary=declared, help=help_text)
            return False
        return True

    def branch(self, statement: Branch, guards: tuple[Guard, ...]) -> None:
        condition = self.names.resolved(statement.condition, Kind.BOOL)
        if condition is not None and infer(condition, self.symbols)[1] != Domain.HOST:
            self.per_element(condition, statement.span)
            condition = None
        if condition is None:  # look for faults on both sides, as of a condition that nothing is known of
            guard = Guard("")
            for target in _targets((statement,)):
                self.names.poison(target)
        else:
            static = self.is_static(condition)
            guard = self.flag(condition) if static else self.run_time_condition(self.facts(condition), guards)
        self.block(statement.then, (*guards, guard))
        self.block(statement.otherwise, (*guards, Guard(guard.flag, not guard.holds)))

    def per_element(self, condition: Expr, span: Span) -> None:
        """Report an `if` on values per element; a local that gets one elsewhere is pointed at."""
        keys = {name: (name, self.begun.get(name, 0)) for name in refs(condition)}
        places = {name: self.wide[key][1] for name, key in keys.items() if key in self.wide}
        secondary = tuple(Label(place, f"'{name}' has a value per element here") for name, place in places.items())
        help_text = "write where(condition, x, y), which chooses element by element"
        message = "'if' chooses for the whole parameter, and this condition differs from element to element"
        if infer(condition, self.symbols)[1] in (Domain.TENSOR, *VECTORS):
            help_text = "write where(condition, x, y), which chooses a value"
            message = "'if' chooses before elements are read, and this condition is known when all have been seen"
        self.found.add("condition-per-element", message, span, secondary=secondary, help=help_text)

    def flag(self, condition: Expr) -> Guard:
        """The compile-time flag of a condition: the flag of the same name, or a named condition."""
        if isinstance(condition, Op) and condition.op == "not":
            inner = self.flag(condition.args[0])
            return Guard(inner.flag, not inner.holds)
        for name, known in self.flags.items():
            if known == condition:
                return Guard(name)
        name = condition.name if isinstance(condition, Ref) else self.fresh(condition)
        self.flags[name] = condition
        return Guard(name)

    def flag_value(self, condition: Expr) -> Expr:
        """The value of a flag in a formula."""
        guard = self.flag(condition)
        self.symbols.setdefault(guard.flag, Symbol(guard.flag, Role.HYPER, Kind.BOOL, Domain.HOST))
        ref = Ref(guard.flag, condition.span)
        return ref if guard.holds else Op("not", (ref,), condition.span)

    def run_time_condition(self, condition: Expr, guards: tuple[Guard, ...]) -> Guard:
        """Keep a condition on t in a local, so that what follows cannot change it; without guards where it can be."""
        for known in self.body:
            if known.value == condition and not known.guards and not self.reads_locals(condition):
                return Guard(known.target)
        name = self.fresh(condition)
        self.symbols[name] = Symbol(name, Role.LOCAL, Kind.BOOL, Domain.HOST)
        self.body.append(Assign(name, condition, guards if self.reads_locals(condition) else (), condition.span))
        return Guard(name)

    def fresh(self, condition: Expr) -> str:
        """A name for a condition, unlike any in the spec."""
        return name_for(condition, self.taken | self.symbols.keys() | self.flags.keys())

    def reads_locals(self, value: Expr) -> bool:
        """Whether a value depends on what earlier statements computed."""
        return any(self.symbols[read].role in (Role.LOCAL, Role.STATE) for read in refs(value))

    def is_static(self, condition: Expr) -> bool:
        """Whether a condition depends on hyperparameters alone, other than the learning rate, which may be a tensor."""
        for node in asked(condition):
            if isinstance(node, Ref):
                symbol = self.symbols[node.name]
                if symbol.role != Role.HYPER or (node.name == "lr" and symbol.kind == Kind.REAL):
                    return False
            if isinstance(node, Op) and node.op not in STATIC:
                return False
        return True


def _real(value: Expr) -> Expr:
    """`value` with its integer constants as real numbers."""
    if isinstance(value, Const) and isinstance(value.value, int):
        return Const(float(value.value), value.span)
    return Op(value.op, tuple(map(_real, value.args)), value.span) if isinstance(value, Op) else value


def _targets(statements: tuple[Assignment | Branch, ...]) -> list[str]:
    names = []
    for inner in statements:
        names += [inner.target] if isinstance(inner, Assignment) else _targets((*inner.then, *inner.otherwise))
    return names
