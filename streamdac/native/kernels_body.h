// The inner loops, written once and built for each instruction set by the kernels_*.cpp files, which set WIDTH,
// REGISTERS, STREAMDAC_FMA and the namespace.
//
// Every output is one chain of fused multiply-adds, in the order tap, channel, whatever tile it falls in; every
// activation is the same polynomial for every lane. So results do not depend on chunks, rows or threads.

// ---------------------------------------------------------------- activations

// x + sin(alpha x)^2 / alpha, with alpha / pi given. sin(pi t)^2 has period 1: t is the distance to the nearest integer.
// Minimax polynomial in t^2, error below 6e-9.
INLINE V snake(V x, V alpha, V inverse) {
    const V magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const V turns = (x * alpha + magic) - magic;
#if STREAMDAC_FMA
    const V t = fma(x, alpha, -turns);
#else
    const V t = x * alpha - turns;
#endif
    const V u = t * t;
    V q = fma(splat(-3.272946357727051f), u, splat(12.990730285644531f));
    q = fma(q, u, splat(-30.085952758789062f));
    q = fma(q, u, splat(42.72538375854492f));
    q = fma(q, u, splat(-32.469581604003906f));
    q = fma(q, u, splat(9.869603157043457f));
    V s = q * u;
    s = s < splat(1.0f) ? s : splat(1.0f);  // bounded for any x, also where rounding to an integer has failed
    return fma(s, inverse, x);
}

// Rational approximation (13, 6), within 4e-7 everywhere.
INLINE V8 tanh8(V8 x) {
    const V8 limit = 7.90531110763549805f - V8{};
    x = x < limit ? x : (x != x ? x : limit);
    x = x > -limit ? x : (x != x ? x : -limit);
    const V8 z = x * x;
    V8 p = fma8(-2.76076847742355e-16f - V8{}, z, 2.00018790482477e-13f - V8{});
    p = fma8(p, z, -8.60467152213735e-11f - V8{});
    p = fma8(p, z, 5.12229709037114e-08f - V8{});
    p = fma8(p, z, 1.48572235717979e-05f - V8{});
    p = fma8(p, z, 6.37261928875436e-04f - V8{});
    p = fma8(p, z, 4.89352455891786e-03f - V8{});
    V8 q = fma8(1.19825839466702e-06f - V8{}, z, 1.18534705686654e-04f - V8{});
    q = fma8(q, z, 2.26843463243900e-03f - V8{});
    q = fma8(q, z, 4.89352518554385e-03f - V8{});
    return p * x / q;
}

// ---------------------------------------------------------------- matrix tile

// One input of each of ROWS windows times NV vectors of weights. Rows are reached in threes from a few pointers, so that
// they fit the integer registers.
template <int NV, int ROWS>
INLINE void step(V (&sums)[ROWS][NV], const char* const (&x)[(ROWS + 2) / 3], int64_t x_row, const float* weights) {
    V w[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) w[j] = load(weights + j * WIDTH);
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i) {
        const V b = splat(*reinterpret_cast<const float*>(x[i / 3] + (i % 3) * x_row));
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) sums[i][j] = fma(b, w[j], sums[i][j]);
    }
}

template <int NV, int ROWS>
static void tile(const float* x, int64_t x_row, const Segment* segments, int64_t n_segments, const float* weights,
                 const float* bias, float* out) {
    constexpr int N = NV * WIDTH;
    constexpr int POINTERS = (ROWS + 2) / 3;
    V sums[ROWS][NV];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) sums[i][j] = bias ? load(bias + j * WIDTH) : load(out + i * N + j * WIDTH);
    const int64_t row_bytes = x_row * int64_t(sizeof(float));
    for (int64_t s = 0; s < n_segments; ++s) {
        const char* p[POINTERS];
#pragma GCC unroll 4
        for (int i = 0; i < POINTERS; ++i) p[i] = reinterpret_cast<const char*>(x + segments[s].offset + 3 * i * x_row);
        int64_t left = segments[s].count;
        for (; left >= 4; left -= 4) {
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u) {
                if (ROWS <= 4)  // few rows: bound by the stream of weights; fetch well ahead, across pages
                    for (int j = 0; j < N * 4; j += 64)
                        __builtin_prefetch(reinterpret_cast<const char*>(weights) + PREFETCH_BYTES + j, 0, 2);
                step<NV, ROWS>(sums, p, row_bytes, weights);
                weights += N;
#pragma GCC unroll 4
                for (int i = 0; i < POINTERS; ++i) p[i] += sizeof(float);
            }
        }
        for (; left > 0; --left) {
            step<NV, ROWS>(sums, p, row_bytes, weights);
            weights += N;
            for (int i = 0; i < POINTERS; ++i) p[i] += sizeof(float);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) store(out + i * N + j * WIDTH, sums[i][j]);
}

// ---------------------------------------------------------------- epilogue

// The first `count` floats at p, zeros after: for the last vector of a row, so that nothing beyond it is touched.
INLINE V load_part(const float* p, int64_t count) {
#if WIDTH == 16
    if (count == 8) {
        const V8 low = *reinterpret_cast<const V8U*>(p);
        return __builtin_shufflevector(low, V8{}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }
#endif
    float copy[WIDTH] = {};
    __builtin_memcpy(copy, p, size_t(count) * sizeof(float));
    return load(copy);
}

INLINE void store_part(float* p, V v, int64_t begin, int64_t end) {
#if WIDTH == 16
    if (begin == 0 && end == 8) {
        *reinterpret_cast<V8U*>(p) = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
        return;
    }
#endif
    float copy[WIDTH];
    store(copy, v);
    for (int64_t i = begin; i < end; ++i) p[i] = copy[i];
}

template <int KIND>
INLINE V activate(V v, const float* alpha, const float* inverse) {
    if (KIND == SNAKE) return snake(v, load(alpha), load(inverse));
    if (KIND == TANH) {
        float copy[WIDTH + GROUP];
        store(copy, v);
        for (int i = 0; i < WIDTH; i += GROUP) {
            V8 part = *reinterpret_cast<const V8U*>(copy + i);
            *reinterpret_cast<V8U*>(copy + i) = tanh8(part);
        }
        return load(copy);
    }
    return v;
}

// One row of a tile. `place` is its flat place less `low`; whole says that every vector is kept whole.
template <int KIND>
INLINE void finish_row(const Output& o, const float* sums, int vectors, int64_t stream, int64_t place, int64_t column,
                       bool whole) {
    const float* skip = o.skip ? o.skip + stream * o.skip_stream : nullptr;
    float* raw = o.raw ? o.raw + stream * o.raw_stream : nullptr;
    float* out = o.out + stream * o.out_stream;
    for (int j = 0; j < vectors; ++j, column += WIDTH, place += WIDTH, sums += WIDTH) {
        V v = load(sums);
        if (whole) {
            if (skip) v += load(skip + place);
            if (raw) store(raw + place, v);
            store(out + place, activate<KIND>(v, o.alpha + column, o.inverse + column));
            continue;
        }
        // Only the part inside the row and between low and high is kept.
        int64_t begin = place < 0 ? -place : 0;
        int64_t end = o.columns - column < WIDTH ? o.columns - column : WIDTH;
        if (end > o.high - o.low - place) end = o.high - o.low - place;
        if (begin >= end) continue;
        if (skip) v += load_part(skip + place, end);  // never with rows cut off at the start
        if (raw) store_part(raw + place, v, begin, end);
        store_part(out + place, activate<KIND>(v, o.alpha + column, o.inverse + column), begin, end);
    }
}

template <int KIND>
static void finish_rows(const Output& o, const float* sums, int vectors, int64_t row, int64_t rows, int64_t column) {
    int64_t stream = row / o.rows, time = row % o.rows;
    const bool whole_columns = column + vectors * WIDTH <= o.columns;
    for (int64_t i = 0; i < rows; ++i, sums += vectors * WIDTH) {
        const int64_t place = time * o.columns + column - o.low;
        const bool whole = whole_columns && place >= 0 && place + vectors * WIDTH <= o.high - o.low;
        finish_row<KIND>(o, sums, vectors, stream, place, column, whole);
        if (++time == o.rows) time = 0, ++stream;
    }
}

static void finish(const Output& o, const float* sums, int vectors, int64_t row, int64_t rows, int64_t column) {
    switch (o.activation) {
        case IDENTITY: return finish_rows<IDENTITY>(o, sums, vectors, row, rows, column);
        case SNAKE: return finish_rows<SNAKE>(o, sums, vectors, row, rows, column);
        case TANH: return finish_rows<TANH>(o, sums, vectors, row, rows, column);
    }
}

// ---------------------------------------------------------------- one output channel

// Eight windows at a time: a vector of partial sums for each, then a transposing sum, always in the same order.
INLINE V8 across(const V8 (&s)[GROUP]) {
    V8 pairs[4], fours[2];
    for (int i = 0; i < 4; ++i)
        pairs[i] = __builtin_shufflevector(s[2 * i], s[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
                   __builtin_shufflevector(s[2 * i], s[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    for (int i = 0; i < 2; ++i)
        fours[i] = __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                   __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

static void single(const float* x, int64_t x_row, int64_t rows, int64_t taps, int64_t tap, int64_t count,
                   const float* weights, float bias, Activation activation, float* out) {
    for (int64_t row = 0; row < rows; row += GROUP) {
        const float* window[GROUP];
        for (int i = 0; i < GROUP; ++i) window[i] = x + (row + i < rows ? row + i : rows - 1) * x_row;
        V8 sums[GROUP] = {};
        for (int64_t t = 0; t < taps; ++t) {
            for (int64_t c = 0; c < count; c += GROUP) {
                const V8 w = *reinterpret_cast<const V8U*>(weights + t * count + c);
#pragma GCC unroll 8
                for (int i = 0; i < GROUP; ++i)
                    sums[i] = fma8(*reinterpret_cast<const V8U*>(window[i] + t * tap + c), w, sums[i]);
            }
        }
        V8 y = across(sums) + bias;
        if (activation == TANH) y = tanh8(y);
        if (row + GROUP <= rows) {
            *reinterpret_cast<V8U*>(out + row) = y;
        } else {
            float copy[GROUP];
            *reinterpret_cast<V8U*>(copy) = y;
            for (int64_t i = 0; row + i < rows; ++i) out[row + i] = copy[i];
        }
    }
}

// ---------------------------------------------------------------- codebook search

// The best so far in each lane; lanes and places are merged at the end, the first of equals winning.
template <int FRAMES, int LANES>
static void best_of(const V (&score)[FRAMES][LANES], const VI (&entry)[FRAMES][LANES], int32_t* best) {
    for (int f = 0; f < FRAMES; ++f) {
        float top = score[f][0][0];
        int32_t index = entry[f][0][0];
        for (int j = 0; j < LANES; ++j) {
            for (int i = 0; i < WIDTH; ++i) {
                const float s = score[f][j][i];
                const int32_t e = entry[f][j][i];
                if (s > top || (s == top && e < index)) top = s, index = e;
            }
        }
        best[f] = index;
    }
}

// FRAMES queries over LANES vectors of entries at a time; LANES divides SEARCH_VECTORS.
template <int FRAMES, int LANES>
static void search_tile(const float* query, int64_t query_row, const float* directions, int64_t dims, int64_t entries,
                        int32_t* best) {
    constexpr int BLOCK = SEARCH_VECTORS * WIDTH;
    V top[FRAMES][LANES];
    VI index[FRAMES][LANES], lane;
    for (int i = 0; i < WIDTH; ++i) lane[i] = i;
    for (int f = 0; f < FRAMES; ++f)
        for (int j = 0; j < LANES; ++j) top[f][j] = splat(-__builtin_inff()), index[f][j] = VI{};
    for (int64_t block = 0; block < entries; block += BLOCK, directions += dims * BLOCK) {
        for (int part = 0; part < SEARCH_VECTORS; part += LANES) {
            V score[FRAMES][LANES] = {};
            for (int64_t d = 0; d < dims; ++d) {
#pragma GCC unroll 4
                for (int j = 0; j < LANES; ++j) {
                    const V w = load(directions + d * BLOCK + (part + j) * WIDTH);
#pragma GCC unroll 4
                    for (int f = 0; f < FRAMES; ++f) score[f][j] = fma(splat(query[f * query_row + d]), w, score[f][j]);
                }
            }
#pragma GCC unroll 4
            for (int j = 0; j < LANES; ++j) {
                const VI entry = lane + int32_t(block + (part + j) * WIDTH);
                const VI inside = entry < int32_t(entries);  // the last block may be padded
#pragma GCC unroll 4
                for (int f = 0; f < FRAMES; ++f) {
                    const VI better = (score[f][j] > top[f][j]) & inside;
                    top[f][j] = better ? score[f][j] : top[f][j];
                    index[f][j] = better ? entry : index[f][j];
                }
            }
        }
    }
    best_of<FRAMES, LANES>(top, index, best);
}

static void search(const float* query, int64_t query_row, int64_t frames, const float* directions, int64_t dims,
                   int64_t entries, int32_t* best) {
    int64_t f = 0;
    for (; f + 4 <= frames; f += 4)
        search_tile<4, 1>(query + f * query_row, query_row, directions, dims, entries, best + f);
    for (; f < frames; ++f)
        search_tile<1, 4>(query + f * query_row, query_row, directions, dims, entries, best + f);
}

static void subtract(float* y, const float* row, const float* matrix, int64_t matrix_row, int64_t dims, int64_t columns) {
    for (int64_t c = 0; c < columns; c += WIDTH) {
        V v = load(y + c);
        for (int64_t d = 0; d < dims; ++d) v = fma(splat(-row[d]), load(matrix + d * matrix_row + c), v);
        store(y + c, v);
    }
}

// ---------------------------------------------------------------- table

// Tiles that fit the registers: a vector of sums for each row and column, NV of weights and one of inputs.
constexpr int SUMS = REGISTERS >= 32 ? 24 : 12;
constexpr int rows_for(int nv) {
    return nv == 4 && REGISTERS < 32 ? 0 : SUMS / nv < MAX_ROWS ? SUMS / nv : MAX_ROWS;
}

template <int NV, int ROWS>
constexpr void fill_tiles(Kernels& k) {
    if constexpr (ROWS > 0) {
        k.tile[NV][ROWS] = tile<NV, ROWS>;
        fill_tiles<NV, ROWS - 1>(k);
    }
}

constexpr Kernels table(const char* name) {
    Kernels k = {};
    k.name = name;
    k.width = WIDTH;
    for (int nv = 1; nv <= MAX_VECTORS; ++nv) k.rows_for[nv] = rows_for(nv);
    fill_tiles<1, rows_for(1)>(k);
    fill_tiles<2, rows_for(2)>(k);
    fill_tiles<3, rows_for(3)>(k);
    fill_tiles<4, rows_for(4)>(k);
    k.finish = finish;
    k.single = single;
    k.search = search;
    k.subtract = subtract;
    return k;
}
