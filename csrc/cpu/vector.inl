// The vector type `Vec` of the kernels: what all instruction sets share, on top of the `Native` of each. A Native defines
//
//   kWidth, kRegisters          lanes per register, and number of registers
//   F, I, M, Short              vectors of floats and of 32-bit integers, masks, and vectors of 16-bit integers
//   first(n)                    the mask of the first n lanes
//   set, fma, floor, nearest,   lane by lane; max(a, b) is b where either is NaN; to_int truncates
//   min, max, to_int
//   inside, below, is_nan       0 <= a <= last, a < b (both false for NaN), a != a
//   both, either                and, or of two masks
//   bits                        the mask as an integer, lane 0 in the lowest bit
//   keep, drop, blend           a where the mask is set (keep) or not set (drop), else zero; a or b by the mask
//   load, store, *_short        n lanes; the others are zero (load) or not written (store)
//   *_half                      the lower half of the lanes; the other lanes of a result are zero
//   widen, narrow               between 16 and 32 bits; narrow requires numbers below 2^16
//   evens, odds, interleave     even and odd lanes of two concatenated vectors; the reverse: x0 y0 x1 y1 ...
//   sum, largest, sums          over lanes; sums writes four sums next to each other
//
// Arithmetic on vectors and logic on integer vectors use operators. A cast between vector types keeps the bits.

struct Vec : Native {
  using Native::load;
  using Native::load_half;
  using Native::store;
  using Native::store_half;

  // The first n lanes of a, and the other lanes of b.
  static F pad(F a, int64_t n, F b) { return blend(first(n), a, b); }
  // 2^n for integer n in [-126, 127]
  static F power_of_two(F n) { return F((to_int(n) + set(127)) << 23); }

  static F load(const float* p) { return read<F>(p); }
  static I load(const int32_t* p) { return read<I>(p); }
  static F load(const BFloat16* p) { return F(widen(read<Short>(p)) << 16); }
  static F load(const BFloat16* p, int64_t n) { return F(widen(load_short(p, n)) << 16); }
  static F load_half(const BFloat16* p) { return load(p, kWidth / 2); }
  static void store(float* p, F a) { std::memcpy(p, &a, sizeof a); }
  static void store(int32_t* p, I a) { std::memcpy(p, &a, sizeof a); }
  static void store(BFloat16* p, F a) {
    const Short bits = narrow(rounded(a) >> 16);
    std::memcpy(p, &bits, sizeof bits);
  }
  static void store(BFloat16* p, F a, int64_t n) { store_short(p, narrow(rounded(a) >> 16), n); }
  static void store_half(BFloat16* p, F a) { store(p, a, kWidth / 2); }

  // n interleaved (x, y) pairs.
  static void load_pairs(const float* p, int64_t n, F& x, F& y) {
    F low, high;
    if (n == kWidth) {
      low = load(p), high = load(p + kWidth);
    } else {
      low = load(p, 2 * n < kWidth ? 2 * n : kWidth);
      high = 2 * n > kWidth ? load(p + kWidth, 2 * n - kWidth) : F{};
    }
    x = evens(low, high), y = odds(low, high);
  }
  static void store_pairs(float* p, int64_t n, F x, F y) {
    F low, high;
    interleave(x, y, low, high);
    store(p, low, 2 * n < kWidth ? 2 * n : kWidth);
    if (2 * n > kWidth) store(p + kWidth, high, 2 * n - kWidth);
  }
  // A pair of bfloat16 has the size of a float.
  static void load_pairs(const BFloat16* p, F& x, F& y) { split(read<I>(p), x, y); }
  static void load_pairs(const BFloat16* p, int64_t n, F& x, F& y) {
    split(I(load(reinterpret_cast<const float*>(p), n)), x, y);
  }
  static void store_pairs(BFloat16* p, F x, F y) {
    const I pairs = join(x, y);
    std::memcpy(p, &pairs, sizeof pairs);
  }
  static void store_pairs(BFloat16* p, int64_t n, F x, F y) { store(reinterpret_cast<float*>(p), F(join(x, y)), n); }

  // Reads kWidth groups of four floats; lane k of result i is element i of group k.
  static void load_quads(const float* p, F& a, F& b, F& c, F& d) {
    const F p0 = load(p), p1 = load(p + kWidth), p2 = load(p + 2 * kWidth), p3 = load(p + 3 * kWidth);
    const F even0 = evens(p0, p1), odd0 = odds(p0, p1), even1 = evens(p2, p3), odd1 = odds(p2, p3);
    a = evens(even0, even1), c = odds(even0, even1);
    b = evens(odd0, odd1), d = odds(odd0, odd1);
  }

 private:
  template <typename T>
  static T read(const void* p) {
    T result;
    std::memcpy(&result, p, sizeof result);
    return result;
  }
  // Rounds to bfloat16, in the upper half of each lane.
  static I rounded(F a) {
    const I bits = I(a), odd = (bits >> 16) & set(1);
    return I(blend(is_nan(a), F(set(0x7fc00000)), F(bits + (odd + set(0x7fff)))));
  }
  static I upper() { return set(int32_t(0xffff0000u)); }
  static void split(I pairs, F& x, F& y) { x = F(pairs << 16), y = F(pairs & upper()); }
  static I join(F x, F y) { return (rounded(x) >> 16) | (rounded(y) & upper()); }
};

using F = Vec::F;
using I = Vec::I;
using M = Vec::M;
constexpr int kWidth = Vec::kWidth;

// Not std::vector: the linker could merge its functions with those compiled for other processors.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(new T[size_t(size)]()) {}
  ~Buffer() { delete[] data_; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* operator+(int64_t i) const { return data_ + i; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

// e^x for x <= 0, to about 1 ulp; 0 below the smallest normal number, NaN for NaN.
inline F exp_nonpositive(F x) {
  const F smallest = Vec::set(-87.33654f);
  const M tiny = Vec::below(x, smallest);
  x = Vec::max(smallest, x);
  const F n = Vec::nearest(x * Vec::set(1.44269504f));
  F r = Vec::fma(n, Vec::set(-0.693359375f), x);
  r = Vec::fma(n, Vec::set(2.12194440e-4f), r);
  F sum = Vec::fma(r, Vec::set(1.0f / 5040), Vec::set(1.0f / 720));
  sum = Vec::fma(sum, r, Vec::set(1.0f / 120));
  sum = Vec::fma(sum, r, Vec::set(1.0f / 24));
  sum = Vec::fma(sum, r, Vec::set(1.0f / 6));
  sum = Vec::fma(sum, r, Vec::set(0.5f));
  sum = Vec::fma(sum, r, Vec::set(1.0f));
  sum = Vec::fma(sum, r, Vec::set(1.0f));
  return Vec::drop(tiny, sum * Vec::power_of_two(n));
}
