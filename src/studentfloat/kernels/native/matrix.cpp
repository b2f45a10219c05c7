#include "matrix.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu.h"
#include "parallel.h"

namespace studentfloat {

#include "scalars.inl"

namespace {


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

// Calls `copy(row, at, size)` for every word of at most 4 bytes of a group's rows: a cache line of
// each row in turn, so that what is read and what is written stay in the caches.
template <class Copy>
void for_words(int64_t rows, int64_t bytes, Copy copy) {
  for (int64_t start = 0; start < bytes; start += kLine) {
    int64_t stop = std::min(start + kLine, bytes);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t at = start;
      for (; at + 4 <= stop; at += 4) copy(r, at, size_t{4});
      if (at < stop) copy(r, at, static_cast<size_t>(stop - at));
    }
  }
}

void put_table(Matrix& m, const float* table, const int8_t* table_int8, float int8_step) {
  for (int i = 0; i < 16; ++i) {
    m.table[i] = table[i];
    m.table_bfloat16[i] = bfloat16_of_float(table[i]);
    m.table_int8[i] = static_cast<uint8_t>(table_int8[i] + 128);
  }
  m.int8_step = int8_step;
}

// The scales of a group's blocks, zero where a block's mask lacks the row's bit.
template <class Bits>
void mask_scales(const void* from, const uint16_t* masks, int64_t blocks, void* to) {
  typedef Bits Lanes __attribute__((vector_size(16), may_alias));
  constexpr int64_t kLanes = 16 / static_cast<int64_t>(sizeof(Bits));
  constexpr int64_t kVectors = kRows / kLanes;
  auto scales = static_cast<const Lanes*>(from);
  auto out = static_cast<Lanes*>(to);
  Lanes bits[kVectors];
  for (int64_t r = 0; r < kRows; ++r) bits[r / kLanes][r % kLanes] = static_cast<Bits>(1 << r);
  for (int64_t b = 0; b < blocks; ++b) {
    Lanes mask = Lanes{} + static_cast<Bits>(masks[b]);
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v, ++scales, ++out) {
      auto taken = (mask & bits[v]) == bits[v];  // all ones, or zeros
      *out = *scales & reinterpret_cast<Lanes>(taken);
    }
  }
}

// Asks for huge pages under fresh memory: it is touched for the first time at less cost.
void advise_huge_pages(void* bytes, size_t size) {
#if defined(__linux__)
  uintptr_t first = round_up(reinterpret_cast<uintptr_t>(bytes), kHugePage);
  uintptr_t last = (reinterpret_cast<uintptr_t>(bytes) + size) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)bytes, (void)size;
#endif
}

// Scratch that a thread keeps between calls: a fresh one costs more than a small product.
uint8_t* scratch(int which, size_t size) {
  static thread_local Buffer kept[6];
  if (kept[which].size() < size) kept[which] = Buffer(size);
  return kept[which].data();
}

// In the scratch that activations were laid out in.
const float* widened(const uint16_t* halves, int64_t count) {
  float* wide = reinterpret_cast<float*>(scratch(0, static_cast<size_t>(count) * 4));
  for (int64_t i = 0; i < count; ++i) wide[i] = float_of_bfloat16(halves[i]);
  return wide;
}

}  // namespace

Buffer::Buffer(size_t size) : size_(size) {
  size_t alignment = size >= kHugePage ? kHugePage : 64;
  data_ = static_cast<uint8_t*>(std::aligned_alloc(alignment, round_up(std::max(size, size_t{1}), alignment)));
  if (!data_) throw std::bad_alloc();
  advise_huge_pages(data_, round_up(size, alignment));
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
                           int64_t columns, int64_t block_size, int bits,
                           const Alternatives& alternatives)
    : matrix_{}, block_size_(block_size), bits_(bits) {
  Matrix& m = matrix_;
  m.rows = rows;
  m.columns = columns;
  m.groups = ceil_div(rows, kRows);
  m.blocks = ceil_div(columns, block_size);
  m.block_lines = ceil_div(block_size, kCodes);
  m.last_lines = ceil_div(columns - (m.blocks - 1) * block_size, kCodes);
  m.lines = (m.blocks - 1) * m.block_lines + m.last_lines;
  put_table(m, table, table_int8, int8_step);
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
  if (alternatives.count > 0) choose(alternatives);
}

void PackedMatrix::choose(const Alternatives& alternatives) {
  const Matrix& m = matrix_;
  choices_.assign(static_cast<size_t>(alternatives.count + 1), m);
  for (int k = 0; k < alternatives.count; ++k) {
    put_table(choices_[static_cast<size_t>(k + 1)], alternatives.tables + 16 * k,
              alternatives.tables_int8 + 16 * k, alternatives.int8_steps[k]);
  }
  masks_ = Buffer(static_cast<size_t>(m.groups * m.blocks) * choices_.size() * sizeof(uint16_t));
  std::memset(masks_.data(), 0, masks_.size());
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t b = 0; b < m.blocks; ++b) {
      uint16_t* its = mask(r / kRows, alternatives.selectors[r * m.blocks + b], b);
      *its = static_cast<uint16_t>(*its | 1 << r % kRows);
    }
  }
}

uint16_t* PackedMatrix::mask(int64_t group, int64_t table, int64_t block) const {
  auto tables = static_cast<int64_t>(choices_.size());
  return reinterpret_cast<uint16_t*>(masks_.data()) +
         (group * tables + table) * matrix_.blocks + block;
}

bool PackedMatrix::takes(int64_t row, int64_t block, int64_t table) const {
  return *mask(row / kRows, table, block) >> row % kRows & 1;
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
  packed += group * kRows * bytes;
  if (rows_are_lines()) {
    for_words(rows, bytes, [&](int64_t r, int64_t at, size_t size) {
      std::memcpy(out + at / 4 * kLine + 4 * r, packed + r * bytes + at, size);
    });
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* row = packed + r * bytes;
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
  if (rows_are_lines()) {
    for_words(rows, bytes, [&](int64_t r, int64_t at, size_t size) {
      std::memcpy(packed + r * bytes + at, in + at / 4 * kLine + 4 * r, size);
    });
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* row = packed + r * bytes;
    std::memset(row, 0, static_cast<size_t>(bytes));
    for (int64_t i = 0; i < m.columns; ++i) {
      int64_t block = i / block_size_, within = i - block * block_size_;
      const uint8_t* line = in + (block * m.block_lines + within / kCodes) * kLine;
      put_code(row, i, bits_, line[4 * r + within % kCodes / 2] >> 4 * (within % 2) & 15);
    }
  }
}

void PackedMatrix::unpack(uint8_t* packed) const {
  for (int64_t g = 0; g < matrix_.groups; ++g)
    unpack_group(packed + g * kRows * row_bytes(), g);
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

void PackedMatrix::unpack_selectors(uint8_t* selectors) const {
  for (int64_t r = 0; r < matrix_.rows; ++r) {
    for (int64_t b = 0; b < matrix_.blocks; ++b) {
      uint8_t table = 0;
      while (!takes(r, b, table)) ++table;
      selectors[r * matrix_.blocks + b] = table;
    }
  }
}

void PackedMatrix::multiply_by_choice(Multiply kernel, const Activations& x, float* out,
                                      int64_t group) const {
  const Matrix& m = matrix_;
  int64_t width = m.scale_type == ScaleType::float32 ? 4 : 2;
  const uint8_t* scales = scales_.data() + group * m.blocks * kRows * width;
  uint8_t* masked = scratch(4, static_cast<size_t>(m.blocks * kRows * width));
  float* part = reinterpret_cast<float*>(scratch(5, static_cast<size_t>(x.count * kRows * 4)));
  int64_t rows = std::min(kRows, m.rows - group * kRows);
  // One group with all its tables, while its codes are in the first cache.
  for (size_t k = 0; k < choices_.size(); ++k) {
    const uint16_t* masks = mask(group, static_cast<int64_t>(k), 0);
    auto none = [](uint16_t bits) { return bits == 0; };
    if (k > 0 && std::all_of(masks, masks + m.blocks, none)) continue;
    (width == 4 ? mask_scales<uint32_t> : mask_scales<uint16_t>)(scales, masks, m.blocks, masked);
    Matrix one = choices_[k];
    one.rows = rows;
    one.groups = 1;
    one.codes = m.codes + group * m.lines * kLine;
    one.scales = masked;
    float* to = out + group * kRows;
    kernel(one, x, k ? part : to, k ? kRows : m.rows, 0, 1);
    if (k == 0) continue;
    for (int64_t c = 0; c < x.count; ++c)
      for (int64_t r = 0; r < rows; ++r) to[c * m.rows + r] += part[c * kRows + r];
  }
}

void PackedMatrix::multiply(const void* x, bool is_bfloat16, int64_t count, void* out,
                            Arithmetic arithmetic, int threads, const SparseMatrix* sparse,
                            const LowRankMatrix* low_rank) const {
  const Matrix& m = matrix_;
  const InstructionSet& set = active_set();
  Activations prepared{count, 0, nullptr, nullptr, nullptr};
  Prepare job{m, block_size_, x, is_bfloat16, count, 0, nullptr, nullptr, nullptr};
  PrepareFunction prepare = nullptr;
  Multiply kernel = nullptr;
  size_t laid_out = static_cast<size_t>(count * m.lines * kCodes);
  if (arithmetic == Arithmetic::float32) {
    kernel = set.float32;
    bool as_it_is = count == 1 && !is_bfloat16 && m.lines * kCodes == m.columns;
    prepare = as_it_is ? nullptr : set.prepare_float32;
    job.values = as_it_is ? const_cast<void*>(x) : scratch(0, laid_out * 4);
  } else if (arithmetic == Arithmetic::bfloat16) {
    kernel = set.bfloat16;
    prepare = set.prepare_bfloat16;
    job.values = scratch(0, laid_out * 2);
  } else {
    kernel = set.int8;
    prepare = set.prepare_int8;
    job.segments = (m.blocks - 1) * ceil_div(m.block_lines, kSegment) +
                   ceil_div(m.last_lines, kSegment);
    size_t steps = static_cast<size_t>(count * job.segments);
    job.values = scratch(0, laid_out);
    job.scales = reinterpret_cast<float*>(scratch(1, steps * 4));
    job.sums = reinterpret_cast<int32_t*>(scratch(2, steps * 4));
  }
  if (prepare) {
    // A few columns are laid out faster than a thread wakes up.
    parallel_for(count, count < 4 ? 1 : threads,
                 [&](int64_t first, int64_t last) { prepare(job, first, last); });
  }
  prepared.segments = job.segments;
  prepared.values = job.values;
  prepared.scales = job.scales;
  prepared.sums = job.sums;
  float* sums = is_bfloat16 ? reinterpret_cast<float*>(
                                  scratch(3, static_cast<size_t>(count * m.rows) * 4))
                            : static_cast<float*>(out);
  auto round = [&](int64_t first, int64_t last) {
    int64_t begin = first * kRows, many = std::min(last * kRows, m.rows) - begin;
    for (int64_t at = begin; at < count * m.rows; at += m.rows)
      set.to_bfloat16(sums + at, many, static_cast<uint16_t*>(out) + at);
  };
  bool corrected = sparse || low_rank;
  parallel_for(m.groups, threads, [&](int64_t first, int64_t last) {
    if (choices_.empty()) {
      kernel(m, prepared, sums, m.rows, first, last);
    } else {
      for (int64_t g = first; g < last; ++g) multiply_by_choice(kernel, prepared, sums, g);
    }
    // Where they are still in the caches.
    if (is_bfloat16 && !corrected) round(first, last);
  });
  if (!corrected) return;
  auto numbers = is_bfloat16 ? widened(static_cast<const uint16_t*>(x), count * m.columns)
                             : static_cast<const float*>(x);
  if (low_rank) add_low_rank(*low_rank, numbers, count, sums, threads);
  if (sparse) add_sparse(*sparse, numbers, count, sums, threads);
  if (is_bfloat16) round(0, m.groups);
}

void PackedMatrix::dequantize(int64_t first, int64_t last, OutType type, void* out,
                              int threads) const {
  const Matrix& m = matrix_;
  size_t width = static_cast<size_t>(type == OutType::float32 ? 4 : 2);
  parallel_for(ceil_div(last, kRows) - first / kRows, threads, [&](int64_t from, int64_t to) {
    uint8_t* packed = scratch(1, static_cast<size_t>(kRows * row_bytes()));
    float* scales = reinterpret_cast<float*>(scratch(2, static_cast<size_t>(kRows * m.blocks * 4)));
    for (int64_t g = first / kRows + from; g < first / kRows + to; ++g) {
      unpack_group(packed, g);
      int64_t begin = std::max(first - g * kRows, int64_t{0});
      int64_t end = std::min({last - g * kRows, m.rows - g * kRows, kRows});
      for (int64_t b = 0; b < m.blocks; ++b)
        for (int64_t r = begin; r < end; ++r) scales[r * m.blocks + b] = scale(g * kRows + r, b);
      // Where row 0 of the group would be.
      auto place = static_cast<uint8_t*>(out) +
                   (g * kRows - first) * m.columns * static_cast<int64_t>(width);
      PackedRows rows{m.columns, block_size_, bits_, packed, scales, m.table, type, place, false};
      decode_rows(rows, g, begin, end);
    }
  });
}

void PackedMatrix::decode_rows(const PackedRows& rows, int64_t group, int64_t begin,
                               int64_t end) const {
  const InstructionSet& set = active_set();
  set.decode(rows, begin, end);
  int64_t width = rows.type == OutType::float32 ? 4 : 2;
  // All by each further table, of which the blocks that took it are put in place.
  for (size_t k = 1; k < choices_.size(); ++k) {
    PackedRows other = rows;
    other.table = choices_[k].table;
    other.out = scratch(5, static_cast<size_t>(kRows * rows.columns * width));
    set.decode(other, begin, end);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t b = 0; b < matrix_.blocks; ++b) {
        if (!takes(group * kRows + r, b, static_cast<int64_t>(k))) continue;
        int64_t first = b * block_size_, many = std::min(block_size_, rows.columns - first);
        int64_t at = (r * rows.columns + first) * width;
        std::memcpy(static_cast<uint8_t*>(rows.out) + at, static_cast<uint8_t*>(other.out) + at,
                    static_cast<size_t>(many * width));
      }
    }
  }
}

}  // namespace studentfloat
