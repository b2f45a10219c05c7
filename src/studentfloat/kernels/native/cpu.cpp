#include "cpu.h"

#include <atomic>
#include <cstring>

#if defined(STUDENTFLOAT_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace studentfloat {

namespace {

#ifdef STUDENTFLOAT_X86
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512bf16");
}
#endif

#ifdef STUDENTFLOAT_ARM
bool has_dot_products() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP, which old headers lack
  return getauxval(AT_HWCAP) & kDotProducts;
#elif defined(__APPLE__)
  return true;  // Apple's processors for Macs all do
#else
  return false;
#endif
}
#endif

const InstructionSet* best_set() {
  const InstructionSet* sets[3];
  available_sets(sets);
  return sets[0];
}

std::atomic<const InstructionSet*>& active() {
  static std::atomic<const InstructionSet*> set{best_set()};
  return set;
}

}  // namespace

int available_sets(const InstructionSet** sets) {
  int count = 0;
#ifdef STUDENTFLOAT_X86
  __builtin_cpu_init();
  if (has_avx512()) sets[count++] = &kAvx512;
  if (has_avx2()) sets[count++] = &kAvx2;
#endif
#ifdef STUDENTFLOAT_ARM
  if (has_dot_products()) sets[count++] = &kNeonDot;
  sets[count++] = &kNeon;
#endif
  sets[count++] = &kPlain;
  return count;
}

const InstructionSet& active_set() { return *active().load(std::memory_order_relaxed); }

bool use_set(const char* name) {
  const InstructionSet* sets[3];
  int count = available_sets(sets);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(sets[i]->name, name) == 0) {
      active().store(sets[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace studentfloat
