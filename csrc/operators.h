// The operators as PyTorch calls them, shared by the CPU and the CUDA library. Gradients have the compute type: float64 for
// float64 value and float32 for all other types. Autograd casts them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "arguments.h"

namespace mdqe {

// A Device has three functions:
//   forward(Arguments&) -> Tensor and backward(Arguments&) -> Arguments::Gradients, which check the supported types;
//   levels(const LevelTensors&), which returns the LevelTensors if its kernels read them, or the flat level table.
template <typename Device>
struct Operators {
  using Levels = std::vector<int64_t>;  // flat: height, width and first row in value, for each level
  using Gradients = std::tuple<Tensor, Tensor, Tensor>;

  static Tensor plain(Tensor value, Levels levels, Tensor locations, Tensor weights) {
    return forward(value, levels, nullptr, locations, weights);
  }
  static Gradients plain_backward(Tensor grad, Tensor value, Levels levels, Tensor locations, Tensor weights) {
    return backward(grad, value, levels, nullptr, locations, weights);
  }

  static Tensor fused(Tensor value, Levels levels, Tensor centers, Tensor offsets, Tensor logits) {
    return forward(value, levels, &centers, offsets, logits);
  }
  static Gradients fused_backward(Tensor grad, Tensor value, Levels levels, Tensor centers, Tensor offsets,
                                  Tensor logits) {
    return backward(grad, value, levels, &centers, offsets, logits);
  }

  static Tensor table(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights) {
    return forward(value, Device::levels(check_level_tensors(value, shapes, starts)), nullptr, locations, weights);
  }
  static Gradients table_backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts, Tensor locations,
                                  Tensor weights) {
    return backward(grad, value, Device::levels(check_level_tensors(value, shapes, starts)), nullptr, locations,
                    weights);
  }

  template <typename Library>
  static void implement(Library& m) {
    m.impl("deform_attn", TORCH_BOX(&Operators::plain));
    m.impl("deform_attn_backward", TORCH_BOX(&Operators::plain_backward));
    m.impl("deform_attn_fused", TORCH_BOX(&Operators::fused));
    m.impl("deform_attn_fused_backward", TORCH_BOX(&Operators::fused_backward));
    m.impl("deform_attn_table", TORCH_BOX(&Operators::table));
    m.impl("deform_attn_table_backward", TORCH_BOX(&Operators::table_backward));
  }

 private:
  template <typename Table>
  static Tensor forward(const Tensor& value, const Table& levels, const Tensor* centers, const Tensor& position,
                        const Tensor& score) {
    Arguments a(value, count_levels(levels), centers, position, score, nullptr);
    a.set_levels(levels);
    return Device::forward(a);
  }

  template <typename Table>
  static Gradients backward(const Tensor& grad, const Tensor& value, const Table& levels, const Tensor* centers,
                            const Tensor& position, const Tensor& score) {
    Arguments a(value, count_levels(levels), centers, position, score, &grad);
    a.set_levels(levels);
    const Arguments::Gradients grads = Device::backward(a);
    return {grads.value, grads.position, grads.score};
  }
};

}  // namespace mdqe
