"""Diagnostics as data: what is wrong, where, why and what to do. `render` turns them into text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from optgen.diagnostics.source import Span

__all__ = ["Diagnostic", "Diagnostics", "Label", "SpecError", "did_you_mean", "quoted", "suggest"]


@dataclass(frozen=True)
class Label:
    """A span and the few words that stand beside its underline."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One fault of a spec, or a warning.

    `code` is stable (`optgen explain CODE`), `message` is one sentence in the user's words, `primary` gets the caret,
    `secondary` the dashes, `notes` say why, `helps` say what to do.
    """

    code: str
    message: str
    primary: Label
    secondary: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    severity: str = "error"  # or "warning": the spec can be built


class SpecError(Exception):
    """The user's fault: one or more diagnostics, rendered without a traceback."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Hold `diagnostics`, which must not be empty."""
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.primary.span.location}: {d.message} [{d.code}]" for d in self.diagnostics))


class Diagnostics:
    """Collects the faults of one spec, so that all independent ones are shown at once."""

    def __init__(self) -> None:
        """Start without any fault."""
        self._found: list[Diagnostic] = []

    def __iter__(self) -> Iterator[Diagnostic]:
        """The faults in the order of the file."""
        return iter(sorted(self._found, key=lambda d: (d.primary.span.source.path, d.primary.span.start)))

    def __len__(self) -> int:
        """How many faults were found."""
        return len(self._found)

    def add(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        secondary: tuple[Label, ...] = (),
        note: str | None = None,
        help: str | None = None,  # noqa: A002 -- the word users see
    ) -> None:
        """Record a fault unless the same one already stands at the same place."""
        notes = () if note is None else (note,)
        helps = () if help is None else (help,)
        found = Diagnostic(code, message, Label(span, label), secondary, notes, helps)
        if not any(d.code == code and d.message == message and d.primary.span == span for d in self._found):
            self._found.append(found)

    def extend(self, others: Diagnostics) -> None:
        """Take over the faults of `others`."""
        self._found += others._found

    def raise_if_any(self) -> None:
        """Raise a `SpecError` with every fault found so far, if there is one."""
        if self._found:
            raise SpecError(self)


def quoted(text: str) -> str:
    """What the user wrote, as a message shows it: in quotes, on one line, printable, at most 40 characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return f"'{line if len(line) <= 40 else line[:37] + '...'}'"


def suggest(name: str, candidates: Iterable[str], most: int = 8) -> str | None:
    """A help line for a mistyped `name`: the close candidates, or else the sorted allowed values (at most `most`)."""
    known = sorted(set(candidates) - {name})
    if not known or (close := did_you_mean(name, known)):
        return close if known else None
    shown = ", ".join(map(quoted, known[:most]))
    return f"expected {'one of ' if len(known) > 1 else ''}{shown}" + (", ..." if len(known) > most else "")


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A help line with the candidates that are close to `name`, whatever their capitals; None without any."""
    plain = {candidate.lower(): candidate for candidate in sorted(candidates)}
    close = [name.lower()] if name.lower() in plain else difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.6)
    return "did you mean " + " or ".join(quoted(plain[word]) for word in close) + "?" if close else None
