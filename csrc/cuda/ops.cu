// The operators' CUDA kernels. Their schemas are in the CPU library, which is loaded first.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <tuple>

#include "launch.cuh"

namespace mdqe {
namespace {

// A level table for the kernels. More levels than the arrays hold go to the device, and live as long as this.
struct DeviceLevels {
  LevelTable table{};
  Tensor shapes, starts;

  DeviceLevels(const Arguments& a, cudaStream_t stream) {
    const size_t count = a.levels.size();
    if (count <= size_t(LevelTable::kMost)) {
      for (size_t l = 0; l < count; ++l) {
        table.height[l] = int(a.levels[l].height), table.width[l] = int(a.levels[l].width);
        table.start[l] = int(a.levels[l].start);
      }
      return;
    }
    std::vector<int64_t> pairs, firsts;
    for (const Level& level : a.levels) {
      pairs.insert(pairs.end(), {level.height, level.width});
      firsts.push_back(level.start);
    }
    shapes = torch::stable::new_empty(a.value, {int64_t(count), 2}, ScalarType::Long);
    starts = torch::stable::new_empty(a.value, {int64_t(count)}, ScalarType::Long);
    copy(pairs, shapes, stream), copy(firsts, starts, stream);
    use(shapes, starts);
  }

  DeviceLevels(const Tensor& shapes_in, const Tensor& starts_in)
      : shapes(torch::stable::contiguous(shapes_in)), starts(torch::stable::contiguous(starts_in)) {
    use(shapes, starts);
  }

 private:
  // From pageable memory: the call returns when the numbers have been taken.
  static void copy(const std::vector<int64_t>& from, Tensor& to, cudaStream_t stream) {
    STD_CUDA_CHECK(cudaMemcpyAsync(to.mutable_data_ptr(), from.data(), from.size() * sizeof(int64_t),
                                   cudaMemcpyHostToDevice, stream));
  }
  void use(const Tensor& pairs, const Tensor& firsts) {
    table.shapes = static_cast<const int64_t*>(pairs.const_data_ptr());
    table.starts = static_cast<const int64_t*>(firsts.const_data_ptr());
  }
};

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_supported(const Arguments& a) {
  require(a.value.is_cuda(), "value must be on a CUDA device for the CUDA kernels");
  require(a.value_type == ScalarType::Double || a.value_type == ScalarType::Float ||
              a.value_type == ScalarType::Half || a.value_type == ScalarType::BFloat16,
          "value must be float64, float32, bfloat16 or float16, got ", name_of(a.value_type));
  require(a.problem.rows <= INT32_MAX, "value must have fewer than 2^31 rows, got N = ", a.problem.rows);
}

bool empty(const Problem& p) { return p.batch == 0 || p.queries == 0; }

// `levels` makes the table once the device and the stream are known.
template <typename Levels>
Tensor run_forward(Arguments& a, const Levels& levels) {
  check_supported(a);
  const torch::stable::accelerator::DeviceGuard guard(a.value.get_device());
  const cudaStream_t stream = current_stream(a.value);
  Tensor output = a.new_output();
  if (!empty(a.problem)) {
    const DeviceLevels table = levels(stream);
    launch_forward(a, table.table, stream);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return output;
}

template <typename Levels>
std::tuple<Tensor, Tensor, Tensor> run_backward(Arguments& a, const Levels& levels) {
  check_supported(a);
  const torch::stable::accelerator::DeviceGuard guard(a.value.get_device());
  const cudaStream_t stream = current_stream(a.value);
  const Arguments::Gradients grads = a.new_gradients();
  if (!empty(a.problem)) {
    const DeviceLevels table = levels(stream);
    launch_backward(a, table.table, stream);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {grads.value, grads.position, grads.score};
}

Tensor deform_attn(Tensor value, std::vector<int64_t> levels, Tensor locations, Tensor weights) {
  Arguments a(value, count_levels(levels), nullptr, locations, weights, nullptr);
  a.set_levels(levels);
  return run_forward(a, [&](cudaStream_t stream) { return DeviceLevels(a, stream); });
}

std::tuple<Tensor, Tensor, Tensor> deform_attn_backward(Tensor grad, Tensor value, std::vector<int64_t> levels,
                                                        Tensor locations, Tensor weights) {
  Arguments a(value, count_levels(levels), nullptr, locations, weights, &grad);
  a.set_levels(levels);
  return run_backward(a, [&](cudaStream_t stream) { return DeviceLevels(a, stream); });
}

Tensor deform_attn_fused(Tensor value, std::vector<int64_t> levels, Tensor centers, Tensor offsets, Tensor logits) {
  Arguments a(value, count_levels(levels), &centers, offsets, logits, nullptr);
  a.set_levels(levels);
  return run_forward(a, [&](cudaStream_t stream) { return DeviceLevels(a, stream); });
}

std::tuple<Tensor, Tensor, Tensor> deform_attn_fused_backward(Tensor grad, Tensor value, std::vector<int64_t> levels,
                                                              Tensor centers, Tensor offsets, Tensor logits) {
  Arguments a(value, count_levels(levels), &centers, offsets, logits, &grad);
  a.set_levels(levels);
  return run_backward(a, [&](cudaStream_t stream) { return DeviceLevels(a, stream); });
}

// The level table stays on the device; nothing waits for it, so it is checked there.
void check_table(const Tensor& value, const Tensor& shapes, const Tensor& starts) {
  check_level_tensors(shapes, starts);
  for (const Tensor& tensor : {shapes, starts})
    require(tensor.is_cuda() && tensor.get_device() == value.get_device(),
            "shapes and starts must be on the device of value");
}

Tensor deform_attn_table(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights) {
  check_table(value, shapes, starts);
  Arguments a(value, starts.size(0), nullptr, locations, weights, nullptr);
  return run_forward(a, [&](cudaStream_t) { return DeviceLevels(shapes, starts); });
}

std::tuple<Tensor, Tensor, Tensor> deform_attn_table_backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts,
                                                              Tensor locations, Tensor weights) {
  check_table(value, shapes, starts);
  Arguments a(value, starts.size(0), nullptr, locations, weights, &grad);
  return run_backward(a, [&](cudaStream_t) { return DeviceLevels(shapes, starts); });
}

}  // namespace
}  // namespace mdqe

STABLE_TORCH_LIBRARY_IMPL(mdqe, CUDA, m) {
  m.impl("deform_attn", TORCH_BOX(&mdqe::deform_attn));
  m.impl("deform_attn_backward", TORCH_BOX(&mdqe::deform_attn_backward));
  m.impl("deform_attn_fused", TORCH_BOX(&mdqe::deform_attn_fused));
  m.impl("deform_attn_fused_backward", TORCH_BOX(&mdqe::deform_attn_fused_backward));
  m.impl("deform_attn_table", TORCH_BOX(&mdqe::deform_attn_table));
  m.impl("deform_attn_table_backward", TORCH_BOX(&mdqe::deform_attn_table_backward));
}
