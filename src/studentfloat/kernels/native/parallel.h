// Running a function over a range on several threads.

#pragma once

#include <cstdint>

namespace studentfloat {

using RangeFunction = void (*)(void* context, int64_t first, int64_t last);

// Cuts [0, count) into `threads` even parts and runs them; returns when all are done.
void parallel_range(int64_t count, int threads, RangeFunction run, void* context);

// The same with any callable of (first, last).
template <class Body>
void parallel_for(int64_t count, int threads, Body&& body) {
  parallel_range(
      count, threads,
      [](void* context, int64_t first, int64_t last) {
        (*static_cast<Body*>(context))(first, last);
      },
      &body);
}

// "openmp" where the process has an OpenMP runtime loaded (torch brings one), else "own".
const char* thread_source();

}  // namespace studentfloat
