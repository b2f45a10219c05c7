#include "corrections.h"

#include <algorithm>
#include <cstring>

#include "matrix.h"
#include "parallel.h"

namespace studentfloat {

#include "scalars.inl"

namespace {

constexpr int64_t kTileColumns = 16;
constexpr int64_t kRun = 16;            // rows or columns that are transposed at a time

// Four floats in a register of any machine: arrays of sums would be kept in memory.
typedef float Lanes __attribute__((vector_size(16), aligned(4), may_alias));
constexpr int64_t kLanes = 4;

// Scratch that a thread keeps between calls, as in matrix.cpp.
float* scratch(int which, int64_t numbers) {
  static thread_local Buffer kept[2];
  size_t size = static_cast<size_t>(numbers) * sizeof(float);
  if (kept[which].size() < size) kept[which] = Buffer(size);
  return reinterpret_cast<float*>(kept[which].data());
}

// One column. Four sums in turn, so that an addition need not wait for the one before.
template <class Position>
float row_times_column(const Position* positions, const float* values, int64_t count,
                       int64_t first, const float* x) {
  float sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int64_t l = 0; l < 4; ++l) sums[l] += values[i + l] * x[positions[i + l] - first];
  for (; i < count; ++i) sums[0] += values[i] * x[positions[i] - first];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class Position>
void add_column(const SparseMatrix& m, const float* x, float* out, int threads) {
  auto positions = static_cast<const Position*>(m.positions);
  parallel_for(m.rows, threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      int64_t at = m.starts[r];
      out[r] += row_times_column(positions + at, m.values + at, m.starts[r + 1] - at,
                                 r * m.columns, x);
    }
  });
}

// `many` rows of `width` numbers, transposed; what is beyond them in W lanes is zero.
template <int64_t W>
void transpose(const float* rows, int64_t many, int64_t width, float* out) {
  for (int64_t start = 0; start < width; start += kRun) {
    int64_t stop = std::min(start + kRun, width);
    for (int64_t j = 0; j < W; ++j)
      for (int64_t i = start; i < stop; ++i) out[i * W + j] = j < many ? rows[j * width + i] : 0.0f;
  }
}

// Adds `count` rows of W numbers to `many` rows that are `width` apart.
template <int64_t W>
void add_transposed(const float* numbers, int64_t count, int64_t many, int64_t width, float* out) {
  for (int64_t start = 0; start < count; start += kRun) {
    int64_t stop = std::min(start + kRun, count);
    for (int64_t j = 0; j < many; ++j)
      for (int64_t i = start; i < stop; ++i) out[j * width + i] += numbers[i * W + j];
  }
}

// A row times W columns, whose numbers lie side by side in `tile`.
template <int64_t W, class Position>
void row_times_tile(const Position* positions, const float* values, int64_t count, int64_t first,
                    const float* tile, float* out) {
  constexpr int kVectors = W / kLanes;
  Lanes sums[kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) sums[k] = Lanes{};
  for (int64_t i = 0; i < count; ++i) {
    auto numbers = reinterpret_cast<const Lanes*>(tile + (positions[i] - first) * W);
    float value = values[i];
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) sums[k] += value * numbers[k];
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) reinterpret_cast<Lanes*>(out)[k] = sums[k];
}

// W columns at most.
template <int64_t W, class Position>
void add_tile(const SparseMatrix& m, const float* x, int64_t many, float* out, int threads) {
  auto positions = static_cast<const Position*>(m.positions);
  float* tile = scratch(0, m.columns * W);
  transpose<W>(x, many, m.columns, tile);
  parallel_for(m.rows, threads, [&](int64_t first, int64_t last) {
    float sums[kRun * W];
    for (int64_t start = first; start < last; start += kRun) {
      int64_t stop = std::min(start + kRun, last);
      for (int64_t r = start; r < stop; ++r) {
        int64_t at = m.starts[r];
        row_times_tile<W>(positions + at, m.values + at, m.starts[r + 1] - at, r * m.columns, tile,
                          sums + (r - start) * W);
      }
      add_transposed<W>(sums, stop - start, many, m.rows, out + start);
    }
  });
}

template <int64_t W, class Position>
void add_tile_transposed(const SparseMatrix& m, const float* x, int64_t many, float* out) {
  constexpr int kVectors = W / kLanes;
  auto positions = static_cast<const Position*>(m.positions);
  float* tile = scratch(0, m.rows * W);
  float* sums = scratch(1, m.columns * W);
  transpose<W>(x, many, m.rows, tile);
  std::memset(sums, 0, static_cast<size_t>(m.columns * W) * sizeof(float));
  for (int64_t r = 0; r < m.rows; ++r) {
    auto numbers = reinterpret_cast<const Lanes*>(tile + r * W);
    for (int64_t i = m.starts[r]; i < m.starts[r + 1]; ++i) {
      auto to = reinterpret_cast<Lanes*>(sums + (positions[i] - r * m.columns) * W);
      float value = m.values[i];
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) to[k] += value * numbers[k];
    }
  }
  add_transposed<W>(sums, m.columns, many, m.columns, out);
}

template <class Position>
void add_columns(const SparseMatrix& m, const float* x, int64_t count, float* out, int threads) {
  if (count == 1) return add_column<Position>(m, x, out, threads);
  for (int64_t c = 0; c < count; c += kTileColumns) {
    int64_t many = std::min(count - c, kTileColumns);
    const float* from = x + c * m.columns;
    float* to = out + c * m.rows;
    if (many <= 4) add_tile<4, Position>(m, from, many, to, threads);
    else if (many <= 8) add_tile<8, Position>(m, from, many, to, threads);
    else add_tile<kTileColumns, Position>(m, from, many, to, threads);
  }
}

template <class Position>
void add_columns_transposed(const SparseMatrix& m, const float* x, int64_t count, float* out,
                            int threads) {
  // Two rows may add to the same number: threads share out the columns.
  int64_t tiles = (count + kTileColumns - 1) / kTileColumns;
  parallel_for(tiles, threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first * kTileColumns; c < std::min(last * kTileColumns, count);
         c += kTileColumns) {
      int64_t many = std::min(count - c, kTileColumns);
      const float* from = x + c * m.rows;
      float* to = out + c * m.columns;
      if (many <= 4) add_tile_transposed<4, Position>(m, from, many, to);
      else add_tile_transposed<kTileColumns, Position>(m, from, many, to);
    }
  });
}

float number(uint16_t half) { return float_of_bfloat16(half); }
float number(int8_t integer) { return static_cast<float>(integer); }

// Sixteen numbers of a factor, as floats, in the order that `arranged` gives activations.
void sixteen(const uint16_t* halves, Lanes* out) {
  typedef uint16_t Halves __attribute__((vector_size(8), aligned(2), may_alias));
  typedef uint32_t Words __attribute__((vector_size(16)));
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    Halves four = *reinterpret_cast<const Halves*>(halves + k * kLanes);
    out[k] = reinterpret_cast<Lanes>(__builtin_convertvector(four, Words) << 16);
  }
}

// A word holds four integers: the first of each word, then the second ...
void sixteen(const int8_t* integers, Lanes* out) {
  typedef int32_t Words __attribute__((vector_size(16), aligned(1), may_alias));
  Words words = *reinterpret_cast<const Words*>(integers);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k)
    out[k] = __builtin_convertvector((words << (24 - 8 * k)) >> 24, Lanes);
}

const float* arranged(const uint16_t*, const float* x, int64_t, int64_t) { return x; }

// `count` columns of `width` activations; what is left beyond sixteens stays where it is.
const float* arranged(const int8_t*, const float* x, int64_t count, int64_t width) {
  float* out = scratch(1, count * width);
  for (int64_t c = 0; c < count; ++c, x += width) {
    float* to = out + c * width;
    std::memcpy(to, x, static_cast<size_t>(width) * sizeof(float));
    for (int64_t i = 0; i + 16 <= width; i += 16)
      for (int64_t j = 0; j < 16; ++j) to[i + j % 4 * 4 + j / 4] = x[i + j];
  }
  return out;
}

// `x` is arranged.
template <class T>
float dot(const T* weights, const float* x, int64_t count) {
  Lanes sums[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) sums[k] = Lanes{};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    Lanes numbers[4];
    sixteen(weights + i, numbers);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
      sums[k] += numbers[k] * *reinterpret_cast<const Lanes*>(x + i + k * kLanes);
  }
  float rest = 0.0f;
  for (; i < count; ++i) rest += number(weights[i]) * x[i];
  Lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return ((all[0] + all[1]) + (all[2] + all[3])) + rest;
}

template <class T>
void add_factors(const LowRankMatrix& m, const float* x, int64_t count, float* out, int threads) {
  auto left = static_cast<const T*>(m.left);
  auto right = static_cast<const T*>(m.right);
  const float* numbers = arranged(right, x, count, m.columns);
  float* hidden = scratch(0, count * m.rank);
  parallel_for(m.rank, threads, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      float scale = m.right_scales ? m.right_scales[k] : 1.0f;
      for (int64_t c = 0; c < count; ++c)
        hidden[c * m.rank + k] =
            dot(right + k * m.columns, numbers + c * m.columns, m.columns) * scale;
    }
  });
  const float* between = arranged(left, hidden, count, m.rank);
  parallel_for(m.rows, threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float scale = m.left_scales ? m.left_scales[r] : 1.0f;
      for (int64_t c = 0; c < count; ++c)
        out[c * m.rows + r] += dot(left + r * m.rank, between + c * m.rank, m.rank) * scale;
    }
  });
}

}  // namespace

void add_sparse(const SparseMatrix& matrix, const float* x, int64_t count, float* out,
                int threads) {
  (matrix.wide ? add_columns<int64_t> : add_columns<int32_t>)(matrix, x, count, out, threads);
}

void add_sparse_transposed(const SparseMatrix& matrix, const float* x, int64_t count, float* out,
                           int threads) {
  (matrix.wide ? add_columns_transposed<int64_t> : add_columns_transposed<int32_t>)(
      matrix, x, count, out, threads);
}

void add_low_rank(const LowRankMatrix& matrix, const float* x, int64_t count, float* out,
                  int threads) {
  (matrix.type == FactorType::int8 ? add_factors<int8_t> : add_factors<uint16_t>)(matrix, x, count,
                                                                                 out, threads);
}

}  // namespace studentfloat
