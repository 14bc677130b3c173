// The k-th smallest value of each block, exactly, for LANES blocks at once.
//
// The values of LANES blocks are transposed, so that each lane holds a block of its own; groups of 16 vectors go through a
// sorting network of 60 comparators (Green, 1969), and groups are merged, keeping the lowest 16 of both: of two ascending
// sequences a and b these are min(a[i], b[15 - i]), a bitonic sequence, which 32 more comparators sort.
#pragma once

#include "vectors.hpp"

constexpr int8_t SORT_16[60][2] = {
    {0, 13}, {1, 12}, {2, 15}, {3, 14}, {4, 8},  {5, 6},   {7, 11},  {9, 10},   //
    {0, 5},  {1, 7},  {2, 9},  {3, 4},  {6, 13}, {8, 14},  {10, 15}, {11, 12},  //
    {0, 1},  {2, 3},  {4, 5},  {6, 8},  {7, 9},  {10, 11}, {12, 13}, {14, 15},  //
    {0, 2},  {1, 3},  {4, 10}, {5, 11}, {6, 7},  {8, 9},   {12, 14}, {13, 15},  //
    {1, 2},  {3, 12}, {4, 6},  {5, 7},  {8, 10}, {9, 11},  {13, 14},            //
    {1, 4},  {2, 6},  {5, 8},  {7, 10}, {9, 13}, {11, 14},                      //
    {2, 4},  {3, 6},  {9, 12}, {11, 13},                                        //
    {3, 5},  {6, 8},  {7, 9},  {10, 12},                                        //
    {3, 4},  {5, 6},  {7, 8},  {9, 10}, {11, 12},                               //
    {6, 7},  {8, 9},
};

INLINE void compare(floats& low, floats& high) {
    const floats smaller = low < high ? low : high;
    high = low > high ? low : high;
    low = smaller;
}

INLINE void sort(floats (&x)[16]) {
#pragma GCC unroll 60
    for (auto [low, high] : SORT_16) compare(x[low], x[high]);
}

// `a` becomes the lowest 16 of two ascending sequences.
INLINE void keep_lowest(floats (&a)[16], const floats (&b)[16]) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = a[i] < b[15 - i] ? a[i] : b[15 - i];
#pragma GCC unroll 4
    for (int step = 8; step > 0; step /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i)
            if (!(i & step)) compare(a[i], a[i + step]);
}

// The same for any rank: halves the range of bit patterns, whose order is that of positive numbers, 31 times.
template <int BLOCK>
INLINE floats select_any(const float* values, ints rank, int blocks) {
    floats chosen{};
    for (int block = 0; block < (blocks < LANES ? blocks : LANES); ++block) {
        int32_t low = 0, high = 0x7f800000;
        while (low < high) {
            const int32_t middle = low + (high - low) / 2;
            int32_t count = 0;
            for (int i = 0; i < BLOCK; i += LANES) count -= sum_of_lanes(bits(load(values + block * BLOCK + i)) <= middle);
            if (count > rank[block])
                high = middle;
            else
                low = middle + 1;
        }
        chosen[block] = from_bits(spread(low))[0];
    }
    return chosen;
}

// x[i][j] becomes x[j][i].
INLINE void transpose(floats* x) {
#pragma GCC unroll 4
    for (int step = 1; step < LANES; step *= 2) {
        ints low{}, high{};
        for (int i = 0; i < LANES; ++i) {
            low[i] = i & step ? LANES + i - step : i;
            high[i] = i & step ? LANES + i : i + step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) {
            if (i & step) continue;
            const floats a = x[i], b = x[i + step];
            x[i] = __builtin_shuffle(a, b, low);
            x[i + step] = __builtin_shuffle(a, b, high);
        }
    }
}

// The values at `rank` of LANES blocks of BLOCK values, of which `blocks` exist. BOUND is the highest rank.
template <int BLOCK, int BOUND>
INLINE floats select(const float* values, ints rank, int blocks) {
    if constexpr (BOUND >= 16) return select_any<BLOCK>(values, rank, blocks);
    floats lowest[16];
    for (int group = 0; group < BLOCK; group += 16) {
        floats x[16];
        for (int half = 0; half < 16; half += LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) x[half + i] = load(values + (i < blocks ? i : 0) * BLOCK + group + half);
            transpose(x + half);
        }
        sort(x);
        if (group == 0)
            __builtin_memcpy(lowest, x, sizeof(lowest));
        else
            keep_lowest(lowest, x);
    }
    floats chosen = lowest[0];
#pragma GCC unroll 16
    for (int i = 1; i <= BOUND; ++i) chosen = rank == i ? lowest[i] : chosen;
    return chosen;
}
