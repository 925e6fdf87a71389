// One call of the operator as raw pointers. The kernels depend on nothing else.
#pragma once

#include <cstdint>

namespace mdqe {

struct Level {
  int64_t height, width;
  int64_t start;  // first row of the level in value
};

// Sizes: B batch, N rows of value, H heads, D channels per head, Q queries, L levels, P points.
// All tensors are contiguous, except the batch axes of value: items are frames of clips, and clips may share frames. The
// compute type is double for double values and float for all other types.
struct Problem {
  int64_t batch, rows, heads, channels, queries, levels, points;
  int64_t frames;                 // per clip; 1 if value has one batch axis
  int64_t clip_step, frame_step;  // from a clip of value to the next, and from a frame to the next, in rows
  const Level* level;    // (L)
  const void* value;     // (B / frames, frames, N, H, D)
  const void* centers;   // (B or 1, Q, 2) in the compute type; null if positions are locations
  bool shared_centers;   // centers and order have one item for the whole batch
  const void* position;  // (B, Q, H, L, P, 2): locations, or with centers, offsets in eighths of the image
  const void* score;     // (B, Q, H, L, P): weights, or with centers, logits
  const int32_t* order;  // order in which the CPU visits queries, (B or 1, Q) like centers; null: ascending
  void* output;          // (B, Q, H, D), the type of value

  // Backward. Gradients have the compute type. grad_value must be zero at the start; the others are overwritten.
  const void* grad_output;  // (B, Q, H, D), the type of value
  void* grad_value;         // (B, N, H, D)
  void* grad_position;      // (B, Q, H, L, P, 2)
  void* grad_score;         // (B, Q, H, L, P)

  // Index in value of the first row of a batch item.
  int64_t first_row(int64_t item) const {
    return frames == 1 ? item * clip_step : item / frames * clip_step + item % frames * frame_step;
  }

  // Index of a query in centers, and index of a (batch, query, head).
  int64_t pair(int64_t item, int64_t query) const { return (shared_centers ? 0 : item * queries) + query; }
  int64_t row(int64_t item, int64_t query, int64_t head) const { return (item * queries + query) * heads + head; }

  // The query at a place in the order.
  int64_t query(int64_t item, int64_t place) const { return order ? order[pair(item, place)] : place; }
};

constexpr int kOffsetScale = 8;  // location = center + offset / 8

}  // namespace mdqe
