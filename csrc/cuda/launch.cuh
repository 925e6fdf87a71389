// What the launches of the CUDA kernels share.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "../arguments.h"
#include "device.cuh"

namespace mdqe {

void launch_forward(const Arguments& arguments, const LevelTable& table, cudaStream_t stream);
void launch_backward(const Arguments& arguments, const LevelTable& table, cudaStream_t stream);

// About 256 threads, at most 64 rows: under 40 KB of shared memory.
inline Shape make_shape(int lanes, size_t compute_bytes) {
  const int rows = 256 / lanes;
  return {lanes, rows < 64 ? rows : 64, compute_bytes == 4 ? 16 : 8};
}

inline dim3 make_grid(const Problem& p, const Shape& shape, int64_t blocks_per_row) {
  const int64_t rows = p.batch * p.queries * p.heads, blocks = (rows + shape.rows - 1) / shape.rows;
  require(blocks <= INT32_MAX && blocks_per_row <= 65535 && p.levels * p.points <= INT32_MAX,
          "the problem is too large for one launch: B * Q * H = ", rows, ", D = ", p.channels);
  return dim3(unsigned(blocks), unsigned(blocks_per_row));
}

// Calls f with a constant: how many entries a thread loads at once, 16 bytes where rows and pointers allow it, else one.
template <typename V, typename Function>
void for_vector(const Problem& p, std::initializer_list<const void*> pointers, const Function& f) {
  constexpr int kVector = 16 / sizeof(V);
  bool aligned = p.channels % kVector == 0;
  for (const void* pointer : pointers) aligned = aligned && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  if (aligned) f(std::integral_constant<int, kVector>());
  else f(std::integral_constant<int, 1>());
}

// Calls f with a value of the C++ type that stands for `type`.
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
