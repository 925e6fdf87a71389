// Encodes masks as COCO's compressed run lengths and computes their boxes. Plain C++ without PyTorch; the C interface is at
// the end.

#include <algorithm>
#include <cstring>
#include <limits>

#include "rle.h"

namespace {

// Writes a signed number in groups of 5 bits, lowest first. Bit 5 is set in every group but the last.
uint8_t* write(int64_t value, uint8_t* text) {
  bool more;
  do {
    const int64_t group = value & 31;
    value >>= 5;
    more = value != (group & 16 ? -1 : 0);
    *text++ = uint8_t(group + (more ? 32 : 0) + 48);
  } while (more);
  return text;
}

// The tight box of runs in a mask stored column by column.
struct Box {
  int64_t height, left, top, right = -1, bottom = -1;
  explicit Box(int64_t column) : height(column), left(std::numeric_limits<int64_t>::max()), top(left) {}

  void add(int64_t start, int64_t end) {
    const int64_t first = start / height, last = (end - 1) / height;
    left = std::min(left, first), right = std::max(right, last);
    const bool wraps = last > first;  // continues from the bottom of a column to the top of the next
    top = std::min(top, wraps ? 0 : start - first * height);
    bottom = std::max(bottom, wraps ? height - 1 : end - 1 - last * height);
  }
  void store(float* edges) const {
    const float none = std::numeric_limits<float>::quiet_NaN();
    const bool empty = right < 0;
    edges[0] = empty ? none : float(left), edges[1] = empty ? none : float(top);
    edges[2] = empty ? none : float(right + 1), edges[3] = empty ? none : float(bottom + 1);
  }
};

uint8_t* encode(const uint8_t* mask, int64_t pixels, Box& box, uint8_t* text) {
  int64_t before[2] = {0, 0};  // previous background and foreground counts
  int64_t start = 0;
  for (int64_t index = 0; start < pixels; ++index) {
    const int foreground = int(index & 1);
    const void* next = std::memchr(mask + start, !foreground, size_t(pixels - start));
    const int64_t end = next ? static_cast<const uint8_t*>(next) - mask : pixels;
    if (foreground) box.add(start, end);
    const int64_t count = end - start;
    text = write(index > 2 ? count - before[foreground] : count, text);  // from the fourth count on, a difference is stored
    before[foreground] = count;
    start = end;
  }
  return text;
}

}  // namespace

// Masks of 0 and 1, stored column by column with `height` pixels per column. `pixels` of a mask is positive and below 2^31.
//
// text: room for 2 * pixels + 2 characters per mask, because a count takes no more characters than its run and the run two
// before it have pixels together; ends (masks): end of each mask in text; boxes (masks, 4): x0, y0, x1, y1, NaN for empty
// masks.
MDQE_EXPORT void mdqe_encode(const uint8_t* masks, int64_t number, int64_t pixels, int64_t height, uint8_t* text,
                             int64_t* ends, float* boxes) {
  uint8_t* end = text;
  for (int64_t i = 0; i < number; ++i) {
    Box box(height);
    end = encode(masks + i * pixels, pixels, box, end);
    box.store(boxes + 4 * i);
    ends[i] = end - text;
  }
}
