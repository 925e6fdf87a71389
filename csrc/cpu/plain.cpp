// The kernels in plain C++: for float64 on every processor, and for all types on processors without AVX2 and with compilers
// other than GCC and Clang. They do not use vector_kernels.inl: the compiler could not vectorise a vector type of one lane,
// and sums in four chains would have other bits.

#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels.h"

namespace mdqe {
namespace {

template <typename T>
T narrow(typename std::conditional<std::is_same<T, BFloat16>::value, float, T>::type x) {
  if constexpr (std::is_same<T, BFloat16>::value) return BFloat16::round(x);
  else return x;
}

// One point: its four corners (row offsets in elements of value) and their bilinear weights, which are zero outside the
// map.
template <typename C>
struct Point {
  int64_t offset[4];
  C weight[4];          // bilinear weights of (y0, x0), (y0, x1), (y1, x0), (y1, x1)
  C inside_x[2], inside_y[2];
  C fraction_x, fraction_y;
};

template <typename C>
struct Axis {
  int64_t index[2];
  C weight[2], inside[2], fraction;
};

template <typename C>
Axis<C> locate(C coordinate, int64_t size) {
  Axis<C> axis;
  const C low = std::floor(coordinate);
  const C last = C(size - 1);
  // Comparisons with NaN are false, so a location that is not finite is outside.
  const bool inside0 = low >= C(0) && low <= last, inside1 = low + 1 >= C(0) && low + 1 <= last;
  axis.fraction = inside0 || inside1 ? coordinate - low : C(0);
  axis.inside[0] = inside0, axis.inside[1] = inside1;
  axis.weight[0] = inside0 ? 1 - axis.fraction : C(0);
  axis.weight[1] = inside1 ? axis.fraction : C(0);
  axis.index[0] = inside0 ? int64_t(low) : 0;
  axis.index[1] = inside1 ? int64_t(low) + 1 : axis.index[0];
  if (!inside0) axis.index[0] = axis.index[1];
  return axis;
}

template <typename C>
Point<C> locate(C x, C y, const Level& level, int64_t stride) {
  const Axis<C> ax = locate(x, level.width), ay = locate(y, level.height);
  Point<C> point;
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 2; ++i) {
      point.offset[2 * j + i] = (level.start + ay.index[j] * level.width + ax.index[i]) * stride;
      point.weight[2 * j + i] = ay.weight[j] * ax.weight[i];
    }
    point.inside_x[j] = ax.inside[j], point.inside_y[j] = ay.inside[j];
  }
  point.fraction_x = ax.fraction, point.fraction_y = ay.fraction;
  return point;
}

// Softmax of `count` logits.
template <typename C, typename S>
void softmax(const S* logits, int64_t count, C* result) {
  C largest = logits[0];
  for (int64_t k = 1; k < count; ++k) largest = C(logits[k]) > largest ? C(logits[k]) : largest;
  C sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += result[k] = std::exp(C(logits[k]) - largest);
  for (int64_t k = 0; k < count; ++k) result[k] /= sum;
}

// The points and weights of one (batch, query, head).
template <typename C, typename S, bool kFused>
struct Sampler {
  const Problem& p;
  int64_t count, stride;
  std::vector<C> weight;

  explicit Sampler(const Problem& problem)
      : p(problem), count(p.levels * p.points), stride(p.heads * p.channels), weight(count) {}

  void weights(int64_t index) {  // index of the (batch, query, head)
    const S* score = static_cast<const S*>(p.score) + index * count;
    if constexpr (kFused) softmax<C>(score, count, weight.data());
    else for (int64_t k = 0; k < count; ++k) weight[k] = score[k];
  }

  Point<C> point(int64_t index, int64_t item, int64_t query, int64_t k) const {
    const S* position = static_cast<const S*>(p.position) + (index * count + k) * 2;
    const Level& level = p.level[k / p.points];
    const C w = C(level.width), h = C(level.height);
    if constexpr (kFused) {
      const C* center = static_cast<const C*>(p.centers) + p.pair(item, query) * 2;
      return locate<C>((center[0] + C(position[0]) / kOffsetScale) * w - C(0.5),
                       (center[1] + C(position[1]) / kOffsetScale) * h - C(0.5), level, stride);
    } else {
      return locate<C>(C(position[0]) * w - C(0.5), C(position[1]) * h - C(0.5), level, stride);
    }
  }
};

template <typename V, typename S, typename C, bool kFused>
void forward(const Problem& p, int64_t begin, int64_t end) {
  const int64_t channels = p.channels;
  Sampler<C, S, kFused> sampler(p);
  std::vector<C> sum(channels);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t item = i / p.queries, query = p.query(item, i % p.queries);
    for (int64_t head = 0; head < p.heads; ++head) {
      const int64_t index = p.row(item, query, head);
      const V* base = static_cast<const V*>(p.value) + (p.first_row(item) * p.heads + head) * channels;
      sampler.weights(index);
      C* total = sum.data();
      for (int64_t d = 0; d < channels; ++d) total[d] = 0;
      for (int64_t k = 0; k < sampler.count; ++k) {
        const Point<C> point = sampler.point(index, item, query, k);
        const C scale = sampler.weight[k];
        const V *a = base + point.offset[0], *b = base + point.offset[1];
        const V *c = base + point.offset[2], *e = base + point.offset[3];
        const C wa = scale * point.weight[0], wb = scale * point.weight[1];
        const C wc = scale * point.weight[2], we = scale * point.weight[3];
        for (int64_t d = 0; d < channels; ++d) total[d] += wa * a[d] + wb * b[d] + wc * c[d] + we * e[d];
      }
      V* out = static_cast<V*>(p.output) + index * channels;
      for (int64_t d = 0; d < channels; ++d) out[d] = narrow<V>(total[d]);
    }
  }
}

// Computes the dot products of `grad` with the corners of a point, and adds its share to the gradient of value.
template <typename V, typename C>
void scatter(const V* base, C* grad_base, const V* grad, const Point<C>& point, C scale, int64_t channels, C* dot) {
  for (int corner = 0; corner < 4; ++corner) {
    const V* row = base + point.offset[corner];
    C* grad_row = grad_base + point.offset[corner];
    const C weight = scale * point.weight[corner];
    C sum = 0;
    for (int64_t d = 0; d < channels; ++d) {
      sum += C(grad[d]) * C(row[d]);
      grad_row[d] += weight * C(grad[d]);
    }
    dot[corner] = sum * point.inside_x[corner & 1] * point.inside_y[corner >> 1];
  }
}

template <typename V, typename S, typename C, bool kFused>
void backward(const Problem& p, int64_t item, int64_t head_begin, int64_t head_end) {
  const int64_t channels = p.channels, count = p.levels * p.points;
  Sampler<C, S, kFused> sampler(p);
  for (int64_t place = 0; place < p.queries; ++place) {
    const int64_t query = p.query(item, place);
    for (int64_t head = head_begin; head < head_end; ++head) {
      const int64_t index = p.row(item, query, head);
      const V* base = static_cast<const V*>(p.value) + (p.first_row(item) * p.heads + head) * channels;
      C* grad_base = static_cast<C*>(p.grad_value) + (item * p.rows * p.heads + head) * channels;
      const V* grad = static_cast<const V*>(p.grad_output) + index * channels;
      C* grad_position = static_cast<C*>(p.grad_position) + index * count * 2;
      C* grad_score = static_cast<C*>(p.grad_score) + index * count;
      sampler.weights(index);
      C mean = 0;  // weighted mean of the gradients of the weights
      for (int64_t k = 0; k < count; ++k) {
        const Point<C> point = sampler.point(index, item, query, k);
        const Level& level = p.level[k / p.points];
        const C weight = sampler.weight[k], fx = point.fraction_x, fy = point.fraction_y;
        C dot[4];
        scatter<V, C>(base, grad_base, grad, point, weight, channels, dot);
        const C scale = kFused ? weight / kOffsetScale : weight;
        grad_position[2 * k] = scale * C(level.width) * ((1 - fy) * (dot[1] - dot[0]) + fy * (dot[3] - dot[2]));
        grad_position[2 * k + 1] = scale * C(level.height) * ((1 - fx) * (dot[2] - dot[0]) + fx * (dot[3] - dot[1]));
        grad_score[k] = (1 - fy) * ((1 - fx) * dot[0] + fx * dot[1]) + fy * ((1 - fx) * dot[2] + fx * dot[3]);
        mean += weight * grad_score[k];
      }
      if constexpr (kFused) for (int64_t k = 0; k < count; ++k) grad_score[k] = sampler.weight[k] * (grad_score[k] - mean);
    }
  }
}

bool pack_signs(const float* p, int64_t n, uint64_t* words) {
  bool finite = true;
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t count = n - i < 64 ? n - i : 64;
    uint64_t word = 0;
    for (int64_t k = 0; k < count; ++k) {
      const float x = p[i + k];
      word |= uint64_t(x > 0) << k;
      finite &= x - x == 0;
    }
    words[i / 64] = word;
  }
  return finite;
}

int64_t count_shared(const uint64_t* a, const uint64_t* b, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {  // adds neighbouring fields of 1, 2 and 4 bits, then all bytes
    uint64_t x = a[i] & b[i];
    x -= x >> 1 & 0x5555555555555555;
    x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
    sum += int64_t(x * 0x0101010101010101 >> 56);
  }
  return sum;
}

using BF = BFloat16;

}  // namespace

const KernelTable& plain_kernels() {
  static const KernelTable table = {
      "plain C++",
      forward<float, float, float, false>, forward<BF, float, float, false>,
      forward<float, float, float, true>, forward<BF, float, float, true>, forward<BF, BF, float, true>,
      backward<float, float, float, false>, backward<BF, float, float, false>,
      backward<float, float, float, true>, backward<BF, float, float, true>,
      pack_signs, count_shared,
  };
  return table;
}

ForwardKernel plain_forward_f64(bool fused) {
  return fused ? forward<double, double, double, true> : forward<double, double, double, false>;
}

BackwardKernel plain_backward_f64(bool fused) {
  return fused ? backward<double, double, double, true> : backward<double, double, double, false>;
}

}  // namespace mdqe
