"""The text of a module -> what it defines, and what its names mean that it imports."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, field

__all__ = ["Inside", "Module", "Outside", "inside_of", "read_module"]

RUNTIME = "optgen.runtime"
STAYS = f"{RUNTIME}.interpreter"  # is imported where it can be, and done without elsewhere


@dataclass(frozen=True)
class Inside:
    """What a name stands for: a definition of another module that becomes part of the file, or (no name) that module."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Outside:
    """An import that the file keeps; `typing` says that only annotations need it."""

    statement: str
    typing: bool = False


@dataclass
class Module:
    """`definitions` are the top-level statements by the names that they bind, `dropped` the imports inside of functions."""

    name: str
    text: str
    doc: str
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Inside | Outside] = field(default_factory=dict)
    dropped: list[ast.ImportFrom] = field(default_factory=list)

    @property
    def needs_triton(self) -> bool:
        """Whether it can only be imported where Triton is."""
        return any(isinstance(found, Outside) and "import triton" in found.statement for found in self.imports.values())

    @property
    def uses(self) -> list[str]:
        """The modules that it imports, in their order."""
        return list(dict.fromkeys(found.module for found in self.imports.values() if isinstance(found, Inside)))


@functools.cache
def read_module(name: str, text: str) -> Module:
    """Read a module of the runtime, or one of a generated package (`.` for its `__init__`, `.torch_backend`)."""
    tree = ast.parse(text)
    module = Module(name, text, (ast.get_docstring(tree) or "").split("\n")[0])
    for statement in tree.body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                _import(module, statement, typing=False)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
                for inner in body:
                    assert isinstance(inner, ast.Import | ast.ImportFrom)
                    _import(module, inner, typing=True)
            case ast.FunctionDef(name=bound) | ast.ClassDef(name=bound):
                module.definitions[bound] = statement
            case ast.Assign(targets=[ast.Name(id=bound)]) | ast.AnnAssign(target=ast.Name(id=bound)):
                if bound != "__all__":
                    module.definitions[bound] = statement
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                raise AssertionError(f"{name}:{statement.lineno}: a module of the runtime defines and imports only")
    for statement in module.definitions.values():
        for node in ast.walk(statement):
            if isinstance(node, ast.ImportFrom) and inside_of(node) is not None:
                _import(module, node, typing=False)
                module.dropped.append(node)
    return module


def inside_of(statement: ast.ImportFrom) -> str | None:
    """The module that an import is from, if it becomes part of the file."""
    if statement.level:
        return f".{statement.module or ''}"
    name = statement.module or ""
    return name if name.startswith(RUNTIME) and name != STAYS else None


def _import(module: Module, statement: ast.Import | ast.ImportFrom, *, typing: bool) -> None:
    for alias in statement.names:
        source = inside_of(statement) if isinstance(statement, ast.ImportFrom) else None
        if source is not None:
            is_module = source in (RUNTIME, ".") and alias.name.islower()
            prefix = source if source == "." else f"{source}."
            target = Inside(f"{prefix}{alias.name}", None) if is_module else Inside(source, alias.name)
            _bind(module, alias.asname or alias.name, target)
        elif not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            one = ast.unparse(type(statement)(**{**dict(ast.iter_fields(statement)), "names": [alias]}))
            _bind(module, alias.asname or alias.name.split(".")[0], Outside(one, typing))


def _bind(module: Module, name: str, target: Inside | Outside) -> None:
    known = module.imports.setdefault(name, target)
    assert known == target, f"{module.name}: {name} is imported twice, with two meanings"
