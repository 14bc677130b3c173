// 16 random bits per element: a function of the step's key, of a salt, and of the element's index in the whole parameter.
//
// One 32-bit hash serves four elements: each takes a byte of it above eight bits that all four share.
#pragma once

#include "vectors.hpp"

// Where a tile's elements stand in the whole parameter: at `first` and behind it, or each at its own `index`.
struct Places {
    uint32_t key[2];
    int64_t first;
    const int64_t* index;  // null where `first`, a multiple of four, says all
};

// Ettinger's "lowbias32"; the key goes in before and after the first round.
INLINE uint32_t hash(uint32_t counter, const uint32_t (&key)[2], uint32_t salt) {
    uint32_t x = counter ^ key[0] ^ salt * 0x2c1b3c6d;
    x = (x ^ x >> 16) * 0x7feb352d;
    x ^= key[1];
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
}

INLINE void random_bits(const Places& places, uint32_t salt, int count, uint16_t* __restrict to) {
    const uint32_t key[2] = {places.key[0], places.key[1]};
    if (places.index) {
        for (int i = 0; i < count; ++i) {
            const uint32_t word = hash(places.index[i] >> 2, key, salt);
            to[i] = (word >> (places.index[i] & 3) * 8 & 255) << 8 | word * 0x9e3779b1 >> 24;
        }
    } else {
        const uint32_t first = places.first >> 2;
        auto* pairs = reinterpret_cast<uint32_t*>(to);
        for (int i = 0; i < count / 4; ++i) {
            const uint32_t word = hash(first + i, key, salt);
            const uint32_t shared = (word * 0x9e3779b1 >> 24) * 0x00010001;
            pairs[2 * i] = (word & 0xff) << 8 | (word & 0xff00) << 16 | shared;
            pairs[2 * i + 1] = (word >> 8 & 0xff00) | (word & 0xff000000) | shared;
        }
    }
}
