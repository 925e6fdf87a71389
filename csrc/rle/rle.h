// Shared by the files of this library.

#pragma once

#include <cstdint>

#if defined(_WIN32)
#define MDQE_EXPORT extern "C" __declspec(dllexport)
#else
#define MDQE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Reads the compressed run lengths of a mask with `pixels` pixels and calls add(index, start, length) for each run; runs
// of an odd index are foreground. Returns false if the text is not valid run lengths for that size.
template <typename Add>
bool decode_runs(const uint8_t* text, const uint8_t* end, int64_t pixels, Add add) {
  constexpr int kGroups = 7;       // 5-bit groups for any signed difference of counts below 2^31
  int64_t before[2] = {0, 0};  // previous background and foreground counts
  int64_t position = 0;
  for (int64_t index = 0; text != end; ++index) {
    int64_t value = 0;
    int groups = 0;
    uint8_t group;
    do {
      if (text == end || groups == kGroups) return false;
      group = uint8_t(*text++ - 48);
      if (group > 63) return false;
      value |= int64_t(group & 31) << (5 * groups++);
    } while (group & 32);
    if (group & 16) value -= int64_t(1) << (5 * groups);
    // From the fourth count on, the text stores the difference from the count two before it.
    if (index > 2) value += before[index & 1];
    before[index & 1] = value;
    if (value < 0 || value > pixels - position) return false;
    add(index, position, value);
    position += value;
  }
  return position == pixels;
}
