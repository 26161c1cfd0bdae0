// The beam step of one search: candidates → next beams and finished hypotheses, and the commit of its tables.
//
// The same code for the CPU (g++) and for CUDA (nvcc). A team is what works on one search: a thread on the CPU, a block
// on a GPU. It has lane(), lanes() and sync(), and for memory that it shares add(), tally(), raise() and join().
// Semantics are those of engine/seamless_engine/search/beam_step.py and the arithmetic is its own, operation by operation: equal
// candidates give equal bits.
#pragma once

#include "search_state.h"

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

// What a team shares while it works on one search.
struct BeamStep {
    int broken;
    uint8_t order[MAX_BEAMS][MAX_WIDTH];  // candidates of each beam by (score, token)
    // The best 2·beams of all, best first.
    int parent[MAX_WIDTH];
    int64_t token[MAX_WIDTH];
    float score[MAX_WIDTH], log_prob[MAX_WIDTH], going[MAX_WIDTH], rank[MAX_WIDTH];
    bool stops[MAX_WIDTH];
    // The finished hypotheses so far, and after them the candidates as such.
    float merged[MAX_BEAMS + MAX_WIDTH];
    // What stands in each beam and in each finished slot from now on.
    int next[MAX_BEAMS], best[MAX_BEAMS];
    bool occupied[MAX_BEAMS];
    int32_t finished_length[MAX_BEAMS];
    int64_t finished_token[MAX_BEAMS];
    float finished_log_prob[MAX_BEAMS];
};

// Candidates of one search, each beam's in the order of the sums that they are ranked by.
struct Contest {
    const SearchState& s;
    const Candidates& c;
    BeamStep& step;
    const int32_t* rows;
    int64_t line;  // of the first beam
    int beams, active;

    HOST_DEVICE int width() const { return 2 * beams; }
    // A single hypothesis is ranked by its keys alone: adding its score could only round two of them together.
    HOST_DEVICE float base(int beam) const { return beams > 1 ? s.score[rows[beam]] : 0.0f; }
    HOST_DEVICE bool exists(int i) const { return i < c.stride; }
    HOST_DEVICE int64_t at(int beam, int i) const { return (line + beam) * c.stride + i; }
    HOST_DEVICE float sum(int beam, int i) const {
        return base(beam) + (exists(i) ? c.key[at(beam, i)] : -INFINITY);
    }
    HOST_DEVICE int64_t token(int beam, int i) const { return exists(i) ? c.token[at(beam, i)] : 0; }

    // Sums are nearly in order: only those that rounding made equal are not in the order of their tokens.
    HOST_DEVICE void sort(int beam) const {
        uint8_t* order = step.order[beam];
        for (int i = 0; i < width(); ++i) {
            const float x = sum(beam, i);
            const int64_t word = token(beam, i);
            int to = i;
            for (; to > 0; --to) {
                const float other = sum(beam, order[to - 1]);
                if (!(x > other || (x == other && word < token(beam, order[to - 1])))) break;
                order[to] = order[to - 1];
            }
            order[to] = static_cast<uint8_t>(i);
        }
    }

    // How many candidates of `other` stand before one of `beam` with the sum x.
    HOST_DEVICE int preceding(int other, int beam, float x) const {
        int low = 0, high = width();
        while (low < high) {
            const int middle = (low + high) / 2;
            const float y = sum(other, step.order[other][middle]);
            if (y > x || (y == x && other < beam)) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    // Enter candidate i of the order of `beam` where it stands among those of all beams.
    HOST_DEVICE void place(int beam, int i) const {
        const int candidate = step.order[beam][i];
        const float x = sum(beam, candidate);
        int rank = i;
        for (int other = 0; other < active && rank < width(); ++other)
            if (other != beam) rank += preceding(other, beam, x);
        if (rank >= width()) return;
        const bool real = exists(candidate);
        step.parent[rank] = beam;
        step.token[rank] = token(beam, candidate);
        step.score[rank] = s.score[rows[beam]] + (real ? c.value[at(beam, candidate)] : -INFINITY);
        step.log_prob[rank] = real ? c.log_prob[at(beam, candidate)] : -INFINITY;
    }
};

// Whether the search is over, once its beams and finished slots are known. `read`: positions.
HOST_DEVICE inline bool is_over(const SearchState& s, const BeamStep& step, int search, int beams, int read) {
    const float* norm = s.norm + search * s.max_length;
    const int64_t stop = s.whole_of(search, STOP);
    const int64_t longest = s.whole_of(search, MAX_LENGTH) - PROMPT_LENGTH;
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

// Reorder the rows as the search decided: tables move, keys and values stay where they are.
template <class Team>
HOST_DEVICE void move_tables(const Team& team, const SearchState& s, const BeamStep& step, const int32_t* rows,
                             int beams, int read) {
    for (int at = team.lane(); at < read; at += team.lanes()) {
        int32_t running[MAX_BEAMS], finished[MAX_BEAMS];
        for (int i = 0; i < beams; ++i) {
            running[i] = s.slot_table[rows[i] * s.max_length + at];
            finished[i] = s.finished_table[rows[i] * s.max_length + at];
        }
        for (int i = 0; i < beams; ++i) {
            const int best = step.best[i];
            s.slot_table[rows[i] * s.max_length + at] = running[step.parent[step.next[i]]];
            s.finished_table[rows[i] * s.max_length + at] =
                best < beams ? finished[best] : running[step.parent[best - beams]];
        }
    }
}

// The beam step of search i of the batch. Whoever is not searching is left alone.
template <class Team>
HOST_DEVICE void beam_step(const Team& team, const SearchState& s, const StepBatch& batch, const Candidates& c,
                           int64_t i, BeamStep& step) {
    const int search = batch.search_id[i];
    if (!s.live(search)) return;
    const int64_t line = batch.search_line[i];
    const int read = s.position[search] + batch.line_offset[line] + 1;
    const int beams = static_cast<int>(s.whole_of(search, NUM_BEAMS)), width = 2 * beams;
    const int32_t* rows = s.rows_of(search);
    const Contest contest{s, c, step, rows, line, beams, batch.search_active[i]};

    if (team.lane() == 0) step.broken = 0;
    team.sync();
    for (int n = team.lane(); n < contest.active * width; n += team.lanes()) {
        const float value = contest.exists(n % width) ? c.value[contest.at(n / width, n % width)] : 0.0f;
        if (value != value) team.add(&step.broken, 1);
    }
    for (int beam = team.lane(); beam < contest.active; beam += team.lanes()) contest.sort(beam);
    team.sync();
    if (step.broken) {
        if (team.lane() == 0) s.status[search] = BROKEN;
        return;
    }
    for (int n = team.lane(); n < contest.active * width; n += team.lanes()) contest.place(n / width, n % width);
    team.sync();

    const float now = s.norm[search * s.max_length + read - PROMPT_LENGTH + 1];
    const bool last_step = read + 1 >= s.whole_of(search, MAX_LENGTH);
    for (int n = team.lane(); n < width; n += team.lanes()) {
        const bool stops = step.token[n] == s.eos || last_step;
        step.stops[n] = stops;
        // Only the best `beams` candidates may finish; the rest exist so that enough beams go on.
        step.merged[beams + n] = step.score[n] / now;
        if (!stops || n >= beams) step.merged[beams + n] += NEVER;
        step.going[n] = stops ? step.score[n] + NEVER : step.score[n];
        // Beams go on by score; a single hypothesis goes on with what it chose, or drew.
        step.rank[n] = beams > 1 ? step.going[n] : (stops ? NEVER : 0.0f) - static_cast<float>(n);
        if (n < beams) step.merged[n] = s.finished_score[rows[n]];
    }
    team.sync();
    for (int n = team.lane(); n < beams + width; n += team.lanes()) {
        const int rank = rank_of(step.merged, beams + width, n, beams);
        if (rank < beams) step.best[rank] = n;
        if (n >= width) continue;
        const int place = rank_of(step.rank, width, n, beams);
        if (place < beams) step.next[place] = n;
    }
    team.sync();
    for (int n = team.lane(); n < beams; n += team.lanes()) {
        const int best = step.best[n], candidate = best - beams;
        const bool old = best < beams;
        step.occupied[n] = old ? s.finished_occupied[rows[best]] != 0 : step.stops[candidate] && candidate < beams;
        step.finished_length[n] = old ? s.finished_length[rows[best]] : read;
        step.finished_token[n] = old ? s.finished_token[rows[best]] : step.token[candidate];
        step.finished_log_prob[n] = old ? s.finished_log_prob[rows[best]] : step.log_prob[candidate];
    }
    team.sync();

    move_tables(team, s, step, rows, beams, read);
    for (int n = team.lane(); n < beams; n += team.lanes()) {
        const int row = rows[n], next = step.next[n];
        s.token[row] = step.token[next];
        s.log_prob[row] = step.log_prob[next];
        s.score[row] = step.going[next];
        s.finished_score[row] = step.merged[step.best[n]];
        s.finished_occupied[row] = step.occupied[n];
        s.finished_length[row] = step.finished_length[n];
        s.finished_token[row] = step.finished_token[n];
        s.finished_log_prob[row] = step.finished_log_prob[n];
    }
    if (team.lane() == 0) {
        s.position[search] = read;
        s.status[search] = is_over(s, step, search, beams, read) ? OVER : SEARCHING;
    }
}

}  // namespace seamless
