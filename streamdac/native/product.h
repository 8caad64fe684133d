// Matrix products over windows.
#pragma once

#include "kernels.h"

namespace streamdac {

constexpr int64_t CHUNK_BYTES = 1 << 17;   // weights that stay in the second-level cache while all tiles pass, with as many to come
constexpr int64_t CHUNKED_ROWS = 64;       // rows whose partial sums are kept meanwhile

// A matrix product over windows: `rows` windows of stream `stream` from row `time` on.
struct Windows {
    const float* x;
    int64_t x_row;
    int64_t rows;
    int64_t row;  // of the output, counted over all streams
};

// Sums of all `sets` through panels `first` to `end`, finished into `output`. `scratch` is what `Streams::reserve_scratch` made.
void multiply(const Kernels& kernels, const Matrix& matrix, const Windows* sets, int64_t n_sets, const Segment* segments,
              int64_t n_segments, int64_t first, int64_t end, const Output& output, float* scratch);

}  // namespace streamdac
