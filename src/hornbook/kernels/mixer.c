/* Context mixing: the next token's probability from many contexts at once, learned as it reads.
 *
 * A token is a path of binary decisions in a code tree. At each node a small network without a
 * hidden layer mixes what the contexts predict, in the logistic domain, and learns from the outcome
 * at once (PAQ: Mahoney 2005; mixing: Mattern 2015, arXiv:1311.3474 by him on the same; steps scaled
 * by the gradients of each weight so far: Duchi et al. 2011). All that a
 * token's nodes predict is computed before anything is learned from the token, so that the
 * probabilities of all tokens sum to one. models/mixer_reference.py is the same in plain Python;
 * tests/kernels/test_mixer.py compares them.
 *
 * A reader is one text in progress. It learns either into the model's own arrays, or into copies of
 * the lines that it has written, which leaves the arrays as they are.
 */
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum {
    CONTEXTS = 30, /* hashed into buckets */
    GIVEN = 3, /* inputs of each */
    DIRECT = 3, /* contexts of 0, 1 and 2 tokens: counters of their own */
    MATCHES = 2,
    NETWORK = GIVEN * CONTEXTS + 2 * (DIRECT + MATCHES), /* two of the network's, a constant one, */
    SUMS = NETWORK + 3, /* two sums over contexts, */
    INPUTS = NETWORK + 12, /* and zeros */
    SETS = 10, /* of weights, each chosen by another small context */
    FINALS = 2, /* mixers of their outputs */
    STAGES = 4, /* of the last correction */
    LINE = 64, WAYS = 4,
    STATES = 16 * 64, /* a slot's count and the upper bits of its probability */
    LENGTHS = 48, /* of matches, in steps */
    LONGEST = 400, /* tokens of a match */
    BINS = 33, STAGE_CONTEXTS = 4096, MOST_NODES = 4096, MOST_TOKENS = 1024,
    ORDERS = 12,
    SHAPE = 8, /* words, marks and spaces */
    DEEPEST = 50, /* levels of the code tree: the product of their probabilities is above 1e-300 */
    FOLLOWERS_BITS = 16,
    RECALLED = 4096, /* tokens whose words and lines a direct reader goes on from */
};

static const float NETWORK_SHARE = 0.3f;
/* A weight's step is RATE times its gradient, divided by the root of the sum of its squared gradients
 * and by CALM beside it. */
static const float RATE = 0.1f, CALM = 1;
/* A set of weights learns from this share of its own error, and from the model's for the rest; from
 * none that is smaller than SMALL. */
static const float OWN = 0.2f, SMALL = 0.01f;
/* First weights of a context's inputs; a sum's input is divided by SUMMED. */
static const float FIRST = 0.1f, SUMMED = 12;

_Static_assert(INPUTS % 16 == 0, "inputs fill whole vectors");

/* A bucket holds the seven nodes of a subtree of three levels, after one context. A slot is a
 * probability of 12 bits and how often it was updated, 4 bits. */
typedef struct { uint16_t check, slot[7]; } Bucket;

/* kernels/mixer.py's Model. */
typedef struct {
    int32_t vocab_size, n_base;
    int32_t line_bits, counter_bits;
    int32_t shortest[MATCHES];
    uint8_t *lines; /* [lines_of(), 64]: buckets, then counters, then places of matches */
    float *weights; /* [hornbook_mixer_floats()] */
    const int32_t *base; /* [n_base] the tokens learned so far */
    const int32_t *child; /* [2, V - 1]: a node after its parent, or ~token */
    const int32_t *bucket, *slot, *parent, *depth; /* [V - 1] */
    const int32_t *first; /* [V + 1] where each token's path begins in: */
    const int32_t *path; /* 2 x node + bit */
    const int32_t *folded; /* [V] the token that stands for its upper and lower case */
    const int32_t *kind; /* [V] 1 letters, 3 letters that begin a word, 2 a line's end, 0 other */
} Model;

/* Offsets in `weights`. */
typedef struct {
    int32_t sets[SETS], selectors[SETS], final[FINALS], rows[FINALS], squares;
    int32_t states, state_counts, matches, match_counts, stages, total;
} Layout;

typedef struct {
    Model model;
    Layout at;
    int direct;
    float *weights;
    int32_t *text, length, room;
    /* Lines written, when not direct: a hash table from a line's number to its copy. */
    uint32_t *numbers, *copies, table_bits, n_copies, n_chunks;
    uint8_t **chunks;
    /* The contexts of the next token. */
    uint32_t order[ORDERS + 1], word, words[3], word_length, line_start, line_before, line_first;
    uint32_t gap, gap_length, mark, since; /* what stands between words; see follow_words */
    uint32_t shape[SHAPE]; /* of the text, the last first: a token + 1, or 0 for a word */
    uint32_t expected, length_expected; /* by the longest match: a token + 1, or 0 */
    uint32_t context[CONTEXTS];
    int32_t match_place[MATCHES], match_length[MATCHES];
    float stretched[4096]; /* of each probability of a slot */
    int32_t always[16][2]; /* the probability of a slot after so many outcomes of one kind */
    float *subtree, *network; /* [V - 1] */
    double *mass; /* [V - 1] */
    uint32_t *found; /* [buckets, CONTEXTS] */
} Reader;

/* What was computed at one node, for learning from it. */
typedef struct {
    float input[INPUTS] __attribute__((aligned(64)));
    int32_t node, bit; /* -1 where nothing will be learned */
    int32_t begin; /* inputs before are zero */
    int32_t state[CONTEXTS], selected[SETS], length[MATCHES], expected[MATCHES];
    uint32_t counter[DIRECT];
    int32_t row[FINALS], stage[STAGES];
    float dot[SETS], final[FINALS], *bin[STAGES], share[STAGES], p;
} Node;

static const uint32_t NOWHERE = 0xffffffffu;

static uint32_t scramble(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static uint32_t join(uint32_t hash, uint32_t more) { return scramble(hash * 0x9e3779b1u + more + 1); }

static float squash(float x) { return 1.0f / (1.0f + expf(-x)); }
static float stretch(float p) { return logf(p / (1.0f - p)); }
static float within(float x, float most) { return x > most ? most : x < -most ? -most : x; }
static float between(float p, float least) { return p < least ? least : p > 1 - least ? 1 - least : p; }
static int32_t at_most(int32_t x, int32_t most) { return x < most ? x : most; }

static Layout layout(const Model *model)
{
    int nodes = at_most(model->vocab_size - 1, MOST_NODES);
    int matches = 2 * (LENGTHS / 3 + 1), tokens = at_most(model->vocab_size + 1, MOST_TOKENS);
    Layout at = {.selectors = {matches, nodes, 7 * 16, tokens, 33, 1024, 256, 1024, 1024, 1024},
                 .rows = {nodes, matches}};
    int32_t next = 0;
    for (int s = 0; s < SETS; s++) {
        at.sets[s] = next;
        next += at.selectors[s] * INPUTS;
    }
    at.squares = next; /* as many as weights of sets */
    next *= 2;
    for (int f = 0; f < FINALS; f++) {
        at.final[f] = next;
        next += at.rows[f] * SETS;
    }
    at.states = next;
    at.state_counts = at.states + CONTEXTS * STATES;
    at.matches = at.state_counts + CONTEXTS * STATES;
    at.match_counts = at.matches + MATCHES * LENGTHS;
    at.stages = at.match_counts + MATCHES * LENGTHS;
    at.total = at.stages + STAGES * STAGE_CONTEXTS * BINS;
    return at;
}

int64_t hornbook_mixer_floats(const Model *model) { return layout(model).total; }

/* Where the sums of squared gradients begin, as many as there are weights before them. */
int64_t hornbook_mixer_squares(const Model *model) { return layout(model).squares; }

/* Regions of `lines`, in words of 32 bits: buckets, counters, places of matches, followers. */
static uint32_t counter_word(const Model *model, int table, uint32_t place)
{
    uint32_t buckets = 16u << model->line_bits, size = 1u << model->counter_bits;
    return buckets + (uint32_t)table * size + (place & (size - 1));
}

static uint32_t follower_word(const Model *model, int table, uint32_t place)
{
    uint32_t before = counter_word(model, DIRECT + MATCHES, 0);
    return before + ((uint32_t)table << FOLLOWERS_BITS) + (place & ((1u << FOLLOWERS_BITS) - 1));
}

int64_t hornbook_mixer_lines(const Model *model) { return follower_word(model, 2, 0) / 16; }

/* The network's first probabilities: its weights start from this share, and those of the set that
 * they select from the one that was learned without them. */
void hornbook_mixer_join(const Model *model)
{
    Layout at = layout(model);
    float *w = model->weights, *rows = w + at.sets[4];
    for (int row = 1; row < at.selectors[4]; row++)
        memcpy(rows + row * INPUTS, rows, sizeof(float) * INPUTS);
    for (int i = 0; i < at.squares; i++)
        w[i] = i % INPUTS == NETWORK ? NETWORK_SHARE : w[i] * (1 - NETWORK_SHARE);
}

/* All that a model starts from. */
void hornbook_mixer_begin(const Model *model)
{
    Layout at = layout(model);
    float *w = model->weights;
    memset(model->lines, 0, LINE * (size_t)hornbook_mixer_lines(model));
    memset(w, 0, sizeof(float) * (size_t)at.total);
    for (int i = 0; i < at.squares; i++) {
        int k = i % INPUTS;
        w[i] = k == SUMS ? SUMMED * FIRST : k >= NETWORK ? 0 : k >= GIVEN * CONTEXTS ? 0.16f
               : k % GIVEN < 2 ? FIRST : 0;
    }
    for (int i = at.final[0]; i < at.states; i++)
        w[i] = 1.0f / SETS;
    for (int i = 0; i < CONTEXTS * STATES; i++)
        w[at.states + i] = (i % 64 + 0.5f) / 64;
    for (int i = 0; i < MATCHES * LENGTHS; i++) {
        w[at.matches + i] = 0.5f + 0.49f * (i % LENGTHS) / LENGTHS;
        w[at.match_counts + i] = 2;
    }
    for (int i = 0; i < STAGES * STAGE_CONTEXTS * BINS; i++)
        w[at.stages + i] = squash((i % BINS - BINS / 2) / 2.0f);
}

/* The reader's lines. */

static uint8_t *copy_of(const Reader *reader, uint32_t copy)
{
    return reader->chunks[copy >> 10] + LINE * (size_t)(copy & 1023);
}

static uint32_t entry_of(const Reader *reader, uint32_t number)
{
    uint32_t mask = (1u << reader->table_bits) - 1, entry = scramble(number) & mask;
    while (reader->numbers[entry] != NOWHERE && reader->numbers[entry] != number)
        entry = (entry + 1) & mask;
    return entry;
}

static uint8_t *line(const Reader *reader, uint32_t number)
{
    if (!reader->direct) {
        uint32_t entry = entry_of(reader, number);
        if (reader->numbers[entry] == number)
            return copy_of(reader, reader->copies[entry]);
    }
    return reader->model.lines + LINE * (size_t)number;
}

static void rehash(Reader *reader, uint32_t bits)
{
    uint32_t *numbers = reader->numbers, *copies = reader->copies;
    size_t before = numbers ? (size_t)1 << reader->table_bits : 0, size = (size_t)1 << bits;
    reader->numbers = malloc(4 * size);
    reader->copies = malloc(4 * size);
    reader->table_bits = bits;
    memset(reader->numbers, 0xff, 4 * size);
    for (size_t i = 0; i < before; i++)
        if (numbers[i] != NOWHERE) {
            uint32_t entry = entry_of(reader, numbers[i]);
            reader->numbers[entry] = numbers[i];
            reader->copies[entry] = copies[i];
        }
    free(numbers);
    free(copies);
}

static uint8_t *line_to_write(Reader *reader, uint32_t number)
{
    uint8_t *base = reader->model.lines + LINE * (size_t)number;
    if (reader->direct)
        return base;
    uint32_t entry = entry_of(reader, number);
    if (reader->numbers[entry] == number)
        return copy_of(reader, reader->copies[entry]);
    if (2 * (reader->n_copies + 1) > 1u << reader->table_bits) {
        rehash(reader, reader->table_bits + 1);
        entry = entry_of(reader, number);
    }
    uint32_t copy = reader->n_copies++;
    if (copy >> 10 >= reader->n_chunks) {
        reader->chunks = realloc(reader->chunks, sizeof(uint8_t *) * (reader->n_chunks + 1));
        reader->chunks[reader->n_chunks++] = aligned_alloc(LINE, 1024 * LINE);
    }
    reader->numbers[entry] = number;
    reader->copies[entry] = copy;
    return memcpy(copy_of(reader, copy), base, LINE);
}

static uint32_t word_at(const Reader *reader, uint32_t place)
{
    return ((uint32_t *)line(reader, place / 16))[place % 16];
}

static uint32_t *word_to_write(Reader *reader, uint32_t place)
{
    return (uint32_t *)line_to_write(reader, place / 16) + place % 16;
}

/* The line and check of context j's bucket; the check is never 0, which marks an empty one. */
typedef struct { uint32_t line; uint16_t check; } Key;

static Key key_of(const Reader *reader, int j, uint32_t bucket)
{
    uint32_t context = reader->context[j];
    uint32_t number = join(context + (uint32_t)j * 0x85ebca77u, bucket);
    uint32_t check = join(context ^ 0xc2b2ae3du, bucket + (uint32_t)j * 0x27d4eb2fu);
    return (Key){number & ((1u << reader->model.line_bits) - 1), (uint16_t)(check >> 16 | 1)};
}

static Bucket *in_line(uint8_t *line, uint16_t check)
{
    Bucket *way = (Bucket *)line;
    for (int i = 0; i < WAYS; i++)
        if (way[i].check == check)
            return way + i;
    return NULL;
}

/* The buckets of all contexts. One whose parent was missing is missing too: a subtree that a
 * context never saw costs nothing. `found` may be `above`. */
static void find_buckets(const Reader *reader, uint32_t bucket, const Bucket *const *above,
                         const Bucket **found)
{
    Key key[CONTEXTS];
    for (int j = 0; j < CONTEXTS; j++)
        if (!above || above[j]) {
            key[j] = key_of(reader, j, bucket);
            __builtin_prefetch(reader->model.lines + LINE * (size_t)key[j].line);
        }
    for (int j = 0; j < CONTEXTS; j++)
        found[j] = !above || above[j] ? in_line(line(reader, key[j].line), key[j].check) : NULL;
}

/* The bucket to update; in place of the least used one of its line where there is none. */
static Bucket *bucket_to_write(Reader *reader, int j, uint32_t bucket)
{
    Key key = key_of(reader, j, bucket);
    uint8_t *there = line_to_write(reader, key.line);
    Bucket *way = (Bucket *)there, *found = in_line(there, key.check), *least = way;
    if (found)
        return found;
    int fewest = 99;
    for (int i = 0; i < WAYS; i++) {
        int used = way[i].check ? (way[i].slot[0] & 15) + 1 : 0;
        if (used < fewest) {
            fewest = used;
            least = way + i;
        }
    }
    least->check = key.check;
    for (int i = 0; i < 7; i++)
        least->slot[i] = 0x8000;
    return least;
}

/* Predicting. */

static int32_t end_of(const Reader *reader) { return reader->model.n_base + reader->length; }

static int32_t token_at(const Reader *reader, int32_t place)
{
    int32_t n_base = reader->model.n_base;
    return place < n_base ? reader->model.base[place] : reader->text[place - n_base];
}

/* The token so many places back, plus one; 0 before the beginning. */
static uint32_t back(const Reader *reader, int distance)
{
    int32_t place = end_of(reader) - distance, begin = reader->direct ? 0 : reader->model.n_base;
    return place < begin ? 0 : (uint32_t)token_at(reader, place) + 1;
}

static int length_step(int32_t length)
{
    return length < 16 ? length : length < 32 ? 16 + (length - 16) / 2 : at_most(24 + (length - 32) / 16, 47);
}

/* Whether token's path passes a node, and then which way it goes; -1 otherwise. */
static int way_at(const Model *model, int32_t token, int32_t node)
{
    int32_t place = model->first[token] + model->depth[node];
    return place < model->first[token + 1] && model->path[place] >> 1 == node ? model->path[place] & 1 : -1;
}

/* Where a correction's row begins. */
static int32_t stage_row(const Layout *in, uint32_t stage, uint32_t context)
{
    return in->stages + (int32_t)((stage * STAGE_CONTEXTS + context % STAGE_CONTEXTS) * BINS);
}

/* The rows of weights that are known before what the contexts say, the corrections' rows and the
 * counters. They are asked of memory at once: 1.1 times as fast. */
static void choose_rows(const Reader *reader, Node *at, int32_t node, int32_t *selectors)
{
    const Model *model = &reader->model;
    const Layout *in = &reader->at;
    uint32_t last = back(reader, 1), before = back(reader, 2), high = 7;
    uint32_t kinds = (before ? (uint32_t)model->folded[before - 1] : 0) * 7
                     + (last ? (uint32_t)model->kind[last - 1] : 0);
    uint32_t column = (uint32_t)end_of(reader) - reader->line_start;
    if (model->depth[node] < 7)
        high = (uint32_t)model->depth[node];
    selectors[1] = node % in->selectors[1];
    selectors[3] = (int32_t)(last % (uint32_t)in->selectors[3]);
    selectors[5] = (int32_t)((kinds + 31 * high) % 1024);
    selectors[6] = (int32_t)((reader->word_length < 15 ? reader->word_length : 15) * 16
                             + (column < 79 ? column : 79) / 5);
    selectors[7] = reader->expected ? (int32_t)(join(reader->expected, high) % 1024) : 0;
    selectors[8] = (int32_t)(reader->order[2] % 1024);
    selectors[9] = (int32_t)(join(last, (uint32_t)node) % 1024);
    for (int s = 0; s < SETS && at->bit >= 0; s++) {
        const float *row = reader->weights + in->sets[s] + selectors[s] * INPUTS;
        for (int i = 0; i < INPUTS; i += LINE / 4) {
            __builtin_prefetch(row + i);
            __builtin_prefetch(row + in->squares + i);
        }
    }
    at->stage[0] = stage_row(in, 0, join(last, (uint32_t)node));
    at->stage[1] = stage_row(in, 1, join(reader->order[2], (uint32_t)node));
    at->stage[2] = in->stages;
    at->stage[3] = stage_row(in, 3, join(reader->word, (uint32_t)node));
    for (int a = 0; a < STAGES; a++)
        for (int i = 0; i < BINS; i += LINE / 4)
            __builtin_prefetch(reader->weights + at->stage[a] + i);
    for (int j = 0; j < DIRECT; j++) {
        uint32_t hash = j ? join(reader->order[j], (uint32_t)node) : (uint32_t)node;
        at->counter[j] = counter_word(model, j, hash);
        __builtin_prefetch(model->lines + 4 * (size_t)at->counter[j]);
    }
}

/* What a slot's next outcome makes of its probability, of 12 bits. */
static int32_t moved(int32_t p, int32_t count, int bit)
{
    return p + (int32_t)(((bit ? 4095 : 0) - p) / (count + 1.5f));
}

/* Contexts say nearly the same, and each weight is learned by itself: they give differences from
 * their mean, and all together give their sum. */
static void centre(Node *at, int known, const float *sums)
{
    for (int j = 0; j < CONTEXTS; j++)
        if (at->state[j] >= 0) {
            at->input[GIVEN * j] -= sums[0] / (float)known;
            at->input[GIVEN * j + 2] -= sums[1] / (float)known;
        }
    at->input[SUMS] = sums[0] / SUMMED;
    at->input[SUMS + 1] = sums[1] / SUMMED;
}

/* The probability of bit 1 at a node, from what was learned before this token. */
static float predict(const Reader *reader, Node *at, int32_t node, const Bucket *const *found,
                     const float *network)
{
    const Model *model = &reader->model;
    const Layout *in = &reader->at;
    float *input = at->input, *w = reader->weights;
    at->node = node;
    memset(input, 0, sizeof at->input);
    int32_t selectors[SETS] = {0};
    choose_rows(reader, at, node, selectors);
    int seen = 0, known = 0;
    float given[2] = {0};
    for (int j = 0; j < CONTEXTS; j++, input += GIVEN) {
        at->state[j] = -1;
        if (!found[j])
            continue;
        seen += j < 6;
        int slot = found[j]->slot[model->slot[node]], count = slot & 15;
        if (!count)
            continue;
        at->state[j] = j * STATES + count * 64 + (slot >> 10);
        float p = w[in->states + at->state[j]];
        const int32_t *always = reader->always[count];
        input[0] = stretch(p);
        input[1] = slot >> 4 <= always[0] || slot >> 4 >= always[1] ? input[0] : 0;
        input[2] = reader->stretched[slot >> 4] * count / (count + 1.5f);
        given[0] += input[0];
        given[1] += input[2];
        known++;
    }
    if (known)
        centre(at, known, given);
    /* Where no context is known, as at most nodes of a large vocabulary, nothing stands before. */
    at->begin = known ? 0 : GIVEN * CONTEXTS / 16 * 16;
    for (int j = 0; j < DIRECT; j++, input += 2) {
        uint32_t counter = word_at(reader, at->counter[j]), count = counter & 1023;
        if (!count)
            continue;
        float p = between((counter >> 10) * (1 / 4194304.0f), 1e-4f);
        input[0] = stretch(p);
        input[1] = (p - 0.5f) * 3 * (count > 30 ? 1 : count / 30.0f);
    }
    int match = 0;
    for (int m = 0; m < MATCHES; m++, input += 2) {
        at->length[m] = -1;
        if (!reader->match_length[m])
            continue;
        int way = way_at(model, token_at(reader, reader->match_place[m]), node);
        if (way < 0)
            continue;
        at->length[m] = length_step(reader->match_length[m]);
        at->expected[m] = way;
        float p = w[in->matches + m * LENGTHS + at->length[m]], sign = way ? 1 : -1;
        input[0] = sign * stretch(p);
        input[1] = sign * (p - 0.5f) * 3;
        match = 2 * (at->length[m] / 3 + 1) + way; /* the longer match's, where there are two */
    }
    float asked = network ? within(stretch(between(network[node], 1e-6f)), 7.5f) : 0;
    input[0] = network ? stretch(between(network[node], 1e-6f)) : 0;
    input[1] = network ? (network[node] - 0.5f) * 3 : 0;
    input[2] = 0.3f;
    selectors[0] = match;
    selectors[2] = seen * 16 + at_most(model->depth[node], 15);
    selectors[4] = network ? (int32_t)(asked * 2 + 17) : 0;
    int32_t rows[FINALS] = {node % in->rows[0], match};
    float sums[FINALS] = {0}, final = 0;
    for (int s = 0; s < SETS; s++) {
        at->selected[s] = in->sets[s] + selectors[s] * INPUTS;
        floats sum = {0};
        for (int i = at->begin; i < INPUTS; i += WIDE)
            sum += *(floats *)(at->input + i) * *(floats *)(w + at->selected[s] + i);
        at->dot[s] = within(total(sum), 12);
        for (int f = 0; f < FINALS; f++)
            sums[f] += w[in->final[f] + rows[f] * SETS + s] * at->dot[s];
    }
    for (int f = 0; f < FINALS; f++) {
        at->row[f] = in->final[f] + rows[f] * SETS;
        sums[f] = within(sums[f], 12);
        at->final[f] = sums[f];
        final += sums[f] / FINALS;
    }
    at->stage[2] = stage_row(in, 2, (uint32_t)match * 128 + (uint32_t)node % 128);
    float place = (within(final, 7.99f) + 8) * 2, corrected = 0;
    for (int a = 0; a < STAGES; a++) {
        at->bin[a] = w + at->stage[a] + (int)place;
        at->share[a] = place - (int)place;
        corrected += at->bin[a][0] * (1 - at->share[a]) + at->bin[a][1] * at->share[a];
    }
    return at->p = between(0.3f * squash(final) + 0.175f * corrected, 1e-6f);
}

/* Learning from one node's outcome. */
static void learn(Reader *reader, Node *at, Bucket **buckets)
{
    const Model *model = &reader->model;
    const Layout *in = &reader->at;
    float *w = reader->weights, y = (float)at->bit;
    for (int s = 0; s < SETS; s++) {
        float *row = w + at->selected[s], *squares = row + in->squares;
        float wrong = y - OWN * squash(at->dot[s]) - (1 - OWN) * at->p;
        if (fabsf(wrong) < SMALL)
            continue;
        for (int i = at->begin; i < INPUTS; i++) {
            float gradient = wrong * at->input[i];
            squares[i] += gradient * gradient;
            row[i] += RATE * gradient / (sqrtf(squares[i]) + CALM);
        }
    }
    for (int f = 0; f < FINALS; f++)
        for (int s = 0; s < SETS; s++)
            w[at->row[f] + s] += (y - squash(at->final[f])) * 0.0005f * at->dot[s];
    for (int a = 0; a < STAGES; a++) {
        at->bin[a][0] += (y - at->bin[a][0]) * 0.02f * (1 - at->share[a]);
        at->bin[a][1] += (y - at->bin[a][1]) * 0.02f * at->share[a];
    }
    for (int j = 0; j < CONTEXTS; j++) {
        if (at->state[j] >= 0) {
            float *p = w + in->states + at->state[j], *n = w + in->state_counts + at->state[j];
            *n += *n < 1000;
            *p = between(*p + (y - *p) / (*n + 1.5f), 1e-4f);
        }
        uint16_t *slot = &buckets[j]->slot[model->slot[at->node]];
        int32_t count = *slot & 15;
        *slot = (uint16_t)(moved(*slot >> 4, count, at->bit) << 4 | at_most(count + 1, 14));
    }
    for (int j = 0; j < DIRECT; j++) {
        uint32_t *counter = word_to_write(reader, at->counter[j]);
        int32_t count = *counter & 1023, p = count ? (int32_t)(*counter >> 10) : 2097152;
        p += (int32_t)(((at->bit ? 4194303 : 0) - p) / (count + 1.5f));
        *counter = (uint32_t)p << 10 | (uint32_t)at_most(count + 1, 400);
    }
    for (int m = 0; m < MATCHES; m++)
        if (at->length[m] >= 0) {
            int which = m * LENGTHS + at->length[m];
            float *p = w + in->matches + which, *n = w + in->match_counts + which;
            *n += *n < 250;
            *p += ((float)(at->expected[m] == at->bit) - *p) / (*n + 1.5f);
            *p = *p > 0.9998f ? 0.9998f : *p < 0.01f ? 0.01f : *p;
        }
}

/* The hashes of the last tokens, from the text up to its end. */
static void set_orders(Reader *reader)
{
    uint32_t *order = reader->order;
    for (int k = 1; k <= ORDERS; k++)
        order[k] = join(order[k - 1] + (uint32_t)k, back(reader, k));
}

static uint32_t shape_of(const Reader *reader, int length)
{
    uint32_t hash = 0;
    for (int i = 0; i < length; i++)
        hash = join(hash, reader->shape[i]);
    return hash;
}

/* The hashes of the contexts of the next token. */
static void set_contexts(Reader *reader)
{
    const Model *model = &reader->model;
    uint32_t *order = reader->order, word = reader->word, *words = reader->words;
    uint32_t last = back(reader, 1), second = back(reader, 2), third = back(reader, 3);
    uint32_t pair = join(word, words[0]), triple = join(pair, words[1]), form = shape_of(reader, 3);
    uint32_t here = (uint32_t)end_of(reader), column = here - reader->line_start;
    uint32_t above_place = reader->line_before + column, above = 0;
    if (above_place + 1 < reader->line_start)
        above = (uint32_t)token_at(reader, (int32_t)above_place) + 1;
    uint32_t one = word_at(reader, follower_word(model, 0, join(1, last)));
    uint32_t two = word_at(reader, follower_word(model, 1, order[2]));
    reader->expected = reader->length_expected = 0;
    for (int m = 0; m < MATCHES; m++)
        if (reader->match_length[m]) { /* the longer match's, where there are two */
            reader->expected = (uint32_t)token_at(reader, reader->match_place[m]) + 1;
            reader->length_expected = (uint32_t)at_most(reader->match_length[m], 20);
        }
    uint32_t made[CONTEXTS] = {
        order[3], order[4], order[5], order[6], order[7], order[8], order[2],
        word, pair, triple, join(triple, words[2]), join(word, words[1]),
        join(second, third), join(last, third), shape_of(reader, 5),
        join(form, column < 100 ? column : 100), shape_of(reader, SHAPE),
        join(form, above), join(above, column < 255 ? column : 255),
        join(reader->line_first, last), join(column < 127 ? column : 127, last),
        join(one, last), join(two, last),
        join(reader->expected, reader->length_expected), join(reader->expected, last),
        /* What was learned of late alone. */
        join(word, here >> 11), join(order[3], here >> 12), join(last, here >> 10),
        join(word, reader->since), join(word, reader->mark),
    };
    memcpy(reader->context, made, sizeof made);
}

/* The words and lines so far, after a token that ends at `here`. `gap` is what stands since the last
 * word; `mark` the last gap of two tokens or more, as after a sentence, and `since` the words after
 * it. */
static void follow_words(Reader *reader, int32_t token, uint32_t here)
{
    int32_t kind = reader->model.kind[token];
    uint32_t form = kind & 1 ? 0 : (uint32_t)token + 1;
    if (form || reader->shape[0]) {
        memmove(reader->shape + 1, reader->shape, (SHAPE - 1) * sizeof(uint32_t));
        reader->shape[0] = form;
    }
    if (kind != 1 && reader->word) {
        memmove(reader->words + 1, reader->words, 2 * sizeof(uint32_t));
        reader->words[0] = reader->word;
        reader->word = reader->word_length = 0;
    }
    if (kind == 1 || kind == 3) {
        if (!reader->word) {
            reader->since = reader->gap_length > 1 ? 0 : (uint32_t)at_most((int32_t)reader->since + 1, 15);
            reader->mark = reader->gap_length > 1 ? reader->gap : reader->mark;
            reader->gap = reader->gap_length = 0;
        }
        reader->word = join(reader->word, (uint32_t)reader->model.folded[token]);
        reader->word_length++;
    } else {
        reader->gap = join(reader->gap, (uint32_t)token + 1);
        reader->gap_length++;
    }
    if (kind == 2) {
        reader->line_before = reader->line_start;
        reader->line_start = here;
        reader->line_first = 0;
    } else if (here - reader->line_start == 1)
        reader->line_first = (uint32_t)token + 1;
}

/* Follow the places where the last tokens stood before, or look for some. */
static void follow_matches(Reader *reader, int32_t token)
{
    const Model *model = &reader->model;
    int32_t here = end_of(reader), begin = reader->direct ? 0 : model->n_base;
    for (int m = 0; m < MATCHES; m++) {
        int32_t *place = &reader->match_place[m], *length = &reader->match_length[m];
        if (*length && token_at(reader, *place) == token) {
            *length = at_most(*length + 1, 65535);
            ++*place;
        } else
            *length = 0;
        if (here - begin < model->shortest[m])
            continue;
        uint32_t *latest = word_to_write(
            reader, counter_word(model, DIRECT + m, reader->order[model->shortest[m]]));
        int32_t found = (int32_t)*latest;
        if (!*length && found) {
            int32_t same = 0, most = at_most(LONGEST, here - begin);
            while (same < most && same < found
                   && token_at(reader, found - 1 - same) == token_at(reader, here - 1 - same))
                same++;
            if (same >= model->shortest[m]) {
                *place = found;
                *length = same;
            }
        }
        *latest = (uint32_t)here;
    }
}

/* Add a token to the text: the contexts and matches of the next one. */
static void advance(Reader *reader, int32_t token)
{
    const Model *model = &reader->model;
    uint32_t last = back(reader, 1);
    for (int k = 0; k < 2; k++) {
        uint32_t place = follower_word(model, k, k ? reader->order[2] : join(1, last));
        uint32_t *followers = word_to_write(reader, place);
        *followers = *followers << 16 | ((uint32_t)(token + 1) & 0xffff);
    }
    if (reader->length == reader->room) {
        reader->room = reader->room ? 2 * reader->room : 1024;
        reader->text = realloc(reader->text, 4 * (size_t)reader->room);
    }
    reader->text[reader->length++] = token;
    follow_words(reader, token, (uint32_t)end_of(reader));
    set_orders(reader);
    follow_matches(reader, token);
    set_contexts(reader);
}

/* The network's probability of bit 1 at every node, from its logits. */
static const float *by_node(Reader *reader, const float *logits)
{
    const Model *model = &reader->model;
    int V = model->vocab_size;
    float most = logits[0], *p = reader->network, *sum = reader->subtree, *leaf = sum + V;
    for (int i = 1; i < V; i++)
        most = logits[i] > most ? logits[i] : most;
    int i = 0;
    for (; i + WIDE <= V; i += WIDE)
        *(floats *)(leaf + i) = exponential(*(floats *)(logits + i) - most);
    for (; i < V; i++)
        leaf[i] = expf(logits[i] - most);
    for (int node = V - 2; node >= 0; node--) {
        int32_t zero = model->child[node], one = model->child[V - 1 + node];
        float a = (zero < 0 ? leaf[~zero] : sum[zero]) + 1e-9f;
        float b = (one < 0 ? leaf[~one] : sum[one]) + 1e-9f;
        sum[node] = a + b;
        p[node] = b / (a + b);
    }
    return p;
}

/* Predict each token, then learn from it. `logits` are the network's, [n, V], or null.
 * `nats` receives -ln p of each token. Returns 1 for a token outside the vocabulary. */
int hornbook_mixer_read(Reader *reader, const int32_t *tokens, int64_t n, const float *logits,
                        double *nats)
{
    const Model *model = &reader->model;
    static _Thread_local Node nodes[DEEPEST];
    for (int64_t t = 0; t < n; t++) {
        if (tokens[t] < 0 || tokens[t] >= model->vocab_size)
            return 1;
        const float *network = logits ? by_node(reader, logits + t * model->vocab_size) : NULL;
        const int32_t *path = model->path + model->first[tokens[t]];
        int deep = model->first[tokens[t] + 1] - model->first[tokens[t]];
        const Bucket *found[CONTEXTS];
        double sum = 0;
        for (int i = 0; i < deep; i++) {
            int32_t node = path[i] >> 1;
            if (!model->slot[node])
                find_buckets(reader, (uint32_t)model->bucket[node], i ? found : NULL, found);
            nodes[i].bit = path[i] & 1;
            float p = predict(reader, nodes + i, node, found, network);
            sum -= log(nodes[i].bit ? p : 1 - (double)p);
        }
        Bucket *buckets[CONTEXTS];
        for (int i = 0; i < deep; i++) {
            if (!model->slot[nodes[i].node])
                for (int j = 0; j < CONTEXTS; j++)
                    buckets[j] = bucket_to_write(reader, j, (uint32_t)model->bucket[nodes[i].node]);
            learn(reader, nodes + i, buckets);
        }
        nats[t] = sum;
        advance(reader, tokens[t]);
    }
    return 0;
}

/* The natural logarithms of all tokens' probabilities, [V]; nothing is learned. */
void hornbook_mixer_distribution(Reader *reader, const float *logits, float *log_p)
{
    const Model *model = &reader->model;
    const float *network = logits ? by_node(reader, logits) : NULL;
    const Bucket **found = (const Bucket **)reader->found;
    Node at = {.bit = -1};
    reader->mass[0] = 1;
    for (int32_t node = 0; node < model->vocab_size - 1; node++) {
        const Bucket **here = found + (size_t)model->bucket[node] * CONTEXTS;
        if (!model->slot[node]) {
            int32_t parent = model->parent[node];
            const Bucket **above = parent < 0 ? NULL : found + (size_t)model->bucket[parent] * CONTEXTS;
            find_buckets(reader, (uint32_t)model->bucket[node], above, here);
        }
        float p = predict(reader, &at, node, here, network);
        for (int bit = 0; bit < 2; bit++) {
            int32_t child = model->child[bit * (model->vocab_size - 1) + node];
            double mass = reader->mass[node] * (bit ? p : 1 - (double)p);
            if (child < 0)
                log_p[~child] = (float)log(mass);
            else
                reader->mass[child] = mass;
        }
    }
    if (model->vocab_size == 1)
        log_p[0] = 0;
}

/* Forget the text and all that was learned from it; a direct reader only forgets the context. */
void hornbook_mixer_reset(Reader *reader)
{
    if (!reader->direct) {
        reader->length = 0;
        memcpy(reader->weights, reader->model.weights, sizeof(float) * (size_t)reader->at.total);
        if (reader->n_copies)
            memset(reader->numbers, 0xff, 4 * ((size_t)1 << reader->table_bits));
        reader->n_copies = 0;
    }
    reader->word = reader->word_length = reader->line_first = 0;
    reader->gap = reader->gap_length = reader->mark = reader->since = 0;
    memset(reader->words, 0, sizeof reader->words);
    memset(reader->shape, 0, sizeof reader->shape);
    memset(reader->match_length, 0, sizeof reader->match_length);
    int32_t here = end_of(reader), from = here > RECALLED ? here - RECALLED : 0;
    reader->line_start = reader->line_before = (uint32_t)(reader->direct ? from : here);
    for (int32_t place = from; reader->direct && place < here; place++)
        follow_words(reader, token_at(reader, place), (uint32_t)place + 1);
    set_orders(reader);
    set_contexts(reader);
}

/* A reader of a text after the model's own; null without memory. A direct one goes on learning in
 * the model's arrays. */
Reader *hornbook_mixer_open(const Model *model, int direct)
{
    Reader *reader = calloc(1, sizeof(Reader));
    size_t V = (size_t)model->vocab_size;
    if (!reader)
        return NULL;
    reader->model = *model;
    reader->at = layout(model);
    reader->direct = direct;
    for (int p = 0; p < 4096; p++)
        reader->stretched[p] = stretch((p + 0.5f) / 4096);
    for (int bit = 0; bit < 2; bit++)
        for (int count = 0, p = 2048; count < 16; p = moved(p, count++, bit))
            reader->always[count][bit] = p;
    reader->weights = direct ? model->weights : malloc(sizeof(float) * (size_t)reader->at.total);
    reader->subtree = malloc(sizeof(float) * 2 * V);
    reader->network = malloc(sizeof(float) * V);
    reader->mass = malloc(sizeof(double) * V);
    reader->found = malloc(sizeof(Bucket *) * CONTEXTS * V);
    if (!direct)
        rehash(reader, 12);
    hornbook_mixer_reset(reader);
    return reader;
}

void hornbook_mixer_close(Reader *reader)
{
    if (!reader->direct)
        free(reader->weights);
    for (uint32_t i = 0; i < reader->n_chunks; i++)
        free(reader->chunks[i]);
    void *owned[] = {reader->chunks, reader->numbers, reader->copies, reader->text, reader->subtree,
                     reader->network, reader->mass, reader->found, reader};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
}
