// Checks the tensors of an operator call and builds a Problem from them. Shared by the CPU and the CUDA library.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "problem.h"

namespace mdqe {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string size_of(const Tensor& tensor) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << ")";
  return text.str();
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double: return "float64";
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    default: return "another type";
  }
}

// The product of sizes, or INT64_MAX if it is larger: empty tensors can have sizes whose product has more than 64 bits.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (int64_t size : sizes) {
    if (size == 0) return 0;
    result = result > INT64_MAX / size ? INT64_MAX : result * size;
  }
  return result;
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device() == b.get_device();
}

inline ScalarType compute_type(ScalarType value) {
  return value == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A level table as tensors on the device of value: shapes (L, 2) and starts (L), int64 and contiguous.
struct LevelTensors {
  Tensor shapes, starts;
};

inline int64_t count_levels(const LevelTensors& table) { return table.starts.size(0); }

// For the flat level table of the operators' schema: height, width and first row of each level.
inline int64_t count_levels(const std::vector<int64_t>& flat) {
  require(!flat.empty() && flat.size() % 3 == 0,
          "levels must hold height, width and first row of at least one level, got ", flat.size(), " numbers");
  return int64_t(flat.size() / 3);
}

inline std::vector<Level> read_levels(const std::vector<int64_t>& flat, int64_t rows) {
  std::vector<Level> levels;
  for (size_t i = 0; i < flat.size(); i += 3) {
    const Level level{flat[i], flat[i + 1], flat[i + 2]};
    require(level.height >= 1 && level.width >= 1 && level.height <= INT32_MAX && level.width <= INT32_MAX,
            "level ", i / 3, " of levels must have a height and width of at least 1, got ", level.height, " x ",
            level.width);
    require(level.start >= 0 && level.start <= rows && level.height <= (rows - level.start) / level.width, "level ",
            i / 3, " of levels, ", level.height, " x ", level.width, " from row ", level.start,
            ", does not fit into value with N = ", rows, " rows");
    levels.push_back(level);
  }
  return levels;
}

inline LevelTensors check_level_tensors(const Tensor& value, const Tensor& shapes, const Tensor& starts) {
  require(shapes.scalar_type() == ScalarType::Long && starts.scalar_type() == ScalarType::Long,
          "shapes and starts must be int64");
  require(shapes.dim() == 2 && shapes.size(1) == 2, "shapes must be (L, 2), got ", size_of(shapes));
  require(starts.dim() == 1 && starts.size(0) == shapes.size(0), "starts must be (L) = (", shapes.size(0), "), got ",
          size_of(starts));
  require(same_device(shapes, value) && same_device(starts, value), "shapes and starts must be on the device of value");
  return {torch::stable::contiguous(shapes), torch::stable::contiguous(starts)};
}

// The tensors of a call, as the kernels need them, and the Problem that points into them.
struct Arguments {
  Tensor value, centers, position, score, grad_output;
  std::vector<Level> levels;   // empty if level_tensors is used
  LevelTensors level_tensors;  // checked by the kernels
  bool fused;                  // has centers
  ScalarType value_type, score_type;
  Problem problem{};

  // `centers_in` and `grad_in` can be null. Messages call position and score by the names of the caller's arguments.
  Arguments(const Tensor& value_in, int64_t level_count, const Tensor* centers_in, const Tensor& position_in,
            const Tensor& score_in, const Tensor* grad_in)
      : value(value_in), position(position_in), score(score_in), fused(centers_in != nullptr) {
    const char* position_name = centers_in ? "offsets" : "locations";
    const char* score_name = centers_in ? "logits" : "weights";
    const int64_t axes = value.dim() - 3;  // batch axes
    require(axes == 1 || axes == 2, "value must be (B, N, H, D) or (clips, frames, N, H, D), got ", size_of(value));
    Problem& p = problem;
    p.frames = axes == 1 ? 1 : value.size(1);
    p.batch = product({value.size(0), p.frames});
    p.rows = value.size(axes), p.heads = value.size(axes + 1), p.channels = value.size(axes + 2);
    require(p.heads >= 1 && p.channels >= 1, "value must have at least one head and one channel, got ", size_of(value));
    require(product({p.heads, p.channels}) <= INT32_MAX, "value must have H * D below 2^31, got ", size_of(value));
    p.levels = level_count;
    require(position.dim() == 6 && position.size(0) == p.batch && position.size(2) == p.heads &&
                position.size(3) == p.levels && position.size(4) >= 1 && position.size(5) == 2,
            position_name, " must be (B, Q, H, L, P, 2) = (", p.batch, ", Q, ", p.heads, ", ", p.levels,
            ", P, 2) to fit value ", size_of(value), ", got ", size_of(position));
    p.queries = position.size(1), p.points = position.size(4);
    require(product({p.heads, p.levels, p.points, 2}) <= INT32_MAX, position_name,
            " must have H * L * P * 2 below 2^31, got ", size_of(position));
    require(product({p.batch, p.queries, p.heads, p.channels}) < INT64_MAX &&
                product({p.batch, p.queries, p.heads, p.levels, p.points, 2}) < INT64_MAX,
            "B * Q is too large: value is ", size_of(value), ", ", position_name, " ", size_of(position));
    bool fits = score.dim() == 5;
    for (int64_t i = 0; fits && i < 5; ++i) fits = score.size(i) == position.size(i);
    require(fits, score_name, " must be (B, Q, H, L, P) to fit ", position_name, " ", size_of(position), ", got ",
            size_of(score));
    value_type = value.scalar_type(), score_type = score.scalar_type();
    check_device(position, position_name), check_device(score, score_name);
    const ScalarType compute = compute_type(value_type);
    const bool low = centers_in && !grad_in && score_type == value_type;  // the fused forward reads these without a cast
    require(score_type == compute || low, score_name, " must be ", name_of(compute), " for ", name_of(value_type),
            " value, got ", name_of(score_type));
    require(position.scalar_type() == score_type, position_name, " must have the type of ", score_name, ", ",
            name_of(score_type), ", got ", name_of(position.scalar_type()));
    if (centers_in) {
      centers = *centers_in;
      check_device(centers, "centers");
      require(centers.scalar_type() == compute, "centers must be ", name_of(compute), ", got ",
              name_of(centers.scalar_type()));
      require(centers.dim() == 3 && (centers.size(0) == 1 || centers.size(0) == p.batch) &&
                  centers.size(1) == p.queries && centers.size(2) == 2,
              "centers must be (B or 1, Q, 2) = (", p.batch, " or 1, ", p.queries, ", 2), got ", size_of(centers));
      p.shared_centers = centers.size(0) == 1;
      centers = torch::stable::contiguous(centers);
      p.centers = centers.const_data_ptr();
    }
    if (grad_in) {
      grad_output = *grad_in;
      check_device(grad_output, "grad");
      require(grad_output.scalar_type() == value_type, "grad must be ", name_of(value_type), " as value is, got ",
              name_of(grad_output.scalar_type()));
      require(grad_output.dim() == 3 && grad_output.size(0) == p.batch && grad_output.size(1) == p.queries &&
                  grad_output.size(2) == p.heads * p.channels,
              "grad must be (", p.batch, ", ", p.queries, ", ", p.heads * p.channels, "), got ", size_of(grad_output));
      grad_output = torch::stable::contiguous(grad_output);
      p.grad_output = grad_output.const_data_ptr();
    }
    if (!has_whole_rows()) value = torch::stable::contiguous(value);
    p.clip_step = value.stride(0) / (p.heads * p.channels);
    p.frame_step = axes == 1 ? 0 : value.stride(1) / (p.heads * p.channels);
    position = torch::stable::contiguous(position);
    score = torch::stable::contiguous(score);
    p.value = value.const_data_ptr(), p.position = position.const_data_ptr(), p.score = score.const_data_ptr();
  }

  void set_levels(const std::vector<int64_t>& flat) {
    levels = read_levels(flat, problem.rows);
    problem.level = levels.data();
  }

  void set_levels(const LevelTensors& table) { level_tensors = table; }

  // Allocates the result of the forward pass, (B, Q, H * D).
  Tensor new_output() {
    Tensor output = torch::stable::new_empty(
        value, {problem.batch, problem.queries, problem.heads * problem.channels}, value_type);
    problem.output = output.mutable_data_ptr();
    return output;
  }

  struct Gradients {
    Tensor value, position, score;
  };

  // Allocates the gradients in the compute type. The gradient of value is accumulated, so it starts as zeros.
  Gradients new_gradients() {
    const Problem& p = problem;
    const ScalarType type = compute_type(value_type);
    Gradients grads{
        torch::stable::new_zeros(value, value_sizes(), type),
        torch::stable::new_empty(value, {p.batch, p.queries, p.heads, p.levels, p.points, 2}, type),
        torch::stable::new_empty(value, {p.batch, p.queries, p.heads, p.levels, p.points}, type),
    };
    problem.grad_value = grads.value.mutable_data_ptr();
    problem.grad_position = grads.position.mutable_data_ptr();
    problem.grad_score = grads.score.mutable_data_ptr();
    return grads;
  }

 private:
  // Whether the batch items of value are contiguous and a whole number of rows apart.
  bool has_whole_rows() const {
    const Problem& p = problem;
    const int64_t row = p.heads * p.channels, axes = value.dim() - 3;
    bool whole = value.stride(axes) == row && value.stride(axes + 1) == p.channels && value.stride(axes + 2) == 1;
    for (int64_t i = 0; i < axes; ++i) whole = whole && value.stride(i) % row == 0;
    return whole;
  }

  std::vector<int64_t> value_sizes() const {
    std::vector<int64_t> sizes;
    for (int64_t i = 0; i < value.dim(); ++i) sizes.push_back(value.size(i));
    return sizes;
  }

  void check_device(const Tensor& tensor, const char* name) const {
    require(same_device(tensor, value), name, " must be on the device of value");
  }
};

}  // namespace mdqe
