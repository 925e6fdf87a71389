// The masks of a frame at the points of a grid, as mdqe.Linker compares them: samples of run lengths, the points and the
// contacts of masks, and what moved masks share with them. The results are those of NumPy. Plain C++ without PyTorch.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "rle.h"

namespace {

constexpr int kNear = 2;     // points between two masks that touch
constexpr int kAhead = 4;    // rows of points that are fetched from memory in advance
constexpr int kLine = 64;    // bytes of a cache line
constexpr int kDense = 16;   // bytes between two points of a row that are read together

#if defined(__GNUC__)
inline void prefetch(const uint8_t* address) { __builtin_prefetch(address); }
#else
inline void prefetch(const uint8_t*) {}
#endif

struct Size {
  int64_t height, width;
  template <typename Number>
  bool contains(Number x, Number y) const {
    return x >= 0 && x < Number(width) && y >= 0 && y < Number(height);
  }
};

int64_t half(int64_t value) { return (value - (value < 0)) / 2; }  // rounded down

// Twice the centre of a box along the axis of its edges `edge[0]` and `edge[2]`, in points, as `doubled_centres`.
int64_t doubled_centre(const double* edge, int64_t step) {
  return int64_t(std::nearbyint((edge[0] + edge[2]) / double(step) - 1));
}

// Whether all bytes are 0.
bool is_empty(const uint8_t* bytes, int64_t length) {
  uint64_t any = 0;
  int64_t i = 0;
  for (; i + 8 <= length; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + i, 8);
    any |= word;
  }
  for (; i < length; ++i) any |= bytes[i];
  return !any;
}

// Smallest number k from 0 to `most` for which first + k * step is at least `value`.
int64_t steps_to(int64_t value, int64_t first, int64_t step, int64_t most) {
  return value <= first ? 0 : std::min((value - first + step - 1) / step, most);
}

// Calls add(x, y) for the points of a mask, row by row. Most words of 8 points are empty.
template <typename Add>
void for_each_point(const uint8_t* mask, Size size, Add add) {
  for (int64_t y = 0; y < size.height; ++y, mask += size.width)
    for (int64_t x = 0; x < size.width;) {
      uint64_t word = 0;
      const int64_t end = std::min(x + 8, size.width);
      if (end == x + 8) std::memcpy(&word, mask + x, 8);
      if (end == x + 8 && !word) x = end;
      for (; x < end; ++x)
        if (mask[x]) add(x, y);
    }
}

}  // namespace

// Copies masks (D, rows, columns) of any strides, in bytes, to `grid`. Rows of points are far from each other in memory, so
// they are fetched in advance. Most rows are empty: if their pixels are near each other, all of them are read in words.
MDQE_EXPORT void mdqe_sample(const uint8_t* masks, const int64_t* strides, int64_t number, int64_t rows, int64_t columns,
                             uint8_t* grid) {
  const int64_t stride = strides[2], length = (columns - 1) * stride + 1, next = std::max<int64_t>(kLine, stride);
  for (int64_t i = 0; i < number * rows; ++i, grid += columns) {
    const auto row = [&](int64_t index) { return masks + index / rows * strides[0] + index % rows * strides[1]; };
    if (i + kAhead < number * rows)
      for (int64_t byte = 0; byte < length; byte += next) prefetch(row(i + kAhead) + byte);
    const uint8_t* from = row(i);
    if (stride <= kDense && is_empty(from, length))
      std::memset(grid, 0, columns);
    else
      for (int64_t x = 0; x < columns; ++x) grid[x] = from[x * stride] != 0;
  }
}

// Samples masks of height x width pixels, given by their run lengths, at the pixels (y + i * step, x + j * step).
//
// lengths, num_runs (number): as of mdqe_run_lengths; grid (number, rows, columns): 0 before.
MDQE_EXPORT void mdqe_sample_runs(const int64_t* lengths, const int64_t* num_runs, int64_t number, int64_t height, int64_t y,
                                  int64_t x, int64_t step, int64_t rows, int64_t columns, uint8_t* grid) {
  for (int64_t i = 0; i < number; ++i, grid += rows * columns) {
    int64_t end = 0;
    for (int64_t run = 0; run < num_runs[i]; ++run) {
      const int64_t start = end;
      end += *lengths++;
      if (!(run & 1) || end == start) continue;
      const int64_t last = (end - 1) / height;
      for (int64_t j = steps_to(start / height, x, step, columns); j < columns && x + j * step <= last; ++j) {
        const int64_t top = (x + j * step) * height;  // place of the column's first pixel
        const int64_t stop = steps_to(end - top, y, step, rows);
        for (int64_t k = steps_to(start - top, y, step, rows); k < stop; ++k) grid[k * columns + j] = 1;
      }
    }
  }
}

// Lists the P points of D masks on a grid, mask by mask and point by point.
//
// grid (D, height, width): 0 outside; small (D): not 0 for masks that others must not hide. `numbers` receives one after
// another: places (P) and ends (D + 1): the points of mask d are places[ends[d]] ... places[ends[d + 1] - 1]; boxes (D, 4):
// x0, y0, x1, y1, 0 for empty masks; counts and starts (height * width): number of masks of each point, and where they begin
// in detections (P); contacts (D, 4): the least x and y of the points at which the mask lies right of or below another one,
// and the largest x and y of those at which it lies left of or above. positions (P, 2): x and y of the points, and behind
// them working memory (height * width).
MDQE_EXPORT void mdqe_list_points(const uint8_t* grid, const uint8_t* small, int64_t number, int64_t height, int64_t width,
                                  int64_t total, int64_t* numbers, int16_t* positions) {
  int64_t* const places = numbers;
  int64_t* const ends = places + total;
  int64_t* const boxes = ends + number + 1;
  int64_t* const counts = boxes + 4 * number;
  int64_t* const starts = counts + height * width;
  int64_t* const detections = starts + height * width;
  int64_t* const contacts = detections + total;
  int16_t* const labels = positions + 2 * total;
  const Size size{height, width};
  const int64_t points = height * width;
  std::fill_n(counts, points, 0);
  std::fill_n(labels, points, int16_t(-1));
  int64_t* place = places;
  int16_t* position = positions;
  for (int64_t d = 0; d < number; ++d) {
    int64_t* box = boxes + 4 * d;
    box[0] = width, box[1] = height, box[2] = box[3] = 0;
    ends[d] = place - places;
    for_each_point(grid + d * points, size, [&](int64_t x, int64_t y) {
      box[0] = std::min(box[0], x), box[1] = std::min(box[1], y);
      box[2] = std::max(box[2], x + 1), box[3] = std::max(box[3], y + 1);
      *place++ = y * width + x;
      *position++ = int16_t(x), *position++ = int16_t(y);
      ++counts[y * width + x];
    });
    if (!box[2]) box[0] = box[1] = 0;
  }
  ends[number] = place - places;
  int64_t sum = 0;
  for (int64_t p = 0; p < points; ++p) starts[p] = sum, sum += counts[p];
  for (int64_t d = 0; d < number; ++d)
    for (int64_t i = ends[d]; i < ends[d + 1]; ++i) detections[starts[places[i]]++] = d;
  for (int64_t p = 0; p < points; ++p) starts[p] -= counts[p];
  for (const bool last : {false, true})
    for (int64_t d = 0; d < number; ++d)
      if (bool(small[d]) == last)
        for (int64_t i = ends[d]; i < ends[d + 1]; ++i) labels[places[i]] = int16_t(d);
  for (int64_t d = 0; d < number; ++d)
    for (int side = 0; side < 4; ++side)
      contacts[4 * d + side] = side < 2 ? std::numeric_limits<int32_t>::max() : std::numeric_limits<int32_t>::min();
  for (int64_t d = 0; d < number; ++d)
    for (int64_t i = ends[d]; i < ends[d + 1]; ++i)
      for (int axis = 0; axis < 2 && labels[places[i]] == d; ++axis)
        for (int gap = 1; gap <= kNear; ++gap) {
          const int64_t at = positions[2 * i + axis];
          if (at + gap >= (axis ? height : width)) break;
          const int64_t next = places[i] + gap * (axis ? width : 1);
          if (labels[next] < 0 || labels[next] == d) continue;
          int64_t& before = contacts[4 * d + 2 + axis];
          int64_t& after = contacts[4 * labels[next] + axis];
          before = std::max(before, at), after = std::min(after, at + gap);
        }
}

// Counts the points that N sets share with D masks of a frame.
//
// points: x and y of the points of all sets; lengths (N): of each set; shifts (N, 2): by which they are moved; counts,
// starts, detections: as of mdqe_list_points. shared (N, D), inside (N): points in any mask, and outside (N): points out of
// frame; all 0 before.
MDQE_EXPORT void mdqe_count_shared(const int16_t* points, const int64_t* lengths, const int64_t* shifts, int64_t number,
                                   int64_t height, int64_t width, const int64_t* counts, const int64_t* starts,
                                   const int64_t* detections, int64_t masks, int64_t* shared, int64_t* inside,
                                   int64_t* outside) {
  const Size size{height, width};
  for (int64_t n = 0; n < number; ++n, shared += masks)
    for (int64_t i = 0; i < lengths[n]; ++i, points += 2) {
      const int64_t x = points[0] + shifts[2 * n], y = points[1] + shifts[2 * n + 1];
      if (!size.contains(x, y)) {
        ++outside[n];
        continue;
      }
      const int64_t place = y * width + x;
      inside[n] += counts[place] > 0;
      for (int64_t k = 0; k < counts[place]; ++k) ++shared[detections[starts[place] + k]];
    }
}

// Counts what would be visible of P sets of S points, each moved to K places and compared with one mask.
//
// points (P, S, 2), moves (P, K, 2): added and rounded to the nearest point; columns (P): the masks; grid, counts: of
// mdqe_list_points. shared (P, K): points in the mask; visible (P, K): those and the points in the frame without any mask.
MDQE_EXPORT void mdqe_count_visible(const double* points, const double* moves, const int64_t* columns, int64_t pairs,
                                    int64_t samples, int64_t places, int64_t height, int64_t width, const uint8_t* grid,
                                    const int64_t* counts, int64_t* shared, int64_t* visible) {
  const Size size{height, width};
  const double round = 6755399441055744.0;  // 1.5 * 2^52: the sum has no fraction; quicker than rint
  for (int64_t p = 0; p < pairs; ++p, points += 2 * samples) {
    const uint8_t* mask = grid + columns[p] * height * width;
    for (int64_t k = 0; k < places; ++k, moves += 2, ++shared, ++visible) {
      *shared = *visible = 0;
      for (int64_t s = 0; s < samples; ++s) {
        const double x = (points[2 * s] + moves[0] + round) - round, y = (points[2 * s + 1] + moves[1] + round) - round;
        if (!size.contains(x, y)) continue;
        const int64_t place = int64_t(y) * width + int64_t(x);
        const bool covered = mask[place];
        *shared += covered;
        *visible += covered || !counts[place];
      }
    }
  }
}

// Takes the outlines `rows` (M) from the masks `columns` (M): S of their points, relative to the doubled centres of the boxes
// (D, 4). ends and positions are those of mdqe_list_points; outlines (N, S, 2).
MDQE_EXPORT void mdqe_take_outlines(const int64_t* rows, const int64_t* columns, int64_t number, int64_t samples,
                                    const int64_t* ends, const int16_t* positions, const double* boxes, int64_t step,
                                    int16_t* outlines) {
  for (int64_t m = 0; m < number; ++m) {
    const int64_t column = columns[m], begin = ends[column], length = ends[column + 1] - begin;
    const int64_t x = doubled_centre(boxes + 4 * column, step), y = doubled_centre(boxes + 4 * column + 1, step);
    int16_t* point = outlines + rows[m] * samples * 2;
    for (int64_t s = 0; s < samples; ++s) {
      const int16_t* position = positions + 2 * (begin + s * length / samples);
      *point++ = int16_t(2 * position[0] - x), *point++ = int16_t(2 * position[1] - y);
    }
  }
}

// Counts how many of the S points of outlines (N, S, 2) are in masks: pair p lays outline rows[p] over the mask columns[p] of
// the grid, centre on centre. shared (P).
MDQE_EXPORT void mdqe_count_outlines(const int16_t* outlines, const int64_t* rows, const int64_t* columns,
                                     const double* boxes, int64_t step, int64_t pairs, int64_t samples, int64_t height,
                                     int64_t width, const uint8_t* grid, int64_t* shared) {
  const Size size{height, width};
  for (int64_t p = 0; p < pairs; ++p) {
    const double* box = boxes + 4 * columns[p];
    const int64_t centre_x = doubled_centre(box, step), centre_y = doubled_centre(box + 1, step);
    const int16_t* point = outlines + rows[p] * samples * 2;
    const uint8_t* mask = grid + columns[p] * height * width;
    shared[p] = 0;
    for (int64_t s = 0; s < samples; ++s, point += 2) {
      const int64_t x = half(point[0] + centre_x), y = half(point[1] + centre_y);
      shared[p] += size.contains(x, y) && mask[y * width + x];
    }
  }
}
