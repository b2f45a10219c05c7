// What every instruction set provides, and the layouts they share.
//
// The files of the instruction sets are compiled with their own flags. They must not instantiate
// anything that other files may share (standard containers, inline functions of this header):
// the linker would keep one copy, perhaps one that this machine cannot run.

#pragma once

#include <cstdint>

#include "nearest.h"
#include "trellis.h"

namespace studentfloat {

constexpr int64_t kRows = 16;         // interleaved rows of a group
constexpr int64_t kCodes = 8;         // codes of one row in a line: 4 bytes
constexpr int64_t kLine = 64;         // bytes of a line: kRows * kCodes / 2
constexpr int64_t kTile = 8;          // columns of activations multiplied together
constexpr int64_t kSegment = 16;      // lines, at most, that share an int8 activation scale

enum class ScaleType : int32_t { float32 = 0, bfloat16 = 1, float16 = 2 };
enum class OutType : int32_t { float32 = 0, bfloat16 = 1, float16 = 2 };

// A repacked matrix. A group holds 16 rows; its lines follow each other in the order of the
// columns, each block starting a new line. In a line, bytes 4r to 4r+3 are 8 codes of row r, low
// code first. What pads a block to whole lines, and the matrix to whole groups, has code 0.
// Scales: one per group, block and row, in that order.
struct Matrix {
  int64_t rows, columns, groups;
  int64_t blocks;                     // per row
  int64_t block_lines, last_lines;    // lines of a full block, and of the last one
  int64_t lines;                      // per group
  const uint8_t* codes;
  const void* scales;
  ScaleType scale_type;
  float table[16];
  uint16_t table_bfloat16[16];
  uint8_t table_int8[16];             // nearest multiple of int8_step, plus 128
  float int8_step;
};

// Activations laid out for a kernel: tiles of kTile columns (the last may have fewer, J); in a
// tile, for each line and column:
//   float32    8 floats
//   bfloat16   8 halves: x0 x4 x1 x5 x2 x6 x3 x7 (pairs whose codes share a 32-bit lane)
//   int8       8 bytes: x0 x2 x4 x6 x1 x3 x5 x7 (the low codes of 4 bytes, then the high ones)
// With int8, `scales` and `sums` hold for each tile, segment and column the step, and -128 times
// the sum of the integers, which makes up for the 128 in the table.
struct Activations {
  int64_t count;                      // columns
  int64_t segments;                   // int8: per column
  const void* values;
  const float* scales;
  const int32_t* sums;
};

using Multiply = void (*)(const Matrix&, const Activations&, float* out, int64_t out_stride,
                          int64_t first_group, int64_t last_group);

// Lays out columns [first, last) of row-major activations of m.columns numbers each.
struct Prepare {
  const Matrix& m;
  int64_t block_size;
  const void* x;
  bool x_is_bfloat16;
  int64_t count;                      // columns in all
  int64_t segments;
  void* values;                       // the three of Activations
  float* scales;
  int32_t* sums;
};
using PrepareFunction = void (*)(const Prepare&, int64_t first, int64_t last);

// How numbers become codes.
enum class ScaleRule : int32_t { absmax = 0, magnitude = 1, signed_peak = 2 };

struct Encoder {
  float thresholds[16];               // ascending, the rest infinite: level = how many are below
  uint8_t codes[16];                  // of each level
  int bits;
  int thresholds_used;
  ScaleRule rule;
  float maximum, minimum, peak;       // of the format; peak: what signed_peak divides by
  ScaleType scale_type;
  bool rounds_away;
};

// Rows of `columns` numbers in blocks, to packed codes and one scale a block.
struct Rows {
  int64_t columns, block_size;
  const float* numbers;
  uint8_t* packed;
  float* scales;
};

struct PackedRows {
  int64_t columns, block_size;
  int bits;
  const uint8_t* packed;
  const float* scales;
  const float* table;                 // 16 values
  OutType type;
  void* out;
  bool stream;                        // whether `out` will be out of the caches before it is read
};

// Returns 0, or kNotFinite, in which case the output means nothing.
constexpr int kNotFinite = 1;
using EncodeFunction = int (*)(const Encoder&, const Rows&, int64_t first, int64_t last);
using DecodeFunction = void (*)(const PackedRows&, int64_t first, int64_t last);

// An orthogonal matrix that rows of `width` numbers are multiplied by, run by run of `block`: a
// dense factor of `order` for the Hadamard matrix of the power of two that is left. Either of
// the signs may be absent.
struct Rotation {
  int64_t width, block, order;
  const float* factor;                // order x order: what a column is multiplied by
  const float* signs_before;
  const float* signs_after;
  float scale;
};
// Rotates rows [first, last) in place; `space` holds `block` numbers.
using RotateFunction = void (*)(const Rotation&, float* x, int64_t first, int64_t last,
                                float* space);

struct InstructionSet {
  const char* name;
  Multiply float32, bfloat16, int8;
  PrepareFunction prepare_float32, prepare_bfloat16, prepare_int8;
  EncodeFunction encode;
  DecodeFunction decode;
  void (*to_bfloat16)(const float* numbers, int64_t count, uint16_t* out);
  // Reads memory and nothing else: the bound of a product with a vector.
  uint64_t (*read)(const void* bytes, int64_t count);
  RotateFunction rotate;
  EncodePaths encode_paths;
  NearestPoints nearest_points;
  int nearest_width;
};

extern const InstructionSet kPlain;
#ifdef STUDENTFLOAT_X86
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;
#endif
#ifdef STUDENTFLOAT_ARM
extern const InstructionSet kNeon;
extern const InstructionSet kNeonDot;
#endif

}  // namespace studentfloat
