// Signs of floats in 64-bit words, for the IoU of masks.

// Writes bit i % 64 of word i / 64 for each of n floats: whether it is positive. The last word ends with zeros. Returns
// whether all floats are finite.
bool pack_signs(const float* p, int64_t n, uint64_t* words) {
  using F = Vec::F;
  constexpr int kVectors = 64 / Vec::kWidth;
  F sums[kVectors] = {};  // NaN after the first number that is not finite, because zero times such a number is NaN
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    uint64_t word = 0;
    for (int k = 0; k < kVectors; ++k) {
      const F x = Vec::load(p + i + k * Vec::kWidth);
      word |= uint64_t(Vec::bits(Vec::below(F{}, x))) << k * Vec::kWidth;
      sums[k] = Vec::fma(x, F{}, sums[k]);
    }
    words[i / 64] = word;
  }
  if (i < n) words[i / 64] = 0;
  for (int k = 0; i + k * Vec::kWidth < n; ++k) {
    const int64_t first = i + k * Vec::kWidth, left = n - first;
    const F x = Vec::load(p + first, left < Vec::kWidth ? left : Vec::kWidth);
    words[i / 64] |= uint64_t(Vec::bits(Vec::below(F{}, x))) << k * Vec::kWidth;
    sums[k] = Vec::fma(x, F{}, sums[k]);
  }
  for (int k = 1; k < kVectors; ++k) sums[0] = sums[0] + sums[k];
  return !Vec::bits(Vec::is_nan(sums[0]));
}

// Counts the bits that n words have in common.
int64_t count_shared(const uint64_t* a, const uint64_t* b, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += __builtin_popcountll(a[i] & b[i]);
  return sum;
}
