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
  const DeviceLevel level = level_of(table, p.rows, k / int(p.points));
  C x, y;
  locate<S, C, kFused>(p, level, row, k, x, y);
  const Axis<C> ax(x, level.width), ay(y, level.height);
  const C weight = weight_of<S, C, kFused>(p, row, k, softmax);
  WeightedPoint<C> point;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int i = corner & 1, j = corner >> 1;
    point.row[corner] = level.start + ay.index[j] * level.width + ax.index[i];
    point.weight[corner] = weight * ay.weight(j) * ax.weight(i);
  }
  return point;
}

template <typename V, typename S, int kVector, bool kFused>
__global__ void forward_kernel(const Problem p, const __grid_constant__ LevelTable table, const Shape shape) {
  using C = typename Compute<V>::type;
  extern __shared__ __align__(16) unsigned char memory[];
  WeightedPoint<C>* points = reinterpret_cast<WeightedPoint<C>*>(memory);
  C* partial = reinterpret_cast<C*>(points + shape.rows * (shape.chunk + 1));
  RowSoftmax<C>* softmax = reinterpret_cast<RowSoftmax<C>*>(partial + blockDim.x);

  const int count = int(p.levels * p.points), lane = threadIdx.x % shape.lanes, slot = threadIdx.x / shape.lanes;
  const int64_t total = p.batch * p.queries * p.heads, first = int64_t(blockIdx.x) * shape.rows, row = first + slot;
  const bool active = row < total;
  if constexpr (kFused) {
    const RowSoftmax<C> mine = row_softmax<S, C>(p, row, active, lane, shape.lanes, partial);
    if (lane == 0) softmax[slot] = mine;
  }

  const int64_t channel = (int64_t(blockIdx.y) * shape.lanes + lane) * kVector, stride = p.heads * p.channels;
  const bool writes = active && channel < p.channels;
  const int64_t item = row / (p.queries * p.heads), head = row % p.heads;
  const V* base = static_cast<const V*>(p.value) + item * p.rows * stride + head * p.channels + channel;
  C sum[kVector] = {};
  for (int begin = 0; begin < count; begin += shape.chunk) {
    const int size = min(shape.chunk, count - begin);
    __syncthreads();
    for (int i = threadIdx.x; i < shape.rows * size; i += blockDim.x) {
      const int other = i / size, k = i % size;
      if (first + other < total)
        points[other * (shape.chunk + 1) + k] =
            weighted_point<S, C, kFused>(p, table, first + other, begin + k, softmax[other]);
    }
    __syncthreads();
    if (!writes) continue;
    for (int k = 0; k < size; ++k) {
      const WeightedPoint<C> point = points[slot * (shape.chunk + 1) + k];
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        C entry[kVector];
        load<V, kVector>(base + point.row[corner] * stride, entry);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[i] = fma(point.weight[corner], entry[i], sum[i]);
      }
    }
  }
  if (writes) store<V, kVector>(static_cast<V*>(p.output) + row * p.channels + channel, sum);
}

template <typename V, typename S, int kVector, bool kFused>
void launch(const Problem& p, const LevelTable& table, cudaStream_t stream) {
  using C = typename Compute<V>::type;
  const int64_t packs = (p.channels + kVector - 1) / kVector;
  const int lanes = int(packs < 32 ? packs : 32);
  const Shape shape = make_shape(lanes, sizeof(C));
  const dim3 grid = make_grid(p, shape, (packs + lanes - 1) / lanes);
  forward_kernel<V, S, kVector, kFused>
      <<<grid, shape.lanes * shape.rows, shape.shared_bytes<WeightedPoint<C>, C>(), stream>>>(p, table, shape);
}

template <typename V, typename S, bool kFused>
void launch(const Problem& p, const LevelTable& table, cudaStream_t stream) {
  constexpr int kVector = 16 / sizeof(V);
  if (p.channels % kVector == 0 && aligned(p.value) && aligned(p.output))
    launch<V, S, kVector, kFused>(p, table, stream);
  else
    launch<V, S, 1, kFused>(p, table, stream);
}

}  // namespace

void launch_forward(const Arguments& a, const LevelTable& table, cudaStream_t stream) {
  const Problem& p = a.problem;
  for_value_type(a.value_type, [&](auto value) {
    using V = decltype(value);
    using C = typename Compute<V>::type;
    if (!p.centers) return launch<V, C, false>(p, table, stream);
    if (a.score_type == compute_type(a.value_type)) return launch<V, C, true>(p, table, stream);
    launch<V, V, true>(p, table, stream);
  });
}

}  // namespace mdqe
