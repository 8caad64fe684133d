// The inner loops, written once and built for each instruction set by the kernels_*.cpp files, which set WIDTH,
// REGISTERS, STREAMDAC_FMA and the namespace.
//
// Every output is one chain of multiply-adds (fused where the machine can), in the order tap, channel, whatever tile it falls
// in, or eight such chains and a fixed order of their sum where there is one output channel; every activation is the same
// polynomial for every lane. So results do not depend on chunks, rows or threads.

#include "epilogue_body.h"

constexpr int LINE = 64;  // bytes that come into the cache at once

// ---------------------------------------------------------------- matrix tile

// One input of each of ROWS windows times NV vectors of weights. Rows are reached in threes from a few pointers, so that
// they fit the integer registers.
template <typename W, int NV, int ROWS>
INLINE void step(V (&sums)[ROWS][NV], const char* const (&x)[(ROWS + 2) / 3], int64_t x_row, const W* weights) {
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

template <typename W, int NV, int ROWS>
static void tile(const float* x, int64_t x_row, const Segment* segments, int64_t n_segments, const void* packed,
                 const float* bias, float* out, Ahead ahead) {
    const W* weights = static_cast<const W*>(packed);
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
            for (int64_t j = 0; j < ahead.lines; ++j, ahead.from += LINE) __builtin_prefetch(ahead.from, 0, 2);
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u) {
                step<W, NV, ROWS>(sums, p, row_bytes, weights);
                weights += N;
#pragma GCC unroll 4
                for (int i = 0; i < POINTERS; ++i) p[i] += sizeof(float);
            }
        }
        for (; left > 0; --left) {
            step<W, NV, ROWS>(sums, p, row_bytes, weights);
            weights += N;
            for (int i = 0; i < POINTERS; ++i) p[i] += sizeof(float);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) store(out + i * N + j * WIDTH, sums[i][j]);
}

// Few windows leave registers idle, and each multiply-add waiting for the one before: so PANELS panels, `panel` weights apart,
// at once. Every sum is the chain that `tile` gives. Leaves `[PANELS][ROWS][NV * WIDTH]`.
template <typename W, int NV, int ROWS, int PANELS>
static void tile_beside(const float* x, int64_t x_row, const Segment* segments, int64_t n_segments, const void* packed,
                        int64_t panel, const float* bias, float* out, int64_t ahead) {
    const W* weights = static_cast<const W*>(packed);
    constexpr int N = NV * WIDTH;
    V sums[PANELS][ROWS][NV];
#pragma GCC unroll 12
    for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) sums[p][i][j] = load(bias + p * N + j * WIDTH);
    for (int64_t s = 0; s < n_segments; ++s) {
        const float* from = x + segments[s].offset;
        for (int64_t c = 0; c < segments[s].count; ++c, ++from, weights += N) {
            V b[ROWS];
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; ++i) b[i] = splat(from[i * x_row]);
#pragma GCC unroll 12
            for (int p = 0; p < PANELS; ++p) {
                const W* w = weights + p * panel;
                const char* later = reinterpret_cast<const char*>(w) + ahead;
                for (int l = 0; l < N * int(sizeof(W)); l += LINE) __builtin_prefetch(later + l, 0, 2);
#pragma GCC unroll 4
                for (int j = 0; j < NV; ++j) {
                    const V v = load(w + j * WIDTH);
#pragma GCC unroll 12
                    for (int i = 0; i < ROWS; ++i) sums[p][i][j] = fma(b[i], v, sums[p][i][j]);
                }
            }
        }
    }
#pragma GCC unroll 12
    for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) store(out + (p * ROWS + i) * N + j * WIDTH, sums[p][i][j]);
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

// ---------------------------------------------------------------- one filter over a signal

// LANES vectors of outputs at a time.
template <int LANES>
INLINE void correlate_at(const float* x, const float* taps, int64_t count, float* y) {
    V sums[LANES] = {};
    for (int64_t k = 0; k < count; ++k) {
        const V tap = splat(taps[k]);
#pragma GCC unroll 8
        for (int j = 0; j < LANES; ++j) sums[j] = fma(load(x + k + j * WIDTH), tap, sums[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < LANES; ++j) store(y + j * WIDTH, sums[j]);
}

static void correlate(const float* x, const float* taps, int64_t count, float* y, int64_t outputs) {
    int64_t n = 0;
    for (; n + 7 * WIDTH < outputs; n += 8 * WIDTH) correlate_at<8>(x + n, taps, count, y + n);
    for (; n + WIDTH < outputs; n += 2 * WIDTH) correlate_at<2>(x + n, taps, count, y + n);
    for (; n < outputs; n += WIDTH) correlate_at<1>(x + n, taps, count, y + n);
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

template <typename W, int NV, int ROWS>
constexpr void fill_tiles(Kernels& k, Tiles& tiles) {
    if constexpr (ROWS > 0) {
        tiles.tile[NV][ROWS] = tile<W, NV, ROWS>;
        constexpr int PANELS = SUMS / (NV * ROWS);
        if constexpr (NV >= 3 && PANELS > 1) {
            tiles.beside[NV][ROWS] = tile_beside<W, NV, ROWS, PANELS>;
            k.panels_for[NV][ROWS] = PANELS;
        }
        fill_tiles<W, NV, ROWS - 1>(k, tiles);
    }
}

template <typename W>
constexpr void fill_widths(Kernels& k, Tiles& tiles) {
    fill_tiles<W, 1, rows_for(1)>(k, tiles);
    fill_tiles<W, 2, rows_for(2)>(k, tiles);
    fill_tiles<W, 3, rows_for(3)>(k, tiles);
    fill_tiles<W, 4, rows_for(4)>(k, tiles);
}

constexpr Kernels table(const char* name) {
    Kernels k = {};
    k.name = name;
    k.width = WIDTH;
    for (int nv = 1; nv <= MAX_VECTORS; ++nv) k.rows_for[nv] = rows_for(nv);
    fill_widths<float>(k, k.tiles[FLOATS]);
#if STREAMDAC_FMA
    fill_widths<uint16_t>(k, k.tiles[HALVES]);
    k.reads_halves = true;
#endif
    k.finish = finish;
    k.single = single;
    k.correlate = correlate;
    k.search = search;
    k.subtract = subtract;
    return k;
}
