"""A spec to start from."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from optgen.diagnostics.diagnostic import quoted
from optgen.ir.names import is_class_name, is_reserved_class

__all__ = ["file_name", "new_spec"]

TEMPLATE = Path(__file__).with_name("template.yaml")


def file_name(name: str) -> Path:
    """Where the spec of a class goes, if the user does not say: `MyAdam` -> my_adam.yaml."""
    return Path(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + ".yaml")


def new_spec(name: str, path: Path, package: str) -> str:
    """The text of a commented spec for a class `name`, to be written to `path` and built as `package`.

    Raises:
        ValueError: if `name` cannot be the name of a class, or `path` that of a YAML file.
    """
    if not is_class_name(name):
        raise ValueError(f"{quoted(name)} cannot be a class: write a capital letter, then letters and digits, as in 'MyAdam'")
    if is_reserved_class(name):
        raise ValueError(f"{quoted(name)} already has a meaning in generated code: take another name, such as 'My{name}'")
    if path.suffix != ".yaml":
        raise ValueError(f"{quoted(path.name)} is no place for a spec in YAML: write a name that ends in .yaml")
    text = TEMPLATE.read_text(encoding="utf-8")
    return Template(text).substitute(name=name, file=path.as_posix(), package=package)
