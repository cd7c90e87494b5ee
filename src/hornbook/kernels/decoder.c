/* A forward pass of hornbook's GPT for decoding. What models/gpt.py does in 292 operations of torch
 * (for four blocks), each with more overhead than arithmetic, is one call here. models/gpt.py is
 * the reference, and names the sources of the mathematics; tests/infer/test_native.py checks this file
 * against it.
 *
 * Lanes. A lane is one token of one row (one text) at one position. The prefill of a prompt of T
 * tokens takes T lanes, decoding one token in each of R rows takes R lanes. Up to LANES of them, of
 * whichever rows, go through a layer together, so that a weight fetched from memory serves all.
 * Each lane's sums have an order of their own, which the other lanes cannot change: a text comes
 * out the same to the last bit alone or beside others, and prefilled at once or token by token.
 *
 * Panels. A matrix is cut into panels of 64 outputs, stored input by input: 64 weights, and then
 * those of the next input. So a product needs no sums across a vector. Weights have three formats:
 * float32; bfloat16, those of two inputs to a word; int8, those of four outputs to a word, with one
 * scale an output. infer/native_decoder.py packs them.
 *
 * Numbers. Compiled with PACK = 1, inputs of products, keys and values are float32, and weights of every
 * format are multiplied in float32. With PACK = 2, for processors that multiply bfloat16, weights,
 * inputs, keys and values are bfloat16 (see numbers.h). Sums, the residual stream and softmax are float32.
 *
 * Threads. Panels are divided evenly; lanes, whose texts may be of different length, are taken in
 * turns. A barrier stands where one thread reads what another wrote. Names: C width, H heads, K
 * key-value heads, D head width, F MLP width, V vocabulary; a trailing p means padded (D to 16, the
 * others to 64), the padding zero.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "numbers.h"

enum { PANEL = 64, LANES = 64, FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

/* Lanes that share one fetch of weights: 6 x 4 sums, 4 weights and an input take 29 of AVX-512's 32
 * registers (105 to 112 GFLOP/s on a core that reaches 118, in bfloat16 219 to 227 of 235). 2 x 4 sums take
 * 13 of 16; on NEON 4 x 4, as in products.h.
 *
 * Slices. Vector j of slice s of a panel has the outputs from 16 j + WIDE s on, in each format. */
enum { GROUP = WIDE == 16 ? 6 : REGISTERS == 32 ? 4 : 2, SLICES = 16 / WIDE };

typedef struct {
    const void *panels;
    const float *scales; /* [outputs, padded]; only for int8 */
    int32_t inputs, count; /* inputs of a panel, an even number for bfloat16; panels */
} Matrix;

typedef struct {
    const float *attention_norm, *mlp_norm, *query_norm, *key_norm; /* the last two may be NULL */
    Matrix qkv, output, gate, up, down;
} Layer;

typedef struct {
    int32_t vocab_size, context_size, n_layer, n_head, n_kv_head, width, head_width;
    int32_t window; /* how many positions a layer attends to, its own included */
    int32_t kind, threads, rows;
    float epsilon;
    const float *embedding; /* [V, Cp] */
    const float *cosines, *sines; /* [context_size, D / 2] */
    const float *norm;
    const Layer *layers;
    Matrix logits;
    int32_t lanes_worth_threads; /* a pass of fewer lanes runs on the caller's thread alone */
    word *keys, *values; /* [rows, blocks, n_layer, parts, K, Dp / PACK, 16], [..., K, 16 / PACK, Dp] */
} Model;

typedef struct Decoder Decoder;

typedef struct {
    Decoder *decoder;
    int number;
    number *normal; /* [LANES, Cp] this thread's normalised copy of the residual stream */
    float *product; /* [2, LANES, PANEL] */
    float *scores; /* [H, scores_room], and the weights that they become */
    pthread_t thread;
} Worker;

/* Whether passes of a number of lanes are faster on the caller's thread alone. See "pace". */
typedef struct {
    int alone, trials; /* `trials`: passes of the other kind that are still to be tried */
    unsigned passes, patience; /* since the last trial, and how many there are between two */
    double usual, tried; /* seconds a lane: a moving mean, and the sum of a trial */
} Pace;

struct Decoder {
    Model model;
    int width, head_width, attention_width, qkv_width, mlp_width, positions; /* all padded */
    int group; /* heads that share a key-value head */
    int scores_room; /* the positions that a lane attends to, rounded to parts on both sides */
    int32_t *cached; /* [rows] positions of each row whose keys and values are in the cache */
    int active; /* threads of the current pass: one, or all */
    Pace paces[7]; /* by the number of lanes: 1, 2 to 3, 4 to 7, ... 64 */
    int lanes; /* of the current pass, with each lane's row, position, and address for its logits */
    int apart; /* whether no two lanes of it are of one row */
    int32_t rows[LANES], positions_of[LANES];
    float *logits[LANES]; /* NULL where they are not requested */
    float *stream, *qkv; /* [LANES, ...], shared by the threads */
    number *mixed, *hidden;
    Worker *workers;
    int requested_threads; /* the system granted model.threads */
    atomic_uint pass, arrived, round, sleepers;
    atomic_int closing, late; /* whether a thread fell asleep at a barrier of this pass */
    pthread_mutex_t lock;
    pthread_cond_t awake;
};

/* ---- waiting ---- */

/* Wait until a counter leaves `seen`: spin for about 0.1 ms, which is longer than sampling a token
 * takes, and then sleep, so that a busy machine gives this core to the thread being waited for.
 * Returns whether it slept. */
static int await(Decoder *d, atomic_uint *counter, unsigned seen)
{
    for (int tries = 0; tries < 4000; tries++) {
        if (atomic_load(counter) != seen)
            return 0;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&d->lock);
    atomic_fetch_add(&d->sleepers, 1);
    while (atomic_load(counter) == seen)
        pthread_cond_wait(&d->awake, &d->lock);
    atomic_fetch_sub(&d->sleepers, 1);
    pthread_mutex_unlock(&d->lock);
    return 1;
}

/* Increment a counter and wake the sleepers. No thread misses it: a sleeper counts itself before it
 * reads the counter for the last time. */
static void advance(Decoder *d, atomic_uint *counter)
{
    atomic_fetch_add(counter, 1);
    if (atomic_load(&d->sleepers) == 0)
        return;
    pthread_mutex_lock(&d->lock);
    pthread_cond_broadcast(&d->awake);
    pthread_mutex_unlock(&d->lock);
}

static void barrier(Decoder *d)
{
    if (d->active == 1)
        return;
    unsigned round = atomic_load(&d->round);
    if (atomic_fetch_add(&d->arrived, 1) + 1 < (unsigned)d->active) {
        if (await(d, &d->round, round))
            atomic_store(&d->late, 1);
    } else {
        atomic_store(&d->arrived, 0);
        advance(d, &d->round);
    }
}

/* ---- pace ----
 *
 * Beside other programs a pass waits at its barriers, 25 in six layers, until the system gives its
 * other thread a core again, for milliseconds: one text of 10.65M parameters came to 0.12 of its idle
 * speed beside one computing program. There one thread is faster. So where a thread fell asleep at a
 * barrier, a few passes are tried on the caller's thread alone, and from time to time the other way
 * round. The number of threads changes no bit. */

enum { TRIALS = 2, FIRST_PATIENCE = 8, MOST_PATIENCE = 1024 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static Pace *pace_of(Decoder *d)
{
    int class = 0;
    while (d->lanes >> (class + 1))
        class++;
    return &d->paces[class];
}

/* Learn from a pass that took so many seconds a lane. */
static void learn_pace(Pace *pace, double took, int late)
{
    if (pace->trials) {
        pace->tried += took;
        if (--pace->trials)
            return;
        /* Where both are about as fast, nothing changes. */
        int better = pace->tried / TRIALS < 0.9 * pace->usual;
        pace->patience *= 2;
        if (better || pace->patience > MOST_PATIENCE)
            pace->patience = better ? FIRST_PATIENCE : MOST_PATIENCE;
        if (better)
            pace->usual = pace->tried / TRIALS;
        pace->alone ^= better;
        pace->passes = 0;
        return;
    }
    pace->usual += (took - pace->usual) / (pace->usual ? 8 : 1);
    if (++pace->passes >= pace->patience && (pace->alone || late)) {
        pace->trials = TRIALS;
        pace->tried = 0;
    }
}

/* ---- products ---- */

/* The weights of a slice's outputs for one word of a lane. */
INLINE void unpack(const int kind, const void *panel, int slice, int at, words w[4])
{
    int first = slice * WIDE;
    if (kind == INT8) {
        words four = *(const words *)((const word *)panel + (size_t)at * (PANEL / 4) + first);
        for (int j = 0; j < 4; j++)
            w[j] = (words)__builtin_convertvector((ints)(four << (24 - 8 * j)) >> 24, floats);
    } else {
        const int halved = kind == BFLOAT16 && PACK == 1;
        const word *from = (const word *)panel + (size_t)(halved ? at / 2 : at) * PANEL + first;
        for (int j = 0; j < 4; j++) {
            w[j] = *(const words *)(from + 16 * j);
            if (halved && at % 2)
                w[j] &= 0xffff0000u;
            else if (halved)
                w[j] <<= 16;
        }
    }
}

/* y[lane, 64] = panel x[lane] for `lanes` lanes of `depth` words, each sum in their order. */
INLINE void multiply(const int kind, const int lanes, const void *panel, int depth, const word *x,
                     int stride, float *y)
{
    /* One lane has registers for two slices, and reads its weights from farther away. */
    const int together = lanes == 1 && SLICES > 1 ? 2 : 1;
    const int step = kind == BFLOAT16 && PACK == 1 ? 2 : 1;
    for (int slice = 0; slice < SLICES; slice += together) {
        floats sum[GROUP][2][4] = {0};
        for (int k = 0; k < depth; k += step)
            for (int part = 0; part < step; part++)
                for (int s = 0; s < together; s++) {
                    words w[4];
                    unpack(kind, panel, slice + s, k + part, w);
                    for (int lane = 0; lane < lanes; lane++)
                        for (int j = 0; j < 4; j++)
                            sum[lane][s][j] =
                                multiply_add(sum[lane][s][j], x[lane * stride + k + part], w[j]);
                }
        for (int lane = 0; lane < lanes; lane++)
            for (int s = 0; s < together; s++)
                for (int j = 0; j < 4; j++)
                    *(floats *)(y + lane * PANEL + 16 * j + (slice + s) * WIDE) = sum[lane][s][j];
    }
}

/* `multiply` for any number of lanes. The constants let the compiler keep all sums in registers. */
INLINE void multiply_all(const int kind, int lanes, const void *panel, int depth, const word *x,
                         int stride, float *y)
{
    int lane = 0;
    for (; lane + GROUP <= lanes; lane += GROUP)
        multiply(kind, GROUP, panel, depth, x + lane * stride, stride, y + lane * PANEL);
    for (; GROUP > 2 && lane + 2 <= lanes; lane += 2)
        multiply(kind, 2, panel, depth, x + lane * stride, stride, y + lane * PANEL);
    for (; lane < lanes; lane++)
        multiply(kind, 1, panel, depth, x + lane * stride, stride, y + lane * PANEL);
}

/* One panel of a matrix times every lane: x[lanes, stride] -> y[lanes, 64]. */
static void product(const Decoder *d, const Matrix *m, int panel, int lanes, const number *x,
                    int stride, float *y)
{
    static const int bytes[] = {4, 2, 1};
    const int kind = PACK == 2 ? BFLOAT16 : d->model.kind;
    const char *from =
        (const char *)m->panels + (size_t)panel * m->inputs * PANEL * bytes[kind];
    const word *lying = (const word *)x;
    int depth = m->inputs / PACK;
    stride /= PACK;
    if (kind == BFLOAT16)
        multiply_all(BFLOAT16, lanes, from, depth, lying, stride, y);
    else if (kind == FLOAT32)
        multiply_all(FLOAT32, lanes, from, depth, lying, stride, y);
    else {
        multiply_all(INT8, lanes, from, depth, lying, stride, y);
        for (int lane = 0; lane < lanes; lane++)
            for (int i = 0; i < PANEL; i++)
                y[lane * PANEL + i] *= m->scales[panel * PANEL + i];
    }
}

/* ---- norms and rotary positions ---- */

/* 1 / root mean square of `width` numbers, padded to `padded`. */
static float inverse_size(const float *x, int width, int padded, float epsilon)
{
    floats squares = {0};
    for (int i = 0; i < padded; i += WIDE) {
        floats part = *(const floats *)(x + i);
        squares += part * part;
    }
    return 1.0f / sqrtf(total(squares) / width + epsilon);
}

/* A lane's residual stream, normalised. */
static void normalise_lane(const Decoder *d, int lane, const float *gain, number *y)
{
    const float *x = d->stream + (size_t)lane * d->width;
    float scale = inverse_size(x, d->model.width, d->width, d->model.epsilon);
    for (int i = 0; i < d->width; i += WIDE)
        store(y + i, *(const floats *)(x + i) * scale * *(const floats *)(gain + i));
}

/* A head's query or key: normalised where there is a gain, each pair (i, i + D/2) rotated by its
 * position's angle, and scaled. `y` may lie where `x` does. */
static void prepare(const Decoder *d, const float *x, const float *gain, int position, float scale,
                    number *y)
{
    const Model *m = &d->model;
    int half = m->head_width / 2, wide = d->head_width;
    const float *cosines = m->cosines + position * half, *sines = m->sines + position * half;
    float turned[wide];
    memcpy(turned, x, sizeof turned);
    float by = gain ? inverse_size(x, m->head_width, wide, m->epsilon) : 1;
    for (int i = 0; gain && i < wide; i += WIDE)
        *(floats *)(turned + i) = *(const floats *)(x + i) * by * *(const floats *)(gain + i);
    for (int i = 0; i < half; i++) {
        float first = turned[i], second = turned[i + half];
        turned[i] = first * cosines[i] - second * sines[i];
        turned[i + half] = second * cosines[i] + first * sines[i];
    }
    for (int i = 0; i < wide; i += WIDE)
        store(y + i, *(const floats *)(turned + i) * scale);
}

/* ---- attention ---- */

/* The cache. A row has blocks of positions, a block has layers, a layer has parts of 16 positions, and a
 * part has key-value heads. A head's keys lie channel by channel; its values position by position, with
 * PACK = 2 by pairs of them. All layers of a block are together, so that a short text fills few pages of memory.
 * In a layer whatever a text attends to is one piece: at 130 positions of 6 heads memory is read at
 * 24 GB/s, where a piece for each head is read at 14, and pieces of 8 kB at 10. */
enum { BLOCK = 256, PART = 16 };

/* The words of a head's part, and from block to block. */
static size_t head_size(const Decoder *d) { return (size_t)d->head_width * (PART / PACK); }

static size_t block_size(const Decoder *d)
{
    return d->model.n_layer * (BLOCK / PART) * d->model.n_kv_head * head_size(d);
}

/* Where a row has the first head of a layer, in the part of a position. */
static size_t cache_offset(const Decoder *d, int row, int layer, int position)
{
    size_t block = (size_t)row * (d->positions / BLOCK) + position / BLOCK;
    size_t part = layer * (BLOCK / PART) + position % BLOCK / PART;
    return block * block_size(d) + part * d->model.n_kv_head * head_size(d);
}

/* The first position that a lane attends to: the window ends with its own. */
static int first_seen(const Decoder *d, int lane)
{
    int length = d->positions_of[lane] + 1;
    return length > d->model.window ? length - d->model.window : 0;
}

/* Begin to load a head's part while something else is computed. From there on the processor loads ahead
 * by itself: attention of 64 texts takes 15% less time. */
INLINE void fetch(const word *part, size_t size)
{
    for (size_t i = 0; i < size; i += 16)
        __builtin_prefetch(part + i, 0, 2);
}

/* One key-value head of one lane: prepare its queries, where they lie, and cache its key and value. */
static void cache_head(Decoder *d, int layer, int lane, int head)
{
    const Model *m = &d->model;
    const Layer *weights = &m->layers[layer];
    int position = d->positions_of[lane], inside = position % PART, wide = d->head_width;
    float *qkv = d->qkv + (size_t)lane * d->qkv_width, *query = qkv + head * d->group * wide;
    float *key = qkv + (m->n_head + head) * wide, *value = key + m->n_kv_head * wide;
    number found[wide];
    size_t begin = cache_offset(d, d->rows[lane], layer, first_seen(d, lane));
    fetch(m->keys + begin + head * head_size(d), head_size(d));
    for (int i = 0; i < d->group; i++, query += wide)
        prepare(d, query, weights->query_norm, position, 1.0f / sqrtf((float)m->head_width),
                (number *)query);
    prepare(d, key, weights->key_norm, position, 1.0f, found);
    size_t offset = cache_offset(d, d->rows[lane], layer, position) + head * head_size(d);
    word *keys = m->keys + offset + inside;
    for (int i = 0; i < wide / PACK; i++)
        keys[i * PART] = ((const word *)found)[i];
    for (int i = 0; i < wide; i += WIDE)
        store(found + i, *(const floats *)(value + i));
    number *values = (number *)(m->values + offset + inside / PACK * wide) + inside % PACK;
    for (int i = 0; i < wide; i++)
        values[i * PACK] = found[i];
}

/* Scores of one query of `depth` words with a part's keys. */
INLINE void score(const word *query, int depth, const word *keys, float *scores)
{
    enum { VECTORS = PART / WIDE, CHAINS = 4 / VECTORS }; /* four sums do not wait for each other */
    floats sum[CHAINS][VECTORS] = {0};
    for (int i = 0; i < depth; i += CHAINS)
        for (int c = 0; c < CHAINS; c++)
            for (int j = 0; j < VECTORS; j++)
                sum[c][j] = multiply_add(sum[c][j], query[i + c],
                                         *(const words *)(keys + (i + c) * PART + WIDE * j));
    for (int j = 0; j < VECTORS; j++) {
        for (int c = 1; c < CHAINS; c++)
            sum[0][j] += sum[c][j];
        *(floats *)(scores + WIDE * j) = sum[0][j];
    }
}

/* Of `padded` scores those from `first` to `length` become weights, e^(score - highest), the others
 * zero. The weights lie where the scores do, and are no longer than these. Returns 1 / their sum. */
static float soften(float *scores, int first, int length, int padded)
{
    number *weights = (number *)scores;
    for (int s = 0; s < first; s++)
        scores[s] = -INFINITY;
    for (int s = length; s < padded; s++)
        scores[s] = -INFINITY;
    floats highest = *(floats *)scores, sums = {0};
    for (int s = WIDE; s < padded; s += WIDE) {
        floats part = *(floats *)(scores + s);
        highest = choose(part > highest, part, highest);
    }
    float most = largest(highest);
    for (int s = 0; s < padded; s += WIDE) {
        floats part = exponential(*(const floats *)(scores + s) - most);
        sums += part; /* a masked score's e^-87 adds nothing to a sum of 1 or more */
        store(weights + s, part);
    }
    memset(weights, 0, first * sizeof(number));
    memset(weights + length, 0, (padded - length) * sizeof(number));
    return 1.0f / total(sums);
}

/* Add `vectors` vectors of a part's values to `sums`, by the weights of their positions. */
INLINE void mix(const int vectors, const word *weights, const word *values, int wide, float *sums)
{
    floats sum[4];
    for (int j = 0; j < vectors; j++)
        sum[j] = *(floats *)(sums + WIDE * j);
    for (int s = 0; s < PART / PACK; s++)
        for (int j = 0; j < vectors; j++)
            sum[j] = multiply_add(sum[j], weights[s],
                                  *(const words *)(values + s * wide + WIDE * j));
    for (int j = 0; j < vectors; j++)
        *(floats *)(sums + WIDE * j) = sum[j];
}

/* Attention of `count` key-value heads, each with its heads, of one lane over its row: softmax(q k) v,
 * over a window that ends with its own position. */
static void attend(const Decoder *d, Worker *me, int layer, int lane, int key_head, int count)
{
    const int together = REGISTERS == 32 ? 4 : 2; /* vectors of values */
    int wide = d->head_width, length = d->positions_of[lane] + 1, first = first_seen(d, lane);
    /* Rounded on both sides; masked positions are computed and then set to zero. */
    int begin = first & ~(PART - 1), padded = (length + PART - 1) & ~(PART - 1);
    int row = d->rows[lane], room = d->scores_room, group = d->group;
    int head = key_head * group, heads = count * group;
    size_t size = head_size(d);
    const float *query = d->qkv + (size_t)lane * d->qkv_width + head * wide;
    number *mixed = d->mixed + (size_t)lane * d->attention_width + head * wide;
    float shares[heads], sums[heads * wide];

    for (int s = begin; s < padded; s += PART) {
        const word *keys = d->model.keys + cache_offset(d, row, layer, s) + key_head * size;
        for (int h = 0; h < heads; h++)
            score((const word *)(query + h * wide), wide / PACK, keys + h / group * size,
                  me->scores + h * room + s - begin);
    }
    const word *next = d->model.values + cache_offset(d, row, layer, begin) + key_head * size;
    for (int h = 0; h < heads; h++) {
        fetch(next + h / group * size, size);
        shares[h] = soften(me->scores + h * room, first - begin, length - begin, padded - begin);
    }
    memset(sums, 0, sizeof sums);
    for (int s = begin; s < padded; s += PART) {
        const word *part = d->model.values + cache_offset(d, row, layer, s) + key_head * size;
        for (int h = 0, i; h < heads; h++) {
            const word *values = part + h / group * size;
            const word *weights = (const word *)(me->scores + h * room) + (s - begin) / PACK;
            for (i = 0; i + together * WIDE <= wide; i += together * WIDE)
                mix(together, weights, values + i, wide, sums + h * wide + i);
            for (; i < wide; i += WIDE)
                mix(1, weights, values + i, wide, sums + h * wide + i);
        }
    }
    for (int i = 0; i < heads * wide; i += WIDE)
        store(mixed + i, *(floats *)(sums + i) * shares[i / wide]);
}

/* ---- one pass ---- */

/* This thread's share of `count` items. */
#define EACH(item, count)                                                                          \
    for (int item = (int)((int64_t)(count) * me->number / d->active),                              \
             item##_end = (int)((int64_t)(count) * (me->number + 1) / d->active);                  \
         item < item##_end; item++)

/* Add a product to the residual stream. */
static void add_product(Decoder *d, Worker *me, const Matrix *matrix, const number *x, int stride)
{
    EACH(panel, matrix->count) {
        product(d, matrix, panel, d->lanes, x, stride, me->product);
        for (int lane = 0; lane < d->lanes; lane++)
            for (int i = 0; i < PANEL; i += WIDE)
                *(floats *)(d->stream + (size_t)lane * d->width + panel * PANEL + i) +=
                    *(floats *)(me->product + lane * PANEL + i);
    }
}

/* Every thread normalises all lanes for itself: that takes less time than another barrier. */
static void normalise(Decoder *d, Worker *me, const float *gain)
{
    for (int lane = 0; lane < d->lanes; lane++)
        normalise_lane(d, lane, gain, me->normal + (size_t)lane * d->width);
}

static void attention(Decoder *d, Worker *me, int layer)
{
    const Layer *weights = &d->model.layers[layer];
    int lanes = d->lanes, heads = d->model.n_kv_head;
    /* All heads of a lane together where there are enough lanes for the threads. */
    int parts = lanes < 2 * d->active ? heads : 1, share = heads / parts;
    normalise(d, me, weights->attention_norm);
    EACH(panel, weights->qkv.count) {
        product(d, &weights->qkv, panel, lanes, me->normal, d->width, me->product);
        for (int lane = 0; lane < lanes; lane++)
            memcpy(d->qkv + (size_t)lane * d->qkv_width + panel * PANEL,
                   me->product + lane * PANEL, PANEL * sizeof(float));
    }
    barrier(d);
    /* Threads take turns, since lanes may be of different length. What a lane attends to, it alone
     * has cached, or other lanes of this pass as well. */
    for (int item = me->number; item < lanes * parts; item += d->active) {
        for (int head = item % parts * share; head < (item % parts + 1) * share; head++)
            cache_head(d, layer, item / parts, head);
        if (d->apart)
            attend(d, me, layer, item / parts, item % parts * share, share);
    }
    if (!d->apart) {
        barrier(d);
        for (int item = me->number; item < lanes * parts; item += d->active)
            attend(d, me, layer, item / parts, item % parts * share, share);
    }
    barrier(d);
    add_product(d, me, &weights->output, d->mixed, d->attention_width);
    barrier(d);
}

static void mlp(Decoder *d, Worker *me, int layer)
{
    const Layer *weights = &d->model.layers[layer];
    int lanes = d->lanes;
    float *gate = me->product, *up = me->product + LANES * PANEL;
    normalise(d, me, weights->mlp_norm);
    EACH(panel, weights->gate.count) {
        product(d, &weights->gate, panel, lanes, me->normal, d->width, gate);
        product(d, &weights->up, panel, lanes, me->normal, d->width, up);
        for (int lane = 0; lane < lanes; lane++)
            for (int i = lane * PANEL; i < (lane + 1) * PANEL; i += WIDE) {
                floats g = *(floats *)(gate + i), u = *(floats *)(up + i);
                store(d->hidden + (size_t)lane * d->mlp_width + panel * PANEL + (i - lane * PANEL),
                      g / (1.0f + exponential(-g)) * u);
            }
    }
    barrier(d);
    add_product(d, me, &weights->down, d->hidden, d->mlp_width);
    barrier(d);
}

static void forward(Decoder *d, Worker *me)
{
    const Model *m = &d->model;
    for (int layer = 0; layer < m->n_layer; layer++) {
        attention(d, me, layer);
        mlp(d, me, layer);
    }
    float *logits[LANES];
    int count = 0; /* lanes whose logits are requested, moved together */
    for (int lane = 0; lane < d->lanes; lane++)
        if (d->logits[lane]) {
            normalise_lane(d, lane, m->norm, me->normal + (size_t)count * d->width);
            logits[count++] = d->logits[lane];
        }
    if (count)
        EACH(panel, m->logits.count) {
            product(d, &m->logits, panel, count, me->normal, d->width, me->product);
            int first = panel * PANEL, rest = m->vocab_size - first;
            for (int lane = 0; lane < count; lane++)
                memcpy(logits[lane] + first, me->product + lane * PANEL,
                       (rest < PANEL ? rest : PANEL) * sizeof(float));
        }
    barrier(d);
}

static void *work(void *argument)
{
    Worker *me = argument;
    Decoder *d = me->decoder;
    for (unsigned seen = 0;; seen++) {
        await(d, &d->pass, seen);
        if (atomic_load(&d->closing))
            return NULL;
        forward(d, me);
    }
}

/* ---- what Python calls ---- */

void hornbook_close(Decoder *d)
{
    atomic_store(&d->closing, 1);
    advance(d, &d->pass);
    for (int i = 1; i < d->model.threads; i++)
        pthread_join(d->workers[i].thread, NULL);
    for (int i = 0; d->workers && i < d->requested_threads; i++) {
        free(d->workers[i].normal);
        free(d->workers[i].product);
        free(d->workers[i].scores);
    }
    free(d->workers);
    free(d->stream);
    free(d->qkv);
    free(d->mixed);
    free(d->hidden);
    free(d->cached);
    free(d);
}

/* Buffers and threads for a model whose arrays must outlive it; NULL when memory runs out. */
Decoder *hornbook_open(const Model *model)
{
    Decoder *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->model = *model;
    d->width = model->layers[0].output.count * PANEL;
    d->head_width = (model->head_width + 15) & ~15;
    d->group = model->n_head / model->n_kv_head;
    d->attention_width = d->head_width * model->n_head;
    d->qkv_width = model->layers[0].qkv.count * PANEL;
    d->mlp_width = model->layers[0].gate.count * PANEL;
    d->positions = (model->context_size + BLOCK - 1) & ~(BLOCK - 1);
    d->scores_room = (model->window + 2 * PART - 1) & ~(PART - 1);
    d->stream = calloc((size_t)LANES * d->width, sizeof(float));
    d->qkv = calloc((size_t)LANES * d->qkv_width, sizeof(float));
    d->mixed = calloc((size_t)LANES * d->attention_width, sizeof(number));
    d->hidden = calloc((size_t)LANES * d->mlp_width, sizeof(number));
    d->cached = calloc(model->rows, sizeof(int32_t));
    d->workers = calloc(model->threads, sizeof(Worker));
    d->requested_threads = model->threads;
    d->model.threads = 1;
    for (size_t i = 0; i < sizeof d->paces / sizeof *d->paces; i++)
        d->paces[i].patience = FIRST_PATIENCE;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->awake, NULL);
    int ready = d->stream && d->qkv && d->mixed && d->hidden && d->cached && d->workers;
    for (int i = 0; ready && i < d->requested_threads; i++) {
        Worker *worker = &d->workers[i];
        worker->decoder = d;
        worker->number = i;
        worker->normal = calloc((size_t)LANES * d->width, sizeof(number));
        worker->product = calloc((size_t)2 * LANES * PANEL, sizeof(float));
        worker->scores = calloc((size_t)model->n_head * d->scores_room, sizeof(float));
        ready = worker->normal && worker->product && worker->scores;
    }
    if (!ready) {
        hornbook_close(d);
        return NULL;
    }
    /* The caller's thread is the first worker. Fewer threads than requested are enough. */
    for (int i = 1; i < d->requested_threads; i++) {
        if (pthread_create(&d->workers[i].thread, NULL, work, &d->workers[i]))
            break;
        d->model.threads = i + 1;
    }
    return d;
}

/* Make a row begin with the first `length` positions of another. Returns 0, or -1 for a row outside
 * the model or positions that are not cached: then nothing has changed. */
int hornbook_copy(Decoder *d, int32_t source, int32_t row, int32_t length)
{
    const Model *m = &d->model;
    if (source < 0 || source >= m->rows || row < 0 || row >= m->rows || length < 0 ||
        length > d->cached[source])
        return -1;
    for (int begin = 0; begin < length && source != row; begin += BLOCK) {
        int parts = ((length - begin < BLOCK ? length - begin : BLOCK) + PART - 1) / PART;
        size_t size = parts * m->n_kv_head * head_size(d) * sizeof(word);
        for (int layer = 0; layer < m->n_layer; layer++) {
            size_t from = cache_offset(d, source, layer, begin);
            size_t to = cache_offset(d, row, layer, begin);
            memcpy(m->keys + to, m->keys + from, size);
            memcpy(m->values + to, m->values + from, size);
        }
    }
    d->cached[row] = length;
    return 0;
}

/* Forward passes over the new tokens of some rows, each with a length and a start of its own.
 *
 * `tokens` holds length[0] tokens of row[0], then length[1] of row[1], and so on. Row i's stand at
 * positions start[i], start[i] + 1, ...; the positions before are in the cache from earlier calls,
 * and the ones cached after them are dropped. `logits` gets the ones after the last token of each
 * row, [rows, V], or with `every` the ones after each token, [tokens, V].
 * Returns 0, or -1 for a token, row, start or length outside the model, or a row that is named
 * twice: then nothing has changed.
 */
int hornbook_decode(Decoder *d, const int32_t *tokens, const int32_t *row, const int32_t *start,
                    const int32_t *length, int32_t rows, int32_t every, float *logits)
{
    int64_t lanes = 0;
    for (int i = 0; i < rows; i++) {
        if (row[i] < 0 || row[i] >= d->model.rows)
            return -1;
        for (int j = 0; j < i; j++)
            if (row[j] == row[i])
                return -1;
        if (start[i] < 0 || start[i] > d->cached[row[i]] || length[i] < 1 ||
            length[i] > d->model.context_size - start[i])
            return -1;
        lanes += length[i];
    }
    for (int64_t i = 0; i < lanes; i++)
        if (tokens[i] < 0 || tokens[i] >= d->model.vocab_size)
            return -1;
    for (int i = 0; i < rows; i++)
        d->cached[row[i]] = start[i] + length[i];
    int at = 0, step = 0; /* the row and the token of it that the next lane takes */
    for (int64_t done = 0; done < lanes; done += d->lanes) {
        d->lanes = lanes - done < LANES ? (int)(lanes - done) : LANES;
        d->apart = 1;
        for (int lane = 0; lane < d->lanes; lane++) {
            int last = step == length[at] - 1;
            d->rows[lane] = row[at];
            d->apart &= !lane || row[at] != d->rows[lane - 1];
            d->positions_of[lane] = start[at] + step;
            d->logits[lane] = every || last
                                  ? logits + (every ? done + lane : at) * d->model.vocab_size
                                  : NULL;
            memcpy(d->stream + (size_t)lane * d->width,
                   d->model.embedding + (size_t)tokens[done + lane] * d->width,
                   d->width * sizeof(float));
            step = last ? 0 : step + 1;
            at += last;
        }
        int shared = d->model.threads > 1 && d->lanes >= d->model.lanes_worth_threads;
        Pace *pace = pace_of(d);
        d->active = shared && pace->alone == !!pace->trials ? d->model.threads : 1;
        double began = seconds();
        if (d->active > 1) {
            atomic_store(&d->late, 0);
            advance(d, &d->pass);
        }
        forward(d, &d->workers[0]);
        if (shared)
            learn_pace(pace, (seconds() - began) / d->lanes, atomic_load(&d->late));
    }
    return 0;
}
