// A plan's part put together from its operations, each one checked against the one before.

#include <new>

#include "kernels.h"

namespace streamdac {

constexpr int64_t MAX_CHANNELS = 1 << 20;
constexpr int64_t MAX_TAPS = 1 << 12;
constexpr int64_t MAX_SPAN = 1 << 20;

Part::~Part() {
    for (int64_t i = 0; i < stages_.count(); ++i) delete stages_[i];
}

static Fault in_range(const char* what, int64_t value, int64_t low, int64_t high) {
    if (value < low) return {what, value, low};
    if (value > high) return {what, value, high};
    return NO_FAULT;
}

Fault Part::add_conv(const Geometry& g, int64_t c_in, int64_t c_out, const Given& weight, const float* bias) {
    if (Fault f = in_range("kernel", g.kernel, 1, MAX_TAPS)) return f;
    if (Fault f = in_range("dilation", g.dilation, 1, MAX_SPAN / g.kernel)) return f;
    if (Fault f = in_range("stride", g.stride, 1, (g.kernel - 1) * g.dilation + 1)) return f;
    if (Fault f = in_range("left padding", g.left, 0, MAX_SPAN)) return f;
    if (Fault f = in_range("right padding", g.right, 0, MAX_SPAN)) return f;
    Stage* stage = new (std::nothrow) Stage();
    if (!stage) return NO_MEMORY;
    stage->kernel = g.kernel, stage->dilation = g.dilation, stage->stride = g.stride;
    stage->left = g.left, stage->right = g.right;
    stage->c_in = c_in, stage->c_out = c_out, stage->groups = 1;
    return add_stage(stage, weight, bias);
}

Fault Part::add_transpose(int64_t stride, int64_t trim_left, int64_t trim_right, int64_t c_in, int64_t columns,
                          const Given& weight, const float* bias) {
    if (Fault f = in_range("stride", stride, 1, MAX_TAPS)) return f;
    if (Fault f = in_range("left trim", trim_left, 0, MAX_SPAN)) return f;
    if (Fault f = in_range("right trim", trim_right, 0, MAX_SPAN)) return f;
    if (columns % stride) return {"columns of a transposed convolution, a multiple of its stride", columns, stride};
    Stage* stage = new (std::nothrow) Stage();
    if (!stage) return NO_MEMORY;
    stage->kernel = 2, stage->dilation = stage->stride = stage->left = stage->right = 1;
    stage->c_in = c_in, stage->c_out = columns / stride, stage->groups = stride;
    stage->trim_left = trim_left, stage->trim_right = trim_right;
    return add_stage(stage, weight, bias);
}

// Runs of inputs that a window sees: one a tap, or one in all where they touch.
static bool find_segments(Stage& s) {
    const int64_t tap = s.dilation * s.in_row;
    if (tap == s.c_in || s.kernel == 1) return append(s.segments, Segment{0, s.kernel * s.c_in});
    for (int64_t k = 0; k < s.kernel; ++k)
        if (!append(s.segments, Segment{k * tap, s.c_in})) return false;
    return true;
}

Fault Part::add_stage(Stage* stage, const Given& weight, const float* bias) {
    Stage& s = *stage;
    s.add_slot = s.raw_slot = -1;
    Fault fault = NO_FAULT;
    const bool ended = finished_ || (stages_.count() && stages_[stages_.count() - 1]->long_term);
    if (ended || memory_slot_ >= 0) fault = {"operations after the end", 1, 0};
    else if (s.c_in != channels_) fault = {"input channels", s.c_in, channels_};
    else if (s.c_out < 1 || s.c_out * s.groups > MAX_CHANNELS) fault = {"output channels", s.c_out * s.groups, MAX_CHANNELS};
    if (fault) {
        delete stage;
        return fault;
    }
    // PCM comes as it is, one float a sample; everything else in padded rows.
    s.in_row = stages_.count() == 0 && end_ == AUDIO_IN ? s.c_in : padded(s.c_in);
    s.slot = n_slots();
    channels_ = s.c_out;
    activated_ = false;
    if (!append(stages_, stage)) {
        delete stage;
        return NO_MEMORY;
    }
    const Slot slot{s.c_in, s.in_row, s.left, s.trim_left, false};
    const bool stored = append(slots_, slot) && find_segments(s) &&
                        s.matrix.pack(kernels_, weight, bias, s.kernel * s.c_in, s.groups, s.c_out, s.c_out == 1) &&
                        s.alpha.allocate(s.matrix.bias.count()) && s.inverse.allocate(s.matrix.bias.count());
    return stored ? NO_FAULT : NO_MEMORY;
}

Fault Part::may_follow(const char* what) {
    if (finished_ || stages_.count() == 0 || activated_) return {what, 0, 1};
    return NO_FAULT;
}

Fault Part::add_snake(int64_t channels, const float* alpha, const float* inverse) {
    if (Fault f = may_follow("a Snake must follow a convolution, join or split: such operations before it")) return f;
    if (channels != channels_) return {"channels of a Snake", channels, channels_};
    Stage& s = *stages_[stages_.count() - 1];
    const int64_t row = padded(s.c_out);
    constexpr double PI = 3.14159265358979323846;
    for (int64_t g = 0; g < s.groups; ++g) {
        for (int64_t c = 0; c < channels; ++c) {
            s.alpha[g * row + c] = float(alpha[c] / PI);
            s.inverse[g * row + c] = inverse[c];
        }
    }
    s.activation = SNAKE;
    activated_ = true;
    return NO_FAULT;
}

Fault Part::add_tanh() {
    if (Fault f = may_follow("a tanh must follow a convolution, join or split: such operations before it")) return f;
    stages_[stages_.count() - 1]->activation = TANH;
    activated_ = true;
    return NO_FAULT;
}

Fault Part::add_split(int64_t channels, int64_t crop) {
    if (Fault f = may_follow("a split must follow a convolution or join: such operations before it")) return f;
    Stage& s = *stages_[stages_.count() - 1];
    if (s.raw_slot >= 0) return {"splits after one convolution", 2, 1};
    if (channels != channels_) return {"channels of a split", channels, channels_};
    if (Fault f = in_range("crop", crop, 0, MAX_SPAN)) return f;
    s.raw_slot = n_slots();
    if (!append(slots_, Slot{channels, padded(channels), 0, crop, true}) || !append(open_, s.raw_slot)) return NO_MEMORY;
    ++n_open_;
    return NO_FAULT;
}

Fault Part::add_join() {
    if (Fault f = may_follow("a join must follow a convolution: such operations before it")) return f;
    Stage& s = *stages_[stages_.count() - 1];
    if (s.raw_slot >= 0 || s.add_slot >= 0 || s.groups > 1) return {"a join must follow a convolution directly", 0, 1};
    // Of the splits only the newest without a join can be meant.
    int64_t open = open_.count() - 1;
    while (open >= 0 && open_[open] < 0) --open;
    if (open < 0) return {"splits before a join", 0, 1};
    if (slots_[open_[open]].channels != channels_) return {"channels at a join", channels_, slots_[open_[open]].channels};
    s.add_slot = open_[open];
    open_[open] = -1;
    --n_open_;
    return NO_FAULT;
}

Fault Part::add_memory(int64_t frames, int64_t channels) {
    if (finished_ || memory_slot_ >= 0) return {"memories", 2, 1};
    if (Fault f = in_range("frames of a memory", frames, 1, MAX_SPAN)) return f;
    if (channels < 1 || channels > MAX_CHANNELS) return {"channels of a memory", channels, MAX_CHANNELS};
    memory_slot_ = n_slots();
    return append(slots_, Slot{channels, padded(channels), frames, 0, false}) ? NO_FAULT : NO_MEMORY;
}

Fault Part::finish() {
    if (stages_.count() == 0) return {"convolutions", 0, 1};
    if (n_open_) return {"splits without a join", n_open_, 0};
    int64_t end = stages_.count() - 1;
    if (stages_[end]->raw_slot >= 0) return {"splits at the end", 1, 0};
    const bool filtered = stages_[end]->long_term != nullptr;
    if (filtered) --end;
    Stage& s = *stages_[end];
    finished_ = true;
    for (int i = 0; i < end; ++i) stages_[i]->matrix.following = stages_[i + 1]->matrix.at(0);
    const bool plain = s.groups == 1 && s.add_slot < 0 && s.activation != SNAKE;
    if (end_ != AUDIO_OUT || s.c_out != 1 || !plain)
        return filtered ? Fault{"a long-term filter must follow a plain convolution: such operations before it", 0, 1} : NO_FAULT;
    s.single = true;
    if (!s.row.allocate(s.kernel * s.in_row)) return NO_MEMORY;
    const int64_t wide = s.matrix.panels[0].vectors * kernels_.width;  // column 0 of the only panel
    for (int64_t k = 0; k < s.kernel; ++k)
        for (int64_t c = 0; c < s.c_in; ++c) s.row[k * s.in_row + c] = s.matrix.floats[(k * s.c_in + c) * wide];
    return NO_FAULT;
}

int64_t Part::out_row() const {
    const Stage& s = *stages_[stages_.count() - 1];
    return s.single || s.long_term ? 1 : s.matrix.columns / s.groups;
}

}  // namespace streamdac
