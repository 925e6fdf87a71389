// The forward kernel: one thread computes each output entry as a sum in a fixed order.

#include "launch.cuh"

namespace mdqe {
namespace {

// The corners of a point: rows of value in packs, and attention weight times bilinear weight, which is zero outside the
// map.
template <typename C>
struct alignas(16) WeightedPoint {
  unsigned row[4];
  C weight[4];

  __device__ static WeightedPoint make(const Location<C>& location, C weight, unsigned stride) {
    WeightedPoint point;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      point.row[corner] = location.row(corner, stride);
      point.weight[corner] = weight * location.y.weight(corner >> 1) * location.x.weight(corner & 1);
    }
    return point;
  }
};

template <typename V, typename S, int kVector, bool kFused>
__global__ void __launch_bounds__(kMostThreads, sizeof(V) == 4 ? 6 : 5)  // 40 or 48 registers: more threads hide the loads
    forward_kernel(const Problem p, const __grid_constant__ LevelTable table, const Shape shape) {
  using C = typename Compute<V>::type;
  extern __shared__ __align__(16) unsigned char memory[];
  Block<WeightedPoint<C>, C> block(p, shape, memory);
  if constexpr (kFused) block.template share_softmax<S>();

  const int64_t channel = (int64_t(blockIdx.z) * shape.lanes + block.lane) * kVector;
  const bool writes = block.active && channel < p.channels;
  const unsigned stride = unsigned(p.heads) * unsigned(p.channels) / kVector;  // row stride of value, in packs
  const auto* base = reinterpret_cast<const Pack<V, kVector>*>(
      static_cast<const V*>(p.value) + (block.first_row() * p.heads + block.head()) * p.channels + channel);
  C sum[kVector] = {};
  for (int begin = 0; begin < block.count; begin += block.kChunk) {
    const int size = min(int(block.kChunk), block.count - begin);
    block.template fill<S, kFused>(table, begin, size, stride);
    if (!writes) continue;
#pragma unroll 4
    for (int k = 0; k < size; ++k) {
      const WeightedPoint<C> point = block.point(k);
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        C entry[kVector];
        load<V, kVector>(reinterpret_cast<const V*>(base + point.row[corner]), entry);
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[i] = fma(point.weight[corner], entry[i], sum[i]);
      }
    }
  }
  if (writes)
    store<V, kVector>(static_cast<V*>(p.output) + block.row_at(block.slot) * p.channels + channel, sum);
}

// Returns log2 of the number of heads that share a cache line. The L1 cache delivers 128 bytes at a time. Where a row is
// shorter than a line, neighbouring threads process the heads of one line, not the same part of many lines.
unsigned heads_of_a_line(const Problem& p, size_t entry) {
  unsigned shift = 0;
  while (p.heads % (2 << shift) == 0 && p.channels * int64_t(entry) * (2 << shift) <= 128) ++shift;
  return shift;
}

template <typename V, typename S, bool kFused>
void launch(const Problem& p, const LevelTable& table, cudaStream_t stream) {
  using C = typename Compute<V>::type;
  for_vector<16 / sizeof(V)>(p, {p.value, p.output}, [&](auto vector) {
    constexpr int kVector = decltype(vector)::value;
    const int64_t packs = (p.channels + kVector - 1) / kVector;
    const Shape shape = make_shape(p, packs, false, heads_of_a_line(p, sizeof(V)));
    const dim3 grid = make_grid(p, shape, (packs + shape.lanes - 1) / shape.lanes), block(shape.lanes, shape.rows);
    forward_kernel<V, S, kVector, kFused>
        <<<grid, block, Block<WeightedPoint<C>, C>::shared_bytes(shape), stream>>>(p, table, shape);
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
