"""YAML text -> nodes with spans, without the features that lose information: anchors, tags, duplicate keys."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import yaml

from optgen.diagnostics import Diagnostics, Label, Source, Span
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.formula import FormulaText
from optgen.spec.yaml_faults import report_yaml_fault

__all__ = ["MAX_DEPTH", "Mapping", "Node", "Scalar", "Sequence", "is_empty", "read_source", "read_yaml"]

MAX_BYTES = 100_000
MAX_DEPTH = 12
VISIBLE = "\t\n\r\u200c\u200d"  # line breaks, and the joiners that some scripts are written with


@dataclass(frozen=True)
class Scalar:
    """A piece of text. `style` is None for plain text, else one of ' " | >.

    `formula` is the text as a formula where it does not stand in YAML.
    """

    text: str
    style: str | None
    span: Span
    formula: FormulaText | None = None


@dataclass(frozen=True)
class Sequence:
    """A list of nodes."""

    items: tuple[Node, ...]
    span: Span


@dataclass(frozen=True)
class Mapping:
    """Keys and values in the order of the file; keys are unique. `removed` holds what a spec takes from its parent's."""

    entries: tuple[tuple[Scalar, Node], ...]
    span: Span
    removed: tuple[tuple[Scalar, Node], ...] = ()


Node = Scalar | Sequence | Mapping


def is_empty(node: Node) -> bool:
    """Whether nothing stands there; `null` and `~` say the same."""
    return isinstance(node, Scalar) and node.style is None and node.text in ("", "null", "~")


def read_source(path: str, found: Diagnostics, missing: str | None = None) -> Source | None:
    """Read a spec file as UTF-8. A file that cannot be read is a fault, not an exception; `missing` helps if there is none."""
    empty = Span(Source(path, ""), 0, 0)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"cannot read {quoted(path)}: {reason}"
        found.add("unreadable-file", message, empty, help=missing if isinstance(error, FileNotFoundError) else None)
        return None
    if len(data) > MAX_BYTES:
        found.add("unreadable-file", f"'{path}' is larger than {MAX_BYTES:,} bytes, too large for a spec", empty)
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        source = Source(path, data.decode("utf-8-sig", errors="replace"))
        start = len(data[: error.start].decode("utf-8-sig"))
        place = Span(source, start, start + 1)
        found.add("unreadable-file", f"byte {data[error.start]:#04x} is not UTF-8", place, help="save the file as UTF-8")
        return None
    source = Source(path, text)
    return None if _report_invisible(source, found) else source


def _report_invisible(source: Source, found: Diagnostics) -> bool:
    """Report the first character that nobody can see, or that YAML and editors take for different things."""
    for position, character in enumerate(source.text):
        if character.isprintable() or character in VISIBLE:
            continue
        if unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"):
            message = f"the character U+{ord(character):04X} cannot stand in a spec"
            found.add("yaml-syntax", message, Span(source, position, position + 1), help="remove it; it may be invisible")
            return True
    return False


def read_yaml(source: Source, found: Diagnostics) -> Mapping | None:
    """The top-level mapping of a spec, or None if the text is not one."""
    reader = _Reader(source, found)
    try:
        for event in yaml.parse(source.text, Loader=yaml.SafeLoader):
            if not reader.take(event):
                return None
    except yaml.reader.ReaderError as error:
        place = _span(source, error.position, error.position + 1)
        found.add(
            "yaml-syntax",
            f"the character U+{ord(source.text[error.position]):04X} cannot stand in a spec",
            place,
            help="remove it",
        )
        return None
    except yaml.MarkedYAMLError as error:
        report_yaml_fault(source, error, found)
        return None
    except (ValueError, OverflowError):  # "\\U00110000", which PyYAML gives to chr()
        place = _span(source, reader.position, reader.position + 1)
        found.add(
            "yaml-syntax", "the text from here on has an escape that is no character", place, help="write the character itself"
        )
        return None
    if isinstance(reader.root, Mapping):
        return reader.root
    span = reader.root.span if reader.root else _span(source, 0, 1)
    message = (
        "a spec is a mapping of keys to values" if reader.root else "the file is empty; a spec is a mapping of keys to values"
    )
    found.add("wrong-type", message, span, help="start with 'name: MyOptimizer'; 'optgen new MyOptimizer' writes a spec")
    return None


def _span(source: Source, start: int, end: int) -> Span:
    length = len(source.text)
    return Span(source, min(start, length), min(max(end, start), length))


def _marks(first: yaml.Event, last: yaml.Event) -> tuple[int, int]:
    """Where `first` starts and `last` ends, in characters."""
    assert first.start_mark is not None and last.end_mark is not None
    return first.start_mark.index, last.end_mark.index


class _Reader:
    """Builds nodes from parser events on a stack of its own, so that deep nesting cannot exhaust Python's."""

    def __init__(self, source: Source, found: Diagnostics) -> None:
        self.source = source
        self.found = found
        self.open: list[tuple[yaml.Event, list[Node]]] = []
        self.root: Node | None = None
        self.documents = 0
        self.position = 0  # where the last event ended

    def take(self, event: yaml.Event) -> bool:
        """Use one event; False stops the reading after a fault that leaves no sensible rest."""
        if self.refused(event):
            return False
        self.position = _marks(event, event)[1]
        if isinstance(event, yaml.ScalarEvent):
            self.place(Scalar(event.value, event.style, self.span(event)))
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.open.append((event, []))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            start, children = self.open.pop()
            span = _span(self.source, *_marks(start, event))
            if isinstance(event, yaml.SequenceEndEvent):
                self.place(Sequence(tuple(children), span))
            else:
                self.place(Mapping(self.entries(children), span))
        return True

    def refused(self, event: yaml.Event) -> bool:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
        what = (
            ("yaml-feature", "a spec is one YAML document", "remove what follows '---'")
            if self.documents > 1
            else ("yaml-feature", "aliases are not allowed in a spec", "write the value again")
            if isinstance(event, yaml.AliasEvent)
            else ("yaml-feature", "anchors are not allowed in a spec", "remove the '&name'")
            if getattr(event, "anchor", None)
            else ("yaml-feature", "tags are not allowed in a spec", "remove the '!tag'")
            if getattr(event, "tag", None)
            else ("yaml-too-deep", f"a spec is nested at most {MAX_DEPTH} levels deep", "take brackets away")
            if len(self.open) > MAX_DEPTH
            else None
        )
        if what is not None:
            code, message, help_text = what
            self.found.add(code, message, self.span(event), help=help_text)
        return what is not None

    def span(self, event: yaml.Event) -> Span:
        start, end = _marks(event, event)
        if getattr(event, "style", None) in ("|", ">"):
            end = start + 1
        return _span(self.source, start, end)

    def place(self, node: Node) -> None:
        if self.open:
            self.open[-1][1].append(node)
        else:
            self.root = node

    def entries(self, children: list[Node]) -> tuple[tuple[Scalar, Node], ...]:
        """Pair keys with values; report keys that are not text and keys that come twice."""
        seen: dict[str, Scalar] = {}
        entries: list[tuple[Scalar, Node]] = []
        for key, value in zip(children[::2], children[1::2], strict=True):
            if not isinstance(key, Scalar):
                self.found.add("wrong-type", "a key is plain text", key.span, help="write 'key: value'")
            elif key.text in seen:
                first = Label(seen[key.text].span, "first written here")
                self.found.add(
                    "duplicate-key",
                    f"the key {quoted(key.text)} comes twice",
                    key.span,
                    secondary=(first,),
                    help="keep one of them",
                )
            else:
                seen[key.text] = key
                entries.append((key, value))
        return tuple(entries)
