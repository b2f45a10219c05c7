// A matrix that owns its repacked codes and scales, and the preparation of activations.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "corrections.h"
#include "kernels.h"

namespace studentfloat {

constexpr size_t kHugePage = size_t{2} << 20;

// Bytes on 64-byte lines (or huge pages, where they are large). Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

enum class Arithmetic : int32_t { float32 = 0, bfloat16 = 1, int8 = 2 };

// Tables that blocks choose among beside the first.
struct Alternatives {
  int count = 0;                        // of these, without the first
  const float* tables = nullptr;        // of 16 numbers each
  const int8_t* tables_int8 = nullptr;
  const float* int8_steps = nullptr;
  const uint8_t* selectors = nullptr;   // one row of blocks per row; 0 for the first table
};

class PackedMatrix {
 public:
  // `packed`: rows of ceil(columns * bits / 8) bytes, low code first. `scales`: float32, one row
  // of blocks per row. `table`: what the 16 codes stand for; `table_int8`: their nearest integers
  // in units of `int8_step`.
  PackedMatrix(const uint8_t* packed, const float* scales, const float* table,
               const int8_t* table_int8, float int8_step, int64_t rows, int64_t columns,
               int64_t block_size, int bits, const Alternatives& alternatives = {});

  // The bytes and the numbers that it was made of.
  void unpack(uint8_t* packed) const;
  void unpack_scales(float* scales) const;
  void unpack_selectors(uint8_t* selectors) const;

  // out[c * rows + r] = sum over k of W[r, k] x[c * columns + k], for `count` columns c of
  // contiguous activations. Both are float32 or, with `is_bfloat16`, bfloat16. What is not null is
  // added before the sum is rounded.
  void multiply(const void* x, bool is_bfloat16, int64_t count, void* out, Arithmetic arithmetic,
                int threads, const SparseMatrix* sparse = nullptr,
                const LowRankMatrix* low_rank = nullptr) const;

  // Rows [first, last) as numbers, row-major, rounded to nearest even where `type` is short.
  void dequantize(int64_t first, int64_t last, OutType type, void* out, int threads) const;

  const Matrix& view() const { return matrix_; }
  int64_t block_size() const { return block_size_; }
  int bits() const { return bits_; }
  size_t bytes() const { return codes_.size() + scales_.size() + masks_.size(); }

 private:
  void pack_group(const uint8_t* packed, int64_t group);
  // Of one group: `packed` begins with its first row.
  void unpack_group(uint8_t* packed, int64_t group) const;
  // Whether the bytes of a row are the bytes of its lines, one after the other.
  bool rows_are_lines() const;
  int64_t row_bytes() const { return (matrix_.columns * bits_ + 7) / 8; }
  float scale(int64_t row, int64_t block) const;
  // Which of a group's rows took a table in a block, a bit each.
  uint16_t* mask(int64_t group, int64_t table, int64_t block) const;
  bool takes(int64_t row, int64_t block, int64_t table) const;
  void choose(const Alternatives& alternatives);
  // The sum over the tables of products in which blocks that took another have a scale of zero.
  void multiply_by_choice(Multiply kernel, const Activations& x, float* out, int64_t group) const;
  void decode_rows(const PackedRows& rows, int64_t group, int64_t begin, int64_t end) const;

  Matrix matrix_;
  std::vector<Matrix> choices_;         // the same with each table; empty where there is one
  Buffer codes_, scales_, masks_;
  int64_t block_size_;
  int bits_;
};

}  // namespace studentfloat
