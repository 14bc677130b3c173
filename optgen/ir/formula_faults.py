"""What Python finds wrong with a formula, and what it has and formulas have not -> the slip in words, and the way out."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from optgen.diagnostics.diagnostic import suggest
from optgen.ir.names import INPUTS
from optgen.ir.ops import Word

__all__ = ["OTHER_NAMES", "PRODUCT", "SIGNS", "SyntaxFault", "forbidden", "function_help", "symbol_help", "syntax_fault"]

SYNTAX_HELP = "formulas are written as in Python: 'name = formula', one a line"
KEYWORD_HELP = "Python's keywords cannot be names: 'lambda' is usually called 'weight_decay' or 'decay'"
ALIKE = "indent the statements of a block alike; only what stands under an 'if' is indented more"
PRODUCT = "a product is written x*y"
OPERAND = r"[A-Za-z_]\w*|\d[\w.]*|\.\d\w*"
ADJACENT = re.compile(rf"(?<![\w.])({OPERAND}|\))\s+(?=({OPERAND}|\())")
SIGNS = {"BitAnd": "&", "BitOr": "|", "BitXor": "^", "FloorDiv": "//", "MatMult": "@", "Mod": "%"}
OF_ALL = "of all elements there are sum(x), mean(x), l1(x), l2(x), rms(x), max(x) and min(x)"
SIZES = dict.fromkeys(
    ("size", "shape", "numel", "ndim", "dim", "len", "rows", "cols", "columns"),
    "formulas know no sizes, which 'when' of a rule may ask for: mean(x) and rms(x) divide by them",
)
OTHER_NAMES = {  # functions of other languages: how their formulas are written here
    **dict.fromkeys(("clip", "clamp_"), "write clamp(x, lo, hi)"),
    **dict.fromkeys(("expm1",), "write exp(x) - 1"),
    **dict.fromkeys(("ewma", "lerp", "lerp_"), "an average is written ema(x, y, beta)"),
    **dict.fromkeys(("ln",), "write log(x)"),
    **dict.fromkeys(("log1p",), "write log(1 + x)"),
    **dict.fromkeys(("fmax", "maximum"), "write max(x, y)"),
    **dict.fromkeys(("fmin", "minimum"), "write min(x, y)"),
    **dict.fromkeys(("pow", "power"), "a power is written x**y"),
    **dict.fromkeys(("sgn",), "write sign(x)"),
    **dict.fromkeys(("square",), "write x**2"),
    **dict.fromkeys(("zeros_like", "zeros"), "write 0"),
    **dict.fromkeys(("norm", "norm2", "l2_norm", "vector_norm"), "the norm of all elements is written l2(x)"),
    **dict.fromkeys(("norm1", "l1_norm"), "the sum of absolute values of all elements is written l1(x)"),
    **dict.fromkeys(("std",), "write rms(x - mean(x))"),
    **dict.fromkeys(("var",), "write mean((x - mean(x))**2)"),
    **dict.fromkeys(("dot",), "write sum(x*y)"),
    **dict.fromkeys(("amax",), "write max(x)"),
    **dict.fromkeys(("amin",), "write min(x)"),
    **dict.fromkeys(("prod", "median", "linf"), OF_ALL),
}
NO_LOOPS = "every formula applies to all elements at once; lines that repeat are written out, or by a spec in Python"
FORBIDDEN = {  # what Python has and formulas have not: its name, and what to do instead
    "AnnAssign": ("a type", "write 'name = formula'"),
    "Assert": ("'assert'", "ranges of hyperparameters are checked by 'min' and 'max'"),
    "Attribute": ("a '.'", "write plain names; functions are called as in sqrt(x)"),
    "BitAnd": ("'&'", "write 'and'"),
    "BitOr": ("'|'", "write 'or'"),
    "BitXor": ("'^'", "a power is written x**y"),
    "ClassDef": ("a class", "write assignments only"),
    "Delete": ("'del'", "a local is forgotten at the end of the step"),
    "DictComp": ("a comprehension", NO_LOOPS),
    "Expr": ("a formula without a name", "a statement assigns: 'name = formula'"),
    "FloorDiv": ("'//'", "division is written x/y"),
    "For": ("a loop", NO_LOOPS),
    "FunctionDef": ("a function of one's own", "write its formula where it is needed"),
    "GeneratorExp": ("a comprehension", NO_LOOPS),
    "IfExp": ("'x if c else y'", "write where(c, x, y), or for a flag 'if c:' and 'else:' on lines of their own"),
    "In": ("'in'", "compare with each value: x == 1 or x == 2"),
    "Is": ("'is'", "write '=='"),
    "IsNot": ("'is not'", "write '!='"),
    "NotIn": ("'not in'", "compare with each value: x != 1 and x != 2"),
    "Import": ("'import'", "the functions of the language need none"),
    "ImportFrom": ("'import'", "the functions of the language need none"),
    "Invert": ("'~'", "write 'not'"),
    "JoinedStr": ("an f-string", "a choice is written as a plain word in quotes"),
    "Lambda": ("a lambda", "write its formula where it is needed"),
    "List": ("a list", NO_LOOPS),
    "ListComp": ("a comprehension", NO_LOOPS),
    "MatMult": ("'@'", "every formula is for each element alone"),
    "Mod": ("'%'", "there is no remainder; count in a scalar state, or compare t"),
    "NamedExpr": ("':='", "assign on a line of its own"),
    "Pass": ("'pass'", "leave the branch out"),
    "Return": ("'return'", "a rule has no return value; assign to p"),
    "SetComp": ("a comprehension", NO_LOOPS),
    "Subscript": ("an index", "states have no index; every formula applies to each element"),
    "Tuple": ("a tuple", "write one statement for each name"),
    "While": ("a loop", NO_LOOPS),
}


class SyntaxFault(NamedTuple):
    """What is wrong with a line: its number from 1, the columns from 0, and the texts."""

    line: int
    start: int
    end: int
    message: str
    help: str


def function_help(name: str, words: Mapping[str, Word]) -> str | None:
    """What to write for a function that formulas do not have."""
    if name in INPUTS:
        return PRODUCT
    return SIZES.get(name) or OTHER_NAMES.get(name) or suggest(name, words, most=20)


def symbol_help(name: str, known: Iterable[str]) -> str | None:
    """What to write for a name that formulas do not know."""
    return SIZES.get(name) or suggest(name, known)


def syntax_fault(reason: str, lines: list[str], number: int, column: int) -> SyntaxFault:
    """Explain a syntax error of Python in line `number` (from 1) at `column` (from 0)."""
    line = lines[number - 1]
    code = line.split("#")[0].rstrip()
    depth = len(line) - len(line.lstrip())
    if "unexpected indent" in reason:
        return SyntaxFault(number, depth, len(code), "this line is indented more than the one above it", ALIKE)
    if "unindent does not match" in reason:
        return SyntaxFault(number, depth, len(code), "this line is indented like none above it", ALIKE)
    if block := re.search(r"expected an indented block after '(\w+)' statement on line (\d+)", reason):
        word, owner = block.group(1), int(block.group(2))
        start = max(lines[owner - 1].find(word), 0)
        message = f"nothing is indented under this '{word}'"
        return SyntaxFault(owner, start, start + len(word), message, "indent the statements that belong under it")
    told, help_text = _told(reason, line[column : column + 1])
    gap = next((m for m in ADJACENT.finditer(code) if m.start(2) >= column and _operands(m)), None)
    if told is None and gap is not None:
        message = f"an operator is missing between '{gap.group(1)}' and '{gap.group(2)}'"
        return SyntaxFault(number, gap.end(1), gap.start(2), message, PRODUCT)
    words = set(re.findall(r"[a-z]+", code)) & {"as", "from", "in", "is", "lambda", "with"}
    message = told or f"this formula cannot be read: {reason}"
    return SyntaxFault(number, column, column + 1, message, help_text or (KEYWORD_HELP if words else SYNTAX_HELP))


def _told(reason: str, character: str) -> tuple[str | None, str | None]:
    """Message and help of the faults that Python names itself; a bare "invalid syntax" says nothing."""
    if "was never closed" in reason:
        return f"this '{character}' is never closed", "close it where its contents end"
    if "unmatched" in reason:
        return f"this '{character}' closes nothing", "remove it, or open it before"
    if reason == "expected ':'":
        return "a ':' is missing here", "a condition ends with a ':', as in 'if t > 1:'"
    if "invalid decimal literal" in reason:
        return "an operator is missing behind this number", "a product is written 2*x"
    if "cannot assign to" in reason:
        return "only a name can be assigned", "write 'name = formula'"
    if "Maybe you meant '=='" in reason:
        return "'=' assigns and cannot stand here", "equality is written '=='"
    return None, None


def _operands(match: re.Match[str]) -> bool:
    return not any(keyword.iskeyword(match.group(side)) for side in (1, 2))


def forbidden(name: str) -> tuple[str, str]:
    """What to say of a node of Python's syntax that formulas do not have, and what to do instead."""
    what, help_text = FORBIDDEN.get(
        name, ("this", "formulas have numbers, names, + - * / **, comparisons, and/or/not and calls")
    )
    return f"{what} cannot stand in a formula", help_text
