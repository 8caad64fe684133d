// Weights cut into panels, as the tiles read them.

#include "kernels.h"

namespace streamdac {

const Kernels* find_kernels(const char* name) {
    const Kernels* const known[] = {kernels_avx512(), kernels_avx2(), kernels_baseline()};
    for (const Kernels* kernels : known)
        if (kernels && (!name || std::strcmp(name, kernels->name) == 0)) return kernels;
    return nullptr;
}

// Vectors in the next panel when `left` are to be covered: few leftovers, and tiles that fill the registers.
static int next_panel(const Kernels& kernels, int64_t left) {
    const bool fours = kernels.rows_for[4] > 0;
    if (left <= 3) return int(left);
    if (fours && left % 4 == 0 && left % 3 != 0) return 4;
    if (left == 4) return 2;
    return 3;
}

bool Matrix::pack(const Kernels& kernels, const float* weight, const float* given_bias, int64_t n_inputs, int64_t groups,
                  int64_t channels) {
    const int64_t row = padded(channels), width = kernels.width;
    inputs = n_inputs;
    columns = groups * row;
    const int64_t vectors = (columns + width - 1) / width;
    if (!bias.allocate(vectors * width) || !weights.allocate(inputs * vectors * width)) return false;
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t c = 0; c < channels; ++c) bias[g * row + c] = given_bias[g * channels + c];
    int64_t offset = 0;
    for (int64_t done = 0; done < vectors;) {
        const int wide = next_panel(kernels, vectors - done);
        if (!append(panels, Panel{wide, done * width, offset})) return false;
        for (int64_t k = 0; k < inputs; ++k) {
            for (int64_t j = 0; j < wide * width; ++j, ++offset) {
                const int64_t column = done * width + j, group = column / row, channel = column % row;
                if (group < groups && channel < channels)
                    weights[offset] = weight[(k * groups + group) * channels + channel];
            }
        }
        done += wide;
    }
    return true;
}

void Matrix::multiply(const Kernels& kernels, const float* x, int64_t x_row, int64_t rows, int64_t wanted, float* to,
                      int64_t to_row) const {
    alignas(CACHE_LINE) float sums[MAX_TILE];
    const Segment whole{0, inputs};
    for (int64_t p = 0; p < panels.count() && panels[p].column < wanted; ++p) {
        const Panel& panel = panels[p];
        const int64_t wide = panel.vectors * kernels.width, most = kernels.rows_for[panel.vectors];
        for (int64_t r = 0; r < rows; r += most) {
            const int64_t n = rows - r < most ? rows - r : most;
            kernels.tile[panel.vectors][n](x + r * x_row, x_row, &whole, 1, weights.data() + panel.offset,
                                           bias.data() + panel.column, sums, {});
            for (int64_t i = 0; i < n; ++i)
                std::memcpy(to + (r + i) * to_row + panel.column, sums + i * wide, size_t(wide) * sizeof(float));
        }
    }
}

}  // namespace streamdac
