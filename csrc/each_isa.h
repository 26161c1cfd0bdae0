// Compiles the file KERNEL once for every instruction set, in the namespaces avx512, avx2 and plain. isa.h chooses one
// at run time. target_clones is not used, because GCC splits vectors for the plain instruction set before it makes the
// clones. LANES is defined here, because the preprocessor runs before the pragmas act: __AVX2__ and the like do not
// change within a file.
#include <cstdint>

#include "isa.h"

#define INLINE static inline __attribute__((always_inline))

namespace seamless {

#ifdef SEAMLESS_X86
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define LANES 16
namespace avx512 {
#include "simd.h"

#include KERNEL
}  // namespace avx512
#undef LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define LANES 8
namespace avx2 {
#include "simd.h"

#include KERNEL
}  // namespace avx2
#undef LANES
#pragma GCC pop_options
#endif

#define LANES 4
namespace plain {
#include "simd.h"

#include KERNEL
}  // namespace plain
#undef LANES

}  // namespace seamless
