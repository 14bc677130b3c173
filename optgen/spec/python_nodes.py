"""Python values -> nodes: what `define` was called with, each value with the place in the file where it was written.

A value that stands there as a literal has its own place. Of one that was computed it is the place of the expression; a
formula that was computed is shown as a text of its own.
"""

from __future__ import annotations

import ast
import collections.abc
import numbers
import re
from dataclasses import replace
from typing import Any

from optgen.diagnostics import Diagnostics, Label, Source, Span
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.formula import FormulaText
from optgen.spec.fields import is_boolean, is_number
from optgen.spec.yaml_nodes import MAX_DEPTH, Mapping, Node, Scalar, Sequence, is_empty

__all__ = ["PythonNodes"]

MAX_NODES = 20_000
LITERAL = re.compile(r"([rRuU]?)(\"\"\"|'''|\"|')(.*)\2", re.DOTALL)


class PythonNodes:
    """Makes the nodes of one call."""

    def __init__(self, source: Source, found: Diagnostics, place: Span) -> None:
        """Report faults to `found`; what has no place of its own stands at `place`, the call."""
        self.source = source
        self.found = found
        self.place = place
        self.count = 0

    def call(self, keys: dict[str, Any], call: ast.Call | None) -> Mapping:
        """The keyword arguments of a call, whose expression is known if the file is."""
        written = self.written(call)
        entries = []
        for name, value in keys.items():
            key, expression = written.get(name, (self.place, None))
            entries.append((Scalar(name, None, key), self.node(value, expression, 1)))
        return Mapping(tuple(entries), self.place)

    def node(self, value: Any, written: ast.expr | None, depth: int) -> Node:
        """One value; `written` is the expression that gave it, if it is known."""
        span = self.span(written)
        value = value.tolist() if hasattr(value, "tolist") else value  # arrays and numbers of numpy and torch
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            limit = f"is nested at most {MAX_DEPTH} levels deep" if depth > MAX_DEPTH else f"has at most {MAX_NODES:,} values"
            self.found.add("yaml-too-deep", f"a spec {limit}", span, help="take brackets away")
            return Scalar("", None, span)
        if isinstance(value, collections.abc.Mapping):
            return self.mapping(value, written, span, depth)
        if isinstance(value, list | tuple):
            items = written.elts if isinstance(written, ast.List | ast.Tuple) and len(written.elts) == len(value) else None
            nodes = [self.node(item, items[i] if items else written, depth + 1) for i, item in enumerate(value)]
            return Sequence(tuple(nodes), span)
        return self.scalar(value, written, span)

    def mapping(self, value: collections.abc.Mapping[Any, Any], written: ast.expr | None, span: Span, depth: int) -> Mapping:
        is_known = not isinstance(written, ast.Call) or ast.unparse(written.func) == "dict"
        places = self.written(written) if is_known else {}
        entries = []
        for name, item in value.items():
            key, expression = places.get(name, (span, written))
            if isinstance(name, str):
                entries.append((Scalar(name, None, key), self.node(item, expression, depth + 1)))
            else:
                self.found.add("wrong-type", "a key is plain text", key, help="write 'key: value'")
        return Mapping(tuple(entries), span)

    def written(self, expression: ast.expr | None) -> dict[object, tuple[Span, ast.expr]]:
        """The keys of `{"a": 1}` or of a call such as `dict(a=1)`, each with its place and the expression of its value.

        Of a key that stands twice in a dict Python keeps the last, so that is reported.
        """
        if isinstance(expression, ast.Call):
            keywords = [keyword for keyword in expression.keywords if keyword.arg is not None]
            return {keyword.arg: (self.start(keyword), keyword.value) for keyword in keywords}
        places: dict[object, tuple[Span, ast.expr]] = {}
        if isinstance(expression, ast.Dict):
            for key, value in zip(expression.keys, expression.values, strict=True):
                if isinstance(key, ast.Constant):
                    if key.value in places:
                        first = (Label(places[key.value][0], "first written here"),)
                        message = f"the key {quoted(str(key.value))} comes twice"
                        self.found.add("duplicate-key", message, self.span(key), secondary=first, help="keep one of them")
                    places[key.value] = self.span(key), value
        return places

    def scalar(self, value: Any, written: ast.expr | None, span: Span) -> Scalar:
        if value is None:
            return Scalar("", None, span)
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, numbers.Integral):
            text = str(int(value))
        elif isinstance(value, numbers.Real):
            text = repr(float(value))
        elif isinstance(value, str):
            value = self.without_surrogates(value, span)
            plain = Scalar(value, None, span, self.formula(value, written))
            other = is_empty(plain) or is_boolean(plain) or is_number(plain)  # as YAML would have it without quotes
            return replace(plain, style="'") if other else plain
        else:
            message = f"a spec holds texts, numbers, lists and mappings, got {_article(type(value).__name__)}"
            self.found.add("wrong-type", message, span, help="write str(value), float(value) or list(value)")
            return Scalar("", None, span)
        return Scalar(text, None, span, self.formula(text, written))

    def without_surrogates(self, text: str, span: Span) -> str:
        """Report what is no character, halves of pairs that only UTF-16 knows; put question marks in their place."""
        clean = text.encode(errors="replace").decode()
        if clean != text:
            half = next(c for c in text if "\ud800" <= c <= "\udfff")
            self.found.add("bad-value", f"U+{ord(half):04X} in this text is no character", span, help="take it out")
        return clean

    def formula(self, text: str, written: ast.expr | None) -> FormulaText:
        """A text as a formula, its lines without their common indentation, at their places in the file if they stand there."""
        source, start, body = self.source, -1, text
        if isinstance(written, ast.Constant):
            literal = self.span(written)
            found = LITERAL.fullmatch(literal.text)
            inner = (found.start(3), found.group(3)) if found else (0, literal.text)
            if re.sub(r"\r\n?", "\n", inner[1]) == text:
                start, body = literal.start + inner[0], inner[1]
        if start < 0:
            line = self.source.line_column(self.span(written).start)[0]
            source, start = Source(f"{self.source.path}:{line} (computed)", text), 0
        lines = re.split(r"\r\n|\r|\n", body)
        starts = [start, *(start + end.end() for end in re.finditer(r"\r\n|\r|\n", body))]
        indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
        first = min(indent, len(lines[0]) - len(lines[0].lstrip()))  # a text may begin behind its quotes
        cut = [first, *(min(indent, len(line)) for line in lines[1:])]
        shifted = tuple(place + by for place, by in zip(starts, cut, strict=True))
        return FormulaText(source, "\n".join(line[by:] for line, by in zip(lines, cut, strict=True)), shifted)

    def span(self, written: ast.expr | None) -> Span:
        """The characters of an expression, or the call."""
        if written is None:
            return self.place
        end = self.offset(written.end_lineno or written.lineno, written.end_col_offset or written.col_offset)
        return Span(self.source, self.offset(written.lineno, written.col_offset), end)

    def start(self, keyword: ast.keyword) -> Span:
        """The name of a keyword argument."""
        start = self.offset(keyword.lineno, keyword.col_offset)
        return Span(self.source, start, start + len(keyword.arg or ""))

    def offset(self, line: int, column: int) -> int:
        """Offset in the source of a 1-based line and a column in bytes of UTF-8."""
        index = min(line, len(self.source.line_starts)) - 1
        return self.source.line_starts[index] + len(self.source.line_text(index).encode()[:column].decode(errors="ignore"))


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
