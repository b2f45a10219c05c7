// Plain C++: for every machine, and the measure of the others.

#include "kernels.h"

namespace studentfloat {

#include "scalars.inl"
#include "prepare.inl"
#include "read.inl"
#include "hadamard.inl"
#include "generic.inl"
#include "codec.inl"

namespace {

void load_scales(const Matrix& m, int64_t at, float* scales) {
  for (int64_t r = 0; r < kRows; ++r) {
    switch (m.scale_type) {
      case ScaleType::float32:
        scales[r] = static_cast<const float*>(m.scales)[at * kRows + r];
        break;
      case ScaleType::bfloat16:
        scales[r] = float_of_bfloat16(static_cast<const uint16_t*>(m.scales)[at * kRows + r]);
        break;
      case ScaleType::float16:
        scales[r] = float_of_float16(static_cast<const uint16_t*>(m.scales)[at * kRows + r]);
        break;
    }
  }
}

// What differs between the arithmetics: the type of a weight and of an activation, where in a
// line's 8 activations the one of code k is, and what a sum stands for.
struct Float32 {
  using Value = float;
  using Sum = float;
  static int place(int k) { return k; }
  static float weight(const Matrix& m, int code) { return m.table[code]; }
  static float activation(float value) { return value; }
};

struct Bfloat16 {
  using Value = uint16_t;
  using Sum = float;
  static int place(int k) { return k % 4 * 2 + k / 4; }
  static float weight(const Matrix& m, int code) {
    return float_of_bfloat16(m.table_bfloat16[code]);
  }
  static float activation(uint16_t value) { return float_of_bfloat16(value); }
};

struct Int8 {
  using Value = int8_t;
  using Sum = int32_t;
  static int place(int k) { return k % 2 * 4 + k / 2; }
  static int32_t weight(const Matrix& m, int code) { return m.table_int8[code] - 128; }
  static int32_t activation(int8_t value) { return value; }
};

// One column times the 16 rows of a group. Activations of one line lie `width` columns apart.
template <class Kind>
void multiply_group(const Matrix& m, const typename Kind::Value* values, const float* steps,
                    int64_t width, int64_t g, float* total) {
  const uint8_t* codes = m.codes + g * m.lines * kLine;
  float scales[kRows];
  typename Kind::Sum sums[kRows];
  for (int64_t r = 0; r < kRows; ++r) total[r] = 0;
  for (int64_t b = 0; b < m.blocks; ++b) {
    load_scales(m, g * m.blocks + b, scales);
    int64_t left = b + 1 < m.blocks ? m.block_lines : m.last_lines;
    while (left > 0) {
      int64_t lines = steps && left > kSegment ? kSegment : left;
      left -= lines;
      for (int64_t r = 0; r < kRows; ++r) sums[r] = 0;
      for (int64_t l = 0; l < lines; ++l, codes += kLine, values += width * kCodes) {
        for (int64_t r = 0; r < kRows; ++r) {
          for (int k = 0; k < kCodes; ++k) {
            int code = codes[4 * r + k / 2] >> 4 * (k % 2) & 15;
            sums[r] += Kind::weight(m, code) * Kind::activation(values[Kind::place(k)]);
          }
        }
      }
      float step = steps ? *steps : 1.0f;
      for (int64_t r = 0; r < kRows; ++r) total[r] += static_cast<float>(sums[r]) * (step * scales[r]);
      if (steps) steps += width;
    }
  }
}

template <class Kind>
void multiply(const Matrix& m, const Activations& x, float* out, int64_t stride, int64_t first,
              int64_t last) {
  for (int64_t g = first; g < last; ++g) {
    int64_t rows = m.rows - g * kRows < kRows ? m.rows - g * kRows : kRows;
    for (int64_t c = 0; c < x.count; ++c) {
      int64_t tile = c / kTile * kTile, j = c - tile;
      int64_t width = x.count - tile < kTile ? x.count - tile : kTile;
      auto values = static_cast<const typename Kind::Value*>(x.values) +
                    tile * m.lines * kCodes + j * kCodes;
      const float* steps = x.scales ? x.scales + tile * x.segments + j : nullptr;
      float total[kRows];
      multiply_group<Kind>(m, values, steps, width, g, total);
      float unit = x.scales ? m.int8_step : 1.0f;
      for (int64_t r = 0; r < rows; ++r) out[c * stride + g * kRows + r] = total[r] * unit;
    }
  }
}

}  // namespace

const InstructionSet kPlain = {
    "plain",         multiply<Float32>, multiply<Bfloat16>, multiply<Int8>, prepare_float32,
    prepare_bfloat16, prepare_int8,     encode,             decode,         to_bfloat16,
    read_bytes,      rotate_rows,       encode_paths_plain, nearest_plain,    4,
};

}  // namespace studentfloat
