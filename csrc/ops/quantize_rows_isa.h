// A row in 8 bits, for one instruction set.

typedef int8_t ByteVec __attribute__((vector_size(LANES)));

constexpr float LEAST = 0x1p-126f;  // of a scale; see kernels/seamless_kernels/int8.py
constexpr float MAGIC = 12582912.0f;  // 1.5 · 2^23: what is added to it and taken off again is rounded, halves to even

INLINE Vec magnitude(Vec x) { return (Vec)((IntVec)x & 0x7fffffff); }

static void quantize_row(const float* x, int64_t columns, int8_t* values, float* scale) {
    Vec most{};
    IntVec broken{};
    for (int64_t c = 0; c < columns; c += LANES) {
        const Vec v = c + LANES <= columns ? load(x + c) : load_part(x + c, columns - c);
        most = maximum(magnitude(v), most);
        broken |= v != v;
    }
    float step = any(broken) ? __builtin_nanf("") : largest(most) / 127.0f;
    if (step < LEAST) step = 1.0f;
    *scale = step;
    for (int64_t c = 0; c < columns; c += LANES) {
        const bool whole = c + LANES <= columns;
        const Vec v = (whole ? load(x + c) : load_part(x + c, columns - c)) / step;
        const ByteVec bytes = __builtin_convertvector(__builtin_convertvector(v + MAGIC - MAGIC, IntVec), ByteVec);
        __builtin_memcpy(values + c, &bytes, whole ? LANES : columns - c);
    }
}
