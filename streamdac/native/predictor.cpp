// What codes need not say: the next latent, as far as those before it foretell it.

#include "kernels.h"

namespace streamdac {

constexpr int64_t MAX_WIDTH = 1 << 16;

Fault Predictor::build(const Kernels& kernels, int64_t n_codebooks, int64_t n_latent, int64_t n_frames, int64_t n_width,
                       const float* first, const float* first_bias, const float* second, const float* second_bias,
                       const float* last, const float* last_bias) {
    if (n_codebooks < 1) return {"codebooks that are predicted from", n_codebooks, 1};
    if (n_latent < 1 || n_frames < 1) return {"size of the predictor", 0, 1};
    if (n_width < 1 || n_width > MAX_WIDTH) return {"width of the predictor", n_width, MAX_WIDTH};
    codebooks = n_codebooks, latent = n_latent, frames = n_frames, width = n_width;
    const int64_t before = frames * latent;
    const bool packed = first_.pack(kernels, {first}, first_bias, before, 1, width) &&
                        second_.pack(kernels, {second}, second_bias, width, 1, width) &&
                        last_.pack(kernels, {last}, last_bias, before + width, 1, latent);
    return packed ? NO_FAULT : NO_MEMORY;
}

static void rectify(float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = x[i] > 0.0f ? x[i] : 0.0f;
}

float* Predictor::expected(const Kernels& kernels, Streams& work) const {
    const int64_t batch = work.batch(), before = frames * latent, wide = padded(width) + kernels.width;
    const int64_t inputs = before + wide, out = row(kernels);
    if (!work.predicting.ensure(batch * (inputs + wide + out))) return nullptr;
    float* told = work.predicting.data();  // the latents before, then the second hidden layer
    float* hidden = told + batch * inputs;
    float* latents = hidden + batch * wide;
    Queue& memory = work.queue(work.part().memory_slot());
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t f = 0; f < frames; ++f)
            std::memcpy(told + b * inputs + f * latent, memory.at(b, f), size_t(latent) * sizeof(float));
    first_.multiply(kernels, told, inputs, batch, width, hidden, wide);
    rectify(hidden, batch * wide);
    second_.multiply(kernels, hidden, wide, batch, width, told + before, inputs);
    for (int64_t b = 0; b < batch; ++b) rectify(told + b * inputs + before, width);
    last_.multiply(kernels, told, inputs, batch, latent, latents, out);
    return latents;
}

void Predictor::remember(Streams& work, const float* latents, int64_t row) const {
    Queue& memory = work.queue(work.part().memory_slot());
    for (int64_t b = 0; b < work.batch(); ++b) {
        std::memmove(memory.at(b, 1), memory.at(b, 0), size_t((frames - 1) * memory.row) * sizeof(float));
        std::memcpy(memory.at(b, 0), latents + b * row, size_t(latent) * sizeof(float));
    }
}

}  // namespace streamdac
