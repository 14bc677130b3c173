"""The table of operations: arity, kinds and meaning of every `Op`, and the words a spec may use."""

from dataclasses import dataclass

from optgen.ir.nodes import VECTORS, Domain, Kind

__all__ = [
    "BINARY",
    "COMPARE",
    "JOINT",
    "NORMS",
    "OF_ALL_RULES",
    "OPS",
    "OVER",
    "PARTS",
    "REDUCED",
    "REDUCTIONS",
    "SCOPES",
    "SPREAD",
    "STRIPS",
    "WIDE_REDUCTIONS",
    "WORDS",
    "OpInfo",
    "Word",
]

R, I, B = Kind.REAL, Kind.INT, Kind.BOOL  # noqa: E741 -- one letter each, as in a table
N = None  # a number: the arguments agree on REAL or INT


@dataclass(frozen=True)
class OpInfo:
    """One operation. `args` and `result` are kinds, None for "the kind the numeric arguments agree on"."""

    args: tuple[Kind | None, ...]
    result: Kind | None
    meaning: str
    domain: Domain | None = None  # domain of the result where it is not the largest of the arguments'
    repeats: bool = False  # whether the last argument may be given any number of times

    def kinds(self, count: int) -> tuple[Kind | None, ...]:
        """The kinds of `count` arguments."""
        return self.args + self.args[-1:] * (count - len(self.args)) if self.repeats else self.args


OPS: dict[str, OpInfo] = {
    # arithmetic
    "neg": OpInfo((N,), N, "-x"),
    "add": OpInfo((N, N), N, "x + y"),
    "sub": OpInfo((N, N), N, "x - y"),
    "mul": OpInfo((N, N), N, "x * y; integers keep the low 32 bits"),
    "div": OpInfo((R, R), R, "x / y"),
    "pow": OpInfo((R, R), R, "x ** y"),
    "square": OpInfo((R,), R, "x * x"),
    "abs": OpInfo((N,), N, "|x|"),
    "sqrt": OpInfo((R,), R, "square root"),
    "rsqrt": OpInfo((R,), R, "1/sqrt(x)"),
    "exp": OpInfo((R,), R, "e ** x"),
    "log": OpInfo((R,), R, "natural logarithm"),
    "sign": OpInfo((R,), R, "-1, 0 or 1; NaN stays NaN"),
    "min": OpInfo((N, N), N, "the smaller; NaN if one is NaN"),
    "max": OpInfo((N, N), N, "the larger; NaN if one is NaN"),
    "where": OpInfo((B, N, N), N, "x where the condition holds, else y"),
    # conditions
    "lt": OpInfo((N, N), B, "x < y"),
    "le": OpInfo((N, N), B, "x <= y"),
    "gt": OpInfo((N, N), B, "x > y"),
    "ge": OpInfo((N, N), B, "x >= y"),
    "eq": OpInfo((N, N), B, "x == y"),
    "ne": OpInfo((N, N), B, "x != y"),
    "and": OpInfo((B, B), B, "both"),
    "or": OpInfo((B, B), B, "either"),
    "not": OpInfo((B,), B, "the opposite"),
    "spread": OpInfo((R,), R, "one number for every element", Domain.ELEMENT),
    "spread_rows": OpInfo((R,), R, "one number for every row", Domain.ROW),
    "spread_cols": OpInfo((R,), R, "one number for every column", Domain.COL),
    "spread_matrices": OpInfo((R,), R, "one number for every matrix", Domain.MATRIX),
    "number": OpInfo((R,), R, "a host scalar as one number of all elements", Domain.TENSOR),
    # words that `expand_words` replaces
    "ema": OpInfo((R, R, R), R, "ema(x, y, beta) = beta*x + (1 - beta)*y"),
    "clamp": OpInfo((R, R, R), R, "clamp(x, lo, hi) = min(max(x, lo), hi)"),
    # numbers that depend on how a parameter's state is stored
    "bits_of": OpInfo((R,), R, "bits of the stored state; 32 where it is stored as float32", Domain.HOST),
    "half_gap_of": OpInfo((R,), R, "median half distance of neighbouring levels; 0 for float32", Domain.HOST),
    "given": OpInfo((R,), B, "whether this step was given the input", Domain.HOST),
    # exact integer and bit arithmetic of the codebooks
    "bit_and": OpInfo((I, I), I, "bitwise and"),
    "bit_or": OpInfo((I, I), I, "bitwise or"),
    "bit_xor": OpInfo((I, I), I, "bitwise exclusive or"),
    "shift_left": OpInfo((I, I), I, "x * 2**y"),
    "shift_right": OpInfo((I, I), I, "x / 2**y, rounded down; x must not be negative"),
    "mul_high": OpInfo((I, I), I, "the high 32 bits of the unsigned 64-bit product"),
    "mul_high16": OpInfo((I, I), I, "x * y / 2**16, rounded down; both have 16 bits, unsigned"),
    "share16": OpInfo((I, I), I, "x * y / 2**16, rounded down; x has 16 bits, unsigned, y is not negative"),
    "lookup": OpInfo((I, R), R, "the number at place x, modulo how many follow: 2, 4, 8 or 16", repeats=True),
    "real": OpInfo((N,), R, "the nearest float32, whatever the arithmetic"),
    "trunc": OpInfo((R,), I, "rounded towards zero; the argument must be in range"),
    "bits": OpInfo((R,), I, "the bit pattern of a float32"),
    "from_bits": OpInfo((I,), R, "the float32 of a bit pattern"),
    "reciprocal": OpInfo((R,), R, "1/x, correctly rounded"),
    "is_finite": OpInfo((R,), B, "neither NaN nor infinite"),
    # over a quantization block
    "block_max": OpInfo((R,), R, "the largest of each block", Domain.BLOCK),
    "block_min": OpInfo((R,), R, "the smallest of each block", Domain.BLOCK),
    "block_count": OpInfo((B,), I, "how many of each block hold", Domain.BLOCK),
    "row_max": OpInfo((R,), R, "the largest of each row of blocks", Domain.BLOCK),
    "row_min": OpInfo((R,), R, "the smallest of each row of blocks", Domain.BLOCK),
    "tensor_max": OpInfo((R,), R, "the largest of all blocks", Domain.BLOCK),
    "tensor_min": OpInfo((R,), R, "the smallest of all blocks", Domain.BLOCK),
    "block_low": OpInfo(
        (R, R, I), R, "the quantile y of each block's values above zero, the lower one; the rank is at most z", Domain.BLOCK
    ),
    "block_select": OpInfo((R, I, I), R, "the k-th smallest of each block, from 0; k is at most the third", Domain.BLOCK),
    # over the elements of a tile, a part for each chunk: what a sweep leaves of a reduction over all elements
    "part_sum": OpInfo((R,), R, "the sum of each chunk", Domain.BLOCK),
    "part_max": OpInfo((R,), R, "the largest of each chunk", Domain.BLOCK),
    "part_min": OpInfo((R,), R, "the smallest of each chunk", Domain.BLOCK),
    "strip_sum": OpInfo((R,), R, "the sum of each column of a strip of rows", Domain.COL),
    "strip_max": OpInfo((R,), R, "the largest of each column of a strip of rows", Domain.COL),
    "strip_min": OpInfo((R,), R, "the smallest of each column of a strip of rows", Domain.COL),
    # buffers
    "load": OpInfo((R,), R, "the elements, or the block scalars, of a buffer"),
    "load_codes": OpInfo((I,), I, "the unpacked codes of a buffer, in blocks"),
    "blocks": OpInfo((R, I), R, "elements arranged in the blocks of the state of this number, as float32"),
    "elements": OpInfo((R, I), R, "blocks of the state of this number arranged as elements again"),
    "random_bits": OpInfo((I,), I, "16 uniform bits per element, in blocks; a function of key, step and index"),
    "random_elements": OpInfo((I,), I, "the same bits, arranged as elements", Domain.ELEMENT),
    "stochastic_bfloat16": OpInfo((R, I), R, "a neighbouring bfloat16, chosen by 16 random bits"),
    "stochastic_float16": OpInfo((R, I), R, "a neighbouring float16, chosen by 16 random bits"),
}

OVER = {  # what a rule reduces over: how it is said, and what is left of values of a domain, if it can be reduced so
    "all": ("of all elements", dict.fromkeys((*VECTORS, Domain.ELEMENT), Domain.TENSOR)),
    "rows": ("over the rows of each column", {Domain.ELEMENT: Domain.COL, Domain.ROW: Domain.MATRIX}),
    "cols": ("over the columns of each row", {Domain.ELEMENT: Domain.ROW, Domain.COL: Domain.MATRIX}),
    "matrix": ("over rows and columns", {Domain.ELEMENT: Domain.MATRIX}),
    "group": ("of all elements of a group's parameters", dict.fromkeys((*VECTORS, Domain.ELEMENT), Domain.TENSOR)),
    "optimizer": ("of all elements of all parameters", dict.fromkeys((*VECTORS, Domain.ELEMENT), Domain.TENSOR)),
}
OF_ALL_RULES = "rules_"  # in front of a scope: of the parameters of all rules, as transforms of a spec with rules reduce
OVER |= {f"{OF_ALL_RULES}{scope}": OVER[scope] for scope in ("group", "optimizer")}
SCOPES = ("group", "optimizer", "rules_group", "rules_optimizer")  # over more than one parameter
TAKEN = {"sum": "the sum", "mean": "the mean", "max": "the largest", "min": "the smallest"}
NORMS = {"l1": "the sum of |x|", "l2": "the root of the sum of x*x", "rms": "the root of the mean of x*x"}
REDUCED = {f"{over}_{how}": (over, how) for over in OVER for how in (*TAKEN, *NORMS)}
OPS |= {op: OpInfo((R,), R, f"{(TAKEN | NORMS)[how]} {OVER[over][0]}") for op, (over, how) in REDUCED.items()}

REDUCTIONS = {op: how for op, (_, how) in REDUCED.items() if how in TAKEN}  # of a rule: how parts are joined
JOINT = {op: over for op, (over, _) in REDUCED.items() if op in REDUCTIONS and over in SCOPES}  # whose parameters it takes
SPREAD = {
    Domain.ELEMENT: "spread",
    Domain.ROW: "spread_rows",
    Domain.COL: "spread_cols",
    Domain.MATRIX: "spread_matrices",
}
PARTS = ("part_sum", "part_max", "part_min")
STRIPS = ("strip_sum", "strip_max", "strip_min")
WIDE_REDUCTIONS = {  # of what no tile of a kernel holds: over what, and what is taken
    "row_max": ("row", "max"),
    "row_min": ("row", "min"),
    "tensor_max": ("tensor", "max"),
    "tensor_min": ("tensor", "min"),
}
BINARY = {"Add": "add", "Sub": "sub", "Mult": "mul", "Div": "div", "Pow": "pow"}
COMPARE = {"Lt": "lt", "LtE": "le", "Gt": "gt", "GtE": "ge", "Eq": "eq", "NotEq": "ne"}


@dataclass(frozen=True)
class Word:
    """A function of formulas. A variadic word takes two or more arguments and folds them from the left; of one, it is `whole`."""

    op: str
    signature: str
    meaning: str
    variadic: bool = False
    whole: str | None = None

    @property
    def arity(self) -> int:
        """The number of arguments, or the least."""
        return len(OPS[self.op].args)

    @property
    def is_open(self) -> bool:
        """Whether it takes more arguments than that."""
        return self.variadic or OPS[self.op].repeats


WORDS: dict[str, Word] = {
    "ema": Word("ema", "ema(x, y, beta)", "beta*x + (1 - beta)*y: an exponential moving average x that takes in y"),
    "sqrt": Word("sqrt", "sqrt(x)", "square root"),
    "rsqrt": Word("rsqrt", "rsqrt(x)", "1/sqrt(x)"),
    "abs": Word("abs", "abs(x)", "absolute value"),
    "sign": Word("sign", "sign(x)", "-1, 0 or 1; NaN stays NaN"),
    "exp": Word("exp", "exp(x)", "e**x"),
    "log": Word("log", "log(x)", "natural logarithm"),
    "min": Word(
        "min", "min(x, y, ...)", "the smallest; NaN if one is NaN; min(x): of all elements", variadic=True, whole="all_min"
    ),
    "max": Word(
        "max", "max(x, y, ...)", "the largest; NaN if one is NaN; max(x): of all elements", variadic=True, whole="all_max"
    ),
    "sum": Word(
        "all_sum",
        "sum(x)",
        "the sum of all elements of a parameter; over=cols: of each row; over=group: of a group's parameters",
    ),
    "mean": Word("all_mean", "mean(x)", "the mean of all elements of a parameter; mean(x, over=rows): of each column"),
    "l1": Word("all_l1", "l1(x)", "the sum of the absolute values of all elements"),
    "l2": Word("all_l2", "l2(x)", "the Euclidean norm of all elements: sqrt(sum(x**2))"),
    "rms": Word("all_rms", "rms(x)", "the root mean square of all elements: sqrt(mean(x**2))"),
    "clamp": Word("clamp", "clamp(x, lo, hi)", "x limited to lo <= x <= hi"),
    "bits": Word("bits_of", "bits(state)", "bits per element of a state as it is stored for this parameter"),
    "half_gap": Word(
        "half_gap_of",
        "half_gap(state)",
        "median of half the distances between neighbouring levels of a state's codebook, 0 for float32",
    ),
    "given": Word(
        "given", "given(input)", "whether this step was given an input: a condition that is known when code is generated"
    ),
    "where": Word("where", "where(condition, x, y)", "x where the condition holds, else y, element by element"),
}
