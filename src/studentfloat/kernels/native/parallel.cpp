#include "parallel.h"

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

namespace studentfloat {

namespace {

struct Work {
  int64_t count;
  int threads;
  RangeFunction run;
  void* context;

  void part(int index) const {
    int64_t first = count * index / threads, last = count * (index + 1) / threads;
    if (first < last) run(context, first, last);
  }
};

// torch's threads, where torch is loaded: threads of our own beside them would fight for the
// same cores, since both spin between calls. libgomp's entry points are what every compiled
// `#pragma omp parallel` calls, so they are stable.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread)() = nullptr;
  int (*threads)() = nullptr;

  explicit operator bool() const { return parallel && thread && threads; }
};

#if defined(__linux__)
int find_libgomp(dl_phdr_info* info, size_t, void* found) {
  if (info->dlpi_name && std::strstr(info->dlpi_name, "libgomp")) {
    *static_cast<const char**>(found) = info->dlpi_name;
    return 1;
  }
  return 0;
}
#endif

OpenMp find_openmp() {
  OpenMp openmp;
#if defined(__linux__)
  const char* name = nullptr;
  dl_iterate_phdr(find_libgomp, &name);
  if (!name) return openmp;
  void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
  if (!library) return openmp;
  openmp.parallel = reinterpret_cast<decltype(openmp.parallel)>(dlsym(library, "GOMP_parallel"));
  openmp.thread = reinterpret_cast<decltype(openmp.thread)>(dlsym(library, "omp_get_thread_num"));
  openmp.threads =
      reinterpret_cast<decltype(openmp.threads)>(dlsym(library, "omp_get_num_threads"));
#endif
  return openmp;
}

const OpenMp& openmp() {
  // Looked for until found: torch may be imported after us.
  static std::atomic<const OpenMp*> known{nullptr};
  static const OpenMp none;
  if (const OpenMp* found = known.load(std::memory_order_acquire)) return *found;
  OpenMp now = find_openmp();
  if (!now) return none;
  static const OpenMp kept = now;
  known.store(&kept, std::memory_order_release);
  return kept;
}

void run_openmp_part(void* data) {
  const Work& work = *static_cast<const Work*>(data);
  // The runtime may give fewer threads than were asked for; the parts stay the same.
  int have = openmp().threads();
  for (int part = openmp().thread(); part < work.threads; part += have) work.part(part);
}

}  // namespace

void parallel_range(int64_t count, int threads, RangeFunction run, void* context) {
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) {
    if (count > 0) run(context, 0, count);
    return;
  }
  Work work{count, threads, run, context};
  if (openmp()) {
    openmp().parallel(run_openmp_part, &work, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  for (int part = 1; part < threads; ++part) others.emplace_back(&Work::part, &work, part);
  work.part(0);
  for (std::thread& other : others) other.join();
}

const char* thread_source() { return openmp() ? "openmp" : "own"; }

}  // namespace studentfloat
