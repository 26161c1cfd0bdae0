// The beam step of one search: candidates → next beams and finished hypotheses, and the update of its tables.
//
// The same code is compiled for the CPU (g++) and for CUDA (nvcc). A Group works on one search together: SingleThread
// on the CPU (cpu.cpp), BlockGroup on a GPU (cuda.cu). It has thread_rank(), size() and sync(), and for memory that its
// threads share add(), histogram_add(), max() and bit_or().
// Semantics and arithmetic are those of engine/seamless_engine/search/beam_step.py, operation by operation: equal
// candidates give equal bits.
#pragma once

#include "state.h"

namespace seamless {

// As torch sorts: NaN is the largest.
HOST_DEVICE inline bool greater(float a, float b) { return a != a ? b == b : a > b; }

// Whether element i of `x` stands before element j in a stable descending sort.
HOST_DEVICE inline bool before(const float* x, int i, int j) {
    return greater(x[i], x[j]) || (!greater(x[j], x[i]) && i < j);
}

// Position of element i of `x` [size] in a stable descending sort, if it is below `limit`.
HOST_DEVICE inline int rank_of(const float* x, int size, int i, int limit) {
    int rank = 0;
    for (int j = 0; j < size && rank < limit; ++j) rank += before(x, j, i);
    return rank;
}

// What the threads of a group share while they work on one search.
struct BeamStep {
    int broken;
    uint8_t order[MAX_BEAMS][MAX_CANDIDATES];  // candidates of each beam by (score, token)
    // The best 2·beams of all, best first.
    int parent[MAX_CANDIDATES];
    int64_t token[MAX_CANDIDATES];
    float score[MAX_CANDIDATES], log_prob[MAX_CANDIDATES], going[MAX_CANDIDATES], rank[MAX_CANDIDATES];
    bool stops[MAX_CANDIDATES];
    // Scores of the finished hypotheses so far, then of the candidates as finished hypotheses.
    float merged[MAX_BEAMS + MAX_CANDIDATES];
    // Which candidate each beam goes on with, and which entry of `merged` each finished slot takes.
    int next[MAX_BEAMS], best[MAX_BEAMS];
    bool occupied[MAX_BEAMS];
    int32_t finished_length[MAX_BEAMS];
    int64_t finished_token[MAX_BEAMS];
    float finished_log_prob[MAX_BEAMS];
};

// Merges the candidates of all beams of one search into its best 2·beams.
struct MergeTop {
    const SearchState& s;
    const Candidates& c;
    BeamStep& step;
    const int32_t* beam_ids;
    int64_t query;  // of the first beam
    int beams, active;

    HOST_DEVICE int count() const { return 2 * beams; }
    // A single hypothesis is ranked by its keys alone: the sum with its score could round two different keys together.
    HOST_DEVICE float base(int beam) const { return beams > 1 ? s.score[beam_ids[beam]] : 0.0f; }
    HOST_DEVICE bool exists(int i) const { return i < c.stride; }
    HOST_DEVICE int64_t at(int beam, int i) const { return (query + beam) * c.stride + i; }
    HOST_DEVICE float sum(int beam, int i) const {
        return base(beam) + (exists(i) ? c.key[at(beam, i)] : -INFINITY);
    }
    HOST_DEVICE int64_t token(int beam, int i) const { return exists(i) ? c.token[at(beam, i)] : 0; }

    // Order the candidates of one beam by (sum, token). They come ordered by (key, token), so only sums that rounding
    // made equal can be out of order: an insertion sort is short.
    HOST_DEVICE void sort(int beam) const {
        uint8_t* order = step.order[beam];
        for (int i = 0; i < count(); ++i) {
            const float x = sum(beam, i);
            const int64_t own = token(beam, i);
            int to = i;
            for (; to > 0; --to) {
                const float other = sum(beam, order[to - 1]);
                if (!(x > other || (x == other && own < token(beam, order[to - 1])))) break;
                order[to] = order[to - 1];
            }
            order[to] = static_cast<uint8_t>(i);
        }
    }

    // How many candidates of `other` rank before a candidate of `beam` with the sum x.
    HOST_DEVICE int preceding(int other, int beam, float x) const {
        int low = 0, high = count();
        while (low < high) {
            const int middle = (low + high) / 2;
            const float y = sum(other, step.order[other][middle]);
            if (y > x || (y == x && other < beam)) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    // Enter candidate i of the order of `beam` at its rank among the candidates of all beams.
    HOST_DEVICE void merge(int beam, int i) const {
        const int candidate = step.order[beam][i];
        const float x = sum(beam, candidate);
        int rank = i;
        for (int other = 0; other < active && rank < count(); ++other)
            if (other != beam) rank += preceding(other, beam, x);
        if (rank >= count()) return;
        const bool known = exists(candidate);
        step.parent[rank] = beam;
        step.token[rank] = token(beam, candidate);
        step.score[rank] = s.score[beam_ids[beam]] + (known ? c.value[at(beam, candidate)] : -INFINITY);
        step.log_prob[rank] = known ? c.log_prob[at(beam, candidate)] : -INFINITY;
    }
};

// Whether the search is over, once its beams and finished slots are known. `read`: positions.
HOST_DEVICE inline bool is_over(const SearchState& s, const BeamStep& step, int search, int beams, int read) {
    const float* norm = s.length_norm + search * s.max_length;
    const int64_t stop = s.int_param(search, EARLY_STOPPING);
    const int64_t longest = s.int_param(search, MAX_LENGTH) - PROMPT_LENGTH;
    const float attainable = step.going[step.next[0]] / norm[stop == 2 ? longest : read - PROMPT_LENGTH + 1];
    float worst = INFINITY;
    bool full = true, all_stop = true, hopeful = false;
    for (int i = 0; i < beams; ++i) {
        if (step.merged[step.best[i]] < worst) worst = step.merged[step.best[i]];
        full = full && step.occupied[i];
    }
    // A slot can still improve if it is empty and anything is attainable, or if the worst hypothesis can be beaten.
    for (int i = 0; i < beams; ++i) hopeful = hopeful || attainable > (step.occupied[i] ? worst : NEVER);
    for (int i = 0; i < 2 * beams; ++i) all_stop = all_stop && step.stops[i];
    return !hopeful || (stop == 1 && full) || all_stop;
}

// Reorder the beams: entries of the tables move, keys and values stay where they are.
template <class Group>
HOST_DEVICE void move_tables(const Group& group, const SearchState& s, const BeamStep& step, const int32_t* beam_ids,
                             int beams, int read) {
    for (int at = group.thread_rank(); at < read; at += group.size()) {
        int32_t running[MAX_BEAMS], finished[MAX_BEAMS];
        for (int i = 0; i < beams; ++i) {
            running[i] = s.slot_table[beam_ids[i] * s.max_length + at];
            finished[i] = s.finished_table[beam_ids[i] * s.max_length + at];
        }
        for (int i = 0; i < beams; ++i) {
            const int best = step.best[i];
            s.slot_table[beam_ids[i] * s.max_length + at] = running[step.parent[step.next[i]]];
            s.finished_table[beam_ids[i] * s.max_length + at] =
                best < beams ? finished[best] : running[step.parent[best - beams]];
        }
    }
}

// The beam step of search i of the batch. A search that is over or broken is not modified.
template <class Group>
HOST_DEVICE void beam_step(const Group& group, const SearchState& s, const StepBatch& batch, const Candidates& c,
                           int64_t i, BeamStep& step) {
    const int search = batch.search_id[i];
    if (!s.is_live(search)) return;
    const int64_t query = batch.search_query[i];
    const int read = s.position[search] + batch.query_offset[query] + 1;
    const int beams = static_cast<int>(s.int_param(search, NUM_BEAMS)), count = 2 * beams;
    const int32_t* beam_ids = s.beams_of(search);
    const MergeTop top{s, c, step, beam_ids, query, beams, batch.search_active[i]};

    if (group.thread_rank() == 0) step.broken = 0;
    group.sync();
    for (int n = group.thread_rank(); n < top.active * count; n += group.size()) {
        const float value = top.exists(n % count) ? c.value[top.at(n / count, n % count)] : 0.0f;
        if (value != value) group.add(&step.broken, 1);
    }
    for (int beam = group.thread_rank(); beam < top.active; beam += group.size()) top.sort(beam);
    group.sync();
    if (step.broken) {
        if (group.thread_rank() == 0) s.status[search] = BROKEN;
        return;
    }
    for (int n = group.thread_rank(); n < top.active * count; n += group.size()) top.merge(n / count, n % count);
    group.sync();

    const float now = s.length_norm[search * s.max_length + read - PROMPT_LENGTH + 1];
    const bool last_step = read + 1 >= s.int_param(search, MAX_LENGTH);
    for (int n = group.thread_rank(); n < count; n += group.size()) {
        const bool stops = step.token[n] == s.eos || last_step;
        step.stops[n] = stops;
        // Only the best `beams` candidates may finish; the rest exist so that enough beams go on.
        step.merged[beams + n] = step.score[n] / now;
        if (!stops || n >= beams) step.merged[beams + n] += NEVER;
        step.going[n] = stops ? step.score[n] + NEVER : step.score[n];
        // Beams go on by score; a single hypothesis goes on with what it chose or sampled.
        step.rank[n] = beams > 1 ? step.going[n] : (stops ? NEVER : 0.0f) - static_cast<float>(n);
        if (n < beams) step.merged[n] = s.finished_score[beam_ids[n]];
    }
    group.sync();
    for (int n = group.thread_rank(); n < beams + count; n += group.size()) {
        const int slot = rank_of(step.merged, beams + count, n, beams);
        if (slot < beams) step.best[slot] = n;
        if (n >= count) continue;
        const int next = rank_of(step.rank, count, n, beams);
        if (next < beams) step.next[next] = n;
    }
    group.sync();
    for (int n = group.thread_rank(); n < beams; n += group.size()) {
        const int best = step.best[n], candidate = best - beams;
        const bool old = best < beams;
        step.occupied[n] = old ? s.finished_occupied[beam_ids[best]] : step.stops[candidate] && candidate < beams;
        step.finished_length[n] = old ? s.finished_length[beam_ids[best]] : read;
        step.finished_token[n] = old ? s.finished_token[beam_ids[best]] : step.token[candidate];
        step.finished_log_prob[n] = old ? s.finished_log_prob[beam_ids[best]] : step.log_prob[candidate];
    }
    group.sync();

    move_tables(group, s, step, beam_ids, beams, read);
    for (int n = group.thread_rank(); n < beams; n += group.size()) {
        const int beam = beam_ids[n], next = step.next[n];
        s.token[beam] = step.token[next];
        s.log_prob[beam] = step.log_prob[next];
        s.score[beam] = step.going[next];
        s.finished_score[beam] = step.merged[step.best[n]];
        s.finished_occupied[beam] = step.occupied[n];
        s.finished_length[beam] = step.finished_length[n];
        s.finished_token[beam] = step.finished_token[n];
        s.finished_log_prob[beam] = step.finished_log_prob[n];
    }
    if (group.thread_rank() == 0) {
        s.position[search] = read;
        s.status[search] = is_over(s, step, search, beams, read) ? OVER : SEARCHING;
    }
}

}  // namespace seamless
