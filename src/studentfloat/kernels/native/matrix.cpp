#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu.h"
#include "floats.h"
#include "parallel.h"

namespace studentfloat {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Code i of a row of `bits`-bit codes that takes `bytes` bytes.
int code_at(const uint8_t* row, int64_t bytes, int64_t i, int bits) {
  int64_t bit = i * bits, byte = bit / 8;
  unsigned word = row[byte];
  if (byte + 1 < bytes) word |= static_cast<unsigned>(row[byte + 1]) << 8;
  return static_cast<int>(word >> bit % 8 & ((1u << bits) - 1));
}

void put_code(uint8_t* row, int64_t i, int bits, int code) {
  int64_t bit = i * bits, byte = bit / 8;
  unsigned word = static_cast<unsigned>(code) << bit % 8;
  row[byte] |= static_cast<uint8_t>(word);
  if (word >> 8) row[byte + 1] |= static_cast<uint8_t>(word >> 8);
}

template <class Exact>
bool all_scales(const float* scales, int64_t count, Exact exact) {
  return std::all_of(scales, scales + count, exact);
}

ScaleType narrowest_type(const float* scales, int64_t count) {
  if (all_scales(scales, count, [](float s) { return (bits_of(s) & 0xFFFF) == 0; }))
    return ScaleType::bfloat16;
  if (all_scales(scales, count,
                 [](float s) { return bits_of(float_of_float16(float16_of_float(s))) == bits_of(s); }))
    return ScaleType::float16;
  return ScaleType::float32;
}

// Scratch that a thread keeps between calls: a fresh one costs more than a small product.
uint8_t* scratch(int which, size_t size) {
  static thread_local Buffer kept[3];
  if (kept[which].size() < size) kept[which] = Buffer(size);
  return kept[which].data();
}

float x_at(const void* x, bool x_is_bfloat16, int64_t i) {
  return x_is_bfloat16 ? float_of_bfloat16(static_cast<const uint16_t*>(x)[i])
                       : static_cast<const float*>(x)[i];
}

}  // namespace

Buffer::Buffer(size_t size) : size_(size) {
  size_t alignment = size >= kHugePage ? kHugePage : 64;
  data_ = static_cast<uint8_t*>(std::aligned_alloc(alignment, round_up(std::max(size, size_t{1}), alignment)));
  if (!data_) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(data_, round_up(size, alignment), MADV_HUGEPAGE);
#endif
}

Buffer::~Buffer() { std::free(data_); }

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PackedMatrix::PackedMatrix(const uint8_t* packed, const float* scales, const float* table,
                           const int8_t* table_int8, float int8_step, int64_t rows,
                           int64_t columns, int64_t block_size, int bits)
    : matrix_{}, block_size_(block_size), bits_(bits) {
  Matrix& m = matrix_;
  m.rows = rows;
  m.columns = columns;
  m.groups = ceil_div(rows, kRows);
  m.blocks = ceil_div(columns, block_size);
  m.block_lines = ceil_div(block_size, kCodes);
  m.last_lines = ceil_div(columns - (m.blocks - 1) * block_size, kCodes);
  m.lines = (m.blocks - 1) * m.block_lines + m.last_lines;
  for (int i = 0; i < 16; ++i) {
    m.table[i] = table[i];
    m.table_bfloat16[i] = bfloat16_of_float(table[i]);
    m.table_int8[i] = static_cast<uint8_t>(table_int8[i] + 128);
  }
  m.int8_step = int8_step;
  m.scale_type = narrowest_type(scales, rows * m.blocks);

  codes_ = Buffer(static_cast<size_t>(m.groups * m.lines * kLine));
  for (int64_t g = 0; g < m.groups; ++g) pack_group(packed, g);
  m.codes = codes_.data();

  size_t width = m.scale_type == ScaleType::float32 ? 4 : 2;
  scales_ = Buffer(static_cast<size_t>(m.groups * m.blocks * kRows) * width);
  std::memset(scales_.data(), 0, scales_.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < m.blocks; ++b) {
      float value = scales[r * m.blocks + b];
      int64_t at = (r / kRows * m.blocks + b) * kRows + r % kRows;
      if (m.scale_type == ScaleType::float32) {
        std::memcpy(scales_.data() + at * 4, &value, 4);
      } else {
        uint16_t half = m.scale_type == ScaleType::bfloat16 ? bfloat16_of_float(value)
                                                            : float16_of_float(value);
        std::memcpy(scales_.data() + at * 2, &half, 2);
      }
    }
  }
  m.scales = scales_.data();
}

bool PackedMatrix::rows_are_lines() const {
  return bits_ == 4 && (matrix_.blocks == 1 || block_size_ % kCodes == 0);
}

void PackedMatrix::pack_group(const uint8_t* packed, int64_t group) {
  const Matrix& m = matrix_;
  uint8_t* out = codes_.data() + group * m.lines * kLine;
  std::memset(out, 0, static_cast<size_t>(m.lines * kLine));
  int64_t bytes = row_bytes();
  int64_t rows = std::min(kRows, m.rows - group * kRows);
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* row = packed + (group * kRows + r) * bytes;
    if (rows_are_lines()) {
      for (int64_t at = 0; at < bytes; at += 4) {
        std::memcpy(out + at / 4 * kLine + 4 * r, row + at,
                    static_cast<size_t>(std::min<int64_t>(4, bytes - at)));
      }
      continue;
    }
    for (int64_t i = 0; i < m.columns; ++i) {
      int64_t block = i / block_size_, within = i - block * block_size_;
      uint8_t* line = out + (block * m.block_lines + within / kCodes) * kLine;
      line[4 * r + within % kCodes / 2] |=
          static_cast<uint8_t>(code_at(row, bytes, i, bits_) << 4 * (within % 2));
    }
  }
}

void PackedMatrix::unpack_group(uint8_t* packed, int64_t group) const {
  const Matrix& m = matrix_;
  const uint8_t* in = m.codes + group * m.lines * kLine;
  int64_t bytes = row_bytes();
  int64_t rows = std::min(kRows, m.rows - group * kRows);
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* row = packed + (group * kRows + r) * bytes;
    if (rows_are_lines()) {
      for (int64_t at = 0; at < bytes; at += 4) {
        std::memcpy(row + at, in + at / 4 * kLine + 4 * r,
                    static_cast<size_t>(std::min<int64_t>(4, bytes - at)));
      }
      continue;
    }
    std::memset(row, 0, static_cast<size_t>(bytes));
    for (int64_t i = 0; i < m.columns; ++i) {
      int64_t block = i / block_size_, within = i - block * block_size_;
      const uint8_t* line = in + (block * m.block_lines + within / kCodes) * kLine;
      put_code(row, i, bits_, line[4 * r + within % kCodes / 2] >> 4 * (within % 2) & 15);
    }
  }
}

void PackedMatrix::unpack(uint8_t* packed) const {
  for (int64_t g = 0; g < matrix_.groups; ++g) unpack_group(packed, g);
}

float PackedMatrix::scale(int64_t row, int64_t block) const {
  int64_t at = (row / kRows * matrix_.blocks + block) * kRows + row % kRows;
  if (matrix_.scale_type == ScaleType::float32)
    return reinterpret_cast<const float*>(scales_.data())[at];
  uint16_t half = reinterpret_cast<const uint16_t*>(scales_.data())[at];
  return matrix_.scale_type == ScaleType::bfloat16 ? float_of_bfloat16(half)
                                                   : float_of_float16(half);
}

void PackedMatrix::unpack_scales(float* scales) const {
  for (int64_t r = 0; r < matrix_.rows; ++r) {
    for (int64_t b = 0; b < matrix_.blocks; ++b) scales[r * matrix_.blocks + b] = scale(r, b);
  }
}

namespace {

// Where the 8 activations of a line go, by arithmetic (see Activations).
constexpr int kPlaces[3][8] = {
    {0, 1, 2, 3, 4, 5, 6, 7},
    {0, 2, 4, 6, 1, 3, 5, 7},
    {0, 4, 1, 5, 2, 6, 3, 7},
};

// Lays out one column, line by line: `put(place, i)` stores activation i of the row at a place,
// `skip(place)` fills one that pads a block.
template <class Put, class Skip>
void lay_out(const Matrix& m, int64_t block_size, int64_t width, const int (&places)[8], Put put,
             Skip skip) {
  int64_t i = 0, at = 0;
  for (int64_t b = 0; b < m.blocks; ++b) {
    int64_t stop = std::min(i + block_size, m.columns);
    for (; i < stop; at += width * kCodes) {
      for (int k = 0; k < kCodes; ++k) {
        if (i < stop) put(at + places[k], i++);
        else skip(at + places[k]);
      }
    }
  }
}

struct Columns {
  const Matrix& m;
  int64_t block_size;
  const void* x;
  bool x_is_bfloat16;
  int64_t count;

  int64_t tile(int64_t c) const { return c / kTile * kTile; }
  int64_t width(int64_t c) const { return std::min(kTile, count - tile(c)); }

  void to_float32(int64_t c, float* values) const {
    float* to = values + tile(c) * m.lines * kCodes + (c - tile(c)) * kCodes;
    lay_out(
        m, block_size, width(c), kPlaces[0],
        [&](int64_t at, int64_t i) { to[at] = x_at(x, x_is_bfloat16, c * m.columns + i); },
        [&](int64_t at) { to[at] = 0; });
  }

  void to_bfloat16(int64_t c, uint16_t* values) const {
    uint16_t* to = values + tile(c) * m.lines * kCodes + (c - tile(c)) * kCodes;
    const uint16_t* halves = static_cast<const uint16_t*>(x) + c * m.columns;
    const float* floats = static_cast<const float*>(x) + c * m.columns;
    lay_out(
        m, block_size, width(c), kPlaces[1],
        [&](int64_t at, int64_t i) {
          to[at] = x_is_bfloat16 ? halves[i] : bfloat16_of_float(floats[i]);
        },
        [&](int64_t at) { to[at] = 0; });
  }

  void to_int8(int64_t c, int64_t segments, int8_t* values, float* steps, int32_t* sums) const {
    int64_t wide = width(c), first = tile(c), j = c - first;
    int8_t* to = values + first * m.lines * kCodes + j * kCodes;
    float* step = steps + first * segments + j;
    int32_t* sum = sums + first * segments + j;
    int64_t row = c * m.columns;
    for (int64_t b = 0; b < m.blocks; ++b) {
      int64_t i = b * block_size, stop = std::min(i + block_size, m.columns);
      for (; i < stop; step += wide, sum += wide) {
        int64_t end = std::min(i + kSegment * kCodes, stop);
        float peak = 0;
        bool finite = true;
        for (int64_t k = i; k < end; ++k) {
          float magnitude = std::fabs(x_at(x, x_is_bfloat16, row + k));
          finite &= magnitude <= std::numeric_limits<float>::max();
          peak = std::max(peak, magnitude);
        }
        float inverse = 127.0f / peak;
        // The inverse of zero and of some subnormal numbers is infinite.
        bool count_as_zero = !finite || !std::isfinite(inverse);
        int32_t total = 0;
        for (; i < end; to += wide * kCodes) {
          for (int k = 0; k < kCodes; ++k) {
            int32_t value = 0;
            if (i < end && !count_as_zero)
              value = static_cast<int32_t>(
                  std::nearbyint(x_at(x, x_is_bfloat16, row + i) * inverse));
            ++i;
            to[kPlaces[2][k]] = static_cast<int8_t>(value);
            total += value;
          }
        }
        *step = finite ? peak / 127.0f : std::numeric_limits<float>::quiet_NaN();
        *sum = -128 * total;
      }
    }
  }
};

}  // namespace

void PackedMatrix::multiply(const void* x, bool x_is_bfloat16, int64_t count, float* out,
                            int64_t out_stride, Arithmetic arithmetic, int threads) const {
  const Matrix& m = matrix_;
  const InstructionSet& set = active_set();
  Columns columns{m, block_size_, x, x_is_bfloat16, count};
  Activations prepared{count, 0, nullptr, nullptr, nullptr};
  size_t numbers = static_cast<size_t>(count * m.lines * kCodes);
  auto for_columns = [&](auto&& body) {
    // One column is laid out faster than a thread wakes up.
    parallel_for(count, count < 4 ? 1 : threads, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) body(c);
    });
  };
  Multiply kernel = nullptr;
  if (arithmetic == Arithmetic::float32) {
    kernel = set.float32;
    bool as_it_is = count == 1 && !x_is_bfloat16 && m.lines * kCodes == m.columns;
    if (as_it_is) {
      prepared.values = x;
    } else {
      float* values = reinterpret_cast<float*>(scratch(0, numbers * 4));
      prepared.values = values;
      for_columns([&](int64_t c) { columns.to_float32(c, values); });
    }
  } else if (arithmetic == Arithmetic::bfloat16) {
    kernel = set.bfloat16;
    uint16_t* values = reinterpret_cast<uint16_t*>(scratch(0, numbers * 2));
    prepared.values = values;
    for_columns([&](int64_t c) { columns.to_bfloat16(c, values); });
  } else {
    kernel = set.int8;
    prepared.segments = (m.blocks - 1) * ceil_div(m.block_lines, kSegment) +
                        ceil_div(m.last_lines, kSegment);
    size_t steps = static_cast<size_t>(count * prepared.segments);
    int8_t* values = reinterpret_cast<int8_t*>(scratch(0, numbers));
    float* scales = reinterpret_cast<float*>(scratch(1, steps * 4));
    int32_t* sums = reinterpret_cast<int32_t*>(scratch(2, steps * 4));
    prepared.values = values;
    prepared.scales = scales;
    prepared.sums = sums;
    for_columns([&](int64_t c) { columns.to_int8(c, prepared.segments, values, scales, sums); });
  }
  parallel_for(m.groups, threads, [&](int64_t first, int64_t last) {
    kernel(m, prepared, out, out_stride, first, last);
  });
}

void PackedMatrix::dequantize(int64_t first, int64_t last, OutType type, void* out,
                              int threads) const {
  const Matrix& m = matrix_;
  parallel_for(last - first, threads, [&](int64_t from, int64_t to) {
    for (int64_t r = first + from; r < first + to; ++r) {
      const uint8_t* group = m.codes + r / kRows * m.lines * kLine + 4 * (r % kRows);
      int64_t at = (r - first) * m.columns;
      for (int64_t b = 0; b < m.blocks; ++b) {
        float factor = scale(r, b);
        const uint8_t* line = group + b * m.block_lines * kLine;
        int64_t size = std::min(block_size_, m.columns - b * block_size_);
        for (int64_t i = 0; i < size; ++i, ++at) {
          int code = line[i / kCodes * kLine + i % kCodes / 2] >> 4 * (i % 2) & 15;
          float value = m.table[code] * factor;
          if (type == OutType::float32) static_cast<float*>(out)[at] = value;
          else if (type == OutType::bfloat16)
            static_cast<uint16_t*>(out)[at] = bfloat16_of_float(value);
          else static_cast<uint16_t*>(out)[at] = float16_of_float(value);
        }
      }
    }
  });
}

}  // namespace studentfloat
