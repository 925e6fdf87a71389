// The kernels over a vector type `Vec`, included once per instruction set, inside that set's namespace and target.
//
// Forward, per (batch, query, head): coordinates, corner weights and row offsets of kWidth points at a time go to a small
// buffer; then, per point and corner, one weight is broadcast and multiplied with a contiguous row of value. Each corner
// has its own accumulators, so that four chains of multiply-adds run side by side. Corners outside the map have weight
// zero and the offset of the nearest pixel inside, so every address read is valid whatever the location.

using F = Vec::F;
using I = Vec::I;
using M = Vec::M;
constexpr int kWidth = Vec::kWidth;

// Plain storage: std::vector's functions could be shared with code compiled for other processors.
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
  const F floor_x = Vec::set(-87.33654f);
  const M tiny = Vec::below(x, floor_x);
  x = Vec::max(floor_x, x);
  const F n = Vec::nearest(Vec::mul(x, Vec::set(1.44269504f)));
  F r = Vec::fnma(n, Vec::set(0.693359375f), x);
  r = Vec::fnma(n, Vec::set(-2.12194440e-4f), r);
  F sum = Vec::fma(r, Vec::set(1.0f / 5040), Vec::set(1.0f / 720));
  sum = Vec::fma(sum, r, Vec::set(1.0f / 120));
  sum = Vec::fma(sum, r, Vec::set(1.0f / 24));
  sum = Vec::fma(sum, r, Vec::set(1.0f / 6));
  sum = Vec::fma(sum, r, Vec::set(0.5f));
  sum = Vec::fma(sum, r, Vec::set(1.0f));
  sum = Vec::fma(sum, r, Vec::set(1.0f));
  return Vec::drop(tiny, Vec::mul(sum, Vec::power_of_two(n)));
}

// The points of one (batch, query, head), ready to be sampled.
struct Corners {
  Buffer<float> weight;         // (4, K) attention weight times bilinear weight
  Buffer<int32_t> offset;       // (4, K) of the row, in elements of value
  explicit Corners(int64_t padded) : weight(4 * padded), offset(4 * padded) {}
};

// What the points of every (batch, query, head) have in common. K = L * P points, padded to a multiple of kWidth; padding
// has weight zero.
struct Points {
  const Problem& p;
  const int64_t count, padded;
  Buffer<float> width, height;        // (K) of each point's level
  Buffer<int32_t> row_stride, start;  // (K) in elements of value
  Buffer<float> weight;               // (K) attention weights
  const int32_t pixel_stride;

  explicit Points(const Problem& problem)
      : p(problem), count(p.levels * p.points), padded((count + kWidth - 1) / kWidth * kWidth),
        width(padded), height(padded), row_stride(padded), start(padded), weight(padded),
        pixel_stride(int32_t(p.heads * p.channels)) {
    for (int64_t k = 0; k < padded; ++k) {
      const Level& level = p.level[k < count ? k / p.points : 0];
      width[k] = float(level.width), height[k] = float(level.height);
      row_stride[k] = int32_t(level.width * pixel_stride), start[k] = int32_t(level.start * pixel_stride);
    }
  }

  int64_t left(int64_t k) const { return count - k < kWidth ? count - k : kWidth; }

  template <typename S>
  void load_weights(const S* score) {
    for (int64_t k = 0; k < count; k += kWidth) Vec::store(weight + k, Vec::load(score + k, left(k)));
  }

  template <typename S>
  void softmax(const S* logits) {
    F top = Vec::set(-__builtin_inff());
    for (int64_t k = 0; k < count; k += kWidth) {
      const int64_t n = left(k);
      const F x = n == kWidth ? Vec::load(logits + k) : Vec::pad(Vec::load(logits + k, n), n, top);
      top = Vec::max(top, x);
    }
    const F largest = Vec::set(Vec::largest(top));
    F total = Vec::zero();
    for (int64_t k = 0; k < count; k += kWidth) {
      const int64_t n = left(k);
      F e = exp_nonpositive(Vec::sub(Vec::load(logits + k, n), largest));
      if (n < kWidth) e = Vec::pad(e, n, Vec::zero());
      Vec::store(weight + k, e);
      total = Vec::add(total, e);
    }
    const F scale = Vec::set(1.0f / Vec::sum(total));
    for (int64_t k = 0; k < count; k += kWidth) Vec::store(weight + k, Vec::mul(Vec::load(weight + k), scale));
  }

  // Pixel coordinates of the points from k on. `center` is null for locations.
  template <typename S>
  void coordinates(const S* position, const float* center, int64_t k, F& x, F& y) const {
    F u, v;
    Vec::load_pairs(position + 2 * k, left(k), u, v);
    const F w = Vec::load(width + k), h = Vec::load(height + k), half = Vec::set(0.5f);
    if (center) {
      const F eighth = Vec::set(1.0f / kOffsetScale);
      x = Vec::fma(u, Vec::mul(w, eighth), Vec::fms(Vec::set(center[0]), w, half));
      y = Vec::fma(v, Vec::mul(h, eighth), Vec::fms(Vec::set(center[1]), h, half));
    } else {
      x = Vec::fms(u, w, half), y = Vec::fms(v, h, half);
    }
  }

  // One axis: the two pixels around x, clamped into the map, whether they lie inside, and the fraction between them.
  struct Axis {
    F fraction;
    M inside0, inside1;
    I index0, index1;

    Axis(F x, F size) {
      const F one = Vec::set(1.0f), last = Vec::sub(size, one);
      const F low = Vec::floor(x), high = Vec::add(low, one);
      inside0 = Vec::inside(low, last), inside1 = Vec::inside(high, last);
      fraction = Vec::keep(Vec::either(inside0, inside1), Vec::sub(x, low));  // never NaN
      index0 = Vec::to_int(Vec::min(Vec::max(low, Vec::zero()), last));
      index1 = Vec::to_int(Vec::min(Vec::max(high, Vec::zero()), last));
    }
    F weight0() const { return Vec::keep(inside0, Vec::sub(Vec::set(1.0f), fraction)); }
    F weight1() const { return Vec::keep(inside1, fraction); }
  };

  // The corners from the weights and positions.
  template <typename S>
  void locate(const S* position, const float* center, Corners& corners) const {
    const I pixel = Vec::set(pixel_stride);
    for (int64_t k = 0; k < count; k += kWidth) {
      F x, y;
      coordinates(position, center, k, x, y);
      const Axis ax(x, Vec::load(width + k)), ay(y, Vec::load(height + k));
      const F scale = Vec::load(weight + k);
      const F top = Vec::mul(scale, ay.weight0()), bottom = Vec::mul(scale, ay.weight1());
      const F wx0 = ax.weight0(), wx1 = ax.weight1();
      Vec::store(corners.weight + k, Vec::mul(top, wx0));
      Vec::store(corners.weight + padded + k, Vec::mul(top, wx1));
      Vec::store(corners.weight + 2 * padded + k, Vec::mul(bottom, wx0));
      Vec::store(corners.weight + 3 * padded + k, Vec::mul(bottom, wx1));
      const I stride = Vec::load(row_stride + k), first = Vec::load(start + k);
      const I row0 = Vec::add(first, Vec::mul(ay.index0, stride)), row1 = Vec::add(first, Vec::mul(ay.index1, stride));
      const I column0 = Vec::mul(ax.index0, pixel), column1 = Vec::mul(ax.index1, pixel);
      Vec::store(corners.offset + k, Vec::add(row0, column0));
      Vec::store(corners.offset + padded + k, Vec::add(row0, column1));
      Vec::store(corners.offset + 2 * padded + k, Vec::add(row1, column0));
      Vec::store(corners.offset + 3 * padded + k, Vec::add(row1, column1));
    }
  }

  template <typename S, bool kFused>
  void prepare(int64_t item, int64_t query, int64_t head, Corners& corners) {
    const int64_t index = (item * p.queries + query) * p.heads + head;
    const S* score = static_cast<const S*>(p.score) + index * count;
    if (kFused) softmax(score);
    else load_weights(score);
    locate(static_cast<const S*>(p.position) + index * count * 2, center<kFused>(item, query), corners);
  }

  template <bool kFused>
  const float* center(int64_t item, int64_t query) const {
    if (!kFused) return nullptr;
    return static_cast<const float*>(p.centers) + ((p.shared_centers ? 0 : item * p.queries) + query) * 2;
  }
};

// What a row's last vector holds: all of its lanes, exactly half of them, or some. Half a vector (24 channels are one and
// a half of AVX-512's) needs no mask, and its multiply-add costs half.
enum Tail { kFull, kHalf, kMasked };

// kVectors vectors of a row, the last with `tail` lanes where it is masked.
template <int kVectors, Tail kTail, typename T>
inline F load_part(const T* row, int v, int64_t tail) {
  if (kTail == kFull || v < kVectors - 1) return Vec::load(row + v * kWidth);
  return kTail == kHalf ? Vec::load_half(row + v * kWidth) : Vec::load(row + v * kWidth, tail);
}

template <int kVectors, Tail kTail, typename T>
inline void store_part(T* row, int v, F a, int64_t tail) {
  if (kTail == kFull || v < kVectors - 1) Vec::store(row + v * kWidth, a);
  else if (kTail == kHalf) Vec::store_half(row + v * kWidth, a);
  else Vec::store(row + v * kWidth, a, tail);
}

template <int kVectors, Tail kTail>
inline F fma_part(F a, F b, F c, int v) {
  return kTail == kHalf && v == kVectors - 1 ? Vec::fma_half(a, b, c) : Vec::fma(a, b, c);
}

// out[0 : channels] = sum of corner weights * rows, for kVectors vectors of channels.
template <int kVectors, Tail kTail, typename V>
inline void accumulate(const Points& points, const Corners& corners, const V* base, V* out, int64_t tail) {
  constexpr int kChains = kVectors * 4 * 2 <= Vec::kRegisters ? 4 : 2;  // one of them per corner, or per two
  F sum[kChains][kVectors];
  for (int c = 0; c < kChains; ++c)
    for (int v = 0; v < kVectors; ++v) sum[c][v] = Vec::zero();
  const int64_t padded = points.padded;
  for (int64_t k = 0; k < points.count; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F weight = Vec::set(corners.weight[c * padded + k]);
      const V* row = base + corners.offset[c * padded + k];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[c % kChains][v] =
            fma_part<kVectors, kTail>(weight, load_part<kVectors, kTail>(row, v, tail), sum[c % kChains][v], v);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    F total = Vec::add(sum[0][v], sum[1][v]);
    if (kChains == 4) total = Vec::add(total, Vec::add(sum[kChains - 2][v], sum[kChains - 1][v]));
    store_part<kVectors, kTail>(out, v, total, tail);
  }
}

// The same for bfloat16 with an even number of channels, two at a time: the even ones are the lower halves of 32-bit
// lanes, the odd ones the upper halves, and a float's upper half is all that a bfloat16 is. kVectors counts vectors of
// pairs.
template <int kVectors, Tail kTail>
inline void accumulate_pairs(const Points& points, const Corners& corners, const BFloat16* base, BFloat16* out,
                             int64_t tail) {
  constexpr int kChains = kVectors * 8 * 2 <= Vec::kRegisters ? 4 : 2;
  F even[kChains][kVectors], odd[kChains][kVectors];
  for (int c = 0; c < kChains; ++c)
    for (int v = 0; v < kVectors; ++v) even[c][v] = odd[c][v] = Vec::zero();
  const int64_t padded = points.padded;
  for (int64_t k = 0; k < points.count; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F weight = Vec::set(corners.weight[c * padded + k]);
      const BFloat16* row = base + corners.offset[c * padded + k];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        F x, y;
        if (kTail != kFull && v == kVectors - 1) Vec::load_pairs(row + 2 * v * kWidth, tail, x, y);
        else Vec::load_pairs(row + 2 * v * kWidth, x, y);
        even[c % kChains][v] = Vec::fma(weight, x, even[c % kChains][v]);
        odd[c % kChains][v] = Vec::fma(weight, y, odd[c % kChains][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    F x = Vec::add(even[0][v], even[1][v]), y = Vec::add(odd[0][v], odd[1][v]);
    if (kChains == 4) {
      x = Vec::add(x, Vec::add(even[kChains - 2][v], even[kChains - 1][v]));
      y = Vec::add(y, Vec::add(odd[kChains - 2][v], odd[kChains - 1][v]));
    }
    if (kTail != kFull && v == kVectors - 1) Vec::store_pairs(out + 2 * v * kWidth, tail, x, y);
    else Vec::store_pairs(out + 2 * v * kWidth, x, y);
  }
}

template <Tail kTail, typename Visit>
inline void visit_block(int64_t vectors, int64_t first, int64_t tail, const Visit& visit) {
  switch (vectors) {
    case 1: return visit.template run<1, kTail>(first, tail);
    case 2: return visit.template run<2, kTail>(first, tail);
    case 3: return visit.template run<3, kTail>(first, tail);
    default: return visit.template run<4, kTail>(first, tail);
  }
}

// Calls visit.run<vectors, tail>(first channel, lanes of the tail) for blocks of up to four vectors.
template <typename Visit>
inline void for_blocks(int64_t channels, const Visit& visit) {
  for (int64_t d = 0; d < channels; d += 4 * kWidth) {
    const int64_t size = channels - d < 4 * kWidth ? channels - d : 4 * kWidth;
    const int64_t vectors = (size + kWidth - 1) / kWidth, tail = size % kWidth;
    if (tail == 0) visit_block<kFull>(vectors, d, tail, visit);
    else if (tail == kWidth / 2) visit_block<kHalf>(vectors, d, tail, visit);
    else visit_block<kMasked>(vectors, d, tail, visit);
  }
}

template <typename V>
struct Accumulate {
  const Points& points;
  const Corners& corners;
  const V* base;
  V* out;

  template <int kVectors, Tail kTail>
  void run(int64_t d, int64_t tail) const {
    accumulate<kVectors, kTail>(points, corners, base + d, out + d, tail);
  }
};

struct AccumulatePairs {
  const Points& points;
  const Corners& corners;
  const BFloat16* base;
  BFloat16* out;

  template <int kVectors, Tail kTail>
  void run(int64_t pair, int64_t tail) const {
    accumulate_pairs<kVectors, kTail>(points, corners, base + 2 * pair, out + 2 * pair, tail);
  }
};

template <typename V>
inline void sample(const Points& points, const Corners& corners, const V* base, V* out) {
  for_blocks(points.p.channels, Accumulate<V>{points, corners, base, out});
}

inline void sample(const Points& points, const Corners& corners, const BFloat16* base, BFloat16* out) {
  const int64_t channels = points.p.channels;
  if (channels % 2 == 0) for_blocks(channels / 2, AccumulatePairs{points, corners, base, out});
  else for_blocks(channels, Accumulate<BFloat16>{points, corners, base, out});
}

template <bool kWrite>
inline void prefetch(const void* data, int64_t index, int64_t bytes) {
  const char* first = static_cast<const char*>(data) + index * bytes;
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(first + byte, kWrite, kWrite ? 3 : 2);
}

// Visiting in tiles jumps too often for the processor to foresee what is read next. So: what a query a little ahead
// reads and writes itself, and, well ahead, the pixels under a query's center (or first location) on all levels. Most
// rows of a tile are then in cache before the first head needs its own part of them.
template <typename V, typename S, bool kFused>
inline void look_ahead(const Points& points, int64_t i, int64_t end) {
  constexpr int64_t kNear = 4, kFar = 200;
  const Problem& p = points.p;
  const int64_t scores = p.heads * points.count;
  if (i + kNear < end) {
    const int64_t item = (i + kNear) / p.queries, row = item * p.queries + p.query(item, (i + kNear) % p.queries);
    prefetch<false>(p.position, row, scores * 2 * int64_t(sizeof(S)));
    prefetch<false>(p.score, row, scores * int64_t(sizeof(S)));
    prefetch<true>(p.output, row, p.heads * p.channels * int64_t(sizeof(V)));
  }
  if (i + kFar < end) {
    const int64_t item = (i + kFar) / p.queries, query = p.query(item, (i + kFar) % p.queries);
    const S* first = static_cast<const S*>(p.position) + (item * p.queries + query) * scores * 2;
    const float* center = points.center<kFused>(item, query);
    const float u = center ? center[0] : float(first[0]), v = center ? center[1] : float(first[1]);
    if (!(u >= 0 && u < 1 && v >= 0 && v < 1)) return;
    for (int64_t l = 0; l < p.levels; ++l) {
      const Level& level = p.level[l];
      const int64_t x = int64_t(u * float(level.width)), y = int64_t(v * float(level.height));
      const int64_t row = item * p.rows + level.start + y * level.width + x;
      prefetch<false>(p.value, row, p.heads * p.channels * int64_t(sizeof(V)));
    }
  }
}

// The points of a head are made ready before those of the head before it are sampled: one is a long chain of dependent
// steps, the other plain throughput, and so they overlap.
template <typename V, typename S, bool kFused>
void forward(const Problem& p, int64_t begin, int64_t end) {
  Points points(p);
  Corners even(points.padded), odd(points.padded);
  Corners *now = &even, *next = &odd;
  const auto item_of = [&](int64_t i) { return i / p.queries; };
  const auto query_of = [&](int64_t i) { return p.query(i / p.queries, i % p.queries); };
  if (begin < end) points.prepare<S, kFused>(item_of(begin), query_of(begin), 0, *now);
  for (int64_t i = begin; i < end; ++i) {
    if (p.order) look_ahead<V, S, kFused>(points, i, end);
    const int64_t item = item_of(i), query = query_of(i);
    const V* value = static_cast<const V*>(p.value) + item * p.rows * p.heads * p.channels;
    V* out = static_cast<V*>(p.output) + (item * p.queries + query) * p.heads * p.channels;
    for (int64_t head = 0; head < p.heads; ++head) {
      if (head + 1 < p.heads) points.prepare<S, kFused>(item, query, head + 1, *next);
      else if (i + 1 < end) points.prepare<S, kFused>(item_of(i + 1), query_of(i + 1), 0, *next);
      const int64_t first = head * p.channels;
      sample(points, *now, value + first, out + first);
      Corners* used = now;
      now = next, next = used;
    }
  }
}

// Backward of one (batch, query, head): rows of the value gradient grow by corner weight * grad, and dots[k][corner]
// collects the dot product of grad with the corner's row of value.
template <typename V>
struct Scatter {
  const Points& points;
  const Corners& corners;
  const V* base;
  float* grad_base;
  const V* grad;
  float* dots;  // (K, 4)

  template <int kVectors, Tail kTail>
  void run(int64_t d, int64_t tail) const {
    F g[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) g[v] = load_part<kVectors, kTail>(grad + d, v, tail);
    const int64_t padded = points.padded;
    for (int64_t k = 0; k < points.count; ++k) {
      F dot[4];
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const F weight = Vec::set(corners.weight[c * padded + k]);
        const int64_t offset = corners.offset[c * padded + k] + d;
        const V* row = base + offset;
        float* grad_row = grad_base + offset;
        dot[c] = Vec::zero();
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          dot[c] = Vec::fma(g[v], load_part<kVectors, kTail>(row, v, tail), dot[c]);
          const F grown =
              fma_part<kVectors, kTail>(weight, g[v], load_part<kVectors, kTail>(grad_row, v, tail), v);
          store_part<kVectors, kTail>(grad_row, v, grown, tail);
        }
      }
      float sums[4];
      Vec::sums(dot[0], dot[1], dot[2], dot[3], sums);
      for (int c = 0; c < 4; ++c) dots[4 * k + c] = d == 0 ? sums[c] : dots[4 * k + c] + sums[c];
    }
  }
};

// The gradients of positions and weights from the corners' dot products; with logits, through the softmax too.
template <bool kFused>
inline void finish(const Points& points, const float* position, const float* center, const float* dots,
                   float* grad_position, float* grad_score) {
  const F one = Vec::set(1.0f), scale = Vec::set(kFused ? 1.0f / kOffsetScale : 1.0f);
  F mean = Vec::zero();  // of the weights' gradients, under the weights
  for (int64_t k = 0; k < points.count; k += kWidth) {
    const int64_t n = points.left(k);
    F x, y, d00, d01, d10, d11;
    points.coordinates(position, center, k, x, y);
    const F w = Vec::load(points.width + k), h = Vec::load(points.height + k);
    const Points::Axis ax(x, w), ay(y, h);
    Vec::load_quads(dots + 4 * k, d00, d01, d10, d11);
    d00 = Vec::keep(Vec::both(ay.inside0, ax.inside0), d00), d01 = Vec::keep(Vec::both(ay.inside0, ax.inside1), d01);
    d10 = Vec::keep(Vec::both(ay.inside1, ax.inside0), d10), d11 = Vec::keep(Vec::both(ay.inside1, ax.inside1), d11);
    const F fx = ax.fraction, fy = ay.fraction, gx = Vec::sub(one, fx), gy = Vec::sub(one, fy);
    const F weight = Vec::load(points.weight + k), step = Vec::mul(weight, scale);
    const F along_x = Vec::fma(gy, Vec::sub(d01, d00), Vec::mul(fy, Vec::sub(d11, d10)));
    const F along_y = Vec::fma(gx, Vec::sub(d10, d00), Vec::mul(fx, Vec::sub(d11, d01)));
    Vec::store_pairs(grad_position + 2 * k, n, Vec::mul(Vec::mul(step, w), along_x),
                     Vec::mul(Vec::mul(step, h), along_y));
    const F sample = Vec::fma(gy, Vec::fma(gx, d00, Vec::mul(fx, d01)),
                              Vec::mul(fy, Vec::fma(gx, d10, Vec::mul(fx, d11))));
    Vec::store(grad_score + k, sample, n);
    mean = Vec::fma(weight, sample, mean);
  }
  if (!kFused) return;
  const F shift = Vec::set(Vec::sum(mean));
  for (int64_t k = 0; k < points.count; k += kWidth) {
    const int64_t n = points.left(k);
    const F moved = Vec::sub(Vec::load(grad_score + k, n), shift);
    Vec::store(grad_score + k, Vec::mul(Vec::load(points.weight + k), moved), n);
  }
}

template <typename V, bool kFused>
void backward(const Problem& p, int64_t item, int64_t head_begin, int64_t head_end) {
  Points points(p);
  Corners corners(points.padded);
  Buffer<float> dots(4 * points.padded);
  const int64_t first_row = item * p.rows * p.heads * p.channels;
  for (int64_t place = 0; place < p.queries; ++place) {
    const int64_t query = p.query(item, place);
    for (int64_t head = head_begin; head < head_end; ++head) {
      const int64_t index = (item * p.queries + query) * p.heads + head;
      const int64_t first = first_row + head * p.channels;
      points.prepare<float, kFused>(item, query, head, corners);
      for_blocks(p.channels, Scatter<V>{points, corners, static_cast<const V*>(p.value) + first,
                                        static_cast<float*>(p.grad_value) + first,
                                        static_cast<const V*>(p.grad_output) + index * p.channels, dots + 0});
      finish<kFused>(points, static_cast<const float*>(p.position) + index * points.count * 2,
                     points.center<kFused>(item, query), dots + 0,
                     static_cast<float*>(p.grad_position) + index * points.count * 2,
                     static_cast<float*>(p.grad_score) + index * points.count);
    }
  }
}

inline KernelTable table(const char* name) {
  using BF = BFloat16;
  return {name,
          forward<float, float, false>, forward<BF, float, false>,
          forward<float, float, true>, forward<BF, float, true>, forward<BF, BF, true>,
          backward<float, false>, backward<BF, false>,
          backward<float, true>, backward<BF, true>};
}
