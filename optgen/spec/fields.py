"""YAML nodes -> Python values: one reader per type, each fault with a caret."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from optgen.diagnostics import Diagnostics, Span
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.ir.formula import FormulaText
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, Sequence, is_empty

__all__ = ["Fields", "is_boolean", "is_number"]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ALIASES = {  # what other tools call the keys of a spec
    "hyper": ("args", "arguments", "hyperparameters", "hyperparams", "hypers", "parameters", "params"),
    "state": ("buffers", "memory"),
    "update": ("algorithm", "rule", "step"),
    "summary": ("description", "doc", "docs"),
    "name": ("class", "title"),
    "extends": ("base", "inherit", "inherits", "parent"),
    "reference": ("link", "paper", "source", "url"),
    "doc": ("comment", "description", "help", "summary"),
    "default": ("value",),
    "min": ("at_least", "ge", "minimum"),
    "max": ("at_most", "le", "maximum"),
    "above": ("gt",),
    "below": ("lt",),
    "choices": ("enum", "options", "values"),
    "init": ("initial", "initial_value", "start", "value"),
    "when": ("condition", "if"),
    "otherwise": ("default", "else"),
    "use": ("extends", "optimizer", "spec"),
    "storage": ("codec", "dtype", "quantization", "quantize"),
    "codebook": ("code", "codec", "levels", "scheme"),
    "block": ("block_size", "blocksize", "group_size"),
}
BOOLEANS = {"true": True, "false": False}


class Fields:
    """Reads typed values; what is wrong goes to `found` and reads as None."""

    def __init__(self, found: Diagnostics) -> None:
        """Report faults to `found`."""
        self.found = found

    def table(self, node: Node, what: str, allowed: Iterable[str]) -> dict[str, Node]:
        """The entries of a mapping whose keys are fixed; unknown keys are reported."""
        allowed = tuple(allowed)
        entries = self.entries(node, what)
        for key, value in entries:
            if key.text not in allowed:
                help_text = _key_help(key, value, allowed)
                self.found.add("unknown-key", f"{what} has no key {quoted(key.text)}", key.span, help=help_text)
        return {key.text: value for key, value in entries if key.text in allowed}

    def entries(self, node: Node, what: str) -> tuple[tuple[Scalar, Node], ...]:
        """The entries of a mapping whose keys the user chooses."""
        if isinstance(node, Mapping):
            return node.entries
        if not is_empty(node):
            self.wrong_type(node, what, "a mapping, 'key: value'")
        return ()

    def text(self, node: Node, what: str) -> str | None:
        """A piece of text on one line."""
        if not isinstance(node, Scalar) or not node.text.strip():
            self.wrong_type(node, what, "text")
            return None
        text = " ".join(node.text.split())
        if not all(c.isprintable() or c in "\u200c\u200d" for c in text):
            self.found.add("bad-value", f"{what} has a character that cannot be shown", node.span, help="remove the escape")
            return None
        return text

    def choice(self, node: Node, what: str, choices: Iterable[str]) -> str | None:
        """One of a fixed set of words."""
        text, choices = self.text(node, what), tuple(choices)
        if text is not None and text not in choices:
            self.found.add("bad-value", f"{what} cannot be {quoted(text)}", node.span, help=suggest(text, choices))
            return None
        return text

    def boolean(self, node: Node, what: str) -> bool | None:
        """`true` or `false`."""
        if is_boolean(node):
            assert isinstance(node, Scalar)
            return BOOLEANS[node.text.lower()]
        self.wrong_type(node, what, "true or false")
        return None

    def number(self, node: Node, what: str) -> float | None:
        """A finite decimal number. `1e-8` is one, whatever YAML 1.1 says."""
        if not is_number(node):
            self.wrong_type(node, what, "a number")
            return None
        assert isinstance(node, Scalar)
        value = float(node.text)
        if math.isinf(value):
            self.found.add("number-range", "this number is too large", node.span, help="the largest is about 1.8e308")
            return None
        if value == 0 and re.search("[1-9]", re.split("[eE]", node.text)[0]):
            self.found.add(
                "number-range", "this number is too small and would be 0", node.span, help="the smallest is about 5e-324"
            )
            return None
        return value

    def integer(self, node: Node, what: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self.number(node, what)
        if value is None:
            return None
        if value != int(value) or not low <= value <= high:
            message = f"{what} is a whole number from {low} to {high}, got {value:g}"
            self.found.add("bad-value", message, node.span, help="take a number in this range")
            return None
        return int(value)

    def sequence(self, node: Node, what: str) -> tuple[Node, ...] | None:
        """The items of a list that is not empty."""
        if isinstance(node, Sequence) and node.items:
            return node.items
        self.wrong_type(node, what, "a list, '[a, b]'")
        return None

    def formula(self, node: Node, what: str, *, block: bool) -> FormulaText | None:
        """The text of a formula with the place of each of its lines: plain on one line, or (`block`) a `|` block."""
        if not isinstance(node, Scalar):
            self.wrong_type(node, what, "a formula")
            return None
        if node.formula is not None:
            return self.python_formula(node, node.formula, what, block=block)
        if node.style == "|" and block and node.text.strip():
            return _block_formula(node)
        if node.style == "|" and block:
            self.wrong_type(node, what, "a formula")
            return None
        if node.style is not None:
            ways = "plain or as a '|' block" if block else "plain, on one line"
            name = {"|": "a '|' block", ">": "a '>' block"}.get(node.style, "quotes")
            self.found.add("formula-style", f"{what} is not written in {name}", node.span, help=f"write it {ways}")
            return None
        if not node.span.text.strip():
            self.wrong_type(node, what, "a formula")
            return None
        if len(node.span.text.splitlines()) > 1:
            help_text = "write it as a '|' block" if block else "write it on one line"
            self.found.add("formula-style", f"{what} runs over several lines", node.span, help=help_text)
            return None
        return FormulaText(node.span.source, node.span.text, (node.span.start,))

    def python_formula(self, node: Scalar, formula: FormulaText, what: str, *, block: bool) -> FormulaText | None:
        """A formula that a Python spec gave as a text."""
        if not formula.text.strip():
            self.wrong_type(node, what, "a formula")
            return None
        if not block and "\n" in formula.text.strip():
            self.found.add("formula-style", f"{what} runs over several lines", node.span, help="write it on one line")
            return None
        return formula

    def wrong_type(self, node: Node, what: str, expected: str, help_text: str | None = None) -> None:
        """Report that `node` is not what was expected."""
        got = {Mapping: "a mapping", Sequence: "a list"}.get(type(node))
        if got is None:
            assert isinstance(node, Scalar)
            got = quoted(node.text) if node.text else "nothing"
        span = node.span
        if isinstance(node, Mapping | Sequence):
            span = Span(span.source, span.start, min(span.end, span.start + 1))
        help_text = self.type_help(node) or help_text
        self.found.add("wrong-type", f"{what} is {expected}, got {got}", span, help=help_text)

    def type_help(self, node: Node) -> str | None:
        """The way to a value of another type, where it is plain."""
        if isinstance(node, Scalar) and node.style in ("'", '"') and (NUMBER.fullmatch(node.text) or node.text in BOOLEANS):
            return f"write {node.text} without quotes"
        return None


def _key_help(key: Scalar, value: Node, allowed: tuple[str, ...]) -> str | None:
    """What to write instead of a key that a table does not have."""
    ahead = key.span.source.text[: key.span.start].rstrip()
    if is_empty(value) and (re.search(r"\bdoc:[^{}]*,$", ahead) or (ahead.endswith(",") and " " in key.text)):
        return "put a text with a comma in quotes"
    known = [name for name in allowed if key.text in ALIASES.get(name, ())]
    return f"did you mean {quoted(known[0])}?" if known else suggest(key.text, allowed)


def is_number(node: Node) -> bool:
    """Whether a node is a plain decimal number."""
    return isinstance(node, Scalar) and node.style is None and NUMBER.fullmatch(node.text) is not None


def is_boolean(node: Node) -> bool:
    """Whether a node is plain `true` or `false`."""
    return isinstance(node, Scalar) and node.style is None and node.text.lower() in BOOLEANS


def _block_formula(node: Scalar) -> FormulaText:
    """Map the lines of a `|` block to the source: the content starts on the next line, behind its indentation."""
    source = node.span.source
    first = source.line_index(node.span.start) + 1
    count = node.text.rstrip("\n").count("\n") + 1
    raw = [source.line_text(index) for index in range(first, min(first + count, len(source.line_starts)))]
    indents = [len(line) - len(line.lstrip(" ")) for line in raw if line.strip()]
    indent = min(indents, default=0)
    lines = [line[indent:] for line in raw] or [""]
    starts = [source.line_starts[first + i] + min(indent, len(line)) for i, line in enumerate(raw)] or [node.span.start]
    return FormulaText(source, "\n".join(lines), tuple(starts))
