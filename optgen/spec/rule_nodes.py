"""The nodes of `rules`: one form for all ways to write an entry, the names of entries, and changes to inherited ones."""

from __future__ import annotations

import re

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.spec.places import without_suffix
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, Sequence, is_empty

__all__ = ["change_rules", "entries_of", "merge_mappings", "rule_name"]

CONDITIONS = ("when", "otherwise")


def entries_of(node: Node) -> list[Node]:
    """The entries of `rules`, with `otherwise: adamw` as `otherwise:` and `use: adamw`."""
    return [_plain(item) if isinstance(item, Mapping) else item for item in node.items] if isinstance(node, Sequence) else []


def _plain(entry: Mapping) -> Mapping:
    written = {key.text for key, _ in entry.entries}
    entries: list[tuple[Scalar, Node]] = []
    for key, value in entry.entries:
        if key.text != "otherwise" or is_empty(value):
            entries.append((key, value))
            continue
        inner = value.entries if isinstance(value, Mapping) else ((Scalar("use", None, key.span), value),)
        entries.append((key, Scalar("", None, key.span)))
        entries += [pair for pair in inner if pair[0].text not in written]
    return Mapping(tuple(entries), entry.span, entry.removed)


def rule_name(entry: Node, place: int) -> str:
    """What a rule is called that does not say it: as the spec that it uses, "otherwise", or by its place from 0."""
    table = {key.text: value for key, value in entry.entries} if isinstance(entry, Mapping) else {}
    name, use = table.get("name"), table.get("use")
    if isinstance(name, Scalar) and name.text:
        return name.text
    if isinstance(use, Scalar) and use.text:
        return re.sub(r"[^a-z0-9]+", "_", without_suffix(use.text).lower()).strip("_") or f"rule_{place + 1}"
    return "otherwise" if "otherwise" in table else f"rule_{place + 1}"


def change_rules(base: Node, child: Node, found: Diagnostics) -> Node:
    """The rules of a spec that extends another: changes by name if none has a condition, or else those of the child alone."""
    changes = entries_of(child)
    conditions = [key for item in changes if isinstance(item, Mapping) for key, _ in item.entries if key.text in CONDITIONS]
    if conditions or not isinstance(base, Sequence) or not changes:
        return child
    names = {rule_name(entry, place): place for place, entry in enumerate(entries_of(base))}
    rules = entries_of(base)
    for place, change in enumerate(changes):
        key = rule_name(change, place)
        if not isinstance(change, Mapping) or "name" not in {key.text for key, _ in change.entries}:
            help_text = f"begin with the name of an inherited rule, 'name: {next(iter(names), '')}', or with 'when:'"
            found.add("bad-rule", "this rule has no condition, and no name of a rule to change", change.span, help=help_text)
        elif key not in names:
            message = f"no rule that is inherited is called {quoted(key)}"
            found.add("bad-rule", message, change.span, help=suggest(key, names))
        else:
            before = rules[names[key]]
            rules[names[key]] = merge_mappings(before, change) if isinstance(before, Mapping) else change
    return Sequence(tuple(rules), base.span)


def merge_mappings(base: Mapping, child: Mapping) -> Mapping:
    """Mappings are merged key by key; anything else in the child replaces what the parent has.

    An empty value in the child removes the parent's, which is kept apart for the diagnostics.
    """
    mine = {key.text: (key, value) for key, value in child.entries}
    entries: list[tuple[Scalar, Node]] = []
    removed = list(base.removed)
    for key, value in base.entries:
        own_key, own = mine.pop(key.text, (key, value))
        if is_empty(own) and not (own is value and key.text == "otherwise"):
            removed.append((own_key, value))
            continue
        both = isinstance(own, Mapping) and isinstance(value, Mapping) and own is not value
        entries.append((own_key, merge_mappings(value, own) if both else own))  # type: ignore[arg-type]
    return Mapping((*entries, *mine.values()), child.span, tuple(removed))
