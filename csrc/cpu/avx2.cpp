// The kernels for AVX2 and FMA.

#include "kernels.h"

#ifdef MDQE_X86_KERNELS

#include <immintrin.h>

MDQE_BEGIN_TARGET("avx2,fma,popcnt")

namespace mdqe {
namespace avx2 {
namespace {

struct Native {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;
  using F = __m256;
  using I = uint32_t __attribute__((vector_size(32)));
  using M = F;  // a lane has all bits set, or none
  using Short = __m128i;

  static M first(int64_t n) {
    return M(_mm256_cmpgt_epi32(_mm256_set1_epi32(int32_t(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
  }
  static F set(float x) { return _mm256_set1_ps(x); }
  static I set(int32_t x) { return I(_mm256_set1_epi32(x)); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F floor(F a) { return _mm256_floor_ps(a); }
  static F nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static I to_int(F a) { return I(_mm256_cvttps_epi32(a)); }
  static M inside(F a, F last) {
    return both(_mm256_cmp_ps(a, F{}, _CMP_GE_OQ), _mm256_cmp_ps(a, last, _CMP_LE_OQ));
  }
  static M both(M a, M b) { return _mm256_and_ps(a, b); }
  static M either(M a, M b) { return _mm256_or_ps(a, b); }
  static F drop(M m, F a) { return _mm256_andnot_ps(m, a); }
  static M below(F a, F b) { return M(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static M is_nan(F a) { return M(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
  static uint32_t bits(M m) { return uint32_t(_mm256_movemask_ps(m)); }
  static F keep(M m, F a) { return _mm256_and_ps(m, a); }
  static F blend(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }

  static F load(const float* p, int64_t n) { return _mm256_maskload_ps(p, __m256i(first(n))); }
  static void store(float* p, F a, int64_t n) { _mm256_maskstore_ps(p, __m256i(first(n)), a); }
  static F load_half(const float* p) { return _mm256_zextps128_ps256(_mm_loadu_ps(p)); }
  static void store_half(float* p, F a) { _mm_storeu_ps(p, _mm256_castps256_ps128(a)); }
  static F fma_half(F a, F b, F c) {
    return _mm256_zextps128_ps256(
        _mm_fmadd_ps(_mm256_castps256_ps128(a), _mm256_castps256_ps128(b), _mm256_castps256_ps128(c)));
  }

  static Short load_short(const void* p, int64_t n) {
    Short all = _mm_setzero_si128();
    std::memcpy(&all, p, size_t(n) * 2);
    return all;
  }
  static void store_short(void* p, Short a, int64_t n) { std::memcpy(p, &a, size_t(n) * 2); }
  static I widen(Short a) { return I(_mm256_cvtepu16_epi32(a)); }
  static Short narrow(I a) {
    return _mm_packus_epi32(_mm256_castsi256_si128(__m256i(a)), _mm256_extracti128_si256(__m256i(a), 1));
  }

  static F evens(F a, F b) { return in_order(_mm256_shuffle_ps(a, b, 0x88)); }
  static F odds(F a, F b) { return in_order(_mm256_shuffle_ps(a, b, 0xdd)); }
  static void interleave(F x, F y, F& low, F& high) {
    const F a = _mm256_unpacklo_ps(x, y), b = _mm256_unpackhi_ps(x, y);
    low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
  }
  static float sum(F a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(F a) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static void sums(F a, F b, F c, F d, float* p) {
    const F all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }

 private:
  // A shuffle of two registers works on their halves. This moves the lanes of the first register back to the front.
  static F in_order(F a) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xd8)); }
};

#include "vector_kernels.inl"

}  // namespace
}  // namespace avx2

const KernelTable& avx2_kernels() {
  static const KernelTable table = avx2::table("AVX2");
  return table;
}

}  // namespace mdqe

MDQE_END_TARGET

#endif
