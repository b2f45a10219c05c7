// Codes of several dimensions: the nearest of a table of points.

#pragma once

#include <cstdint>

namespace studentfloat {

// Points in groups of a register's width: each coordinate of all of the group, then half their
// squared lengths. What pads the last group is infinitely long.
struct PointTable {
  int64_t count;                      // a multiple of the width
  int64_t dimension;
  const float* points;
};

using NearestPoints = void (*)(const PointTable&, const float* vectors, int64_t first, int64_t last,
                               int64_t* found);

void nearest_plain(const PointTable&, const float*, int64_t, int64_t, int64_t*);
#ifdef STUDENTFLOAT_X86
void nearest_avx2(const PointTable&, const float*, int64_t, int64_t, int64_t*);
void nearest_avx512(const PointTable&, const float*, int64_t, int64_t, int64_t*);
#endif

// For each of `vectors` the index of the point with the largest product less its half square; the
// first of equals.
void nearest_points(const float* vectors, int64_t vectors_count, const float* points,
                    const float* half_squares, int64_t count, int64_t dimension, int64_t* found,
                    int threads);

}  // namespace studentfloat
