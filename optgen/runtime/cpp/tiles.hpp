// Buckets of parameters, and the tiles that they are cut into.
//
// A tile's buffers are contiguous and made of whole blocks. Where a parameter's are not, because rows end within a block
// or the last vector is not full, the tile is copied to whole blocks, padded with zeros, and back: kernels know no masks.
#pragma once

#include "random.hpp"
#include "vectors.hpp"

extern "C" int omp_get_thread_num();
extern "C" int omp_get_num_threads();

enum class Layout { element, code, block, row, tensor, rows, cols, matrices, strips };  // as in plan/nodes.py

// How one buffer lies: bytes of an element or bits of a code, and elements of a block.
struct Column {
    Layout layout;
    int size;
    int block;
    bool read;
    bool written;
};

// Parameters that one call updates. A row of `tensors` holds the address of each buffer, then rows, elements in a row, and
// the number of the parameter's first tile; a row of `keys` the two words of the step's key, start, run and gap of the shard.
struct Bucket {
    const int64_t* tensors;
    const real* scalars;
    const int64_t* keys;
    int64_t count;
    int64_t tiles;
    int32_t threads;
};

struct Tile {
    char** at;  // where its part of each buffer begins
    const real* scalars;
    Places places;
    const int32_t* exists;  // null if all elements do; else 0 for padding
    int count;              // elements, padding included
    bool starts_strip;      // whether it is in the first row of a strip

    template <class T>
    T* buffer(int column) const {
        return reinterpret_cast<T*>(at[column]);
    }
};

// `x`, but `other` where there is padding.
template <class V>
INLINE V existing(const Tile& tile, int i, V x, float other = 0.0f) {
    if (!tile.exists) return x;
    const ints exists = load(tile.exists + i);
    if constexpr (sizeof(V) == sizeof(floats))
        return exists != 0 ? x : V{} + other;
    else
        return __builtin_convertvector(exists, Vector<int64_t>) != 0 ? x : V{} + double(other);
}

// Room for copies of a tile's part of each column, and for what is said of its elements.
template <int TILE, int COLUMNS>
struct Copies {
    char* memory;

    char* of(int c) const { return memory + c * TILE * 8; }
    int32_t* exists() const { return reinterpret_cast<int32_t*>(memory + COLUMNS * TILE * 8); }
    int64_t* index() const { return reinterpret_cast<int64_t*>(memory + COLUMNS * TILE * 8 + TILE * 4); }

    static int64_t bytes() { return COLUMNS * TILE * 8 + TILE * 12; }
};

// Whether a shard's elements by fours are such in the whole parameter.
INLINE bool is_regular(const int64_t* key) { return key[1] % 4 == 0 && key[3] == 0; }

// Bytes of one of a column's items: an element, a scalar, or the codes of a block.
INLINE int64_t item(const Column& column) {
    return column.layout == Layout::code ? column.block * column.size / 8 : column.size;
}

// WIDE elements are the largest block of a kernel's states (a vector, or a part of a reduction, if it has none), TILE a tile.
template <int WIDE, int TILE, int COLUMNS>
struct Walk {
    const Column (&columns)[COLUMNS];
    const int64_t* tensor;
    const int64_t* key;
    int64_t length, per_row;
    Copies<TILE, COLUMNS> copies;
    Tile& tile;

    // Elements that one of a column's items stands for.
    static int64_t elements(const Column& column) { return column.layout == Layout::element ? 1 : column.block; }

    // Copy a column's part of the WIDE block `number`, the tile's `place`-th, there or back.
    void move(int c, int64_t number, int place, bool back) const {
        const Column& column = columns[c];
        const int64_t row = number / per_row, begin = number % per_row * WIDE, bytes = item(column), size = elements(column);
        char* theirs = reinterpret_cast<char*>(tensor[c]);
        char* ours = copies.of(c) + place * (WIDE / size) * bytes;
        if (column.layout == Layout::row || column.layout == Layout::tensor) {
            theirs += column.layout == Layout::row ? row * bytes : 0;
            if (!back)
                for (int i = 0; i < WIDE / size; ++i) __builtin_memcpy(ours + i * bytes, theirs, bytes);
            else if (column.layout == Layout::row ? begin == 0 : number == 0)
                __builtin_memcpy(theirs, ours, bytes);
            return;
        }
        const int64_t in_row = (length + size - 1) / size, first = begin / size;
        const int64_t present = in_row - first < WIDE / size ? in_row - first : WIDE / size;
        theirs += (row * in_row + first) * bytes;
        if (back) {
            __builtin_memcpy(theirs, ours, present * bytes);
        } else {
            __builtin_memcpy(ours, theirs, present * bytes);
            __builtin_memset(ours + present * bytes, 0, (WIDE / size - present) * bytes);
        }
    }

    void fill_index(int64_t first, int blocks) const {
        for (int place = 0; place < blocks; ++place) {
            const int64_t begin = (first + place) / per_row * length + (first + place) % per_row * WIDE;
            for (int64_t i = 0; i < WIDE; ++i)
                copies.index()[place * WIDE + i] = key[1] + begin + i + (begin + i) / key[2] * key[3];
        }
    }

    // Run `body` on `blocks` WIDE blocks from the parameter's block `first`; they are contiguous, or all copied.
    void run(int64_t first, int blocks, bool contiguous, bool random, auto body) const {
        auto is_copied = [&](int c) {
            return !contiguous || columns[c].layout == Layout::row || columns[c].layout == Layout::tensor;
        };
        for (int c = 0; c < COLUMNS; ++c) {
            const Column& column = columns[c];
            if (!is_copied(c)) {
                tile.at[c] = reinterpret_cast<char*>(tensor[c]) + first * (WIDE / elements(column)) * item(column);
                continue;
            }
            tile.at[c] = copies.of(c);
            for (int place = 0; place < blocks && column.read; ++place) move(c, first + place, place, false);
        }
        tile.count = blocks * WIDE;
        tile.exists = nullptr;
        if (!contiguous) {
            for (int i = 0; i < tile.count; ++i)
                copies.exists()[i] = (first + i / WIDE) % per_row * WIDE + i % WIDE < length;
            tile.exists = copies.exists();
        }
        tile.places = {{uint32_t(key[0]), uint32_t(uint64_t(key[0]) >> 32)}, key[1] + first * WIDE, nullptr};
        if (random && !(contiguous && is_regular(key))) {
            fill_index(first, blocks);
            tile.places.index = copies.index();
        }
        body(tile);
        for (int c = 0; c < COLUMNS; ++c)
            for (int place = 0; place < blocks && columns[c].written && is_copied(c); ++place)
                move(c, first + place, place, true);
    }
};

// Run `body` on every tile of a bucket. Coded kernels count rows in blocks of WIDE; others see a parameter as one row.
template <int WIDE, int TILE, int COLUMNS>
static void for_each_tile(const Bucket& bucket, const Column (&columns)[COLUMNS], int scalars, bool random, auto body) {
    constexpr int SLOTS = COLUMNS + 3;
    using Walker = Walk<WIDE, TILE, COLUMNS>;
#pragma omp parallel num_threads(bucket.threads)
    {
#ifdef _OPENMP
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
        const int64_t thread = 0, threads = 1;
#endif
        const int64_t end = bucket.tiles * (thread + 1) / threads;
        int64_t number = bucket.tiles * thread / threads, i = 0;
        char* memory = static_cast<char*>(__builtin_malloc(Copies<TILE, COLUMNS>::bytes()));
        while (number < end) {
            while (i + 1 < bucket.count && bucket.tensors[(i + 1) * SLOTS + COLUMNS + 2] <= number) ++i;
            const int64_t* tensor = bucket.tensors + i * SLOTS;
            const int64_t rows = tensor[COLUMNS], length = tensor[COLUMNS + 1], per_row = (length + WIDE - 1) / WIDE;
            const int64_t blocks = rows * per_row, first = (number - tensor[COLUMNS + 2]) * (TILE / WIDE);
            const int taken = blocks - first < TILE / WIDE ? blocks - first : TILE / WIDE;
            char* at[COLUMNS];
            Tile tile{at, bucket.scalars + i * scalars, {}, nullptr, 0};
            const Walker walk{columns, tensor, bucket.keys + i * 4, length, per_row, {memory}, tile};
            const bool is_whole = length % WIDE == 0;
            // of one row, all but the last block is contiguous
            const int contiguous = is_whole ? taken : rows > 1 ? 0 : first + taken == blocks ? taken - 1 : taken;
            if (contiguous) walk.run(first, contiguous, true, random, body);
            if (contiguous < taken) walk.run(first + contiguous, taken - contiguous, false, random, body);
            ++number;
        }
        __builtin_free(memory);
    }
}

enum class Join { max, min, sum, mean };  // as in plan/nodes.py

// What a sweep left of each block becomes one number for each row, or for the tensor; sums in float64.
template <Join JOIN, class T, int COLUMNS>
static void join_parts(const Bucket& bucket, const Column (&columns)[COLUMNS], int parts, int result) {
#pragma omp parallel for num_threads(bucket.threads) schedule(dynamic)
    for (int64_t i = 0; i < bucket.count; ++i) {
        const int64_t* tensor = bucket.tensors + i * (COLUMNS + 3);
        const int64_t rows = tensor[COLUMNS], length = tensor[COLUMNS + 1];
        const int64_t in_row = (length + columns[parts].block - 1) / columns[parts].block;
        const bool by_row = columns[result].layout == Layout::row;
        const int64_t count = by_row ? rows : 1, each = by_row ? in_row : rows * in_row;
        const T* from = reinterpret_cast<const T*>(tensor[parts]);
        T* to = reinterpret_cast<T*>(tensor[result]);
        for (int64_t j = 0; j < count; ++j) {
            constexpr bool ADDS = JOIN == Join::sum || JOIN == Join::mean;
            auto joined = [&] {
                if constexpr (ADDS)
                    return double(from[j * each]);
                else
                    return from[j * each];
            }();
            for (int64_t k = 1; k < each; ++k) {
                const T x = from[j * each + k];
                if constexpr (JOIN == Join::max) joined = maximum(joined, x);
                if constexpr (JOIN == Join::min) joined = minimum(joined, x);
                if constexpr (ADDS) joined += x;
            }
            to[j] = T(JOIN == Join::mean ? joined / (rows * length) : joined);
        }
    }
}
