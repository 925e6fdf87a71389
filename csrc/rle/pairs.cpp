// Pairs of tracks and detections, as mdqe.Linker compares them: which are near each other, and how well their edges, places
// and areas agree. mdqe/inference/pair_places.py explains it. The results are those of NumPy: they come from the same
// operations in the same order, which the compiler must not fuse. Plain C++ without PyTorch.

#include <algorithm>
#include <cmath>

#include "rle.h"

namespace {

// As in pair_places.py; `larger` is the product of farthest_place, first_reach and reach.
struct Places {
  double reach, uncertainty, first_reach, farthest, farthest_place, larger;
};
struct Powers {
  double smaller, larger, cut;
};

bool any(const uint8_t* edges) { return edges[0] || edges[1] || edges[2] || edges[3]; }

// Standard deviation of a track's place along an axis, as `place_reach`.
double place_reach(double area, double variance, int64_t observations, double step, const Places& places) {
  const double size = std::max(std::sqrt(area), 2.0) * step, own = places.reach * size;
  const double reach = std::min(std::sqrt(own * own + places.uncertainty * variance), places.farthest * size);
  return reach * (observations > 1 ? 1.0 : places.first_reach);
}

}  // namespace

// Lists the pairs of M tracks, from `begin` on, and D detections that share points or are near each other, ascending.
// Returns their number.
//
// shared (M, D): points; boxes (D, 4) and found (D): of detections, and their areas in pixels; centres, extents (N, 2),
// variances (N, 2, 3), areas, observations (N) and cut (N, 4): of all tracks. rows, columns: room for all pairs.
MDQE_EXPORT int64_t mdqe_near_pairs(int64_t begin, int64_t number, int64_t masks, const int64_t* shared, const double* boxes,
                                    const double* found, const double* centres, const double* variances,
                                    const double* extents, const double* areas, const int64_t* observations,
                                    const uint8_t* cut, int64_t step, const Places* places, int64_t* rows, int64_t* columns) {
  int64_t count = 0;
  for (int64_t n = begin; n < begin + number; ++n, shared += masks) {
    const bool is_cut = any(cut + 4 * n);
    double lower[2], upper[2];
    for (int axis = 0; axis < 2; ++axis) {
      const double variance = variances[6 * n + 3 * axis];
      double reach = place_reach(areas[n], variance, observations[n], double(step), *places);
      if (is_cut) reach += places->first_reach * std::sqrt(places->uncertainty * variance);
      const double margin = extents[2 * n + axis] / 2 + places->farthest_place * reach;
      lower[axis] = centres[2 * n + axis] - margin, upper[axis] = centres[2 * n + axis] + margin;
    }
    for (int64_t d = 0; d < masks; ++d) {
      const double* box = boxes + 4 * d;
      const double grown = is_cut ? places->larger * std::max(std::sqrt(found[d]), 2.0 * double(step)) : 0;
      const bool near = found[d] && box[0] - grown <= upper[0] && box[2] + grown >= lower[0] &&
                        box[1] - grown <= upper[1] && box[3] + grown >= lower[1];
      if (near || shared[d]) rows[count] = n, columns[count++] = d;
    }
  }
  return count;
}

// Factors of the scores of P pairs, as `score_places` needs them.
//
// rows, columns, shared (P): tracks, detections and their common points; inside, outside (N): points of tracks in any
// detection or out of frame, and out of frame; distances (P, 2), partial (P): of mdqe_compare_edges; sizes (D): of
// detections, in points; the rest as of mdqe_near_pairs. factors (6, P): overlap; exponent for the distance; base and power
// for a smaller detection, and for a larger one.
MDQE_EXPORT void mdqe_score_places(int64_t pairs, const int64_t* rows, const int64_t* columns, const int64_t* shared,
                                   const int64_t* inside, const int64_t* outside, const double* distances,
                                   const uint8_t* partial, const double* sizes, const double* variances, const double* areas,
                                   const int64_t* observations, const uint8_t* cut, int64_t step, const Places* places,
                                   const Powers* powers, double* factors) {
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t row = rows[p], both = shared[p];
    const double area = areas[row], found = sizes[columns[p]], overlap = double(both);
    const double visible = overlap / std::max(found + area - double(std::max(inside[row], both)), 1.0);
    const double plain = overlap / std::max(found + area - double(outside[row]) - overlap, 1.0);
    const bool growing = any(cut + 4 * row) && found > area;
    double square[2];
    for (int axis = 0; axis < 2; ++axis) {
      const double variance = variances[6 * row + 3 * axis];
      const double reach = place_reach(growing ? found : area, variance, observations[row], double(step), *places);
      const double distance = distances[2 * p + axis] / reach;
      square[axis] = distance * distance;
    }
    const double ratio = found / area;
    const double values[6] = {0.5 * (visible + plain), -0.5 * (square[0] + square[1]),
                              std::min(ratio, 1.0),    partial[p] ? powers->cut : powers->smaller,
                              std::min(1 / ratio, 1.0), growing ? powers->cut : powers->larger};
    for (int i = 0; i < 6; ++i) factors[i * pairs + p] = values[i];
  }
}

// Compares the boxes of tracks with those of detections, as `compare_edges` explains, with
// the same operations.
//
// rows, columns (P): tracks and detections; centres, extents (N, 2) and areas (N) of tracks; boxes (D, 4), cut (D, 4) and
// sizes (D) of detections; constants: SAME, HIDDEN, ONE_EDGE, NARROW, NO_EDGE. offsets, distances, doubt (P, 2); partial (P).
MDQE_EXPORT void mdqe_compare_edges(const int64_t* rows, const int64_t* columns, int64_t pairs, const double* centres,
                                    const double* extents, const double* areas, const double* boxes, const uint8_t* cut,
                                    const double* sizes, int64_t step, const double* constants, double* offsets,
                                    double* distances, double* doubt, uint8_t* partial) {
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t row = rows[p], column = columns[p];
    const uint8_t* edges = cut + 4 * column;
    const bool is_any = any(edges);
    const bool shrunk = sizes[column] < constants[1] * areas[row];
    partial[p] = 0;
    for (int axis = 0; axis < 2; ++axis) {
      const double extent = extents[2 * row + axis], centre = centres[2 * row + axis];
      const double lower = boxes[4 * column + axis] - (centre - extent / 2);
      const double upper = boxes[4 * column + 2 + axis] - (centre + extent / 2);
      const double longer = upper - lower, middle = (lower + upper) / 2;
      const bool same = std::abs(longer) <= constants[0] * extent + double(step);
      const bool cut_lower = edges[axis] && !same, cut_upper = edges[2 + axis] && !same, is_cut = cut_lower || cut_upper;
      const bool narrow = is_any && !is_cut && !same && longer < 0;
      const double smaller = lower * upper > 0 ? middle : std::abs(lower) < std::abs(upper) ? lower : upper;
      double free = lower;
      if ((cut_lower && cut_upper) || narrow)
        free = std::min(std::max(0.0, std::min(lower, upper)), std::max(lower, upper));
      else if (cut_lower)
        free = upper;
      offsets[2 * p + axis] = is_cut ? free : shrunk && !same && !narrow ? smaller : middle;
      distances[2 * p + axis] = is_cut || narrow ? std::abs(free) : (std::abs(smaller) + std::abs(middle)) / 2;
      doubt[2 * p + axis] = cut_lower && cut_upper ? constants[4] : narrow ? constants[3] : is_cut || shrunk ? constants[2] : 1;
      partial[p] |= (is_cut || narrow) && longer < 0;
    }
  }
}
