"""What "equal" means, as data: one table for verification and tests.

The parameter after a step may differ from the reference by `of_p` of its largest magnitude, `of_move` of the largest
distance moved, and, element by element, half a unit in the last place of the dtype it is stored in. States per element
may differ by `of_state` of their largest magnitude. Codes are equal bit for bit given equal arrays; after a whole step,
where float32 and float64 arithmetic may fall on two sides of a border, `codes` of them may differ by one level; a gradient of 16 bits beside a state of 16
bits makes borders likely: 0.9*m + 0.1*g is a tie where g is five units from m.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TOLERANCES", "Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """Of one parameter dtype."""

    of_p: float
    of_move: float
    half_ulp: float
    of_state: float
    codes: float = 1e-3


TOLERANCES = {
    "float32": Tolerance(of_p=1e-6, of_move=1e-5, half_ulp=0.0, of_state=1e-5),
    "float64": Tolerance(of_p=1e-15, of_move=1e-12, half_ulp=0.0, of_state=1e-13),
    "bfloat16": Tolerance(of_p=1e-6, of_move=1e-5, half_ulp=2.0**-8, of_state=1e-5, codes=1e-2),
    "float16": Tolerance(of_p=1e-6, of_move=1e-5, half_ulp=2.0**-11, of_state=1e-5, codes=1e-2),
}
