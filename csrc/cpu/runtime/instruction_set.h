// The instruction sets that kernels are compiled for, and the choice among them.
#pragma once

namespace fused_rnn {

struct InstructionSet {
  const char* name;
  bool (*runs_here)();
  bool (*pays)() = [] { return true; };  // whether it is faster than those before it
};

// How many there are, from the plainest to the widest. A table of units has one for each, in the order of
// instruction_set.cpp.
inline constexpr int kInstructionSets = 1
#if defined(FUSED_RNN_HAVE_NEON)
                                        + 2
#endif
#if defined(FUSED_RNN_HAVE_AVX2)
                                        + 2
#endif
#if defined(FUSED_RNN_HAVE_AVX512)
                                        + 3
#endif
    ;

const InstructionSet& instruction_set(int index);

// The index of the one in use: the widest that pays, or what the environment variable FUSED_RNN_CPU_ISA names. Read
// once. Throws std::invalid_argument where the variable names one that is unknown or cannot run here.
int active_instruction_set();

}  // namespace fused_rnn
