// What happens to finished sums before they are stored: factor, residual add, Snake, tanh. Included by kernels_body.h, once for each
// instruction set.

// ---------------------------------------------------------------- activations

// x + sin(alpha x)^2 / alpha, with alpha / pi given. sin(pi t)^2 has period 1: t is the distance to the nearest integer.
// Minimax polynomial in t^2, error below 6e-9. Of very large x no fraction is left, and t is no longer within a half.
INLINE V snake(V x, V alpha, V inverse) {
    const V magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const V turns = fma(x, alpha, magic) - magic;
    const V t = fma(x, alpha, -turns);
    const V u = least(t * t, splat(0.25f));
    V q = fma(splat(-3.272946357727051f), u, splat(12.990730285644531f));
    q = fma(q, u, splat(-30.085952758789062f));
    q = fma(q, u, splat(42.72538375854492f));
    q = fma(q, u, splat(-32.469581604003906f));
    q = fma(q, u, splat(9.869603157043457f));
    return fma(q * u, inverse, x);
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
        if (o.factor) v = fma(v, load(o.factor + column), load(o.shift + column));
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

// A tile that is kept whole, of one stream: what nearly all are.
template <int KIND, int NV>
static void finish_whole(const Output& o, const float* sums, int64_t stream, int64_t place, int64_t rows, int64_t column) {
    const float* skip = o.skip ? o.skip + stream * o.skip_stream + place : nullptr;
    float* raw = o.raw ? o.raw + stream * o.raw_stream + place : nullptr;
    float* out = o.out + stream * o.out_stream + place;
    V alpha[NV], inverse[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) alpha[j] = load(o.alpha + column + j * WIDTH), inverse[j] = load(o.inverse + column + j * WIDTH);
    for (int64_t i = 0; i < rows; ++i, sums += NV * WIDTH, out += o.columns) {
        V v[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) v[j] = load(sums + j * WIDTH);
        if (o.factor) {
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) v[j] = fma(v[j], load(o.factor + column + j * WIDTH), load(o.shift + column + j * WIDTH));
        }
        if (skip) {
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) v[j] += load(skip + i * o.columns + j * WIDTH);
        }
        if (raw) {
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) store(raw + i * o.columns + j * WIDTH, v[j]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) store(out + j * WIDTH, KIND == SNAKE ? snake(v[j], alpha[j], inverse[j]) : v[j]);
    }
}

template <int KIND>
static void finish_rows(const Output& o, const float* sums, int vectors, int64_t row, int64_t rows, int64_t column) {
    int64_t stream = row / o.rows, time = row % o.rows;
    const bool whole_columns = column + vectors * WIDTH <= o.columns;
    const int64_t first = time * o.columns + column - o.low, last = first + (rows - 1) * o.columns + vectors * WIDTH;
    if (KIND != TANH && whole_columns && first >= 0 && last <= o.high - o.low && time + rows <= o.rows) {
        switch (vectors) {
            case 1: return finish_whole<KIND, 1>(o, sums, stream, first, rows, column);
            case 2: return finish_whole<KIND, 2>(o, sums, stream, first, rows, column);
            case 3: return finish_whole<KIND, 3>(o, sums, stream, first, rows, column);
            case 4: return finish_whole<KIND, 4>(o, sums, stream, first, rows, column);
        }
    }
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
