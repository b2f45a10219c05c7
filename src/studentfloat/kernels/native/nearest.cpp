#include "nearest.h"

#include <limits>
#include <vector>

#include "cpu.h"
#include "parallel.h"

namespace studentfloat {

void nearest_points(const float* vectors, int64_t vectors_count, const float* points,
                    const float* half_squares, int64_t count, int64_t dimension, int64_t* found,
                    int threads) {
  const InstructionSet& set = active_set();
  int64_t width = set.nearest_width, groups = (count + width - 1) / width;
  std::vector<float> laid(groups * width * (dimension + 1), 0.0f);
  for (int64_t p = 0; p < groups * width; ++p) {
    float* to = laid.data() + p / width * width * (dimension + 1) + p % width;
    for (int64_t a = 0; a < dimension && p < count; ++a) to[a * width] = points[p * dimension + a];
    to[dimension * width] =
        p < count ? half_squares[p] : std::numeric_limits<float>::infinity();
  }
  PointTable table{groups * width, dimension, laid.data()};
  parallel_for(vectors_count, threads, [&](int64_t first, int64_t last) {
    set.nearest_points(table, vectors, first, last, found);
  });
}

}  // namespace studentfloat
