// What the CUDA kernels share: types, 16-byte loads, the level table, points in shared memory, softmax of a row.
//
// A row is one (batch, query, head), numbered in that order, so rows of two batch items may share a block. A block takes
// some rows; `lanes` threads work on each, every one on channels of 16 bytes. First all threads of the block compute the
// points of all its rows, one point a thread, into shared memory; then each row's threads read them back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../problem.h"

namespace mdqe {

// Levels by value, in the kernel's arguments, or as the caller's tensors on the device.
struct LevelTable {
  static constexpr int kMost = 64;
  int height[kMost], width[kMost], start[kMost];
  const int64_t* shapes;  // (L, 2); null: the arrays hold the levels
  const int64_t* starts;  // (L)
};

struct DeviceLevel {
  int height, width, start;
};

// A level of a table on the device that does not fit into value has no pixels.
__device__ inline DeviceLevel level_of(const LevelTable& table, int64_t rows, int l) {
  if (!table.shapes) return {table.height[l], table.width[l], table.start[l]};
  const int64_t height = table.shapes[2 * l], width = table.shapes[2 * l + 1], start = table.starts[l];
  const bool fits = height > 0 && width > 0 && start >= 0 && start <= rows && height <= (rows - start) / width;
  return {fits ? int(height) : 0, fits ? int(width) : 0, fits ? int(start) : 0};
}

template <typename V>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename V>
__device__ inline V narrow(typename Compute<V>::type x) {
  return x;
}
template <>
__device__ inline __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// kVector consecutive entries: one of them, or as many as 16 bytes hold.
template <typename V, int kVector>
struct alignas(sizeof(V) * kVector) Pack {
  V entry[kVector];
};

template <typename V, int kVector>
__device__ inline void load(const V* from, typename Compute<V>::type* to) {
  Pack<V, kVector> pack;
  if constexpr (sizeof(pack) == 16) {
    *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(from));
  } else {
    pack = *reinterpret_cast<const Pack<V, kVector>*>(from);
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) to[i] = widen(pack.entry[i]);
}

template <typename V, int kVector>
__device__ inline void store(V* to, const typename Compute<V>::type* from) {
  Pack<V, kVector> pack;
#pragma unroll
  for (int i = 0; i < kVector; ++i) pack.entry[i] = narrow<V>(from[i]);
  *reinterpret_cast<Pack<V, kVector>*>(to) = pack;
}

// One axis of a point: two pixels, which of them lie inside, and the fraction between them.
template <typename C>
struct Axis {
  int index[2];
  bool inside[2];
  C fraction;

  __device__ Axis(C x, int size) {
    const C low = floor(x), last = C(size - 1);
    // Comparisons with NaN are false, so a location that is not finite lies outside.
    inside[0] = low >= C(0) && low <= last, inside[1] = low + 1 >= C(0) && low + 1 <= last;
    fraction = inside[0] || inside[1] ? x - low : C(0);
    index[0] = inside[0] ? int(low) : 0, index[1] = inside[1] ? int(low + 1) : 0;
  }
  __device__ C weight(int side) const { return inside[side] ? (side ? fraction : 1 - fraction) : C(0); }
};

// Where point k of a row lies: its level, and both axes in that level's pixels. Corners are numbered (y0, x0), (y0, x1),
// (y1, x0), (y1, x1).
template <typename C>
struct Location {
  DeviceLevel level;
  Axis<C> x, y;

  __device__ int row(int corner) const {
    return level.start + y.index[corner >> 1] * level.width + x.index[corner & 1];
  }
  __device__ bool inside(int corner) const { return x.inside[corner & 1] && y.inside[corner >> 1]; }
};

template <typename S, typename C, bool kFused>
__device__ inline Location<C> locate(const Problem& p, const LevelTable& table, int64_t row, int k) {
  const DeviceLevel level = level_of(table, p.rows, k / int(p.points));
  const int64_t count = p.levels * p.points;
  const S* position = static_cast<const S*>(p.position) + (row * count + k) * 2;
  const C w = C(level.width), h = C(level.height), u = widen(position[0]), v = widen(position[1]);
  C x, y;
  if constexpr (kFused) {
    const int64_t pair = row / p.heads, query = p.shared_centers ? pair % p.queries : pair;
    const C* center = static_cast<const C*>(p.centers) + query * 2;
    const C eighth = C(1) / kOffsetScale;
    x = fma(u, w * eighth, fma(center[0], w, C(-0.5))), y = fma(v, h * eighth, fma(center[1], h, C(-0.5)));
  } else {
    x = fma(u, w, C(-0.5)), y = fma(v, h, C(-0.5));
  }
  return {level, Axis<C>(x, level.width), Axis<C>(y, level.height)};
}

// The softmax of a row: weight = exp(logit - largest) * scale.
template <typename C>
struct RowSoftmax {
  C largest, scale;
};

// Every thread of the block takes part; `partial` has an entry for each. The sums are taken in a fixed order.
template <typename S, typename C>
__device__ inline RowSoftmax<C> row_softmax(const Problem& p, int64_t row, bool active, int lane, int lanes, C* partial) {
  const int count = int(p.levels * p.points);
  const S* logits = static_cast<const S*>(p.score) + row * count;
  C* mine = partial + (threadIdx.x - lane);
  C largest = -INFINITY;
  if (active)
    for (int k = lane; k < count; k += lanes) largest = fmax(largest, widen(logits[k]));
  mine[lane] = largest;
  __syncthreads();
  for (int i = 0; i < lanes; ++i) largest = fmax(largest, mine[i]);
  __syncthreads();
  C sum = 0;
  if (active)
    for (int k = lane; k < count; k += lanes) sum += exp(widen(logits[k]) - largest);
  mine[lane] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < lanes; ++i) sum += mine[i];
  return {largest, 1 / sum};
}

template <typename S, typename C, bool kFused>
__device__ inline C weight_of(const Problem& p, int64_t row, int k, const RowSoftmax<C>& softmax) {
  const C score = widen(static_cast<const S*>(p.score)[row * p.levels * p.points + k]);
  return kFused ? exp(score - softmax.largest) * softmax.scale : score;
}

// A launch's shape. Shared memory: rows x (chunk + 1) points, then a partial result per thread and a softmax per row.
// The spare point shifts neighbouring rows to other banks.
struct Shape {
  int lanes, rows, chunk;

  template <typename Point, typename C>
  size_t shared_bytes() const {
    return sizeof(Point) * rows * (chunk + 1) + sizeof(C) * lanes * rows + sizeof(RowSoftmax<C>) * rows;
  }
};

// The block's shared memory, and a thread's part: `lane` of the row in `slot`, which is not active past the last row.
template <typename Point, typename C>
struct Block {
  const Problem& p;
  const Shape& shape;
  Point* points;
  C* partial;
  RowSoftmax<C>* softmax;
  int count, lane, slot;  // count: points of a row
  int64_t total, first, row;
  bool active;

  __device__ Block(const Problem& problem, const Shape& shape_in, unsigned char* memory)
      : p(problem), shape(shape_in), points(reinterpret_cast<Point*>(memory)),
        partial(reinterpret_cast<C*>(points + shape.rows * (shape.chunk + 1))),
        softmax(reinterpret_cast<RowSoftmax<C>*>(partial + blockDim.x)), count(int(p.levels * p.points)),
        lane(threadIdx.x % shape.lanes), slot(threadIdx.x / shape.lanes), total(p.batch * p.queries * p.heads),
        first(int64_t(blockIdx.x) * shape.rows), row(first + slot), active(row < total) {}

  // The softmax of the thread's row, which `fill` finds too.
  template <typename S>
  __device__ RowSoftmax<C> share_softmax() {
    const RowSoftmax<C> mine = row_softmax<S, C>(p, row, active, lane, shape.lanes, partial);
    if (lane == 0) softmax[slot] = mine;
    return mine;
  }

  // Puts `size` points from `begin` on of every row, make(row, point, softmax) each, into shared memory.
  template <typename Make>
  __device__ void fill(int begin, int size, const Make& make) {
    __syncthreads();
    for (int i = threadIdx.x; i < shape.rows * size; i += blockDim.x) {
      const int other = i / size, k = i % size;
      if (first + other < total)
        points[other * (shape.chunk + 1) + k] = make(first + other, begin + k, softmax[other]);
    }
    __syncthreads();
  }
  // Of those, the thread's row's.
  __device__ const Point& point(int k) const { return points[slot * (shape.chunk + 1) + k]; }
};

}  // namespace mdqe
