"""Source text and spans: every position a diagnostic shows is computed here, and only here."""

import bisect
import re
from dataclasses import dataclass, field
from functools import cached_property

__all__ = ["Source", "Span"]


@dataclass(frozen=True)
class Source:
    """The text of one spec file.

    `path` is the path as the user typed it; `text` is the decoded content without a byte-order mark.
    """

    path: str
    text: str

    @cached_property
    def line_starts(self) -> list[int]:
        """Character offset at which each line begins."""
        return [0] + [match.end() for match in re.finditer(r"\r\n|\r|\n", self.text)]

    def line_index(self, offset: int) -> int:
        """0-based number of the line that holds the character at `offset`."""
        return bisect.bisect_right(self.line_starts, offset) - 1

    def line_text(self, index: int) -> str:
        """Text of line `index` (0-based) without its line break."""
        start = self.line_starts[index]
        end = self.line_starts[index + 1] if index + 1 < len(self.line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def line_column(self, offset: int) -> tuple[int, int]:
        """1-based line and column of `offset`, both counted in characters."""
        index = self.line_index(offset)
        return index + 1, offset - self.line_starts[index] + 1


@dataclass(frozen=True)
class Span:
    """The characters `start` to `end` (exclusive) of a source."""

    source: Source = field(repr=False)
    start: int
    end: int

    @property
    def text(self) -> str:
        """The characters the span covers."""
        return self.source.text[self.start : self.end]

    @property
    def location(self) -> str:
        """`path:line:column` of the first character, 1-based, as editors and terminals link it."""
        line, column = self.source.line_column(self.start)
        return f"{self.source.path}:{line}:{column}"
