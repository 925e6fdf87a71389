// The kernels with AVX-512 (F, BW, DQ, VL). Standard headers come before the target pragma: an inline function of theirs
// compiled for AVX-512 here could be the copy that the linker keeps for everybody.

#include "kernels.h"

#ifdef MDQE_X86_KERNELS

#include <immintrin.h>

#include <cstddef>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own intrinsics start from undefined registers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

namespace mdqe {
namespace avx512 {
namespace {

struct Vec {
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;

  static M first(int64_t n) { return M((1u << n) - 1); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static I set(int32_t x) { return _mm512_set1_epi32(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static F floor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  // 0 <= a <= last; never for NaN.
  static M inside(F a, F last) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, zero(), _CMP_GE_OQ), a, last, _CMP_LE_OQ);
  }
  static M below(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M both(M a, M b) { return a & b; }
  static M either(M a, M b) { return a | b; }
  static F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }
  static F drop(M m, F a) { return _mm512_maskz_mov_ps(M(~m), a); }
  // The first n lanes of a, the others of b.
  static F pad(F a, int64_t n, F b) { return _mm512_mask_mov_ps(b, first(n), a); }
  static I to_int(F a) { return _mm512_cvttps_epi32(a); }
  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static F power_of_two(F n) {  // 2^n for whole n in [-126, 127]
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), set(127)), 23));
  }

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static I load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static F load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static F load(const BFloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load(const BFloat16* p, int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void store(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
  static void store(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
  static void store(BFloat16* p, F a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
  static void store(BFloat16* p, F a, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), narrow(a)); }

  // The lower half of the lanes. The others of a result are zero.
  static F load_half(const float* p) { return _mm512_zextps256_ps512(_mm256_loadu_ps(p)); }
  static F load_half(const BFloat16* p) { return load(p, kWidth / 2); }
  static void store_half(float* p, F a) { _mm256_storeu_ps(p, _mm512_castps512_ps256(a)); }
  static void store_half(BFloat16* p, F a) { store(p, a, kWidth / 2); }
  static F fma_half(F a, F b, F c) {
    return _mm512_zextps256_ps512(
        _mm256_fmadd_ps(_mm512_castps512_ps256(a), _mm512_castps512_ps256(b), _mm512_castps512_ps256(c)));
  }

  // n interleaved (x, y) pairs.
  static void load_pairs(const float* p, int64_t n, F& x, F& y) {
    F low, high;
    if (n == kWidth) {
      low = load(p), high = load(p + 16);
    } else {
      low = load(p, n < 8 ? 2 * n : 16);
      high = n > 8 ? load(p + 16, 2 * n - 16) : zero();
    }
    x = _mm512_permutex2var_ps(low, evens(), high);
    y = _mm512_permutex2var_ps(low, odds(), high);
  }
  static void load_pairs(const BFloat16* p, int64_t n, F& x, F& y) {
    split(_mm512_maskz_loadu_epi32(first(n), p), x, y);
  }
  static void load_pairs(const BFloat16* p, F& x, F& y) { split(_mm512_loadu_si512(p), x, y); }
  static void store_pairs(BFloat16* p, F x, F y) { _mm512_storeu_si512(p, join(x, y)); }
  static void store_pairs(BFloat16* p, int64_t n, F x, F y) { _mm512_mask_storeu_epi32(p, first(n), join(x, y)); }
  static void store_pairs(float* p, int64_t n, F x, F y) {
    const F low = _mm512_permutex2var_ps(x, first_pairs(), y), high = _mm512_permutex2var_ps(x, last_pairs(), y);
    store(p, low, n < 8 ? 2 * n : 16);
    if (n > 8) store(p + 16, high, 2 * n - 16);
  }

  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }
  // The four sums over lanes, written next to each other.
  static void sums(F a, F b, F c, F d, float* p) {
    const F ab = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));  // per 128 bits: a b a b
    const F cd = add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const F all = add(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));  // a b c d
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
  // Reads kWidth groups of four floats; lane k of result i is element i of group k.
  static void load_quads(const float* p, F& a, F& b, F& c, F& d) {
    const F p0 = load(p), p1 = load(p + 16), p2 = load(p + 32), p3 = load(p + 48);
    const F even0 = _mm512_permutex2var_ps(p0, evens(), p1), odd0 = _mm512_permutex2var_ps(p0, odds(), p1);
    const F even1 = _mm512_permutex2var_ps(p2, evens(), p3), odd1 = _mm512_permutex2var_ps(p2, odds(), p3);
    a = _mm512_permutex2var_ps(even0, evens(), even1), c = _mm512_permutex2var_ps(even0, odds(), even1);
    b = _mm512_permutex2var_ps(odd0, evens(), odd1), d = _mm512_permutex2var_ps(odd0, odds(), odd1);
  }

 private:
  static I evens() { return _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30); }
  static I odds() { return _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31); }
  static I first_pairs() { return _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
  static I last_pairs() { return _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); }
  static F widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
  // Rounded to bfloat16, in the upper half of each lane.
  static I rounded(F a) {
    const I bits = _mm512_castps_si512(a);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set(1));
    const I sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, set(0x7fff)));
    return _mm512_mask_mov_epi32(sum, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), set(0x7fc00000));
  }
  static __m256i narrow(F a) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(a), 16)); }
  static I upper() { return set(int32_t(0xffff0000u)); }
  static void split(I pairs, F& x, F& y) {
    x = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    y = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper()));
  }
  static I join(F x, F y) {
    return _mm512_or_si512(_mm512_srli_epi32(rounded(x), 16), _mm512_and_si512(rounded(y), upper()));
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

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
