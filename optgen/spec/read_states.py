"""The `state` table -> states: shape, sign, initial value, saved name and storage."""

from __future__ import annotations

import collections.abc
import re
from dataclasses import replace

from optgen.diagnostics import Diagnostics, Label, Span
from optgen.diagnostics.diagnostic import quoted, suggest
from optgen.ir.formula import FormulaText
from optgen.ir.nodes import SHAPES, VECTORS, Domain, Floats, State, Storage
from optgen.ir.ops import SCOPES as OVER_PARAMETERS
from optgen.spec.fields import Fields, is_number
from optgen.spec.named_storages import NamedStorages
from optgen.spec.read_hypers import check_name
from optgen.spec.yaml_nodes import Mapping, Node, Scalar, Sequence
from optgen.storage.codebooks import CODEBOOKS, OPTIONS, check_sizes, check_storage

__all__ = ["StateReader", "with_rows"]

KEYS = ("like", "shape", "scope", "sign", "init", "save_as", "when", "storage", "doc")
STORAGE_KEYS = ("codebook", "bits", "block", "rounding", *OPTIONS, "min_size", "min_ndim")
FLOATS = ("bfloat16", "float16")
SCOPES = ("row", "tensor", "rank1")
PADDING = 128  # elements that rows are padded to where a row or the tensor shares a scale, or an element has its own
ROUNDINGS = ("nearest", "stochastic", "unbiased")
SAVE_AS = re.compile(r"[a-z][a-z0-9_]{0,59}")
TAKEN_KEYS = {"step": "the step counter", "rounding_key": "the key of stochastic rounding", "correction": "what rounding took"}


class StateReader:
    """Reads every state; formulas (`when`, `init`) are kept as text until the symbols are known."""

    def __init__(self, fields: Fields, storages: NamedStorages, parent: Scalar | None = None) -> None:
        """Use `fields` to read values and to report faults; `parent` names what the spec extends."""
        self.storages = storages
        self.fields = fields
        self.parent = parent
        self.found: Diagnostics = fields.found
        self.conditions: dict[str, FormulaText] = {}
        self.inits: dict[str, FormulaText] = {}
        self.spans: dict[str, Span] = {}
        self.saved: dict[str, Span] = {}
        self.unread: set[str] = set()

    def read(self, node: Node | None) -> tuple[State, ...]:
        """Read the `state` table."""
        states = []
        entries = self.fields.entries(node, "'state'") if node is not None else ()
        for key, value in entries:
            if self.parent is not None and self.parent.span.source == key.span.source and _is_change(value):
                self.nothing_to_change(key, entries, self.parent.text)
                self.unread.add(key.text)
            elif check_name(key, self.fields):
                self.spans[key.text] = key.span
                states.append(self.state(key, value))
            else:
                self.unread.add(key.text)
        return with_rows(states)

    def nothing_to_change(self, key: Scalar, entries: tuple[tuple[Scalar, Node], ...], parent: str) -> None:
        """Report a change to a state that the parent does not have; one may be meant by the name it is saved under."""
        saved = {_saved(name, value): name.text for name, value in entries if name is not key}
        help_text = f"did you mean '{saved[key.text]}'?" if key.text in saved else suggest(key.text, saved.values())
        message = f"{quoted(parent)} has no state {quoted(key.text)} to change"
        self.found.add("missing-key", message, key.span, help=help_text, note="a new state needs 'like: p' or 'shape: scalar'")

    def state(self, key: Scalar, node: Node) -> State:
        what = f"state '{key.text}'"
        table = self.fields.table(node, what, KEYS)
        domain = self.domain(key, table, what)
        unsigned = "sign" in table and self.fields.choice(table["sign"], "'sign'", ("signed", "unsigned")) == "unsigned"
        for name, texts in (("when", self.conditions), ("init", self.inits)):
            if name in table:
                formula = self.fields.formula(table[name], f"'{name}' of {what}", block=False)
                if formula is not None:
                    texts[key.text] = formula
        how = self.storages.resolve(table["storage"]) if "storage" in table else None
        floats = self.floats(how) if how is not None else None
        storage = self.storage(key, how, unsigned) if how is not None and floats is None else None
        if (storage is not None or floats is not None) and domain not in (Domain.ELEMENT, *VECTORS):
            self.found.add("bad-value", f"{what} is one number and has no storage", table["storage"].span, help="remove it")
        elif storage is not None and storage.scope != "block" and domain in VECTORS:
            message = f"{what} is of rows or columns, whose numbers share scales in blocks"
            self.found.add("bad-value", message, table["storage"].span, help="give a number of elements, as in 'block: 128'")
        doc = (self.fields.text(table["doc"], f"the doc of {what}") or "") if "doc" in table else ""
        save_as, scope = self.save_as(key, table), self.scope(table, domain, what)
        return State(key.text, save_as, domain, unsigned, storage=storage, floats=floats, doc=doc, scope=scope)

    def scope(self, table: dict[str, Node], domain: Domain, what: str) -> str:
        """Whose a state is."""
        choices = ("parameter", *OVER_PARAMETERS)
        scope = (self.fields.choice(table["scope"], f"'scope' of {what}", choices) if "scope" in table else None) or choices[0]
        if scope in OVER_PARAMETERS and domain != Domain.TENSOR:
            message = f"{what} is one for all parameters of the {scope}, and so one number"
            self.found.add("bad-value", message, table["scope"].span, help="write 'shape: tensor', or nothing but the scope")
            return choices[0]
        if scope in OVER_PARAMETERS and "when" in table:
            self.found.add("bad-value", f"{what} is shared, and always there", table["when"].span, help="remove 'when'")
        return scope

    def domain(self, key: Scalar, table: dict[str, Node], what: str) -> Domain:
        shape = None
        if "like" in table:
            self.fields.choice(table["like"], f"'like' of {what}", ("p",))
        if "shape" in table:
            shape = self.shape(table["shape"], what)
        if "like" in table and "shape" in table:
            self.found.add("bad-value", f"{what} has both 'like' and 'shape'", table["shape"].span, help="keep one of them")
        elif "like" not in table and "shape" not in table and "scope" in table:
            return Domain.TENSOR
        elif "like" not in table and "shape" not in table:
            help_text = "add 'like: p' for one value per element, 'shape: scalar' or 'shape: tensor' for one number"
            self.found.add("missing-key", f"{what} needs a shape", key.span, help=help_text)
        return Domain.ELEMENT if "shape" not in table else next((d for d, text in SHAPES.items() if text == shape), Domain.HOST)

    def shape(self, node: Node, what: str) -> str | None:
        """The shape of a state: a word, or a list of dimensions."""
        shapes = [text for text in SHAPES.values() if text.startswith("[")]
        if isinstance(node, Scalar) and not node.text.startswith("["):
            return self.fields.choice(node, f"'shape' of {what}", ("scalar", "tensor", *shapes))
        items = node.items if isinstance(node, Sequence) else ()
        text = node.text if isinstance(node, Scalar) else f"[{', '.join(x.text for x in items if isinstance(x, Scalar))}]"
        if text in shapes:
            return text
        message = f"'shape' of {what} cannot be {quoted(text)}"
        help_text = f"write {', '.join(shapes[:-1])} or {shapes[-1]}, 'scalar' or 'tensor'"
        self.found.add("bad-value", message, node.span, help=help_text)
        return None

    def save_as(self, key: Scalar, table: dict[str, Node]) -> str:
        """The key in a state dict; by default the state's own name. No two states share one."""
        node = table.get("save_as")
        name = self.fields.text(node, "'save_as'") if node is not None else key.text
        span = node.span if node is not None else key.span
        if name is None:
            return key.text
        if not SAVE_AS.fullmatch(name):
            help_text = "use lower-case letters, digits and underscores, as in 'exp_avg'"
            self.found.add("bad-name", f"{quoted(name)} cannot be a key of a state dict", span, help=help_text)
        elif name in TAKEN_KEYS:
            self.found.add(
                "reserved-name", f"'{name}' is {TAKEN_KEYS[name]} in every state dict", span, help="take another key"
            )
        elif name in self.saved:
            first = (Label(self.saved[name], "first used here"),)
            self.found.add("name-clash", f"two states are saved as '{name}'", span, secondary=first, help="take another key")
        self.saved.setdefault(name, span)
        return name

    def floats(self, node: Node) -> Floats | None:
        """The `storage` of a state that is a 16-bit float per element; None if it is anything else."""
        if not isinstance(node, Mapping):
            return None
        options = {key.text: value for key, value in node.entries}
        codebook = options.get("codebook")
        if not isinstance(codebook, Scalar) or codebook.text not in FLOATS:
            return None
        for name, value in options.items():
            if name not in ("codebook", "rounding"):
                help_text = f"remove it; to undo what is inherited, write 'storage: {codebook.text}'"
                self.found.add("bad-value", f"{codebook.text} values have no {quoted(name)}", value.span, help=help_text)
        return Floats(codebook.text, self.rounding(options, ROUNDINGS[:2]) or "nearest")

    def rounding(self, table: dict[str, Node], choices: tuple[str, ...]) -> str | None:
        return self.fields.choice(table["rounding"], "'rounding'", choices) if "rounding" in table else "nearest"

    def storage(self, key: Scalar, node: Node, unsigned: bool) -> Storage | None:
        """The `storage` of a state as codes: `float32` (the default) for none, or a codebook with its options."""
        if isinstance(node, Scalar):
            if node.text != "float32":
                meant = next((bits for bits in "8432" if bits in re.findall("[0-9]+", node.text)), "4")
                help_text = f"write '{{codebook: dynamic_exponent, bits: {meant}, block: 128}}', or a name: float32, {', '.join(sorted(self.storages.known))}"
                shown = quoted(node.text) if node.text else "empty"
                self.found.add("bad-value", f"'storage' cannot be {shown}", node.span, help=help_text)
            return None
        table = self.fields.table(node, "'storage'", STORAGE_KEYS)
        codebook = self.fields.choice(table["codebook"], "'codebook'", (*CODEBOOKS, *FLOATS)) if "codebook" in table else None
        possible = CODEBOOKS[codebook].bits if codebook in CODEBOOKS else ()
        only = possible[0] if len(possible) == 1 else None
        for name, example in (("codebook", "codebook: linear"), ("bits", "bits: 4"), ("block", "block: 128")):
            if name not in table and not (name == "bits" and only):
                message = f"the storage of '{key.text}' needs the key '{name}'"
                self.found.add("missing-key", message, node.span, help=f"add '{example}'")
        bits = self.fields.integer(table["bits"], "'bits'", 1, 8) if "bits" in table else only
        block, scope = self.block(table["block"]) if "block" in table else (None, "block")
        storage = self.options(table, codebook, bits, block)
        storage = replace(storage, scope=scope) if storage is not None else None
        spans = {name: value.span for name, value in table.items()}
        if storage is not None:
            check_storage(storage, unsigned, spans, self.found)
        else:
            check_sizes(bits, block, spans, self.found)
        return storage

    def block(self, node: Node) -> tuple[int | None, str]:
        """Elements that share a scale; a row or the tensor is padded to blocks of a usual size."""
        if isinstance(node, Scalar) and node.style is None and node.text in SCOPES:
            return PADDING, node.text
        if isinstance(node, Scalar) and not is_number(node):
            help_text = "'block: 128' for blocks, 'row' or 'tensor' for one scale each, 'rank1' for scales of rows and columns"
            self.fields.wrong_type(node, "'block'", "a whole number, 'row', 'tensor' or 'rank1'", help_text)
            return None, "block"
        return self.fields.integer(node, "'block'", 32, 2048), "block"

    def options(self, table: dict[str, Node], codebook: str | None, bits: int | None, block: int | None) -> Storage | None:
        fields = self.fields
        rounding = self.rounding(table, ROUNDINGS)
        quantile = fields.number(table["quantile"], "'quantile'") if "quantile" in table else None
        published = bool(fields.boolean(table["published"], "'published'")) if "published" in table else False
        zero = bool(fields.boolean(table["zero"], "'zero'")) if "zero" in table else False
        power = fields.integer(table["power"], "'power'", 1, 8) if "power" in table else None
        levels = self.levels(table["levels"]) if "levels" in table else ()
        size = fields.integer(table["min_size"], "'min_size'", 0, 2**62) if "min_size" in table else 4096
        ndim = fields.integer(table["min_ndim"], "'min_ndim'", 1, 8) if "min_ndim" in table else 2
        if (
            codebook is None
            or bits is None
            or block is None
            or rounding is None
            or size is None
            or ndim is None
            or levels is None
        ):
            return None
        return Storage(codebook, bits, block, rounding, quantile, published, size, ndim, zero, power, levels)

    def levels(self, node: Node) -> tuple[float, ...] | None:
        numbers = [self.fields.number(item, "a level") for item in self.fields.sequence(node, "'levels'") or ()]
        known = tuple(number for number in numbers if number is not None)
        return known if numbers and len(known) == len(numbers) else None


def with_rows(states: collections.abc.Sequence[State]) -> tuple[State, ...]:
    """States of one shape have rows that are alike: with at least the elements of the largest block."""
    rows: dict[Domain, int] = {}
    for state in states:
        if state.storage is not None:
            rows[state.domain] = max(rows.get(state.domain, 0), state.storage.block)
    return tuple(
        replace(s, storage=replace(s.storage, row=rows[s.domain]))
        if s.storage is not None and s.storage.block < rows[s.domain]
        else s
        for s in states
    )


def _is_change(node: Node) -> bool:
    """Whether an entry says something of a state, but not what it is."""
    return (
        isinstance(node, Mapping)
        and bool(node.entries)
        and not {"like", "shape", "scope"} & {key.text for key, _ in node.entries}
    )


def _saved(key: Scalar, node: Node) -> str:
    """The key in a state dict."""
    table = {name.text: value for name, value in node.entries} if isinstance(node, Mapping) else {}
    name = table.get("save_as", key)
    return name.text if isinstance(name, Scalar) else key.text
