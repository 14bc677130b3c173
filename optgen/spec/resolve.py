"""Names, kinds and words of formulas: what each name of a spec means, and reports of those that mean nothing."""

from __future__ import annotations

from optgen.diagnostics import Diagnostics, Label
from optgen.diagnostics.diagnostic import suggest
from optgen.ir.formula_faults import symbol_help
from optgen.ir.infer import KindError, infer, refs, walk
from optgen.ir.names import INPUTS
from optgen.ir.nodes import SHAPES, VECTORS, Const, Domain, Expr, Hyper, Kind, Op, Ref, Role, Symbol
from optgen.ir.ops import OVER, REDUCED, SCOPES
from optgen.spec.model import Spec
from optgen.storage.codebooks import half_gap

__all__ = ["FACTS", "KIND_WORDS", "MAXIMIZE", "Resolver"]

KIND_WORDS = {Kind.REAL: "a number", Kind.INT: "a number", Kind.BOOL: "a condition", Kind.TEXT: "a choice"}
FACTS = {"bits_of": "bits", "half_gap_of": "half_gap"}
MAXIMIZE = Hyper("maximize", False, "False", doc="ascend instead of descend: the gradient changes sign first")


class Resolver:
    """Knows the symbols seen so far, and checks formulas against them."""

    def __init__(self, spec: Spec, found: Diagnostics) -> None:
        """Know what `spec` declares; faults go to `found`."""
        self.spec = spec
        self.found = found
        self.symbols = {symbol.name: symbol for symbol in _declared(spec)}
        self.poisoned: set[str] = set()
        for name in spec.unread - self.symbols.keys():
            self.poison(name)

    def poison(self, name: str) -> None:
        """Treat a local as known after a fault in its formula, so that the fault is reported once."""
        if self.symbols.setdefault(name, Symbol(name, Role.LOCAL, Kind.REAL, Domain.HOST)).role == Role.LOCAL:
            self.poisoned.add(name)

    def resolved(self, value: Expr | None, kind: Kind | None = None) -> Expr | None:
        """`value` if all its names and kinds are right; else None, after a report."""
        if value is None or not self.names_known(value) or not self.words_fit(value):
            return None
        if any(name in self.poisoned for name in refs(value)):
            return None
        try:
            got, _ = infer(value, self.symbols)
        except KindError as error:
            self.mismatch(error.node, error.expected, error.got)
            return None
        if (kind == Kind.BOOL) != (got == Kind.BOOL) and kind is not None:
            self.mismatch(value, kind, got)
            return None
        return value if self.elements_reduced(value) else None

    def elements_reduced(self, value: Expr) -> bool:
        """Report a reduction of what is one number, or over a dimension that it does not have."""
        good = True
        for node in walk(value):
            if not isinstance(node, Op) or node.op not in REDUCED:
                continue
            domain, (over, _) = infer(node.args[0], self.symbols)[1], REDUCED[node.op]
            if domain in OVER[over][1]:
                continue
            assert node.span is not None
            message = "this is one number for the whole parameter already"
            help_text = "give it p, g, a state or what is computed of them; the mean or maximum of one number is that number"
            if over in SCOPES:
                message = "this is one number for each parameter, and several are reduced by their elements"
                help_text = f"give it p, g, a state like p or what is computed of them, as in 'sum(g*g, over={over})'"
            elif domain in VECTORS:
                missing = "rows and columns" if domain == Domain.MATRIX else "rows" if domain == Domain.COL else "columns"
                message = f"this has no {missing} to reduce over: its shape is {SHAPES[domain]}"
                possible = [word for word, (_, left) in OVER.items() if word not in ("all", *SCOPES) and domain in left]
                help_text = f"write over={possible[0]}" if possible else "leave the reduction out"
            self.found.add("reduced-number", message, node.span, help=help_text)
            good = False
        return good

    def mismatch(self, node: Expr, expected: Kind, got: Kind) -> None:
        """Report a value of the wrong kind, with the way from one to the other."""
        span = node.span
        assert span is not None
        name = node.name if isinstance(node, Ref) else None
        hyper = next((h for h in self.spec.hypers if h.name == name and h.choices), None)
        help_text = {
            Kind.BOOL: f"write where({name or 'condition'}, 1, 0)",
            Kind.TEXT: f"compare it with one of its words, as in '{name} == \"{hyper.choices[0]}\"'"
            if hyper
            else "leave it out",
        }.get(got, f"compare it, as in '{name or 'x'} > 0'")
        self.found.add("kind-mismatch", f"expected {KIND_WORDS[expected]}, got {KIND_WORDS[got]}", span, help=help_text)

    def names_known(self, value: Expr) -> bool:
        unknown = [node for node in walk(value) if isinstance(node, Ref) and node.name not in self.symbols]
        for node in unknown:
            self.unknown(node)
        return not unknown

    def unknown(self, node: Ref) -> None:
        """Report a name that means nothing, or nothing any more."""
        assert node.span is not None
        name, removed = node.name, self.spec.removed.get(node.name)
        if removed is None:
            self.found.add("unknown-symbol", f"unknown symbol '{name}'", node.span, "not known here", help=self.meant(name))
        elif removed.source == node.span.source:
            help_text = f"keep '{name}', or write the formula without it"
            label = (Label(removed, "removed here"),)
            self.found.add("unknown-symbol", f"'{name}' is removed by this spec", node.span, secondary=label, help=help_text)
        else:
            message = f"'{name}' is removed here, but what is inherited uses it"
            label = (Label(node.span, "used here"),)
            help_text = "keep it, or replace here what uses it"
            self.found.add("unknown-symbol", message, removed, secondary=label, help=help_text)

    def meant(self, name: str) -> str | None:
        """What a name that means nothing may stand for."""
        for hyper in self.spec.hypers:
            if hyper.names and hyper.name == name:
                return f"use its parts: {', '.join(hyper.names)}"
        owner = next((hyper.name for hyper in self.spec.hypers if name in hyper.choices), None)
        if owner is not None:
            return f'a word of a choice is in quotes: {owner} == "{name}"'
        for state in self.spec.states:
            if state.save_as == name:
                return f"did you mean '{state.name}', which is saved as '{name}'?"
        return symbol_help(name, self.symbols.keys() - self.poisoned - {MAXIMIZE.name})

    def words_fit(self, value: Expr) -> bool:
        """Report bits(x) and half_gap(x) of something that is not a state, and choices that do not exist."""
        good = True
        for node in walk(value):
            if isinstance(node, Op) and node.op in FACTS:
                good = self.fact_exists(node) and good
            if isinstance(node, Op) and node.op == "given":
                good = self.input_exists(node) and good
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
            help_text = "take a codebook with fixed levels, or bits(...)"
            self.found.add("wrong-arguments", message, arg.span, help=help_text)
            return False
        return True

    def input_exists(self, node: Op) -> bool:
        arg = node.args[0]
        assert arg.span is not None
        if isinstance(arg, Ref) and any(each.name == arg.name for each in self.spec.inputs):
            return True
        names = ", ".join(f"'{each.name}'" for each in self.spec.inputs) or "none is declared"
        self.found.add("wrong-arguments", "this word takes the name of an input", arg.span, help=f"inputs: {names}")
        return False

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
        symbols.append(Symbol(state.name, Role.STATE, Kind.REAL, state.domain))
    symbols += [Symbol(each.name, Role.INPUT, Kind.REAL, Domain.ELEMENT) for each in spec.inputs]
    return symbols
