// Rows of channels in vectors, with the number of vectors as a compile-time constant.

// The last vector of a row uses all its lanes, exactly half of them, or another number. Half a vector (24 channels are one
// and a half AVX-512 vectors) needs no mask, and its multiply-add costs half as much.
enum Tail { kFull, kHalf, kMasked };

// Loads and stores vector v of a row of kVectors vectors. A masked last vector has `tail` lanes.
template <int kVectors, Tail kTail, typename T>
inline F load_part(const T* row, int v, int64_t tail) {
  if (kTail == kFull || v < kVectors - 1) return Vec::load(row + v * kWidth);
  return kTail == kHalf ? Vec::load_half(row + v * kWidth) : Vec::load(row + v * kWidth, tail);
}

template <int kVectors, Tail kTail, typename T>
inline void store_part(T* row, int v, F a, int64_t tail) {
  if (kTail == kFull || v < kVectors - 1) Vec::store(row + v * kWidth, a);
  else if (kTail == kHalf) Vec::store_half(row + v * kWidth, a);
  else Vec::store(row + v * kWidth, a, tail);
}

template <int kVectors, Tail kTail>
inline F fma_part(F a, F b, F c, int v) {
  return kTail == kHalf && v == kVectors - 1 ? Vec::fma_half(a, b, c) : Vec::fma(a, b, c);
}

template <Tail kTail, typename Visit>
inline void visit_block(int64_t vectors, int64_t first, int64_t tail, const Visit& visit) {
  switch (vectors) {
    case 1: return visit.template run<1, kTail>(first, tail);
    case 2: return visit.template run<2, kTail>(first, tail);
    case 3: return visit.template run<3, kTail>(first, tail);
    default: return visit.template run<4, kTail>(first, tail);
  }
}

// Calls visit.run<vectors, tail>(first channel, lanes of the last vector) for blocks of up to four vectors.
template <typename Visit>
inline void for_blocks(int64_t channels, const Visit& visit) {
  for (int64_t d = 0; d < channels; d += 4 * kWidth) {
    const int64_t size = channels - d < 4 * kWidth ? channels - d : 4 * kWidth;
    const int64_t vectors = (size + kWidth - 1) / kWidth, tail = size % kWidth;
    if (tail == 0) visit_block<kFull>(vectors, d, tail, visit);
    else if (tail == kWidth / 2) visit_block<kHalf>(vectors, d, tail, visit);
    else visit_block<kMasked>(vectors, d, tail, visit);
  }
}
