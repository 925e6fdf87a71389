// The kernels, included once per instruction set, inside that set's namespace and target and after its `Native`. All of it
// is in an unnamed namespace there: a function shared by name with code for other processors would be one for both.
//
// Forward, per (batch, query, head): coordinates, corner weights and row offsets of kWidth points at a time go to a small
// buffer; then, per point and corner, one weight is broadcast and multiplied with a contiguous row of value. Each corner
// has its own accumulators, so that four chains of multiply-adds run side by side. Corners outside the map have weight
// zero and the offset of the nearest pixel inside, so every address read is valid whatever the location.

// In this order.
#include "vector.inl"
#include "points.inl"
#include "rows.inl"
#include "forward.inl"
#include "gradients.inl"

inline KernelTable table(const char* name) {
  using BF = BFloat16;
  return {name,
          forward<float, float, false>, forward<BF, float, false>,
          forward<float, float, true>, forward<BF, float, true>, forward<BF, BF, true>,
          backward<float, false>, backward<BF, false>,
          backward<float, true>, backward<BF, true>};
}
