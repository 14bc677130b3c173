"""Where a statement speaks of global names: what must be renamed when modules become one file, and what is needed there."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optgen.vendor.modules import inside_of

__all__ = ["Reference", "references"]

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Reference:
    """A global name in the text, or a name and an attribute of it (`keys.Key`); columns are bytes of UTF-8.

    `in_string` says that it stands in an f-string, where Python 3.11 does not know its place.
    """

    name: str
    attribute: str | None
    line: int
    column: int
    end: int
    in_string: bool


@functools.cache  # those of the runtime are the same for every class
def references(statement: ast.stmt) -> list[Reference]:
    """Every use of a global name in `statement`, which stands at the top level of a module."""
    finder = _Finder()
    finder.visit(statement)
    return finder.found


class _Finder(ast.NodeVisitor):
    """Walks with the names that are bound on the way: those of functions, and of a class for its own statements only."""

    def __init__(self) -> None:
        self.found: list[Reference] = []
        self.scopes: list[tuple[bool, set[str]]] = []  # is it a class, and its names
        self.strings = 0

    def is_local(self, name: str) -> bool:
        inner = self.scopes[-1:]
        return any(name in names for is_class, names in [*(s for s in self.scopes if not s[0]), *inner])

    def visit_Name(self, node: ast.Name) -> None:
        self.note(node, node.id, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and not self.is_local(node.value.id):
            self.note(node, node.value.id, node.attr)
        else:
            self.generic_visit(node)

    def note(self, node: ast.expr, name: str, attribute: str | None) -> None:
        if not self.is_local(name):
            line, end = node.lineno, node.end_col_offset or 0
            self.found.append(Reference(name, attribute, line, node.col_offset, end, self.strings > 0))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self.strings += 1
        self.generic_visit(node)
        self.strings -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        for outer in (*node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)):
            self.visit(outer)
        for argument in _arguments(arguments):
            if argument.annotation is not None:
                self.visit(argument.annotation)
        if node.returns is not None:
            self.visit(node.returns)
        self.inside(False, {a.arg for a in _arguments(arguments)} | _bound(node.body), node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self.inside(False, {argument.arg for argument in _arguments(node.args)}, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outer in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outer)
        self.inside(True, _bound(node.body), node.body)

    def comprehension(self, node: Comprehension) -> None:
        targets = [generator.target for generator in node.generators]
        names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        self.inside(False, names, list(ast.iter_child_nodes(node)))

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension  # noqa: N815

    def inside(self, is_class: bool, names: set[str], nodes: Sequence[ast.AST]) -> None:
        self.scopes.append((is_class, names))
        for node in nodes:
            self.visit(node)
        self.scopes.pop()


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    more = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *more]


def _bound(body: Iterable[ast.stmt]) -> set[str]:
    """The names that statements bind in their own scope."""
    names: set[str] = set()
    nodes: list[ast.AST] = list(body)
    while nodes:
        node = nodes.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.ImportFrom() if inside_of(node) is not None:
                continue  # of what becomes part of the file
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.split(".")[0] for alias in aliases}
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
        nodes += ast.iter_child_nodes(node)
    return names
