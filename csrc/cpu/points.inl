// Locations and weights of the points of a (batch, query, head).

// The corners of the points of one (batch, query, head), ready for sampling.
struct Corners {
  Buffer<float> weight;         // (4, K) attention weight times bilinear weight
  Buffer<int32_t> offset;       // (4, K) offset of the row, in elements of value
  explicit Corners(int64_t padded) : weight(4 * padded), offset(4 * padded) {}
};

// What all (batch, query, head) have in common, and the weights of the current one. K = L * P points, padded to a multiple
// of kWidth; padding has weight zero.
struct Points {
  const Problem& p;
  const int64_t count, padded;
  Buffer<float> width, height;        // (K) size of the level of each point
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
    F total{};
    for (int64_t k = 0; k < count; k += kWidth) {
      const int64_t n = left(k);
      F e = exp_nonpositive(Vec::load(logits + k, n) - largest);
      if (n < kWidth) e = Vec::pad(e, n, F{});
      Vec::store(weight + k, e);
      total += e;
    }
    const F scale = Vec::set(1.0f / Vec::sum(total));
    for (int64_t k = 0; k < count; k += kWidth) Vec::store(weight + k, Vec::load(weight + k) * scale);
  }

  // Pixel coordinates of kWidth points from k on. `center` is null for locations.
  template <typename S>
  void coordinates(const S* position, const float* center, int64_t k, F& x, F& y) const {
    F u, v;
    Vec::load_pairs(position + 2 * k, left(k), u, v);
    const F w = Vec::load(width + k), h = Vec::load(height + k), shift = Vec::set(-0.5f);
    if (center) {
      const F eighth = Vec::set(1.0f / kOffsetScale);
      x = Vec::fma(u, w * eighth, Vec::fma(Vec::set(center[0]), w, shift));
      y = Vec::fma(v, h * eighth, Vec::fma(Vec::set(center[1]), h, shift));
    } else {
      x = Vec::fma(u, w, shift), y = Vec::fma(v, h, shift);
    }
  }

  // One axis: the two pixels around x, clamped to the map, whether they are inside, and the fraction between them.
  struct Axis {
    F fraction;
    M inside0, inside1;
    I index0, index1;

    Axis(F x, F size) {
      const F one = Vec::set(1.0f), last = size - one;
      const F low = Vec::floor(x), high = low + one;
      inside0 = Vec::inside(low, last), inside1 = Vec::inside(high, last);
      fraction = Vec::keep(Vec::either(inside0, inside1), x - low);  // never NaN
      index0 = Vec::to_int(Vec::min(Vec::max(low, F{}), last));
      index1 = Vec::to_int(Vec::min(Vec::max(high, F{}), last));
    }
    F weight0() const { return Vec::keep(inside0, Vec::set(1.0f) - fraction); }
    F weight1() const { return Vec::keep(inside1, fraction); }
  };

  // Computes the corners from weights and positions.
  template <typename S>
  void locate(const S* position, const float* center, Corners& corners) const {
    const I pixel = Vec::set(pixel_stride);
    for (int64_t k = 0; k < count; k += kWidth) {
      F x, y;
      coordinates(position, center, k, x, y);
      const Axis ax(x, Vec::load(width + k)), ay(y, Vec::load(height + k));
      const F scale = Vec::load(weight + k);
      const F top = scale * ay.weight0(), bottom = scale * ay.weight1();
      const F wx0 = ax.weight0(), wx1 = ax.weight1();
      Vec::store(corners.weight + k, top * wx0);
      Vec::store(corners.weight + padded + k, top * wx1);
      Vec::store(corners.weight + 2 * padded + k, bottom * wx0);
      Vec::store(corners.weight + 3 * padded + k, bottom * wx1);
      const I stride = Vec::load(row_stride + k), first = Vec::load(start + k);
      const I row0 = first + ay.index0 * stride, row1 = first + ay.index1 * stride;
      const I column0 = ax.index0 * pixel, column1 = ax.index1 * pixel;
      Vec::store(corners.offset + k, row0 + column0);
      Vec::store(corners.offset + padded + k, row0 + column1);
      Vec::store(corners.offset + 2 * padded + k, row1 + column0);
      Vec::store(corners.offset + 3 * padded + k, row1 + column1);
    }
  }

  template <typename S, bool kFused>
  void prepare(int64_t item, int64_t query, int64_t head, Corners& corners) {
    const int64_t index = p.row(item, query, head);
    const S* score = static_cast<const S*>(p.score) + index * count;
    if (kFused) softmax(score);
    else load_weights(score);
    locate(static_cast<const S*>(p.position) + index * count * 2, center<kFused>(item, query), corners);
  }

  template <bool kFused>
  const float* center(int64_t item, int64_t query) const {
    if (!kFused) return nullptr;
    return static_cast<const float*>(p.centers) + p.pair(item, query) * 2;
  }
};
