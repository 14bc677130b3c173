// Kernels that know rows and columns: a parameter is a stack of matrices, and a tile is a part of one row.
//
// A pass over rows, columns or matrices sees these as the elements of one matrix, whose rows are the matrices of the parameter.
// Strips of rows are what threads share: what a strip leaves of each column is taken in row by row, in one order.
#pragma once

#include "random.hpp"
#include "tiles.hpp"
#include "vectors.hpp"

enum class Over { element, row, col, matrix };  // as in runtime/layout.py

constexpr int64_t STRIP = 32;  // rows; as in plan/nodes.py

struct Frame {
    int64_t matrices, rows, length;

    int64_t strips() const { return (rows + STRIP - 1) / STRIP; }
};

// What a pass sees, from the matrices, rows and columns of a parameter.
INLINE Frame frame(const int64_t* sizes, Over over) {
    if (over == Over::row) return {1, sizes[0], sizes[1]};
    if (over == Over::col) return {1, sizes[0], sizes[2]};
    if (over == Over::matrix) return {1, 1, sizes[0]};
    return {sizes[0], sizes[1], sizes[2]};
}

// A buffer that a pass uses, as the row sees it that is at hand.
struct Line {
    int column;
    char* at;       // where its part of the row begins
    int64_t apart;  // bytes to the next row
    int64_t size;   // elements of a row that one of its items stands for; 0 where there is one number for the row
    int64_t bytes;  // of an item

    char* place(int64_t begin) const { return begin && size ? at + begin / size * bytes : at; }
};

template <int CHUNK, int TILE, int COLUMNS>
struct GridWalk {
    const Column (&columns)[COLUMNS];
    const int64_t* tensor;
    const int64_t* key;
    const Frame frame;
    Copies<TILE, COLUMNS> copies;
    Tile& tile;
    Line lines[COLUMNS];
    int used;

    // Go to a row, the first one of a strip.
    void go_to(int64_t matrix, int64_t row) {
        const int64_t line = matrix * frame.rows + row;
        used = 0;
        for (int c = 0; c < COLUMNS; ++c) {
            const Column& column = columns[c];
            if (!column.read && !column.written) continue;
            const int64_t size = elements(column), bytes = item(column);
            const int64_t in_row = size ? (frame.length + size - 1) / size * bytes : 0;
            int64_t from = 0, step = 0;
            switch (column.layout) {
                case Layout::rows: case Layout::row: from = line * bytes, step = bytes; break;
                case Layout::matrices: from = matrix * bytes; break;
                case Layout::cols: from = matrix * in_row; break;
                case Layout::strips: from = (matrix * frame.strips() + row / STRIP) * in_row; break;
                case Layout::element: case Layout::block: case Layout::code: from = line * in_row, step = in_row; break;
                default: break;
            }
            lines[used++] = {c, reinterpret_cast<char*>(tensor[c]) + from, step, size, bytes};
        }
    }

    void next_row() {
        for (int i = 0; i < used; ++i) lines[i].at += lines[i].apart;
    }

    // Whether a scale of a row or the tensor is given for each block of the tile.
    static bool is_repeated(const Column& column) {
        return (column.layout == Layout::row || column.layout == Layout::tensor) && column.block;
    }

    // Elements of a row that one of a column's items stands for; 0 where there is one number for the tile.
    static int64_t elements(const Column& column) {
        switch (column.layout) {
            case Layout::element: case Layout::cols: case Layout::strips: return 1;
            case Layout::block: case Layout::code: return column.block;
            default: return 0;
        }
    }

    // Run `body` on `count` elements of a row, of which `present` exist: all, or else the tile is copied and padded with zeros.
    void run(int64_t line, int64_t begin, int count, int present, bool random, auto body) const {
        const bool is_first = line == 0 && begin == 0, is_whole = present == count;
        for (int i = 0; i < used; ++i) {
            const Line& each = lines[i];
            const Column& column = columns[each.column];
            char* theirs = each.place(begin);
            char*& at = tile.at[each.column] = theirs;
            if (each.size && is_whole) continue;
            char* ours = copies.of(each.column);
            if (is_repeated(column)) {
                at = ours;
                for (int k = 0; k < count / column.block; ++k) __builtin_memcpy(ours + k * column.size, theirs, column.size);
            } else if (!each.size) {
                if (!column.written || is_first) continue;  // the first tile writes what is one for all
                at = ours;
                if (column.read) __builtin_memcpy(ours, theirs, column.size);
            } else {
                at = ours;
                if (!column.read && column.layout != Layout::strips) continue;
                const int64_t bytes = (present + each.size - 1) / each.size * each.bytes;
                __builtin_memcpy(ours, theirs, bytes);
                __builtin_memset(ours + bytes, 0, count / each.size * each.bytes - bytes);
            }
        }
        const int64_t start = line * frame.length + begin;
        tile.count = count;
        tile.exists = nullptr;
        if (!is_whole) {
            for (int i = 0; i < count; ++i) copies.exists()[i] = i < present;
            tile.exists = copies.exists();
        }
        tile.places = {{uint32_t(key[0]), uint32_t(uint64_t(key[0]) >> 32)}, key[1] + start, nullptr};
        if (random && !(is_whole && is_regular(key) && start % 4 == 0)) {
            for (int i = 0; i < count; ++i) copies.index()[i] = key[1] + start + i + (start + i) / key[2] * key[3];
            tile.places.index = copies.index();
        }
        body(tile);
        for (int i = 0; i < used; ++i) {
            const Line& each = lines[i];
            const Column& column = columns[each.column];
            if (!column.written || (each.size && is_whole)) continue;
            char* theirs = each.place(begin);
            if (is_repeated(column) && (column.layout == Layout::row ? begin == 0 : is_first))
                __builtin_memcpy(theirs, copies.of(each.column), column.size);
            if (each.size) __builtin_memcpy(theirs, copies.of(each.column), (present + each.size - 1) / each.size * each.bytes);
        }
    }

    // One row: whole tiles, then the rest in whole chunks, then what is less than a chunk.
    void run_row(int64_t line, bool random, auto body) const {
        const int64_t whole = frame.length / CHUNK * CHUNK;
        for (int64_t begin = 0; begin < whole; begin += TILE) {
            const int count = whole - begin < TILE ? whole - begin : TILE;
            run(line, begin, count, count, random, body);
        }
        if (whole < frame.length) run(line, whole, CHUNK, frame.length - whole, random, body);
    }
};

// The parameter that a strip belongs to; `i` is one before it, or it.
template <Over OVER, int COLUMNS>
static Frame find(const Bucket& bucket, int64_t& i, int64_t& strip) {
    for (;; ++i) {
        const Frame f = frame(bucket.tensors + i * (COLUMNS + 3) + COLUMNS, OVER);
        const int64_t strips = f.matrices * f.strips();
        if (strip < strips) return f;
        strip -= strips;
    }
}

// Run `body` on every tile of a bucket. A row of `tensors` ends with the matrices, rows and columns of the parameter.
template <int CHUNK, int TILE, Over OVER, int COLUMNS>
static void for_each_strip(const Bucket& bucket, const Column (&columns)[COLUMNS], int scalars, bool random, auto body) {
    constexpr int SLOTS = COLUMNS + 3;
    using Walker = GridWalk<CHUNK, TILE, COLUMNS>;
    int64_t all = 0;
    for (int64_t i = 0; i < bucket.count; ++i) {
        const Frame f = frame(bucket.tensors + i * SLOTS + COLUMNS, OVER);
        all += f.matrices * f.strips();
    }
#pragma omp parallel num_threads(bucket.threads)
    {
#ifdef _OPENMP
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
        const int64_t thread = 0, threads = 1;
#endif
        const int64_t end = all * (thread + 1) / threads;
        int64_t number = all * thread / threads, i = 0, strip = number;
        char* memory = static_cast<char*>(__builtin_malloc(Copies<TILE, COLUMNS>::bytes()));
        for (; number < end; ++number, ++strip) {
            const Frame f = find<OVER, COLUMNS>(bucket, i, strip);
            char* at[COLUMNS];
            Tile tile{at, bucket.scalars + i * scalars, {}, nullptr, 0};
            Walker walk{columns, bucket.tensors + i * SLOTS, bucket.keys + i * 4, f, {memory}, tile};
            const int64_t matrix = strip / f.strips(), first = strip % f.strips() * STRIP;
            walk.go_to(matrix, first);
            for (int64_t row = first; row < first + STRIP && row < f.rows; ++row, walk.next_row()) {
                tile.starts_strip = row == first;
                walk.run_row(matrix * f.rows + row, random, body);
            }
        }
        __builtin_free(memory);
    }
}

// What a sweep left becomes one number for each row, column or matrix, or for the tensor; sums in float64.
template <Join JOIN, class T, Over OVER, int COLUMNS>
static void join_grid(const Bucket& bucket, const Column (&columns)[COLUMNS], int parts, int result) {
    constexpr bool ADDS = JOIN == Join::sum || JOIN == Join::mean;
    constexpr int64_t MOST = 512;  // results that are joined together
    using Joined = decltype([] {
        if constexpr (ADDS)
            return double();
        else
            return T();
    }());
#pragma omp parallel num_threads(bucket.threads)
    for (int64_t i = 0; i < bucket.count; ++i) {
        const int64_t* tensor = bucket.tensors + i * (COLUMNS + 3);
        const Frame f = frame(tensor + COLUMNS, OVER);
        const Layout to_layout = columns[result].layout;
        int64_t stack, each, apart = 1;
        if (columns[parts].layout == Layout::strips) {
            stack = f.matrices, each = f.strips(), apart = f.length;
        } else {
            const int64_t in_row = (f.length + columns[parts].block - 1) / columns[parts].block;
            const bool by_row = to_layout == Layout::rows || to_layout == Layout::row;
            stack = by_row ? f.matrices * f.rows : to_layout == Layout::matrices ? f.matrices : 1;
            each = f.matrices * f.rows * in_row / stack;
        }
        const double count = double(f.matrices * f.rows * f.length / (stack * apart));
        const T* from = reinterpret_cast<const T*>(tensor[parts]);
        T* to = reinterpret_cast<T*>(tensor[result]);
        const int64_t across = (apart + MOST - 1) / MOST;
#pragma omp for schedule(static) nowait
        for (int64_t j = 0; j < stack * across; ++j) {
            const int64_t first = j % across * MOST, width = apart - first < MOST ? apart - first : MOST;
            const T* here = from + j / across * each * apart + first;
            Joined joined[MOST];
            for (int64_t c = 0; c < width; ++c) joined[c] = here[c];
            for (int64_t k = 1; k < each; ++k)
                for (int64_t c = 0; c < width; ++c) {
                    const T x = here[k * apart + c];
                    if constexpr (JOIN == Join::max) joined[c] = maximum(joined[c], x);
                    if constexpr (JOIN == Join::min) joined[c] = minimum(joined[c], x);
                    if constexpr (ADDS) joined[c] += x;
                }
            for (int64_t c = 0; c < width; ++c)
                to[j / across * apart + first + c] = T(JOIN == Join::mean ? joined[c] / count : joined[c]);
        }
    }
}
