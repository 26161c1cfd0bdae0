// Vectors of LANES floats, of one instruction set. each_isa.h includes this file once for each, inside its namespace:
// no include guard.
//
// No template or inline function of std:: may be used here. The linker keeps one copy of it for the whole library,
// which could be the copy that was compiled for instructions that this processor does not have.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef int64_t LongVec __attribute__((vector_size(4 * LANES)));
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t IntQuad __attribute__((vector_size(16)));

INLINE Vec load(const float* from) {
    Vec v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float* to, Vec v) { __builtin_memcpy(to, &v, sizeof v); }

// `count` < LANES elements, none if it is negative, then `rest`. Memory beyond them is not read.
INLINE Vec load_part(const float* from, int64_t count, Vec rest = Vec{}) {
    float lanes[LANES];
    store(lanes, rest);
    for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
    return load(lanes);
}

INLINE Vec broadcast(float x) { return x - Vec{}; }

// The larger; b where either is NaN.
INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// Whether any lane of a comparison is true.
INLINE bool any(IntVec mask) {
    LongVec lanes = (LongVec)mask;
    int64_t all = 0;
    for (int i = 0; i < LANES / 2; ++i) all |= lanes[i];
    return all != 0;
}

// Lanes rotated down by `by`.
INLINE Vec rotate(Vec v, int by) {
    IntVec from;
    for (int i = 0; i < LANES; ++i) from[i] = (i + by) % LANES;
    return __builtin_shuffle(v, from);
}

// Sums of the lanes that are equal modulo 4.
INLINE Quad fold(Vec v) {
    if (LANES >= 16) v += rotate(v, 8);
    if (LANES >= 8) v += rotate(v, 4);
    Quad low;
    __builtin_memcpy(&low, &v, sizeof low);
    return low;
}

// The sums of four vectors.
INLINE Quad sums(Vec a, Vec b, Vec c, Vec d) {
    Quad p = fold(a), q = fold(b), r = fold(c), s = fold(d);
    const IntQuad low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, left = {0, 1, 4, 5}, right = {2, 3, 6, 7};
    Quad pq = __builtin_shuffle(p, q, low) + __builtin_shuffle(p, q, high);
    Quad rs = __builtin_shuffle(r, s, low) + __builtin_shuffle(r, s, high);
    return __builtin_shuffle(pq, rs, left) + __builtin_shuffle(pq, rs, right);
}

INLINE float sum(Vec v) { return sums(v, v, v, v)[0]; }

INLINE float largest(Vec v) {
    for (int by = LANES / 2; by > 0; by /= 2) v = maximum(v, rotate(v, by));
    return v[0];
}

// e^x for x ≤ 0 or NaN; 0 below −87.3, where it would be subnormal. x = n ln 2 + r, |r| ≤ ln 2 / 2, and the polynomial
// of Cephes' expf for e^r.
INLINE Vec exponential(Vec x) {
    const Vec lowest = broadcast(-87.33654f);
    Vec inside = x < lowest ? lowest : x;
    Vec shifted = inside * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: n is in the low bits
    Vec n = shifted - 12582912.0f;
    Vec r = inside - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vec p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    IntVec power = ((IntVec)shifted << 23) + 0x3f800000;
    return x < lowest ? Vec{} : p * (Vec)power;
}
