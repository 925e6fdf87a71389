// Deformable attention with one thread per channel, the classical mapping, in float32. The kernels of this package are
// compared with it on a GPU. Every thread of a (batch, query, head) computes the same coordinates and loads four bytes of a
// row. The gradient of value is accumulated with scalar atomics. Plain C functions, for ctypes.

#include <cuda_runtime.h>

#include <cstdint>

namespace {

struct Problem {
  const float* value;      // (B, N, H, D)
  const int64_t* shapes;   // (L, 2) height, width
  const int64_t* starts;   // (L)
  const float* locations;  // (B, Q, H, L, P, 2)
  const float* weights;    // (B, Q, H, L, P)
  int batch, rows, heads, channels, queries, levels, points;
};

// The corners of one point, for one channel: indices into value from the start of the batch item, or -1 outside the map.
struct Corners {
  int64_t entry[4];
  float weight[4], fraction_x, fraction_y, width, height;

  __device__ Corners(const Problem& p, int64_t row, int level, int k, int64_t channel) {
    const int64_t first = p.starts[level];
    height = float(p.shapes[2 * level]), width = float(p.shapes[2 * level + 1]);
    const float* location = p.locations + (row * p.levels * p.points + k) * 2;
    const float x = location[0] * width - 0.5f, y = location[1] * height - 0.5f;
    const float left = floorf(x), top = floorf(y);
    fraction_x = x - left, fraction_y = y - top;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const int i = corner & 1, j = corner >> 1;
      const float column = left + i, line = top + j;
      // Comparisons with NaN are false.
      const bool inside = column >= 0 && column <= width - 1 && line >= 0 && line <= height - 1;
      weight[corner] = (i ? fraction_x : 1 - fraction_x) * (j ? fraction_y : 1 - fraction_y);
      entry[corner] = inside ? (first + int64_t(line) * int64_t(width) + int64_t(column)) * p.heads * p.channels + channel
                             : -1;
    }
  }
};

__global__ void forward_kernel(const Problem p, float* output) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / p.channels, item = row / (int64_t(p.queries) * p.heads);
  if (item >= p.batch) return;
  const int64_t channel = row % p.heads * p.channels + index % p.channels;
  const float* value = p.value + item * p.rows * p.heads * p.channels;
  float sum = 0;
  for (int k = 0; k < p.levels * p.points; ++k) {
    const Corners corners(p, row, k / p.points, k, channel);
    float sample = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (corners.entry[c] >= 0) sample += corners.weight[c] * value[corners.entry[c]];
    sum += p.weights[row * p.levels * p.points + k] * sample;
  }
  output[index] = sum;
}

// A block is a (batch, query, head), and a thread is a channel. Shared memory: three numbers per thread.
__global__ void backward_kernel(const Problem p, const float* grad_output, float* grad_value, float* grad_locations,
                                float* grad_weights) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* partial = reinterpret_cast<float*>(memory);
  const int64_t row = blockIdx.x, item = row / (int64_t(p.queries) * p.heads);
  const int me = threadIdx.x, count = p.levels * p.points;
  const int64_t channel = row % p.heads * p.channels + me, offset = item * p.rows * p.heads * p.channels;
  const float gradient = grad_output[row * p.channels + me];
  for (int k = 0; k < count; ++k) {
    const Corners corners(p, row, k / p.points, k, channel);
    const float weight = p.weights[row * count + k], fx = corners.fraction_x, fy = corners.fraction_y;
    float entry[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      entry[c] = 0;
      if (corners.entry[c] < 0) continue;
      entry[c] = p.value[offset + corners.entry[c]];
      atomicAdd(grad_value + offset + corners.entry[c], gradient * weight * corners.weight[c]);
    }
    float sample = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (corners.entry[c] >= 0) sample += corners.weight[c] * entry[c];
    const float along_x = (1 - fy) * (entry[1] - entry[0]) + fy * (entry[3] - entry[2]);
    const float along_y = (1 - fx) * (entry[2] - entry[0]) + fx * (entry[3] - entry[1]);
    const bool any = corners.entry[0] >= 0 || corners.entry[1] >= 0 || corners.entry[2] >= 0 || corners.entry[3] >= 0;
    partial[3 * me] = gradient * sample;
    partial[3 * me + 1] = any ? gradient * weight * corners.width * along_x : 0;
    partial[3 * me + 2] = any ? gradient * weight * corners.height * along_y : 0;
    __syncthreads();
    for (int left = p.channels; left > 1; left = (left + 1) / 2) {
      const int other = me + (left + 1) / 2;
      if (other < left)
        for (int i = 0; i < 3; ++i) partial[3 * me + i] += partial[3 * other + i];
      __syncthreads();
    }
    if (me == 0) {
      grad_weights[row * count + k] = partial[0];
      grad_locations[2 * (row * count + k)] = partial[1];
      grad_locations[2 * (row * count + k) + 1] = partial[2];
    }
    __syncthreads();
  }
}

}  // namespace

// sizes: B, N, H, D, Q, L, P. Both functions return CUDA's error code, 0 for a successful launch.
extern "C" int classical_forward(const float* value, const int64_t* shapes, const int64_t* starts, const float* locations,
                                 const float* weights, const int* sizes, float* output, void* stream) {
  const Problem p{value,    shapes,   starts,   locations, weights,  sizes[0],
                  sizes[1], sizes[2], sizes[3], sizes[4],  sizes[5], sizes[6]};
  const int64_t entries = int64_t(p.batch) * p.queries * p.heads * p.channels;
  const unsigned blocks = unsigned((entries + 255) / 256);
  forward_kernel<<<blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(p, output);
  return int(cudaGetLastError());
}

// grad_value must be zero.
extern "C" int classical_backward(const float* grad_output, const float* value, const int64_t* shapes,
                                  const int64_t* starts, const float* locations, const float* weights, const int* sizes,
                                  float* grad_value, float* grad_locations, float* grad_weights, void* stream) {
  const Problem p{value,    shapes,   starts,   locations, weights,  sizes[0],
                  sizes[1], sizes[2], sizes[3], sizes[4],  sizes[5], sizes[6]};
  const unsigned blocks = unsigned(int64_t(p.batch) * p.queries * p.heads), threads = unsigned(p.channels);
  backward_kernel<<<blocks, threads, 3 * threads * sizeof(float), static_cast<cudaStream_t>(stream)>>>(
      p, grad_output, grad_value, grad_locations, grad_weights);
  return int(cudaGetLastError());
}
