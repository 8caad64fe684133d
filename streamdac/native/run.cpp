// One push: every stage in order, as matrix products over contiguous windows, on one thread or several.

#include "kernels.h"
#include "product.h"
#include "threads.h"

namespace streamdac {

constexpr int64_t FEW_ROWS = 8;             // fewer windows a stream than this are gathered from all streams into one product
constexpr int64_t GATHERED_ROWS = 96;       // at most so many at once
constexpr int64_t GATHERED_FLOATS = 1 << 17;
constexpr int64_t BLOCK_FLOATS = 1 << 16;   // inputs that stay in the cache while all panels pass
constexpr int64_t GROUP_STREAMS = 8;        // streams that go through the part together

// ---------------------------------------------------------------- one stage

// One thread's way through a push.
struct Runner {
    Streams& streams;
    float* out;
    int64_t out_stream;
    float* scratch;

    // What of a stage this thread does: streams, rows of each, and panels.
    struct Range {
        int64_t stream, streams, row, rows, panel, panels;
    };

    Output output(int index, int64_t stream) const;
    float* audio(int index, int64_t stream) const;
    void single(int index, const Range& part) const;
    void direct(int index, const Range& part) const;
    void gathered(int index, const Range& part) const;
    void filtered(int index, const Range& part) const;
    void stage(int index, const Range& part) const;
    void alone(int64_t stream, int64_t count) const;
    void together(const Share& share) const;
};

Output Runner::output(int index, int64_t stream) const {
    const Part& part = streams.part();
    const Stage& s = part.stage(index);
    const Step& step = streams.steps_[index];
    const int64_t row = s.matrix.columns / s.groups;
    Output o = {};
    o.rows = step.windows, o.columns = s.matrix.columns;
    o.low = step.low * row, o.high = step.high * row;
    o.factor = s.matrix.factor.data(), o.shift = s.matrix.shift.data();
    o.activation = s.activation, o.alpha = s.alpha.data(), o.inverse = s.inverse.data();
    if (s.add_slot >= 0) {
        Queue& q = streams.queues_[s.add_slot];
        o.skip = q.at(stream, streams.dropping_[s.add_slot]);
        o.skip_stream = q.stream_floats();
    }
    if (s.raw_slot >= 0) {
        Queue& q = streams.queues_[s.raw_slot];
        o.raw = q.at(stream, q.rows);
        o.raw_stream = q.stream_floats();
    }
    if (index + 1 < part.n_stages()) {
        Queue& q = streams.queues_[part.stage(index + 1).slot];
        o.out = q.at(stream, q.rows);
        o.out_stream = q.stream_floats();
    } else {
        o.out = out + stream * out_stream;
        o.out_stream = out_stream;
    }
    return o;
}

void Runner::single(int index, const Range& part) const {
    const Stage& s = streams.part().stage(index);
    Queue& q = streams.queues_[s.slot];
    const bool touching = s.dilation == 1;
    for (int64_t b = part.stream; b < part.stream + part.streams; ++b)
        streams.part().kernels().single(q.at(b, part.row * s.stride), s.stride * s.in_row, part.rows,
                                        touching ? 1 : s.kernel, s.dilation * s.in_row,
                                        touching ? s.kernel * s.in_row : s.in_row, s.row.data(), s.matrix.bias[0],
                                        s.activation, audio(index, b) + part.row);
}

// Where the samples of a stage with one float a sample go: out, or to the long-term filter.
float* Runner::audio(int index, int64_t stream) const {
    if (index + 1 == streams.part().n_stages()) return out + stream * out_stream;
    Queue& q = streams.queues_[streams.part().stage(index + 1).slot];
    return q.at(stream, q.rows);
}

void Runner::filtered(int index, const Range& part) const {
    const Stage& s = streams.part().stage(index);
    for (int64_t b = part.stream; b < part.stream + part.streams; ++b)
        s.long_term->run(streams.part().kernels(), streams.queues_[s.slot].at(b, part.row * s.stride), part.rows, scratch,
                         audio(index, b) + part.row * s.groups);
}

// Each stream's own windows, as they lie; rows in blocks that stay in the cache.
void Runner::direct(int index, const Range& part) const {
    const Stage& s = streams.part().stage(index);
    Queue& q = streams.queues_[s.slot];
    const Output o = output(index, part.stream);
    const int64_t fitting = BLOCK_FLOATS / (s.stride * s.in_row);
    const int64_t block = fitting < CHUNKED_ROWS ? CHUNKED_ROWS : fitting;
    Windows sets[GROUP_STREAMS];
    for (int64_t row = part.row; row < part.row + part.rows; row += block) {
        const int64_t rows = part.row + part.rows - row < block ? part.row + part.rows - row : block;
        for (int64_t first = 0; first < part.streams; first += GROUP_STREAMS) {
            const int64_t n = part.streams - first < GROUP_STREAMS ? part.streams - first : GROUP_STREAMS;
            for (int64_t b = first; b < first + n; ++b)
                sets[b - first] = {q.at(part.stream + b, row * s.stride), s.stride * s.in_row, rows, b * o.rows + row};
            multiply(streams.part().kernels(), s.matrix, sets, n, s.segments.data(), s.segments.count(), part.panel,
                     part.panel + part.panels, o, scratch);
        }
    }
}

static int64_t gathered_rows(const Stage& s) {
    const int64_t fitting = GATHERED_FLOATS / s.matrix.inputs;
    return fitting < 16 ? 16 : fitting > GATHERED_ROWS ? GATHERED_ROWS : fitting;
}

// Few windows a stream: those of all streams side by side, so that the weights are read once for many of them.
void Runner::gathered(int index, const Range& part) const {
    const Stage& s = streams.part().stage(index);
    Queue& q = streams.queues_[s.slot];
    const Output o = output(index, part.stream);
    const int64_t all = part.streams * o.rows, most = gathered_rows(s), inputs = s.matrix.inputs;
    float* sums = scratch + most * inputs;
    const Segment whole{0, inputs};
    for (int64_t row = 0; row < all; row += most) {
        const int64_t rows = all - row < most ? all - row : most;
        float* to = scratch;
        for (int64_t i = row; i < row + rows; ++i) {
            const float* window = q.at(part.stream + i / o.rows, i % o.rows * s.stride);
            for (int64_t g = 0; g < s.segments.count(); ++g) {
                std::memcpy(to, window + s.segments[g].offset, size_t(s.segments[g].count) * sizeof(float));
                to += s.segments[g].count;
            }
        }
        const Windows set{scratch, inputs, rows, row};
        multiply(streams.part().kernels(), s.matrix, &set, 1, &whole, 1, part.panel, part.panel + part.panels, o, sums);
    }
}

void Runner::stage(int index, const Range& part) const {
    const Stage& s = streams.part().stage(index);
    if (part.rows <= 0) return;
    if (s.long_term) return filtered(index, part);
    if (part.panels <= 0) return;
    if (s.single) single(index, part);
    else if (part.streams > 1 && streams.steps_[index].windows < FEW_ROWS) gathered(index, part);
    else direct(index, part);
}

// All stages for some streams, nobody else involved.
void Runner::alone(int64_t stream, int64_t count) const {
    for (int64_t b = stream; b < stream + count; b += GROUP_STREAMS) {
        const int64_t group = stream + count - b < GROUP_STREAMS ? stream + count - b : GROUP_STREAMS;
        for (int i = 0; i < streams.part().n_stages(); ++i)
            stage(i, {b, group, 0, streams.steps_[i].windows, 0, streams.part().stage(i).matrix.panels.count()});
    }
}

// Fewer streams than threads: all threads work on every stage, each on a range of rows, or of panels where rows are few.
void Runner::together(const Share& share) const {
    for (int i = 0; i < streams.part().n_stages(); ++i) {
        const Stage& s = streams.part().stage(i);
        const int64_t windows = streams.steps_[i].windows, panels = s.matrix.panels.count();
        const bool by_rows = s.single || s.long_term || windows >= 4 * FEW_ROWS * share.threads;
        const int64_t total = by_rows ? windows : panels;
        const int64_t first = total * share.thread / share.threads, end = total * (share.thread + 1) / share.threads;
        if (by_rows) stage(i, {0, streams.batch_, first, end - first, 0, panels});
        else stage(i, {0, streams.batch_, 0, windows, first, end - first});
        share.barrier();
    }
}

// ---------------------------------------------------------------- a push

bool Streams::reserve_scratch(int threads) {
    int64_t most = CHUNKED_ROWS * 64;
    for (int i = 0; i < part_.n_stages(); ++i) {
        const Stage& s = part_.stage(i);
        if (s.long_term) {
            if (s.long_term->scratch_floats() > most) most = s.long_term->scratch_floats();
            continue;
        }
        // Partial sums of a block of rows, or of the gathered ones behind their windows; one panel's width.
        const int64_t fitting = BLOCK_FLOATS / (s.stride * s.in_row);
        const int64_t block = fitting < CHUNKED_ROWS ? CHUNKED_ROWS : fitting;
        const int64_t rows = steps_[i].windows < block ? steps_[i].windows : block;
        const int64_t wide = MAX_VECTORS * part_.kernels().width;
        const bool large = s.matrix.bytes(s.matrix.inputs * wide) > 2 * CHUNK_BYTES;
        int64_t floats = large ? rows * wide : 0;
        if (batch_ > 1 && steps_[i].windows < FEW_ROWS)
            floats = gathered_rows(s) * (s.matrix.inputs + (large ? wide : 0));
        if (floats > most) most = floats;
    }
    if (scratch_.count() < threads) {
        for (int64_t i = 0; i < scratch_.count(); ++i) scratch_[i].~Array();
        if (!scratch_.allocate(threads)) return false;
    }
    for (int i = 0; i < threads; ++i)
        if (!scratch_[i].ensure(most)) return false;
    return true;
}

struct Job {
    Streams* streams;
    float* out;
    int64_t out_stream;
    Array<float>* scratch;
};

static void work(void* data, const Share& share) {
    const Job& job = *static_cast<Job*>(data);
    const Runner runner{*job.streams, job.out, job.out_stream, job.scratch[share.thread].data()};
    const int64_t batch = job.streams->batch();
    if (batch < share.threads) return runner.together(share);
    const int64_t first = batch * share.thread / share.threads, end = batch * (share.thread + 1) / share.threads;
    runner.alone(first, end - first);
}

void Streams::run(Pool* pool, float* out, int64_t out_stream) {
    Job job{this, out, out_stream, scratch_.data()};
    if (pool) pool->run(work, &job);
    else work(&job, Share{0, 1, nullptr});
    commit();
}

}  // namespace streamdac
