"""Pass `fold-constants`: arithmetic on constants is done now.

x**(2*0.5)  ->  x**1
"""

from optgen.ir.constants import fold_finite
from optgen.ir.nodes import Program
from optgen.passes.rewrite import map_values

__all__ = ["fold_constants"]


def fold_constants(program: Program) -> Program:
    """Fold every operation on constants; the front end has refused most of those without a finite value."""
    return map_values(program, fold_finite)
