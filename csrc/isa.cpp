#include "isa.h"

#include <atomic>

namespace seamless {

Isa best_isa() {
#ifdef SEAMLESS_X86
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return Isa::plain;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return Isa::avx2;
    return Isa::avx512;
#else
    return Isa::plain;
#endif
}

static std::atomic<Isa> chosen{best_isa()};

Isa current_isa() { return chosen.load(std::memory_order_relaxed); }

void use_isa(Isa isa) { chosen.store(isa, std::memory_order_relaxed); }

}  // namespace seamless
