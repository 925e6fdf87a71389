// 3x3 convolutions by Winograd's minimal filtering, F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks" (2016).
//
// A tile of 2x2 outputs depends on 4x4 inputs. Inputs and weights are transformed to 16 numbers each. The products of both,
// summed over the channels, are 16 numbers that are transformed to the 4 outputs: 16 multiplications instead of 36. The sums
// of all tiles and outputs are 16 matrix products.

#ifdef __clang__
#define MDQE_UNROLL _Pragma("unroll")
#else
#define MDQE_UNROLL _Pragma("GCC unroll 16")
#endif

constexpr int64_t kColumns = kConvolutionOutputs;  // the sums of kColumns outputs of kRows tiles are in registers together
constexpr int kVectors = kColumns / kWidth, kRows = 12 / kVectors;
constexpr int64_t kTiles = kConvolutionTiles;  // most tiles of a block
static_assert(kVectors * kWidth == kColumns && kRows * kVectors + kVectors + 1 <= Vec::kRegisters && kTiles % kRows == 0 &&
              (kWidth == kConvolutionInputs || kWidth == 2 * kConvolutionInputs), "");

inline void transform_filter(F a, F b, F c, F* out) {
  const F half = Vec::set(0.5f);
  out[0] = a, out[1] = half * (a + b + c), out[2] = half * (a - b + c), out[3] = c;
}
inline void transform_input(F a, F b, F c, F d, F* out) { out[0] = a - c, out[1] = b + c, out[2] = c - b, out[3] = b - d; }
inline void transform_output(F a, F b, F c, F d, F* out) { out[0] = a + b + c, out[1] = b - c - d; }

// Transforms weights (O, C, 3, 3) to (O / kColumns, 16, C, kColumns), for panels [begin, end) of the first axis.
void transform_filters(const Convolution& p, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel)
    for (int64_t c = 0; c < p.inputs; ++c) {
      float taps[9][kColumns];
      for (int64_t o = 0; o < kColumns; ++o) {
        const float* weights = p.weight + ((panel * kColumns + o) * p.inputs + c) * 9;
        for (int k = 0; k < 9; ++k) taps[k][o] = weights[k];
      }
      for (int64_t v = 0; v < kColumns; v += kWidth) {
        F columns[3][4], row[4];  // columns of the kernel, transformed
        MDQE_UNROLL for (int j = 0; j < 3; ++j)
          transform_filter(Vec::load(taps[j] + v), Vec::load(taps[3 + j] + v), Vec::load(taps[6 + j] + v), columns[j]);
        MDQE_UNROLL for (int i = 0; i < 4; ++i) {
          transform_filter(columns[0][i], columns[1][i], columns[2][i], row);
          MDQE_UNROLL for (int j = 0; j < 4; ++j)
            Vec::store(p.filters + ((panel * 16 + i * 4 + j) * p.inputs + c) * kColumns + v, row[j]);
        }
      }
    }
}

// Transforms kWidth inputs of a tile, or half of them: 4x4 pixels, to 16 numbers that are `step` apart.
template <bool half>
inline void transform_inputs(const float* const (&pixels)[16], int64_t c, float* out, int64_t step) {
  const auto load = [&](int k) { return half ? Vec::load_half(pixels[k] + c) : Vec::load(pixels[k] + c); };
  F columns[4][4], row[4];
  MDQE_UNROLL for (int j = 0; j < 4; ++j) transform_input(load(j), load(4 + j), load(8 + j), load(12 + j), columns[j]);
  MDQE_UNROLL for (int i = 0; i < 4; ++i) {
    transform_input(columns[0][i], columns[1][i], columns[2][i], columns[3][i], row);
    MDQE_UNROLL for (int j = 0; j < 4; ++j) {
      float* place = out + (i * 4 + j) * step + c;
      half ? Vec::store_half(place, row[j]) : Vec::store(place, row[j]);
    }
  }
}

// Transforms all inputs of a tile.
inline void transform_tile(const float* const (&pixels)[16], int64_t inputs, float* out, int64_t step) {
  int64_t c = 0;
  for (; c + kWidth <= inputs; c += kWidth) transform_inputs<false>(pixels, c, out, step);
  if (c < inputs) transform_inputs<true>(pixels, c, out, step);
}

// (kRows, inputs) times (inputs, kColumns) -> (kRows, kColumns)
inline void multiply(const float* a, const float* b, int64_t inputs, float* out) {
  F sums[kRows][kVectors] = {}, weights[kVectors];
  for (int64_t c = 0; c < inputs; ++c) {
    MDQE_UNROLL for (int v = 0; v < kVectors; ++v) weights[v] = Vec::load(b + c * kColumns + v * kWidth);
    MDQE_UNROLL for (int r = 0; r < kRows; ++r) {
      const F x = Vec::set(a[r * inputs + c]);
      MDQE_UNROLL for (int v = 0; v < kVectors; ++v) sums[r][v] = Vec::fma(x, weights[v], sums[r][v]);
    }
  }
  MDQE_UNROLL for (int r = 0; r < kRows; ++r)
    MDQE_UNROLL for (int v = 0; v < kVectors; ++v) Vec::store(out + r * kColumns + v * kWidth, sums[r][v]);
}

// Computes tiles [begin, end), at most kTiles, from transformed weights. Tiles are numbered row by row. `scratch` has the
// size convolution_scratch(p).
void convolve(const Convolution& p, int64_t begin, int64_t end, float* scratch) {
  struct Place {
    int64_t item, y, x;
  };
  const int64_t across = (p.width + 1) / 2, down = (p.height + 1) / 2, step = kTiles * p.inputs;
  const auto place = [&](int64_t t) { return Place{t / (across * down), t / across % down * 2, t % across * 2}; };
  float *products = scratch + 16 * step, *zeros = products + 16 * kTiles * kColumns;
  for (int64_t c = 0; c < p.inputs; ++c) zeros[c] = 0;
  const int64_t rows = (end - begin + kRows - 1) / kRows * kRows;  // after the last tile: zeros
  for (int64_t i = 0; i < rows; ++i) {
    const Place at = place(begin + i);
    const float* pixels[16];
    for (int64_t k = 0; k < 16; ++k) {
      const int64_t y = at.y + k / 4 - 1, x = at.x + k % 4 - 1;
      const bool inside = begin + i < end && y >= 0 && y < p.height && x >= 0 && x < p.width;
      pixels[k] = inside ? p.input + at.item * p.item_step + (y * p.width + x) * p.inputs : zeros;
    }
    transform_tile(pixels, p.inputs, scratch + i * p.inputs, step);
  }
  for (int64_t o = 0; o < p.outputs; o += kColumns) {
    for (int64_t k = 0; k < 16; ++k)
      for (int64_t i = 0; i < rows; i += kRows)
        multiply(scratch + k * step + i * p.inputs, p.filters + (o * 16 + k * kColumns) * p.inputs, p.inputs,
                 products + (k * kTiles + i) * kColumns);
    for (int64_t i = 0; i < end - begin; ++i) {
      const Place at = place(begin + i);
      float* out = p.output + ((at.item * p.height + at.y) * p.width + at.x) * p.outputs + o;
      for (int64_t v = 0; v < kColumns; v += kWidth) {
        const float* sums = products + i * kColumns + v;
        const F bias = Vec::load(p.bias + o + v);
        F columns[4][2], row[2];
        MDQE_UNROLL for (int64_t j = 0; j < 4; ++j) {
          const float* column = sums + j * kTiles * kColumns;
          transform_output(Vec::load(column), Vec::load(column + 4 * kTiles * kColumns),
                           Vec::load(column + 8 * kTiles * kColumns), Vec::load(column + 12 * kTiles * kColumns),
                           columns[j]);
        }
        for (int64_t y = 0; y < 2 && at.y + y < p.height; ++y) {
          transform_output(columns[0][y], columns[1][y], columns[2][y], columns[3][y], row);
          Vec::store(out + y * p.width * p.outputs + v, row[0] + bias);
          if (at.x + 1 < p.width) Vec::store(out + (y * p.width + 1) * p.outputs + v, row[1] + bias);
        }
      }
    }
  }
}
