"""The `rules` of a spec: a condition on parameters each, and states and an update, or the name of another spec."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from optgen.diagnostics import Diagnostics, Label, Span
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.ir.nodes import Hyper
from optgen.spec.conditions import Condition, parse_condition
from optgen.spec.fields import Fields, is_boolean, is_number
from optgen.spec.inherit import inherit, other_spec
from optgen.spec.model import Rule, Spec
from optgen.spec.places import SHIPPED
from optgen.spec.rule_nodes import entries_of, merge_mappings, rule_name
from optgen.spec.yaml_nodes import Mapping, Node, Scalar

__all__ = ["RulesReader"]

KEYS = ("when", "otherwise", "name", "view", "inputs", "state", "update", "use", "hyper")
NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")
MOST = 16
Part = Callable[[Mapping, dict[str, Node]], Spec | None]
Other = Callable[[Mapping, Path, tuple[Path, ...]], Spec | None]


class RulesReader:
    """Reads every rule; `part` reads states and an update of the spec at hand, `other` the nodes of another spec."""

    what, example = "rule", "matrix"

    def __init__(
        self, fields: Fields, hypers: tuple[Hyper, ...], folder: Path, seen: tuple[Path, ...], part: Part, other: Other
    ) -> None:
        """Use `fields` to read values; `hypers` are the spec's own, `folder` and `seen` say where it stands."""
        self.fields = fields
        self.found: Diagnostics = fields.found
        self.hypers = {hyper.name: hyper for hyper in hypers}
        self.folder = folder
        self.seen = seen
        self.part = part
        self.other = other

    def read(self, node: Node) -> tuple[Rule, ...]:
        """The rules that could be read."""
        if self.fields.sequence(node, "'rules'") is None:
            return ()
        entries = entries_of(node)
        if len(entries) > MOST:
            self.found.add("bad-rule", f"a spec has at most {MOST} rules", entries[MOST].span, help="join some of them")
        rules, names = [], dict[str, Span]()
        for place, entry in enumerate(entries[:MOST]):
            rule = self.rule(entry, place, is_last=place == len(entries) - 1, names=names)
            if rule is not None:
                rules.append(rule)
        return tuple(rules)

    def rule(self, entry: Node, place: int, *, is_last: bool, names: dict[str, Span]) -> Rule | None:
        if not isinstance(entry, Mapping):
            self.fields.wrong_type(entry, "a rule", "a mapping that begins with 'when' or 'otherwise'")
            return None
        table = self.fields.table(entry, "a rule", KEYS)
        keys = {key.text: key for key, _ in entry.entries}
        start = entry.entries[0][0].span if entry.entries else entry.span
        name = self.name(table, rule_name(entry, place), keys.get("name", keys.get("use")), start, names)
        condition = self.condition(table, keys, start, is_last=is_last)
        spec, uses, shared = None, "", dict[str, str]()
        if "use" in table:
            for key in ("inputs", "state", "update", "view"):
                if key in table:
                    message = f"a rule that uses another spec has no '{key}' of its own"
                    help_text = "put it into a spec that extends that one, and use this"
                    self.found.add("bad-rule", message, keys[key].span, help=help_text)
            spec, uses, shared = self.used(table)
        else:
            if "hyper" in table:
                help_text = "declare it in the 'hyper' of the spec, which all rules share"
                message = "a rule has no hyperparameters of its own"
                self.found.add("bad-rule", message, keys["hyper"].span, help=help_text)
            if "update" not in table:
                self.found.add("missing-key", "a rule needs the key 'update' or 'use'", start, help="add a line 'update: |'")
            spec, (cut, view) = self.part(entry, table), self.view(table["view"]) if "view" in table else ("", "")
            spec = replace(spec, cut=cut, view=view) if spec is not None else None
        if spec is None or name is None:
            return None
        return Rule(name, condition, spec, uses, shared, keys["name"].span if "name" in keys else start)

    def name(self, table: dict[str, Node], name: str, key: Scalar | None, start: Span, names: dict[str, Span]) -> str | None:
        span = table["name"].span if "name" in table else key.span if key is not None else start
        return self.new_name(name, span, names, is_good="coded" not in name)

    def new_name(self, name: str, span: Span, names: dict[str, Span], *, is_good: bool = True) -> str | None:
        """A name that no other in `names` has; None after a report."""
        if not NAME.fullmatch(name) or not is_good:
            message = f"{quoted(name)} cannot be the name of a {self.what}"
            help_text = f"take a lower-case word of at most 20 letters, digits and underscores: 'name: {self.example}'"
            self.found.add("bad-name", message, span, help=help_text)
            return None
        if name in names:
            first = (Label(names[name], "the first one"),)
            message = f"two {self.what}s are called '{name}'"
            self.found.add("name-clash", message, span, secondary=first, help="give one of them another 'name'")
            return None
        names[name] = span
        return name

    def condition(self, table: dict[str, Node], keys: dict[str, Scalar], start: Span, *, is_last: bool) -> Condition | None:
        if "when" in table and "otherwise" in table:
            message = "a rule has 'when' or 'otherwise', not both"
            self.found.add("bad-rule", message, keys["otherwise"].span, help="keep one of them")
        elif "otherwise" in table:
            if not is_last:
                message = "no rule behind 'otherwise' is ever reached"
                self.found.add("bad-rule", message, keys["otherwise"].span, help="move it to the end")
        elif "when" not in table:
            help_text = "begin with 'when: ndim >= 2', or with 'otherwise:' in the last rule"
            self.found.add("missing-key", "a rule needs a condition", start, help=help_text)
        else:
            text = self.fields.formula(table["when"], "'when' of a rule", block=False)
            return parse_condition(text, self.found) if text is not None else None
        return None

    def view(self, node: Node) -> tuple[str, str]:
        """How a rule sees parameters in another shape, and the hyperparameter that says into how many rows or columns they are cut."""
        if isinstance(node, Scalar):
            return ("matrix", "") if self.fields.choice(node, "'view'", ("matrix",)) else ("", "")
        table = self.fields.table(node, "'view'", ("rows", "cols"))
        cut = "cols" if "cols" in table else "rows"
        name = table.get(cut)
        hyper = self.hypers.get(name.text) if isinstance(name, Scalar) and len(table) == 1 else None
        if hyper is not None and isinstance(hyper.default, float) and not hyper.choices:
            return cut, hyper.name
        known = [h.name for h in self.hypers.values() if isinstance(h.default, float)]
        help_text = "declare one in 'hyper'"
        if known:
            help_text = f"write 'view: {{{cut}: ...}}' with one of {', '.join(known)}, or declare another in 'hyper'"
        what = "columns a block" if cut == "cols" else "rows a matrix"
        self.found.add("bad-rule", f"'view' names a hyperparameter that says how many {what} has", node.span, help=help_text)
        return "", ""

    def used(self, table: dict[str, Node], shipped: Path = SHIPPED) -> tuple[Spec | None, str, dict[str, str]]:
        """The spec that a rule uses, its name, and which of its hyperparameters are arguments of the whole spec."""
        node = table["use"]
        written = Path(node.span.source.path)
        folder = written.resolve().parent if written.is_file() else self.folder
        found = other_spec(node, "use", self.found, folder, self.seen, shipped)
        if found is None:
            return None, "", {}
        path, nodes = found
        merged = inherit(nodes, self.found, path.parent, (*self.seen, path))
        if merged is None:
            return None, "", {}
        if any(key.text == "rules" for key, _ in merged.entries):
            message = f"{quoted(path.name)} has rules itself, and only one rule can be used"
            self.found.add("bad-rule", message, node.span, help="use specs without rules, and write its conditions here")
            return None, "", {}
        shared, merged = self.shared(table.get("hyper"), merged)
        spec = self.other(merged, path.parent, (*self.seen, path))
        assert isinstance(node, Scalar)
        return spec, node.text, self.checked(shared, spec) if spec is not None else {}

    def shared(self, node: Node | None, nodes: Mapping) -> tuple[dict[str, Scalar | None], Mapping]:
        """What a rule says of a used spec's hyperparameters: names of arguments, and changes, which are merged into the nodes."""
        theirs = next((value for key, value in nodes.entries if key.text == "hyper"), None)
        known = {key.text for key, _ in theirs.entries} if isinstance(theirs, Mapping) else set()
        shared: dict[str, Scalar | None] = {"lr": None} if "lr" in known and "lr" in self.hypers else {}
        changes: list[tuple[Scalar, Node]] = []
        for key, value in self.fields.entries(node, "'hyper' of a rule") if node is not None else ():
            if key.text not in known:
                message = f"the used spec has no hyperparameter {quoted(key.text)}"
                self.found.add("unknown-key", message, key.span, help=suggest(key.text, known))
            elif isinstance(value, Mapping):
                changes.append((key, value))
                shared.pop(key.text, None)
            elif isinstance(value, Scalar) and not is_number(value) and not is_boolean(value) and value.text:
                shared[key.text] = value
            else:
                what = f"'{key.text}' of a rule"
                expected = "the name of a hyperparameter of this spec, or a mapping such as '{default: 0.1}'"
                self.fields.wrong_type(value, what, expected)
        if not changes or not isinstance(theirs, Mapping):
            return shared, nodes
        changed = merge_mappings(theirs, Mapping(tuple(changes), theirs.span))
        return shared, replace(nodes, entries=tuple((k, changed if v is theirs else v) for k, v in nodes.entries))

    def checked(self, shared: dict[str, Scalar | None], spec: Spec) -> dict[str, str]:
        """The names of arguments, where there is such an argument of the same kind."""
        theirs, good = {hyper.name: hyper for hyper in spec.hypers}, dict[str, str]()
        for name, node in shared.items():
            own = self.hypers.get(node.text if node is not None else name)
            if node is not None and own is None:
                message = f"this spec has no hyperparameter {quoted(node.text)}"
                self.found.add("unknown-symbol", message, node.span, help=suggest(node.text, self.hypers))
            elif own is not None and name in theirs and _kind(own) == _kind(theirs[name]):
                good[name] = own.name
            elif own is not None and name in theirs and node is not None:
                message = f"'{own.name}' and the '{name}' of the used spec are not of one kind"
                self.found.add("kind-mismatch", message, node.span, help="leave it out: it then is an argument of its own")
        return good


def _kind(hyper: Hyper) -> tuple[object, ...]:
    """What decides whether two hyperparameters can be one argument."""
    return isinstance(hyper.default, bool), hyper.choices, len(hyper.names)
