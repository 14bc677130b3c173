"""The Spec: what the user wrote, read and merged, before any checking of the update rule."""

from dataclasses import dataclass, field

from optgen.diagnostics import Source, Span
from optgen.ir.formula import Assignment, Branch, FormulaText
from optgen.ir.nodes import Hyper, Input, State
from optgen.runtime.rules import Parameter
from optgen.spec.conditions import Condition

__all__ = ["Blocks", "Rule", "Spec"]


@dataclass(frozen=True)
class Spec:
    """One optimizer as its spec declares it.

    `conditions` holds the text of each state's `when`; `inits` that of each state's `init`; `spans` says where
    a declaration stands, for the diagnostics of later checks. `unread` holds names whose declaration is at fault: they are
    known, and nothing more is reported of them. `removed` holds the names that a spec takes from what it extends.

    A spec with `rules` has states and updates in these alone.
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
    rules: tuple["Rule", ...] = ()
    cut: str = ""  # of a rule: how it sees parameters in another shape
    view: str = ""  # and the hyperparameter that says into how many rows or columns they are cut
    blocks: "Blocks | None" = None
    inputs: tuple[Input, ...] = ()
    before: tuple["Rule", ...] = ()  # transforms of the gradient, in their order
    after: tuple["Rule", ...] = ()  # and of the change of p
    is_transform: bool = False
    points: dict[str, tuple[Assignment | Branch, ...]] = field(default_factory=dict)  # `eval` and `train`, or neither
    point_texts: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple["Rule", ...]:
        """Its rules, or itself as the only one, without a name."""
        return self.rules or (Rule("", None, self),)

    def rule_for(self, p: Parameter) -> "Rule | None":
        """The rule that updates a parameter; None if none does.

        Raises:
            NamelessError: if a condition asks for the name of one that has none.
        """
        return next((rule for rule in self.parts if rule.condition is None or rule.condition.holds(p)), None)

    def place_of(self, p: Parameter) -> int:
        """The place of the rule that updates a parameter among all; the first if none does."""
        rule = self.rule_for(p)
        return next((place for place, other in enumerate(self.parts) if rule is not None and other.name == rule.name), 0)


@dataclass(frozen=True)
class Blocks:
    """Blocks of parameters take turns of so many steps, in this order: these are defaults of the class."""

    every: int
    order: str


@dataclass(frozen=True)
class Rule:
    """What is done to parameters for which the condition holds, and that of no earlier rule; None holds for all others.

    `spec` has the states and the update. It is another spec where `uses` names one. Of its hyperparameters those in `shared`
    are arguments of the whole spec by these names, the others become arguments with the rule's name in front.
    """

    name: str
    condition: Condition | None
    spec: Spec
    uses: str = ""
    shared: dict[str, str] = field(default_factory=dict)
    span: Span | None = field(default=None, compare=False, repr=False)
    of_all: bool = False  # of a transform: whether all rules of a spec have it

    @property
    def when(self) -> str:
        """Its condition in words of the spec; empty where there is only one rule."""
        if not self.name:
            return ""
        return self.condition.text if self.condition is not None else "otherwise"

    @property
    def added(self) -> list[Hyper]:
        """The hyperparameters of a used spec that become arguments of their own."""
        return [hyper for hyper in self.spec.hypers if hyper.name not in self.shared] if self.uses else []
