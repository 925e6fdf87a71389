// The kernels, included once per instruction set, inside its namespace and target and after its `Native`. Everything is in
// an unnamed namespace: the linker would merge functions of the same name that are compiled for different processors.
//
// Forward, per (batch, query, head): coordinates, corner weights and row offsets of kWidth points at a time are written to
// a small buffer. Then, per point and corner, one weight is broadcast and multiplied with a contiguous row of value. Each
// corner has its own accumulators, so four chains of multiply-adds are independent. Corners outside the map have weight
// zero and the offset of the nearest pixel inside, so every address is valid for any location.

// The order of these matters.
#include "vector.inl"
#include "points.inl"
#include "rows.inl"
#include "forward.inl"
#include "gradients.inl"
#include "signs.inl"
#include "winograd.inl"

inline KernelTable table(const char* name) {
  using BF = BFloat16;
  return {name,
          forward<float, float, false>, forward<BF, float, false>,
          forward<float, float, true>, forward<BF, float, true>, forward<BF, BF, true>,
          backward<float, false>, backward<BF, false>,
          backward<float, true>, backward<BF, true>,
          pack_signs, count_shared,
          transform_filters, convolve};
}
