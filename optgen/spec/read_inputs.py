"""The `inputs` table -> inputs: tensors that a step may be given."""

from __future__ import annotations

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Input
from optgen.spec.fields import Fields
from optgen.spec.read_hypers import check_name
from optgen.spec.yaml_nodes import Node, Scalar

__all__ = ["InputReader"]

KEYS = ("like", "doc")


class InputReader:
    """Reads every input; `unread` are the names of those that could not be read."""

    def __init__(self, fields: Fields) -> None:
        """Use `fields` to read values and to report faults."""
        self.fields = fields
        self.found: Diagnostics = fields.found
        self.spans: dict[str, Span] = {}
        self.unread: set[str] = set()

    def read(self, node: Node | None) -> tuple[Input, ...]:
        """Read the `inputs` table."""
        inputs = []
        for key, value in self.fields.entries(node, "'inputs'") if node is not None else ():
            if check_name(key, self.fields):
                self.spans[key.text] = key.span
                inputs.append(self.input(key, value))
            else:
                self.unread.add(key.text)
        return tuple(inputs)

    def input(self, key: Scalar, node: Node) -> Input:
        """One entry: it is like p, and may have a doc."""
        what = f"input '{key.text}'"
        table = self.fields.table(node, what, KEYS)
        if "like" in table:
            self.fields.choice(table["like"], f"'like' of {what}", ("p",))
        else:
            self.found.add(
                "missing-key", f"{what} needs a shape", key.span, help="add 'like: p', the only one that inputs have"
            )
        doc = (self.fields.text(table["doc"], f"the doc of {what}") or "") if "doc" in table else ""
        return Input(key.text, doc=doc)
