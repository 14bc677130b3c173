// Vectors of LANES numbers, and the operations of generated kernels on them.
//
// The types are GCC's vector extension: arithmetic, comparisons and `condition ? x : y` work lane by lane. What the
// extension lacks stands here, for AVX-512, for AVX2, and in plain loops for anything else.
#pragma once

using int8_t = __INT8_TYPE__;
using int16_t = __INT16_TYPE__;
using int32_t = __INT32_TYPE__;
using int64_t = __INT64_TYPE__;
using uint8_t = __UINT8_TYPE__;
using uint16_t = __UINT16_TYPE__;
using uint32_t = __UINT32_TYPE__;
using uint64_t = __UINT64_TYPE__;

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

template <class T>
using Vector [[gnu::vector_size(LANES * sizeof(T))]] = T;

using real = REAL;                // float, or double for float64 parameters
using floats = Vector<float>;     // what codecs compute with
using ints = Vector<int32_t>;     // codes, bit patterns, random bits; they wrap around
using words = Vector<uint32_t>;
using reals = Vector<real>;       // what update rules compute with

#define INLINE [[gnu::always_inline]] static inline

constexpr float infinity = __builtin_inff();

// Memory. `Packed` is a vector at any address.

template <class T>
using Packed [[gnu::vector_size(LANES * sizeof(T)), gnu::aligned(alignof(T)), gnu::may_alias]] = T;

template <class T>
using Aliasing [[gnu::aligned(1), gnu::may_alias]] = T;

template <class T>
INLINE Vector<T> load(const T* from) {
    return *reinterpret_cast<const Packed<T>*>(from);
}

template <class T, class V>
INLINE void store(T* to, V values) {
    *reinterpret_cast<Packed<T>*>(to) = values;
}

// Bytes and half-words to ints and back: GCC's own conversions would go lane by lane.

INLINE ints load_ints(const uint8_t* from) {
    using v16qi [[gnu::vector_size(16)]] = char;
#ifdef __AVX512F__
    return __builtin_ia32_pmovzxbd512_mask((v16qi)load(from), ints{}, -1);
#elif defined(__AVX2__)
    using v2di [[gnu::vector_size(16)]] = long long;
    return __builtin_ia32_pmovzxbd256((v16qi)v2di{*reinterpret_cast<const Aliasing<long long>*>(from)});
#else
    return __builtin_convertvector(load(from), ints);
#endif
}

INLINE ints load_ints(const uint16_t* from) {
#ifdef __AVX512F__
    return __builtin_ia32_pmovzxwd512_mask((Vector<int16_t>)load(from), ints{}, -1);
#elif defined(__AVX2__)
    return __builtin_ia32_pmovzxwd256((Vector<int16_t>)load(from));
#else
    return __builtin_convertvector(load(from), ints);
#endif
}

INLINE void store_bytes(uint8_t* to, ints values) {
#ifdef __AVX512F__
    using v16qi [[gnu::vector_size(16)]] = char;
    store(to, (Vector<uint8_t>)__builtin_ia32_pmovdb512_mask(values, v16qi{}, -1));
#elif defined(__AVX2__)
    using v32qi [[gnu::vector_size(32)]] = char;
    using v4di [[gnu::vector_size(32)]] = long long;
    constexpr v32qi first{0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
    const ints bytes = (ints)__builtin_ia32_pshufb256((v32qi)values, first);
    *reinterpret_cast<Aliasing<long long>*>(to) = ((v4di)__builtin_shuffle(bytes, ints{0, 4, 0, 4, 0, 4, 0, 4}))[0];
#else
    store(to, __builtin_convertvector(values, Vector<uint8_t>));
#endif
}

template <class T>
INLINE Vector<T> spread(T x) {
    return x - Vector<T>{};
}

// The first `count` numbers of a vector that memory may not hold in full.
template <class T>
INLINE Vector<T> load_some(const T* from, int count) {
    Vector<T> x{};
    for (int i = 0; i < LANES; ++i)
        if (i < count) x[i] = from[i];
    return x;
}

template <class T>
INLINE void copy(const T* from, T* to, int count) {
    __builtin_memcpy(to, from, count * sizeof(T));
}

INLINE void prefetch(const void* from) { __builtin_prefetch(from); }

// Of RATIO neighbours one each, in place.
template <int RATIO, class T>
INLINE void join(T* values, int count, auto function) {
    for (int i = 0; i < count; ++i) {
        T joined = values[i * RATIO];
        for (int j = 1; j < RATIO; ++j) joined = function(joined, values[i * RATIO + j]);
        values[i] = joined;
    }
}

// Conversions.

INLINE ints bits(floats x) { return reinterpret_cast<ints>(x); }
INLINE floats from_bits(ints x) { return reinterpret_cast<floats>(x); }
INLINE floats to_float(ints x) { return __builtin_convertvector(x, floats); }
INLINE ints trunc(floats x) { return __builtin_convertvector(x, ints); }
INLINE reals to_reals(floats x) { return __builtin_convertvector(x, reals); }

template <class V>
INLINE floats to_floats(V x) {
    return __builtin_convertvector(x, floats);
}

// Arithmetic. `minimum` and `maximum` are NaN if one is NaN.

template <class V>
INLINE V each(V x, auto function) {
    for (int i = 0; i < LANES; ++i) x[i] = function(x[i]);
    return x;
}

INLINE floats abs(floats x) { return from_bits(bits(x) & 0x7fffffff); }
INLINE ints abs(ints x) { return x < 0 ? -x : x; }
INLINE auto is_finite(floats x) { return abs(x) < infinity; }
INLINE floats reciprocal(floats x) { return 1.0f / x; }
INLINE Vector<double> abs(Vector<double> x) {
    return each(x, [](double y) { return __builtin_fabs(y); });
}
INLINE floats exp(floats x) {
    return each(x, [](float y) { return __builtin_expf(y); });
}
INLINE floats log(floats x) {
    return each(x, [](float y) { return __builtin_logf(y); });
}
INLINE Vector<double> exp(Vector<double> x) {
    return each(x, [](double y) { return __builtin_exp(y); });
}
INLINE Vector<double> log(Vector<double> x) {
    return each(x, [](double y) { return __builtin_log(y); });
}

template <class V>
INLINE V pow(V x, V y) {
    for (int i = 0; i < LANES; ++i) {
        if constexpr (sizeof(x[0]) == 4)
            x[i] = __builtin_powf(x[i], y[i]);
        else
            x[i] = __builtin_pow(x[i], y[i]);
    }
    return x;
}

template <class V>
INLINE V square(V x) {
    return x * x;
}

INLINE floats sqrt(floats x) {
#ifdef __AVX512F__
    return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
#elif defined(__AVX__)
    return __builtin_ia32_sqrtps256(x);
#else
    return each(x, [](float y) { return __builtin_sqrtf(y); });
#endif
}

INLINE Vector<double> sqrt(Vector<double> x) {
    return each(x, [](double y) { return __builtin_sqrt(y); });
}

template <class V>
INLINE V rsqrt(V x) {
    return 1 / sqrt(x);
}

template <class V>
INLINE V minimum(V x, V y) {
    return (x < y) | (x != x) ? x : y;
}

#ifdef __AVX512F__  // one instruction, whose result is y where one is NaN, and what is missing then
INLINE floats minimum(floats x, floats y) {
    return x != x ? x : (floats)__builtin_ia32_minps512_mask(x, y, floats{}, -1, 4);
}

INLINE floats maximum(floats x, floats y) {
    return x != x ? x : (floats)__builtin_ia32_maxps512_mask(x, y, floats{}, -1, 4);
}
#elif defined(__AVX2__)
INLINE floats minimum(floats x, floats y) {
    return x != x ? x : (floats)__builtin_ia32_minps256(x, y);
}

INLINE floats maximum(floats x, floats y) {
    return x != x ? x : (floats)__builtin_ia32_maxps256(x, y);
}
#endif

INLINE ints minimum(ints x, ints y) { return x < y ? x : y; }

template <class V>
INLINE V maximum(V x, V y) {
    return (x > y) | (x != x) ? x : y;
}

INLINE ints maximum(ints x, ints y) { return x > y ? x : y; }

// The same where `bound` is not NaN: one instruction.
template <class V>
INLINE V at_most(V x, V bound) {
    return bound < x ? bound : x;
}

template <class V>
INLINE V at_least(V x, V bound) {
    return bound > x ? bound : x;
}

#if defined(__AVX512F__)
INLINE floats at_most(floats x, floats bound) { return __builtin_ia32_minps512_mask(bound, x, x, -1, 4); }
INLINE floats at_least(floats x, floats bound) { return __builtin_ia32_maxps512_mask(bound, x, x, -1, 4); }
#elif defined(__AVX__)
INLINE floats at_most(floats x, floats bound) { return __builtin_ia32_minps256(bound, x); }
INLINE floats at_least(floats x, floats bound) { return __builtin_ia32_maxps256(bound, x); }
#endif

// `x`, but zero where it is infinite or not a number.
INLINE floats finite_or_zero(floats x) {
#ifdef __AVX512F__
    constexpr int ZERO = 8, CLASSES = ZERO | ZERO << 4 | ZERO << 16 | ZERO << 20;  // both kinds of NaN, both infinities
    return __builtin_ia32_fixupimmps512_mask(x, x, spread(CLASSES), 0, -1, 4);
#else
    return is_finite(x) ? x : 0.0f;
#endif
}

template <class V>
INLINE V sign(V x) {
    return x > 0 ? V{} + 1 : x < 0 ? V{} - 1 : x;
}

// The high 32 bits of the product of two numbers taken as unsigned.
INLINE ints mul_high(ints x, ints y) {
#if defined(__AVX2__)
    using pairs [[gnu::vector_size(sizeof(ints))]] = long long;
#ifdef __AVX512F__
    auto product = [](pairs a, pairs b) { return __builtin_ia32_pmuludq512_mask((ints)a, (ints)b, pairs{}, -1); };
#else
    auto product = [](pairs a, pairs b) { return __builtin_ia32_pmuludq256((ints)a, (ints)b); };
#endif
    using unsigned_pairs [[gnu::vector_size(sizeof(ints))]] = unsigned long long;
    auto odd_lanes = [](ints a) { return (pairs)((unsigned_pairs)a >> 32); };
    unsigned_pairs even = (unsigned_pairs)product((pairs)x, (pairs)y) >> 32;
    unsigned_pairs odd = (unsigned_pairs)product(odd_lanes(x), odd_lanes(y)) & 0xffffffff00000000;
    return (ints)(even | odd);
#else
    using wide = Vector<uint64_t>;
    wide product = __builtin_convertvector((words)x, wide) * __builtin_convertvector((words)y, wide);
    return __builtin_convertvector(product >> 32, ints);
#endif
}

INLINE ints mul_high(ints x, int32_t y) { return mul_high(x, spread(y)); }

// The product of two numbers of 16 bits, unsigned, over 2**16, rounded down.
INLINE ints mul_high16(ints x, ints y) {
    using halves [[gnu::vector_size(sizeof(ints))]] = short;
#if defined(__AVX512BW__)
    return (ints)__builtin_ia32_pmulhuw512_mask((halves)x, (halves)y, halves{}, -1);
#elif defined(__AVX2__)
    return (ints)__builtin_ia32_pmulhuw256((halves)x, (halves)y);
#else
    return (ints)((words)x * (words)y >> 16);
#endif
}

// The product of a number of 16 bits, unsigned, and one that is not negative, over 2**16, rounded down.
INLINE ints share16(ints x, ints y) { return x * (y >> 16) + mul_high16(x, y & 0xffff); }

// The number at `index`, modulo COUNT, which is 2, 4, 8 or 16.
template <int COUNT>
INLINE floats lookup(ints index, const float (&table)[COUNT]) {
    static_assert(COUNT <= 16 && (COUNT & (COUNT - 1)) == 0);
    floats low, high;
    for (int i = 0; i < LANES; ++i) {
        low[i] = table[i % COUNT];
        high[i] = table[(LANES + i) % COUNT];
    }
    const floats chosen = __builtin_shuffle(low, index);
    if constexpr (COUNT <= LANES) return chosen;
    return (index & LANES) != 0 ? __builtin_shuffle(high, index) : chosen;
}

// The lanes of two vectors in turn: `low` takes the first halves, `high` the second.
template <class V>
INLINE void interleave(V x, V y, V& low, V& high) {
    constexpr int SIZE = sizeof(V) / sizeof(x[0]);
    V first{}, second{};
    for (int i = 0; i < SIZE; ++i) {
        first[i] = i / 2 + i % 2 * SIZE;
        second[i] = i / 2 + i % 2 * SIZE + SIZE / 2;
    }
    low = __builtin_shuffle(x, y, first);
    high = __builtin_shuffle(x, y, second);
}

// What `function` makes of all lanes, in each lane. STEP is a template's argument because GCC builds the places of a shuffle at
// run time, lane by lane, where it has to unroll a loop first.
template <int STEP = LANES / 2, class V>
INLINE V across(V x, auto function) {
    if constexpr (STEP > 0) {
        ints lanes{};
        for (int i = 0; i < LANES; ++i) lanes[i] = (i + STEP) % LANES;
        x = across<STEP / 2>(function(x, __builtin_shuffle(x, lanes)), function);
    }
    return x;
}

INLINE float largest_lane(floats x) { return across(x, [](floats a, floats b) { return a > b ? a : b; })[0]; }
INLINE float smallest_lane(floats x) { return across(x, [](floats a, floats b) { return a < b ? a : b; })[0]; }
INLINE int32_t sum_of_lanes(ints x) { return across(x, [](ints a, ints b) { return a + b; })[0]; }

constexpr auto SUM = [](auto a, auto b) { return a + b; };
constexpr auto MAX = [](auto a, auto b) { return maximum(a, b); };
constexpr auto MIN = [](auto a, auto b) { return minimum(a, b); };

// What `function` makes of all lanes.
template <class V>
INLINE auto joined_lanes(V x, auto function) {
    auto joined = x[0];
    if constexpr (sizeof(x[0]) == sizeof(int32_t))
        joined = across(x, function)[0];
    else
        for (int i = 1; i < LANES; ++i) joined = function(joined, x[i]);
    return joined;
}
