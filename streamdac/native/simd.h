// Vectors of WIDTH floats for one instruction set, by compiler extensions (GCC and Clang). Included once per build of
// kernels_body.h, inside its namespace: WIDTH and STREAMDAC_FMA come from there. Half-precision numbers are read where the
// machine turns a vector of them into floats.

typedef float V __attribute__((vector_size(WIDTH * 4)));
typedef float VU __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(WIDTH * 4)));
typedef float V8 __attribute__((vector_size(32)));
typedef float V8U __attribute__((vector_size(32), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE V load(const float* p) { return *reinterpret_cast<const VU*>(p); }
#if STREAMDAC_FMA == 512
INLINE V load(const uint16_t* p) { return (V)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
#elif STREAMDAC_FMA == 256
INLINE V load(const uint16_t* p) { return (V)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
#elif STREAMDAC_FMA == 64
INLINE V load(const uint16_t* p) { return (V)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
#endif
INLINE void store(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }
INLINE V splat(float x) { return x - V{}; }  // not V{} + x: that turns -0 into 0

// a * b + c, rounded once where the machine can, always in this way for every lane.
INLINE V fma(V a, V b, V c) {
#if STREAMDAC_FMA == 512
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif STREAMDAC_FMA == 256
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif STREAMDAC_FMA == 64
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// The smaller of two; `b` where `a` is no number.
INLINE V least(V a, V b) {
#if STREAMDAC_FMA == 256
    return (V)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

INLINE V8 fma8(V8 a, V8 b, V8 c) {
#if STREAMDAC_FMA == 512 || STREAMDAC_FMA == 256
    return (V8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif STREAMDAC_FMA == 64
    V low = fma(__builtin_shufflevector(a, a, 0, 1, 2, 3), __builtin_shufflevector(b, b, 0, 1, 2, 3),
                __builtin_shufflevector(c, c, 0, 1, 2, 3));
    V high = fma(__builtin_shufflevector(a, a, 4, 5, 6, 7), __builtin_shufflevector(b, b, 4, 5, 6, 7),
                 __builtin_shufflevector(c, c, 4, 5, 6, 7));
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
#else
    return a * b + c;
#endif
}
