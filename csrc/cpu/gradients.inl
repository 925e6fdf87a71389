// The backward pass.

// Backward of one (batch, query, head): adds corner weight * grad to the rows of the value gradient, and accumulates the
// dot product of grad with the corner's row of value in dots[k][corner].
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
        dot[c] = F{};
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

// Computes the gradients of positions and weights from the dot products of the corners; for logits, also through the
// softmax.
template <bool kFused>
inline void finish(const Points& points, const float* position, const float* center, const float* dots,
                   float* grad_position, float* grad_score) {
  const F one = Vec::set(1.0f), scale = Vec::set(kFused ? 1.0f / kOffsetScale : 1.0f);
  F mean{};  // weighted mean of the gradients of the weights
  for (int64_t k = 0; k < points.count; k += kWidth) {
    const int64_t n = points.left(k);
    F x, y, d00, d01, d10, d11;
    points.coordinates(position, center, k, x, y);
    const F w = Vec::load(points.width + k), h = Vec::load(points.height + k);
    const Points::Axis ax(x, w), ay(y, h);
    Vec::load_quads(dots + 4 * k, d00, d01, d10, d11);
    d00 = Vec::keep(Vec::both(ay.inside0, ax.inside0), d00), d01 = Vec::keep(Vec::both(ay.inside0, ax.inside1), d01);
    d10 = Vec::keep(Vec::both(ay.inside1, ax.inside0), d10), d11 = Vec::keep(Vec::both(ay.inside1, ax.inside1), d11);
    const F fx = ax.fraction, fy = ay.fraction, gx = one - fx, gy = one - fy;
    const F weight = Vec::load(points.weight + k), step = weight * scale;
    const F along_x = Vec::fma(gy, d01 - d00, fy * (d11 - d10));
    const F along_y = Vec::fma(gx, d10 - d00, fx * (d11 - d01));
    Vec::store_pairs(grad_position + 2 * k, n, step * w * along_x, step * h * along_y);
    const F sample = Vec::fma(gy, Vec::fma(gx, d00, fx * d01), fy * Vec::fma(gx, d10, fx * d11));
    Vec::store(grad_score + k, sample, n);
    mean = Vec::fma(weight, sample, mean);
  }
  if (!kFused) return;
  const F shift = Vec::set(Vec::sum(mean));
  for (int64_t k = 0; k < points.count; k += kWidth) {
    const int64_t n = points.left(k);
    const F moved = Vec::load(grad_score + k, n) - shift;
    Vec::store(grad_score + k, Vec::load(points.weight + k) * moved, n);
  }
}

template <typename V, bool kFused>
void backward(const Problem& p, int64_t item, int64_t head_begin, int64_t head_end) {
  Points points(p);
  Corners corners(points.padded);
  Buffer<float> dots(4 * points.padded);
  const int64_t stride = p.heads * p.channels;
  const V* value = static_cast<const V*>(p.value) + p.first_row(item) * stride;
  float* grad_value = static_cast<float*>(p.grad_value) + item * p.rows * stride;
  for (int64_t place = 0; place < p.queries; ++place) {
    const int64_t query = p.query(item, place);
    for (int64_t head = head_begin; head < head_end; ++head) {
      const int64_t index = p.row(item, query, head);
      const int64_t first = head * p.channels;
      points.prepare<float, kFused>(item, query, head, corners);
      for_blocks(p.channels, Scatter<V>{points, corners, value + first, grad_value + first,
                                        static_cast<const V*>(p.grad_output) + index * p.channels, dots + 0});
      finish<kFused>(points, static_cast<const float*>(p.position) + index * points.count * 2,
                     points.center<kFused>(item, query), dots + 0,
                     static_cast<float*>(p.grad_position) + index * points.count * 2,
                     static_cast<float*>(p.grad_score) + index * points.count);
    }
  }
}
