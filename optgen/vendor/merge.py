"""Modules -> one file: the definitions that the class needs, in an order that runs, under names that do not clash.

from optgen.runtime.layout import Shard     ->   class Shard(NamedTuple): ...
from optgen.runtime import keys                  class Key(NamedTuple):
key = keys.Key(words, Shard())                   key = Key(words, Shard())
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from optgen.backends.render import format_files
from optgen.backends.view import in_docstring
from optgen.build import Built
from optgen.output import OutputError
from optgen.vendor.modules import RUNTIME, Inside, Module, Outside, read_module
from optgen.vendor.references import Reference, references

__all__ = ["vendor"]

FOLDER = Path(__file__).resolve().parent.parent / "runtime"
TRITON = """
try:
    import triton
    import triton.language as tl
except ImportError:  # the kernels need it, the torch code does not
    triton = None
"""
NOTICE = """\
One file, to paste into a training repository: it needs torch and, for kernels on a GPU, Triton.
Of it, what is not this optimizer's own is optgen's runtime. SPDX-License-Identifier: MIT; Copyright (c) 2026 the optgen authors.\
"""
KEPT = frozenset({"triton", "tl"})  # imported with a fallback


def vendor(built: Built) -> str:
    """The package of a built spec as one file.

    Raises:
        OutputError: if the class has the name of something that the runtime uses.
    """
    file = _File()
    files = dict(built.files)
    kernels = f'CPP_SOURCE = r"""{_with_headers(files.pop("cpp_backend.cpp"), set())}"""'
    files["cpp_backend.py"] = re.sub(r"^CPP_SOURCE = .*$", lambda _: kernels, files["cpp_backend.py"], flags=re.MULTILINE)
    for name, text in files.items():
        module = "." if name == "__init__.py" else f".{name.removesuffix('.py')}"
        file.modules[module] = read_module(module, text)
    file.need(".", built.spec.name)
    if built.spec.name in file.taken() or hasattr(builtins, built.spec.name):
        raise OutputError(
            f"a class {built.spec.name} cannot be in one file with the runtime, which means something else by this name: "
            "rename it, or build a package"
        )
    header = [line + (" --vendor" if "regenerate:" in line else "") for line in built.files["__init__.py"].split("\n")[:2]]
    doc = f'"""{in_docstring(file.modules["."].doc)}\n\n{NOTICE}\n"""'
    parts = [*header, doc, "from __future__ import annotations", *file.imports(), TRITON, f'__all__ = ["{built.spec.name}"]']
    text = "\n".join([*parts, *file.text(needs_triton=False)])
    kernels = "\n".join(file.text(needs_triton=True))
    own = file.order()[-1]
    at = text.index(file.banner(own))
    text = f"{text[:at]}if triton is not None:\n{textwrap.indent(kernels, '    ')}\n\n{text[at:]}"
    return format_files({f"{built.spec.name}.py": text})[f"{built.spec.name}.py"]


def _with_headers(text: str, seen: set[str]) -> str:
    """A C++ source with the runtime's headers written out where they are first included."""

    def written(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        return _with_headers((FOLDER / "cpp" / name).read_text(encoding="utf-8"), seen)

    return re.sub(r'^#include "(.+)"\n', written, text.replace("#pragma once\n", ""), flags=re.MULTILINE)


@dataclass
class _File:
    """What has been found to be needed so far."""

    modules: dict[str, Module] = field(default_factory=dict)
    needed: dict[tuple[str, str], list[Reference]] = field(default_factory=dict)
    outside: set[Outside] = field(default_factory=set)

    def module(self, name: str) -> Module:
        if name not in self.modules:
            path = FOLDER / f"{name.removeprefix(f'{RUNTIME}.')}.py"
            self.modules[name] = read_module(name, path.read_text(encoding="utf-8"))
        return self.modules[name]

    def need(self, module_name: str, name: str) -> None:
        """Take a definition, and all that it speaks of."""
        todo = [(module_name, name)]
        while todo:
            place = todo.pop()
            if place in self.needed:
                continue
            module = self.module(place[0])
            found = references(module.definitions[place[1]])
            self.needed[place] = found
            for reference in found:
                target = self.target(module, reference)
                if isinstance(target, Outside):
                    self.outside.add(target)
                elif target is not None:
                    todo.append(target)

    def target(self, module: Module, reference: Reference) -> tuple[str, str] | Outside | None:
        """What a reference means: a definition, an import from outside, or None for a built-in."""
        name = reference.name
        if name in module.definitions:
            return module.name, name
        match module.imports.get(name):
            case Inside(module=source, name=str(defined)):
                return self.definition(source, defined)
            case Inside(module=source, name=None):
                assert reference.attribute is not None, f"{module.name}: the module {name} is passed on"
                return self.definition(source, reference.attribute)
            case Outside() as outside:
                return outside
        assert hasattr(builtins, name) or name.startswith("__"), f"{module.name}:{reference.line}: what is {name}?"
        return None

    def definition(self, source: str, name: str) -> tuple[str, str] | Outside:
        """Where a name is defined that a module defines or only passes on."""
        while name not in self.module(source).definitions:
            found = self.module(source).imports[name]
            if isinstance(found, Outside):
                return found
            assert found.name is not None
            source, name = found.module, found.name
        return source, name

    def order(self) -> list[Module]:
        """The modules, each behind those that it imports; the class comes last."""
        ordered: dict[str, Module] = {}

        def place(name: str) -> None:
            for used in self.module(name).uses:
                if used not in ordered:
                    place(used)
            ordered[name] = self.module(name)

        place(".")
        return list(ordered.values())

    def outside_names(self) -> set[str]:
        """The names that are bound by imports."""
        return {name for found in self.outside for name in re.findall(r"\w+$", found.statement)}

    def taken(self) -> set[str]:
        """The names that the runtime has for itself."""
        return self.outside_names() | {name for module, name in self.needed if module != "."}

    def names(self) -> dict[tuple[str, str], str]:
        """The name of every definition in the file: its own for the optimizer's code, and wherever it is still free."""
        taken = {*self.outside_names(), *KEPT}
        chosen: dict[tuple[str, str], str] = {}
        for module in reversed(self.order()):
            for name in (name for owner, name in self.needed if owner == module.name):
                short = module.name.rpartition(".")[2]
                new = name if name not in taken else f"_{short}{name}" if name.startswith("_") else f"{short}_{name}"
                assert new not in taken, new
                taken.add(new)
                chosen[module.name, name] = new
        return chosen

    def imports(self) -> list[str]:
        """The imports of the file."""
        lines = sorted({found.statement for found in self.outside if not found.typing and "triton" not in found.statement})
        typing = sorted({found.statement for found in self.outside if found.typing})
        if typing:
            lines += ["from typing import TYPE_CHECKING", "if TYPE_CHECKING:", *(f"    {line}" for line in typing)]
        return lines

    def banner(self, module: Module) -> str:
        """What stands above the definitions of a module."""
        return f"# {module.name.removeprefix(f'{RUNTIME}.').strip('.') or 'the optimizer'}: {module.doc}"

    def text(self, *, needs_triton: bool) -> list[str]:
        """The definitions of all modules that need Triton, or of those that do not."""
        names = self.names()
        parts = []
        for module in self.order():
            own = {name for owner, name in self.needed if owner == module.name}
            if module.needs_triton == needs_triton and own:
                parts.append(f"\n\n{self.banner(module)}")
                parts += [self.renamed(module, name, names) for name in module.definitions if name in own]
        return parts

    def renamed(self, module: Module, name: str, names: dict[tuple[str, str], str]) -> str:
        """The text of a definition with the names of the file."""
        statement = module.definitions[name]
        edits = [_name_of(statement, module, names[module.name, name])]
        for reference in self.needed[module.name, name]:
            target = self.target(module, reference)
            if isinstance(target, tuple):
                is_module = isinstance(inside := module.imports.get(reference.name), Inside) and inside.name is None
                new = names[target] if is_module or reference.attribute is None else f"{names[target]}.{reference.attribute}"
                old = reference.name if reference.attribute is None else f"{reference.name}.{reference.attribute}"
                assert new == old or not reference.in_string, f"{module.name}:{reference.line}: {old} stands in an f-string"
                if new != old:
                    edits.append((reference.line, reference.column, reference.end, new))
        return _edited(module, statement, edits)


def _name_of(statement: ast.stmt, module: Module, new: str) -> tuple[int, int, int, str]:
    """The edit that renames a definition."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        line = module.text.split("\n")[statement.lineno - 1].encode()
        found = re.compile(rb"(?:def|class)\s+(\w+)").search(line, statement.col_offset)
        assert found is not None
        return statement.lineno, found.start(1), found.end(1), new
    assert isinstance(statement, ast.Assign | ast.AnnAssign)
    target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
    return target.lineno, target.col_offset, target.end_col_offset or 0, new


def _edited(module: Module, statement: ast.stmt, edits: Iterable[tuple[int, int, int, str]]) -> str:
    """A statement with the comments right above it, without the imports that are part of the file now."""
    lines = module.text.encode().split(b"\n")
    for line, start, end, new in sorted(set(edits), reverse=True):
        lines[line - 1] = lines[line - 1][:start] + new.encode() + lines[line - 1][end:]
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
    last = statement.end_lineno or first
    while lines[first - 2].startswith(b"#"):
        first -= 1
    gone = {line for node in module.dropped for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    kept = [lines[i - 1] for i in range(first, last + 1) if i not in gone]
    gap = "\n\n" if isinstance(statement, ast.FunctionDef | ast.ClassDef) else ""
    return gap + b"\n".join(kept).decode()
