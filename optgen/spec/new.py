"""A spec to start from."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from optgen.diagnostics.diagnostic import quoted
from optgen.ir.names import is_reserved_class

__all__ = ["TEMPLATE", "new_spec"]

TEMPLATE = Path(__file__).with_name("template.yaml")
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,59}")


def new_spec(name: str, path: Path) -> str:
    """The text of a commented spec for a class `name`, to be written to `path`.

    Raises:
        ValueError: if `name` cannot be the name of a class.
    """
    if not CLASS_NAME.fullmatch(name) or is_reserved_class(name):
        raise ValueError(f"{quoted(name)} cannot be a class: write a capital letter, then letters and digits, as in 'MyAdam'")
    text = TEMPLATE.read_text(encoding="utf-8")
    return Template(text).substitute(name=name, file=path.as_posix(), package=path.stem)
