// NEON as every 64-bit ARM processor has it.

#include "neon.inl"

namespace studentfloat {

const InstructionSet kNeon = with_name("neon");

}  // namespace studentfloat
