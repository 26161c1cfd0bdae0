// One task of decode attention, for one instruction set. It is batch-invariant: keys are processed four at a time, and
// each dot product sums over lanes of d in one order, so that the bits of a result depend on its query, keys, values
// and length.
//
// `i` numbers the pairs of a head and a query in a task: i = (head − first) · queries + query.

INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Floats of scratch for each query and head: the padded query, the scores, the accumulator.
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
        for (int64_t n = 0; n < 4; ++n) {
            // Past the end the last key is read again; weights_of overwrites its score.
            key[n] = t.k + t.slots[j + n < t.length ? j + n : t.length - 1] * stride;
            next[n] = t.k + t.slots[j + 4 + n < t.length ? j + 4 + n : t.length - 1] * stride;
        }
        for (int64_t head = t.first; head < t.last; ++head) {
            const int64_t offset = head * t.d;
            for (int n = 0; n < 4; ++n)
                for (int64_t c = 0; c < t.d; c += 16) __builtin_prefetch(next[n] + offset + c);
            const float *k0 = key[0] + offset, *k1 = key[1] + offset, *k2 = key[2] + offset, *k3 = key[3] + offset;
            for (int64_t query = 0; query < t.queries; ++query) {
                const int64_t i = (head - t.first) * t.queries + query;
                const float* q = queries + i * padded;
                Vec s0 = {}, s1 = {}, s2 = {}, s3 = {};
                for (int64_t at = 0; at < t.d; at += LANES) {
                    const Vec x = load(q + at);
                    s0 += x * lanes_of<ragged>(k0, at, t.d);
                    s1 += x * lanes_of<ragged>(k1, at, t.d);
                    s2 += x * lanes_of<ragged>(k2, at, t.d);
                    s3 += x * lanes_of<ragged>(k3, at, t.d);
                }
                const Quad four = sums(s0, s1, s2, s3);
                __builtin_memcpy(scores + i * width + j, &four, sizeof four);
            }
        }
    }
}

// scores [width] → exp(scale · score − max), 0 past the length; returns their sum.
static float weights_of(float* scores, int64_t length, float scale) {
    const int64_t width = round_up(length, LANES);
    for (int64_t j = length; j < width; ++j) scores[j] = -__builtin_inff();
    Vec maxima = broadcast(-__builtin_inff());
    for (int64_t j = 0; j < width; j += LANES) {
        const Vec score = load(scores + j) * scale;
        store(scores + j, score);
        maxima = maximum(score, maxima);
    }
    const Vec max = broadcast(largest(maxima));
    Vec total = {};
    for (int64_t j = 0; j < width; j += LANES) {
        const Vec weight = exponential(load(scores + j) - max);
        store(scores + j, weight);
        total += weight;
    }
    return sum(total);
}

template <bool ragged>
static void add_values(const AttentionTask& t, const float* weights, float* out) {
    const int64_t padded = round_up(t.d, LANES), stride = t.heads * t.d, width = round_up(t.length, LANES);
    for (int64_t j = 0; j < t.length; j += 4) {
        const float *value[4], *next[4];
        for (int64_t n = 0; n < 4; ++n) {
            value[n] = t.v + t.slots[j + n < t.length ? j + n : t.length - 1] * stride;
            next[n] = t.v + t.slots[j + 4 + n < t.length ? j + 4 + n : t.length - 1] * stride;
        }
        for (int64_t head = t.first; head < t.last; ++head) {
            const int64_t offset = head * t.d;
            for (int n = 0; n < 4; ++n)
                for (int64_t c = 0; c < t.d; c += 16) __builtin_prefetch(next[n] + offset + c);
            const float *v0 = value[0] + offset, *v1 = value[1] + offset, *v2 = value[2] + offset,
                        *v3 = value[3] + offset;
            for (int64_t query = 0; query < t.queries; ++query) {
                const int64_t i = (head - t.first) * t.queries + query;
                const float* p = weights + i * width + j;
                float* acc = out + i * padded;
                for (int64_t at = 0; at < t.d; at += LANES) {
                    Vec x = load(acc + at);
                    x += p[0] * lanes_of<ragged>(v0, at, t.d);
                    x += p[1] * lanes_of<ragged>(v1, at, t.d);
                    x += p[2] * lanes_of<ragged>(v2, at, t.d);
                    x += p[3] * lanes_of<ragged>(v3, at, t.d);
                    store(acc + at, x);
                }
            }
        }
    }
}

// `scratch`: attention_scratch floats for each query and head of the task.
static void attend(const AttentionTask& t, float* scratch) {
    const int64_t padded = round_up(t.d, LANES), width = round_up(t.length, LANES);
    const int64_t pairs = (t.last - t.first) * t.queries;
    float *queries = scratch, *acc = queries + pairs * padded, *scores = acc + pairs * padded;
    __builtin_memset(queries, 0, sizeof(float) * 2 * pairs * padded);
    for (int64_t i = 0; i < pairs; ++i)
        __builtin_memcpy(queries + i * padded,
                         t.q + (i % t.queries) * t.q_stride + (t.first + i / t.queries) * t.d, sizeof(float) * t.d);
    const bool ragged = t.d % LANES != 0;
    ragged ? scores_of<true>(t, queries, scores) : scores_of<false>(t, queries, scores);
    // The accumulators are divided by the sums at the end. Until then the sums are kept in the memory of the queries.
    const float scale = 1.0f / __builtin_sqrtf((float)t.d);
    for (int64_t i = 0; i < pairs; ++i) queries[i] = weights_of(scores + i * width, t.length, scale);
    ragged ? add_values<true>(t, scores, acc) : add_values<false>(t, scores, acc);
    for (int64_t i = 0; i < pairs; ++i) {
        float* out = t.out + ((i % t.queries) * t.heads + t.first + i / t.queries) * t.d;
        for (int64_t c = 0; c < t.d; ++c) out[c] = acc[i * padded + c] / queries[i];
    }
}
