// The instruction set that the CPU kernels use: the best of the processor, unless a test chooses another.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEAMLESS_X86
#endif

namespace seamless {

enum class Isa { plain, avx2, avx512 };

Isa best_isa();
Isa current_isa();
void use_isa(Isa isa);

#ifdef SEAMLESS_X86
#define FOR_ISA(function)                                                            \
    (::seamless::current_isa() == ::seamless::Isa::avx512 ? ::seamless::avx512::function \
     : ::seamless::current_isa() == ::seamless::Isa::avx2 ? ::seamless::avx2::function   \
                                                          : ::seamless::plain::function)
#else
#define FOR_ISA(function) ::seamless::plain::function
#endif

}  // namespace seamless
