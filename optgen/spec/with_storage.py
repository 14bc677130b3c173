"""Another storage for some states of a spec: what `optimizer_class(spec, storage=...)` asks for."""

from __future__ import annotations

from dataclasses import replace
from types import FrameType

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.spec.define import Definition, in_file, nodes_at
from optgen.spec.inherit import read_root
from optgen.spec.rule_nodes import entries_of
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, Sequence

__all__ = ["replace_storage", "with_storage"]


def with_storage(spec: str | Definition, storage: object, caller: FrameType) -> Definition | str:
    """A spec whose states are stored as `storage` says, an argument of the call that `caller` is just making.

    A file that cannot be read is returned as it is, for the reader to report.
    """
    nodes, call = nodes_at(caller, None)
    asked = nodes.call({"storage": storage}, call).entries[0][1]
    if isinstance(spec, Definition):
        nodes.found.extend(spec.faults)
        return replace(spec, storage=asked, faults=nodes.found)
    root = read_root(spec, nodes.found)
    return spec if root is None else replace(in_file(root, spec), storage=asked, faults=nodes.found)


def replace_storage(root: Mapping, asked: Node, found: Diagnostics) -> Mapping:
    """The merged nodes of a spec, with the storages that were asked for in place of its own."""
    tables = [value for part in _parts(root) for key, value in part.entries if key.text == "state"]
    known = {key.text for table in tables if isinstance(table, Mapping) for key, _ in table.entries}
    if not known or not isinstance(asked, Mapping):
        span = asked.span
        found.add("wrong-type", "'storage' is a mapping of states to storages", span, help="for example {'m': 'int4'}")
        return root
    wanted = {}
    for key, node in asked.entries:
        if key.text in known:
            wanted[key.text] = (key, node)
        else:
            found.add("unknown-key", f"the spec has no state {quoted(key.text)}", key.span, help=suggest(key.text, known))
    return _changed(root, wanted)


def _parts(root: Mapping) -> list[Mapping]:
    """What has states: a spec, and its rules."""
    rules = next((value for key, value in root.entries if key.text == "rules"), None)
    return [root, *(rule for rule in entries_of(rules) if isinstance(rule, Mapping))] if rules is not None else [root]


def _changed(part: Mapping, wanted: dict[str, tuple[Scalar, Node]]) -> Mapping:
    """A spec or a rule with other storages for the states that are `wanted`."""
    entries: list[tuple[Scalar, Node]] = []
    for key, value in part.entries:
        changed = value
        if key.text == "state" and isinstance(value, Mapping):
            states = tuple((k, _stored(v, *wanted[k.text]) if k.text in wanted else v) for k, v in value.entries)
            changed = Mapping(states, value.span, value.removed)
        elif key.text == "rules":
            rules = tuple(_changed(rule, wanted) if isinstance(rule, Mapping) else rule for rule in entries_of(value))
            changed = Sequence(rules, value.span)
        entries.append((key, changed))
    return Mapping(tuple(entries), part.span, part.removed)


def _stored(state: Node, key: Scalar, node: Node) -> Node:
    if not isinstance(state, Mapping):
        return state
    kept = tuple((name, value) for name, value in state.entries if name.text != "storage")
    return Mapping((*kept, (Scalar("storage", None, key.span), node)), state.span, state.removed)
