/* Counts read beside a network: what the text's n-grams say of the token after each position, and
 * what the runs say that have come before in the block. models/ngram.py and models/recent.py are the
 * references, and tests/test_counts_in_c.py holds this file to them.
 *
 * Positions are read in stretches, each by itself: the same bits for any number of threads.
 *
 * Names: S positions of a row, T the last of them, which are asked about; V vocabulary; N the
 * counts' order: contexts are 0 to N - 1 tokens long; R the lengths of run.
 */
#include <stddef.h>
#include <stdint.h>

#include "threads.h"

enum { STRETCH = 64, MOST_ORDERS = 64, MOST_LENGTHS = 16 };

/* models.ngram's Table. A context's n-grams stand side by side, in order of their last tokens. */
typedef struct {
    const int64_t *keys; /* context x V + token */
    const int32_t *first; /* where each context's begin */
    const float *kept, *back;
} Table;

typedef struct {
    int32_t rows, length, last, vocab_size; /* B, S, T, V */
    int32_t order, uniform; /* whether the first context met leaves its rest to all tokens alike */
    int32_t threads;
    const Table *tables; /* [order] */
    const int64_t *tokens; /* [B, S], each below V */
    const int64_t *models; /* [B], which of several models that stand side by side; or null */
    float *p; /* [B, T, V] */
    float *shares; /* [B, T, N] the share left to shorter contexts */
    Parallel parallel;
} Reading;

typedef struct {
    int32_t rows, length, last, vocab_size, threads;
    int32_t shortest, lengths; /* of the runs that count, and R */
    const int64_t *tokens; /* [B, S] */
    const float *p; /* [B, T, V] */
    const float *strengths; /* [R] */
    float *mixed; /* [B, T, V] */
    float *came; /* [B, T, R] how often each length of run has come */
    const float *d_mixed; /* back: [B, T, V] */
    double *d_log_strengths; /* [B, stretches of T, R] */
    Parallel parallel;
} Mixing;

/* Where a stretch lies: the row, and from which to which of the positions asked about. */
typedef struct {
    int row, begin, end;
} Stretch;

static int stretches(int last) { return (last + STRETCH - 1) / STRETCH; }

static Stretch stretch(int number, int last)
{
    int begin = number % stretches(last) * STRETCH, end = begin + STRETCH;
    return (Stretch){number / stretches(last), begin, end < last ? end : last};
}

/* ---- the text's counts ---- */

/* The number of a context with a token after it; -1 where it was never seen. */
static int64_t after(const Table *table, int64_t context, int64_t token, int64_t vocab_size)
{
    if (context < 0)
        return -1;
    int64_t low = table->first[context], high = table->first[context + 1];
    int64_t wanted = context * vocab_size + token, end = high;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (table->keys[middle] < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && table->keys[low] == wanted ? low : -1;
}

/* What the contexts say that end at a position: contexts[n] is that of n tokens. */
static void hand_out(const Reading *r, const int64_t *contexts, int known, float *p, float *shares)
{
    float left = 1.0f;
    int V = r->vocab_size;
    for (int i = 0; i < V; i++)
        p[i] = 0.0f;
    for (int n = r->order - 1; n >= 0; n--) {
        const Table *table = &r->tables[n];
        int64_t context = contexts[n];
        shares[n] = context < 0 ? 1.0f : table->back[context];
        if (context >= 0)
            for (int64_t gram = table->first[context]; gram < table->first[context + 1]; gram++)
                p[table->keys[gram] - context * V] += left * table->kept[gram];
        if (n == 0 || (r->uniform && n <= known)) { /* the rest goes to all alike */
            float each = left * shares[n] / V;
            for (int i = 0; i < V; i++)
                p[i] += each;
            left = 0.0f;
        } else {
            left *= shares[n];
        }
    }
}

static void read_stretch(void *argument, int number)
{
    const Reading *r = argument;
    Stretch part = stretch(number, r->last);
    int first = r->length - r->last; /* where what is asked about begins */
    int from = first + part.begin - (r->order > 2 ? r->order - 2 : 0);
    from = from < 0 ? 0 : from;
    const int64_t *tokens = r->tokens + (size_t)part.row * r->length;
    int64_t contexts[MOST_ORDERS] = {r->models ? r->models[part.row] : 0};
    for (int n = 1; n < r->order; n++)
        contexts[n] = -1;
    for (int s = from; s < first + part.end; s++) {
        int known = s - from + 1 < r->order ? s - from + 1 : r->order - 1; /* tokens of context */
        for (int n = known; n > 0; n--)
            contexts[n] = after(&r->tables[n - 1], contexts[n - 1], tokens[s], r->vocab_size);
        if (s < first + part.begin)
            continue;
        size_t place = (size_t)part.row * r->last + s - first;
        hand_out(r, contexts, known, r->p + place * r->vocab_size, r->shares + place * r->order);
    }
}

static int any_outside(const int64_t *tokens, size_t count, int vocab_size)
{
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab_size)
            return 1;
    return 0;
}

/* 1 where a token is none of the vocabulary. Orders up to 64. */
int hornbook_read_counts(Reading *r)
{
    if (any_outside(r->tokens, (size_t)r->rows * r->length, r->vocab_size))
        return 1;
    share_out(r->parallel, r->threads, r->rows * stretches(r->last), read_stretch, r);
    return 0;
}

/* ---- the block's own ---- */

/* The followers of the earlier runs that a position's run matches. */
typedef struct {
    int32_t *tokens;
    uint8_t *lengths; /* how many tokens longer than the shortest, at most R - 1 */
    int count;
} Matches;

/* For each position the last one before it at which the same run of the shortest length ended. */
static void chain(const Mixing *m, const int64_t *tokens, int end, int32_t *before, int32_t *heads,
                  uint32_t mask)
{
    for (uint32_t i = 0; i <= mask; i++)
        heads[i] = -1;
    for (int s = m->shortest - 1; s < end; s++) {
        uint64_t run = 0;
        for (int i = 0; i < m->shortest; i++)
            run = (run + (uint64_t)tokens[s - i] + 1) * 0x9e3779b97f4a7c15ull;
        uint32_t slot = (uint32_t)(run >> 32) & mask;
        before[s] = heads[slot]; /* of a run with the same hash, which `match` looks at again */
        heads[slot] = s;
    }
}

static void match(const Mixing *m, const int64_t *tokens, const int32_t *before, int s,
                  Matches *found)
{
    found->count = 0;
    if (s < m->shortest - 1)
        return;
    int longest = m->shortest + m->lengths - 1;
    for (int other = before[s]; other >= 0; other = before[other]) {
        int length = 0;
        while (length < longest && length <= other && tokens[other - length] == tokens[s - length])
            length++;
        if (length < m->shortest)
            continue;
        found->tokens[found->count] = (int32_t)tokens[other + 1];
        found->lengths[found->count++] = (uint8_t)(length - m->shortest);
    }
}

/* How often runs of each length, and longer ones, have come. */
static void count(const Mixing *m, const Matches *found, float *came)
{
    for (int r = 0; r < m->lengths; r++)
        came[r] = 0.0f;
    for (int i = 0; i < found->count; i++)
        came[found->lengths[i]] += 1.0f;
    for (int r = m->lengths - 2; r >= 0; r--)
        came[r] += came[r + 1];
}

/* p <- (count + strength p) / (came + strength), for each length in turn. */
static void mix(const Mixing *m, const Matches *found, const float *came, const float *p,
                float *mixed)
{
    float weights[MOST_LENGTHS], left = 1.0f, weight = 0.0f;
    for (int r = m->lengths - 1; r >= 0; r--) {
        float share = 1.0f / (came[r] + m->strengths[r]);
        weights[r] = share * left; /* what a match of this length hands its follower */
        left *= m->strengths[r] * share;
    }
    for (int r = 0; r < m->lengths; r++) /* a long match is one of every shorter length too */
        weights[r] = weight += weights[r];
    for (int i = 0; i < m->vocab_size; i++)
        mixed[i] = left * p[i];
    for (int i = 0; i < found->count; i++)
        mixed[found->tokens[i]] += weights[found->lengths[i]];
}

/* The gradient of the strengths' logarithms from that of what was mixed. */
static void mix_backward(const Mixing *m, const Matches *found, const float *came, const float *p,
                         const float *d_mixed, double *d_log_strengths)
{
    double counted[MOST_LENGTHS] = {0}, along[MOST_LENGTHS + 1] = {0}, left = 1.0;
    for (int i = 0; i < found->count; i++)
        counted[found->lengths[i]] += d_mixed[found->tokens[i]];
    for (int r = m->lengths - 2; r >= 0; r--)
        counted[r] += counted[r + 1];
    for (int i = 0; i < m->vocab_size; i++)
        along[0] += (double)d_mixed[i] * p[i];
    for (int r = 0; r < m->lengths; r++)
        along[r + 1] = (counted[r] + m->strengths[r] * along[r]) / (came[r] + m->strengths[r]);
    for (int r = m->lengths - 1; r >= 0; r--) {
        double share = m->strengths[r] / (came[r] + m->strengths[r]);
        d_log_strengths[r] += left * share * (along[r] - along[r + 1]);
        left *= share;
    }
}

static void mix_stretch(void *argument, int number)
{
    const Mixing *m = argument;
    Stretch part = stretch(number, m->last);
    int S = m->length, first = S - m->last, V = m->vocab_size;
    const int64_t *tokens = m->tokens + (size_t)part.row * S;
    uint32_t mask = 1;
    while (mask < (uint32_t)S)
        mask = 2 * mask + 1;
    int32_t before[S], heads[mask + 1], followers[S];
    uint8_t lengths[S];
    Matches found = {followers, lengths, 0};
    chain(m, tokens, first + part.end, before, heads, mask);
    for (int t = part.begin; t < part.end; t++) {
        size_t place = (size_t)part.row * m->last + t;
        const float *p = m->p + place * V;
        float *came = m->came + place * m->lengths;
        match(m, tokens, before, first + t, &found);
        if (m->d_mixed) {
            mix_backward(m, &found, came, p, m->d_mixed + place * V,
                         m->d_log_strengths + (size_t)number * m->lengths);
        } else {
            count(m, &found, came);
            mix(m, &found, came, p, m->mixed + place * V);
        }
    }
}

/* There without `d_mixed`, back with it. 1 where a token is none of the vocabulary. Rows of at most
 * 2^14 positions, whose places fit a stack. */
int hornbook_mix(Mixing *m)
{
    if (any_outside(m->tokens, (size_t)m->rows * m->length, m->vocab_size))
        return 1;
    share_out(m->parallel, m->threads, m->rows * stretches(m->last), mix_stretch, m);
    return 0;
}

/* How many stretches `d_log_strengths` has room for. */
int hornbook_stretches(const Mixing *m) { return m->rows * stretches(m->last); }
