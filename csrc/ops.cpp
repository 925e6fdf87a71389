// Schemas of the operators and their CPU implementations, on LibTorch's stable ABI.
//
// `levels` is flat: height, width and first row in value of each level. The _table operators take the levels as tensors,
// shapes (L, 2) and starts (L).

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "cpu/kernels.h"
#include "operators.h"

#if defined(_WIN32)
#define MDQE_EXPORT extern "C" __declspec(dllexport)
#else
#define MDQE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace mdqe {
namespace {

// The best kernels that this processor supports, up to the given limit: "avx512", "avx2" or "default".
const KernelTable& best_kernels(const char* limit) {
#ifdef MDQE_X86_KERNELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool plain_only = limit && !std::strcmp(limit, "default"), avx2_only = limit && !std::strcmp(limit, "avx2");
  if (avx512 && !plain_only && !avx2_only) return avx512_kernels();
  if (avx2 && !plain_only) return avx2_kernels();
#else
  (void)limit;
#endif
  return plain_kernels();
}

std::atomic<const KernelTable*>& kernels() {
  static std::atomic<const KernelTable*> table{&best_kernels(nullptr)};
  return table;
}

void check_supported(const Arguments& a) {
  const Problem& p = a.problem;
  require(a.value.is_cpu(), "value must be on the CPU for the CPU kernels");
  require(a.value_type == ScalarType::Double || a.value_type == ScalarType::Float ||
              a.value_type == ScalarType::BFloat16,
          "value must be float64, float32 or bfloat16 on the CPU, got ", name_of(a.value_type));
  // Offsets within one batch item have 32 bits.
  require(product({p.rows, p.heads, p.channels}) <= INT32_MAX, "value must have N * H * D below 2^31, got ", size_of(a.value));
}

ForwardKernel forward_kernel(const Arguments& a) {
  const KernelTable& table = kernels_in_use();
  if (a.value_type == ScalarType::Double) return plain_forward_f64(a.fused);
  if (a.value_type == ScalarType::Float) return a.fused ? table.fused_f32 : table.forward_f32;
  if (!a.fused) return table.forward_bf16;
  return a.score_type == ScalarType::BFloat16 ? table.fused_bf16_bf16 : table.fused_bf16;
}

BackwardKernel backward_kernel(const Arguments& a) {
  const KernelTable& table = kernels_in_use();
  if (a.value_type == ScalarType::Double) return plain_backward_f64(a.fused);
  if (a.value_type == ScalarType::Float) return a.fused ? table.fused_backward_f32 : table.backward_f32;
  return a.fused ? table.fused_backward_bf16 : table.backward_bf16;
}

// If there are many queries, they are visited tile by tile of the image, so that the rows shared by neighbouring queries
// stay in the cache on all levels. The order depends only on the positions, never on the number of threads. The position of
// a query is its center or, for locations, its first point. If these points are unordered, the queries keep their order.
template <typename C>
std::vector<int32_t> tile_order(const Problem& p) {
  constexpr int64_t kTile = 80;  // approximate queries per tile; their rows fill a third of a cache of 1 MB
  constexpr int64_t kMost = 128;
  std::vector<int32_t> order;
  if (p.queries < 8 * kTile || p.queries > INT32_MAX) return order;
  // Tall tiles share fewer rows of pixels with the next line of tiles, which is visited much later.
  const int64_t lines = std::min(int64_t(std::sqrt(double(p.queries / kTile))) / 2 + 1, kMost), columns = 4 * lines;
  const int64_t items = p.shared_centers ? 1 : p.batch;
  const int64_t step = p.centers ? 2 : p.heads * p.levels * p.points * 2;
  const C* place = static_cast<const C*>(p.centers ? p.centers : p.position);
  const auto cell = [](C x, int64_t count) { return x > C(0) ? x < C(1) ? int64_t(x * C(count)) : count - 1 : 0; };
  order.resize(size_t(items * p.queries));
  std::vector<int32_t> tile(size_t(p.queries)), first(size_t(lines * columns + 1));
  for (int64_t item = 0; item < items; ++item) {
    std::fill(first.begin(), first.end(), 0);
    int64_t jumps = 0;
    for (int64_t q = 0; q < p.queries; ++q, place += step) {
      const int64_t x = cell(place[0], columns), y = cell(place[1], lines);
      tile[q] = int32_t(y * columns + (y % 2 ? columns - 1 - x : x));  // back and forth: the next tile is a neighbour
      ++first[tile[q] + 1];
      jumps += q > 0 && tile[q] != tile[q - 1];
    }
    if (!p.centers && 2 * jumps > p.queries) return {};
    for (int64_t i = 0; i < lines * columns; ++i) first[i + 1] += first[i];
    for (int64_t q = 0; q < p.queries; ++q) order[item * p.queries + first[tile[q]]++] = int32_t(q);
  }
  return order;
}

std::vector<int32_t> set_order(Arguments& a) {
  Problem& p = a.problem;
  std::vector<int32_t> order = a.value_type == ScalarType::Double ? tile_order<double>(p) : tile_order<float>(p);
  p.order = order.empty() ? nullptr : order.data();
  return order;
}

struct Cpu {
  static Tensor forward(Arguments& a) {
    check_supported(a);
    const std::vector<int32_t> order = set_order(a);
    Tensor output = a.new_output();
    const Problem& p = a.problem;
    const int64_t work = p.heads * p.levels * p.points * p.channels;  // multiply-adds of a query, divided by four
    const int64_t grain = work < 65536 ? 65536 / work : 1;
    const ForwardKernel kernel = forward_kernel(a);
    torch::stable::parallel_for(0, p.batch * p.queries, grain,
                                [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
    return output;
  }

  // Each task has some heads of one batch item and visits the queries in a fixed order. Every sum is therefore computed in
  // the same order for any number of tasks.
  static Arguments::Gradients backward(Arguments& a) {
    check_supported(a);
    const std::vector<int32_t> order = set_order(a);
    Arguments::Gradients grads = a.new_gradients();
    const Problem& p = a.problem;
    if (p.batch == 0 || p.queries == 0) return grads;
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t wanted = (threads + p.batch - 1) / p.batch;
    const int64_t groups = wanted < 1 ? 1 : wanted > p.heads ? p.heads : wanted;
    const BackwardKernel kernel = backward_kernel(a);
    torch::stable::parallel_for(0, p.batch * groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task % groups;
        kernel(p, task / groups, group * p.heads / groups, (group + 1) * p.heads / groups);
      }
    });
    return grads;
  }

  static std::vector<int64_t> levels(const LevelTensors& table) {
    const int64_t* pair = static_cast<const int64_t*>(table.shapes.const_data_ptr());
    const int64_t* first = static_cast<const int64_t*>(table.starts.const_data_ptr());
    std::vector<int64_t> flat;
    for (int64_t l = 0; l < count_levels(table); ++l)
      flat.insert(flat.end(), {pair[2 * l], pair[2 * l + 1], first[l]});
    return flat;
  }
};

}  // namespace

const KernelTable& kernels_in_use() { return *kernels().load(); }

}  // namespace mdqe

// Returns the name of the instruction set in use. The second function first selects the best one up to `limit`.
MDQE_EXPORT const char* mdqe_cpu_kernels() { return mdqe::kernels().load()->name; }

MDQE_EXPORT const char* mdqe_limit_cpu_kernels(const char* limit) {
  mdqe::kernels() = &mdqe::best_kernels(limit);
  return mdqe_cpu_kernels();
}

// Returns whether the operator conv3x3 has a kernel for the instruction set in use.
MDQE_EXPORT int mdqe_has_conv3x3() { return mdqe::kernels_in_use().convolve != nullptr; }

STABLE_TORCH_LIBRARY(mdqe, m) {
  m.def("deform_attn(Tensor value, SymInt[] levels, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "deform_attn_backward(Tensor grad, Tensor value, SymInt[] levels, Tensor locations, Tensor weights)"
      " -> (Tensor, Tensor, Tensor)");
  m.def("deform_attn_fused(Tensor value, SymInt[] levels, Tensor centers, Tensor offsets, Tensor logits) -> Tensor");
  m.def(
      "deform_attn_fused_backward(Tensor grad, Tensor value, SymInt[] levels, Tensor centers, Tensor offsets,"
      " Tensor logits) -> (Tensor, Tensor, Tensor)");
  m.def(
      "deform_attn_table(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "deform_attn_table_backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts, Tensor locations,"
      " Tensor weights) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mdqe, CPU, m) { mdqe::Operators<mdqe::Cpu>::implement(m); }
