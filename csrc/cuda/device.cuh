// Shared by the CUDA kernels: types, 16-byte loads, the level table, points in shared memory, the softmax of a row.
//
// A row is one (batch, query, head), numbered in that order. A block processes some queries of one or a few heads. `lanes`
// threads work on each row, every thread on up to 16 bytes of channels. First, all threads of the block compute the points
// of all its rows, one point per thread, and write them to shared memory. Then the threads of each row read them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "../problem.h"

namespace mdqe {

// Levels by value in the kernel's arguments, or as the caller's tensors on the device.
struct LevelTable {
  static constexpr int kMost = 64;
  int height[kMost], width[kMost], start[kMost];
  const int64_t* shapes;  // (L, 2); null if the arrays contain the levels
  const int64_t* starts;  // (L)
};

struct DeviceLevel {
  int height, width, start;
};

// A level of a device table that does not fit into value is treated as a level without pixels.
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

// Widens the two entries in 32 bits.
template <typename V>
__device__ inline void widen_pair(uint32_t bits, float* to) {
  V pair[2];
  memcpy(pair, &bits, 4);
  to[0] = widen(pair[0]), to[1] = widen(pair[1]);
}
template <>
__device__ inline void widen_pair<__nv_bfloat16>(uint32_t bits, float* to) {
  to[0] = __uint_as_float(bits << 16), to[1] = __uint_as_float(bits & 0xffff0000u);
}

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

// kVector consecutive entries: one, or as many as fit into 16 bytes.
template <typename V, int kVector>
struct alignas(sizeof(V) * kVector) Pack {
  V entry[kVector];
};

template <typename V, int kVector>
__device__ inline void load(const V* from, typename Compute<V>::type* to) {
  if constexpr (sizeof(V) == 2 && kVector == 8) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
    widen_pair<V>(bits.x, to), widen_pair<V>(bits.y, to + 2);
    widen_pair<V>(bits.z, to + 4), widen_pair<V>(bits.w, to + 6);
  } else {
    Pack<V, kVector> pack;
    if constexpr (sizeof(pack) == 16) {
      *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(from));
    } else {
      pack = *reinterpret_cast<const Pack<V, kVector>*>(from);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = widen(pack.entry[i]);
  }
}

template <typename V, int kVector>
__device__ inline void store(V* to, const typename Compute<V>::type* from) {
  Pack<V, kVector> pack;
#pragma unroll
  for (int i = 0; i < kVector; ++i) pack.entry[i] = narrow<V>(from[i]);
  *reinterpret_cast<Pack<V, kVector>*>(to) = pack;
}

// One axis of a point: two pixels, whether they are inside the map, and the fraction between them.
template <typename C>
struct Axis {
  int index[2];
  bool inside[2];
  C fraction;

  __device__ Axis(C x, int size) {
    const C low = floor(x), last = C(size - 1);
    // Comparisons with NaN are false, so a location that is not finite is outside.
    inside[0] = low >= C(0) && low <= last, inside[1] = low + 1 >= C(0) && low + 1 <= last;
    fraction = inside[0] || inside[1] ? x - low : C(0);
    index[0] = inside[0] ? int(low) : 0, index[1] = inside[1] ? int(low + 1) : 0;
  }
  __device__ C weight(int side) const { return inside[side] ? (side ? fraction : 1 - fraction) : C(0); }
};

// The location of a point: its level, and both axes in pixels of that level. Corners are numbered (y0, x0), (y0, x1),
// (y1, x0), (y1, x1).
template <typename C>
struct Location {
  DeviceLevel level;
  Axis<C> x, y;

  // The row of value at a corner, times `stride`, the size of a pixel of all heads in any unit.
  __device__ unsigned row(int corner, unsigned stride) const {
    return unsigned(level.start + y.index[corner >> 1] * level.width + x.index[corner & 1]) * stride;
  }
  __device__ bool inside(int corner) const { return x.inside[corner & 1] && y.inside[corner >> 1]; }
};

// The softmax of a row: weight = exp(logit - largest) * scale.
template <typename C>
struct RowSoftmax {
  C largest, scale;
};

template <typename S, typename C, bool kFused>
__device__ inline C weight_of(const S* score, const RowSoftmax<C>& softmax) {
  const C x = widen(*score);
  return kFused ? exp(x - softmax.largest) * softmax.scale : x;
}

// Shape of a launch: a block has `lanes` threads for each of `rows` rows, which are 2^shift heads of some queries. `blocks`
// such blocks cover all queries.
struct Shape {
  unsigned lanes, rows, shift, blocks;
};

// A block processes consecutive queries of one batch item and 2^shift consecutive heads of them, so that neighbouring
// queries find each other's pixels in the L1 cache. threadIdx.x is the lane of a thread. threadIdx.y is its slot; the heads
// of a query have consecutive slots. `kChunk` points of every row are computed at a time, by kChunk threads with one point
// each.
template <typename Point, typename C>
struct Block {
  static constexpr unsigned kChunk = 8;  // less shared memory leaves more L1 cache
  static constexpr unsigned kRowBytes = kChunk * sizeof(Point) + 16;  // 16 more: the rows of a warp use different banks

  const Problem& p;
  unsigned char* points;
  RowSoftmax<C>* softmax;
  const int count, heads;  // points per query and head, heads
  const unsigned lane, slot, thread, threads, rows, shift, item, here;  // here: number of slots with a row
  const int64_t query, row;  // first query of the block, and its first (query, head)
  const bool active;

  __device__ Block(const Problem& problem, const Shape& shape, unsigned char* memory)
      : p(problem), points(memory), softmax(reinterpret_cast<RowSoftmax<C>*>(memory + shape.rows * kRowBytes)),
        count(int(p.levels) * int(p.points)), heads(int(p.heads)), lane(threadIdx.x), slot(threadIdx.y),
        thread(slot * shape.lanes + lane), threads(shape.lanes * shape.rows), rows(shape.rows),
        shift(shape.shift), item(blockIdx.x / shape.blocks),
        here(queries_from(blockIdx.x % shape.blocks * (rows >> shift), rows >> shift) << shift),
        query(item * p.queries + blockIdx.x % shape.blocks * (rows >> shift)),
        row(query * heads + (blockIdx.y << shift)), active(slot < here) {}

  static size_t shared_bytes(const Shape& shape) { return shape.rows * (kRowBytes + sizeof(RowSoftmax<C>)); }

  __device__ unsigned queries_from(unsigned first, unsigned most) const {
    const int64_t left = p.queries - first;
    return left < most ? unsigned(left) : most;
  }
  // Index in value of the first row of the batch item, as Problem::first_row.
  __device__ int64_t first_row() const {
    const unsigned frames = unsigned(p.frames);
    return frames == 1 ? item * p.clip_step : item / frames * p.clip_step + item % frames * p.frame_step;
  }
  // The head of a slot within the block, the head of this thread's slot, and the (batch, query, head) of a slot.
  __device__ unsigned head_in_block(unsigned at) const { return at & ((1u << shift) - 1); }
  __device__ unsigned head() const { return (blockIdx.y << shift) + head_in_block(slot); }
  __device__ int64_t row_at(unsigned at) const { return row + int64_t(at >> shift) * heads + head_in_block(at); }

  // Writes the softmax of every row to shared memory, valid after the next barrier. Sums have a fixed order.
  template <typename S>
  __device__ void share_softmax() {
    const unsigned first = thread % kChunk;
    for (unsigned start = 0; start < rows; start += threads / kChunk) {
      const unsigned at = start + thread / kChunk;
      const S* logits = static_cast<const S*>(p.score) + row_at(at) * count;
      C largest = -INFINITY, sum = 0;
      if (at < here)
        for (int k = first; k < count; k += kChunk) largest = fmax(largest, widen(logits[k]));
      for (unsigned step = kChunk / 2; step > 0; step /= 2)
        largest = fmax(largest, __shfl_xor_sync(0xffffffffu, largest, step));
      if (at < here)
        for (int k = first; k < count; k += kChunk) sum += exp(widen(logits[k]) - largest);
      for (unsigned step = kChunk / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (at < here && first == 0) softmax[at] = {largest, 1 / sum};
    }
  }

  // Writes points [begin, begin + size) of every row to shared memory, each as Point::make(location, weight, stride).
  template <typename S, bool kFused>
  __device__ void fill(const LevelTable& table, int begin, int size, unsigned stride) {
    __syncthreads();
    const unsigned k = thread % kChunk;
    if (k < unsigned(size)) {
      const DeviceLevel level = level_of(table, p.rows, unsigned(begin + k) / unsigned(p.points));
      const C w = C(level.width), h = C(level.height);
      const int64_t first = row * count + begin + k;
      const S* position = static_cast<const S*>(p.position) + first * 2;
      const S* score = static_cast<const S*>(p.score) + first;
      const C* center = nullptr;
      if constexpr (kFused)
        center = static_cast<const C*>(p.centers) + (p.shared_centers ? query - item * p.queries : query) * 2;
      const int step = heads * count;
      for (unsigned at = thread / kChunk; at < here; at += threads / kChunk) {
        const int64_t offset = int64_t(at >> shift) * step + head_in_block(at) * count;
        const C u = widen(position[2 * offset]), v = widen(position[2 * offset + 1]);
        C x, y;
        if constexpr (kFused) {
          const C eighth = C(1) / kOffsetScale;
          x = fma(u, w * eighth, fma(center[2 * (at >> shift)], w, C(-0.5)));
          y = fma(v, h * eighth, fma(center[2 * (at >> shift) + 1], h, C(-0.5)));
        } else {
          x = fma(u, w, C(-0.5)), y = fma(v, h, C(-0.5));
        }
        const Location<C> location{level, Axis<C>(x, level.width), Axis<C>(y, level.height)};
        put(at, k, Point::make(location, weight_of<S, C, kFused>(score + offset, softmax[at]), stride));
      }
    }
    __syncthreads();
  }
  // Reads point k of this thread's row.
  __device__ Point point(int k) const {
    Pieces pieces;
#pragma unroll
    for (unsigned i = 0; i < kPieces; ++i) pieces.piece[i] = piece_at(slot, i, k);
    return *reinterpret_cast<const Point*>(&pieces);
  }

 private:
  // A point is stored in 16-byte pieces. Equal pieces of the points of a row are adjacent, which avoids bank conflicts.
  static constexpr unsigned kPieces = sizeof(Point) / 16;
  struct alignas(16) Pieces {
    uint4 piece[kPieces];
  };

  __device__ uint4& piece_at(unsigned at, unsigned piece, unsigned k) const {
    return reinterpret_cast<uint4*>(points + at * kRowBytes)[piece * kChunk + k];
  }
  __device__ void put(unsigned at, unsigned k, const Point& point) const {
    const Pieces& pieces = *reinterpret_cast<const Pieces*>(&point);
#pragma unroll
    for (unsigned i = 0; i < kPieces; ++i) piece_at(at, i, k) = pieces.piece[i];
  }
};

}  // namespace mdqe
