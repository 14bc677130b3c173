"""Bytes of optimizer state for the parameters of a model, with what is easily forgotten: fallbacks, scales, padding."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optgen.ir.constants import by_part, default_flags
from optgen.ir.nodes import VECTORS, Domain, Program, State
from optgen.runtime.layout import vector_shape, view_shape
from optgen.runtime.rules import Parameter
from optgen.spec.model import Spec
from optgen.storage.codebooks import state_codes

__all__ = [
    "MATRIX",
    "MODELS",
    "PARTS",
    "VECTOR",
    "Model",
    "ModelError",
    "ParameterMemory",
    "Shape",
    "binary_unit",
    "exists_by_default",
    "kept_states",
    "kept_vectors",
    "load_model",
    "memory",
]

MATRIX, VECTOR = Parameter("weight", (4096, 4096)), Parameter("bias", (4096,))  # such as most parameters are
FOLDER = Path(__file__).parent / "models"
MODELS = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
ADAM_BYTES = 8  # of float32 Adam, per parameter
PARTS = ("codes", "scales", "padding", "floats", "float32 fallback", "counters")  # what bytes of state are spent on


class ModelError(ValueError):
    """A shapes file that cannot be used; the message says where and what was expected."""


@dataclass(frozen=True)
class Shape:
    """Parameters of one shape: `count` of them share the name pattern."""

    name: str
    shape: tuple[int, ...]
    count: int = 1

    @property
    def elements(self) -> int:
        """Elements of all of them."""
        return math.prod(self.shape) * self.count


@dataclass(frozen=True)
class Model:
    """The parameters of a model."""

    name: str
    source: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """Parameters of the model."""
        return sum(shape.elements for shape in self.shapes)


@dataclass(frozen=True)
class ParameterMemory:
    """State of the parameters of one shape: bytes by what they are spent on, and which states are kept as codes.

    `fallback` names the states that are float32 because the parameter is too small for their codes. The parts are bytes of
    "codes", of their "scales" and "padding", of "floats" as the spec has them, of "float32 fallback" and of "counters":
    step numbers, keys of stochastic rounding and host scalars.
    """

    shape: Shape
    parts: Mapping[str, int]
    coded: tuple[str, ...]
    fallback: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """All of them."""
        return sum(self.parts.values())


def load_model(name: str) -> Model:
    """A model that ships with optgen, by name, or one described by a JSON file.

    The file is `{"name": ..., "parameters": [{"name": ..., "shape": [...], "count": 1}]}` or `{"weight": [rows, cols]}`.

    Raises:
        ModelError: if there is no such model or the file does not say shapes.
    """
    path = FOLDER / f"{name}.json" if name in MODELS else Path(name)
    if not path.is_file():
        raise ModelError(f"there is no model '{name}': expected a file of shapes or one of {', '.join(MODELS)}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: this is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f'{path}: expected a mapping like {{"weight": [4096, 4096]}}, got {type(data).__name__}')
    entries = data.get("parameters")
    if not isinstance(entries, list):
        entries = [{"name": key, "shape": value} for key, value in data.items()]
    shapes = tuple(_shape(entry, path) for entry in entries)
    return Model(str(data.get("name", path.stem)) if "parameters" in data else path.stem, str(data.get("source", "")), shapes)


def _shape(entry: Any, path: Path) -> Shape:
    if not isinstance(entry, dict) or "shape" not in entry:
        raise ModelError(f"{path}: each parameter needs 'name' and 'shape', got {entry!r}")
    name, shape, count = str(entry.get("name", "parameter")), entry["shape"], entry.get("count", 1)
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise ModelError(f"{path}: the shape of '{name}' must be a list of sizes, got {shape!r}")
    if not _is_size(count) or count < 1:
        raise ModelError(f"{path}: the count of '{name}' must be a whole number from 1, got {count!r}")
    return Shape(_printable(name), tuple(shape), count)


def _printable(name: str) -> str:
    """A name without what cannot be shown."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def memory(spec: Spec, programs: Sequence[Program], model: Model) -> list[ParameterMemory]:
    """Bytes of state for every shape of a model, with all flags at their defaults.

    Step counters (4 bytes a parameter tensor), keys and host scalars (8 bytes each) are included. Rules are chosen by shape
    and name; no parameter has a tag.

    Raises:
        ModelError: for a parameter that no rule updates.
    """
    by_rule = {rule.name: program for rule, program in zip(spec.parts, programs, strict=True)}
    found = []
    for shape in model.shapes:
        rule = spec.rule_for(Parameter(shape.name, shape.shape))
        if rule is None:
            raise ModelError(f"{spec.name}: no rule updates '{shape.name}' of shape {shape.shape}")
        found.append(_parameter(by_rule[rule.name], shape))
    return found


def _seen(program: Program, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a rule sees of a parameter, every hyperparameter at its default; its own where that does not divide it."""
    size = int(by_part(program, {})[program.view]) if program.view else 0
    least = {"rows": 2, "cols": 1, "matrix": 2}.get(program.cut, 0)
    divided = {"rows": -2, "cols": -1}.get(program.cut)
    if not program.cut or len(shape) < least or (divided is not None and shape[divided] % size):
        return shape
    return view_shape(shape, program.cut, size)


def _parameter(program: Program, shape: Shape) -> ParameterMemory:
    parts, coded, fallback = dict.fromkeys(PARTS, 0), [], []
    is_random = any(how is not None and how.rounding != "nearest" for s in program.states for how in (s.storage, s.floats))
    scalars = sum(state.scalar and exists_by_default(program, state) for state in program.states)
    parts["counters"] = 4 + 8 * is_random + 8 * scalars + 4 * len(kept_numbers(program))
    seen = _seen(program, shape.shape)
    for state in (*kept_states(program), *kept_vectors(program)):
        if state.domain in VECTORS and len(seen) < 2:
            raise ModelError(
                f"'{shape.name}' has shape {list(shape.shape)}: {program.name} needs rows and columns: "
                "let it be a rule with 'when: ndim >= 2' of a spec whose 'otherwise' takes the others"
            )
        codes, size = state_codes(state), math.prod(vector_shape(state.shape, seen) if state.domain in VECTORS else shape.shape)
        if codes is None:
            parts["floats"] += (4 if state.floats is None else 2) * size
        elif codes.applies_to(shape.shape):
            exact = -(-size * codes.bits // 8)
            parts["codes"] += exact
            parts["padding"] += math.prod(codes.codes_shape(shape.shape)) - exact
            parts["scales"] += codes.nbytes(shape.shape) - math.prod(codes.codes_shape(shape.shape))
            coded.append(state.name)
        else:
            parts["float32 fallback"] += 4 * size
            fallback.append(state.name)
    counted = {name: nbytes * shape.count for name, nbytes in parts.items()}
    return ParameterMemory(shape, counted, tuple(coded), tuple(fallback))


def kept_states(program: Program) -> list[State]:
    """The states that a parameter has when every hyperparameter has its default, without single numbers."""
    return [state for state in program.states if state.domain == Domain.ELEMENT and exists_by_default(program, state)]


def kept_vectors(program: Program) -> list[State]:
    """The states of a number for each row, column or matrix that a parameter has when every hyperparameter has its default."""
    return [state for state in program.states if state.domain in VECTORS and exists_by_default(program, state)]


def kept_numbers(program: Program) -> list[State]:
    """The states of one number of all elements that a parameter has when every hyperparameter has its default."""
    return [state for state in program.states if state.whole and exists_by_default(program, state)]


def binary_unit(nbytes: int) -> tuple[int, str]:
    """The largest binary unit of which there is one: its bytes and its name."""
    power = min(3, max(0, nbytes.bit_length() - 1) // 10)
    return 1024**power, ("B", "KiB", "MiB", "GiB")[power]


def exists_by_default(program: Program, state: State) -> bool:
    """Whether a state exists when every hyperparameter has its default."""
    return state.when is None or default_flags(program)[state.when.flag] == state.when.holds
