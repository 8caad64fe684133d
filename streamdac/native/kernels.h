// The native executor's core: runs a plan of windowed operations on the CPU. No Python, no exceptions, no I/O.
//
// A Part (encoder or decoder) is built once from the plan's operations: weights are packed for the instruction set in use.
// Streams hold what each operation still needs of its input, for any number of streams in step; every push appends to it.
// Activations are time-major: one row of channels per sample, padded to GROUP floats. Between two convolutions everything
// (residual add, Snake, tanh) is done on the sums as they leave the registers, so that a sample is activated once.
//
// Files: array.h memory, simd.h + *_body.h + kernels_*.cpp inner loops, packing.cpp weights, part.cpp the plan,
// long_term.cpp the postfilter, streams.cpp state, run.cpp one push, product.cpp its matrix products, quantizer.cpp search
// and lookup, predictor.cpp what a search need not find, codec.cpp all of them together, threads.cpp the optional pool, read_plan.cpp and module.cpp Python.
#pragma once

#include "array.h"
#include "kernel_table.h"

namespace streamdac {

// What is wrong with an argument: a constant text and the two numbers that disagree. Null text: nothing.
struct Fault {
    const char* what = nullptr;
    int64_t got = 0;
    int64_t need = 0;
    explicit operator bool() const { return what != nullptr; }
};

constexpr Fault NO_FAULT{};
constexpr Fault NO_MEMORY{"out of memory", 0, 0};

// The widest instruction set here, or the one of that name; null where this machine lacks it.
const Kernels* find_kernels(const char* name);

constexpr int64_t padded(int64_t channels) { return (channels + GROUP - 1) / GROUP * GROUP; }

// ---------------------------------------------------------------- packed matrices (packing.cpp)

// Columns side by side that one tile covers.
struct Panel {
    int32_t vectors;
    int64_t column;
    int64_t offset;  // weights from the start
};

// Weights as they are given: floats, or half-precision numbers and a factor for each output channel.
struct Given {
    const float* floats = nullptr;
    const uint16_t* halves = nullptr;
    const float* factors = nullptr;
};

// A matrix [inputs, columns] and a bias, cut into panels `[inputs][vectors * width]`.
struct Matrix {
    int64_t inputs = 0;
    int64_t columns = 0;  // a multiple of GROUP
    Kind kind = FLOATS;
    Array<Panel> panels;
    Array<float> bias;           // what sums begin with, with room for whole vectors
    Array<float> factor, shift;  // of halves: what sums are multiplied by, and what is added then; or empty
    Array<float> floats;         // the weights: these or those
    Array<uint16_t> halves;
    const char* following = nullptr;  // the weights used next, if known

    // Takes `[inputs][groups * channels]`; each group becomes padded(channels) columns. Halves stay halves where the kernels
    // read them and `as_floats` does not say otherwise.
    bool pack(const Kernels& kernels, const Given& weight, const float* bias, int64_t inputs, int64_t groups, int64_t channels,
              bool as_floats = false);

    const Tiles& tiles(const Kernels& kernels) const { return kernels.tiles[kind]; }
    int64_t bytes(int64_t weights) const { return weights * (kind == HALVES ? 2 : 4); }
    int64_t count() const { return kind == HALVES ? halves.count() : floats.count(); }
    const char* at(int64_t weight) const {
        return (kind == HALVES ? reinterpret_cast<const char*>(halves.data()) : reinterpret_cast<const char*>(floats.data())) +
               bytes(weight);
    }
    // The panels that begin before `wanted` columns, of `rows` rows `x_row` floats apart, to rows `to_row` floats apart that
    // have room for whole vectors. Of floats alone: factors of halves are not taken in.
    void multiply(const Kernels& kernels, const float* x, int64_t x_row, int64_t rows, int64_t wanted, float* to,
                  int64_t to_row) const;
};

// ---------------------------------------------------------------- long-term filter (long_term.cpp)

// Sizes in samples and what was learnt, as streamdac/nn/long_term.py has them.
struct LongTerm {
    int64_t block = 0, window = 0, least = 0, most = 0;
    int64_t taps = 0, filters = 0;
    float sharpness = 0, floor = 0;
    Array<float> low_pass, knots, own, past;  // knots `[filters + 1]`, own and past `[filters][taps]`

    int64_t lags() const { return most - least + 1; }
    int64_t reach() const { return most + taps / 2; }
    int64_t left() const { return window + most + low_pass.count() - 1; }  // inputs before a block that it depends on
    Fault check() const;

    // `blocks` windows, `block` apart, to as many blocks of outputs. `scratch` holds scratch_floats().
    void run(const Kernels& kernels, const float* x, int64_t blocks, float* scratch, float* out) const;
    int64_t scratch_floats() const;
};

// ---------------------------------------------------------------- a plan's part (part.cpp)

// One convolution with all that follows it up to the next one.
struct Stage {
    int64_t kernel, dilation, stride, left, right;  // of a window of inputs; a transposed convolution sees two
    int64_t c_in, in_row;                           // channels, and floats from one input sample to the next
    int64_t c_out, groups;                          // samples that each window gives
    int64_t trim_left, trim_right;
    int slot;       // of its inputs
    int add_slot;   // the split whose samples are added, or -1
    int raw_slot;   // the split that keeps the sum, or -1
    int64_t crop;   // that split's samples dropped at the start
    Activation activation;
    bool single;    // one channel out: `row` holds the weights
    Matrix matrix;
    Array<float> row;
    Array<float> alpha, inverse;
    Array<Segment> segments;
    LongTerm* long_term = nullptr;  // its own, instead of a convolution; or null

    ~Stage() { delete long_term; }
    int64_t window() const { return (kernel - 1) * dilation + 1; }
};

// What one slot of the state is: the inputs of a convolution, or what a split keeps.
struct Slot {
    int64_t channels, row;
    int64_t fresh;  // zeros at the start
    int64_t drop;   // samples dropped at the start
    bool split;
};

// Encoder or decoder. Add operations in order, then `finish`; each call says what is wrong with its argument.
class Part {
public:
    enum End { AUDIO_IN, AUDIO_OUT };  // which end is PCM: one channel, one float a sample
    Part(const Kernels& kernels, End end, int64_t c_in) : kernels_(kernels), end_(end), channels_(c_in), c_in_(c_in) {}
    ~Part();
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

    struct Geometry {
        int64_t kernel, dilation, stride, left, right;
    };
    // Weight `[kernel][c_in][c_out]`, bias `[c_out]`.
    Fault add_conv(const Geometry& geometry, int64_t c_in, int64_t c_out, const Given& weight, const float* bias);
    // Weight `[2][c_in][columns]`, bias `[columns]`: `stride` samples side by side.
    Fault add_transpose(int64_t stride, int64_t trim_left, int64_t trim_right, int64_t c_in, int64_t columns,
                        const Given& weight, const float* bias);
    Fault add_snake(int64_t channels, const float* alpha, const float* inverse);
    Fault add_tanh();
    Fault add_split(int64_t channels, int64_t crop);
    Fault add_join();
    // Beside the signal, and last: the quantised latents of so many frames, for a Predictor.
    Fault add_memory(int64_t frames, int64_t channels);
    // Takes the filter over, whatever comes of it.
    Fault add_long_term(LongTerm* filter);
    Fault finish();

    const Kernels& kernels() const { return kernels_; }
    int64_t c_in() const { return c_in_; }
    int64_t c_out() const { return channels_; }
    int64_t out_row() const;
    int n_stages() const { return int(stages_.count()); }
    const Stage& stage(int index) const { return *stages_[index]; }
    int n_slots() const { return int(slots_.count()); }
    int memory_slot() const { return memory_slot_; }  // or -1
    const Slot& slot(int index) const { return slots_[index]; }

private:
    Fault add_stage(Stage* stage, const Given& weight, const float* bias);
    Fault may_follow(const char* what);

    const Kernels& kernels_;
    End end_;
    int64_t channels_, c_in_;
    Array<Stage*> stages_;
    Array<Slot> slots_;
    Array<int> open_;  // splits without their join
    int64_t n_open_ = 0;
    int memory_slot_ = -1;
    bool activated_ = false;
    bool finished_ = false;
};

// ---------------------------------------------------------------- state (streams.cpp)

// A queue of rows for each stream, all equally full.
struct Queue {
    Array<float> data;
    int64_t capacity = 0;  // rows per stream
    int64_t begin = 0;
    int64_t rows = 0;
    int64_t row = 0;  // floats

    int64_t stream_floats() const { return capacity * row; }
    float* at(int64_t stream, int64_t index) { return data.data() + stream * stream_floats() + (begin + index) * row; }
    // Room for `total` rows in all, contents kept.
    bool reserve(int64_t streams, int64_t total);
};

// What one push does to one stage, in rows per stream.
struct Step {
    int64_t given;      // from the stage before
    int64_t available;  // inputs, padding included
    int64_t windows;    // outputs, each of `groups` rows
    int64_t low, high;  // those of windows * groups that are kept
};

class Pool;

// Streams in step through one part: all rows have taken equally many samples.
class Streams {
public:
    Streams(const Part& part, int64_t batch) : part_(part), batch_(batch) {}
    ~Streams();
    Streams(const Streams&) = delete;
    Streams& operator=(const Streams&) = delete;

    // Everything as before the first sample; false where memory is short. Call it once before anything else.
    bool start();

    const Part& part() const { return part_; }
    int64_t batch() const { return batch_; }

    // How many rows a push of `rows` would give.
    Fault ready(int64_t rows, bool last, int64_t* outputs);

    // A push in three steps: `prepare` for `rows` rows a stream, fill them in at `input`, then `run`. Outputs go to `out`,
    // streams `out_stream` floats apart, rows of part().out_row() floats. After a fault the state is as it was.
    Fault prepare(int64_t rows, bool last, int threads, int64_t* outputs);
    float* input(int64_t stream);
    void run(Pool* pool, float* out, int64_t out_stream);

    Queue& queue(int slot) { return queues_[slot]; }
    int64_t& drop(int slot) { return drops_[slot]; }

    // Becomes rows `index[0..count)` of `from`; or writes rows 0..count of `from` to rows `index` of this one.
    bool copy_rows(Streams& from, const int64_t* index, int64_t count);
    Fault put_rows(Streams& from, const int64_t* index, int64_t count);

    // Work space between the parts (codec.cpp).
    Array<float> latents, projections, predicting, coarse;
    Array<int32_t> best;
    Array<int64_t> codes;

private:
    friend struct Runner;
    Fault plan(int64_t rows, bool last);
    void commit();
    bool reserve_scratch(int threads);

    const Part& part_;
    int64_t batch_;
    int64_t outputs_ = 0;
    Array<Queue> queues_;
    Array<int64_t> drops_;
    Array<Step> steps_;
    Array<int64_t> kept_, dropping_;  // of the push being planned, for each split
    Array<Array<float>> scratch_;     // for each thread
};

// ---------------------------------------------------------------- threads (threads.cpp)

// The share of one thread in a job; `barrier` waits for all of them.
struct Share {
    int thread;
    int threads;
    Pool* pool;
    void barrier() const;
};

// ---------------------------------------------------------------- predictor (predictor.cpp)

// What the next latent is expected to be: two hidden layers, rectified, beside a linear map of the latents before it. Those
// are the rows of the memory slot, newest first.
class Predictor {
public:
    // `first` `[frames * latent][width]`, `second` `[width][width]`, `last` `[frames * latent + width][latent]`.
    Fault build(const Kernels& kernels, int64_t codebooks, int64_t latent, int64_t frames, int64_t width,
                const float* first, const float* first_bias, const float* second, const float* second_bias,
                const float* last, const float* last_bias);

    // The next latents of all streams of `work`, in rows of row() floats; null where memory is short.
    float* expected(const Kernels& kernels, Streams& work) const;
    // Latents as they came to be, one a stream, `row` floats apart, are the newest from here on.
    void remember(Streams& work, const float* latents, int64_t row) const;

    int64_t row(const Kernels& kernels) const { return padded(latent) + kernels.width; }

    int64_t codebooks = 0;  // the first ones: what they say is remembered
    int64_t latent = 0, frames = 0, width = 0;  // no frames: there is none

private:
    Matrix first_, second_, last_;
};

// ---------------------------------------------------------------- quantiser (quantizer.cpp)

class Quantizer {
public:
    Fault build(const Kernels& kernels, int64_t latent, int64_t codebooks, int64_t entries, int64_t dims,
                const float* in_weight, const float* in_bias, const float* directions, const float* rows,
                const float* const* cross, const float* out_weight, const float* out_bias);

    // Latents, `frames` rows `row` floats apart, to codes `[frames][deepest]`.
    bool search(const Kernels& kernels, Streams& work, const float* latents, int64_t row, int64_t frames, int64_t deepest,
                int64_t* codes) const;
    // Codes `[frames][depth]`, -1 where unused, to latents in rows of padded(latent) floats.
    bool lookup(const Kernels& kernels, Streams& work, const int64_t* codes, int64_t frames, int64_t depth,
                float* latents) const;

    int64_t latent = 0, codebooks = 0, entries = 0, dims = 0;

private:
    Matrix in_, out_;
    Array<float> directions_, rows_, cross_, out_bias_;
    Array<int64_t> cross_offset_;
};

// ---------------------------------------------------------------- PCM to codes and back (codec.cpp)

// Codebooks in use: of row b and frame f, `of[b * row + (row > 1 ? f : 0)]`; all where null.
struct Depths {
    const int64_t* of = nullptr;
    int64_t row = 1;

    int64_t at(int64_t stream, int64_t frame, int64_t all) const {
        if (!of) return all;
        const int64_t depth = of[stream * row + (row > 1 ? frame : 0)];
        return depth > 0 ? depth : 0;
    }
};

// Everything one model needs; read by any number of streams and threads at once.
struct Codec {
    Codec(const Kernels& chosen, int64_t latent, int64_t samples_per_frame)
        : kernels(chosen), hop(samples_per_frame), encoder(chosen, Part::AUDIO_IN, 1), decoder(chosen, Part::AUDIO_OUT, latent) {}

    const Kernels& kernels;
    int64_t hop;
    Part encoder, decoder;
    Quantizer quantizer;
    Predictor predictor;

    // Whether the three parts fit each other; once, after all are built.
    Fault check() const;

    // Audio `[batch][samples]` to codes `[batch][frames][deepest]`, -1 beyond `depths` where they are given: one for each
    // row, or for each of its next frames; `frames` as `ready` says.
    Fault encode(Streams& streams, Pool* pool, const float* audio, int64_t samples, bool last, Depths depths,
                 int64_t deepest, int64_t* codes, int64_t frames) const;
    // Codes `[batch][frames][depth]`, -1 where unused, to audio `[batch][samples]`; `samples` as `ready` says.
    Fault decode(Streams& streams, Pool* pool, const int64_t* codes, int64_t frames, int64_t depth, bool last, float* audio,
                 int64_t samples) const;

private:
    // From the `made` frames in the latents of `streams`, of each row those from `done` on, takes what is expected of them.
    bool subtract_expected(Streams& streams, int64_t made, int64_t done, Depths depths, int64_t deepest) const;
    // To what the codes `[batch][frames][depth]` say of the `made` frames from `done` on, in the input of `streams`, adds it.
    bool add_expected(Streams& streams, const int64_t* codes, int64_t frames, int64_t depth, int64_t done, int64_t made) const;
};

}  // namespace streamdac
