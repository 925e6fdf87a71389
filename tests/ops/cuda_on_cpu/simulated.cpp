// The fibers, and the kernels' launches as operators of a library of their own.

#include <ucontext.h>

#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "launch.cuh"

namespace simulated {

dim3 thread, block, threads;
unsigned char* shared_memory;
double exchange[1024];

namespace {
struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done;
};
ucontext_t scheduler;
std::vector<Fiber> fibers;
const std::function<void()>* body;

void enter() {
  (*body)();
  fibers[thread.x].done = true;
  swapcontext(&fibers[thread.x].context, &scheduler);
}

void run_block(unsigned count) {
  for (Fiber& fiber : fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.done = false;
    makecontext(&fiber.context, enter, 0);
  }
  unsigned finished = 0;
  while (finished == 0) {  // from barrier to barrier
    for (unsigned t = 0; t < count; ++t) {
      thread.x = t;
      swapcontext(&scheduler, &fibers[t].context);
    }
    for (unsigned t = 0; t < count; ++t) finished += fibers[t].done;
  }
  if (finished != count) std::abort();
}
}  // namespace

void barrier() {
  const unsigned me = thread.x;
  swapcontext(&fibers[me].context, &scheduler);
  thread.x = me;
}

void launch(dim3 grid, unsigned block_threads, size_t shared_bytes, cudaStream_t, const std::function<void()>& kernel) {
  if (block_threads > 1024 || shared_bytes > 48 * 1024) std::abort();
  body = &kernel, threads = dim3(block_threads);
  fibers = std::vector<Fiber>(block_threads);
  std::vector<uint4> memory(shared_bytes / 16 + 1);
  shared_memory = reinterpret_cast<unsigned char*>(memory.data());
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      block = dim3(x, y);
      std::memset(shared_memory, 0xff, shared_bytes);
      run_block(block_threads);
    }
  }
}

}  // namespace simulated

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
