// A block of rows and columns of a product, for one instruction set.
//
// An element is summed in chunks of LINEAR_CHUNK fused products: the products of a chunk in the order of the reduction,
// then the chunks in their order. Its bits depend on its row of x and its row of the weight alone; tiles are
// scheduling.

#if LANES == 16
constexpr int TILE_ROWS = 14, SUMS = 28;  // a tile has as many vectors of sums as fit in the registers
#elif LANES == 8
constexpr int TILE_ROWS = 6, SUMS = 12;
#else
constexpr int TILE_ROWS = 2, SUMS = 8;
#endif
constexpr int VECS = LINEAR_PANEL / LANES;  // vectors of a panel
constexpr int64_t X_STRIDE = LINEAR_CHUNK + 16;  // no power of two, or packed rows would share sets of the cache

// Panels of a tile of `rows` rows.
constexpr int panels_of(int rows) {
    int panels = 1;
    while (panels < 8 && 2 * panels * rows * VECS <= SUMS) panels *= 2;
    return panels;
}
constexpr int MAX_PANELS = panels_of(1);
constexpr int64_t TOTAL_STRIDE = (MAX_PANELS + 1) * LINEAR_PANEL;

typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));
typedef uint32_t WordVec __attribute__((vector_size(4 * LANES)));

INLINE WordVec words(const void* from) {
    HalfVec half;
    __builtin_memcpy(&half, from, sizeof half);
    return __builtin_convertvector(half, WordVec);
}

template <Format format>
INLINE Vec widen(const void* from) {
    if constexpr (format == Format::f32) return load(static_cast<const float*>(from));
    if constexpr (format == Format::bf16) return (Vec)(words(from) << 16);
#if LANES == 16
    return (Vec)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(static_cast<const __m256i*>(from)));
#elif LANES == 8
    return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#else
    const WordVec half = words(from), size = (half & 0x7fff) << 13;
    const WordVec finite = (WordVec)((Vec)size * 0x1p112f);  // exact for subnormal numbers too
    const WordVec infinite_or_nan = (WordVec)(size >= 0x0f800000);
    return (Vec)((infinite_or_nan & (size | 0x7f800000)) | (~infinite_or_nan & finite) | (half & 0x8000) << 16);
#endif
}

// Rounded to nearest, halves to even. A NaN stays one.
template <Format format>
INLINE void narrow(Vec value, void* to) {
    if constexpr (format == Format::f32) return store(static_cast<float*>(to), value);
    const WordVec bits = (WordVec)value;
    HalfVec half{};
    if constexpr (format == Format::bf16) {
        const WordVec rounded = bits + 0x7fff + ((bits >> 16) & 1), nan = (WordVec)(value != value);
        half = __builtin_convertvector(((nan & (bits | 0x400000)) | (~nan & rounded)) >> 16, HalfVec);
    } else {
#if LANES == 16
        half = (HalfVec)_mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif LANES == 8
        half = (HalfVec)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
        const WordVec size = bits & 0x7fffffff;
        const WordVec normal = (size - 0x38000000 + 0xfff + ((size >> 13) & 1)) >> 13;
        const WordVec least = (WordVec)((Vec)size + 0.5f) - 0x3f000000;  // the sum is rounded to steps of 2^-24
        const WordVec is_least = (WordVec)(size < 0x38800000), infinite = (WordVec)(size >= 0x477ff000);
        const WordVec nan = (WordVec)(size > 0x7f800000);
        WordVec word = (is_least & least) | (~is_least & normal);
        word = (infinite & 0x7c00) | (~infinite & word) | (nan & 0x200);
        half = __builtin_convertvector(word | (bits & 0x80000000) >> 16, HalfVec);
#endif
    }
    __builtin_memcpy(to, &half, sizeof half);
}

INLINE int64_t bytes_of(Format format) { return format == Format::f32 ? 4 : 2; }

INLINE const char* at(const void* from, Format format, int64_t element) {
    return static_cast<const char*>(from) + element * bytes_of(format);
}

template <Format format>
INLINE void widen_row(const void* from, int64_t count, float* to) {
    for (; count >= LANES; count -= LANES, to += LANES, from = at(from, format, LANES)) store(to, widen<format>(from));
    if (count <= 0) return;
    float lanes[LANES] = {};
    __builtin_memcpy(lanes, from, count * bytes_of(format));
    store(lanes, widen<format>(lanes));
    __builtin_memcpy(to, lanes, count * sizeof(float));
}

// The rows of a task in float32: chunk after chunk, [chunks, rows, X_STRIDE].
template <Format format>
static void pack_rows(const Linear& p, const LinearTask& task, float* to) {
    for (int64_t chunk = 0; chunk < p.chunks(); ++chunk) {
        const int64_t first = chunk * LINEAR_CHUNK;
        const int64_t count = p.inner - first < LINEAR_CHUNK ? p.inner - first : LINEAR_CHUNK;
        for (int64_t row = 0; row < task.rows; ++row, to += X_STRIDE)
            widen_row<format>(at(p.x, format, (task.row + row) * p.x_stride + first), count, to);
    }
}

// total [rows, panels × 16] (+)= x · W over one chunk of `count`.
template <int rows, int panels, Format format>
INLINE void tile(const float* x, const void* weight, int64_t panel, int64_t count, float* total, bool first) {
    Vec sum[rows][panels * VECS] = {};
    const char* w = static_cast<const char*>(weight);
    constexpr int64_t size = format == Format::f32 ? 4 : 2;
#pragma GCC unroll 2
    for (int64_t c = 0; c < count; ++c, w += LINEAR_PANEL * size) {
        Vec column[panels * VECS];
#pragma GCC unroll 8
        for (int v = 0; v < panels * VECS; ++v)
            column[v] = widen<format>(w + (v / VECS * panel + v % VECS * LANES) * size);
#pragma GCC unroll 14
        for (int row = 0; row < rows; ++row) {
            const Vec value = broadcast(x[row * X_STRIDE + c]);
#pragma GCC unroll 8
            for (int v = 0; v < panels * VECS; ++v) sum[row][v] += value * column[v];
        }
    }
#pragma GCC unroll 14
    for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
        for (int v = 0; v < panels * VECS; ++v) {
            float* to = total + row * TOTAL_STRIDE + v * LANES;
            store(to, first ? sum[row][v] : load(to) + sum[row][v]);
        }
}

// The same for `count` adjacent panels.
template <int rows, Format format>
static void tiles(const float* x, const char* weight, int64_t panel, int64_t count, int64_t length, float* total,
                  bool first) {
    constexpr int panels = panels_of(rows);
    const auto weights = [&](int64_t i) { return weight + i * panel * bytes_of(format); };
    int64_t i = 0;
    for (; i + panels <= count; i += panels)
        tile<rows, panels, format>(x, weights(i), panel, length, total + i * LINEAR_PANEL, first);
    for (; i < count; ++i) tile<rows, 1, format>(x, weights(i), panel, length, total + i * LINEAR_PANEL, first);
}

// Calls `tiles` with the number of rows, at most TILE_ROWS, as a template argument.
template <Format format, int rows = TILE_ROWS, typename... Arguments>
INLINE void tiles_of(int64_t wanted, Arguments... arguments) {
    if constexpr (rows == 1)
        tiles<1, format>(arguments...);
    else if (wanted == rows)
        tiles<rows, format>(arguments...);
    else
        tiles_of<format, rows - 1>(wanted, arguments...);
}

// total [rows, count × 16] = x · W for `count` panels from `panel` on, in tiles of nearly equal height.
template <Format format>
static void product(const Linear& p, const float* x, int64_t rows, int64_t panel, int64_t count, float* total) {
    const int64_t stride = p.inner * LINEAR_PANEL, heights = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t chunk = 0; chunk < p.chunks(); ++chunk, x += rows * X_STRIDE) {
        const int64_t begin = chunk * LINEAR_CHUNK;
        const int64_t length = p.inner - begin < LINEAR_CHUNK ? p.inner - begin : LINEAR_CHUNK;
        const char* weight = at(p.weight, format, panel * stride + begin * LINEAR_PANEL);
        for (int64_t i = 0; i < heights; ++i) {
            const int64_t row = i * rows / heights, end = (i + 1) * rows / heights;
            tiles_of<format>(end - row, x + row * X_STRIDE, weight, stride, count, length, total + row * TOTAL_STRIDE,
                             chunk == 0);
        }
    }
}

INLINE Vec sigmoid(Vec x) {
    const Vec e = exponential(x < 0.0f ? x : -x);
    return (x < 0.0f ? e : broadcast(1.0f)) / (e + 1.0f);
}

// `count` ≤ LANES numbers, then zeros.
template <Format format>
INLINE Vec widen_part(const void* from, int64_t count) {
    if (count == LANES) return widen<format>(from);
    float lanes[LANES] = {};
    __builtin_memcpy(lanes, from, count * bytes_of(format));
    return widen<format>(lanes);
}

// The epilogue of `columns` columns from `column` on.
template <Format format>
static void finish(const Linear& p, const LinearTask& task, int64_t column, int64_t columns, const float* total,
                   const float* gates) {
    const int64_t width = p.width();
    for (int64_t row = 0; row < task.rows; ++row, total += TOTAL_STRIDE, gates += TOTAL_STRIDE)
        for (int64_t c = 0; c < columns; c += LANES) {
            const int64_t count = columns - c < LANES ? columns - c : LANES;
            Vec value = load(total + c);
            if (p.bias) value += widen_part<Format::f32>(p.bias + column + c, count);
            if (p.activation == Activation::relu) value = value < 0.0f ? Vec{} : value;  // a NaN stays
            if (p.activation == Activation::silu) value = value * sigmoid(value);
            if (p.activation == Activation::glu) {
                Vec gate = load(gates + c);
                if (p.bias) gate += widen_part<Format::f32>(p.bias + width + column + c, count);
                value = value * sigmoid(gate);
            }
            value = value * p.scale;
            if (p.residual) {
                const int64_t place = (task.row + row) * p.residual_stride + column + c;
                value += widen_part<format>(at(p.residual, format, place), count);
            }
            char* to = static_cast<char*>(p.y) + ((task.row + row) * width + column + c) * bytes_of(format);
            if (count == LANES) {
                narrow<format>(value, to);
            } else {
                float lanes[LANES];
                narrow<format>(value, lanes);
                __builtin_memcpy(to, lanes, count * bytes_of(format));
            }
        }
}

// Floats of scratch for a task of `rows` rows.
static int64_t linear_scratch(const Linear& p, int64_t rows) {
    return rows * (p.chunks() * X_STRIDE + 2 * TOTAL_STRIDE) + LANES;
}

template <Format format, Format out_format>
static void block_of(const Linear& p, const LinearTask& task, float* scratch) {
    pack_rows<format>(p, task, scratch);
    float* total = scratch + task.rows * p.chunks() * X_STRIDE;
    float* gates = total + task.rows * TOTAL_STRIDE;
    const int64_t group = (task.rows < TILE_ROWS ? MAX_PANELS : panels_of(TILE_ROWS)) * LINEAR_PANEL;
    const int64_t end = task.column + task.columns;
    for (int64_t column = task.column; column < end; column += group) {
        const int64_t columns = end - column < group ? end - column : group;
        product<format>(p, scratch, task.rows, column / LINEAR_PANEL, (columns + LINEAR_PANEL - 1) / LINEAR_PANEL,
                        total);
        int64_t skipped = 0;
        if (p.activation == Activation::glu) {  // the gates' columns may begin within a panel
            const int64_t gate = p.width() + column;
            skipped = gate % LINEAR_PANEL;
            product<format>(p, scratch, task.rows, gate / LINEAR_PANEL,
                            (skipped + columns + LINEAR_PANEL - 1) / LINEAR_PANEL, gates);
        }
        finish<out_format>(p, task, column, columns, total, gates + skipped);
    }
}

static void linear_block(const Linear& p, const LinearTask& task, float* scratch) {
    if (p.format == Format::f32) return block_of<Format::f32, Format::f32>(p, task, scratch);
    if (p.format == Format::bf16) {
        if (p.out_format == Format::f32) return block_of<Format::bf16, Format::f32>(p, task, scratch);
        return block_of<Format::bf16, Format::bf16>(p, task, scratch);
    }
    if (p.out_format == Format::f32) return block_of<Format::f16, Format::f32>(p, task, scratch);
    return block_of<Format::f16, Format::f16>(p, task, scratch);
}
