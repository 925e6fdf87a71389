// 3x3 convolutions on a CPU; see cpu/winograd.inl.

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "cpu/kernels.h"

namespace mdqe {
namespace {

constexpr size_t kLine = 16;  // numbers in a line of the cache

void check(const Tensor& tensor, const char* name, const char* axes, int64_t dim) {
  require(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float && tensor.dim() == dim, name, " must be ", axes,
          " float32 on the CPU, got ", size_of(tensor), " ", name_of(tensor.scalar_type()));
}

// input (B, H, W, C), whose items may lie anywhere, weight (O, C, 3, 3) and bias (O) -> (B, H, W, O): stride 1, padding 1.
Tensor conv3x3(Tensor input, Tensor weight, Tensor bias) {
  const KernelTable& kernels = kernels_in_use();
  require(kernels.convolve, "conv3x3 has no kernel for this processor");
  check(input, "input", "(B, H, W, C)", 4), check(weight, "weight", "(O, C, 3, 3)", 4), check(bias, "bias", "(O)", 1);
  const int64_t batch = input.size(0), height = input.size(1), width = input.size(2), channels = input.size(3);
  const int64_t outputs = weight.size(0);
  require(weight.size(1) == channels && weight.size(2) == 3 && weight.size(3) == 3 && bias.size(0) == outputs,
          "weight must be (O, ", channels, ", 3, 3) and bias (O), got ", size_of(weight), " and ", size_of(bias));
  require(channels % kConvolutionInputs == 0 && outputs % kConvolutionOutputs == 0, "weight must have multiples of ",
          kConvolutionOutputs, " outputs and ", kConvolutionInputs, " inputs, got ", size_of(weight));
  Tensor output = torch::stable::new_empty(input, {batch, height, width, outputs});
  if (product({batch, height, width, outputs}) == 0) return output;
  if (input.stride(3) != 1 || input.stride(2) != channels || input.stride(1) != width * channels)
    input = torch::stable::contiguous(input);
  weight = torch::stable::contiguous(weight), bias = torch::stable::contiguous(bias);
  Tensor filters = torch::stable::new_empty(input, {16, outputs, channels});

  Convolution p;
  p.input = static_cast<const float*>(input.const_data_ptr());
  p.weight = static_cast<const float*>(weight.const_data_ptr());
  p.bias = static_cast<const float*>(bias.const_data_ptr());
  p.filters = static_cast<float*>(filters.mutable_data_ptr());
  p.output = static_cast<float*>(output.mutable_data_ptr());
  p.item_step = input.stride(0), p.height = height, p.width = width, p.inputs = channels, p.outputs = outputs;
  torch::stable::parallel_for(0, outputs / kConvolutionOutputs, 1,
                              [&](int64_t begin, int64_t end) { kernels.transform_filters(p, begin, end); });
  const int64_t tiles = batch * ((height + 1) / 2) * ((width + 1) / 2);
  torch::stable::parallel_for(0, tiles, 12, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> memory(new float[size_t(convolution_scratch(p)) + kLine]);
    float* scratch = memory.get() + (kLine - uintptr_t(memory.get()) / sizeof(float) % kLine);  // a line of the cache
    for (int64_t tile = begin; tile < end; tile += kConvolutionTiles)
      kernels.convolve(p, tile, std::min(tile + kConvolutionTiles, end), scratch);
  });
  return output;
}

}  // namespace
}  // namespace mdqe

STABLE_TORCH_LIBRARY_FRAGMENT(mdqe, m) { m.def("conv3x3(Tensor input, Tensor weight, Tensor bias) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(mdqe, CPU, m) { m.impl("conv3x3", TORCH_BOX(&mdqe::conv3x3)); }
