// The forward kernel: every output entry is one thread's sum in a fixed order.

#include "launch.cuh"

namespace mdqe {
namespace {

// A point's corners: rows of value, and attention weight times bilinear weight, zero outside the map.
template <typename C>
struct alignas(16) WeightedPoint {
  int row[4];
  C weight[4];
};

template <typename S, typename C, bool kFused>
__device__ WeightedPoint<C> weighted_point(const Problem& p, const LevelTable& table, int64_t row, int k,
                                           const RowSoftmax<C>& softmax) {
  const Location<C> location = locate<S, C, kFused>(p, table, row, k);
  const C weight = weight_of<S, C, kFused>(p, row, k, softmax);
  WeightedPoint<C> point;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    point.row[corner] = location.row(corner);
    point.weight[corner] = weight * location.y.weight(corner >> 1) * location.x.weight(corner & 1);
  }
  return point;
}

template <typename V, typename S, int kVector, bool kFused>
__global__ void forward_kernel(const Problem p, const __grid_constant__ LevelTable table, const Shape shape) {
  using C = typename Compute<V>::type;
  extern __shared__ __align__(16) unsigned char memory[];
  Block<WeightedPoint<C>, C> block(p, shape, memory);
  if constexpr (kFused) block.template share_softmax<S>();

  const int64_t channel = (int64_t(blockIdx.y) * shape.lanes + block.lane) * kVector, stride = p.heads * p.channels;
  const bool writes = block.active && channel < p.channels;
  const int64_t item = block.row / (p.queries * p.heads), head = block.row % p.heads;
  const V* base = static_cast<const V*>(p.value) + item * p.rows * stride + head * p.channels + channel;
  C sum[kVector] = {};
  for (int begin = 0; begin < block.count; begin += shape.chunk) {
    const int size = min(shape.chunk, block.count - begin);
    block.fill(begin, size, [&](int64_t row, int k, const RowSoftmax<C>& softmax) {
      return weighted_point<S, C, kFused>(p, table, row, k, softmax);
    });
    if (!writes) continue;
    for (int k = 0; k < size; ++k) {
      const WeightedPoint<C> point = block.point(k);
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        C entry[kVector];
        load<V, kVector>(base + point.row[corner] * stride, entry);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[i] = fma(point.weight[corner], entry[i], sum[i]);
      }
    }
  }
  if (writes) store<V, kVector>(static_cast<V*>(p.output) + block.row * p.channels + channel, sum);
}

template <typename V, typename S, bool kFused>
void launch(const Problem& p, const LevelTable& table, cudaStream_t stream) {
  using C = typename Compute<V>::type;
  for_vector<V>(p, {p.value, p.output}, [&](auto vector) {
    constexpr int kVector = decltype(vector)::value;
    const int64_t packs = (p.channels + kVector - 1) / kVector;
    const int lanes = int(packs < 32 ? packs : 32);
    const Shape shape = make_shape(lanes, sizeof(C));
    const dim3 grid = make_grid(p, shape, (packs + lanes - 1) / lanes);
    forward_kernel<V, S, kVector, kFused>
        <<<grid, shape.lanes * shape.rows, shape.shared_bytes<WeightedPoint<C>, C>(), stream>>>(p, table, shape);
  });
}

}  // namespace

void launch_forward(const Arguments& a, const LevelTable& table, cudaStream_t stream) {
  const Problem& p = a.problem;
  for_value_type(a.value_type, [&](auto value) {
    using V = decltype(value);
    using C = typename Compute<V>::type;
    if (!a.fused) return launch<V, C, false>(p, table, stream);
    if (a.score_type == compute_type(a.value_type)) return launch<V, C, true>(p, table, stream);
    launch<V, V, true>(p, table, stream);
  });
}

}  // namespace mdqe
