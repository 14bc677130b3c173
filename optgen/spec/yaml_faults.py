"""What PyYAML finds wrong with a text -> what a user did: the place of the slip, in words, and the way out."""

from __future__ import annotations

import re

import yaml

from optgen.diagnostics import Diagnostics, Source, Span
from optgen.diagnostics.diagnostic import quoted

__all__ = ["report_yaml_fault"]

OPENED = re.compile(r"[\w.]+:\s*\|[-+0-9]*\s*(#.*)?$")  # a key that begins a block of text
BARE = re.compile(r"\s*([\w.]+):\s*(#.*)?$")  # a key with nothing behind it
STATEMENT = re.compile(r"\s*(\w+\s*[-+*/]?=|if\b|elif\b|else\b)")
LOOK = "look for a missing bracket, quote, colon or space just before this place"
KEY = "write a colon and a space behind the key"
QUOTE = "put the text in quotes"
Fault = tuple[str, int, int, str]  # the message, the first character and the one behind the last, and the help


def report_yaml_fault(source: Source, error: yaml.MarkedYAMLError, found: Diagnostics) -> None:
    """Report one error of the parser."""
    mark = error.problem_mark or error.context_mark
    at = min(mark.index if mark else 0, len(source.text))
    opened = min(error.context_mark.index if error.context_mark else at, len(source.text))
    fault = _fault(source, error.problem or "", error.context or "", at, opened)
    if fault is None:
        fault = (f"this is not YAML: {error.problem or error.context}", at, at + 1, LOOK)
    message, start, end, help_text = fault
    length = len(source.text)
    found.add("yaml-syntax", message, Span(source, min(start, length), min(max(end, start), length)), help=help_text)


def _fault(source: Source, problem: str, context: str, at: int, opened: int) -> Fault | None:
    if "'\\t' that cannot start" in problem:
        return "a tab cannot indent a line", at, at + 1, "indent with spaces"
    if "that cannot start any token" in problem:
        return f"a text cannot start with {quoted(source.text[at : at + 1])}", at, at + 1, QUOTE
    if "end of stream" in problem and "quoted" in context:
        return "this quote is never closed", opened, opened + 1, f"close it with {source.text[opened : opened + 1]}"
    if "unknown escape" in problem:
        return "this backslash begins no escape", at - 1, at + 1, "write two backslashes, or take single quotes"
    if "expected a comment or a line break" in problem:
        return "a block begins on the next line", at, _line_end(source, at), "move this to the next line and indent it"
    if "could not find expected ':'" in problem:
        text = source.line_text(source.line_index(opened)).strip()
        return "this line is no 'key: value'", opened, opened + len(text), KEY
    if "flow" in context:
        return _bracket(source, problem, at, opened)
    if "mapping values" in problem or "<block end>" in problem:
        return _indentation(source, at) or _text(source, problem, at)
    return None


def _bracket(source: Source, problem: str, at: int, opened: int) -> Fault | None:
    """Brackets that are not closed where they should be."""
    bracket, closing = source.text[opened : opened + 1], "}" if source.text[opened : opened + 1] == "{" else "]"
    if source.line_index(at) > source.line_index(opened) or problem.endswith(("'}'", "']'", "end>'")):
        return f"this '{bracket}' is never closed", opened, opened + 1, f"close it with '{closing}' where its contents end"
    if problem.endswith("':'"):
        help_text = "put a comma between entries, and a text with ': ' in quotes"
        return "a second ':' cannot stand in one entry", at, at + 1, help_text
    return None


def _indentation(source: Source, at: int) -> Fault | None:
    """A line that is indented like none above it, or that belongs to a block which began without a '|'."""
    index = source.line_index(at)
    line = source.line_text(index)
    depth = _depth(line)
    above = [number for number in range(index) if source.line_text(number).split("#")[0].strip()]
    holder = next((number for number in reversed(above) if _depth(source.line_text(number)) < depth), None)
    start = source.line_starts[index] + depth
    end = source.line_starts[index] + len(line.rstrip())
    if holder is None or line[:depth].strip():
        return None
    key, text = BARE.match(source.line_text(holder)), source.line_text(holder)
    if key is not None and STATEMENT.match(line):
        place = source.line_starts[holder] + key.start(1)
        help_text = f"write '{key.group(1)}: |' to begin a block of statements"
        return f"'{key.group(1)}' has several lines and no '|'", place, place + len(key.group(1)), help_text
    if OPENED.search(text):
        first = next((_depth(source.line_text(number)) for number in above if number > holder), depth)
        return "this line is indented less than the block that it continues", start, end, f"indent it by {first} spaces"
    if re.match(r"\s*[\w.]+:(\s|$)", line) and ":" not in source.text[start:at]:
        end = start + line[depth:].index(":")
        return "this line is indented like none above it", start, end, "indent the keys of a mapping alike"
    return None


def _text(source: Source, problem: str, at: int) -> Fault | None:
    """Text that needs quotes, or has too many of them."""
    before = source.line_index(at) - 1
    text = source.line_text(before) if before >= 0 else ""
    if "mapping values" in problem and (glued := re.match(r"\s*[\w.]+:(?=\S)", text)):
        place = source.line_starts[before] + glued.end() - 1
        return "a space is missing behind this ':'", place, place + 1, "write 'key: value'"
    if "mapping values" in problem and (alone := re.fullmatch(r"(\s*)(\w[^:#]*?)\s*", text)):
        place = source.line_starts[before] + alone.start(2)
        return "this line is no 'key: value'", place, place + len(alone.group(2)), KEY
    if "mapping values" in problem:
        return "a text with ': ' needs quotes", at, at + 1, "put it in quotes, or leave out the ':' or the space behind it"
    if "<scalar>" in problem and re.match(r".*['\"]\s*$", source.text[source.line_starts[source.line_index(at)] : at]):
        return "text goes on behind the closing quote", at, _line_end(source, at), "put the whole text in one pair of quotes"
    if problem.endswith(("'}'", "']'")):
        return f"this '{source.text[at]}' closes nothing", at, at + 1, "remove it"
    return None


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _line_end(source: Source, at: int) -> int:
    index = source.line_index(at)
    return source.line_starts[index] + len(source.line_text(index).rstrip())
