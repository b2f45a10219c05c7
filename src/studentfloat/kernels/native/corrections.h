// What methods add to a product with a packed matrix: a sparse matrix, and one of low rank.
// Every sum is taken by one thread in one order, so the number of threads changes no bit.

#pragma once

#include <cstdint>

namespace studentfloat {

struct SparseMatrix {
  int64_t rows, columns;
  const int64_t* starts;              // rows + 1: where in `positions` and `values` a row begins
  const void* positions;              // row * columns + column, ascending
  bool wide;                          // whether positions are int64, not int32
  const float* values;
};

// out[c * rows + r] += sum over k of D[r, k] x[c * columns + k], for `count` columns c.
void add_sparse(const SparseMatrix& matrix, const float* x, int64_t count, float* out,
                int threads);

// out[c * columns + k] += sum over r of D[r, k] x[c * rows + r].
void add_sparse_transposed(const SparseMatrix& matrix, const float* x, int64_t count, float* out,
                           int threads);

enum class FactorType : int32_t { bfloat16 = 0, int8 = 1 };

// left, of shape (rows, rank), times right, (rank, columns); each with one scale a row, or null.
struct LowRankMatrix {
  int64_t rows, columns, rank;
  FactorType type;
  const void *left, *right;
  const float *left_scales, *right_scales;
};

// out[c * rows + r] += the low-rank matrix times column c of x.
void add_low_rank(const LowRankMatrix& matrix, const float* x, int64_t count, float* out,
                  int threads);

}  // namespace studentfloat
