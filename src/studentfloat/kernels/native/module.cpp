// The Python module. Arrays come as addresses: what they hold, that they are contiguous and long
// enough is checked by the Python side, which knows torch's and NumPy's arrays.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "corrections.h"
#include "cpu.h"
#include "matrix.h"
#include "nearest.h"
#include "parallel.h"
#include "pool.h"
#include "sketch.h"
#include "trellis.h"

namespace nb = nanobind;
using namespace studentfloat;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Output of more bytes than a cache will hold until somebody reads it.
constexpr int64_t kStreamFrom = int64_t{8} << 20;

}  // namespace

NB_MODULE(_native, module) {
  using nb::literals::operator""_a;
  using release = nb::call_guard<nb::gil_scoped_release>;

  module.def("instruction_sets", [] {
    const InstructionSet* sets[3];
    int count = available_sets(sets);
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.emplace_back(sets[i]->name);
    return names;
  });
  module.def("instruction_set", [] { return std::string(active_set().name); });
  module.def("use_instruction_set", [](const std::string& name) { return use_set(name.c_str()); });
  module.def("thread_source", [] { return std::string(thread_source()); });

  module.def(
      "encode",
      [](uintptr_t thresholds, uintptr_t codes, int levels, int bits, int rule, float maximum,
         float minimum, float peak, int scale_type, bool rounds_away, uintptr_t numbers,
         int64_t rows, int64_t columns, int64_t block_size, uintptr_t packed, uintptr_t scales,
         int threads) {
        Encoder encoder{};
        for (int i = 0; i < 16; ++i) {
          encoder.thresholds[i] = i + 1 < levels ? at<const float>(thresholds)[i]
                                                 : std::numeric_limits<float>::infinity();
          encoder.codes[i] = i < levels ? at<const uint8_t>(codes)[i] : 0;
        }
        encoder.bits = bits;
        encoder.thresholds_used = levels - 1;
        encoder.rule = static_cast<ScaleRule>(rule);
        encoder.maximum = maximum;
        encoder.minimum = minimum;
        encoder.peak = peak;
        encoder.scale_type = static_cast<ScaleType>(scale_type);
        encoder.rounds_away = rounds_away;
        Rows job{columns, block_size, at<const float>(numbers), at<uint8_t>(packed),
                 at<float>(scales)};
        const InstructionSet& set = active_set();
        std::atomic<int> result{0};
        parallel_for(rows, threads, [&](int64_t first, int64_t last) {
          if (int failed = set.encode(encoder, job, first, last)) result = failed;
        });
        return result.load() == 0;
      },
      release());
  module.def(
      "decode",
      [](uintptr_t packed, uintptr_t scales, uintptr_t table, int bits, int64_t rows,
         int64_t columns, int64_t block_size, int type, uintptr_t out, int threads) {
        PackedRows job{columns,
                       block_size,
                       bits,
                       at<const uint8_t>(packed),
                       at<const float>(scales),
                       at<const float>(table),
                       static_cast<OutType>(type),
                       at<void>(out),
                       rows * columns * 4 > kStreamFrom};
        const InstructionSet& set = active_set();
        parallel_for(rows, threads,
                     [&](int64_t first, int64_t last) { set.decode(job, first, last); });
      },
      release());
  module.def(
      "rotate",
      [](uintptr_t x, int64_t rows, int64_t width, int64_t block, int64_t order, uintptr_t factor,
         uintptr_t signs, bool inverse, int threads) {
        Rotation rotation{width,
                          block,
                          order,
                          at<const float>(factor),
                          inverse ? nullptr : at<const float>(signs),
                          inverse ? at<const float>(signs) : nullptr,
                          static_cast<float>(1 / std::sqrt(static_cast<double>(block)))};
        const InstructionSet& set = active_set();
        parallel_for(rows, threads, [&](int64_t first, int64_t last) {
          std::vector<float> space(order > 1 ? block : 0);
          set.rotate(rotation, at<float>(x), first, last, space.data());
        });
      },
      release());
  module.def(
      "sketch_range",
      [](uintptr_t values, int64_t count) {
        Range r = sketch_range(at<const float>(values), count);
        return std::make_tuple(r.zeros, r.lowest, r.highest, r.minimum, r.maximum);
      },
      release());
  module.def(
      "sketch_tally",
      [](uintptr_t values, int64_t count, int fraction_bits, int64_t first, int64_t width,
         uintptr_t counts, uintptr_t fractions) {
        sketch_tally(at<const float>(values), count, fraction_bits, first, width,
                     at<int64_t>(counts), at<int64_t>(fractions));
      },
      release());
  module.def(
      "trellis_encode",
      [](uintptr_t values, int bits, int state_bits, uintptr_t numbers, int64_t count,
         int64_t length, int64_t window, uintptr_t codes, int threads) {
        trellis_encode(at<const int8_t>(values), bits, state_bits, at<const float>(numbers), count,
                       length, window, at<uint8_t>(codes), threads);
      },
      release());
  module.def(
      "trellis_decode",
      [](uintptr_t values, int bits, int state_bits, uintptr_t codes, int64_t count,
         int64_t length, uintptr_t out, int threads) {
        trellis_decode(at<const int8_t>(values), bits, state_bits, at<const uint8_t>(codes), count,
                       length, at<int8_t>(out), threads);
      },
      release());
  module.def(
      "nearest_points",
      [](uintptr_t vectors, int64_t vectors_count, uintptr_t points, uintptr_t half_squares,
         int64_t count, int64_t dimension, uintptr_t found, int threads) {
        nearest_points(at<const float>(vectors), vectors_count, at<const float>(points),
                       at<const float>(half_squares), count, dimension, at<int64_t>(found),
                       threads);
      },
      release());
  module.def("pooled_bytes", [](size_t size) {
    auto owned = std::make_unique<Buffer>(take_pooled(size));
    uint8_t* bytes = owned->data();
    nb::capsule owner(owned.get(), [](void* buffer) noexcept {
      std::unique_ptr<Buffer> back(static_cast<Buffer*>(buffer));
      try {
        give_pooled(std::move(*back));
      } catch (const std::bad_alloc&) {  // then it is not kept
      }
    });
    owned.release();
    return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(bytes, {size}, owner);
  });
  module.def("clear_pool", &clear_pool);
  module.def(
      "read",
      [](uintptr_t bytes, int64_t count, int threads) {
        const InstructionSet& set = active_set();
        std::atomic<uint64_t> total{0};
        int64_t pages = count / 4096;
        parallel_for(pages, threads, [&](int64_t first, int64_t last) {
          total += set.read(at<const uint8_t>(bytes) + first * 4096, (last - first) * 4096);
        });
        return total.load();
      },
      release());

  nb::class_<SparseMatrix>(module, "Sparse")
      .def("__init__",
           [](SparseMatrix* self, int64_t rows, int64_t columns, uintptr_t starts,
              uintptr_t positions, bool wide, uintptr_t values) {
             new (self) SparseMatrix{rows, columns, at<const int64_t>(starts),
                                     at<const void>(positions), wide, at<const float>(values)};
           })
      .def("add",
           [](const SparseMatrix& self, bool transposed, uintptr_t x, int64_t count, uintptr_t out,
              int threads) {
             (transposed ? add_sparse_transposed : add_sparse)(self, at<const float>(x), count,
                                                               at<float>(out), threads);
           },
           release());
  nb::class_<LowRankMatrix>(module, "LowRank")
      .def("__init__",
           [](LowRankMatrix* self, int64_t rows, int64_t columns, int64_t rank, int type,
              uintptr_t left, uintptr_t right, uintptr_t left_scales, uintptr_t right_scales) {
             new (self) LowRankMatrix{rows, columns, rank, static_cast<FactorType>(type),
                                      at<const void>(left), at<const void>(right),
                                      at<const float>(left_scales),
                                      at<const float>(right_scales)};
           })
      .def("add",
           [](const LowRankMatrix& self, uintptr_t x, int64_t count, uintptr_t out, int threads) {
             add_low_rank(self, at<const float>(x), count, at<float>(out), threads);
           },
           release());

  nb::class_<PackedMatrix>(module, "Matrix")
      .def("__init__",
           [](PackedMatrix* self, uintptr_t packed, uintptr_t scales, uintptr_t tables,
              uintptr_t tables_int8, uintptr_t int8_steps, int count, uintptr_t selectors,
              int64_t rows, int64_t columns, int64_t block_size, int bits) {
             auto values = at<const float>(tables);
             auto integers = at<const int8_t>(tables_int8);
             auto steps = at<const float>(int8_steps);
             Alternatives others{count - 1, values + 16, integers + 16, steps + 1,
                                 at<const uint8_t>(selectors)};
             new (self) PackedMatrix(at<const uint8_t>(packed), at<const float>(scales), values,
                                     integers, *steps, rows, columns, block_size, bits, others);
           })
      .def("multiply",
           [](const PackedMatrix& self, uintptr_t x, bool x_is_bfloat16, int64_t count,
              uintptr_t out, int arithmetic, int threads) {
             self.multiply(at<const void>(x), x_is_bfloat16, count, at<void>(out),
                           static_cast<Arithmetic>(arithmetic), threads);
           },
           release())
      .def("multiply_and_add",
           [](const PackedMatrix& self, uintptr_t x, bool x_is_bfloat16, int64_t count,
              uintptr_t out, int arithmetic, int threads, const SparseMatrix* sparse,
              const LowRankMatrix* low_rank) {
             self.multiply(at<const void>(x), x_is_bfloat16, count, at<void>(out),
                           static_cast<Arithmetic>(arithmetic), threads, sparse, low_rank);
           },
           "x"_a, "x_is_bfloat16"_a, "count"_a, "out"_a, "arithmetic"_a, "threads"_a,
           "sparse"_a.none(), "low_rank"_a.none(), release())
      .def("dequantize",
           [](const PackedMatrix& self, int64_t first, int64_t last, int type, uintptr_t out,
              int threads) {
             self.dequantize(first, last, static_cast<OutType>(type), at<void>(out), threads);
           },
           release())
      .def("unpack", [](const PackedMatrix& self, uintptr_t packed) {
        self.unpack(at<uint8_t>(packed));
      })
      .def("unpack_scales", [](const PackedMatrix& self, uintptr_t scales) {
        self.unpack_scales(at<float>(scales));
      })
      .def("unpack_selectors", [](const PackedMatrix& self, uintptr_t selectors) {
        self.unpack_selectors(at<uint8_t>(selectors));
      })
      .def_prop_ro("bytes", &PackedMatrix::bytes);
}
