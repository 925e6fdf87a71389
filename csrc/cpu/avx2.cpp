// The kernels with AVX2 and FMA. Standard headers come before the target pragma: an inline function of theirs compiled
// for AVX2 here could be the copy that the linker keeps for everybody.

#include "kernels.h"

#ifdef MDQE_X86_KERNELS

#include <immintrin.h>

#include <cstddef>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace mdqe {
namespace avx2 {
namespace {

struct Vec {
  using F = __m256;
  using I = __m256i;
  using M = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;

  static I first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int32_t(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static I set(int32_t x) { return _mm256_set1_epi32(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static F floor(F a) { return _mm256_floor_ps(a); }
  static F nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }  // b where either is NaN
  // 0 <= a <= last; never for NaN.
  static M inside(F a, F last) {
    return both(_mm256_cmp_ps(a, zero(), _CMP_GE_OQ), _mm256_cmp_ps(a, last, _CMP_LE_OQ));
  }
  static M below(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static M both(M a, M b) { return _mm256_and_ps(a, b); }
  static M either(M a, M b) { return _mm256_or_ps(a, b); }
  static F keep(M m, F a) { return _mm256_and_ps(m, a); }
  static F drop(M m, F a) { return _mm256_andnot_ps(m, a); }
  // The first n lanes of a, the others of b.
  static F pad(F a, int64_t n, F b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(first(n))); }
  static I to_int(F a) { return _mm256_cvttps_epi32(a); }
  static I add(I a, I b) { return _mm256_add_epi32(a, b); }
  static I mul(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static F power_of_two(F n) {  // 2^n for whole n in [-126, 127]
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), set(127)), 23));
  }

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static I load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static F load(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static F load(const BFloat16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load(const BFloat16* p, int64_t n) {
    BFloat16 part[8] = {};
    std::memcpy(part, p, size_t(n) * sizeof *p);
    return load(part);
  }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static void store(int32_t* p, I a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static void store(float* p, F a, int64_t n) { _mm256_maskstore_ps(p, first(n), a); }
  static void store(BFloat16* p, F a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
  static void store(BFloat16* p, F a, int64_t n) {
    BFloat16 all[8];
    store(all, a);
    std::memcpy(p, all, size_t(n) * sizeof *p);
  }

  // The lower half of the lanes. The others of a result are zero.
  static F load_half(const float* p) { return _mm256_zextps128_ps256(_mm_loadu_ps(p)); }
  static F load_half(const BFloat16* p) { return load(p, kWidth / 2); }
  static void store_half(float* p, F a) { _mm_storeu_ps(p, _mm256_castps256_ps128(a)); }
  static void store_half(BFloat16* p, F a) { store(p, a, kWidth / 2); }
  static F fma_half(F a, F b, F c) {
    return _mm256_zextps128_ps256(
        _mm_fmadd_ps(_mm256_castps256_ps128(a), _mm256_castps256_ps128(b), _mm256_castps256_ps128(c)));
  }

  // n interleaved (x, y) pairs.
  static void load_pairs(const float* p, int64_t n, F& x, F& y) {
    F low, high;
    if (n == kWidth) {
      low = load(p), high = load(p + 8);
    } else {
      low = load(p, n < 4 ? 2 * n : 8);
      high = n > 4 ? load(p + 8, 2 * n - 8) : zero();
    }
    x = in_order(_mm256_shuffle_ps(low, high, 0x88));
    y = in_order(_mm256_shuffle_ps(low, high, 0xdd));
  }
  static void load_pairs(const BFloat16* p, int64_t n, F& x, F& y) {
    split(_mm256_maskload_epi32(reinterpret_cast<const int*>(p), first(n)), x, y);
  }
  static void load_pairs(const BFloat16* p, F& x, F& y) {
    split(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), x, y);
  }
  static void store_pairs(BFloat16* p, F x, F y) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), join(x, y));
  }
  static void store_pairs(BFloat16* p, int64_t n, F x, F y) {
    _mm256_maskstore_epi32(reinterpret_cast<int*>(p), first(n), join(x, y));
  }
  static void store_pairs(float* p, int64_t n, F x, F y) {
    const F a = _mm256_unpacklo_ps(x, y), b = _mm256_unpackhi_ps(x, y);
    store(p, _mm256_permute2f128_ps(a, b, 0x20), n < 4 ? 2 * n : 8);
    if (n > 4) store(p + 8, _mm256_permute2f128_ps(a, b, 0x31), 2 * n - 8);
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
  // The four sums over lanes, written next to each other.
  static void sums(F a, F b, F c, F d, float* p) {
    const F all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
  }
  // Reads kWidth groups of four floats; lane k of result i is element i of group k.
  static void load_quads(const float* p, F& a, F& b, F& c, F& d) {
    const F p0 = load(p), p1 = load(p + 8), p2 = load(p + 16), p3 = load(p + 24);
    const F even0 = in_order(_mm256_shuffle_ps(p0, p1, 0x88)), odd0 = in_order(_mm256_shuffle_ps(p0, p1, 0xdd));
    const F even1 = in_order(_mm256_shuffle_ps(p2, p3, 0x88)), odd1 = in_order(_mm256_shuffle_ps(p2, p3, 0xdd));
    a = in_order(_mm256_shuffle_ps(even0, even1, 0x88)), c = in_order(_mm256_shuffle_ps(even0, even1, 0xdd));
    b = in_order(_mm256_shuffle_ps(odd0, odd1, 0x88)), d = in_order(_mm256_shuffle_ps(odd0, odd1, 0xdd));
  }

 private:
  // A shuffle of two registers works on halves: this puts the first register's lanes first again.
  static F in_order(F a) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xd8)); }
  static F widen(__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); }
  // Rounded to bfloat16, in the upper half of each lane.
  static I rounded(F a) {
    const I bits = _mm256_castps_si256(a);
    const I odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), set(1));
    const I sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, set(0x7fff)));
    return _mm256_blendv_epi8(sum, set(0x7fc00000), _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
  }
  static I upper() { return set(int32_t(0xffff0000u)); }
  static void split(I pairs, F& x, F& y) {
    x = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    y = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper()));
  }
  static I join(F x, F y) {
    return _mm256_or_si256(_mm256_srli_epi32(rounded(x), 16), _mm256_and_si256(rounded(y), upper()));
  }
  static __m128i narrow(F a) {
    const I wide = _mm256_srli_epi32(rounded(a), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  }
};

#include "vector_kernels.inl"

}  // namespace
}  // namespace avx2

const KernelTable& avx2_kernels() {
  static const KernelTable table = avx2::table("AVX2");
  return table;
}

}  // namespace mdqe

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
