// 16 random bits per element: a function of the step's key, of a salt, and of the element's index in the whole parameter.
//
// One 32-bit hash serves four elements and all salts. A salt makes two words of it; the elements take their halves.
#pragma once

#include "vectors.hpp"

// Where a tile's elements stand in the whole parameter: at `first` and behind it, or each at its own `index`.
struct Places {
    uint32_t key[2];
    int64_t first;
    const int64_t* index;  // null where `first`, a multiple of four, says all
};

// Ettinger's "lowbias32"; the key goes in before and after the first round.
template <class T>
INLINE T hash(T counter, const uint32_t (&key)[2]) {
    T x = counter ^ key[0];
    x = (x ^ x >> 16) * 0x7feb352d;
    x ^= key[1];
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
}

// Word `number` of a hash: its product with a power of a multiplier that makes good generators (L'Ecuyer 1999).
template <class T>
INLINE T word_of(T hashed, uint32_t power) {
    const T word = hashed * power;
    return word ^ word >> 16;
}

constexpr uint32_t multiplier(int number) {
    uint32_t power = 1;
    while (number-- > 0) power *= 0x2c9277b5;
    return power;
}

INLINE void random_bits(const Places& places, int salt, int count, uint16_t* __restrict to) {
    const uint32_t key[2] = {places.key[0], places.key[1]};
    const uint32_t even = multiplier(2 * salt + 1), odd = multiplier(2 * salt + 2);
    if (places.index) {
        for (int i = 0; i < count; ++i) {
            const uint32_t hashed = hash(uint32_t(places.index[i] >> 2), key);
            const uint32_t word = word_of(hashed, places.index[i] & 2 ? odd : even);
            to[i] = uint16_t(places.index[i] & 1 ? word >> 16 : word);
        }
    } else {
        auto* pairs = reinterpret_cast<uint32_t*>(to);
        words counter = (words)spread(int32_t(places.first >> 2));
        for (int i = 0; i < LANES; ++i) counter[i] += i;
        for (int i = 0; i < count; i += 4 * LANES, counter += LANES) {
            const words hashed = hash(counter, key);
            words low, high;
            interleave(word_of(hashed, even), word_of(hashed, odd), low, high);
            store(pairs + i / 2, low);
            store(pairs + i / 2 + LANES, high);
        }
    }
}
