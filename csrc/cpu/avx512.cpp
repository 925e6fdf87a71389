// The kernels for AVX-512 (F, BW, DQ, VL).

#include "kernels.h"

#ifdef MDQE_X86_KERNELS

#include <immintrin.h>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // false positives in the intrinsics of GCC 12
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

MDQE_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,popcnt")

namespace mdqe {
namespace avx512 {
namespace {

struct Native {
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;
  using F = __m512;
  using I = uint32_t __attribute__((vector_size(64)));
  using M = __mmask16;
  using Short = __m256i;

  static M first(int64_t n) { return M((1u << n) - 1); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static I set(int32_t x) { return I(_mm512_set1_epi32(x)); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F floor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static I to_int(F a) { return I(_mm512_cvttps_epi32(a)); }
  static M inside(F a, F last) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, F{}, _CMP_GE_OQ), a, last, _CMP_LE_OQ);
  }
  static M both(M a, M b) { return a & b; }
  static M either(M a, M b) { return a | b; }
  static F drop(M m, F a) { return _mm512_maskz_mov_ps(M(~m), a); }
  static M below(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
  static uint32_t bits(M m) { return m; }
  static F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }
  static F blend(M m, F a, F b) { return _mm512_mask_mov_ps(b, m, a); }

  static F load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
  static F load_half(const float* p) { return _mm512_zextps256_ps512(_mm256_loadu_ps(p)); }
  static void store_half(float* p, F a) { _mm256_storeu_ps(p, _mm512_castps512_ps256(a)); }
  static F fma_half(F a, F b, F c) {
    return _mm512_zextps256_ps512(
        _mm256_fmadd_ps(_mm512_castps512_ps256(a), _mm512_castps512_ps256(b), _mm512_castps512_ps256(c)));
  }

  static Short load_short(const void* p, int64_t n) { return _mm256_maskz_loadu_epi16(first(n), p); }
  static void store_short(void* p, Short a, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), a); }
  static I widen(Short a) { return I(_mm512_cvtepu16_epi32(a)); }
  static Short narrow(I a) { return _mm512_cvtepi32_epi16(__m512i(a)); }

  static F evens(F a, F b) {
    const __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, lanes, b);
  }
  static F odds(F a, F b) {
    const __m512i lanes = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, lanes, b);
  }
  static void interleave(F x, F y, F& low, F& high) {
    const __m512i first_pairs = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i last_pairs = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    low = _mm512_permutex2var_ps(x, first_pairs, y), high = _mm512_permutex2var_ps(x, last_pairs, y);
  }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }
  static void sums(F a, F b, F c, F d, float* p) {
    const F ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);  // per 128 bits: a b a b
    const F cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
    const F all = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);  // a b c d
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
};

#include "vector_kernels.inl"

}  // namespace
}  // namespace avx512

const KernelTable& avx512_kernels() {
  static const KernelTable table = avx512::table("AVX-512");
  return table;
}

}  // namespace mdqe

MDQE_END_TARGET

#endif
