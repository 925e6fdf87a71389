// The IoU of the masks of tracks and detections on a CPU, from the signs of their logits.

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "cpu/kernels.h"

namespace mdqe {
namespace {

struct Range {
  int64_t begin, end;
};

// Signs of the logits (rows, frames, h, w) in some of their frames: a bit per pixel.
struct Signs {
  int64_t rows, frames, words;  // words per row and frame
  std::unique_ptr<uint64_t[]> bits;
  std::vector<Range> filled;   // per row and frame, from the first to the last word with a positive pixel
  std::vector<int64_t> areas;  // positive pixels of each row

  Signs(int64_t row_count, int64_t frame_count, int64_t pixels)
      : rows(row_count), frames(frame_count), words((pixels + 63) / 64),
        bits(new uint64_t[size_t(product({rows, frames, words}))]), filled(size_t(rows * frames)), areas(size_t(rows)) {}

  uint64_t* frame(int64_t row, int64_t f) const { return bits.get() + (row * frames + f) * words; }

  void measure(int64_t row, int64_t f, SharedKernel count_shared) {
    const uint64_t* bits = frame(row, f);
    Range range{0, words};
    while (range.end > 0 && !bits[range.end - 1]) --range.end;
    while (range.begin < range.end && !bits[range.begin]) ++range.begin;
    filled[size_t(row * frames + f)] = range;
    areas[size_t(row)] += count_shared(bits + range.begin, bits + range.begin, range.end - range.begin);
  }
};

int64_t shared_pixels(const Signs& a, int64_t n, const Signs& b, int64_t d, int64_t f, SharedKernel count_shared) {
  const Range &first = a.filled[size_t(n * a.frames + f)], &second = b.filled[size_t(d * b.frames + f)];
  const int64_t begin = std::max(first.begin, second.begin), end = std::min(first.end, second.end);
  return begin < end ? count_shared(a.frame(n, f) + begin, b.frame(d, f) + begin, end - begin) : 0;
}

Tensor check_logits(const Tensor& logits, const char* name) {
  require(logits.is_cpu() && logits.scalar_type() == ScalarType::Float && logits.dim() == 4, name,
          " must be (rows, frames, h, w) float32 on the CPU, got ", size_of(logits), " ", name_of(logits.scalar_type()));
  const bool whole_frames = logits.stride(3) == 1 && logits.stride(2) == logits.size(3);
  return whole_frames ? logits : torch::stable::contiguous(logits);
}

// Packs frame places[f] of the logits as frame f. Returns whether the logits are finite in all frames.
bool pack(const Tensor& logits, const std::vector<int64_t>& places, Signs& signs) {
  const KernelTable& kernels = kernels_in_use();
  const int64_t frames = logits.size(1), pixels = logits.size(2) * logits.size(3);
  std::vector<int64_t> packed(size_t(frames), -1);  // the frame of `signs` of each frame
  for (size_t f = 0; f < places.size(); ++f) packed[size_t(places[f])] = int64_t(f);
  const float* values = static_cast<const float*>(logits.const_data_ptr());
  std::atomic<bool> finite{true};
  const int64_t grain = 1 + 262144 / (1 + frames * pixels);
  torch::stable::parallel_for(0, signs.rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> other(size_t(signs.words));
    for (int64_t row = begin; row < end; ++row)
      for (int64_t t = 0; t < frames; ++t) {
        const int64_t f = packed[size_t(t)];
        uint64_t* words = f < 0 ? other.data() : signs.frame(row, f);
        const float* frame = values + row * logits.stride(0) + t * logits.stride(1);
        if (!kernels.pack_signs(frame, pixels, words)) finite = false;
        if (f >= 0) signs.measure(row, f, kernels.count_shared);
      }
  });
  return finite;
}

// tracks (N, F, h, w) and detections (D, T, h, w), float32: frame f of the tracks is frame places[f] of the detections.
// Returns the IoU (N, D) of their positive pixels in the F frames; and a number, 0 if the detections are finite in all T
// frames, else NaN.
std::tuple<Tensor, Tensor> mask_iou(Tensor tracks, Tensor detections, std::vector<int64_t> places) {
  tracks = check_logits(tracks, "tracks"), detections = check_logits(detections, "detections");
  const int64_t height = tracks.size(2), width = tracks.size(3), frames = tracks.size(1);
  require(detections.size(2) == height && detections.size(3) == width, "detections must have the size of tracks ",
          size_of(tracks), ", got ", size_of(detections));
  bool ascending = int64_t(places.size()) == frames;
  for (size_t f = 0; f < places.size(); ++f)
    ascending = ascending && places[f] >= (f ? places[f - 1] + 1 : 0) && places[f] < detections.size(1);
  require(ascending, "places must be ", frames, " ascending frames of detections ", size_of(detections));

  Signs known(tracks.size(0), frames, height * width), found(detections.size(0), frames, height * width);
  std::vector<int64_t> all(places.size());
  for (size_t f = 0; f < all.size(); ++f) all[f] = int64_t(f);
  pack(tracks, all, known);
  const bool finite = pack(detections, places, found);

  Tensor check = torch::stable::new_empty(detections, {}, ScalarType::Float);
  *static_cast<float*>(check.mutable_data_ptr()) = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  Tensor iou = torch::stable::new_empty(detections, {known.rows, found.rows}, ScalarType::Float);
  float* result = static_cast<float*>(iou.mutable_data_ptr());
  const SharedKernel count_shared = kernels_in_use().count_shared;
  const int64_t grain = 1 + 262144 / (1 + found.rows * frames * found.words);
  torch::stable::parallel_for(0, known.rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> shared(size_t(found.rows));
    for (int64_t n = begin; n < end; ++n) {
      std::fill(shared.begin(), shared.end(), 0);
      for (int64_t f = 0; f < frames; ++f)
        for (int64_t d = 0; d < found.rows; ++d)
          shared[size_t(d)] += shared_pixels(known, n, found, d, f, count_shared);
      for (int64_t d = 0; d < found.rows; ++d) {
        const float both = float(known.areas[size_t(n)]) + float(found.areas[size_t(d)]);
        const float overlap = float(shared[size_t(d)]);
        result[n * found.rows + d] = overlap / (both - overlap + 1e-6f);
      }
    }
  });
  return {iou, check};
}

}  // namespace
}  // namespace mdqe

STABLE_TORCH_LIBRARY_FRAGMENT(mdqe, m) {
  m.def("mask_iou(Tensor tracks, Tensor detections, int[] places) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mdqe, CPU, m) { m.impl("mask_iou", TORCH_BOX(&mdqe::mask_iou)); }
