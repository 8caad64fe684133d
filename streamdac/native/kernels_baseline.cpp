// The kernels for any machine: vectors of four floats (SSE2, NEON, WebAssembly SIMD), fused multiply-add where arm64 has it.

#include <cstddef>
#include <cstdint>

#include "kernel_table.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define STREAMDAC_FMA 64
#define REGISTERS 32
#else
#define STREAMDAC_FMA 0
#define REGISTERS 16
#endif
#define WIDTH 4

namespace streamdac {
namespace baseline {
#include "simd.h"
// clang-format off
#include "kernels_body.h"
static constexpr Kernels TABLE = table("baseline");
}  // namespace baseline

const Kernels* kernels_baseline() { return &baseline::TABLE; }

}  // namespace streamdac
