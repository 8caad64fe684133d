// The kernels for x86-64 with AVX2, FMA and F16C: vectors of eight floats, 16 registers. Chosen at run time.

#include <cstddef>
#include <cstdint>

#include "kernel_table.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define STREAMDAC_FMA 256
#define REGISTERS 16
#define WIDTH 8

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace streamdac {
namespace avx2 {
#include "simd.h"
// clang-format off
#include "kernels_body.h"
static constexpr Kernels TABLE = table("avx2");
}  // namespace avx2
}  // namespace streamdac

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace streamdac {

// Not every compiler's __builtin_cpu_supports knows this name.
static bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}

const Kernels* kernels_avx2() {
    const bool here = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    return here ? &avx2::TABLE : nullptr;
}

}  // namespace streamdac

#else

namespace streamdac {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace streamdac

#endif
