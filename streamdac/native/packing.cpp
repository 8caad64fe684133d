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

// A half-precision number (IEEE 754 binary16), exactly.
static float from_half(uint16_t half) {
    const uint32_t sign = uint32_t(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) {  // zero, or so small that no bit is implied
        const float value = float(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    const uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

bool Matrix::pack(const Kernels& kernels, const Given& given, const float* given_bias, int64_t n_inputs, int64_t groups,
                  int64_t channels, bool as_floats) {
    const int64_t row = padded(channels), width = kernels.width;
    inputs = n_inputs;
    columns = groups * row;
    const int64_t vectors = (columns + width - 1) / width;
    kind = given.halves && kernels.reads_halves && !as_floats ? HALVES : FLOATS;
    const bool halved = kind == HALVES;
    if (halved && !(factor.allocate(vectors * width) && shift.allocate(vectors * width))) return false;
    if (!bias.allocate(vectors * width)) return false;
    if (!(halved ? halves.allocate(inputs * vectors * width) : floats.allocate(inputs * vectors * width))) return false;
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t c = 0; c < channels; ++c) {
            (halved ? shift : bias)[g * row + c] = given_bias[g * channels + c];
            if (halved) factor[g * row + c] = given.factors[g * channels + c];
        }
    }
    int64_t offset = 0;
    for (int64_t done = 0; done < vectors;) {
        const int wide = next_panel(kernels, vectors - done);
        if (!append(panels, Panel{wide, done * width, offset})) return false;
        for (int64_t k = 0; k < inputs; ++k) {
            for (int64_t j = 0; j < wide * width; ++j, ++offset) {
                const int64_t column = done * width + j, group = column / row, channel = column % row;
                if (group >= groups || channel >= channels) continue;
                const int64_t place = group * channels + channel, from = k * groups * channels + place;
                if (halved) halves[offset] = given.halves[from];
                else floats[offset] = given.halves ? from_half(given.halves[from]) * given.factors[place] : given.floats[from];
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
            tiles(kernels).tile[panel.vectors][n](x + r * x_row, x_row, &whole, 1, at(panel.offset), bias.data() + panel.column,
                                                  sums, {});
            for (int64_t i = 0; i < n; ++i)
                std::memcpy(to + (r + i) * to_row + panel.column, sums + i * wide, size_t(wide) * sizeof(float));
        }
    }
}

}  // namespace streamdac
