// The scan of a range of columns, for one instruction set: chunk by chunk, so that a logit is read from memory once.

INLINE bool is_banned(const Ranking& best, int64_t token) {
    int64_t low = 0, high = best.num_banned;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        best.banned[middle] < token ? low = middle + 1 : high = middle;
    }
    return low < best.num_banned && best.banned[low] == token;
}

// Tokens come in ascending order, so that a new one is placed after its equals. A banned token or a NaN counts as −∞.
static void rank(Ranking& best, float value, int64_t token) {
    if (value != value || is_banned(best, token)) value = -__builtin_inff();
    int64_t at = best.size;
    if (at == best.count) {
        if (!(value > best.values[at - 1])) return;
        --at;
    } else {
        ++best.size;
    }
    for (; at > 0 && best.values[at - 1] < value; --at) {
        best.values[at] = best.values[at - 1];
        best.tokens[at] = best.tokens[at - 1];
    }
    best.values[at] = value;
    best.tokens[at] = token;
}

// Four vectors from x[at], those past `size` filled with −∞.
INLINE void load_four(const float* x, int64_t at, int64_t size, Vec out[4]) {
    const Vec fill = broadcast(-__builtin_inff());
    for (int i = 0; i < 4; ++i) {
        const int64_t from = at + i * LANES;
        out[i] = from + LANES <= size ? load(x + from) : load_part(x + from, size - from, fill);
    }
}

INLINE ChunkSum sum_chunk(const float* x, int64_t size) {
    Vec maxima[4], part[4] = {}, v[4];
    for (int i = 0; i < 4; ++i) maxima[i] = broadcast(-__builtin_inff());
    for (int64_t at = 0; at < size; at += 4 * LANES) {
        load_four(x, at, size, v);
        for (int i = 0; i < 4; ++i) maxima[i] = maximum(v[i], maxima[i]);
    }
    const float max = largest(maximum(maximum(maxima[0], maxima[1]), maximum(maxima[2], maxima[3])));
    const Vec base = broadcast(max == -__builtin_inff() ? 0.0f : max);  // −∞ − −∞ would be NaN
    for (int64_t at = 0; at < size; at += 4 * LANES) {
        load_four(x, at, size, v);
        for (int i = 0; i < 4; ++i) part[i] += exponential(v[i] - base);
    }
    return {max, sum((part[0] + part[1]) + (part[2] + part[3]))};
}

INLINE void rank_chunk(const float* x, int64_t size, int64_t first_token, Ranking& best) {
    int64_t at = 0;
    for (; at < size && best.size < best.count; ++at) rank(best, x[at], first_token + at);
    while (at < size) {
        const float least = best.values[best.count - 1];
        Vec v[4];
        for (; at < size; at += 4 * LANES) {
            load_four(x, at, size, v);
            if (any((v[0] > least) | (v[1] > least) | (v[2] > least) | (v[3] > least))) break;
        }
        const int64_t end = at + 4 * LANES < size ? at + 4 * LANES : size;
        for (; at < end; ++at)
            if (x[at] > best.values[best.count - 1]) rank(best, x[at], first_token + at);
    }
}

// Columns begin … end − 1 of a query, `begin` at the start of a chunk: the sums of chunks, and the best into `best`.
static void scan(const float* logits, int64_t begin, int64_t end, Ranking& best, ChunkSum* sums_of) {
    for (int64_t first = begin; first < end; first += CHUNK) {
        const int64_t size = end - first < CHUNK ? end - first : CHUNK;
        const ChunkSum chunk = sum_chunk(logits + first, size);
        sums_of[first / CHUNK] = chunk;
        if (best.size < best.count || chunk.largest > best.values[best.count - 1])
            rank_chunk(logits + first, size, first, best);
    }
}
