// Codes of 1, 2, 3 and 4 bits: code j stands in bits j*BITS ... of the bytes taken as one little-endian number.
//
// A tile's codes pass through an array of one byte per code; those of 8 bits are used where they stand. Vectors of bytes are
// cut in halves until a byte holds one code, and joined again, two to one; codes of 3 bits, eight in three bytes, are moved
// by shifts of words.
#pragma once

#include "vectors.hpp"

using byte_vector [[gnu::vector_size(32)]] = uint8_t;
using short_vector [[gnu::vector_size(32)]] = uint16_t;
using unaligned_bytes [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = uint8_t;

// 32 bytes of WIDTH bits each become codes of BITS bits.
template <int WIDTH, int BITS>
INLINE void cut(byte_vector x, uint8_t* codes) {
    if constexpr (WIDTH == BITS) {
        *reinterpret_cast<unaligned_bytes*>(codes) = x;
    } else {
        constexpr int HALF = WIDTH / 2;
        constexpr uint8_t MASK = (1 << HALF) - 1;
        const byte_vector low = x & MASK, high = (byte_vector)((short_vector)x >> HALF) & MASK;
        byte_vector first, second;
        interleave(low, high, first, second);
        cut<HALF, BITS>(first, codes);
        cut<HALF, BITS>(second, codes + 32 * HALF / BITS);
    }
}

// The inverse: bytes of WIDTH bits, made of codes of BITS bits.
template <int WIDTH, int BITS>
INLINE byte_vector joined(const uint8_t* codes) {
    if constexpr (WIDTH == BITS) {
        return *reinterpret_cast<const unaligned_bytes*>(codes);
    } else {
        constexpr int HALF = WIDTH / 2;
        auto pairs = [](byte_vector x) { return x | (byte_vector)((short_vector)x >> (8 - HALF)); };
        byte_vector even{};
        for (int i = 0; i < 32; ++i) even[i] = 2 * i;
        return __builtin_shuffle(pairs(joined<HALF, BITS>(codes)), pairs(joined<HALF, BITS>(codes + 32 * HALF / BITS)), even);
    }
}

INLINE void unpack_threes(const uint8_t* __restrict from, uint8_t* __restrict codes, int count) {
    auto* wide = reinterpret_cast<Aliasing<uint64_t>*>(codes);
    for (int i = 0; i < count / 8; ++i) {
        const uint64_t x = from[3 * i] | from[3 * i + 1] << 8 | from[3 * i + 2] << 16;
        const uint64_t fours = (x | x << 20) & 0x00000fff00000fff;
        const uint64_t twos = (fours | fours << 10) & 0x003f003f003f003f;
        wide[i] = (twos | twos << 5) & 0x0707070707070707;
    }
}

INLINE void pack_threes(const uint8_t* __restrict codes, uint8_t* __restrict to, int count) {
    auto* wide = reinterpret_cast<const Aliasing<uint64_t>*>(codes);
    for (int i = 0; i < count / 8; ++i) {
        const uint64_t twos = (wide[i] | wide[i] >> 5) & 0x003f003f003f003f;
        const uint64_t fours = (twos | twos >> 10) & 0x00000fff00000fff;
        const uint64_t x = fours | fours >> 20;
        to[3 * i] = x;
        to[3 * i + 1] = x >> 8;
        to[3 * i + 2] = x >> 16;
    }
}

// The codes of `blocks` blocks, a byte each, and back.

template <int BITS, int BLOCK>
INLINE void load_codes(const uint8_t* from, uint8_t* codes, int blocks) {
    constexpr int IN_BYTE = 8 / BITS;
    if constexpr (BITS == 3) return unpack_threes(from, codes, blocks * BLOCK);
    const int size = blocks * BLOCK / IN_BYTE;
    int i = 0;
    for (; i + 32 <= size; i += 32) cut<8, BITS>(*reinterpret_cast<const unaligned_bytes*>(from + i), codes + i * IN_BYTE);
    for (; i < size; ++i)
        for (int j = 0; j < IN_BYTE; ++j) codes[i * IN_BYTE + j] = from[i] >> j * BITS & ((1 << BITS) - 1);
}

template <int BITS, int BLOCK>
INLINE void store_codes(const uint8_t* codes, uint8_t* to, int blocks) {
    constexpr int IN_BYTE = 8 / BITS;
    if constexpr (BITS == 3) return pack_threes(codes, to, blocks * BLOCK);
    const int size = blocks * BLOCK / IN_BYTE;
    int i = 0;
    for (; i + 32 <= size; i += 32) *reinterpret_cast<unaligned_bytes*>(to + i) = joined<8, BITS>(codes + i * IN_BYTE);
    for (; i < size; ++i) {
        to[i] = 0;
        for (int j = 0; j < IN_BYTE; ++j) to[i] |= codes[i * IN_BYTE + j] << j * BITS;
    }
}
