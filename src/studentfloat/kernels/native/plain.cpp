// Plain C++: for every machine, and the measure of the others.

#include "kernels.h"

namespace studentfloat {

#include "scalars.inl"
#include "prepare.inl"
#include "read.inl"

namespace {

// See codec.inl. Sixteen numbers at a time, so that the compiler may use what vectors there are.
struct Lanes {
  static constexpr int64_t kWidth = 16;
  const Encoder& e;
  uint32_t magnitude[kWidth] = {};  // the greatest seen, as bits

  explicit Lanes(const Encoder& encoder) : e(encoder) {}

  bool all_finite() const {
    uint32_t most = 0;
    for (int64_t l = 0; l < kWidth; ++l) most = magnitude[l] > most ? magnitude[l] : most;
    return most < 0x7F800000;
  }

  // The greatest number and the least, no less and no greater than what is there already.
  void extremes(const float* x, int64_t count, float* greatest, float* least) {
    float above[kWidth], below[kWidth];
    for (int64_t l = 0; l < kWidth; ++l) above[l] = *greatest, below[l] = *least;
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) {
      for (int64_t l = 0; l < kWidth; ++l) {
        float v = x[i + l];
        uint32_t bits = bits_of(v) & 0x7FFFFFFF;
        above[l] = v > above[l] ? v : above[l];
        below[l] = v < below[l] ? v : below[l];
        magnitude[l] = bits > magnitude[l] ? bits : magnitude[l];
      }
    }
    for (int64_t l = 0; i < count; ++i, ++l) {
      float v = x[i];
      uint32_t bits = bits_of(v) & 0x7FFFFFFF;
      above[l] = v > above[l] ? v : above[l];
      below[l] = v < below[l] ? v : below[l];
      magnitude[l] = bits > magnitude[l] ? bits : magnitude[l];
    }
    for (int64_t l = 0; l < kWidth; ++l) {
      *greatest = above[l] > *greatest ? above[l] : *greatest;
      *least = below[l] < *least ? below[l] : *least;
    }
  }

  void encode(const float* x, int64_t count, float divisor, uint8_t* codes) const {
    for (int64_t i = 0; i < count; i += kWidth) {
      float quotients[kWidth] = {};
      int32_t levels[kWidth] = {};
      int64_t many = count - i < kWidth ? count - i : kWidth;
      if (many == kWidth) {
        for (int64_t l = 0; l < kWidth; ++l) quotients[l] = x[i + l] / divisor;
      } else {
        for (int64_t l = 0; l < many; ++l) quotients[l] = x[i + l] / divisor;
      }
      for (int t = 0; t < e.thresholds_used; ++t)
        for (int64_t l = 0; l < kWidth; ++l) levels[l] += quotients[l] > e.thresholds[t];
      for (int64_t l = 0; l < many; ++l) codes[i + l] = e.codes[levels[l]];
    }
  }
};

struct LookUp {
  const float* table;
  OutType type;

  LookUp(const float* values, OutType out, bool) : table(values), type(out) {}

  void finish() const {}

  void put(float value, float* out) const { *out = value; }
  void put(float value, uint16_t* out) const {
    *out = type == OutType::bfloat16 ? bfloat16_of_float(value) : float16_of_float(value);
  }

  template <class Out>
  void bytes(const uint8_t* codes, int64_t count, float scale, Out* out) const {
    for (int64_t i = 0; i < count; ++i) put(table[codes[i]] * scale, out + i);
  }

  template <class Out>
  void pairs(const uint8_t* packed, int64_t count, float scale, Out* out) const {
    for (int64_t i = 0; i < count; ++i)
      put(table[packed[i / 2] >> 4 * (i % 2) & 15] * scale, out + i);
  }
};

}  // namespace

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
    prepare_bfloat16, prepare_int8,     encode,             decode,         read_bytes,
};

}  // namespace studentfloat
