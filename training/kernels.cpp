// Snake on time-major activations for CPU training: the residual sum before it and the zero padding after it in one pass.
//
//   sum = x + y (y may be absent), out = zeros(left) . (sum + sin(alpha sum)^2 / alpha) . zeros(right)
//
// x, y, sum: [B, T, C]; out: [B, left + T + right, C]; alpha: [C]. Values are float or bfloat16, arithmetic is float.
// Beside it, magnitudes of complex spectra and their gradient, distances of logarithms and of compressed spectra, and the gradient
// of a convolution's weight. Plain C interface, compiled for this machine at first use; kernels.py loads it.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kLanes = 16;  // channels are repeated to a multiple of this, so that loops have no remainder

struct bf16 {
  uint16_t bits;
};

inline float load(const float* p) { return *p; }
inline float load(const bf16* p) {
  const uint32_t wide = static_cast<uint32_t>(p->bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(bf16* p, float value) {  // round to nearest even; no care for NaN payloads
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  p->bits = static_cast<uint16_t>((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
}

// x minus the nearest multiple of pi: sin(x)^2 and sin(2x) do not change.
inline float reduce(float x) {
  const float turns = std::nearbyintf(x * 0.318309886183790672f);
  return std::fmaf(turns, 8.74227765734758577e-8f, std::fmaf(turns, -3.14159274101257324f, x));
}

// On [-pi/2, pi/2], least-squares polynomials at Chebyshev points, errors 5e-9 and 3e-10 before rounding.
inline float sine(float r) {
  const float q = r * r;
  float p = std::fmaf(q, 2.599271108e-06f, -1.980619880e-04f);
  p = std::fmaf(q, p, 8.333010282e-03f);
  p = std::fmaf(q, p, -1.666665673e-01f);
  return std::fmaf(r * q, p, r);
}
inline float cosine(float r) {
  const float q = r * r;
  float p = std::fmaf(q, -2.607341952e-07f, 2.476165240e-05f);
  p = std::fmaf(q, p, -1.388839829e-03f);
  p = std::fmaf(q, p, 4.166664025e-02f);
  p = std::fmaf(q, p, -4.999999954e-01f);
  return std::fmaf(q, p, 1.0f);
}

// Of a positive normal number: the mantissa is taken from sqrt(1/2) to sqrt(2), its logarithm is 2 artanh((m - 1) / (m + 1)).
inline float log2_of(float x) {
  constexpr uint32_t kLeast = 0x3f3504f3u;  // sqrt(1/2)
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits += 0x3f800000u - kLeast;
  const float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127);
  bits = (bits & 0x007fffffu) + kLeast;
  float m;
  std::memcpy(&m, &bits, 4);
  const float s = (m - 1.0f) / (m + 1.0f), q = s * s;
  float p = std::fmaf(q, 0.320598898f, 0.412198583f);
  p = std::fmaf(q, p, 0.577078016f);
  p = std::fmaf(q, p, 0.961796694f);
  p = std::fmaf(q, p, 2.885390082f);
  return std::fmaf(s, p, exponent);
}

// Taylor's series on [-1/2, 1/2], error 5e-9, for |x| below 126.
inline float exp2_of(float x) {
  const float whole = std::nearbyintf(x), f = x - whole;
  float p = std::fmaf(f, 1.525273380e-05f, 1.540353039e-04f);
  p = std::fmaf(f, p, 1.333355815e-03f);
  p = std::fmaf(f, p, 9.618129108e-03f);
  p = std::fmaf(f, p, 5.550410866e-02f);
  p = std::fmaf(f, p, 2.402265070e-01f);
  p = std::fmaf(f, p, 6.931471806e-01f);
  p = std::fmaf(f, p, 1.0f);
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(whole) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

// Each block of 16 time steps has 16 C values: alpha repeated 16 times lines up with any C.
std::vector<float> repeated(const float* values, int64_t channels) {
  std::vector<float> out(channels * kLanes);
  for (int64_t i = 0; i < channels * kLanes; ++i) out[i] = values[i % channels];
  return out;
}

template <class V>
void forward_span(const V* x, const V* y, V* sum, V* out, const float* alpha, const float* inverse, int64_t count) {
  if (y) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      V rounded;
      store(&rounded, load(x + i) + load(y + i));
      sum[i] = rounded;
      const float value = load(&rounded), s = sine(reduce(alpha[i] * value));
      store(out + i, std::fmaf(s * s, inverse[i], value));
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const float value = load(x + i), s = sine(reduce(alpha[i] * value));
      store(out + i, std::fmaf(s * s, inverse[i], value));
    }
  }
}

template <class V, bool skip>
void backward_span(const V* x, const V* grad_out, const V* grad_skip, V* grad_x, const float* alpha, const float* inverse,
                   float* grad_alpha, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float value = load(x + i), r = reduce(alpha[i] * value), g = load(grad_out + i);
    const float s = sine(r), twice = 2.0f * s * cosine(r);
    float total = std::fmaf(g, twice, g);
    if (skip) total += load(grad_skip + i);
    store(grad_x + i, total);
    grad_alpha[i] += g * inverse[i] * (value * twice - s * s * inverse[i]);
  }
}

template <class V>
void forward(const V* x, const V* y, V* sum, V* out, const float* alpha, int64_t batch, int64_t steps, int64_t channels,
             int64_t left, int64_t right, int threads) {
  const std::vector<float> wide = repeated(alpha, channels);
  std::vector<float> inverse(wide.size());
  for (size_t i = 0; i < wide.size(); ++i) inverse[i] = 1.0f / (wide[i] + 1e-9f);
  const int64_t row = steps * channels, block = channels * kLanes, padded = (left + steps + right) * channels;
  const int64_t blocks = (row + block - 1) / block;
  for (int64_t b = 0; b < batch; ++b) {
    std::memset(static_cast<void*>(out + b * padded), 0, left * channels * sizeof(V));
    std::memset(static_cast<void*>(out + b * padded + (left + steps) * channels), 0, right * channels * sizeof(V));
  }
#pragma omp parallel for schedule(static) num_threads(threads) if (batch * row > 32768)
  for (int64_t job = 0; job < batch * blocks; ++job) {
    const int64_t b = job / blocks, at = (job % blocks) * block, from = b * row + at;
    const int64_t count = at + block <= row ? block : row - at;
    forward_span(x + from, y ? y + from : nullptr, sum ? sum + from : nullptr, out + b * padded + left * channels + at,
                 wide.data(), inverse.data(), count);
  }
}

template <class V>
void backward(const V* x, const V* grad_out, const V* grad_skip, V* grad_x, const float* alpha, float* grad_alpha,
              int64_t batch, int64_t steps, int64_t channels, int64_t left, int64_t right, int threads) {
  const std::vector<float> wide = repeated(alpha, channels);
  std::vector<float> inverse(wide.size());
  for (size_t i = 0; i < wide.size(); ++i) inverse[i] = 1.0f / (wide[i] + 1e-9f);
  const int64_t row = steps * channels, block = channels * kLanes, padded = (left + steps + right) * channels;
  const int64_t blocks = (row + block - 1) / block, jobs = batch * blocks;
  std::vector<float> partial(threads * block, 0.0f);  // one sum per thread, added in order: the same result every time
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (batch * row > 32768)
  for (int part = 0; part < threads; ++part) {
    for (int64_t job = jobs * part / threads; job < jobs * (part + 1) / threads; ++job) {
      const int64_t b = job / blocks, at = (job % blocks) * block, from = b * row + at;
      const int64_t count = at + block <= row ? block : row - at;
      const V* g = grad_out + b * padded + left * channels + at;
      float* sums = partial.data() + part * block;
      if (grad_skip)
        backward_span<V, true>(x + from, g, grad_skip + from, grad_x + from, wide.data(), inverse.data(), sums, count);
      else
        backward_span<V, false>(x + from, g, nullptr, grad_x + from, wide.data(), inverse.data(), sums, count);
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0.0;
    for (int64_t i = c; i < threads * block; i += channels) total += partial[i];
    grad_alpha[c] = static_cast<float>(total);
  }
}

}  // namespace

namespace {

// Gradient of a convolution's weight, time-major: dW[k][i][o] = sum over rows t of A[t + k dilation][i] dY[t][o].
// Tiles of 4 inputs by 24 outputs stay in 12 registers over a block of rows, which are packed so that they stream from the L1 cache.
constexpr int64_t kIn = 4, kOut = 24, kRows = 128;
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

// Over `items` stretches of `rows` rows each; those of a lie `halo` rows further apart.
void tile(const float* a, const float* y, int64_t items, int64_t rows, int64_t halo, float* dw, int64_t width) {
  v8 sums[kIn][3];
  for (int r = 0; r < kIn; ++r)
    for (int s = 0; s < 3; ++s) sums[r][s] = v8{};
  for (int64_t item = 0; item < items; ++item, a += halo * kIn) {
    for (int64_t t = 0; t < rows; ++t, a += kIn, y += kOut) {
      v8 y0 = *reinterpret_cast<const v8*>(y), y1 = *reinterpret_cast<const v8*>(y + 8);
      v8 y2 = *reinterpret_cast<const v8*>(y + 16);
#ifdef __AVX__
      asm("" : "+x"(y0), "+x"(y1), "+x"(y2));  // once into registers, not four times from memory
#endif
#pragma GCC unroll 4
      for (int r = 0; r < kIn; ++r) {
        sums[r][0] += a[r] * y0;
        sums[r][1] += a[r] * y1;
        sums[r][2] += a[r] * y2;
      }
    }
  }
  for (int r = 0; r < kIn; ++r)
    for (int s = 0; s < 3; ++s) *reinterpret_cast<v8*>(dw + r * width + 8 * s) += sums[r][s];
}

// [items] stretches of [rows][channels], `apart` rows from one to the next -> [panels][items][rows][panel], zeros where channels end.
template <int64_t panel>
void pack(const float* from, int64_t items, int64_t apart, int64_t rows, int64_t channels, float* to) {
  for (int64_t first = 0; first < channels; first += panel) {
    const int64_t here = channels - first < panel ? channels - first : panel;
    for (int64_t item = 0; item < items; ++item) {
      const float* row = from + item * apart * channels + first;
      for (int64_t t = 0; t < rows; ++t, row += channels, to += panel) {
        if (here == panel) {
          std::memcpy(to, row, panel * sizeof(float));
        } else {
          std::memset(to, 0, panel * sizeof(float));
          std::memcpy(to, row, here * sizeof(float));
        }
      }
    }
  }
}

}  // namespace

// a: [B, steps + (taps - 1) dilation, inputs]; dy: [B, steps, outputs]; dw: [taps, inputs up to 4s, outputs up to 24s], zeros before.
extern "C" void conv_weight_gradient(const float* a, const float* dy, float* dw, int64_t batch, int64_t steps, int64_t inputs,
                                     int64_t outputs, int64_t taps, int64_t dilation, int threads) {
  const int64_t halo = (taps - 1) * dilation, ins = (inputs + kIn - 1) / kIn, outs = (outputs + kOut - 1) / kOut;
  const int64_t width = outs * kOut, most = steps < kRows ? kRows / steps : 1, longest = steps < kRows ? steps : kRows;
  std::vector<float> packed_a(ins * kIn * most * (longest + halo)), packed_y(width * most * longest);
  for (int64_t b = 0; b < batch; b += most) {
    const int64_t items = batch - b < most ? batch - b : most;
    for (int64_t t = 0; t < steps; t += longest) {
      const int64_t rows = steps - t < longest ? steps - t : longest;
      pack<kIn>(a + (b * (steps + halo) + t) * inputs, items, steps + halo, rows + halo, inputs, packed_a.data());
      pack<kOut>(dy + (b * steps + t) * outputs, items, steps, rows, outputs, packed_y.data());
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && outs * taps > 1)
      for (int64_t job = 0; job < outs * taps; ++job) {
        const int64_t o = job / taps, k = job % taps;
        for (int64_t i = 0; i < ins; ++i)
          tile(packed_a.data() + (i * items * (rows + halo) + k * dilation) * kIn, packed_y.data() + o * items * rows * kOut,
               items, rows, halo, dw + (k * ins + i) * kIn * width + o * kOut, width);
      }
    }
  }
}

#define FORWARD(name, V)                                                                                               \
  extern "C" void name(const V* x, const V* y, V* sum, V* out, const float* alpha, int64_t batch, int64_t steps,       \
                       int64_t channels, int64_t left, int64_t right, int threads) {                                   \
    forward(x, y, sum, out, alpha, batch, steps, channels, left, right, threads);                                      \
  }
#define BACKWARD(name, V)                                                                                              \
  extern "C" void name(const V* x, const V* grad_out, const V* grad_skip, V* grad_x, const float* alpha,               \
                       float* grad_alpha, int64_t batch, int64_t steps, int64_t channels, int64_t left, int64_t right, \
                       int threads) {                                                                                  \
    backward(x, grad_out, grad_skip, grad_x, alpha, grad_alpha, batch, steps, channels, left, right, threads);         \
  }
FORWARD(snake_forward_f32, float)
FORWARD(snake_forward_bf16, bf16)
BACKWARD(snake_backward_f32, float)
BACKWARD(snake_backward_bf16, bf16)

// spectrum: count pairs (real, imaginary); the gradient of |z| at z = 0 is 0.
extern "C" void magnitude_forward(const float* spectrum, float* magnitude, int64_t count, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads) if (count > 32768)
  for (int64_t i = 0; i < count; ++i) {
    const float re = spectrum[2 * i], im = spectrum[2 * i + 1];
    magnitude[i] = std::sqrt(re * re + im * im);
  }
}
extern "C" void magnitude_backward(const float* spectrum, const float* magnitude, const float* grad, float* grad_spectrum,
                                   int64_t count, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads) if (count > 32768)
  for (int64_t i = 0; i < count; ++i) {
    const float scale = magnitude[i] > 0.0f ? grad[i] / magnitude[i] : 0.0f;
    grad_spectrum[2 * i] = scale * spectrum[2 * i];
    grad_spectrum[2 * i + 1] = scale * spectrum[2 * i + 1];
  }
}

// Values a and b, not negative; u = max(u, clamp) below. With d = log10(a) - log10(b), sign(0) = 0:
//   sums = (sum |d|, sum d, sum |a - b|),  grad = (sign(d) + lean) log10'(a) log_weight + sign(a - b) mag_weight
static void log_block(const float* a, const float* b, float* grad, double* sums, int64_t count, float clamp, float lean,
                      float log_weight, float mag_weight) {
  constexpr float kLog10Of2 = 0.301029995663981f, kLog10OfE = 0.434294481903252f;
  float apart = 0.0f, above = 0.0f, plain = 0.0f;
#pragma omp simd reduction(+ : apart, above, plain)
  for (int64_t i = 0; i < count; ++i) {
    const float u = a[i] > clamp ? a[i] : clamp, v = b[i] > clamp ? b[i] : clamp;
    const float d = kLog10Of2 * (log2_of(u) - log2_of(v)), e = a[i] - b[i];
    apart += std::fabs(d);
    above += d;
    plain += std::fabs(e);
    const float side = u > v ? 1.0f : (u < v ? -1.0f : 0.0f), other = e > 0.0f ? 1.0f : (e < 0.0f ? -1.0f : 0.0f);
    const float slope = a[i] >= clamp ? kLog10OfE / u : 0.0f;
    grad[i] = (side + lean) * slope * log_weight + other * mag_weight;
  }
  sums[0] = apart;
  sums[1] = above;
  sums[2] = plain;
}
extern "C" void log_distance(const float* a, const float* b, float* grad, double* sums, int64_t count, float clamp, float lean,
                             float log_weight, float mag_weight, int threads) {
  constexpr int64_t kBlock = 1 << 12;  // sums of floats stay short
  double apart = 0.0, above = 0.0, plain = 0.0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : apart, above, plain) if (count > 32768)
  for (int64_t block = 0; block < (count + kBlock - 1) / kBlock; ++block) {
    const int64_t from = block * kBlock, size = count - from < kBlock ? count - from : kBlock;
    double part[3];
    log_block(a + from, b + from, grad + from, part, size, clamp, lean, log_weight, mag_weight);
    apart += part[0];
    above += part[1];
    plain += part[2];
  }
  sums[0] = apart;
  sums[1] = above;
  sums[2] = plain;
}

// One item: a, b, grad are `count` pairs (real, imaginary). With e(z) = |z|^2 + floor and c(z) = z e(z)^(power / 2 - 1/2):
//   sums[0] = sum of (1 - phase) w (e(a)^(power/2) - e(b)^(power/2))^2 + phase |c(a) - c(b)|^2,  w = 1 +- lean by the sign
//   sums[1] = sum of e(b)^power,  grad = gradient of sums[0] for a
static void compressed_item(const float* a, const float* b, float* grad, float* sums, int64_t count, float power, float phase,
                            float lean, float floor) {
  const float half = 0.5f * power, shrink = half - 0.5f;
  float distance = 0.0f, energy = 0.0f;
#pragma omp simd reduction(+ : distance, energy)
  for (int64_t i = 0; i < count; ++i) {
    const float ar = a[2 * i], ai = a[2 * i + 1], br = b[2 * i], bi = b[2 * i + 1];
    const float ea = ar * ar + ai * ai + floor, eb = br * br + bi * bi + floor;
    const float la = log2_of(ea), lb = log2_of(eb);
    const float ma = exp2_of(half * la), mb = exp2_of(half * lb), ga = exp2_of(shrink * la), gb = exp2_of(shrink * lb);
    const float error = ma - mb;  // as the next two, exactly zero where a is b, however products are rounded
    const float re = (ar - br) * ga + br * (ga - gb), im = (ai - bi) * ga + bi * (ga - gb);
    const float weight = (1.0f - phase) * (error > 0.0f ? 1.0f + lean : 1.0f - lean);
    distance += weight * error * error + phase * (re * re + im * im);
    energy += mb * mb;
    // d e^half / d a = power e^half a / e;  d c / d a = e^shrink (1 + (power - 1) a a' / e)
    const float along = 2.0f * (weight * error * power * ma + phase * (power - 1.0f) * ga * (re * ar + im * ai)) / ea;
    grad[2 * i] = along * ar + 2.0f * phase * ga * re;
    grad[2 * i + 1] = along * ai + 2.0f * phase * ga * im;
  }
  sums[0] = distance;
  sums[1] = energy;
}
// a, b, grad: items x count pairs; sums: items x 2.
extern "C" void compressed_distance(const float* a, const float* b, float* grad, float* sums, int64_t items, int64_t count,
                                    float power, float phase, float lean, float floor, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (items > 1)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t from = 2 * item * count;
    compressed_item(a + from, b + from, grad + from, sums + 2 * item, count, power, phase, lean, floor);
  }
}
