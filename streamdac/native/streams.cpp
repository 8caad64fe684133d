// Streaming state: the queues of a part, and what one push will do to them, found before anything is touched.

#include "kernels.h"

namespace streamdac {

constexpr int64_t MAX_ROWS_QUEUED = int64_t(1) << 40;

bool Queue::reserve(int64_t streams, int64_t total) {
    if (begin + total <= capacity) return true;
    if (total <= capacity) {
        for (int64_t b = 0; b < streams; ++b) {
            float* base = data.data() + b * stream_floats();
            std::memmove(base, base + begin * row, size_t(rows * row) * sizeof(float));
        }
        begin = 0;
        return true;
    }
    // Slack, so that small pushes rarely move anything.
    const int64_t roomy = total + (total < 64 ? total : 64) + total / 8;
    Array<float> larger;
    if (total > MAX_ROWS_QUEUED / (streams * row) || !larger.allocate(streams * roomy * row)) return false;
    for (int64_t b = 0; b < streams && rows; ++b)
        std::memcpy(larger.data() + b * roomy * row, at(b, 0), size_t(rows * row) * sizeof(float));
    data.swap(larger);
    capacity = roomy;
    begin = 0;
    return true;
}

Streams::~Streams() {
    for (int64_t i = 0; i < queues_.count(); ++i) queues_[i].~Queue();
    for (int64_t i = 0; i < scratch_.count(); ++i) scratch_[i].~Array();
}

bool Streams::start() {
    const int n = part_.n_slots();
    if (queues_.count() == 0) {
        if (!queues_.allocate(n) || !drops_.allocate(n) || !kept_.allocate(n) || !dropping_.allocate(n)) return false;
        if (!steps_.allocate(part_.n_stages())) return false;
    }
    for (int i = 0; i < n; ++i) {
        const Slot& slot = part_.slot(i);
        Queue& q = queues_[i];
        q.row = slot.row;
        q.begin = q.rows = 0;
        if (!q.reserve(batch_, slot.fresh)) return false;
        q.rows = slot.fresh;
        for (int64_t b = 0; b < batch_ && q.rows; ++b) std::memset(q.at(b, 0), 0, size_t(q.rows * q.row) * sizeof(float));
        drops_[i] = slot.drop;
    }
    return true;
}

Fault Streams::plan(int64_t rows, bool last) {
    for (int i = 0; i < part_.n_slots(); ++i) kept_[i] = queues_[i].rows;
    for (int i = 0; i < part_.n_stages(); ++i) {
        const Stage& s = part_.stage(i);
        Step& step = steps_[i];
        step.given = rows;
        step.available = queues_[s.slot].rows + rows + (last ? s.right : 0);
        step.windows = step.available >= s.window() ? (step.available - s.window()) / s.stride + 1 : 0;
        const int64_t made = step.windows * s.groups;
        step.low = drops_[s.slot] < made ? drops_[s.slot] : made;
        step.high = last && s.trim_right ? made - s.trim_right : made;
        if (step.high < step.low) step.high = step.low;
        rows = step.high - step.low;
        if (s.add_slot >= 0) {
            if (kept_[s.add_slot] < rows) return {"state: samples kept by a split", kept_[s.add_slot], rows};
            kept_[s.add_slot] -= rows;
        }
        if (s.raw_slot >= 0) {
            int64_t& dropping = dropping_[s.raw_slot];
            dropping = drops_[s.raw_slot] < rows ? drops_[s.raw_slot] : rows;
            kept_[s.raw_slot] += rows - dropping;
        }
    }
    outputs_ = rows;
    return NO_FAULT;
}

Fault Streams::ready(int64_t rows, bool last, int64_t* outputs) {
    if (Fault f = plan(rows, last)) return f;
    *outputs = outputs_;
    return NO_FAULT;
}

Fault Streams::prepare(int64_t rows, bool last, int threads, int64_t* outputs) {
    if (Fault f = plan(rows, last)) return f;
    for (int i = 0; i < part_.n_stages(); ++i) {
        const Stage& s = part_.stage(i);
        const Step& step = steps_[i];
        Queue& q = queues_[s.slot];
        if (!q.reserve(batch_, step.available)) return NO_MEMORY;
        const int64_t padding = last ? s.right : 0;
        for (int64_t b = 0; b < batch_ && padding; ++b)
            std::memset(q.at(b, q.rows + step.given), 0, size_t(padding * q.row) * sizeof(float));
        if (s.raw_slot >= 0 && !queues_[s.raw_slot].reserve(batch_, queues_[s.raw_slot].rows + step.high - step.low))
            return NO_MEMORY;
    }
    *outputs = outputs_;
    return reserve_scratch(threads) ? NO_FAULT : NO_MEMORY;
}

float* Streams::input(int64_t stream) {
    Queue& q = queues_[0];
    return q.at(stream, q.rows);
}

static void take(Queue& q, int64_t rows) {
    q.rows -= rows;
    q.begin = q.rows ? q.begin + rows : 0;
}

void Streams::commit() {
    for (int i = 0; i < part_.n_stages(); ++i) {
        const Stage& s = part_.stage(i);
        const Step& step = steps_[i];
        queues_[s.slot].rows = step.available;
        take(queues_[s.slot], step.windows * s.stride);
        drops_[s.slot] -= step.low;
        if (s.add_slot >= 0) take(queues_[s.add_slot], step.high - step.low);
        if (s.raw_slot >= 0) {
            queues_[s.raw_slot].rows += step.high - step.low;
            take(queues_[s.raw_slot], dropping_[s.raw_slot]);
            drops_[s.raw_slot] -= dropping_[s.raw_slot];
        }
    }
}

bool Streams::copy_rows(Streams& from, const int64_t* index, int64_t count) {
    for (int i = 0; i < part_.n_slots(); ++i) {
        Queue &to = queues_[i], &source = from.queues_[i];
        to.begin = to.rows = 0;
        if (!to.reserve(batch_, source.rows)) return false;
        to.rows = source.rows;
        drops_[i] = from.drops_[i];
        for (int64_t b = 0; b < count && to.rows; ++b)
            std::memcpy(to.at(b, 0), source.at(index[b], 0), size_t(to.rows * to.row) * sizeof(float));
    }
    return true;
}

Fault Streams::put_rows(Streams& from, const int64_t* index, int64_t count) {
    for (int i = 0; i < part_.n_slots(); ++i) {
        if (from.queues_[i].rows != queues_[i].rows) return {"rows not in step: samples kept", from.queues_[i].rows, queues_[i].rows};
        if (from.drops_[i] != drops_[i]) return {"rows not in step: samples to drop", from.drops_[i], drops_[i]};
    }
    for (int i = 0; i < part_.n_slots(); ++i) {
        Queue &to = queues_[i], &source = from.queues_[i];
        for (int64_t b = 0; b < count && to.rows; ++b)
            std::memcpy(to.at(index[b], 0), source.at(b, 0), size_t(to.rows * to.row) * sizeof(float));
    }
    return NO_FAULT;
}

}  // namespace streamdac
