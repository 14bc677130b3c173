// 16-bit floats: what low_precision.py does in torch, bit for bit; its docstring says why.
#pragma once

#include "random.hpp"
#include "vectors.hpp"

struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

using param_t = PARAM;
using grad_t = GRAD;
using correction_t = CORRECTION;

enum class LowPrecision { nearest, stochastic, kahan, correction8, correction16 };
constexpr auto low_precision = LowPrecision::LOW_PRECISION;
constexpr bool is_corrected = low_precision != LowPrecision::nearest && low_precision != LowPrecision::stochastic;
constexpr bool is_random = low_precision == LowPrecision::stochastic || low_precision == LowPrecision::kahan ||
                           low_precision == LowPrecision::correction8;

// Any dtype to the dtype of the arithmetic and back, rounded to the nearest.

INLINE reals load_reals(const float* from) { return to_reals(load(from)); }
INLINE reals load_reals(const double* from) { return __builtin_convertvector(load(from), reals); }
INLINE reals load_reals(const int8_t* from) { return __builtin_convertvector(load(from), reals); }
INLINE reals load_reals(const int16_t* from) { return __builtin_convertvector(load(from), reals); }

INLINE reals load_reals(const bfloat16* from) {
    return to_reals(from_bits(load_ints(reinterpret_cast<const uint16_t*>(from)) << 16));
}

INLINE reals load_reals(const float16* from) {
    const auto halves = load(reinterpret_cast<const int16_t*>(from));
#ifdef __AVX512F__
    return to_reals(__builtin_ia32_vcvtph2ps512_mask(halves, floats{}, -1, 4));
#elif defined(__F16C__)
    return to_reals(__builtin_ia32_vcvtph2ps256(halves));
#else
    floats x;
    for (int i = 0; i < LANES; ++i) x[i] = reinterpret_cast<const _Float16*>(from)[i];
    return to_reals(x);
#endif
}

INLINE void store_reals(float* to, reals x) { store(to, to_floats(x)); }
template <class V>
INLINE void store_reals(double* to, V x) {
    store(to, __builtin_convertvector(x, Vector<double>));
}

INLINE void store_halves(uint16_t* to, ints x) {
#ifdef __AVX512F__
    store(to, (Vector<uint16_t>)__builtin_ia32_pmovdw512_mask(x, Vector<int16_t>{}, -1));
#elif defined(__AVX2__)
    using v32qi [[gnu::vector_size(32)]] = char;
    using v2di [[gnu::vector_size(16)]] = long long;
    using v4di [[gnu::vector_size(32)]] = long long;
    constexpr v32qi lower{0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13};
    const v4di pairs = (v4di)__builtin_ia32_pshufb256((v32qi)x, lower);
    store(to, (Vector<uint16_t>)v2di{pairs[0], pairs[2]});
#else
    store(to, __builtin_convertvector(x, Vector<uint16_t>));
#endif
}

template <class V>
INLINE void store_reals(bfloat16* to, V values) {
    const floats x = to_floats(values);
    const ints upper = (ints)((words)(bits(x) + 0x7fff + ((bits(x) >> 16) & 1)) >> 16);
    store_halves(reinterpret_cast<uint16_t*>(to), x == x ? upper : 0x7fc0);
}

template <class V>
INLINE void store_reals(float16* to, V values) {
    const floats x = to_floats(values);
#ifdef __AVX512F__
    store(reinterpret_cast<int16_t*>(to), __builtin_ia32_vcvtps2ph512_mask(x, 0, Vector<int16_t>{}, -1));
#elif defined(__F16C__)
    store(reinterpret_cast<int16_t*>(to), __builtin_ia32_vcvtps2ph256(x, 0));
#else
    for (int i = 0; i < LANES; ++i) reinterpret_cast<_Float16*>(to)[i] = x[i];
#endif
}

// Rounding, to values that the format holds exactly.

constexpr float SMALLEST_FLOAT16 = 6.103515625e-05f;  // normal; below it, float16 is a multiple of 2**-24

// The float32 of a bit pattern with the sign of `x`; `x` itself where it is not finite.
INLINE floats with_sign(ints pattern, floats x) {
    return is_finite(x) ? from_bits(pattern | (bits(x) & -2147483647 - 1)) : x;
}

INLINE floats stochastic_bfloat16(floats x, ints random) {
    return is_finite(x) ? from_bits((bits(x) + random) & -65536) : x;
}

INLINE floats stochastic_float16(floats x, ints random) {
    const floats size = abs(x);
    const ints normal = (bits(size) + (random >> 3)) & -8192;
    const ints units = (trunc(at_most(size, spread(SMALLEST_FLOAT16)) * 1099511627776.0f) + random) >> 16;
    const ints small = bits(to_float(units) * 5.960464477539063e-08f);
    return with_sign(size < SMALLEST_FLOAT16 ? small : normal, x);
}

template <class T>
INLINE floats stochastic(floats x, ints random) {
    if constexpr (__is_same(T, float16))
        return stochastic_float16(x, random);
    else
        return stochastic_bfloat16(x, random);
}

template <class T>
INLINE floats nearest(floats x) {
    const floats size = abs(x);
    const ints pattern = bits(size);
    if constexpr (__is_same(T, float16)) {
        const ints normal = (pattern + (((pattern >> 13) & 1) + 4095)) & -8192;
        const ints small = bits((size + 0.5f) - 0.5f);  // units of 0.5 are 2**-24
        return with_sign(size < SMALLEST_FLOAT16 ? small : normal, x);
    } else {
        return with_sign((pattern + (((pattern >> 16) & 1) + 32767)) & -65536, x);
    }
}

// Half a unit in the last place that `x` has in a 16-bit dtype; at least 2**-126.
template <class T>
INLINE floats half_ulp(floats x) {
    const ints exponent = bits(abs(x)) & 0x7f800000;
    if constexpr (__is_same(T, float16))
        return from_bits(at_least(exponent - 92274688, spread(855638016)));
    else
        return from_bits(at_least(exponent - 67108864, spread(8388608)));
}

// Parameters, with what rounding took from them.

template <class T, class C>
INLINE reals read_parameter(const T* param, const C* correction, int i) {
    reals p = load_reals(param + i);
    if constexpr (is_corrected) {
        reals lost = load_reals(correction + i);
        if constexpr (low_precision == LowPrecision::correction8) lost = lost * (half_ulp<T>(p) * (1 / 127.0f));
        if constexpr (low_precision == LowPrecision::correction16) lost = lost * (half_ulp<T>(p) * (1 / 32767.0f));
        p = p + lost;
    }
    return p;
}

template <class T, class C>
INLINE void write_parameter(T* param, C* correction, int i, reals exact, [[maybe_unused]] const uint16_t* random) {
    reals p = exact;
    if constexpr (low_precision == LowPrecision::stochastic) {
        p = stochastic<T>(exact, load_ints(random + i));
    } else if constexpr (is_corrected) {
        ints inner{};  // random bits away from either end: float32's own rounding errors stay without effect
        if constexpr (is_random) inner = at_most(at_least(load_ints(random + i), spread(1024)), spread(64511));
        p = nearest<T>(exact);
        floats lost = exact - p;
        lost = is_finite(lost) ? lost : 0.0f;
        if constexpr (low_precision == LowPrecision::kahan) {
            store_reals(correction + i, stochastic<T>(lost, inner));
        } else {
            const floats inverse = from_bits(0x7f000000 - bits(half_ulp<T>(p)));  // of a power of two, exactly
            const floats fraction = at_most(abs(lost) * inverse, spread(1.0f));
            const ints count = low_precision == LowPrecision::correction8 ? (trunc(fraction * 8323072.0f) + inner) >> 16
                                                                          : (trunc(fraction * 65534.0f) + 1) >> 1;
            store(correction + i, __builtin_convertvector(lost < 0.0f ? -count : count, Vector<C>));
        }
    }
    store_reals(param + i, p);
}
