"""The k-th smallest value of each block, exactly: a sorting network in registers, or a full sort for high ranks.

The lowest 16 of a block decide ranks below 16. Each thread sorts groups of 16 values by a network of 60 comparators
(Green, 1969); then groups are merged pairwise, keeping the lowest 16 of both: of two ascending sequences a and b these
are min(a[i], b[15 - i]), a bitonic sequence, which 32 more comparators sort.
"""

import triton
import triton.language as tl

__all__ = ["block_low", "block_select"]

SORT_16 = tl.constexpr(
    (
        *((0, 13), (1, 12), (2, 15), (3, 14), (4, 8), (5, 6), (7, 11), (9, 10)),
        *((0, 5), (1, 7), (2, 9), (3, 4), (6, 13), (8, 14), (10, 15), (11, 12)),
        *((0, 1), (2, 3), (4, 5), (6, 8), (7, 9), (10, 11), (12, 13), (14, 15)),
        *((0, 2), (1, 3), (4, 10), (5, 11), (6, 7), (8, 9), (12, 14), (13, 15)),
        *((1, 2), (3, 12), (4, 6), (5, 7), (8, 10), (9, 11), (13, 14)),
        *((1, 4), (2, 6), (5, 8), (7, 10), (9, 13), (11, 14)),
        *((2, 4), (3, 6), (9, 12), (11, 13)),
        *((3, 5), (6, 8), (7, 9), (10, 12)),
        *((3, 4), (5, 6), (7, 8), (9, 10), (11, 12)),
        *((6, 7), (8, 9)),
    )
)
SORT_COUNT = tl.constexpr(60)
MERGE_16 = tl.constexpr(
    (
        *((0, 8), (1, 9), (2, 10), (3, 11), (4, 12), (5, 13), (6, 14), (7, 15)),
        *((0, 4), (1, 5), (2, 6), (3, 7), (8, 12), (9, 13), (10, 14), (11, 15)),
        *((0, 2), (1, 3), (4, 6), (5, 7), (8, 10), (9, 11), (12, 14), (13, 15)),
        *((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13), (14, 15)),
    )
)
MERGE_COUNT = tl.constexpr(32)
# The same of 13, as 3 numbers below all others behind the bitonic sequence leave it.
MERGE_13 = tl.constexpr(
    (
        *((0, 5), (2, 6), (3, 7), (4, 8), (1, 9)),
        *((0, 1), (5, 9), (6, 10), (7, 11), (8, 12)),
        *((1, 3), (2, 4), (5, 7), (6, 8), (9, 11), (10, 12)),
        *((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12)),
    )
)
MERGE_13_COUNT = tl.constexpr(22)


@triton.jit
def block_low(x, QUANTILE: tl.constexpr, BOUND: tl.constexpr):
    """The lower QUANTILE of each block's values above zero: (blocks, 1); the largest float32 if there is none.

    BOUND is its rank in a block that has no zero. Where no block of the tile has one, nothing must be counted.
    """
    if tl.min(tl.reshape(x, (x.shape[0] * x.shape[1],))) > 0.0:
        low = _block_at(x, BOUND)
    else:
        positive = x > 0.0
        count = tl.sum(positive.to(tl.int32), 1, keep_dims=True)
        rank = (tl.maximum(count - 1, 0).to(tl.float32) * QUANTILE).to(tl.int32)
        low = block_select(tl.where(positive, x, 3.4028234663852886e38), rank, BOUND)
    return low


@triton.jit
def block_select(x, rank, BOUND: tl.constexpr):
    """The value of this rank, from 0, of each block: (blocks, 1). `rank` is at most BOUND."""
    if BOUND < 16 and x.shape[1] >= 32:
        lowest = tl.reduce(_sorted_groups(x), 1, _lowest)
        chosen = lowest[0]
        wanted = tl.reshape(rank + tl.zeros((x.shape[0], 1), tl.int32), (x.shape[0],))
        for i in tl.static_range(1, BOUND + 1):
            chosen = tl.where(wanted == i, lowest[i], chosen)
        return chosen[:, None]
    places = tl.arange(0, x.shape[1])[None, :]
    return tl.sum(tl.where(places == rank, tl.sort(x, dim=1), 0.0), 1, keep_dims=True)


@triton.jit
def _block_at(x, RANK: tl.constexpr):
    """The value of this rank of each block: the comparators that decide others are left out."""
    if RANK < 16 and x.shape[1] >= 32:
        if RANK < 13:
            found = tl.reduce(_sorted_groups(x)[:13], 1, _lowest_13)[RANK]
        else:
            found = tl.reduce(_sorted_groups(x), 1, _lowest)[RANK]
        # to every thread of the block, by way of shared memory: else the compiler lets each thread select for itself
        return tl.gather(found, tl.arange(0, x.shape[0]), 0)[:, None]
    return block_select(x, RANK, RANK)


@triton.jit
def _sorted_groups(x):
    """The values of (blocks, n) as 16 ascending tensors of shape (blocks, n // 16)."""
    groups = (tl.permute(tl.reshape(x, (x.shape[0], x.shape[1] // 16, 2, 2, 2, 2)), (0, 1, 3, 4, 5, 2)),)
    for level in tl.static_range(4):
        halves = ()
        for i in tl.static_range(2**level):
            halves = halves + tl.split(groups[i])
        groups = halves
    return _network(groups, SORT_16, SORT_COUNT)


@triton.jit
def _network(values, PAIRS: tl.constexpr, COUNT: tl.constexpr):
    """Run comparators: each pair (i, j) leaves the smaller value at i and the larger at j."""
    for step in tl.static_range(COUNT):
        values = _exchange(values, PAIRS[step][0], PAIRS[step][1])
    return values


@triton.jit
def _exchange(values, LOW: tl.constexpr, HIGH: tl.constexpr):
    small = tl.minimum(values[LOW], values[HIGH])
    large = tl.maximum(values[LOW], values[HIGH])
    return values[:LOW] + (small,) + values[LOW + 1 : HIGH] + (large,) + values[HIGH + 1 :]


# fmt: off
@triton.jit
def _lowest(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15,
            b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15):
    """The lowest 16 of two ascending sequences of 16, ascending."""
    bitonic = (
        tl.minimum(a0, b15), tl.minimum(a1, b14), tl.minimum(a2, b13), tl.minimum(a3, b12),
        tl.minimum(a4, b11), tl.minimum(a5, b10), tl.minimum(a6, b9), tl.minimum(a7, b8),
        tl.minimum(a8, b7), tl.minimum(a9, b6), tl.minimum(a10, b5), tl.minimum(a11, b4),
        tl.minimum(a12, b3), tl.minimum(a13, b2), tl.minimum(a14, b1), tl.minimum(a15, b0),
    )
    return _network(bitonic, MERGE_16, MERGE_COUNT)


@triton.jit
def _lowest_13(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12,
               b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12):
    """The lowest 13 of two ascending sequences of 13, ascending."""
    bitonic = (
        tl.minimum(a0, b12), tl.minimum(a4, b8), tl.minimum(a1, b11), tl.minimum(a2, b10), tl.minimum(a3, b9),
        tl.minimum(a8, b4), tl.minimum(a9, b3), tl.minimum(a10, b2), tl.minimum(a11, b1), tl.minimum(a12, b0),
        tl.minimum(a5, b7), tl.minimum(a6, b6), tl.minimum(a7, b5),
    )
    return _network(bitonic, MERGE_13, MERGE_13_COUNT)
# fmt: on
