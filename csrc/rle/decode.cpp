// Decodes COCO's compressed run lengths to plain ones. Plain C++ without PyTorch.

#include "rle.h"

// Masks with the same number of pixels, below 2^31.
//
// text: the concatenated compressed counts; ends (masks): end of each mask in text; lengths: room for one run per character;
// num_runs (masks). Returns the index of the first invalid mask, or -1.
MDQE_EXPORT int64_t mdqe_run_lengths(const uint8_t* text, const int64_t* ends, int64_t masks, int64_t pixels,
                                     int64_t* lengths, int64_t* num_runs) {
  for (int64_t i = 0; i < masks; ++i) {
    const int64_t* first = lengths;
    const auto add = [&](int64_t, int64_t, int64_t length) { *lengths++ = length; };
    if (!decode_runs(text + (i ? ends[i - 1] : 0), text + ends[i], pixels, add)) return i;
    num_runs[i] = lengths - first;
  }
  return -1;
}
