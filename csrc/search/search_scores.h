// What may be chosen next, and the candidates of a line whose scores are changed before the choice, or that draws.
//
// The processors of engine/seamless_engine/search/processors.py in the same order: repetition penalty, bans, temperature, top-k, top-p,
// noise. They see the log-softmax of a beam and the raw logits of a single hypothesis. Sets are cut by a threshold, so
// that equal scores are kept or cut together, and masses are added as integers, in whatever order: equal bits.
#pragma once

#include "search_state.h"

namespace seamless {

typedef unsigned long long Mass;

// A line that chooses: its search, which of the beams it is, and how many positions were read.
struct Chooser {
    const SearchState& s;
    int search, beam, read;

    HOST_DEVICE int64_t history(int at) const {
        return s.token_pool[s.slot_table[s.rows_of(search)[beam] * s.max_length + at]];
    }
    HOST_DEVICE int generated() const { return read - PROMPT_LENGTH; }
    HOST_DEVICE int beams() const { return static_cast<int>(s.whole_of(search, NUM_BEAMS)); }
    HOST_DEVICE bool samples() const { return s.whole_of(search, SAMPLE) != 0; }
    HOST_DEVICE float penalty() const { return s.real_of(search, REPETITION_PENALTY); }
    HOST_DEVICE bool special() const { return samples() || penalty() != 1.0f; }

    // Whether the word whose last entry this is would be completed: the entries before it end the history.
    HOST_DEVICE bool completes(int64_t entry) const {
        const int32_t* token = s.bad_word_token + search * s.max_bans;
        const int32_t* distance = s.bad_word_offset + search * s.max_bans;
        for (int64_t back = 1; back <= entry && distance[entry - back] == back; ++back)
            if (back > read || history(read - static_cast<int>(back)) != token[entry - back]) return false;
        return true;
    }

    // Whether the n-gram that starts here begins as the one that would be completed.
    HOST_DEVICE bool repeats(int start, int size) const {
        for (int i = 0; i < size - 1; ++i)
            if (history(start + i) != history(read - size + 1 + i)) return false;
        return true;
    }
};

// Every token that may not be chosen: take(index, token). Index 0 is eos, then come `words` entries of the ban list,
// and then one for each start of an n-gram.
template <class Team, class Take>
HOST_DEVICE void each_ban(const Team& team, const Chooser& line, int64_t words, const Take& take) {
    const SearchState& s = line.s;
    if (team.lane() == 0 && line.generated() < s.whole_of(line.search, MIN_NEW_TOKENS)) take(0, s.eos);
    const int64_t first = line.search * s.max_bans;
    for (int64_t i = team.lane(); i < s.whole_of(line.search, BANS); i += team.lanes())
        if (s.bad_word_offset[first + i] == 0 && line.completes(i)) take(1 + i, s.bad_word_token[first + i]);
    const int64_t ngram = s.whole_of(line.search, NGRAM);
    if (ngram == 0 || ngram > line.read) return;
    const int size = static_cast<int>(ngram);
    for (int start = team.lane(); start + size <= line.read; start += team.lanes())
        if (line.repeats(start, size)) take(1 + words + start, line.history(start + size - 1));
}

// A bijection of 32-bit integers that scatters every bit: Wellons' lowbias32.
HOST_DEVICE inline uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

// Gumbel noise of a line, keyed by (seed, step, stream, token).
struct Noise {
    uint32_t key, line;

    HOST_DEVICE explicit Noise(const Chooser& of) {
        const auto low = static_cast<uint32_t>(of.s.whole_of(of.search, SEED_LOW));
        const auto high = static_cast<uint32_t>(of.s.whole_of(of.search, SEED_HIGH));
        key = mix(mix(low ^ mix(high)) + static_cast<uint32_t>(of.generated()));
        line = mix(key + static_cast<uint32_t>(of.s.whole_of(of.search, STREAM) + of.beam));
    }
    HOST_DEVICE float of(int64_t token) const {
        const double bits = mix(mix(static_cast<uint32_t>(token) ^ line) + key);
        return static_cast<float>(-log(-log((bits + 0.5) / 4294967296.0)));
    }
};

// A float as an integer in the same order, and back; both zeros are one.
HOST_DEVICE inline uint32_t code_of(float x) {
    union {
        float real;
        uint32_t bits;
    } as{x + 0.0f};
    return as.bits >> 31 ? ~as.bits : as.bits | 0x80000000u;
}

HOST_DEVICE inline float float_of(uint32_t code) {
    union {
        uint32_t bits;
        float real;
    } as{code >> 31 ? code & 0x7fffffffu : ~code};
    return as.real;
}

constexpr uint32_t LOWEST = 0x007fffffu;  // code of −∞

// What a team shares while it works on one line.
struct LineWork {
    Mass weight[256];  // by digit
    Mass missing, here;
    uint32_t code;
    Mass total;
    uint32_t top;
    int found;
    int64_t token[MAX_WIDTH];
    uint32_t key[MAX_WIDTH];
};

// The largest code at which the weights of items from there up reach `target`, digit by digit. Afterwards work.missing
// is what the items above it lack of the target, and work.here the weight of those at it.
template <class Team, class Code, class Weight>
HOST_DEVICE uint32_t threshold(const Team& team, LineWork& work, int64_t items, const Code& code, const Weight& weight,
                               Mass target) {
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int digit = team.lane(); digit < 256; digit += team.lanes()) work.weight[digit] = 0;
        team.sync();
        for (int64_t i = team.lane(); i < items; i += team.lanes()) {
            const uint64_t whole = code(i);
            if (whole >> (shift + 8) == prefix) team.tally(work.weight, whole >> shift & 255, weight(i));
        }
        team.sync();
        if (team.lane() == 0) {
            int digit = 255;
            for (; digit > 0 && work.weight[digit] < target; --digit) target -= work.weight[digit];
            work.code = prefix << 8 | static_cast<uint32_t>(digit);
            work.missing = target;
            work.here = work.weight[digit];
        }
        team.sync();
        prefix = work.code;
        target = work.missing;
    }
    return prefix;
}

// The scores of one line. Where there is room, `codes` keeps what would be computed anew for each look.
struct Scores {
    const Chooser& line;
    Noise noise;
    const float* logits;
    int64_t vocab;
    float largest, log_sum;  // log-softmax is (logit − largest) − log_sum
    uint32_t* seen;  // bits, one for each token
    uint32_t* banned;
    uint32_t* codes;  // of scores, then of keys
    bool single, samples;
    float penalty, temperature;
    uint32_t least;  // of the scores that may be drawn

    HOST_DEVICE float log_prob(int64_t token) const { return (logits[token] - largest) - log_sum; }
    HOST_DEVICE float raw(int64_t token) const { return single ? logits[token] : log_prob(token); }
    HOST_DEVICE float warmed(float x) const { return samples ? x / temperature : x; }

    HOST_DEVICE static bool has(const uint32_t* bits, int64_t token) { return bits[token >> 5] >> (token & 31) & 1; }

    HOST_DEVICE uint32_t computed(int64_t token) const {
        if (has(banned, token)) return LOWEST;
        const float x = raw(token);
        return code_of(warmed(!has(seen, token) ? x : x < 0.0f ? x * penalty : x / penalty));
    }
    HOST_DEVICE uint32_t cut(uint32_t code) const { return code < least ? LOWEST : code; }
    HOST_DEVICE uint32_t code(int64_t token) const { return cut(codes ? codes[token] : computed(token)); }
    HOST_DEVICE uint32_t noisy(int64_t token) const {
        const uint32_t score = code(token);
        return samples && score != LOWEST ? code_of(float_of(score) + noise.of(token)) : score;
    }
    HOST_DEVICE uint32_t key(int64_t token) const { return codes ? codes[token] : noisy(token); }
};

template <class Team>
HOST_DEVICE void mark_tokens(const Team& team, const Scores& scores) {
    const int64_t words = (scores.vocab + 31) / 32;
    for (int64_t i = team.lane(); i < words; i += team.lanes()) scores.seen[i] = scores.banned[i] = 0;
    team.sync();
    const auto mark = [&](uint32_t* bits, int64_t token) {
        if (token >= 0 && token < scores.vocab) team.join(&bits[token >> 5], 1u << (token & 31));
    };
    if (scores.penalty != 1.0f)
        for (int i = team.lane(); i < scores.line.read; i += team.lanes()) mark(scores.seen, scores.line.history(i));
    each_ban(team, scores.line, 0, [&](int64_t, int64_t token) { mark(scores.banned, token); });
    team.sync();
}

// Few words of 32 tokens hold one that is marked.
template <class Team>
HOST_DEVICE void keep_codes(const Team& team, const Scores& scores) {
    const int64_t vocab = scores.vocab;
    for (int64_t word = team.lane(); word < (vocab + 31) / 32; word += team.lanes()) {
        const int64_t first = 32 * word, last = first + 32 < vocab ? first + 32 : vocab;
        if (scores.seen[word] | scores.banned[word])
            for (int64_t i = first; i < last; ++i) scores.codes[i] = scores.computed(i);
        else
            for (int64_t i = first; i < last; ++i) scores.codes[i] = code_of(scores.warmed(scores.raw(i)));
    }
    team.sync();
}

// Codes of the smallest scores in the top-k set, and in the nucleus of what that leaves.
template <class Team>
HOST_DEVICE void narrow(const Team& team, Scores& scores, LineWork& work) {
    const SearchState& s = scores.line.s;
    const int64_t vocab = scores.vocab, keep = scores.single ? 1 : 2;  // beams need a second candidate beside eos
    const auto code = [&](int64_t i) { return scores.code(i); };
    const auto one = [](int64_t) -> Mass { return 1; };
    const int64_t top_k = s.whole_of(scores.line.search, TOP_K);
    if (top_k > 0 && top_k < vocab) scores.least = threshold(team, work, vocab, code, one, top_k < keep ? keep : top_k);
    const float tail = s.real_of(scores.line.search, TAIL);
    if (tail < 0.0f) return;
    if (team.lane() == 0) work.top = work.total = 0;
    team.sync();
    uint32_t top = 0;
    for (int64_t i = team.lane(); i < vocab; i += team.lanes()) top = code(i) > top ? code(i) : top;
    team.raise(&work.top, top);
    team.sync();
    const float most = float_of(work.top);
    const auto mass = [&](int64_t i) -> Mass {
        const uint32_t score = code(i);
        return score == LOWEST ? 0 : static_cast<Mass>(expf(float_of(score) - most) * 17592186044416.0f);  // 2^44
    };
    Mass total = 0;
    for (int64_t i = team.lane(); i < vocab; i += team.lanes()) total += mass(i);
    team.add(&work.total, total);
    team.sync();
    total = work.total;
    const Mass outside = static_cast<Mass>(static_cast<double>(tail) * static_cast<double>(total));
    const uint32_t nucleus = threshold(team, work, vocab, code, mass, total > outside ? total - outside : 1);
    const uint32_t kept = scores.single ? work.top : threshold(team, work, vocab, code, one, keep);
    scores.least = nucleus < kept ? nucleus : kept;
}

// The candidates of a line, best first, to where they start in `out`.
template <class Team>
HOST_DEVICE void special_line(const Team& team, Scores scores, LineWork& work, int64_t at, const Candidates& out) {
    const int64_t vocab = scores.vocab, wanted = 2 * scores.line.beams();
    const int count = static_cast<int>(wanted < vocab ? wanted : vocab);
    if (!(scores.log_sum == scores.log_sum)) {
        for (int i = team.lane(); i < count; i += team.lanes()) {
            out.token[at + i] = i;
            out.key[at + i] = out.value[at + i] = out.log_prob[at + i] = scores.log_sum;
        }
        return;
    }
    mark_tokens(team, scores);
    if (scores.codes) keep_codes(team, scores);
    if (scores.samples) narrow(team, scores, work);
    if (scores.codes && scores.samples)
        for (int64_t i = team.lane(); i < vocab; i += team.lanes()) scores.codes[i] = scores.noisy(i);
    if (team.lane() == 0) work.found = 0;
    team.sync();

    const auto code = [&](int64_t i) { return scores.key(i); };
    const auto one = [](int64_t) -> Mass { return 1; };
    const uint32_t least = threshold(team, work, vocab, code, one, count);
    int64_t limit = vocab;  // among equals the smaller tokens are taken
    if (work.here > work.missing) {
        const Mass missing = work.missing;
        const auto tied = [&](int64_t i) -> Mass { return code(i) == least; };
        limit = ~threshold(team, work, vocab, [](int64_t i) { return ~static_cast<uint32_t>(i); }, tied, missing);
    }
    for (int64_t i = team.lane(); i < vocab; i += team.lanes()) {
        if (code(i) < least || (code(i) == least && i > limit)) continue;
        const int found = team.add(&work.found, 1);
        work.token[found] = i;
        work.key[found] = code(i);
    }
    team.sync();
    for (int i = team.lane(); i < count; i += team.lanes()) {
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
    team.sync();
}

}  // namespace seamless
