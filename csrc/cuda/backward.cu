// The backward kernel. Gradients of positions and weights are sums over the threads of a row in a fixed order. The gradient
// of value is accumulated with atomic additions in the compute type, of 16 bytes where the device supports them, so its
// last bits depend on the order of the additions.

#include "launch.cuh"

namespace mdqe {
namespace {

// The corners of a point: rows of value, or -1 outside the map.
template <typename C>
struct alignas(16) CornerPoint {
  int row[4];
  C fraction_x, fraction_y, weight, unused;

  __device__ static CornerPoint make(const Location<C>& location, C weight, unsigned) {
    CornerPoint point;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
      point.row[corner] = location.inside(corner) ? int(location.row(corner, 1)) : -1;
    point.fraction_x = location.x.fraction, point.fraction_y = location.y.fraction;
    point.weight = weight;
    point.unused = 0;
    return point;
  }
};

template <int kVector, typename C>
__device__ inline void add_atomically(C* to, const C* gradient, C weight) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && CUDART_VERSION >= 12010
  if constexpr (kVector == 4 && sizeof(C) == 4) {
    atomicAdd(reinterpret_cast<float4*>(to),
              make_float4(weight * gradient[0], weight * gradient[1], weight * gradient[2], weight * gradient[3]));
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < kVector; ++i) atomicAdd(to + i, weight * gradient[i]);
  }
}

template <typename C>
__device__ inline C sum_of_row(C x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// shape.lanes is a power of two and divides the warp size.
template <typename V, int kVector, bool kFused>
__global__ void __launch_bounds__(kMostThreads)
    backward_kernel(const Problem p, const __grid_constant__ LevelTable table, const Shape shape) {
  using C = typename Compute<V>::type;
  extern __shared__ __align__(16) unsigned char memory[];
  Block<CornerPoint<C>, C> block(p, shape, memory);
  const int count = block.count, lane = block.lane, lanes = shape.lanes;
  const int64_t row = block.row_at(block.slot);
  const bool active = block.active;
  if constexpr (kFused) block.template share_softmax<C>();

  const int64_t stride = p.heads * p.channels;
  const V* base = static_cast<const V*>(p.value) + (block.first_row() * p.heads + blockIdx.y) * p.channels;
  C* grad_base = static_cast<C*>(p.grad_value) + (block.item * p.rows * p.heads + blockIdx.y) * p.channels;
  const V* grad_output = static_cast<const V*>(p.grad_output) + row * p.channels;
  C* grad_position = static_cast<C*>(p.grad_position) + row * count * 2;
  C* grad_score = static_cast<C*>(p.grad_score) + row * count;
  const int step = lanes * kVector;
  const bool once = p.channels <= step;  // one pack of channels per thread
  C gradient[kVector] = {};
  if (active && once && lane * kVector < p.channels) load<V, kVector>(grad_output + lane * kVector, gradient);

  C mean = 0;  // weighted mean of the gradients of the weights
  for (int begin = 0; begin < count; begin += block.kChunk) {
    const int size = min(int(block.kChunk), count - begin);
    block.template fill<C, kFused>(table, begin, size, 0);
    for (int k = 0; k < size; ++k) {
      CornerPoint<C> point{};
      C dot[4] = {};
      if (active) {
        point = block.point(k);
        const C fx = point.fraction_x, fy = point.fraction_y;
        const C bilinear[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
        for (int64_t channel = lane * kVector; channel < p.channels; channel += step) {
          if (!once) load<V, kVector>(grad_output + channel, gradient);
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            if (point.row[corner] < 0) continue;
            const int64_t at = point.row[corner] * stride + channel;
            C entry[kVector];
            load<V, kVector>(base + at, entry);
#pragma unroll
            for (int i = 0; i < kVector; ++i) dot[corner] = fma(gradient[i], entry[i], dot[corner]);
            add_atomically<kVector>(grad_base + at, gradient, point.weight * bilinear[corner]);
          }
        }
      }
      // All threads of a warp reach this point: the sums below are across threads.
      const C fx = point.fraction_x, fy = point.fraction_y;
      const C top = (1 - fx) * dot[0] + fx * dot[1], bottom = (1 - fx) * dot[2] + fx * dot[3];
      const C sample = sum_of_row((1 - fy) * top + fy * bottom, lanes);
      const C along_x = sum_of_row((1 - fy) * (dot[1] - dot[0]) + fy * (dot[3] - dot[2]), lanes);
      const C along_y = sum_of_row(bottom - top, lanes);
      mean += point.weight * sample;
      if (active && lane == (begin + k) % lanes) {
        const DeviceLevel level = level_of(table, p.rows, unsigned(begin + k) / unsigned(p.points));
        const C scale = kFused ? point.weight / kOffsetScale : point.weight;
        grad_position[2 * (begin + k)] = scale * level.width * along_x;
        grad_position[2 * (begin + k) + 1] = scale * level.height * along_y;
        grad_score[begin + k] = sample;
      }
    }
  }
  if constexpr (kFused) {
    if (!active) return;
    const RowSoftmax<C> mine = block.softmax[block.slot];
    const C* logits = static_cast<const C*>(p.score) + row * count;
    for (int k = lane; k < count; k += lanes)  // each thread reads the entries that it wrote
      grad_score[k] = weight_of<C, C, true>(logits + k, mine) * (grad_score[k] - mean);
  }
}

template <typename V, bool kFused>
void launch(const Problem& p, const LevelTable& table, cudaStream_t stream) {
  using C = typename Compute<V>::type;
  // As many channels per thread as a 16-byte addition takes, so that the additions of a row's threads leave no gaps.
  for_vector<16 / sizeof(C)>(p, {p.value, p.grad_output, p.grad_value}, [&](auto vector) {
    constexpr int kVector = decltype(vector)::value;
    const Shape shape = make_shape(p, (p.channels + kVector - 1) / kVector, true);
    const dim3 grid = make_grid(p, shape, 1), block(shape.lanes, shape.rows);
    backward_kernel<V, kVector, kFused>
        <<<grid, block, Block<CornerPoint<C>, C>::shared_bytes(shape), stream>>>(p, table, shape);
  });
}

}  // namespace

void launch_backward(const Arguments& a, const LevelTable& table, cudaStream_t stream) {
  for_value_type(a.value_type, [&](auto value) {
    using V = decltype(value);
    if (a.fused) launch<V, true>(a.problem, table, stream);
    else launch<V, false>(a.problem, table, stream);
  });
}

}  // namespace mdqe
