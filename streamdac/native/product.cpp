// Matrix products over windows of activations, as many rows and columns at a time as the registers and caches hold.

#include "product.h"

namespace streamdac {

// A tile's worth of rows out of `rows`, all about equally tall.
struct Tiling {
    int64_t tiles, base, extra;
    Tiling(int64_t rows, int64_t tallest)
        : tiles((rows + tallest - 1) / tallest), base(tiles ? rows / tiles : 0), extra(tiles ? rows % tiles : 0) {}
    int64_t rows(int64_t tile) const { return base + (tile < extra); }
};

constexpr int64_t AHEAD_BYTES = 2048;  // one pass over the weights: so far ahead of their use, across pages
constexpr int64_t LINE_BYTES = CACHE_LINE;

// What tile `tile` of `tiles` fetches while it reads `inputs` rows of `row_bytes` of weights: with a single tile those it needs
// soon, else its part of the `next` ones, so that memory is busy all the time.
static Ahead ahead_of(const char* weights, const char* next, int64_t inputs, int64_t row_bytes, int64_t tile, int64_t tiles) {
    const int64_t lines = (4 * row_bytes + LINE_BYTES - 1) / LINE_BYTES;  // that four inputs take
    if (tiles == 1) return {weights + AHEAD_BYTES, lines};
    const int64_t each = (lines + tiles - 1) / tiles;
    if (!next || tile * each >= lines) return {nullptr, 0};
    return {next + tile * each * LINE_BYTES * (inputs / 4), each};
}

// Where the weights continue after `used` of the matrix.
static const char* after(const Matrix& m, int64_t used) { return used < m.count() ? m.at(used) : m.following; }

static void multiply_panel(const Kernels& kernels, const Matrix& m, const Panel& panel, const Windows& set,
                           const Segment* segments, int64_t n_segments, const Output& output) {
    alignas(CACHE_LINE) float sums[MAX_TILE];
    const Tiling tiling(set.rows, kernels.rows_for[panel.vectors]);
    const int64_t wide = panel.vectors * kernels.width;
    const char* weights = m.at(panel.offset);
    const char* next = after(m, panel.offset + m.inputs * wide);
    const float* x = set.x;
    int64_t row = set.row;
    for (int64_t t = 0; t < tiling.tiles; ++t) {
        const int64_t tall = tiling.rows(t);
        m.tiles(kernels).tile[panel.vectors][tall](x, set.x_row, segments, n_segments, weights, m.bias.data() + panel.column,
                                                   sums, ahead_of(weights, next, m.inputs, m.bytes(wide), t, tiling.tiles));
        kernels.finish(output, sums, panel.vectors, row, tall, panel.column);
        x += tall * set.x_row;
        row += tall;
    }
}

// A panel too large for the cache: a chunk of its inputs at a time for all tiles, with the partial sums kept.
static void multiply_chunked(const Kernels& kernels, const Matrix& m, const Panel& panel, const Windows& set,
                             const Segment* segments, int64_t n_segments, const Output& output, float* scratch) {
    const Tiling tiling(set.rows, kernels.rows_for[panel.vectors]);
    const int64_t wide = panel.vectors * kernels.width, chunk = CHUNK_BYTES / m.bytes(wide);  // of inputs
    int64_t segment = 0, inside = 0;
    for (int64_t done = 0; done < m.inputs;) {
        // As much of one segment as fits, or several whole ones.
        Segment part{segments[segment].offset + inside, segments[segment].count - inside};
        const Segment* run = &part;
        int64_t n_run = 1, inputs = part.count;
        if (inputs > chunk) {
            inputs = part.count = chunk;
            inside += chunk;
        } else if (inside) {
            ++segment, inside = 0;
        } else {
            run = segments + segment;
            while (segment + n_run < n_segments && inputs + run[n_run].count <= chunk) inputs += run[n_run++].count;
            segment += n_run;
        }
        const float* bias = done ? nullptr : m.bias.data() + panel.column;
        const char* weights = m.at(panel.offset + done * wide);
        const char* next = after(m, panel.offset + (done + inputs) * wide);
        const float* x = set.x;
        float* sums = scratch;
        int64_t row = set.row;
        for (int64_t t = 0; t < tiling.tiles; ++t) {
            const int64_t tall = tiling.rows(t);
            m.tiles(kernels).tile[panel.vectors][tall](x, set.x_row, run, n_run, weights, bias, sums,
                                                       ahead_of(weights, next, inputs, m.bytes(wide), t, tiling.tiles));
            if (done + inputs == m.inputs) kernels.finish(output, sums, panel.vectors, row, tall, panel.column);
            x += tall * set.x_row;
            sums += tall * wide;
            row += tall;
        }
        done += inputs;
    }
}

// Whether `count` panels from `p` on are all as wide as the first: wide and narrow ones may alternate.
static bool alike(const Matrix& m, int64_t p, int count) {
    for (int i = 1; i < count; ++i)
        if (m.panels[p + i].vectors != m.panels[p].vectors) return false;
    return true;
}

// Panels beside each other for few rows, as many times as they fit; how many panels are done.
static int64_t multiply_beside(const Kernels& kernels, const Matrix& m, int64_t first, int64_t end, const Windows& set,
                               const Segment* segments, int64_t n_segments, const Output& output) {
    alignas(CACHE_LINE) float sums[MAX_TILE];
    const int vectors = m.panels[first].vectors;
    const int64_t wide = vectors * kernels.width;
    const int count = set.rows < MAX_ROWS ? kernels.panels_for[vectors][set.rows] : 0;
    int64_t p = first;
    for (; count && p + count <= end && m.panels[p].vectors == vectors && alike(m, p, count); p += count) {
        const Panel& panel = m.panels[p];
        m.tiles(kernels).beside[vectors][set.rows](set.x, set.x_row, segments, n_segments, m.at(panel.offset),
                                                   m.inputs * wide, m.bias.data() + panel.column, sums, AHEAD_BYTES);
        for (int i = 0; i < count; ++i)
            kernels.finish(output, sums + i * set.rows * wide, vectors, set.row, set.rows, m.panels[p + i].column);
    }
    return p - first;
}

void multiply(const Kernels& kernels, const Matrix& m, const Windows* sets, int64_t n_sets, const Segment* segments,
              int64_t n_segments, int64_t first, int64_t end, const Output& output, float* scratch) {
    if (n_sets == 1 && first < end) first += multiply_beside(kernels, m, first, end, sets[0], segments, n_segments, output);
    for (int64_t p = first; p < end; ++p) {
        const Panel& panel = m.panels[p];
        const bool large = m.bytes(m.inputs * panel.vectors * kernels.width) > 2 * CHUNK_BYTES;
        for (int64_t i = 0; i < n_sets; ++i) {
            if (large && sets[i].rows > kernels.rows_for[panel.vectors])
                multiply_chunked(kernels, m, panel, sets[i], segments, n_segments, output, scratch);
            else
                multiply_panel(kernels, m, panel, sets[i], segments, n_segments, output);
        }
    }
}

}  // namespace streamdac
