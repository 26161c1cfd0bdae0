// A block of rows of a convolution, for one instruction set. An element is the sum of chains of fused products, in the
// order of taps and channels, so that its bits depend on nothing but the rows that it reads. A chain has the channels of
// one tap, of several where these are few: one chain for all would round twice as coarsely as torch does.

#if LANES == 16
constexpr int GROUPS = 4, PANELS = 2;  // a tile: 3 · GROUPS rows × PANELS panels, as many sums as registers hold
#elif LANES == 8
constexpr int GROUPS = 2, PANELS = 1;
#else
constexpr int GROUPS = 1, PANELS = 1;
#endif
constexpr int64_t CHAIN = 64;  // products, at least
constexpr int VECS = 16 / LANES;  // of a panel

// The last tile of a block has as many groups as it needs.
INLINE int64_t whole_groups(int64_t rows) { return (rows + 2) / 3 * 3; }

INLINE Vec leaky(Vec x, float slope) { return x > 0.0f ? x : x * slope; }

// `columns` elements of a row, activated.
INLINE void activate_row(const float* from, int64_t columns, float slope, float* to) {
    int64_t c = 0;
    for (; c + LANES <= columns; c += LANES) store(to + c, leaky(load(from + c), slope));
    for (; c < columns; ++c) to[c] = from[c] > 0.0f ? from[c] : from[c] * slope;
}

// `count` activated rows from row `begin` on, zeros for those that the block's segment does not have.
static void activate(const Rows& rows, const ConvBlock& b, int64_t begin, int64_t count, int64_t columns, float slope,
                     float* to) {
    for (int64_t row = begin; row < begin + count; ++row, to += columns) {
        if (row < b.first || row >= b.last)
            __builtin_memset(to, 0, sizeof(float) * columns);
        else
            activate_row(rows.x + row * rows.stride, columns, slope, to);
    }
}

// Taps first … last − 1. Rows come by threes: more addresses than that would not fit the registers.
template <int panels, int groups>
INLINE void chain(const Filter& f, const float* x, const float* weight, int64_t first, int64_t last, Vec* total) {
    const int64_t panel = f.taps * f.in * PANEL;
    weight += first * f.in * PANEL;
    constexpr int SUMS = 3 * groups * panels * VECS;
    Vec sum[SUMS];
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) sum[i] = Vec{};
    for (int64_t tap = first; tap < last; ++tap) {
        const float* from[groups];
        for (int g = 0; g < groups; ++g) from[g] = x + (tap * f.dilation + 3 * g) * f.in;
        for (int64_t c = 0; c < f.in; ++c, weight += PANEL) {
            Vec column[panels * VECS];
            for (int v = 0; v < panels * VECS; ++v) column[v] = load(weight + v / VECS * panel + v % VECS * LANES);
            for (int g = 0; g < groups; ++g)
                for (int i = 0; i < 3; ++i) {
                    const Vec value = broadcast(from[g][i * f.in + c]);
                    for (int v = 0; v < panels * VECS; ++v) sum[(3 * g + i) * panels * VECS + v] += value * column[v];
                }
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) total[i] = first ? total[i] + sum[i] : sum[i];
}

// What becomes of a vector of sums: y at `place`, `count` elements from `column` on.
INLINE void finish(const Filter& f, const Result& r, int64_t place, int64_t column, int64_t count, Vec sum) {
    if (count >= LANES) {
        Vec y = sum + load(f.bias + column);
        if (r.residual) y += load(r.residual + place);
        if (r.total) y += load(r.total + place);
        store(r.y + place, y * r.scale);
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        float y = sum[i] + f.bias[column + i];
        if (r.residual) y += r.residual[place + i];
        if (r.total) y += r.total[place + i];
        r.y[place + i] = y * r.scale;
    }
}

// Rows `row` … `rows` − 1, 3 · groups at most.
template <int panels, int groups>
INLINE void tile(const Filter& f, const float* x, int64_t row, int64_t rows, int64_t first, const Result& r) {
    if constexpr (groups > 1)
        if (rows - row <= 3 * (groups - 1)) return tile<panels, groups - 1>(f, x, row, rows, first, r);
    const int64_t step = f.in < CHAIN ? CHAIN / f.in : 1;
    Vec sum[3 * groups * panels * VECS];
    for (int64_t tap = 0; tap < f.taps; tap += step)
        chain<panels, groups>(f, x + row * f.in, f.weight + first * f.taps * f.in * PANEL, tap,
                              tap + step < f.taps ? tap + step : f.taps, sum);
    for (int64_t i = 0; i < 3 * groups && row + i < rows; ++i)
        for (int v = 0; v < panels * VECS; ++v) {
            const int64_t column = first * PANEL + v * LANES;
            finish(f, r, (row + i) * f.out + column, column, f.out - column, sum[i * panels * VECS + v]);
        }
}

template <int panels>
static void columns_of(const Filter& f, const float* x, int64_t rows, int64_t first, const Result& r) {
    for (int64_t row = 0; row < rows; row += 3 * GROUPS) tile<panels, GROUPS>(f, x, row, rows, first, r);
}

// x: activated, from `halo` rows before the first of `rows` to as many after the last of their groups. The pointers of
// `r` are those of the first row.
static void convolve(const Filter& f, const float* x, int64_t rows, const Result& r) {
    const int64_t panels = (f.out + PANEL - 1) / PANEL;
    int64_t panel = 0;
    for (; panel + PANELS <= panels; panel += PANELS) columns_of<PANELS>(f, x, rows, panel, r);
    for (; panel < panels; ++panel) columns_of<1>(f, x, rows, panel, r);
}

INLINE Result from_row(const Result& r, int64_t place) {
    return {r.y + place, r.residual ? r.residual + place : nullptr, r.total ? r.total + place : nullptr, r.scale};
}

// Floats of scratch for blocks of `rows` rows.
static int64_t conv1d_scratch(const Filter& f, int64_t rows) { return (whole_groups(rows) + 2 * f.halo()) * f.in; }

static void conv1d_block(const Rows& x, const Filter& f, float slope, const Result& r, const ConvBlock& b,
                         float* scratch) {
    const int64_t rows = b.end - b.begin;
    activate(x, b, b.begin - f.halo(), whole_groups(rows) + 2 * f.halo(), f.in, slope, scratch);
    convolve(f, scratch, rows, from_row(r, b.begin * f.out));
}

// Rows that the second filter reads of the first one's result.
INLINE int64_t hidden_rows(const Filter& second, int64_t rows) { return whole_groups(rows) + 2 * second.halo(); }

static int64_t pair_scratch(const Filter& first, const Filter& second, int64_t rows) {
    const int64_t hidden = hidden_rows(second, rows);
    return conv1d_scratch(first, hidden) + hidden * second.in;
}

static void pair_block(const Rows& x, const Filter& first, const Filter& second, float slope, const Result& r,
                       const ConvBlock& b, float* scratch) {
    const int64_t rows = b.end - b.begin, hidden = hidden_rows(second, rows), begin = b.begin - second.halo();
    float* h = scratch + conv1d_scratch(first, hidden);
    activate(x, b, begin - first.halo(), whole_groups(hidden) + 2 * first.halo(), first.in, slope, scratch);
    convolve(first, scratch, hidden, {h, nullptr, nullptr, 1.0f});
    activate({h - begin * second.in, second.in, 0, nullptr, 0}, b, begin, hidden, second.in, slope, h);
    convolve(second, h, rows, from_row(r, b.begin * second.out));
}
