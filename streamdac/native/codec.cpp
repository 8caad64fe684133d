// PCM to codes and codes to PCM: long pushes in blocks, so that work stays in the cache and memory bounded.

#include "kernels.h"
#include "threads.h"

namespace streamdac {

constexpr int64_t LOST = -2;             // a code of a frame that did not come (streamdac/config.py)
constexpr int64_t BLOCK_SAMPLES = 8192;  // a stream's samples that go through the network together

static int64_t block_frames(int64_t hop) { return BLOCK_SAMPLES > hop ? BLOCK_SAMPLES / hop : 1; }

Fault Codec::check() const {
    if (hop < 1) return {"hop", hop, 1};
    if (encoder.c_out() != quantizer.latent) return {"channels of the encoder's output", encoder.c_out(), quantizer.latent};
    if (decoder.c_in() != quantizer.latent) return {"channels of the decoder's input", decoder.c_in(), quantizer.latent};
    if (decoder.c_out() != 1) return {"channels of the decoder's output", decoder.c_out(), 1};
    for (const Part* part : {&encoder, &decoder}) {
        const int slot = part->memory_slot();
        if ((slot >= 0) != (predictor.frames > 0)) return {"memories for a predictor", slot >= 0, predictor.frames > 0};
        if (slot < 0) continue;
        if (part->slot(slot).channels != predictor.latent) return {"channels of a memory", part->slot(slot).channels, predictor.latent};
        if (part->slot(slot).fresh != predictor.frames) return {"frames of a memory", part->slot(slot).fresh, predictor.frames};
    }
    if (predictor.frames && predictor.latent != quantizer.latent) return {"channels of the predictor", predictor.latent, quantizer.latent};
    if (decoder.out_row() != 1) return {"a decoder must end in a convolution: such operations", 0, 1};
    return NO_FAULT;
}

bool Codec::subtract_expected(Streams& streams, int64_t made, int64_t done, Depths depths, int64_t deepest) const {
    const int64_t batch = streams.batch(), row = padded(quantizer.latent), wide = predictor.row(kernels);
    const int64_t first = deepest < predictor.codebooks ? deepest : predictor.codebooks;
    if (!streams.codes.ensure(batch * first) || !streams.coarse.ensure(batch * row)) return false;
    float* coarse = streams.coarse.data();
    for (int64_t f = 0; f < made; ++f) {
        const float* expected = predictor.expected(kernels, streams);
        if (!expected) return false;
        for (int64_t b = 0; b < batch; ++b) {
            float* latent = streams.latents.data() + (b * made + f) * row;
            for (int64_t c = 0; c < quantizer.latent; ++c) latent[c] -= expected[b * wide + c];
        }
        if (!quantizer.search(kernels, streams, streams.latents.data() + f * row, made * row, batch, first, streams.codes.data()))
            return false;
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t depth = depths.at(b, done + f, deepest), said = depth < first ? depth : first;
            if (!quantizer.lookup(kernels, streams, streams.codes.data() + b * first, 1, said, coarse + b * row)) return false;
            for (int64_t c = 0; c < quantizer.latent; ++c) coarse[b * row + c] += expected[b * wide + c];
        }
        predictor.remember(streams, coarse, row);
    }
    return true;
}

bool Codec::add_expected(Streams& streams, const int64_t* codes, int64_t frames, int64_t depth, int64_t done,
                         int64_t made) const {
    const int64_t batch = streams.batch(), row = padded(quantizer.latent), wide = predictor.row(kernels);
    const int64_t first = depth < predictor.codebooks ? depth : predictor.codebooks;
    if (!streams.coarse.ensure(batch * row)) return false;
    float* coarse = streams.coarse.data();
    for (int64_t f = 0; f < made; ++f) {
        const float* expected = predictor.expected(kernels, streams);
        if (!expected) return false;
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t* said = codes + (b * frames + done + f) * depth;
            if (!quantizer.lookup(kernels, streams, said, 1, first, coarse + b * row)) return false;
            float* latent = streams.input(b) + f * row;
            for (int64_t c = 0; c < quantizer.latent; ++c) {
                latent[c] += expected[b * wide + c];
                coarse[b * row + c] += expected[b * wide + c];
            }
        }
        predictor.remember(streams, coarse, row);
    }
    return true;
}

Fault Codec::encode(Streams& streams, Pool* pool, const float* audio, int64_t samples, bool last, Depths depths,
                    int64_t deepest, int64_t* codes, int64_t frames) const {
    const int64_t batch = streams.batch(), block = block_frames(hop) * hop, row = padded(quantizer.latent);
    int64_t done = 0, made = 0, start = 0;
    do {
        const int64_t n = samples - start < block ? samples - start : block;
        if (Fault f = streams.prepare(n, last && start + n == samples, pool ? pool->threads() : 1, &made)) return f;
        if (done + made > frames) return {"frames of the output", frames, done + made};
        if (!streams.latents.ensure(batch * made * row)) return NO_MEMORY;
        for (int64_t b = 0; b < batch; ++b)
            copy_values(streams.input(b), audio + b * samples + start, n);
        streams.run(pool, streams.latents.data(), made * row);
        if (predictor.frames && !subtract_expected(streams, made, done, depths, deepest)) return NO_MEMORY;
        if (!streams.codes.ensure(batch * made * deepest)) return NO_MEMORY;
        if (!quantizer.search(kernels, streams, streams.latents.data(), row, batch * made, deepest, streams.codes.data()))
            return NO_MEMORY;
        const int64_t* found = streams.codes.data();
        for (int64_t b = 0; b < batch; ++b) {
            int64_t* to = codes + (b * frames + done) * deepest;
            for (int64_t f = 0; f < made; ++f) {
                const int64_t depth = depths.at(b, done + f, deepest);
                for (int64_t k = 0; k < deepest; ++k, ++found, ++to) *to = k < depth ? *found : -1;
            }
        }
        done += made;
        start += n;
    } while (start < samples);
    return NO_FAULT;
}

Fault Codec::decode(Streams& streams, Pool* pool, const int64_t* codes, int64_t frames, int64_t depth, bool last,
                    float* audio, int64_t samples) const {
    const int64_t batch = streams.batch(), block = block_frames(hop);
    for (int64_t i = 0; i < batch * frames * depth; ++i)
        if (codes[i] >= quantizer.entries || codes[i] < LOST) return {"code", codes[i], quantizer.entries - 1};
    int64_t done = 0, made = 0, start = 0;
    do {
        const int64_t n = frames - start < block ? frames - start : block;
        if (Fault f = streams.prepare(n, last && start + n == frames, pool ? pool->threads() : 1, &made)) return f;
        if (done + made > samples) return {"samples of the output", samples, done + made};
        for (int64_t b = 0; b < batch; ++b)
            if (!quantizer.lookup(kernels, streams, codes + (b * frames + start) * depth, n, depth, streams.input(b)))
                return NO_MEMORY;
        if (predictor.frames && !add_expected(streams, codes, frames, depth, start, n)) return NO_MEMORY;
        streams.run(pool, audio + done, samples);
        done += made;
        start += n;
    } while (start < frames);
    return NO_FAULT;
}

}  // namespace streamdac
