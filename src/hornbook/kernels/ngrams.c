/* N-grams beside a network: the probabilities that a text's n-gram tables give after each position,
 * and those of the n-grams that came earlier in the context. models/ngram.py and
 * models/context_counts.py are the references; tests/kernels/test_ngram_kernels.py compares.
 *
 * Threads take pieces of a row, each computed by itself: the bits are the same for any number of
 * threads.
 *
 * Names: S positions of a row, T the last of them, whose successors are predicted; V vocabulary; N
 * the tables' order: contexts are 0 to N - 1 tokens long; R the lengths of n-gram in the context.
 */
#include <stddef.h>
#include <stdint.h>

#include "threads.h"

enum { PIECE = 64, MOST_ORDERS = 64, MOST_LENGTHS = 16 };

/* models.ngram's Table. A context's n-grams are adjacent, in order of their last tokens. */
typedef struct {
    const int64_t *keys; /* context x V + token */
    const int32_t *first; /* where each context's begin */
    const float *kept, *back;
} Table;

typedef struct {
    int32_t rows, length, last, vocab_size; /* B, S, T, V */
    int32_t order, uniform; /* add-k: the first context found backs off to the uniform distribution */
    int32_t threads;
    const Table *tables; /* [order] */
    const int64_t *tokens; /* [B, S], each below V */
    const int64_t *models; /* [B], which of several models in the tables; or null */
    float *p; /* [B, T, V] */
    float *shares; /* [B, T, N] backoff weights */
    Parallel parallel;
} Lookup;

typedef struct {
    int32_t rows, length, last, vocab_size, threads;
    int32_t shortest, lengths; /* of the n-grams counted, and R */
    const int64_t *tokens; /* [B, S] */
    const float *p; /* [B, T, V] */
    const float *strengths; /* [R] */
    float *mixed; /* [B, T, V] */
    float *came; /* [B, T, R] how often the n-gram of each length came before */
    const float *d_mixed; /* for the backward pass: [B, T, V] */
    double *d_log_strengths; /* [B, pieces of T, R] */
    Parallel parallel;
} Mixing;

/* Where a piece lies: its row, and its first and last but one of the T positions. */
typedef struct {
    int row, begin, end;
} Piece;

static int pieces(int last) { return (last + PIECE - 1) / PIECE; }

static Piece piece_of(int number, int last)
{
    int begin = number % pieces(last) * PIECE, end = begin + PIECE;
    return (Piece){number / pieces(last), begin, end < last ? end : last};
}

/* ---- n-gram tables ---- */

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

/* The distribution after a position, from its contexts: contexts[n] has n tokens. */
static void backoff(const Lookup *l, const int64_t *contexts, int known, float *p, float *shares)
{
    float left = 1.0f;
    int V = l->vocab_size;
    for (int i = 0; i < V; i++)
        p[i] = 0.0f;
    for (int n = l->order - 1; n >= 0; n--) {
        const Table *table = &l->tables[n];
        int64_t context = contexts[n];
        shares[n] = context < 0 ? 1.0f : table->back[context];
        if (context >= 0)
            for (int64_t gram = table->first[context]; gram < table->first[context + 1]; gram++)
                p[table->keys[gram] - context * V] += left * table->kept[gram];
        if (n == 0 || (l->uniform && n <= known)) { /* the rest is uniform */
            float each = left * shares[n] / V;
            for (int i = 0; i < V; i++)
                p[i] += each;
            left = 0.0f;
        } else {
            left *= shares[n];
        }
    }
}

static void lookup_piece(void *argument, int number)
{
    const Lookup *l = argument;
    Piece part = piece_of(number, l->last);
    int first = l->length - l->last; /* the first of the T positions */
    int from = first + part.begin - (l->order > 2 ? l->order - 2 : 0);
    from = from < 0 ? 0 : from;
    const int64_t *tokens = l->tokens + (size_t)part.row * l->length;
    int64_t contexts[MOST_ORDERS] = {l->models ? l->models[part.row] : 0};
    for (int n = 1; n < l->order; n++)
        contexts[n] = -1;
    for (int s = from; s < first + part.end; s++) {
        int known = s - from + 1 < l->order ? s - from + 1 : l->order - 1; /* tokens of context */
        for (int n = known; n > 0; n--)
            contexts[n] = after(&l->tables[n - 1], contexts[n - 1], tokens[s], l->vocab_size);
        if (s < first + part.begin)
            continue;
        size_t place = (size_t)part.row * l->last + s - first;
        backoff(l, contexts, known, l->p + place * l->vocab_size, l->shares + place * l->order);
    }
}

static int any_outside(const int64_t *tokens, size_t count, int vocab_size)
{
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab_size)
            return 1;
    return 0;
}

/* 1 where a token is outside the vocabulary. Orders up to 64. */
int hornbook_lookup(Lookup *l)
{
    if (any_outside(l->tokens, (size_t)l->rows * l->length, l->vocab_size))
        return 1;
    share_out(l->parallel, l->threads, l->rows * pieces(l->last), lookup_piece, l);
    return 0;
}

/* ---- n-grams of the context ---- */

/* The tokens that followed earlier n-grams which match the one at a position. */
typedef struct {
    int32_t *tokens;
    uint8_t *lengths; /* tokens more than the shortest, at most R - 1 */
    int count;
} Matches;

/* For each position the last one before it that ends the same n-gram of the shortest length. */
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
        before[s] = heads[slot]; /* same hash; `match` compares the tokens */
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

/* How often n-grams of each length, or longer, came before. */
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
        weights[r] = share * left; /* what a match of this length gives its follower */
        left *= m->strengths[r] * share;
    }
    for (int r = 0; r < m->lengths; r++) /* a match is one of every shorter length too */
        weights[r] = weight += weights[r];
    for (int i = 0; i < m->vocab_size; i++)
        mixed[i] = left * p[i];
    for (int i = 0; i < found->count; i++)
        mixed[found->tokens[i]] += weights[found->lengths[i]];
}

/* The gradient of the strengths' logarithms, from that of the mixture. */
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

static void mix_piece(void *argument, int number)
{
    const Mixing *m = argument;
    Piece part = piece_of(number, m->last);
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

/* Forward without `d_mixed`, backward with it. 1 where a token is outside the vocabulary. Rows of
 * at most 2^14 positions, whose arrays fit the stack. */
int hornbook_mix(Mixing *m)
{
    if (any_outside(m->tokens, (size_t)m->rows * m->length, m->vocab_size))
        return 1;
    share_out(m->parallel, m->threads, m->rows * pieces(m->last), mix_piece, m);
    return 0;
}

/* How many pieces `d_log_strengths` has room for. */
int hornbook_pieces(const Mixing *m) { return m->rows * pieces(m->last); }
