// Candidates of a query by the logits processors: what torch_search.py computes with processors.py, in the same order:
// repetition penalty, banned tokens, temperature, top-k, top-p, noise.
//
// Processors see the log-softmax of a beam and the raw logits of a single hypothesis. Top-k and top-p keep the scores
// from a threshold up, so that equal scores are kept or cut together. Weights are added as integers, so that any order
// of the sum gives equal bits.
#pragma once

#include "state.h"

namespace seamless {

typedef unsigned long long Weight;  // of tokens: their number, or their probability in fixed point

// A query that chooses: its search, which of its beams it is, and how many positions were read.
struct Query {
    const SearchState& s;
    int search, beam, read;

    HOST_DEVICE int64_t history(int at) const {
        return s.token_pool[s.slot_table[s.beams_of(search)[beam] * s.max_length + at]];
    }
    HOST_DEVICE int generated() const { return read - PROMPT_LENGTH; }
    HOST_DEVICE int beams() const { return static_cast<int>(s.int_param(search, NUM_BEAMS)); }
    HOST_DEVICE bool samples() const { return s.int_param(search, DO_SAMPLE) != 0; }
    HOST_DEVICE bool needs_logits() const { return s.int_param(search, NEEDS_LOGITS) != 0; }

    // Whether the last token of a bad word, which is entry `last`, would complete it: the history ends with the others.
    HOST_DEVICE bool completes(int64_t last) const {
        const int32_t* token = s.bad_word_token + search * s.max_bad_word_tokens;
        const int32_t* offset = s.bad_word_offset + search * s.max_bad_word_tokens;
        for (int64_t back = 1; back <= last && offset[last - back] == back; ++back)
            if (back > read || history(read - static_cast<int>(back)) != token[last - back]) return false;
        return true;
    }

    // Whether the n-gram at `start` has the same first tokens as the one that the next token completes.
    HOST_DEVICE bool repeats(int start, int size) const {
        for (int i = 0; i < size - 1; ++i)
            if (history(start + i) != history(read - size + 1 + i)) return false;
        return true;
    }
};

// Every token that may not be chosen: take(index, token). Index 0 is eos, the next `num_bad_word_tokens` are the tokens
// of bad words, and after them comes one for each start of an n-gram.
template <class Group, class Take>
HOST_DEVICE void for_each_banned_token(const Group& group, const Query& query, int64_t num_bad_word_tokens,
                                       const Take& take) {
    const SearchState& s = query.s;
    if (group.thread_rank() == 0 && query.generated() < s.int_param(query.search, MIN_NEW_TOKENS)) take(0, s.eos);
    const int64_t first = query.search * s.max_bad_word_tokens;
    for (int64_t i = group.thread_rank(); i < s.int_param(query.search, NUM_BAD_WORD_TOKENS); i += group.size())
        if (s.bad_word_offset[first + i] == 0 && query.completes(i)) take(1 + i, s.bad_word_token[first + i]);
    const int64_t ngram = s.int_param(query.search, NO_REPEAT_NGRAM_SIZE);
    if (ngram == 0 || ngram > query.read) return;
    const int size = static_cast<int>(ngram);
    for (int start = group.thread_rank(); start + size <= query.read; start += group.size())
        if (query.repeats(start, size)) take(1 + num_bad_word_tokens + start, query.history(start + size - 1));
}

// A bijection of 32-bit integers that scatters every bit: Wellons' lowbias32.
HOST_DEVICE inline uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

// Gumbel noise of a query, keyed by (seed, step, stream, token).
struct Gumbel {
    uint32_t key, stream;

    HOST_DEVICE explicit Gumbel(const Query& query) {
        const auto low = static_cast<uint32_t>(query.s.int_param(query.search, SEED_LOW));
        const auto high = static_cast<uint32_t>(query.s.int_param(query.search, SEED_HIGH));
        key = mix(mix(low ^ mix(high)) + static_cast<uint32_t>(query.generated()));
        stream = mix(key + static_cast<uint32_t>(query.s.int_param(query.search, STREAM) + query.beam));
    }
    HOST_DEVICE float noise(int64_t token) const {
        const double bits = mix(mix(static_cast<uint32_t>(token) ^ stream) + key);
        return static_cast<float>(-log(-log((bits + 0.5) / 4294967296.0)));
    }
};

// A float as an integer in the same order, and back; both zeros are one.
HOST_DEVICE inline uint32_t code_of(float x) {
    union {
        float number;
        uint32_t bits;
    } as{x + 0.0f};
    return as.bits >> 31 ? ~as.bits : as.bits | 0x80000000u;
}

HOST_DEVICE inline float float_of(uint32_t code) {
    union {
        uint32_t bits;
        float number;
    } as{code >> 31 ? code & 0x7fffffffu : ~code};
    return as.number;
}

constexpr uint32_t LOWEST = 0x007fffffu;  // code of −∞

// What the threads of a group share while they work on one query.
struct QueryScratch {
    Weight weight[256];  // by digit
    Weight missing, here;
    uint32_t code;
    Weight total;
    uint32_t top;
    int found;
    int64_t token[MAX_CANDIDATES];
    uint32_t key[MAX_CANDIDATES];
};

// Radix select: the largest code at which the weights of the items from there up reach `target`, digit by digit.
// Afterwards work.missing is what the items above it lack of the target, and work.here the weight of those at it.
template <class Group, class Code, class ItemWeight>
HOST_DEVICE uint32_t radix_select(const Group& group, QueryScratch& work, int64_t items, const Code& code,
                                  const ItemWeight& weight, Weight target) {
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int digit = group.thread_rank(); digit < 256; digit += group.size()) work.weight[digit] = 0;
        group.sync();
        for (int64_t i = group.thread_rank(); i < items; i += group.size()) {
            const uint64_t own = code(i);
            if (own >> (shift + 8) == prefix) group.histogram_add(work.weight, own >> shift & 255, weight(i));
        }
        group.sync();
        if (group.thread_rank() == 0) {
            int digit = 255;
            for (; digit > 0 && work.weight[digit] < target; --digit) target -= work.weight[digit];
            work.code = prefix << 8 | static_cast<uint32_t>(digit);
            work.missing = target;
            work.here = work.weight[digit];
        }
        group.sync();
        prefix = work.code;
        target = work.missing;
    }
    return prefix;
}

// The scores of one query. Where there is memory, `codes` keeps what would be computed again for each pass over them.
struct Scores {
    const Query& query;
    const float* logits;
    int64_t vocab;
    float largest, log_sum;  // log-softmax is (logit − largest) − log_sum
    uint32_t* seen;  // bits, one for each token
    uint32_t* banned;
    uint32_t* codes;  // of scores, then of keys; may be null
    Gumbel gumbel;
    bool single, samples;
    float penalty, temperature;
    uint32_t least;  // of the scores that may be sampled

    HOST_DEVICE Scores(const Query& query, const float* logits, int64_t vocab, float largest, float log_sum,
                       uint32_t* seen, uint32_t* banned, uint32_t* codes)
        : query(query), logits(logits), vocab(vocab), largest(largest), log_sum(log_sum), seen(seen), banned(banned),
          codes(codes), gumbel(query), single(query.beams() == 1), samples(query.samples()),
          penalty(query.s.float_param(query.search, REPETITION_PENALTY)),
          temperature(query.s.float_param(query.search, TEMPERATURE)), least(0) {}

    HOST_DEVICE float log_prob(int64_t token) const { return (logits[token] - largest) - log_sum; }
    HOST_DEVICE float raw(int64_t token) const { return single ? logits[token] : log_prob(token); }
    HOST_DEVICE float tempered(float x) const { return samples ? x / temperature : x; }

    HOST_DEVICE static bool has(const uint32_t* bits, int64_t token) { return bits[token >> 5] >> (token & 31) & 1; }

    HOST_DEVICE uint32_t computed(int64_t token) const {
        if (has(banned, token)) return LOWEST;
        const float x = raw(token);
        return code_of(tempered(!has(seen, token) ? x : x < 0.0f ? x * penalty : x / penalty));
    }
    HOST_DEVICE uint32_t cut(uint32_t code) const { return code < least ? LOWEST : code; }
    HOST_DEVICE uint32_t code(int64_t token) const { return cut(codes ? codes[token] : computed(token)); }
    HOST_DEVICE uint32_t noisy(int64_t token) const {
        const uint32_t score = code(token);
        return samples && score != LOWEST ? code_of(float_of(score) + gumbel.noise(token)) : score;
    }
    HOST_DEVICE uint32_t key(int64_t token) const { return codes ? codes[token] : noisy(token); }
};

template <class Group>
HOST_DEVICE void mark_tokens(const Group& group, const Scores& scores) {
    const int64_t words = (scores.vocab + 31) / 32;
    for (int64_t i = group.thread_rank(); i < words; i += group.size()) scores.seen[i] = scores.banned[i] = 0;
    group.sync();
    const auto mark = [&](uint32_t* bits, int64_t token) {
        if (token >= 0 && token < scores.vocab) group.bit_or(&bits[token >> 5], 1u << (token & 31));
    };
    if (scores.penalty != 1.0f)
        for (int i = group.thread_rank(); i < scores.query.read; i += group.size()) mark(scores.seen, scores.query.history(i));
    for_each_banned_token(group, scores.query, 0, [&](int64_t, int64_t token) { mark(scores.banned, token); });
    group.sync();
}

// Few words of 32 bits have a marked token.
template <class Group>
HOST_DEVICE void keep_codes(const Group& group, const Scores& scores) {
    const int64_t vocab = scores.vocab;
    for (int64_t word = group.thread_rank(); word < (vocab + 31) / 32; word += group.size()) {
        const int64_t first = 32 * word, last = first + 32 < vocab ? first + 32 : vocab;
        if (scores.seen[word] | scores.banned[word])
            for (int64_t i = first; i < last; ++i) scores.codes[i] = scores.computed(i);
        else
            for (int64_t i = first; i < last; ++i) scores.codes[i] = code_of(scores.tempered(scores.raw(i)));
    }
    group.sync();
}

// Set scores.least to the smallest score of the top-k set, then of the top-p set (nucleus) within it.
template <class Group>
HOST_DEVICE void top_k_top_p_threshold(const Group& group, Scores& scores, QueryScratch& work) {
    const SearchState& s = scores.query.s;
    const int64_t vocab = scores.vocab, keep = scores.single ? 1 : 2;  // beams need a second candidate beside eos
    const auto code = [&](int64_t i) { return scores.code(i); };
    const auto one = [](int64_t) -> Weight { return 1; };
    const int64_t top_k = s.int_param(scores.query.search, TOP_K);
    if (top_k > 0 && top_k < vocab)
        scores.least = radix_select(group, work, vocab, code, one, top_k < keep ? keep : top_k);
    const float tail = s.float_param(scores.query.search, TAIL);
    if (tail < 0.0f) return;
    if (group.thread_rank() == 0) work.top = work.total = 0;
    group.sync();
    uint32_t top = 0;
    for (int64_t i = group.thread_rank(); i < vocab; i += group.size()) top = code(i) > top ? code(i) : top;
    group.max(&work.top, top);
    group.sync();
    const float most = float_of(work.top);
    const auto probability = [&](int64_t i) -> Weight {
        const uint32_t score = code(i);
        return score == LOWEST ? 0 : static_cast<Weight>(expf(float_of(score) - most) * 17592186044416.0f);  // 2^44
    };
    Weight total = 0;
    for (int64_t i = group.thread_rank(); i < vocab; i += group.size()) total += probability(i);
    group.add(&work.total, total);
    group.sync();
    total = work.total;
    const Weight outside = static_cast<Weight>(static_cast<double>(tail) * static_cast<double>(total));
    const uint32_t nucleus = radix_select(group, work, vocab, code, probability, total > outside ? total - outside : 1);
    const uint32_t kept = scores.single ? work.top : radix_select(group, work, vocab, code, one, keep);
    scores.least = nucleus < kept ? nucleus : kept;
}

// Write the candidates of a query, best first, to `out` from position `at` on.
template <class Group>
HOST_DEVICE void choose_from_logits(const Group& group, Scores scores, QueryScratch& work, int64_t at,
                                    const Candidates& out) {
    const int64_t vocab = scores.vocab, wanted = 2 * scores.query.beams();
    const int count = static_cast<int>(wanted < vocab ? wanted : vocab);
    if (!(scores.log_sum == scores.log_sum)) {
        for (int i = group.thread_rank(); i < count; i += group.size()) {
            out.token[at + i] = i;
            out.key[at + i] = out.value[at + i] = out.log_prob[at + i] = scores.log_sum;
        }
        return;
    }
    mark_tokens(group, scores);
    if (scores.codes) keep_codes(group, scores);
    if (scores.samples) top_k_top_p_threshold(group, scores, work);
    if (scores.codes && scores.samples)
        for (int64_t i = group.thread_rank(); i < vocab; i += group.size()) scores.codes[i] = scores.noisy(i);
    if (group.thread_rank() == 0) work.found = 0;
    group.sync();

    const auto code = [&](int64_t i) { return scores.key(i); };
    const auto one = [](int64_t) -> Weight { return 1; };
    const uint32_t least = radix_select(group, work, vocab, code, one, count);
    int64_t limit = vocab;  // of equal keys the smaller tokens are taken
    if (work.here > work.missing) {
        const Weight missing = work.missing;
        const auto tied = [&](int64_t i) -> Weight { return code(i) == least; };
        limit = ~radix_select(group, work, vocab, [](int64_t i) { return ~static_cast<uint32_t>(i); }, tied, missing);
    }
    for (int64_t i = group.thread_rank(); i < vocab; i += group.size()) {
        if (code(i) < least || (code(i) == least && i > limit)) continue;
        const int found = group.add(&work.found, 1);
        work.token[found] = i;
        work.key[found] = code(i);
    }
    group.sync();
    for (int i = group.thread_rank(); i < count; i += group.size()) {
        const int64_t token = work.token[i];
        const uint32_t key = work.key[i];
        int64_t rank = at;
        for (int j = 0; j < count; ++j)
            rank += work.key[j] > key || (work.key[j] == key && work.token[j] < token);
        out.token[rank] = token;
        const float log_prob = scores.log_prob(token);
        // A single hypothesis is scored by the model's own probabilities, a beam by those it was searched with.
        const float value = scores.single ? log_prob : float_of(scores.computed(token));
        out.key[rank] = float_of(key);
        out.value[rank] = key == LOWEST ? -INFINITY : value;
        out.log_prob[rank] = log_prob;
    }
    group.sync();
}

}  // namespace seamless
