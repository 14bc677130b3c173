"""The transforms of a spec, `before` and `after` its update: other specs, which change a gradient or the change of p."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from optgen.diagnostics import Diagnostics, Span
from optgen.diagnostics.diagnostic import quoted
from optgen.ir.formula import Assignment, Branch
from optgen.ir.nodes import Hyper, Op, Ref
from optgen.spec.fields import Fields
from optgen.spec.model import Rule, Spec
from optgen.spec.places import TRANSFORMS
from optgen.spec.read_rules import Other, Part, RulesReader
from optgen.spec.rule_nodes import entries_of
from optgen.spec.yaml_nodes import Mapping, Node

__all__ = ["TRANSFORMED", "TransformsReader", "whole_transform"]

KEYS = ("use", "name", "hyper")
TRANSFORMED = "u"  # what a transform changes: the gradient in front of a rule, the change of p behind it


class TransformsReader(RulesReader):
    """Reads lists of transforms; no two of a spec have one name."""

    what, example = "transform", "clip"

    def __init__(
        self, fields: Fields, hypers: tuple[Hyper, ...], folder: Path, seen: tuple[Path, ...], part: Part, other: Other
    ) -> None:
        """Use the same as the reader of rules."""
        super().__init__(fields, hypers, folder, seen, part, other)
        self.names: dict[str, Span] = {}

    def read_list(self, node: Node | None, what: str) -> tuple[Rule, ...]:
        """The transforms that could be read."""
        if node is None or self.fields.sequence(node, what) is None:
            return ()
        return tuple(rule for entry in entries_of(node) if (rule := self.transform(entry)) is not None)

    def transform(self, entry: Node) -> Rule | None:
        """One of them: the name of its spec, or a mapping with what is shared and changed of its hyperparameters."""
        table: dict[str, Node] = {"use": entry}
        if isinstance(entry, Mapping):
            table = self.fields.table(entry, "a transform", KEYS)
            if "use" not in table:
                help_text = "write 'use: clip_rms', or the name alone"
                self.found.add("missing-key", "a transform needs the key 'use'", entry.span, help=help_text)
                return None
        use = table["use"]
        spec, uses, shared = self.used(table, TRANSFORMS)
        if spec is None:
            return None
        if not spec.is_transform:
            message = f"{quoted(uses)} is an optimizer and no transform"
            self.found.add("bad-rule", message, use.span, help="name a spec that says 'kind: transform'")
            return None
        given = table.get("name")
        name = (self.fields.text(given, "'name'") if given is not None else None) or uses.rsplit("/", 1)[-1].split(".")[0]
        span = given.span if given is not None else use.span
        good = self.new_name(name, span, self.names)
        return Rule(good, None, spec, uses, shared, span) if good is not None else None


def whole_transform(spec: Spec, found: Diagnostics) -> Spec:
    """A transform as an optimizer: u begins as the gradient, and p is less u in the end."""
    span = spec.spans["update"]
    for statement in _assignments(spec.update):
        if statement.target == "p":
            help_text = f"change '{TRANSFORMED}', which is the gradient or the change of p"
            found.add("assign-to-input", "a transform does not assign to p", statement.target_span, help=help_text)
    if not any(statement.target == TRANSFORMED for statement in _assignments(spec.update)):
        help_text = f"end with '{TRANSFORMED} = ...'"
        found.add("parameter-not-updated", f"the transform never assigns to {TRANSFORMED}", span, help=help_text)
    first = Assignment(TRANSFORMED, span, Ref("g", span), span)
    last = Assignment("p", span, Op("sub", (Ref("p", span), Ref(TRANSFORMED, span)), span), span)
    return replace(spec, update=(first, *spec.update, last), is_transform=True)


def _assignments(block: tuple[Assignment | Branch, ...]) -> Iterator[Assignment]:
    for statement in block:
        if isinstance(statement, Assignment):
            yield statement
        else:
            yield from _assignments(statement.then)
            yield from _assignments(statement.otherwise)
