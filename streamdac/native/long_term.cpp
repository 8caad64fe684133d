// The long-term postfilter behind a decoder (streamdac/nn/long_term.py): a comb at the lags where the past fits.
//
// A block of outputs depends on a window of inputs alone, so it is one more stage of windows; see `Stage::long_term`.

#include <cmath>
#include <new>

#include "kernels.h"

namespace streamdac {

constexpr int64_t MAX_LENGTH = 1 << 16;
constexpr int64_t MAX_FILTERS = 64;
constexpr int64_t SLACK = 64;  // floats that vectors may read or write past the end

Fault LongTerm::check() const {
    const int64_t sizes[] = {block, window, least, most};
    for (int64_t size : sizes)
        if (size < 1 || size > MAX_LENGTH) return {"length of a long-term filter", size, MAX_LENGTH};
    if (least > most) return {"shortest lag, at most the longest", least, most};
    if (taps < 1 || taps > most || taps / 2 > least) return {"taps of a long-term filter, at most twice its shortest lag", taps, 2 * least};
    if (filters < 1 || filters > MAX_FILTERS) return {"filters of a long-term filter", filters, MAX_FILTERS};
    if (low_pass.count() < 1 || low_pass.count() > MAX_LENGTH) return {"taps of a low-pass", low_pass.count(), MAX_LENGTH};
    if (reach() > left()) return {"reach of a long-term filter, within its window", reach(), left()};
    for (int64_t i = 1; i <= filters; ++i)
        if (!(knots[i] > knots[i - 1])) return {"knots that rise", i, i + 1};
    return NO_FAULT;
}

int64_t LongTerm::scratch_floats() const {
    return 2 * (window + most + 1) + 2 * (left() + block) + lags() + 4 * taps + 2 * (reach() + 1) + block + 6 * SLACK;
}

namespace {

// One thread's share of the work space; vectors may run past the end of each piece.
struct Work {
    double* squares;                           // of the frame, summed up to each sample
    float *samples, *smooth;                   // a window, and its low-passed form
    float* correlation;                        // then weight of each lag, with room for the taps on both sides
    float *kernels[2], *own, *past, *change;

    Work(const LongTerm& f, float* scratch) {
        squares = reinterpret_cast<double*>(scratch), scratch += 2 * (f.window + f.most + 1);
        samples = scratch, scratch += f.left() + f.block + SLACK;
        smooth = scratch, scratch += f.window + f.most + f.block + SLACK;
        correlation = scratch, scratch += f.lags() + 2 * f.taps + SLACK;
        kernels[0] = scratch, scratch += f.reach() + 1 + SLACK;
        kernels[1] = scratch, scratch += f.reach() + 1 + SLACK;
        own = scratch, scratch += f.taps;
        past = scratch, scratch += f.taps;
        change = scratch;
    }
};

// How much of each filter belongs to a correlation, piecewise linear between the knots; their taps, mixed. False: none.
bool mix(const LongTerm& f, float correlation, Work& w) {
    bool any = false;
    for (int64_t t = 0; t < f.taps; ++t) w.own[t] = w.past[t] = 0;
    for (int64_t j = 0; j < f.filters; ++j) {
        float share = (correlation - f.knots[j]) / (f.knots[j + 1] - f.knots[j]);
        if (j + 1 < f.filters) {
            const float falling = (f.knots[j + 2] - correlation) / (f.knots[j + 2] - f.knots[j + 1]);
            if (falling < share) share = falling;
        }
        if (!(share > 0)) continue;
        if (share > 1) share = 1;
        any = true;
        for (int64_t t = 0; t < f.taps; ++t) {
            w.own[t] += share * f.own[j * f.taps + t];
            w.past[t] += share * f.past[j * f.taps + t];
        }
    }
    return any;
}

// The filter of one analysis, last tap first, `[reach + 1]`. `frame` is where its past begins in the smoothed signal.
// False: it changes nothing.
bool analyse(const LongTerm& f, const Kernels& kernels, Work& w, int64_t frame, float* kernel) {
    const float* past = w.smooth + frame;
    double* squares = w.squares;
    squares[0] = 0;
    for (int64_t i = 0; i < f.window + f.most; ++i) squares[i + 1] = squares[i] + double(past[i]) * double(past[i]);
    const float own = float(squares[f.most + f.window] - squares[f.most]);
    float* correlation = w.correlation + f.taps - 1;  // longest lag first
    kernels.correlate(past, past + f.most, f.window, correlation, f.lags());
    float best = -1, sum = 0, mean = 0;
    for (int64_t o = 0; o < f.lags(); ++o) {
        const float energy = float(squares[o + f.window] - squares[o]);
        correlation[o] *= 1 / std::sqrt(energy * own + f.floor);
        if (correlation[o] > best) best = correlation[o];
    }
    for (int64_t o = 0; o < f.lags(); ++o) {
        const float weight = std::exp(f.sharpness * (correlation[o] - best));
        mean += weight * correlation[o];
        sum += weight;
        correlation[o] = weight;
    }
    if (!mix(f, mean / sum, w)) return false;
    for (int64_t o = 0; o < f.lags(); ++o) correlation[o] /= sum;
    for (int64_t t = 0; t < f.taps - 1; ++t) w.correlation[t] = correlation[f.lags() + t] = 0;
    const int64_t around = f.lags() + f.taps - 1;
    kernels.correlate(w.correlation, w.past, f.taps, kernel, around);
    for (int64_t k = around; k <= f.reach(); ++k) kernel[k] = 0;
    for (int64_t t = 0; t < f.taps; ++t) kernel[f.reach() - t] += w.own[t];
    return true;
}

}  // namespace

void LongTerm::run(const Kernels& kernels, const float* x, int64_t blocks, float* scratch, float* out) const {
    Work w(*this, scratch);
    bool acts[2] = {false, false};
    for (int64_t row = 0; row < blocks; ++row, x += block, out += block) {
        copy_values(w.samples, x, left() + block);
        kernels.correlate(w.samples, low_pass.data(), low_pass.count(), w.smooth, window + most + block);
        float *before = w.kernels[row % 2], *now = w.kernels[1 - row % 2];
        acts[0] = row ? acts[1] : analyse(*this, kernels, w, 0, before);
        acts[1] = analyse(*this, kernels, w, block, now);
        copy_values(out, x + left(), block);
        for (int i = 0; i < 2; ++i) {
            if (!acts[i]) continue;
            kernels.correlate(w.samples + left() - reach(), i ? now : before, reach() + 1, w.change, block);
            for (int64_t n = 0; n < block; ++n) {
                const float fade = float(n) / float(block);
                out[n] += (i ? fade : 1 - fade) * w.change[n];
            }
        }
    }
}

Fault Part::add_long_term(LongTerm* filter) {
    Stage* stage = new (std::nothrow) Stage();
    if (!stage) {
        delete filter;
        return NO_MEMORY;
    }
    stage->long_term = filter;
    Fault fault = filter->check();
    const bool alone = stages_.count() == 0 || stages_[stages_.count() - 1]->long_term;
    if (!fault && (finished_ || end_ != AUDIO_OUT || alone || channels_ != 1))
        fault = {"a long-term filter must follow a decoder's last convolution: channels before it", alone ? 0 : channels_, 1};
    if (!fault && !append(stages_, stage)) fault = NO_MEMORY;
    if (fault) {
        delete stage;
        return fault;
    }
    Stage& s = *stage;
    s.kernel = filter->left() + filter->block, s.dilation = 1, s.stride = s.groups = filter->block, s.left = filter->left();
    s.c_in = s.c_out = s.in_row = 1;
    s.add_slot = s.raw_slot = -1;
    s.slot = n_slots();
    activated_ = true;
    return append(slots_, Slot{1, 1, s.left, 0, false}) ? NO_FAULT : NO_MEMORY;
}

}  // namespace streamdac
