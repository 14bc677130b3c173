"""Which names a spec may give, and the readable names that the compiler gives to expressions."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection

from optgen.ir.nodes import Const, Expr, Op, Ref
from optgen.ir.ops import WORDS
from optgen.runtime.given import GIVEN

__all__ = ["INPUTS", "free_name", "is_class_name", "is_reserved", "is_reserved_class", "is_symbol_name", "name_for"]

INPUTS = ("p", "g", "t")
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,59}")
SYMBOL = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Names that generated code uses for itself beside the spec's own.
GENERATED = frozenset(
    [
        "abs",
        "absolute",
        "block_count",
        "block_low",
        "block_scalars",
        "block_select",
        "bool",
        "choose_int",
        "choose_real",
        "column_values",
        "compile_",
        "correction",
        "defaults",
        "divide",
        "exp2_bend",
        "exp2_fixed",
        "exp2_rough",
        "false",
        "float",
        "float32",
        "from_blocks",
        "grad",
        "grid_parts",
        "grid_tile",
        "grid_words",
        "hash_bits",
        "hashed",
        "int",
        "integer_at",
        "invert",
        "join_strips",
        "key",
        "load",
        "load_elements",
        "load_rows",
        "load_scalars",
        "load_whole",
        "max",
        "maximize",
        "matrix_value",
        "maximum",
        "min",
        "minimum",
        "log2_fixed",
        "lookup",
        "lookup_16",
        "lookup_2",
        "lookup_4",
        "lookup_8",
        "mul_high",
        "mul_high16",
        "none",
        "pack",
        "param",
        "part_max",
        "part_min",
        "part_sum",
        "params",
        "pointer",
        "random_bits",
        "random_elements",
        "random_words",
        "read_parameter",
        "real",
        "scalars",
        "seed",
        "self",
        "share16",
        "signed_word",
        "spec",
        "state",
        "step",
        "step_at",
        "stochastic_bfloat16",
        "stochastic_float16",
        "store",
        "store_elements",
        "store_number",
        "store_strips",
        "strip_max",
        "strip_min",
        "strip_sum",
        "row_values",
        "store_parts",
        "store_rows",
        "store_scalars",
        "store_whole",
        "super",
        "tile_elements",
        "tl",
        "to",
        "to_blocks",
        "torch",
        "triton",
        "true",
        "unpack",
        "value_at",
        "write_parameter",
    ]
)
# Names that a generated module imports or defines beside its class.
CLASSES = frozenset(
    [
        *(
            "Any",
            "Batch",
            "Codes",
            "Description",
            "False",
            "BlockOptimizer",
            "GeneratedOptimizer",
            "Hyper",
            "KernelInfo",
            "Key",
            "Literal",
            "Mapping",
            "None",
        ),
        *(
            "ParamsT",
            "Scalar",
            "State",
            "Tensor",
            "True",
            "TritonKernel",
            "KERNELS",
            "Reduction",
            "Scratch",
            "StepTable",
            "Sweep",
            "TABLES",
            "ValueTable",
            "REAL",
            "TILE",
            "BULK",
            "PARAM",
            "GRAD",
            "ALIGNED",
        ),
        *("CORRECTION", "LowPrecision", "Parameter", "RuleInfo", "Sequence"),
    ]
)
CONSTRUCTOR = frozenset(
    {"backend", "codes", "compile", "low_precision", "maximize", "optgen", "params", "seed", "storage", "tags", GIVEN}
)
MAX_LENGTH = 40


def is_symbol_name(name: str) -> bool:
    """Whether `name` has the form of a state, hyperparameter or local: lower case, digits and underscores."""
    return SYMBOL.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Whether `name` already means something in a spec or in generated code."""
    taken = name in INPUTS or name in WORDS or name in GENERATED or name in CONSTRUCTOR
    return taken or keyword.iskeyword(name) or name.endswith(("_ptr", "_codes", "_code", "_blocks"))


def is_class_name(name: str) -> bool:
    """Whether `name` has the form of a class: a capital letter, then letters and digits."""
    return CLASS_NAME.fullmatch(name) is not None


def is_reserved_class(name: str) -> bool:
    """Whether `name` means something else in a generated module."""
    return name in CLASSES


def name_for(value: Expr, taken: set[str]) -> str:
    """A readable name for an expression, unlike any in `taken`: `1 - beta1**t` becomes `bias_correction_beta1`."""
    words = _words(value)[:MAX_LENGTH].strip("_")
    name = words if is_symbol_name(words) and not is_reserved(words) else f"x_{words}"[:MAX_LENGTH].strip("_")
    return free_name(name, taken)


def free_name(name: str, taken: Collection[str]) -> str:
    """This name, or with a number behind it where something has it already."""
    candidate, count = name, 2
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def _words(value: Expr) -> str:
    match value:
        case Const(value=number):
            text = number if isinstance(number, str) else f"{number:g}".replace("-", "minus_").replace(".", "p")
            return re.sub(r"[^a-z0-9]+", "_", text.lower())
        case Ref(name=name):
            return name
        case Op(op="sub", args=(Const(value=1), Op(op="pow", args=(base, Ref(name="t"))))):
            return f"bias_correction_{_words(base)}"
        case Op(op="div", args=(Const(value=1), divisor)):
            return f"inv_{_words(divisor)}"
        case Op(op=op, args=(Const(value=1), right)) if op in ("sub", "add"):
            return f"one_{'minus' if op == 'sub' else 'plus'}_{_words(right)}"
        case Op(op=op, args=(left, right)) if op in _INFIX:
            return f"{_words(left)}_{_INFIX[op]}{_words(right)}"
        case Op(op=op, args=args):
            return "_".join([op.removeprefix("all_"), *(_words(arg) for arg in args)])
        case _:
            return "value"


_INFIX = {
    "add": "plus_",
    "sub": "minus_",
    "mul": "",
    "div": "over_",
    "pow": "pow_",
    "lt": "below_",
    "le": "at_most_",
    "gt": "above_",
    "ge": "at_least_",
    "eq": "is_",
    "ne": "is_not_",
    "and": "and_",
    "or": "or_",
}
