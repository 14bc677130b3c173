// Codes of 1, 2, 3, 4 and 8 bits: code j stands in bits j*BITS ... of the bytes taken as one little-endian number.
//
// A tile's codes pass through an array of one byte per code, because shifts of whole words spread them there and back.
#pragma once

#include "vectors.hpp"

template <int BITS, int COUNT>
INLINE void unpack(const uint8_t* __restrict from, uint8_t* __restrict codes) {
    auto* half = reinterpret_cast<uint16_t*>(codes);
    auto* word = reinterpret_cast<uint32_t*>(codes);
    auto* wide = reinterpret_cast<uint64_t*>(codes);
    if constexpr (BITS == 8) {
        __builtin_memcpy(codes, from, COUNT);
    } else if constexpr (BITS == 4) {
        for (int i = 0; i < COUNT / 2; ++i) half[i] = (from[i] | from[i] << 4) & 0x0f0f;
    } else if constexpr (BITS == 2) {
        for (int i = 0; i < COUNT / 4; ++i) {
            const uint32_t x = from[i];
            word[i] = (x | x << 6 | x << 12 | x << 18) & 0x03030303;
        }
    } else if constexpr (BITS == 1) {
        for (int i = 0; i < COUNT / 8; ++i) {
            const uint64_t x = from[i];
            const uint64_t fours = (x | x << 28) & 0x0000000f0000000f;
            const uint64_t twos = (fours | fours << 14) & 0x0003000300030003;
            wide[i] = (twos | twos << 7) & 0x0101010101010101;
        }
    } else {
        static_assert(BITS == 3);
        for (int i = 0; i < COUNT / 8; ++i) {
            const uint64_t x = from[3 * i] | from[3 * i + 1] << 8 | from[3 * i + 2] << 16;
            const uint64_t fours = (x | x << 20) & 0x00000fff00000fff;
            const uint64_t twos = (fours | fours << 10) & 0x003f003f003f003f;
            wide[i] = (twos | twos << 5) & 0x0707070707070707;
        }
    }
}

template <int BITS, int COUNT>
INLINE void pack(const uint8_t* __restrict codes, uint8_t* __restrict to) {
    auto* half = reinterpret_cast<const uint16_t*>(codes);
    auto* word = reinterpret_cast<const uint32_t*>(codes);
    auto* wide = reinterpret_cast<const uint64_t*>(codes);
    if constexpr (BITS == 8) {
        __builtin_memcpy(to, codes, COUNT);
    } else if constexpr (BITS == 4) {
        for (int i = 0; i < COUNT / 2; ++i) to[i] = half[i] | half[i] >> 4;
    } else if constexpr (BITS == 2) {
        for (int i = 0; i < COUNT / 4; ++i) to[i] = word[i] | word[i] >> 6 | word[i] >> 12 | word[i] >> 18;
    } else if constexpr (BITS == 1) {
        for (int i = 0; i < COUNT / 8; ++i) {
            const uint64_t twos = (wide[i] | wide[i] >> 7) & 0x0003000300030003;
            const uint64_t fours = (twos | twos >> 14) & 0x0000000f0000000f;
            to[i] = fours | fours >> 28;
        }
    } else {
        static_assert(BITS == 3);
        for (int i = 0; i < COUNT / 8; ++i) {
            const uint64_t twos = (wide[i] | wide[i] >> 5) & 0x003f003f003f003f;
            const uint64_t fours = (twos | twos >> 10) & 0x00000fff00000fff;
            const uint64_t x = fours | fours >> 20;
            to[3 * i] = x;
            to[3 * i + 1] = x >> 8;
            to[3 * i + 2] = x >> 16;
        }
    }
}

// The same for `blocks` blocks of BLOCK codes.

template <int BITS, int BLOCK>
INLINE void load_codes(const uint8_t* from, uint8_t* codes, int blocks) {
    for (int i = 0; i < blocks; ++i) unpack<BITS, BLOCK>(from + i * BLOCK * BITS / 8, codes + i * BLOCK);
}

template <int BITS, int BLOCK>
INLINE void store_codes(const uint8_t* codes, uint8_t* to, int blocks) {
    for (int i = 0; i < blocks; ++i) pack<BITS, BLOCK>(codes + i * BLOCK, to + i * BLOCK * BITS / 8);
}
