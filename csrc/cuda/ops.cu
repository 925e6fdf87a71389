// CUDA implementations of the operators. The schemas are in the CPU library, which is loaded first.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../operators.h"
#include "launch.cuh"

namespace mdqe {
namespace {

// A level table for the kernels. Levels that do not fit into the arrays are copied to tensors owned by this object.
struct DeviceLevels {
  LevelTable table{};
  LevelTensors tensors;

  DeviceLevels(const Arguments& a, cudaStream_t stream) {
    const size_t count = a.levels.size();
    if (count == 0) {
      use(a.level_tensors);
      return;
    }
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
    Tensor shapes = torch::stable::new_empty(a.value, {int64_t(count), 2}, ScalarType::Long);
    Tensor starts = torch::stable::new_empty(a.value, {int64_t(count)}, ScalarType::Long);
    copy(pairs, shapes, stream), copy(firsts, starts, stream);
    use({shapes, starts});
  }

 private:
  // The source is pageable memory, so the call returns only after the data have been copied.
  static void copy(const std::vector<int64_t>& from, Tensor& to, cudaStream_t stream) {
    STD_CUDA_CHECK(cudaMemcpyAsync(to.mutable_data_ptr(), from.data(), from.size() * sizeof(int64_t),
                                   cudaMemcpyHostToDevice, stream));
  }
  void use(const LevelTensors& from) {
    tensors = from;
    table.shapes = static_cast<const int64_t*>(tensors.shapes.const_data_ptr());
    table.starts = static_cast<const int64_t*>(tensors.starts.const_data_ptr());
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

// Allocates the results with `make` and launches the kernel that fills them, unless there is nothing to compute.
template <typename Make, typename Launch>
auto run(const Arguments& a, const Make& make, const Launch& launch) {
  check_supported(a);
  const torch::stable::accelerator::DeviceGuard guard(a.value.get_device());
  const cudaStream_t stream = current_stream(a.value);
  auto results = make();
  if (a.problem.batch > 0 && a.problem.queries > 0) {
    const DeviceLevels levels(a, stream);
    launch(a, levels.table, stream);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return results;
}

struct Cuda {
  static Tensor forward(Arguments& a) {
    return run(a, [&] { return a.new_output(); }, launch_forward);
  }
  static Arguments::Gradients backward(Arguments& a) {
    return run(a, [&] { return a.new_gradients(); }, launch_backward);
  }
  // The level table stays on the device, without a synchronisation. The kernels check it.
  static LevelTensors levels(const LevelTensors& table) { return table; }
};

}  // namespace
}  // namespace mdqe

STABLE_TORCH_LIBRARY_IMPL(mdqe, CUDA, m) { mdqe::Operators<mdqe::Cuda>::implement(m); }
