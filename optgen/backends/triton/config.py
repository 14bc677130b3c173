"""How each operation is written in Triton, and the sizes of tiles. `@` marks a function of the runtime."""

__all__ = ["CODED_REGISTERS", "CODED_SHARE", "FORMATS", "REGISTERS", "SHARE", "THREADS", "WORD_BITS"]

THREADS = 128  # of a program
SHARE = 8  # elements of a tile for each thread: 16-bit values move in 128 bits, and registers suffice
CODED_SHARE = 16  # with codes: what is done once for a block or a table costs half as much; 2-bit codes fill a word
REGISTERS = 168  # the most of a thread, so that three programs share a processor; left to itself, ptxas takes few and spills
CODED_REGISTERS = 128  # with codes: four programs, whose waits for memory and for one another overlap
GRID_SHARE = 32  # in kernels that know rows and columns, with codes: finding these costs each thread the same
WORD_BITS = 32  # a thread's codes fill a word at least

FORMATS = {
    "abs": "tl.abs({0})",
    "sqrt": "tl.sqrt({0})",
    "rsqrt": "tl.rsqrt({0})",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sign": "@sign({0})",
    "min": "@minimum({0}, {1})",
    "max": "@maximum({0}, {1})",
    "where": "tl.where({0}, {1}, {2})",
    "mul_high": "@mul_high({0}, {1})",
    "mul_high16": "@mul_high16({0}, {1})",
    "share16": "@share16({0}, {1})",
    "real": "({0}).to(tl.float32)",
    "trunc": "({0}).to(tl.int32)",
    "bits": "({0}).to(tl.int32, bitcast=True)",
    "from_bits": "({0}).to(tl.float32, bitcast=True)",
    "reciprocal": "tl.div_rn(1.0, {0})",
    "is_finite": "(tl.abs({0}) < float('inf'))",
    "block_max": "tl.max({0}, 1, keep_dims=True)",
    "block_min": "tl.min({0}, 1, keep_dims=True)",
    "block_count": "@block_count({0})",
    "block_low": "@block_low({0}, {1}, {2})",
    "block_select": "@block_select({0}, {1}, {2})",
    "spread": "tl.full((TILE,), {0}, REAL)",
    "stochastic_bfloat16": "@stochastic_bfloat16({0}, {1})",
    "stochastic_float16": "@stochastic_float16({0}, {1})",
    "elements": "tl.reshape({0}, (TILE,)).to(REAL)",
}
