// The Python module. Arrays come as addresses: what they hold, that they are contiguous and long
// enough is checked by the Python side, which knows torch's and NumPy's arrays.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "cpu.h"
#include "matrix.h"
#include "parallel.h"

namespace nb = nanobind;
using namespace studentfloat;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

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

  nb::class_<PackedMatrix>(module, "Matrix")
      .def("__init__",
           [](PackedMatrix* self, uintptr_t packed, uintptr_t scales, uintptr_t table,
              uintptr_t table_int8, float int8_step, int64_t rows, int64_t columns,
              int64_t block_size, int bits) {
             new (self) PackedMatrix(at<const uint8_t>(packed), at<const float>(scales),
                                     at<const float>(table), at<const int8_t>(table_int8),
                                     int8_step, rows, columns, block_size, bits);
           })
      .def("multiply",
           [](const PackedMatrix& self, uintptr_t x, bool x_is_bfloat16, int64_t count,
              uintptr_t out, int64_t out_stride, int arithmetic, int threads) {
             self.multiply(at<const void>(x), x_is_bfloat16, count, at<float>(out), out_stride,
                           static_cast<Arithmetic>(arithmetic), threads);
           },
           release())
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
      .def_prop_ro("bytes", &PackedMatrix::bytes);
}
