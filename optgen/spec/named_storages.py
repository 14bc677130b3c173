"""Storages by name: those that come with optgen, and a spec's own table `storages`."""

from __future__ import annotations

from pathlib import Path

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.spec.fields import Fields
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, read_source, read_yaml

__all__ = ["NamedStorages"]

SHIPPED = Path(__file__).with_name("storages.yaml")


class NamedStorages:
    """Replaces names by what they stand for, before a storage is read."""

    def __init__(self, own: Node | None, fields: Fields) -> None:
        """Know the shipped storages and those of `own`, the value of the key `storages`."""
        self.found: Diagnostics = fields.found
        source = read_source(str(SHIPPED), self.found)
        root = read_yaml(source, self.found) if source is not None else None
        assert root is not None
        self.known = {key.text: value for key, value in root.entries}
        for key, value in fields.entries(own, "'storages'") if own is not None else ():
            if isinstance(value, Mapping):
                self.known[key.text] = value
            else:
                fields.wrong_type(
                    value, f"the storage '{key.text}'", "a mapping such as '{codebook: linear, bits: 4, block: 128}'"
                )

    def resolve(self, node: Node) -> Node | None:
        """`name` or `{use: name, option: ...}` -> the storage meant; other nodes as they are, None after a fault."""
        if isinstance(node, Scalar):
            return self.known.get(node.text, node)
        if not isinstance(node, Mapping):
            return node
        options = {key.text: value for key, value in node.entries}
        used = options.pop("use", None)
        if used is None:
            return node
        base = self.known.get(used.text) if isinstance(used, Scalar) else None
        if not isinstance(base, Mapping):
            shown = quoted(used.text) if isinstance(used, Scalar) else "this"
            self.found.add(
                "bad-value", f"there is no storage {shown}", used.span, help=suggest(shown.strip("'"), self.known, most=20)
            )
            return None
        kept = tuple((key, value) for key, value in base.entries if key.text not in options)
        return Mapping((*kept, *((key, value) for key, value in node.entries if key.text != "use")), node.span)
