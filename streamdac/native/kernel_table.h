// What one instruction set offers: a table of functions, and the records they work on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace streamdac {

constexpr int GROUP = 8;         // rows of activations are padded to whole groups of this many channels
constexpr int MAX_VECTORS = 4;   // widest tile, in vectors
constexpr int MAX_ROWS = 12;     // tallest tile, in time steps
constexpr int MAX_TILE = 24 * 16;  // floats of the largest tile of any instruction set

// A run of consecutive inputs that one output sees, `offset` floats after the start of its window.
struct Segment {
    int64_t offset;
    int64_t count;
};

enum Activation { IDENTITY = 0, SNAKE = 1, TANH = 2 };

// Where the finished sums of one layer go. Row t of stream b, column c, has the flat place t * columns + c; only
// places from `low` to `high` are kept, and each pointer names place `low` of stream 0.
struct Output {
    int64_t rows;     // time steps per stream
    int64_t columns;  // a multiple of GROUP
    int64_t low, high;
    const float* factor;  // of each column, that sums are multiplied by before `shift` is added; or both null
    const float* shift;
    const float* skip;  // added next, or null
    int64_t skip_stream;
    float* raw;  // a copy before the activation, or null
    int64_t raw_stream;
    float* out;
    int64_t out_stream;
    Activation activation;
    const float* alpha;    // Snake: alpha / pi for each column
    const float* inverse;  // Snake: 1 / alpha for each column
};

// `rows` sums over the same segments; windows lie `x_row` floats apart. Weights `[inputs][vectors * width]`. Starts from
// `bias`, or from `sums` where bias is null; leaves `[rows][vectors * width]` in `sums`. One fixed order per sum.
// With every fourth input `ahead.lines` lines from `ahead.from` on are called into the cache: weights that come next.
struct Ahead {
    const char* from;
    int64_t lines;
};
using TileFunction = void (*)(const float* x, int64_t x_row, const Segment* segments, int64_t n_segments,
                              const void* weights, const float* bias, float* sums, Ahead ahead);

// The same for so few rows that several panels, `panel` weights apart, fit one tile: `[panels][rows][vectors * width]`.
// Weights are called into the cache `ahead` bytes before their use.
using BesideFunction = void (*)(const float* x, int64_t x_row, const Segment* segments, int64_t n_segments,
                                const void* weights, int64_t panel, const float* bias, float* sums, int64_t ahead);

// Both, for one kind of weights.
struct Tiles {
    TileFunction tile[MAX_VECTORS + 1][MAX_ROWS + 1];
    BesideFunction beside[MAX_VECTORS + 1][MAX_ROWS + 1];
};

enum Kind { FLOATS = 0, HALVES = 1 };  // of weights: 4 bytes each, or 2

struct Kernels {
    const char* name;
    int width;                       // floats in a vector
    int rows_for[MAX_VECTORS + 1];   // tallest tile for each number of vectors; 0: there is none
    bool reads_halves;               // whether there are tiles for half-precision weights
    Tiles tiles[2];                  // of each kind of weights
    int panels_for[MAX_VECTORS + 1][MAX_ROWS + 1];  // panels beside each other for so many vectors and rows; 0: use `tile`

    // Epilogue: `rows` rows of sums, `vectors` wide, that begin at `column` and at row `row` counted over all streams.
    void (*finish)(const Output& output, const float* sums, int vectors, int64_t row, int64_t rows, int64_t column);

    // One output channel: each sum over `taps` runs of `count` floats (a multiple of GROUP), `tap` floats apart.
    void (*single)(const float* x, int64_t x_row, int64_t rows, int64_t taps, int64_t tap, int64_t count,
                   const float* weights, float bias, Activation activation, float* out);

    // y[n] = sum of x[n + k] * taps[k] over k, in this order. Whole vectors are read and written, past `outputs` too.
    void (*correlate)(const float* x, const float* taps, int64_t count, float* y, int64_t outputs);

    // Best entry for each of `frames` queries: directions `[blocks][dims][SEARCH_VECTORS * width]`.
    void (*search)(const float* query, int64_t query_row, int64_t frames, const float* directions, int64_t dims,
                   int64_t entries, int32_t* best);

    // y -= row . matrix, `dims` inputs; `columns` is rounded up to whole vectors.
    void (*subtract)(float* y, const float* row, const float* matrix, int64_t matrix_row, int64_t dims, int64_t columns);
};

constexpr int SEARCH_VECTORS = 4;

// Null where the machine or the build lacks the instruction set.
const Kernels* kernels_baseline();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace streamdac
