"""SOLO with both moments in 2 bits. beta1 is computed: a coarse codebook bears less averaging.

The noise that rounding adds to m grows with beta1/(1 - beta1) and with the distance of the codebook's levels. beta1 is
what keeps this noise at that of 5 bits and beta1 = 0.9, to one decimal (SOLO, arXiv 2505.00347).
"""

from itertools import pairwise
from statistics import median

from optgen import define

LEVELS = (-0.55, 0.0, 0.55, 1.0)  # dynamic exponent, 2 bits
HALF_GAP_OF_5_BITS = 0.03375

noise = 0.9 / (1 - 0.9) * HALF_GAP_OF_5_BITS
beta1 = noise / (noise + median((high - low) / 2 for low, high in pairwise(LEVELS)))

define(
    name="Solo2bit",
    summary="AdamW with both moments in 2 bits, rounded so that slow averages are not swamped.",
    reference="https://arxiv.org/abs/2505.00347",
    extends="solo",
    hyper={"betas": {"default": [round(beta1, 1), 0.999]}},
    state={"m": {"storage": {"bits": 2}}},
)
