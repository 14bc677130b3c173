"""Nodes -> Spec: the keys of a spec, their types and their ranges."""

from __future__ import annotations

import keyword
import re
from dataclasses import replace
from pathlib import Path

from optgen.diagnostics import Diagnostics, Label, Span
from optgen.diagnostics.diagnostic import did_you_mean, quoted
from optgen.ir.formula import FormulaText, parse_block
from optgen.ir.names import is_class_name, is_reserved_class
from optgen.spec.define import Definition, in_file
from optgen.spec.fields import Fields
from optgen.spec.find import missing_help
from optgen.spec.inherit import inherit, read_root
from optgen.spec.model import Blocks, Spec
from optgen.spec.named_storages import NamedStorages
from optgen.spec.read_hypers import declared_names, read_hypers
from optgen.spec.read_inputs import InputReader
from optgen.spec.read_rules import RulesReader
from optgen.spec.read_states import StateReader
from optgen.spec.read_transforms import TransformsReader, whole_transform
from optgen.spec.with_storage import replace_storage
from optgen.spec.yaml_nodes import Mapping, Node, Scalar

__all__ = ["read", "read_spec"]

POINTS = ("eval", "train")
KEYS = (
    *("name", "summary", "reference", "kind", "extends", "hyper", "storages", "inputs", "state"),
    *("before", "update", "after", *POINTS, "rules", "blocks"),
)
KINDS = ("optimizer", "transform")
TURNS = ("blocks", "block_order", "switch_every")  # arguments of a class whose blocks take turns
ORDERS = ("ascending", "descending", "random")
TABLES = ("hyper", "inputs", "state")


def read_spec(path: str | Definition) -> Spec:
    """Read the spec at `path`, or one that was defined in Python.

    Raises:
        SpecError: with every independent fault of the file, each with its place.
    """
    found = Diagnostics()
    spec = read(path, found)
    found.raise_if_any()
    assert spec is not None
    return spec


def read(path: str | Definition, found: Diagnostics) -> Spec | None:
    """Read what can be read of the spec at `path`; None if nothing can be said about its update rule."""
    if isinstance(path, Definition):
        found.extend(path.faults)
        return _read(path, found)
    root = read_root(path, found, missing_help(path))
    return _read(in_file(root, path), found) if root is not None else None


def _read(definition: Definition, found: Diagnostics) -> Spec | None:
    merged = inherit(definition.root, found, definition.folder, definition.seen)
    if merged is not None and definition.storage is not None:
        merged = replace_storage(merged, definition.storage, found)
    return (
        _SpecReader(merged, definition.root, found, definition.folder, definition.seen).read() if merged is not None else None
    )


class _SpecReader:
    def __init__(self, root: Mapping, own: Mapping, found: Diagnostics, folder: Path, seen: tuple[Path, ...]) -> None:
        self.root = root
        self.own = own
        self.found = found
        self.fields = Fields(found)
        self.folder = folder
        self.seen = seen

    def read(self) -> Spec | None:
        table = self.fields.table(self.root, "a spec", KEYS)
        if self.misses_parent():
            return None
        self.complete(table)
        self.name = self.class_name(table["name"]) if "name" in table else None
        self.summary = self.fields.text(table["summary"], "'summary'") if "summary" in table else None
        self.reference = self.fields.text(table["reference"], "'reference'") if "reference" in table else None
        self.hypers, self.spans = read_hypers(table.get("hyper"), self.fields)
        self.storages = NamedStorages(table.get("storages"), self.fields)
        self.blocks = self.turns(table["blocks"]) if "blocks" in table else None
        kind = self.fields.choice(table["kind"], "'kind'", KINDS) if "kind" in table else KINDS[0]
        if kind == "transform":
            return self.transform(table)
        spec = self.part(self.root, table) if "rules" not in table else self.with_rules(table)
        if spec is None or not {"before", "after"} & table.keys():
            return spec
        reader = TransformsReader(self.fields, self.hypers, self.folder, self.seen, self.part, self.other)
        before, after = (reader.read_list(table.get(key), f"'{key}'") for key in ("before", "after"))
        return replace(spec, before=before, after=after)

    def transform(self, table: dict[str, Node]) -> Spec | None:
        """A spec of what `before` and `after` name: alone it is the optimizer p = p - u."""
        keys = {key.text: key for key, _ in self.root.entries}
        for key in ("rules", "blocks", "inputs", "before", "after", *POINTS):
            if key in table:
                message = f"a transform has no '{key}'"
                self.found.add("bad-rule", message, keys[key].span, help="remove it, or 'kind: transform'")
        spec = self.part(self.root, table)
        return whole_transform(spec, self.found) if spec is not None else None

    def turns(self, node: Node) -> Blocks:
        """How blocks of parameters take turns."""
        table = self.fields.table(node, "'blocks'", ("every", "order"))
        for name in {hyper.name for hyper in self.hypers} & set(TURNS):
            message = f"'{name}' is an argument of every class with blocks"
            self.found.add("reserved-name", message, self.spans[name], help=f"write '{name}_value'")
        every = self.fields.integer(table["every"], "'every'", 1, 2**31) if "every" in table else 50
        order = self.fields.choice(table["order"], "'order'", ORDERS) if "order" in table else "descending"
        return Blocks(every or 50, order or "descending")

    def with_rules(self, table: dict[str, Node]) -> Spec | None:
        """A spec whose states and updates stand in its rules."""
        for key, _ in self.root.entries:
            if key.text in POINTS:
                help_text = "let a spec without rules have it"
                self.found.add("bad-rule", f"a spec with rules has no '{key.text}'", key.span, help=help_text)
            if key.text in ("inputs", "state", "update"):
                help_text = f"move it into a rule; to drop an inherited one write '{key.text}:' with nothing behind it"
                self.found.add("bad-rule", f"a spec with rules has no '{key.text}' of its own", key.span, help=help_text)
        reader = RulesReader(self.fields, self.hypers, self.folder, self.seen, self.part, self.other)
        rules = reader.read(table["rules"])
        if not rules:
            return None
        return replace(self.spec(), update_text="", spans={**self.spans, "rules": table["rules"].span}, rules=rules)

    def other(self, nodes: Mapping, folder: Path, seen: tuple[Path, ...]) -> Spec | None:
        """Another spec, which a rule uses."""
        return _SpecReader(nodes, nodes, self.found, folder, seen).read()

    def part(self, root: Mapping, table: dict[str, Node]) -> Spec | None:
        """The states and the update that a spec has, or a rule of it."""
        spans = self.spans
        extends = {key.text: value for key, value in self.own.entries}.get("extends")
        reader = StateReader(self.fields, self.storages, extends if isinstance(extends, Scalar) else None)
        states = reader.read(table.get("state"))
        entries = InputReader(self.fields)
        inputs = entries.read(table.get("inputs"))
        self.apart(spans, reader.spans, "a state and a hyperparameter", "the hyperparameter")
        self.apart(spans, entries.spans, "an input and a hyperparameter", "the hyperparameter")
        self.apart(reader.spans, entries.spans, "an input and a state", "the state")
        text = self.fields.formula(table["update"], "'update'", block=True) if "update" in table else None
        if text is None:
            return None
        hypers = self.hypers
        unread = spans.keys() - {name for h in hypers for name in (h.name, *h.names)}
        unread |= reader.unread | entries.unread | self.misplaced()
        text, stand_ins = _without_keywords(text, unread)
        points = self.points(table)
        return replace(
            self.spec(),
            states=states,
            inputs=inputs,
            conditions=reader.conditions,
            inits=reader.inits,
            update=parse_block(text, self.found, parts={hyper.name: hyper.names for hyper in hypers}),
            update_text=_tidy(text),
            points={
                name: parse_block(each, self.found, parts={h.name: h.names for h in hypers}) for name, each in points.items()
            },
            point_texts={name: _tidy(each) for name, each in points.items()},
            spans={**spans, **reader.spans, **entries.spans, **{name: table[name].span for name in (*points, "update")}},
            unread=frozenset(unread | stand_ins),
            removed={**_removed(self.root), **_removed(root)},
        )

    def points(self, table: dict[str, Node]) -> dict[str, FormulaText]:
        """The formulas that move p to where it is evaluated, and back."""
        given = [name for name in POINTS if name in table]
        for name, other in (POINTS, POINTS[::-1]):
            if name in given and other not in given:
                message = f"'{name}' without '{other}': p is moved, and never moved back"
                self.found.add("missing-key", message, table[name].span, help=f"add '{other}: |'")
        if given and self.blocks is not None:
            help_text = "remove one of them"
            self.found.add("bad-rule", "a spec with blocks has no 'eval' and no 'train'", table[given[0]].span, help=help_text)
        texts = {name: self.fields.formula(table[name], f"'{name}'", block=True) for name in given}
        return {name: text for name, text in texts.items() if text is not None}

    def apart(self, names: dict[str, Span], others: dict[str, Span], what: str, first: str) -> None:
        """Report names that two tables have."""
        for shared in names.keys() & others.keys():
            label = (Label(names[shared], first),)
            self.found.add("name-clash", f"'{shared}' is {what}", others[shared], secondary=label, help="rename one of them")

    def spec(self) -> Spec:
        """What rules share."""
        return Spec(
            name=self.name or "",
            summary=self.summary or "",
            reference=self.reference or "",
            source=self.root.span.source,
            hypers=self.hypers,
            states=(),
            conditions={},
            inits={},
            update=(),
            update_text="",
            spans=self.spans,
            blocks=self.blocks,
        )

    def misses_parent(self) -> bool:
        """Whether a mistyped 'extends' has been reported: all that is inherited would be missing."""
        keys = {key.text for key, _ in self.own.entries}
        return "extends" not in keys and any(did_you_mean(key, ["extends"]) for key in keys - set(KEYS))

    def misplaced(self) -> set[str]:
        """The names in tables whose key is at fault, such as 'hyperparameters'."""
        tables = [value for key, value in self.root.entries if key.text not in KEYS and isinstance(value, Mapping)]
        return {name for table in tables for pair in table.entries for name, _ in declared_names(*pair)}

    def complete(self, table: dict[str, Node]) -> None:
        """Report required keys that are missing."""
        examples = {"name": "name: MyOptimizer", "summary": "summary: What it does, in one line.", "update": "update: |"}
        place = self.own.entries[0][0].span if self.own.entries else self.own.span
        for key, example in examples.items():
            if key not in table and not (key == "update" and "rules" in table):
                self.found.add("missing-key", f"a spec needs the key '{key}'", place, help=f"add a line '{example}'")

    def class_name(self, node: Node) -> str | None:
        name = self.fields.text(node, "'name'")
        if name is not None and not is_class_name(name):
            help_text = "a class name starts with a capital letter and has letters and digits, as in 'AdamW'"
            self.found.add("bad-name", f"{quoted(name)} cannot be the name of a class", node.span, help=help_text)
            return None
        if name is not None and is_reserved_class(name):
            self.found.add("reserved-name", f"'{name}' already has a meaning", node.span, help=f"write 'My{name}'")
            return None
        return name


def _removed(root: Mapping) -> dict[str, Span]:
    """Inherited names that were taken away, and where."""
    whole = [(place, table) for place, table in root.removed if place.text in TABLES and isinstance(table, Mapping)]
    kept = [table for key, table in root.entries if key.text in TABLES and isinstance(table, Mapping)]
    taken = [(place, pair) for place, table in whole for pair in table.entries]
    taken += [(pair[0], pair) for table in kept for pair in table.removed]
    return {name: place.span for place, pair in taken for name, _ in declared_names(*pair)}


def _without_keywords(text: FormulaText, unread: set[str]) -> tuple[FormulaText, set[str]]:
    """Put names as long in the place of keywords that were declared, and refused: the rest can then be read."""
    stand_ins = {name: f"{name[:-1]}_" for name in unread if keyword.iskeyword(name)}
    if not stand_ins:
        return text, set()
    pattern = re.compile(rf"\b({'|'.join(stand_ins)})\b")
    return replace(text, text=pattern.sub(lambda match: stand_ins[match.group()], text.text)), set(stand_ins.values())


def _tidy(text: FormulaText) -> str:
    """The update as written, for documentation: without blank lines around it and spaces at line ends."""
    return "\n".join(line.rstrip() for line in text.text.strip("\n").split("\n")).rstrip()
