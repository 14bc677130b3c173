"""How each operation is written in C++, the size of tiles, and the names that generated code must leave alone."""

import re
from functools import cache
from importlib.resources import files

__all__ = ["FORMATS", "MOST_LANES", "TILE", "is_taken"]

TILE = 2048  # elements: a tile of all that a kernel keeps stays in the first cache
MOST_LANES = 16  # of the largest vectors

FORMATS = {
    "abs": "abs({0})",
    "sqrt": "sqrt({0})",
    "rsqrt": "rsqrt({0})",
    "exp": "exp({0})",
    "log": "log({0})",
    "pow": "pow({0}, {1})",
    "square": "square({0})",
    "sign": "sign({0})",
    "min": "minimum({0}, {1})",
    "max": "maximum({0}, {1})",
    "mul_high": "mul_high({0}, {1})",
    "mul_high16": "mul_high16({0}, {1})",
    "share16": "share16({0}, {1})",
    "real": "to_float({0})",
    "trunc": "trunc({0})",
    "bits": "bits({0})",
    "from_bits": "from_bits({0})",
    "reciprocal": "reciprocal({0})",
    "is_finite": "is_finite({0})",
    "spread": "spread({0})",
    "number": "spread({0})",
    "elements": "to_reals({0})",
    "stochastic_bfloat16": "stochastic_bfloat16({0}, {1})",
    "stochastic_float16": "stochastic_float16({0}, {1})",
}

KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl concept
const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete do double
dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
not not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires return short signed sizeof
static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename union
unsigned using virtual void volatile wchar_t while xor xor_eq typeof unix linux i b block tile
"""


@cache
def _declared() -> frozenset[str]:
    """What the headers of the runtime declare: functions, types and constants."""
    folder = files("optgen.runtime") / "cpp"
    text = "".join(file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".hpp"))
    called = re.findall(r"(\w+)\s*[(<]", text)
    named = re.findall(r"(?:using|struct|class|constexpr \w+|#define)\s+(\w+)", text)
    return frozenset([*KEYWORDS.split(), *called, *named])


def is_taken(name: str) -> bool:
    """Whether C++ or the headers of the runtime mean something else by this name."""
    return name in _declared()
