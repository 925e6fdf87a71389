// The kernels' launches as operators of a library of their own.

#include <optional>
#include <tuple>
#include <vector>

#include "launch.cuh"

namespace {

using mdqe::Arguments, mdqe::LevelTable, torch::stable::Tensor;

// The level table in the kernel's arguments or, on_device, as tensors that the kernel reads.
struct Table {
  LevelTable levels{};
  std::vector<int64_t> shapes, starts;

  Table(const Arguments& a, bool on_device) {
    for (size_t l = 0; l < a.levels.size(); ++l) {
      const mdqe::Level& level = a.levels[l];
      shapes.insert(shapes.end(), {level.height, level.width}), starts.push_back(level.start);
      if (on_device) continue;
      levels.height[l] = int(level.height), levels.width[l] = int(level.width), levels.start[l] = int(level.start);
    }
    if (on_device) levels.shapes = shapes.data(), levels.starts = starts.data();
  }
};

Tensor forward(Tensor value, std::vector<int64_t> levels, std::optional<Tensor> centers, Tensor position, Tensor score,
               bool on_device) {
  Arguments a(value, mdqe::count_levels(levels), centers ? &*centers : nullptr, position, score, nullptr);
  a.set_levels(levels);
  Tensor output = a.new_output();
  if (a.problem.batch && a.problem.queries) mdqe::launch_forward(a, Table(a, on_device).levels, nullptr);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor value, std::vector<int64_t> levels,
                                            std::optional<Tensor> centers, Tensor position, Tensor score,
                                            bool on_device) {
  Arguments a(value, mdqe::count_levels(levels), centers ? &*centers : nullptr, position, score, &grad);
  a.set_levels(levels);
  const Arguments::Gradients grads = a.new_gradients();
  if (a.problem.batch && a.problem.queries) mdqe::launch_backward(a, Table(a, on_device).levels, nullptr);
  return {grads.value, grads.position, grads.score};
}

}  // namespace

STABLE_TORCH_LIBRARY(mdqe_simulated, m) {
  m.def("forward(Tensor value, int[] levels, Tensor? centers, Tensor position, Tensor score, bool on_device) -> Tensor");
  m.def(
      "backward(Tensor grad, Tensor value, int[] levels, Tensor? centers, Tensor position, Tensor score,"
      " bool on_device) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mdqe_simulated, CPU, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("backward", TORCH_BOX(&backward));
}
