// NEON with the dot products of 8-bit integers that came with ARMv8.2.

#include "neon.inl"

#ifndef __ARM_FEATURE_DOTPROD
#error "to be compiled with -march=armv8.2-a+dotprod"
#endif

namespace studentfloat {

const InstructionSet kNeonDot = with_name("neon-dot");

}  // namespace studentfloat
