// Codebook search and lookup. Every projection is taken of the latent at once; each chosen row takes its share off the rest.

#include "kernels.h"

namespace streamdac {

constexpr int64_t MAX_ENTRIES = 1 << 24;

Fault Quantizer::build(const Kernels& kernels, int64_t n_latent, int64_t n_codebooks, int64_t n_entries, int64_t n_dims,
                       const float* in_weight, const float* in_bias, const float* directions, const float* rows,
                       const float* const* cross, const float* out_weight, const float* out_bias) {
    if (n_codebooks < 1 || n_entries < 1 || n_dims < 1 || n_latent < 1) return {"size of the quantiser", 0, 1};
    if (n_entries > MAX_ENTRIES) return {"codebook entries", n_entries, MAX_ENTRIES};
    latent = n_latent, codebooks = n_codebooks, entries = n_entries, dims = n_dims;
    const int64_t block = SEARCH_VECTORS * kernels.width, blocks = (entries + block - 1) / block;
    const int64_t projected = codebooks * dims;
    if (!in_.pack(kernels, {in_weight}, in_bias, latent, 1, projected)) return NO_MEMORY;
    if (!out_.pack(kernels, {out_weight}, out_bias, projected, 1, latent)) return NO_MEMORY;
    if (!directions_.allocate(codebooks * blocks * block * dims) || !rows_.allocate(codebooks * entries * dims)) return NO_MEMORY;
    if (!out_bias_.allocate((codebooks + 1) * latent) || !cross_offset_.allocate(codebooks)) return NO_MEMORY;
    for (int64_t k = 0; k < codebooks; ++k)
        for (int64_t d = 0; d < dims; ++d)
            for (int64_t e = 0; e < entries; ++e)
                directions_[((k * blocks + e / block) * dims + d) * block + e % block] = directions[(k * dims + d) * entries + e];
    std::memcpy(rows_.data(), rows, size_t(rows_.count()) * sizeof(float));
    std::memcpy(out_bias_.data(), out_bias, size_t(out_bias_.count()) * sizeof(float));
    int64_t floats = 0;
    for (int64_t k = 0; k < codebooks; ++k) {
        cross_offset_[k] = floats;
        floats += dims * ((codebooks - 1 - k) * dims + kernels.width);  // room for whole vectors
    }
    if (!cross_.allocate(floats)) return NO_MEMORY;
    for (int64_t k = 0; k < codebooks; ++k) {
        const int64_t columns = (codebooks - 1 - k) * dims;
        for (int64_t d = 0; d < dims && columns; ++d)
            std::memcpy(&cross_[cross_offset_[k] + d * (columns + kernels.width)], cross[k] + d * columns,
                        size_t(columns) * sizeof(float));
    }
    return NO_FAULT;
}

bool Quantizer::search(const Kernels& kernels, Streams& work, const float* latents, int64_t latent_row, int64_t frames,
                       int64_t deepest, int64_t* codes) const {
    const int64_t row = in_.columns + kernels.width;  // room for whole vectors beyond the last projection
    if (!work.projections.ensure(frames * row) || !work.best.ensure(frames)) return false;
    float* left = work.projections.data();
    in_.multiply(kernels, latents, latent_row, frames, deepest * dims, left, row);
    const int64_t block = SEARCH_VECTORS * kernels.width, blocks = (entries + block - 1) / block;
    for (int64_t k = 0; k < deepest; ++k) {
        kernels.search(left + k * dims, row, frames, directions_.data() + k * blocks * block * dims, dims, entries,
                       work.best.data());
        const int64_t columns = (codebooks - 1 - k) * dims, wanted = (deepest - 1 - k) * dims;
        for (int64_t f = 0; f < frames; ++f) {
            const int64_t code = work.best[f];
            codes[f * deepest + k] = code;
            kernels.subtract(left + f * row + (k + 1) * dims, rows_.data() + (k * entries + code) * dims,
                             cross_.data() + cross_offset_[k], columns + kernels.width, dims, wanted);
        }
    }
    return true;
}

bool Quantizer::lookup(const Kernels& kernels, Streams& work, const int64_t* codes, int64_t frames, int64_t depth,
                       float* latents) const {
    const int64_t inputs = depth * dims;
    if (!work.projections.ensure(inputs + out_.bias.count())) return false;
    float* chosen = work.projections.data();
    float* start = chosen + inputs;
    for (int64_t f = 0; f < frames; ++f, codes += depth, latents += padded(latent)) {
        int64_t used = 0;
        for (int64_t k = 0; k < depth; ++k) {
            const int64_t code = codes[k];
            const bool given = uint64_t(code) < uint64_t(entries);  // they were checked, but may be changed meanwhile
            used += given;
            if (given) std::memcpy(chosen + k * dims, rows_.data() + (k * entries + code) * dims, size_t(dims) * sizeof(float));
            else std::memset(chosen + k * dims, 0, size_t(dims) * sizeof(float));
        }
        std::memset(start, 0, size_t(out_.bias.count()) * sizeof(float));
        std::memcpy(start, out_bias_.data() + used * latent, size_t(latent) * sizeof(float));
        const Segment whole{0, inputs};
        for (int64_t p = 0; p < out_.panels.count(); ++p) {
            const Panel& panel = out_.panels[p];
            out_.tiles(kernels).tile[panel.vectors][1](chosen, 0, &whole, inputs > 0, out_.at(panel.offset), start + panel.column,
                                                       start + panel.column, {});
        }
        std::memcpy(latents, start, size_t(padded(latent)) * sizeof(float));
    }
    return true;
}

}  // namespace streamdac
