"""`extends`: the nodes of a parent and of a child -> the nodes of the spec that is meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optgen.diagnostics import Diagnostics, Span
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.spec.places import SHIPPED, SUFFIXES, spec_names, suffixes_in, without_suffix
from optgen.spec.python_file import read_python
from optgen.spec.rule_nodes import change_rules, merge_mappings
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, is_empty, read_source, read_yaml

__all__ = ["inherit", "other_spec", "read_root"]

MAX_PARENTS = 8
WAYS = {"extends": "extend", "use": "use"}
NOT_INHERITED = ("name", "summary", "reference", "extends")


def read_root(path: str, found: Diagnostics, missing: str | None = None) -> Mapping | None:
    """The top level of the spec at `path`, without what it inherits; `missing` helps if there is no such file."""
    source = read_source(path, found, missing)
    if source is None:
        return None
    return read_python(source, found) if path.endswith(".py") else read_yaml(source, found)


def inherit(root: Mapping, found: Diagnostics, folder: Path, seen: tuple[Path, ...]) -> Mapping | None:
    """Merge `root` into the spec it extends, recursively; None if a parent cannot be read.

    Parents are looked for in `folder` and among the specs that come with optgen; `seen` holds the files on the way here.
    """
    node = {key.text: value for key, value in root.entries}.get("extends")
    if node is None:
        return root
    parent = other_spec(node, "extends", found, folder, seen)
    if parent is None:
        return None
    path, nodes = parent
    base = inherit(nodes, found, path.parent, (*seen, path))
    if base is None:
        return None
    kept = tuple((key, value) for key, value in base.entries if key.text not in NOT_INHERITED)
    merged = merge_mappings(Mapping(kept, base.span, base.removed), root)
    rules = [{key.text: value for key, value in table.entries}.get("rules") for table in (base, root)]
    if rules[0] is None or rules[1] is None or is_empty(rules[1]):
        return merged
    changed = change_rules(rules[0], rules[1], found)
    return replace(merged, entries=tuple((k, changed if k.text == "rules" else value) for k, value in merged.entries))


def other_spec(
    node: Node, key: str, found: Diagnostics, folder: Path, seen: tuple[Path, ...], shipped: Path = SHIPPED
) -> tuple[Path, Mapping] | None:
    """The file and the nodes of the spec that the value of `extends` or `use` names; None after a report."""
    if not isinstance(node, Scalar) or not node.text.strip():
        found.add("wrong-type", f"'{key}' is the name of a spec", node.span, help=f"for example '{key}: adamw'")
        return None
    path = _find(node.text, folder, shipped)
    if path is None:
        known = spec_names(folder, shipped) - ({seen[-1].stem} if seen else set())
        help_text = suggest(without_suffix(node.text), known)
        found.add("unknown-spec", f"there is no spec {quoted(node.text)} to {WAYS[key]}", node.span, help=help_text)
        return None
    if path in seen:
        chain = " -> ".join(p.name for p in (*seen[seen.index(path) :], path))
        found.add("extends-cycle", f"a spec cannot {WAYS[key]} itself", node.span, help=f"break the circle {chain}")
        return None
    if len(seen) > MAX_PARENTS:
        message = f"a spec has at most {MAX_PARENTS} ancestors"
        found.add("extends-cycle", message, node.span, help="extend a spec nearer to the root")
        return None
    return _read_parent(path, node.span, key, found)


def _read_parent(path: Path, place: Span, key: str, found: Diagnostics) -> tuple[Path, Mapping] | None:
    shown = path if not path.is_relative_to(Path.cwd()) else path.relative_to(Path.cwd())
    before = len(found)
    root = read_root(str(shown), found)
    if root is None and len(found) > before:
        message = f"the spec to {WAYS[key]}, '{shown}', cannot be read"
        found.add("broken-parent", message, place, help=f"mend '{shown}' first")
    return None if root is None else (path, root)


def _find(name: str, folder: Path, shipped: Path) -> Path | None:
    """The file of a spec: beside the child first, then among those that come with optgen.

    Outside of a folder specs/, a program is run only if it is named with its suffix.
    """
    for place in (folder, shipped):
        for suffix in ("",) if name.endswith(SUFFIXES) else suffixes_in(place):
            try:
                path = (place / f"{name}{suffix}").resolve()
                if path.is_file():
                    return path
            except (OSError, ValueError):
                continue
    return None
