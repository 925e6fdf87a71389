// Shared by the launches of the CUDA kernels.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "../arguments.h"
#include "device.cuh"

namespace mdqe {

void launch_forward(const Arguments& arguments, const LevelTable& table, cudaStream_t stream);
void launch_backward(const Arguments& arguments, const LevelTable& table, cudaStream_t stream);

constexpr int kMostThreads = 256;

// A row has as many lanes as packs of channels; a power of two if there are many packs or sums are taken across lanes. A
// block has up to 256 threads in whole warps, because the kernels shuffle in whole warps, and at most 64 rows, which need
// less than 40 KB of shared memory.
inline Shape make_shape(const Problem& p, int64_t packs, bool power_of_two, unsigned shift = 0) {
  int64_t lanes = packs;
  if (power_of_two || packs > 8)
    for (lanes = 1; lanes < 32 && lanes < packs;) lanes *= 2;
  const int64_t rows = lanes > 8 ? kMostThreads / lanes : lanes > 4 ? 32 : 64;
  const int64_t queries = rows >> shift, blocks = (p.queries + queries - 1) / queries;
  return {unsigned(lanes), unsigned(rows), shift, unsigned(blocks)};
}

inline dim3 make_grid(const Problem& p, const Shape& shape, int64_t blocks_per_row) {
  require(product({shape.blocks, p.batch}) <= INT32_MAX && p.queries <= INT32_MAX && p.heads <= 65535 &&
              blocks_per_row <= 65535 && product({p.heads, p.levels, p.points}) <= INT32_MAX / 2 &&
              product({p.heads, p.channels}) <= INT32_MAX / 8 && product({p.rows, p.heads, p.channels}) <= UINT32_MAX,
          "the problem is too large for one launch: B * Q = ", product({p.batch, p.queries}), ", H = ", p.heads,
          ", D = ", p.channels, ", N = ", p.rows);
  return dim3(shape.blocks * unsigned(p.batch), unsigned(p.heads >> shape.shift), unsigned(blocks_per_row));
}

// Calls f with the number of entries per load as a constant: kVector if rows and pointers are aligned for it, otherwise
// one.
template <int kVector, typename Function>
void for_vector(const Problem& p, std::initializer_list<const void*> pointers, const Function& f) {
  bool aligned = p.channels % kVector == 0;
  for (const void* pointer : pointers) aligned = aligned && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  if (aligned) f(std::integral_constant<int, kVector>());
  else f(std::integral_constant<int, 1>());
}

// Calls f with a value of the C++ type for `type`.
template <typename Function>
void for_value_type(ScalarType type, const Function& f) {
  switch (type) {
    case ScalarType::Double: return f(double());
    case ScalarType::Float: return f(float());
    case ScalarType::Half: return f(__half());
    case ScalarType::BFloat16: return f(__nv_bfloat16());
    default: require(false, "value must be float64, float32, bfloat16 or float16");
  }
}

}  // namespace mdqe
