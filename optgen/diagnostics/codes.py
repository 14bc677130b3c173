"""The stable codes of diagnostics, with reasons and examples: data in codes.yaml, read by `optgen explain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["Code", "load_codes"]


@dataclass(frozen=True)
class Code:
    """One rule: a title, why it exists, an excerpt of a spec that breaks it and one that keeps it."""

    title: str
    why: str
    bad: str
    good: str


def load_codes() -> dict[str, Code]:
    """Every code, in alphabetical order."""
    text = (Path(__file__).parent / "codes.yaml").read_text(encoding="utf-8")
    return {name: Code(**entry) for name, entry in sorted(yaml.safe_load(text).items())}
