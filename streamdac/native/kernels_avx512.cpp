// The kernels for x86-64 with AVX-512: vectors of sixteen floats, 32 registers. Chosen at run time.

#include <cstddef>
#include <cstdint>

#include "kernel_table.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define STREAMDAC_FMA 512
#define REGISTERS 32
#define WIDTH 16

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx2,fma")
#endif

namespace streamdac {
namespace avx512 {
#include "simd.h"
// clang-format off
#include "kernels_body.h"
static constexpr Kernels TABLE = table("avx512");
}  // namespace avx512
}  // namespace streamdac

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace streamdac {

const Kernels* kernels_avx512() {
    const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return here ? &avx512::TABLE : nullptr;
}

}  // namespace streamdac

#else

namespace streamdac {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace streamdac

#endif
