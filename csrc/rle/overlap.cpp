// Computes areas and intersections of the masks of tracks directly from COCO's compressed run lengths. Plain C++ without
// PyTorch; the C interface is at the end.

#include <algorithm>
#include <memory>
#include <vector>

#include "rle.h"

namespace {

struct Run {
  int32_t start, end;
};

// Writes the foreground runs of a mask and advances `runs` past them; see decode_runs. `runs` needs room for one run per two
// characters.
bool decode(const uint8_t* text, const uint8_t* end, int64_t pixels, Run*& runs) {
  return decode_runs(text, end, pixels, [&](int64_t index, int64_t start, int64_t length) {
    if ((index & 1) && length) *runs++ = {int32_t(start), int32_t(start + length)};
  });
}

int64_t shared_pixels(const Run* a, const Run* a_end, const Run* b, const Run* b_end) {
  if (a == a_end || b == b_end) return 0;
  const auto before = [](const Run& run, int32_t position) { return run.end <= position; };
  if (a->end <= b->start) a = std::lower_bound(a, a_end, b->start, before);
  else if (b->end <= a->start) b = std::lower_bound(b, b_end, a->start, before);
  int64_t sum = 0;
  while (a != a_end && b != b_end) {
    sum += std::max(std::min(a->end, b->end) - std::max(a->start, b->start), 0);
    const bool next_a = a->end <= b->end;
    b += !next_a;
    a += next_a;
  }
  return sum;
}

}  // namespace

// Masks of D results followed by G objects in T frames, all with the same number of pixels, below 2^31.
//
// text: the concatenated compressed counts; ends (M): end of each mask in text; places (M): row * T + frame, where rows
// 0 ... D - 1 are the results and D ... D + G - 1 the objects. areas ((D + G) * T) and shared (D * G * T) must be zero.
// Returns the index of the first invalid mask, or -1.
MDQE_EXPORT int64_t mdqe_overlap(const uint8_t* text, const int64_t* ends, const int64_t* places, int64_t masks,
                                 int64_t pixels, int64_t results, int64_t objects, int64_t frames, int64_t* areas,
                                 int64_t* shared) {
  const std::unique_ptr<Run[]> runs(new Run[masks ? size_t(ends[masks - 1]) / 2 + 1 : 1]);
  Run* last = runs.get();
  std::vector<const Run*> bounds(size_t((results + objects) * frames) * 2, last);  // of the runs at each place
  for (int64_t i = 0; i < masks; ++i) {
    const Run* first = last;
    if (!decode(text + (i ? ends[i - 1] : 0), text + ends[i], pixels, last)) return i;
    bounds[2 * places[i]] = first, bounds[2 * places[i] + 1] = last;
    for (const Run* run = first; run != last; ++run) areas[places[i]] += run->end - run->start;
  }
  for (int64_t d = 0; d < results; ++d)
    for (int64_t g = 0; g < objects; ++g)
      for (int64_t t = 0; t < frames; ++t) {
        const int64_t a = d * frames + t, b = (results + g) * frames + t;
        shared[(d * objects + g) * frames + t] =
            shared_pixels(bounds[2 * a], bounds[2 * a + 1], bounds[2 * b], bounds[2 * b + 1]);
      }
  return -1;
}
