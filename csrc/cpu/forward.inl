// The forward pass: weighted sums of rows of value, query by query.

// An accumulator for one vector of consecutive channels.
template <typename T>
struct Single {
  using Value = T;
  static constexpr int kParts = 1;

  template <int kVectors, Tail kTail>
  static void add(F weight, const T* row, int v, int64_t tail, F (&sum)[1]) {
    sum[0] = fma_part<kVectors, kTail>(weight, load_part<kVectors, kTail>(row, v, tail), sum[0], v);
  }
  template <int kVectors, Tail kTail>
  static void store(T* out, int v, int64_t tail, const F (&sum)[1]) {
    store_part<kVectors, kTail>(out, v, sum[0], tail);
  }
};

// For bfloat16 with an even number of channels: two vectors, one of the even channels, which are the lower halves of 32-bit
// lanes, and one of the odd channels, the upper halves. Widening is cheap, because a bfloat16 is the upper half of a float.
struct Pair {
  using Value = BFloat16;
  static constexpr int kParts = 2;

  template <int kVectors, Tail kTail>
  static void add(F weight, const BFloat16* row, int v, int64_t tail, F (&sum)[2]) {
    F x, y;
    if (kTail != kFull && v == kVectors - 1) Vec::load_pairs(row + 2 * v * kWidth, tail, x, y);
    else Vec::load_pairs(row + 2 * v * kWidth, x, y);
    sum[0] = Vec::fma(weight, x, sum[0]), sum[1] = Vec::fma(weight, y, sum[1]);
  }
  template <int kVectors, Tail kTail>
  static void store(BFloat16* out, int v, int64_t tail, const F (&sum)[2]) {
    if (kTail != kFull && v == kVectors - 1) Vec::store_pairs(out + 2 * v * kWidth, tail, sum[0], sum[1]);
    else Vec::store_pairs(out + 2 * v * kWidth, sum[0], sum[1]);
  }
};

// out = sum of corner weights * rows, for the channels of kVectors accumulators.
template <typename Part, int kVectors, Tail kTail, typename V>
inline void accumulate(const Points& points, const Corners& corners, const V* base, V* out, int64_t tail) {
  constexpr int kParts = Part::kParts;
  constexpr int kChains = kVectors * kParts * 4 * 2 <= Vec::kRegisters ? 4 : 2;  // one chain per corner, or per two corners
  F sum[kChains][kVectors][kParts] = {};
  const int64_t padded = points.padded;
  for (int64_t k = 0; k < points.count; ++k) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F weight = Vec::set(corners.weight[c * padded + k]);
      const V* row = base + corners.offset[c * padded + k];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        Part::template add<kVectors, kTail>(weight, row, v, tail, sum[c % kChains][v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    F total[kParts];
#pragma GCC unroll 2
    for (int i = 0; i < kParts; ++i) {
      total[i] = sum[0][v][i] + sum[1][v][i];
      if (kChains == 4) total[i] += sum[kChains - 2][v][i] + sum[kChains - 1][v][i];
    }
    Part::template store<kVectors, kTail>(out, v, tail, total);
  }
}

template <typename Part>
struct Accumulate {
  const Points& points;
  const Corners& corners;
  const typename Part::Value* base;
  typename Part::Value* out;

  template <int kVectors, Tail kTail>
  void run(int64_t d, int64_t tail) const {
    accumulate<Part, kVectors, kTail>(points, corners, base + d * Part::kParts, out + d * Part::kParts, tail);
  }
};

template <typename Part>
inline void sample_by(const Points& points, const Corners& corners, const typename Part::Value* base,
                      typename Part::Value* out) {
  for_blocks(points.p.channels / Part::kParts, Accumulate<Part>{points, corners, base, out});
}

inline void sample(const Points& points, const Corners& corners, const float* base, float* out) {
  sample_by<Single<float>>(points, corners, base, out);
}

inline void sample(const Points& points, const Corners& corners, const BFloat16* base, BFloat16* out) {
  if (points.p.channels % 2 == 0) sample_by<Pair>(points, corners, base, out);
  else sample_by<Single<BFloat16>>(points, corners, base, out);
}

template <bool kWrite>
inline void prefetch(const void* data, int64_t index, int64_t bytes) {
  const char* first = static_cast<const char*>(data) + index * bytes;
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(first + byte, kWrite, kWrite ? 3 : 2);
}

// In tile order, the hardware prefetcher cannot predict the next reads. So this prefetches the inputs and outputs of a
// query a little ahead and, further ahead, the pixels under a query's center (or first location) on all levels. Most rows
// of a tile are then in the cache before the first head needs its part of them.
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
      const int64_t row = p.first_row(item) + level.start + y * level.width + x;
      prefetch<false>(p.value, row, p.heads * p.channels * int64_t(sizeof(V)));
    }
  }
}

// The points of the next head are prepared before those of the current head are sampled. Preparation is a long chain of
// dependent steps and sampling is limited by throughput, so the processor overlaps them.
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
    const V* value = static_cast<const V*>(p.value) + p.first_row(item) * p.heads * p.channels;
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
