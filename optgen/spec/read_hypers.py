"""The `hyper` table -> hyperparameters: constructor arguments with defaults and ranges."""

from __future__ import annotations

from typing import Any

from optgen.diagnostics import Span
from optgen.diagnostics.diagnostic import Label, quoted
from optgen.ir.names import is_reserved, is_symbol_name
from optgen.ir.nodes import Hyper
from optgen.spec.fields import Fields, is_boolean, is_number
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, Sequence, is_empty

__all__ = ["check_name", "declared_names", "read_hypers"]

BOUNDS = ("min", "above", "max", "below")
KEYS = ("default", *BOUNDS, "names", "choices", "doc")


def read_hypers(node: Node | None, fields: Fields) -> tuple[tuple[Hyper, ...], dict[str, Span]]:
    """Read every hyperparameter; also where each symbol is declared, those of faulty declarations included."""
    hypers: list[Hyper] = []
    spans: dict[str, Span] = {}
    for key, value in fields.entries(node, "'hyper'") if node is not None else ():
        before = len(fields.found)
        hyper = _Entry(key, value, fields).read() if check_name(key, fields) else None
        if hyper is not None and len(fields.found) == before:
            hypers.append(hyper)
        for name, span in declared_names(key, value):
            if name in spans:
                first = (Label(spans[name], "first declared here"),)
                fields.found.add("name-clash", f"'{name}' is declared twice", span, secondary=first, help="rename one of them")
            spans.setdefault(name, span)
    return tuple(hypers), spans


def declared_names(key: Scalar, node: Node) -> list[tuple[str, Span]]:
    """The names that an entry declares: its own and those of its parts."""
    parts = {k.text: value for k, value in node.entries}.get("names") if isinstance(node, Mapping) else None
    scalars = [item for item in parts.items if isinstance(item, Scalar)] if isinstance(parts, Sequence) else []
    return [(key.text, key.span), *((item.text, item.span) for item in scalars)]


def check_name(key: Scalar, fields: Fields) -> bool:
    """Report a name that cannot be a symbol; True if it can."""
    if not is_symbol_name(key.text):
        help_text = "names have lower-case letters, digits and underscores, start with a letter and have at most 40 characters"
        fields.found.add("bad-name", f"{quoted(key.text)} cannot be a name here", key.span, help=help_text)
        return False
    if is_reserved(key.text):
        help_text = f"take another name, for example '{key.text}_value'"
        fields.found.add("reserved-name", f"'{key.text}' already has a meaning", key.span, help=help_text)
        return False
    return True


class _Entry:
    """One hyperparameter being read."""

    def __init__(self, key: Scalar, node: Node, fields: Fields) -> None:
        self.key = key
        self.node = node
        self.fields = fields
        self.found = fields.found
        self.what = f"'{key.text}'"

    def read(self) -> Hyper | None:
        if not isinstance(self.node, Mapping):
            plain = isinstance(self.node, Scalar) and (is_number(self.node) or is_boolean(self.node))
            shown = quoted(self.node.text)[1:-1] if isinstance(self.node, Scalar) and plain else "0.1"
            help_text = f"write '{self.key.text}: {{default: {shown}}}'"
            self.found.add("missing-key", f"{self.what} needs a default", self.key.span, help=help_text)
            return None
        table = self.fields.table(self.node, self.what, KEYS)
        if "default" not in table:
            self.found.add("missing-key", f"{self.what} needs a default", self.key.span, help="add 'default: 0.1'")
            return None
        default = table["default"]
        doc = (self.fields.text(table["doc"], f"the doc of {self.what}") or "") if "doc" in table else ""
        if isinstance(default, Sequence):
            return self.tuple_(default, table, doc)
        if "names" in table:
            self.found.add(
                "bad-value", f"{self.what} is no tuple and has no 'names'", table["names"].span, help="remove 'names'"
            )
        if is_boolean(default):
            return self.flag(default, table, doc)
        if is_number(default):
            return self.number(default, table, doc)
        return self.choice(default, table, doc)

    def flag(self, default: Node, table: dict[str, Node], doc: str) -> Hyper | None:
        value = self.fields.boolean(default, f"the default of {self.what}")
        self.no_more(table, "a flag has no", (*BOUNDS, "choices"))
        return None if value is None else Hyper(self.key.text, value, str(value), doc=doc)

    def number(self, default: Node, table: dict[str, Node], doc: str) -> Hyper | None:
        value = self.fields.number(default, f"the default of {self.what}")
        self.no_more(table, "a number has no", ("choices",))
        bounds = self.bounds(table)
        if value is None or not self.inside(value, default, bounds):
            return None
        assert isinstance(default, Scalar)
        return Hyper(self.key.text, value, _literal(default.text), doc=doc, **bounds)

    def choice(self, default: Node, table: dict[str, Node], doc: str) -> Hyper | None:
        what = f"the default of {self.what}"
        if "choices" not in table:
            help_text = "write a number, or list the words in 'choices'; what follows from others is computed in 'update'"
            help_text = "write a number; no default is empty" if is_empty(default) else help_text
            self.fields.wrong_type(default, what, "a number, true, false, a list of numbers or one of 'choices'", help_text)
            return None
        self.no_more(table, "a choice has no", BOUNDS)
        items = self.fields.sequence(table["choices"], f"'choices' of {self.what}") or ()
        read = [self.fields.text(item, "a choice") for item in items]
        choices = tuple(choice for choice in read if choice is not None)
        value = self.fields.choice(default, what, choices) if choices else None
        return None if value is None else Hyper(self.key.text, value, repr(value), choices=choices, doc=doc)

    def tuple_(self, default: Sequence, table: dict[str, Node], doc: str) -> Hyper | None:
        items = self.fields.sequence(default, f"the default of {self.what}") or ()
        values = [self.fields.number(item, f"a default of {self.what}") for item in items]
        self.no_more(table, "a tuple has no", ("choices",))
        bounds = self.bounds(table)
        names = self.names(table, len(values))
        inside = [v is not None and self.inside(v, item, bounds) for v, item in zip(values, items, strict=True)]
        if not names or not items or not all(inside):
            return None
        texts = ", ".join(_literal(item.text) for item in items if isinstance(item, Scalar))
        numbers = tuple(value for value in values if value is not None)
        return Hyper(self.key.text, numbers, f"({texts},)" if len(items) == 1 else f"({texts})", names, doc=doc, **bounds)

    def names(self, table: dict[str, Node], count: int) -> tuple[str, ...]:
        if "names" not in table:
            help_text = "add 'names: [" + ", ".join(f"{self.key.text.rstrip('s')}{i + 1}" for i in range(count)) + "]'"
            self.found.add("missing-key", f"{self.what} needs a name for each number", self.key.span, help=help_text)
            return ()
        items = self.fields.sequence(table["names"], f"'names' of {self.what}")
        if items is None:
            return ()
        good = [item for item in items if isinstance(item, Scalar) and check_name(item, self.fields)]
        if len(items) != count:
            message = (
                f"{self.what} has {count} number{'s' if count > 1 else ''} and {len(items)} name{'s' if len(items) > 1 else ''}"
            )
            self.found.add("bad-value", message, table["names"].span, help="give each number one name")
            return ()
        return tuple(item.text for item in good) if len(good) == count else ()

    def bounds(self, table: dict[str, Node]) -> dict[str, Any]:
        bounds = {name: self.fields.number(table[name], f"'{name}'") for name in BOUNDS if name in table}
        for one, other in (("min", "above"), ("max", "below")):
            if one in bounds and other in bounds:
                self.found.add("bad-value", f"{self.what} has both '{one}' and '{other}'", table[other].span, help="keep one")
        return bounds

    def inside(self, value: float, node: Node, bounds: dict[str, Any]) -> bool:
        """Report a default that its own range excludes."""
        tests = {"min": value.__ge__, "above": value.__gt__, "max": value.__le__, "below": value.__lt__}
        words = {"min": "at least", "above": "above", "max": "at most", "below": "below"}
        for name, bound in bounds.items():
            if bound is not None and not tests[name](bound):
                message = f"the default of {self.what} must be {words[name]} {bound:g}, got {value:g}"
                self.found.add("default-out-of-range", message, node.span)
                return False
        return True

    def no_more(self, table: dict[str, Node], message: str, keys: tuple[str, ...]) -> None:
        for key in keys:
            if key in table:
                self.found.add("bad-value", f"{message} '{key}'", table[key].span, help=f"remove '{key}'")


def _literal(text: str) -> str:
    """A YAML number as a Python float literal: `1` becomes `1.0`, `+.5` becomes `0.5`."""
    if re_plain := text.lstrip("+"):
        text = re_plain
    if text.startswith((".", "-.")):
        text = text.replace(".", "0.", 1)
    mantissa, exponent, power = text.lower().partition("e")
    if "." in mantissa or exponent:
        whole = mantissa + "0" if mantissa.endswith(".") else mantissa
        return whole + (f"e{power}" if exponent else "")
    return f"{int(mantissa)}.0" if len(mantissa) < 16 else repr(float(mantissa))
