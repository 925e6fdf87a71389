// Entry points of the CPU kernels, one table per instruction set. Nothing here depends on PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../problem.h"

namespace mdqe {

struct BFloat16 {
  uint16_t bits;

  operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float result;
    std::memcpy(&result, &wide, sizeof result);
    return result;
  }
  static BFloat16 round(float x) {  // to nearest, ties to even
    uint32_t wide;
    std::memcpy(&wide, &x, sizeof wide);
    if (x != x) return {0x7fc0};
    return {uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16)};
  }
};

// Processes a range of (batch, place in the order of queries) pairs, numbered batch * Q + place.
using ForwardKernel = void (*)(const Problem&, int64_t begin, int64_t end);
// Processes all queries of one batch item, in order, for heads [begin, end). No two calls write to the same row.
using BackwardKernel = void (*)(const Problem&, int64_t item, int64_t head_begin, int64_t head_end);

// Packs the signs of n floats into words and returns whether all are finite; see signs.inl.
using PackKernel = bool (*)(const float* values, int64_t n, uint64_t* words);
// Counts the bits that n words have in common.
using SharedKernel = int64_t (*)(const uint64_t* a, const uint64_t* b, int64_t n);

// A 3x3 convolution with stride 1 and padding 1 of float32 maps, channels last. C and O are multiples of these constants.
constexpr int64_t kConvolutionInputs = 8, kConvolutionOutputs = 16, kConvolutionTiles = 48;
struct Convolution {
  const float *input, *weight, *bias;  // (B, H, W, C) with item_step numbers from item to item; (O, C, 3, 3); (O)
  float *filters, *output;             // the transformed weights, 16 * O * C numbers; (B, H, W, O)
  int64_t item_step, height, width, inputs, outputs;
};
inline int64_t convolution_scratch(const Convolution& p) {  // in numbers
  return 16 * kConvolutionTiles * (p.inputs + kConvolutionOutputs) + p.inputs;
}
using FilterKernel = void (*)(const Convolution&, int64_t begin, int64_t end);
using ConvolutionKernel = void (*)(const Convolution&, int64_t begin, int64_t end, float* scratch);

struct KernelTable {
  const char* name;
  ForwardKernel forward_f32, forward_bf16;                    // positions and scores are float
  ForwardKernel fused_f32, fused_bf16, fused_bf16_bf16;       // the last: offsets and logits are bfloat16
  BackwardKernel backward_f32, backward_bf16;                 // positions and scores are float
  BackwardKernel fused_backward_f32, fused_backward_bf16;
  PackKernel pack_signs;
  SharedKernel count_shared;
  FilterKernel transform_filters = nullptr;  // see winograd.inl; none for a processor without AVX2
  ConvolutionKernel convolve = nullptr;
};

const KernelTable& kernels_in_use();

const KernelTable& plain_kernels();
ForwardKernel plain_forward_f64(bool fused);
BackwardKernel plain_backward_f64(bool fused);

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define MDQE_X86_KERNELS 1
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
#endif

}  // namespace mdqe

// Functions between these two macros are compiled for a processor with the given features. Include headers before: the
// linker could otherwise keep the copy of an inline function compiled for such a processor, and use it on every processor.
#ifdef MDQE_X86_KERNELS
#define MDQE_PRAGMA(...) _Pragma(#__VA_ARGS__)
#ifdef __clang__
#define MDQE_BEGIN_TARGET(features) \
  MDQE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define MDQE_END_TARGET MDQE_PRAGMA(clang attribute pop)
#else
#define MDQE_BEGIN_TARGET(features) MDQE_PRAGMA(GCC push_options) MDQE_PRAGMA(GCC target(features))
#define MDQE_END_TARGET MDQE_PRAGMA(GCC pop_options)
#endif
#endif
