// Quantization of one row to int8, for one instruction set.

typedef int8_t ByteVec __attribute__((vector_size(LANES)));

constexpr float MIN_SCALE = 0x1p-126f;  // see kernels/seamless_kernels/int8.py
constexpr float MAGIC = 12582912.0f;  // 1.5 · 2^23: adding and subtracting it rounds to an integer, halves to even

INLINE Vec magnitude(Vec x) { return (Vec)((IntVec)x & 0x7fffffff); }

static void quantize_row(const float* x, int64_t columns, int8_t* values, float* scale) {
    Vec maxima{};
    IntVec nan{};
    for (int64_t c = 0; c < columns; c += LANES) {
        const Vec v = c + LANES <= columns ? load(x + c) : load_part(x + c, columns - c);
        maxima = maximum(magnitude(v), maxima);
        nan |= v != v;
    }
    float step = any(nan) ? __builtin_nanf("") : largest(maxima) / 127.0f;
    if (step < MIN_SCALE) step = 1.0f;
    *scale = step;
    for (int64_t c = 0; c < columns; c += LANES) {
        const bool full = c + LANES <= columns;
        const Vec v = (full ? load(x + c) : load_part(x + c, columns - c)) / step;
        const ByteVec bytes = __builtin_convertvector(__builtin_convertvector(v + MAGIC - MAGIC, IntVec), ByteVec);
        __builtin_memcpy(values + c, &bytes, full ? LANES : columns - c);
    }
}
