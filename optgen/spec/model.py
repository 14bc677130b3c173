"""The Spec: what the user wrote, read and merged, before any checking of the update rule."""

from dataclasses import dataclass, field

from optgen.diagnostics import Source, Span
from optgen.ir.formula import Assignment, Branch, FormulaText
from optgen.ir.nodes import Hyper, State

__all__ = ["Spec"]


@dataclass(frozen=True)
class Spec:
    """One optimizer as its spec declares it.

    `conditions` holds the text of each state's `when`; `inits` that of each state's `init`; `spans` says where
    a declaration stands, for the diagnostics of later checks. `unread` holds names whose declaration is at fault: they are
    known, and nothing more is reported of them. `removed` holds the names that a spec takes from what it extends.
    """

    name: str
    summary: str
    reference: str
    source: Source
    hypers: tuple[Hyper, ...]
    states: tuple[State, ...]
    conditions: dict[str, FormulaText]
    inits: dict[str, FormulaText]
    update: tuple[Assignment | Branch, ...]
    update_text: str
    spans: dict[str, Span] = field(repr=False)
    unread: frozenset[str] = frozenset()
    removed: dict[str, Span] = field(default_factory=dict, repr=False)
