// A block of rows of a convolution, for one instruction set.
//
// Two outputs that are one dilation apart are computed together, with fewer products than one by one (Winograd):
// winograd_terms in kernels/seamless_kernels/conv1d_cpu.py has the formulas. The rows that a dilated filter reads are
// sorted into `dilation` sequences, on each of which the filter is not dilated.
//
// An element is summed in chunks of CHUNK fused products, in the order of terms and channels. Its bits depend on the
// rows that it reads and, because the two outputs of a pair round differently, on its place in the segment; on nothing
// else. A single sum without chunks would have a larger error than torch.

#if LANES == 16
constexpr int GROUPS = 4, PANELS = 2;  // a tile: 3 · GROUPS pairs × PANELS panels, as many sums as fit in the registers
#elif LANES == 8
constexpr int GROUPS = 2, PANELS = 1;
#else
constexpr int GROUPS = 1, PANELS = 1;
#endif
constexpr int64_t CHUNK = 128;  // products, at most
constexpr int VECS = 16 / LANES;  // vectors of a panel

// The input of a term at row u: x[u], x[u + 1] − x[u], x[u] + x[u + 1], x[u] − x[u + 2].
enum Form { PLAIN, DIFFERENCE, SUM, SKIP, FORMS };

// The outputs of a pair that a term is added to. OPPOSITE: added to the first, subtracted from the second.
enum Part { FIRST, BOTH, OPPOSITE, SECOND, PARTS };

struct Term {
    Form form;
    int64_t row;  // from the first row that the pair reads
};

constexpr Term OF_THREE[PARTS] = {{SKIP, 0}, {SUM, 1}, {DIFFERENCE, 1}, {SKIP, 1}};  // taps
constexpr Term OF_TWO[PARTS] = {{DIFFERENCE, 0}, {PLAIN, 1}, {FORMS, 0}, {DIFFERENCE, 1}};  // no OPPOSITE
constexpr Term OF_ONE[PARTS] = {{PLAIN, 0}, {FORMS, 0}, {FORMS, 0}, {PLAIN, 1}};

INLINE Term rest_of(const Filter& f, int part) { return (f.taps % 3 == 1 ? OF_ONE : OF_TWO)[part]; }

INLINE int terms_of(const Filter& f, int part) {
    return static_cast<int>(f.taps / 3) + (f.taps % 3 && rest_of(f, part).form != FORMS);
}

INLINE Term term(const Filter& f, int part, int i) {
    const bool three = i < f.taps / 3;
    const Term t = three ? OF_THREE[part] : rest_of(f, part);
    return {t.form, t.row + 3 * i};
}

INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

INLINE Vec leaky_relu(Vec x, float slope) { return x > 0.0f ? x : x * slope; }

// The input of a block, in `memory`: of each form, `dilation` sequences of `length` rows of f.in channels; behind them
// a row of zeros, which stands for rows outside the segment.
struct Planes {
    float* memory;
    int64_t length, sequence, plane;

    Planes(const Filter& f, int64_t rows, float* memory)
        : memory(memory),
          length(2 * round_up((rows + 2 * f.dilation - 1) / (2 * f.dilation), 3) + f.taps - 1),
          sequence(length * f.in),
          plane(sequence * f.dilation) {}
};

// The forms of row x, with the two that follow it in its sequence.
INLINE void write_forms(const float* x, const float* second, const float* third, int64_t columns, float slope,
                        const bool* wanted, float* to, int64_t plane) {
    int64_t c = 0;
    for (; c + LANES <= columns; c += LANES, to += LANES) {
        const Vec a = leaky_relu(load(x + c), slope), b = leaky_relu(load(second + c), slope);
        if (wanted[PLAIN]) store(to + PLAIN * plane, a);
        if (wanted[DIFFERENCE]) store(to + DIFFERENCE * plane, b - a);
        if (wanted[SUM]) store(to + SUM * plane, a + b);
        if (wanted[SKIP]) store(to + SKIP * plane, a - leaky_relu(load(third + c), slope));
    }
    const auto activated = [&](const float* row) { return row[c] > 0.0f ? row[c] : row[c] * slope; };
    for (; c < columns; ++c, ++to) {
        const float a = activated(x), b = activated(second);
        to[PLAIN * plane] = a;
        to[DIFFERENCE * plane] = b - a;
        to[SUM * plane] = a + b;
        to[SKIP * plane] = a - activated(third);
    }
}

// Fills `planes` with the activated rows that outputs from row `begin` on read; rows outside first … last − 1 are
// zeros.
static void read_rows(const Filter& f, const PackedRows& rows, int64_t begin, int64_t first, int64_t last, float slope,
                      const Planes& planes) {
    float* zeros = planes.memory + FORMS * planes.plane;
    __builtin_memset(zeros, 0, sizeof(float) * f.in);
    const auto at = [&](int64_t row) { return row < first || row >= last ? zeros : rows.x + row * rows.stride; };
    bool wanted[2][FORMS] = {};  // at even u, at odd u
    for (int part = 0; part < PARTS; ++part)
        for (int i = 0; i < terms_of(f, part); ++i) wanted[term(f, part, i).row % 2][term(f, part, i).form] = true;
    float* to = planes.memory;
    for (int64_t phase = 0; phase < f.dilation; ++phase) {
        int64_t row = begin - f.halo() + phase;
        for (int64_t u = 0; u < planes.length; ++u, row += f.dilation, to += f.in)
            write_forms(at(row), at(row + f.dilation), at(row + 2 * f.dilation), f.in, slope, wanted[u % 2], to,
                        planes.plane);
    }
}

// sum = the products of terms first … last − 1 of a part, whose weights begin at `weight`, over `count` channels from
// `channel` on. x points at the tile's first pair. Three pairs share an address: otherwise the addresses would not fit
// in the registers.
template <int panels, int groups>
INLINE void sum_chunk(const Filter& f, const Planes& planes, const float* x, const float* weight, int part, int first,
                  int last, int64_t channel, int64_t count, Vec* sum) {
    const int64_t panel = f.terms() * f.in * PANEL, pair = 2 * f.in;
    constexpr int SUMS = 3 * groups * panels * VECS;
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) sum[i] = Vec{};
    for (int i = first; i < last; ++i) {
        const Term t = term(f, part, i);
        const float* row = x + t.form * planes.plane + t.row * f.in + channel;
        const float* from[groups];
        for (int g = 0; g < groups; ++g) from[g] = row + 3 * g * pair;
        const float* w = weight + (i * f.in + channel) * PANEL;
        for (int64_t c = 0; c < count; ++c, w += PANEL) {
            Vec column[panels * VECS];
            for (int v = 0; v < panels * VECS; ++v) column[v] = load(w + v / VECS * panel + v % VECS * LANES);
            for (int g = 0; g < groups; ++g)
                for (int j = 0; j < 3; ++j) {
                    const Vec value = broadcast(from[g][j * pair + c]);
                    for (int v = 0; v < panels * VECS; ++v) sum[(3 * g + j) * panels * VECS + v] += value * column[v];
                }
        }
    }
}

template <int count>
INLINE void add(Vec* total, const Vec* sum, bool& empty) {
#pragma GCC unroll 32
    for (int i = 0; i < count; ++i) total[i] = empty ? sum[i] : total[i] + sum[i];
    empty = false;
}

// The epilogue of a vector of sums: y at `place`, `count` elements from `column` on.
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

// Pairs `pair` … `pairs` − 1 of a sequence, at most 3 · groups.
template <int panels, int groups>
INLINE void tile(const Filter& f, const Planes& planes, int64_t phase, int64_t pair, int64_t pairs, int64_t rows,
                 int64_t panel, const Result& r) {
    if constexpr (groups > 1)
        if (pairs - pair <= 3 * (groups - 1))
            return tile<panels, groups - 1>(f, planes, phase, pair, pairs, rows, panel, r);
    constexpr int SUMS = 3 * groups * panels * VECS;
    Vec y[2][SUMS], sum[SUMS];
    bool empty[2] = {true, true};
    const float* x = planes.memory + phase * planes.sequence + 2 * pair * f.in;
    const float* weight = f.weight + panel * f.terms() * f.in * PANEL;
    const int step = f.in < CHUNK ? static_cast<int>(CHUNK / f.in) : 1;
    for (int part = 0; part < PARTS; ++part) {
        const int terms = terms_of(f, part);
        for (int i = 0; i < terms; i += step)
            for (int64_t channel = 0; channel < f.in; channel += CHUNK) {
                sum_chunk<panels, groups>(f, planes, x, weight, part, i, i + step < terms ? i + step : terms, channel,
                                          channel + CHUNK < f.in ? CHUNK : f.in - channel, sum);
                if (part != SECOND) add<SUMS>(y[0], sum, empty[0]);
                if (part == OPPOSITE)  // y[1] is not empty here: BOTH has as many terms and comes before
#pragma GCC unroll 32
                    for (int s = 0; s < SUMS; ++s) y[1][s] -= sum[s];
                else if (part != FIRST)
                    add<SUMS>(y[1], sum, empty[1]);
            }
        weight += terms * f.in * PANEL;
    }
    for (int i = 0; i < 3 * groups; ++i)
        for (int second = 0; second < 2; ++second) {
            const int64_t row = phase + (2 * (pair + i) + second) * f.dilation;
            if (row >= rows) return;
            for (int v = 0; v < panels * VECS; ++v) {
                const int64_t column = panel * PANEL + v * LANES;
                finish(f, r, row * f.out + column, column, f.out - column, y[second][i * panels * VECS + v]);
            }
        }
}

template <int panels>
static void columns_of(const Filter& f, const Planes& planes, int64_t rows, int64_t panel, const Result& r) {
    for (int64_t phase = 0; phase < f.dilation && phase < rows; ++phase) {
        const int64_t pairs = (rows - phase + 2 * f.dilation - 1) / (2 * f.dilation);
        for (int64_t pair = 0; pair < pairs; pair += 3 * GROUPS)
            tile<panels, GROUPS>(f, planes, phase, pair, pairs, rows, panel, r);
    }
}

// The pointers of `r` are those of the first row.
static void convolve(const Filter& f, const Planes& planes, int64_t rows, const Result& r) {
    const int64_t panels = (f.out + PANEL - 1) / PANEL;
    int64_t panel = 0;
    for (; panel + PANELS <= panels; panel += PANELS) columns_of<PANELS>(f, planes, rows, panel, r);
    for (; panel < panels; ++panel) columns_of<1>(f, planes, rows, panel, r);
}

INLINE Result from_row(const Result& r, int64_t place) {
    return {r.y + place, r.residual ? r.residual + place : nullptr, r.total ? r.total + place : nullptr, r.scale};
}

// Floats of scratch for blocks of `rows` rows.
static int64_t conv1d_scratch(const Filter& f, int64_t rows) { return FORMS * Planes(f, rows, nullptr).plane + f.in; }

static void conv1d_block(const PackedRows& x, const Filter& f, float slope, const Result& r, const ConvBlock& b,
                         float* scratch) {
    const Planes planes(f, b.end - b.begin, scratch);
    read_rows(f, x, b.begin, b.first, b.last, slope, planes);
    convolve(f, planes, b.end - b.begin, from_row(r, b.begin * f.out));
}

// Upper bound of the rows of the first convolution that a block of `rows` reads; they begin with a pair of each
// sequence.
INLINE int64_t h_rows(const Filter& first, const Filter& second, int64_t rows) {
    return rows + 2 * second.halo() + 2 * first.dilation;
}

static int64_t pair_scratch(const Filter& first, const Filter& second, int64_t rows) {
    const int64_t h = h_rows(first, second, rows);
    const int64_t before = conv1d_scratch(first, h), after = conv1d_scratch(second, rows);
    return h * second.in + (before > after ? before : after);
}

static void pair_block(const PackedRows& x, const Filter& first, const Filter& second, float slope, const Result& r,
                       const ConvBlock& b, float* scratch) {
    const int64_t pairs = 2 * first.dilation, offset = b.begin - b.first - second.halo();
    const int64_t begin = b.first + (offset > 0 ? offset / pairs * pairs : 0);
    const int64_t end = b.end + second.halo() < b.last ? b.end + second.halo() : b.last;
    float* memory = scratch + h_rows(first, second, b.end - b.begin) * second.in;
    const Planes before(first, end - begin, memory), after(second, b.end - b.begin, memory);
    read_rows(first, x, begin, b.first, b.last, slope, before);
    convolve(first, before, end - begin, {scratch, nullptr, nullptr, 1.0f});
    read_rows(second, {scratch - begin * second.in, second.in, 0, nullptr, 0}, b.begin, begin, end, slope, after);
    convolve(second, after, b.end - b.begin, from_row(r, b.begin * second.out));
}
