"""Storages by name: those that come with optgen, and a spec's own table `storages`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.spec.fields import Fields
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, read_source, read_yaml

__all__ = ["NamedStorages"]

SHIPPED = Path(__file__).with_name("storages.yaml")


@cache
def _shipped() -> dict[str, Node]:
    found = Diagnostics()
    source = read_source(str(SHIPPED), found)
    root = read_yaml(source, found) if source is not None else None
    found.raise_if_any()
    return {} if root is None else {key.text: value for key, value in root.entries}


class NamedStorages:
    """Replaces names by what they stand for, before a storage is read."""

    def __init__(self, own: Node | None, fields: Fields) -> None:
        """Know the shipped storages and those of `own`, the value of the key `storages`."""
        self.found: Diagnostics = fields.found
        self.known = dict(_shipped())
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
        name = used.text if isinstance(used, Scalar) else ""
        base = self.known.get(name)
        if not isinstance(base, Mapping):
            message = f"there is no storage {quoted(name)}" if name else "'use' is the name of a storage"
            self.found.add("bad-value", message, used.span, help=suggest(name, self.known, most=20))
            return None
        kept = tuple((key, value) for key, value in base.entries if key.text not in options)
        return Mapping((*kept, *((key, value) for key, value in node.entries if key.text != "use")), node.span)
