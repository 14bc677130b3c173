"""Logarithms and powers of two in integers: the same bits on every machine.

log2 is in units of 2**-22. The polynomials are minimax fits in Horner form with 30 fractional bits; their signs
alternate, so that every intermediate value is positive. Errors: log2 5e-8, exp2 1.2e-7.

Where 16 random bits decide, a rough exp2 is as good. A float's bit pattern is almost linear in its logarithm: 2**-x is the
pattern of 1 less x, less a bend that the fraction of x decides, (2 - f - 2**(1 - f)). It is taken in the middle of 2,048
cells: errors of up to 9e-5, but 3e-8 on average, products of 16 bits, and a table that is small enough where one is faster.
Its distances are in units of 2**-23, those of a pattern.
"""

from optgen.ir.nodes import Values
from optgen.storage.codec import Formula

__all__ = ["EXP2_BEND", "EXP2_FIXED", "EXP2_ROUGH", "LOG2_FIXED"]

LOG2 = (1549076464, 774345888, 513982707, 372911696, 259700315, 147662407, 55897914, 9995635)
EXP2 = (1488516314, 515797037, 118791697, 19817795, 2048773)
BEND = (50614, 62796, 13992, 1811)  # of the bend over the fraction, in units of 2**-17
CELLS = 2048


def _horner(coefficients: tuple[int, ...], product: str = "mul_high") -> str:
    lines = [f"series = {coefficients[-1]}"]
    lines += [f"series = {coefficient} - {product}(fraction, series)" for coefficient in reversed(coefficients[:-1])]
    return "\n".join(lines)


LOG2_FIXED = Formula(
    "log2_fixed",
    ("positive",),
    f"""
pattern = bits(max(positive, 1.1754943508222875e-38))
fraction = shift_left(bit_and(pattern, 0x7fffff), 9)
{_horner(LOG2)}
result = shift_left(shift_right(pattern, 23), 22) + shift_right(mul_high(fraction, series), 8)
""".strip(),
    "127 + log2 of a positive number, in units of 2**-22.",
    shared=True,
)


EXP2_FIXED = Formula(
    "exp2_fixed",
    ("distance",),
    f"""
fraction = shift_left(bit_and(distance, 0x3fffff), 10)
{_horner(EXP2)}
result = from_bits(shift_left(127 - shift_right(distance, 22), 23) - shift_right(mul_high(fraction, series) + 64, 7))
""".strip(),
    "2**-distance, of a distance in units of 2**-22.",
    shared=True,
)
EXP2_BEND = Formula(
    "exp2_bend",
    ("n",),
    f"""
fraction = {2**16 // CELLS}*n + {2**15 // CELLS}
{_horner(BEND, "mul_high16")}
result = shift_left(mul_high16(fraction, series), 6)
""".strip(),
    f"How far the pattern of 2**-x lies below a straight line, x in cell n of {CELLS:,} between two integers.",
    shared=True,
    table=Values(CELLS),
)
EXP2_ROUGH = Formula(
    "exp2_rough",
    ("distance",),
    f"""
n = bit_and(shift_right(distance, {24 - CELLS.bit_length()}), {CELLS - 1})
result = from_bits(0x3f800000 - distance - exp2_bend(n))
""".strip(),
    "2**-distance, of a distance in units of 2**-23, good to 9e-5, and to 3e-8 on average.",
    shared=True,
)
