"""Diagnostics -> text: the one place that draws source lines, carets and helps."""

import unicodedata
from collections.abc import Sequence

from optgen.diagnostics.diagnostic import Diagnostic, Label
from optgen.diagnostics.source import Span

__all__ = ["render", "render_all", "to_json"]

MAX_WIDTH = 110  # characters of a source line shown around the caret
RED, YELLOW, BLUE, BOLD, RESET = "\033[31;1m", "\033[33;1m", "\033[34;1m", "\033[1m", "\033[0m"


def render(diagnostic: Diagnostic, *, color: bool = False) -> str:
    """Draw one diagnostic in the manner of rustc, without a trailing line break."""
    everything = sorted([diagnostic.primary, *diagnostic.secondary], key=lambda label: label.span.start)
    labels = [label for label in everything if label.span.source == diagnostic.primary.span.source]
    elsewhere = [label for label in everything if label not in labels]
    gutter = max(len(str(_line_number(label))) for label in everything)
    tint = RED if diagnostic.severity == "error" else YELLOW
    head = _paint(f"{diagnostic.severity}[{diagnostic.code}]", tint, color) + _paint(f": {diagnostic.message}", BOLD, color)
    bar = " " * gutter + " " + _paint("|", BLUE, color)
    place = diagnostic.primary.span.location if diagnostic.primary.span.source.text else diagnostic.primary.span.source.path
    lines = [head, " " * gutter + _paint("--> ", BLUE, color) + place]
    if diagnostic.primary.span.source.text:
        lines += [bar, *_excerpts(labels, diagnostic.primary, gutter, color)]
    for label in elsewhere:
        lines.append(" " * gutter + _paint("::: ", BLUE, color) + label.span.location)
        lines += [bar, *_excerpt(label, "-", gutter, color)]
    extra = [("note", text) for text in diagnostic.notes] + [("help", text) for text in diagnostic.helps]
    for kind, text in extra:
        indented = text.replace("\n", "\n" + " " * (gutter + 9))
        lines.append(" " * gutter + " " + _paint("=", BLUE, color) + " " + _paint(kind, BOLD, color) + f": {indented}")
    return "\n".join(lines)


def _excerpts(labels: Sequence[Label], primary: Label, gutter: int, color: bool) -> list[str]:
    """The source lines of labels in one file, in order."""
    lines: list[str] = []
    for position, label in enumerate(labels):
        mark = "^" if label is primary else "-"
        apart = _line_number(label) - _line_number(labels[position - 1]) if position else 1
        if apart > 1:
            lines.append(_paint("...", BLUE, color))
        shown_before = apart == 0 and len(_line_text(label)) <= MAX_WIDTH
        lines += _excerpt(label, mark, gutter, color)[1 if shown_before else 0 :]
    return lines


def render_all(diagnostics: Sequence[Diagnostic], *, color: bool = False) -> str:
    """Draw every diagnostic and a closing count, as `optgen check` prints it."""
    blocks = [render(d, color=color) for d in diagnostics]
    paths = " and ".join(dict.fromkeys(d.primary.span.source.path for d in diagnostics))
    count, kind = len(diagnostics), diagnostics[0].severity
    blocks.append(f"{count} {kind}{'s' if count > 1 else ''} in {paths}")
    return "\n\n".join(blocks)


def to_json(diagnostic: Diagnostic) -> dict[str, object]:
    """The same data for a script: code, message, place and advice; lines and columns are 1-based."""
    return {
        "type": diagnostic.code,
        "severity": diagnostic.severity,
        "msg": diagnostic.message,
        **_place(diagnostic.primary),
        "related": [_place(label) for label in diagnostic.secondary],
        "notes": list(diagnostic.notes),
        "helps": list(diagnostic.helps),
    }


def _place(label: Label) -> dict[str, object]:
    span = label.span
    line, column = span.source.line_column(span.start)
    end_line, end_column = span.source.line_column(span.end)
    return {
        "path": span.source.path,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "label": label.text,
    }


def _line_number(label: Label) -> int:
    return label.span.source.line_column(label.span.start)[0]


def _line_text(label: Label) -> str:
    return label.span.source.line_text(_line_number(label) - 1)


def _excerpt(label: Label, mark: str, gutter: int, color: bool) -> list[str]:
    """The source line of `label` and the underline below it."""
    number = _line_number(label)
    shown, before, width = _window(label.span, number - 1)
    bar = _paint("|", BLUE, color)
    source_line = _paint(str(number).rjust(gutter), BLUE, color) + f" {bar} {shown}"
    tint = RED if mark == "^" else BLUE
    underline = _paint((mark * width + " " + label.text).rstrip(), tint, color)
    return [source_line.rstrip(), " " * gutter + f" {bar} " + " " * before + underline]


def _window(span: Span, line_index: int) -> tuple[str, int, int]:
    """The visible part of a line, and the display columns before and below the caret."""
    line = span.source.line_text(line_index)
    column = span.start - span.source.line_starts[line_index]
    end = min(column + max(span.end - span.start, 1), max(len(line), column + 1))
    first = max(0, column - MAX_WIDTH // 2) if len(line) > MAX_WIDTH else 0
    last = first + MAX_WIDTH
    head, tail = ("..." if first else ""), ("..." if len(line) > last else "")
    before = _display_width(head) + _display_width(line[first:column])
    width = max(1, _display_width(line[column : min(end, last)]))
    return head + _printable(line[first:last]) + tail, before, width


def _printable(text: str) -> str:
    return "".join("    " if c == "\t" else c if c.isprintable() else "?" for c in text)


def _display_width(text: str) -> int:
    """Terminal cells of `text`: tabs take four, wide East Asian characters two, combining marks none."""
    return sum(_cells(c) for c in text)


def _cells(character: str) -> int:
    if character == "\t":
        return 4
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _paint(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{RESET}" if color else text
