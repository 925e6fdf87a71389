// Just enough of CUDA to run the kernels' own source on a CPU, for tests on machines without a GPU. A block's threads are
// fibers: each runs until it meets a barrier. Shared memory starts as garbage; misaligned vector accesses and barriers
// that not all threads meet end the program.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 900  // with additions of four floats at once
#define CUDART_VERSION 13000

using cudaStream_t = void*;
inline int cudaGetLastError() { return 0; }
using std::min;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_in = 1, unsigned y_in = 1, unsigned z_in = 1) : x(x_in), y(y_in), z(z_in) {}
};
struct uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace simulated {
extern dim3 thread, block, threads;
extern unsigned char* shared_memory;
extern double exchange[1024];  // what each thread shows the others
void barrier();
void launch(dim3 grid, dim3 block_threads, size_t shared_bytes, cudaStream_t, const std::function<void()>& kernel);
template <typename T>
void require_aligned(const T* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16) std::abort();
}
}  // namespace simulated

#define threadIdx simulated::thread
#define blockIdx simulated::block
#define blockDim simulated::threads

inline void __syncthreads() { simulated::barrier(); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int lanes) {
  if (mask != 0xffffffffu) std::abort();
  const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
  simulated::exchange[me] = x;
  simulated::barrier();
  const T other = T(simulated::exchange[me / 32 * 32 + ((me % 32) ^ unsigned(lanes))]);
  simulated::barrier();
  return other;
}

template <typename T>
T __ldg(const T* from) {
  simulated::require_aligned(from);
  return *from;
}

inline void atomicAdd(float* to, float x) { *to += x; }
inline void atomicAdd(double* to, double x) { *to += x; }
inline void atomicAdd(float4* to, float4 x) {
  simulated::require_aligned(to);
  to->x += x.x, to->y += x.y, to->z += x.z, to->w += x.w;
}
