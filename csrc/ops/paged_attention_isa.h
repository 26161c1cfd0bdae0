// One task of decode attention, for one instruction set. Keys go by fours, each dot product over lanes of d in one
// order, so that a row's bits depend on its own query, keys, values and length alone, however many rows share them.

INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Floats of scratch per row and head: the padded query, the scores, the accumulator.
static int64_t attention_scratch(int64_t length, int64_t d) {
    return 2 * round_up(d, LANES) + round_up(length, LANES);
}

// Lanes [at, at + LANES) of a head of d elements, zeros beyond it.
template <bool ragged>
INLINE Vec lanes_of(const float* head, int64_t at, int64_t d) {
    return ragged && at + LANES > d ? load_part(head + at, d - at) : load(head + at);
}

template <bool ragged>
static void scores_of(const AttentionTask& t, const float* queries, float* scores) {
    const int64_t padded = round_up(t.d, LANES), stride = t.heads * t.d, width = round_up(t.length, LANES);
    for (int64_t j = 0; j < t.length; j += 4) {
        const float *key[4], *next[4];
        for (int64_t i = 0; i < 4; ++i) {
            // Past the end the last key stands in, and is overwritten below.
            key[i] = t.k + t.slots[j + i < t.length ? j + i : t.length - 1] * stride;
            next[i] = t.k + t.slots[j + 4 + i < t.length ? j + 4 + i : t.length - 1] * stride;
        }
        for (int64_t head = t.first; head < t.last; ++head) {
            const int64_t offset = head * t.d;
            for (int i = 0; i < 4; ++i)
                for (int64_t line = 0; line < t.d; line += 16) __builtin_prefetch(next[i] + offset + line);
            const float *k0 = key[0] + offset, *k1 = key[1] + offset, *k2 = key[2] + offset, *k3 = key[3] + offset;
            for (int64_t row = 0; row < t.rows; ++row) {
                const int64_t line = (head - t.first) * t.rows + row;
                const float* query = queries + line * padded;
                Vec s0 = {}, s1 = {}, s2 = {}, s3 = {};
                for (int64_t at = 0; at < t.d; at += LANES) {
                    const Vec x = load(query + at);
                    s0 += x * lanes_of<ragged>(k0, at, t.d);
                    s1 += x * lanes_of<ragged>(k1, at, t.d);
                    s2 += x * lanes_of<ragged>(k2, at, t.d);
                    s3 += x * lanes_of<ragged>(k3, at, t.d);
                }
                const Quad four = sums(s0, s1, s2, s3);
                __builtin_memcpy(scores + line * width + j, &four, sizeof four);
            }
        }
    }
}

// scores [width] → exp(scale · score − max), 0 past the length; returns their sum.
static float weights_of(float* scores, int64_t length, float scale) {
    const int64_t width = round_up(length, LANES);
    for (int64_t j = length; j < width; ++j) scores[j] = -__builtin_inff();
    Vec top = broadcast(-__builtin_inff());
    for (int64_t j = 0; j < width; j += LANES) {
        const Vec score = load(scores + j) * scale;
        store(scores + j, score);
        top = maximum(score, top);
    }
    const Vec most = broadcast(largest(top));
    Vec total = {};
    for (int64_t j = 0; j < width; j += LANES) {
        const Vec weight = exponential(load(scores + j) - most);
        store(scores + j, weight);
        total += weight;
    }
    return sum(total);
}

template <bool ragged>
static void mix_values(const AttentionTask& t, const float* weights, float* mixed) {
    const int64_t padded = round_up(t.d, LANES), stride = t.heads * t.d, width = round_up(t.length, LANES);
    for (int64_t j = 0; j < t.length; j += 4) {
        const float *value[4], *next[4];
        for (int64_t i = 0; i < 4; ++i) {
            value[i] = t.v + t.slots[j + i < t.length ? j + i : t.length - 1] * stride;
            next[i] = t.v + t.slots[j + 4 + i < t.length ? j + 4 + i : t.length - 1] * stride;
        }
        for (int64_t head = t.first; head < t.last; ++head) {
            const int64_t offset = head * t.d;
            for (int i = 0; i < 4; ++i)
                for (int64_t line = 0; line < t.d; line += 16) __builtin_prefetch(next[i] + offset + line);
            const float *v0 = value[0] + offset, *v1 = value[1] + offset, *v2 = value[2] + offset,
                        *v3 = value[3] + offset;
            for (int64_t row = 0; row < t.rows; ++row) {
                const int64_t line = (head - t.first) * t.rows + row;
                const float* w = weights + line * width + j;
                float* sum_of = mixed + line * padded;
                for (int64_t at = 0; at < t.d; at += LANES) {
                    Vec x = load(sum_of + at);
                    x += w[0] * lanes_of<ragged>(v0, at, t.d);
                    x += w[1] * lanes_of<ragged>(v1, at, t.d);
                    x += w[2] * lanes_of<ragged>(v2, at, t.d);
                    x += w[3] * lanes_of<ragged>(v3, at, t.d);
                    store(sum_of + at, x);
                }
            }
        }
    }
}

// `scratch`: attention_scratch floats for each row and head of the task.
static void attend(const AttentionTask& t, float* scratch) {
    const int64_t padded = round_up(t.d, LANES), width = round_up(t.length, LANES);
    const int64_t lines = (t.last - t.first) * t.rows;
    float *queries = scratch, *mixed = queries + lines * padded, *scores = mixed + lines * padded;
    __builtin_memset(queries, 0, sizeof(float) * 2 * lines * padded);
    for (int64_t line = 0; line < lines; ++line)
        __builtin_memcpy(queries + line * padded,
                         t.q + (line % t.rows) * t.q_stride + (t.first + line / t.rows) * t.d, sizeof(float) * t.d);
    const bool ragged = t.d % LANES != 0;
    ragged ? scores_of<true>(t, queries, scores) : scores_of<false>(t, queries, scores);
    // The accumulators are divided by the sums at the end; the queries' room keeps the sums until then.
    const float scale = 1.0f / __builtin_sqrtf((float)t.d);
    for (int64_t line = 0; line < lines; ++line)
        queries[line] = weights_of(scores + line * width, t.length, scale);
    ragged ? mix_values<true>(t, scores, mixed) : mix_values<false>(t, scores, mixed);
    for (int64_t line = 0; line < lines; ++line) {
        float* out = t.out + ((line % t.rows) * t.heads + t.first + line / t.rows) * t.d;
        for (int64_t i = 0; i < t.d; ++i) out[i] = mixed[line * padded + i] / queries[line];
    }
}
