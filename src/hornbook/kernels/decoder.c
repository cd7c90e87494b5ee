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
 * those of the next input. So a product needs no sums across a vector. Weights have three formats,
 * all multiplied and added in float32: float32; bfloat16, two to a word; int8, four to a word, with
 * one scale an output. infer/native_decoder.py packs them.
 *
 * Threads. Panels, or heads of lanes, are divided evenly. A barrier stands where one thread reads
 * what another wrote. Names: C width, H heads, K key-value heads, D head width, F MLP width,
 * V vocabulary; a trailing p means padded (D to 16, the others to 64), the padding zero.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { PANEL = 64, LANES = 64, FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

/* Lanes that share one fetch of weights: 6 x 4 sums, 4 weights and an input take 29 of AVX-512's 32
 * registers (68 GFLOP/s on one core where torch's matrix product reaches 86; with 4 lanes 56 to
 * 66). 2 x 4 sums take 13 of 16; on NEON 4 x 4, as in products.h.
 *
 * Slices. Vector j of slice s of a panel has the outputs from 16 j + WIDE s on, in each format. */
enum { GROUP = WIDE == 16 ? 6 : REGISTERS == 32 ? 4 : 2, SLICES = 16 / WIDE };

typedef struct {
    const void *panels;
    const float *scales; /* [outputs, padded]; only for int8 */
    int32_t inputs, count; /* inputs of a panel; panels */
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
    float *keys, *values; /* [rows, blocks, n_layer, K, Dp, 64] and [..., 64, Dp] */
} Model;

typedef struct Decoder Decoder;

typedef struct {
    Decoder *decoder;
    int number;
    float *normal; /* [LANES, Cp] this thread's normalised copy of the residual stream */
    float *product; /* [2, LANES, PANEL] */
    float *scores; /* [context, padded] */
    pthread_t thread;
} Worker;

struct Decoder {
    Model model;
    int width, head_width, attention_width, qkv_width, mlp_width, positions; /* all padded */
    int group; /* heads that share a key-value head */
    int32_t *cached; /* [rows] positions of each row whose keys and values are in the cache */
    int active; /* threads of the current pass: one, or all */
    int lanes; /* of the current pass, with each lane's row, position, and address for its logits */
    int32_t rows[LANES], positions_of[LANES];
    float *logits[LANES]; /* NULL where they are not requested */
    float *stream, *qkv, *mixed, *hidden; /* [LANES, ...], shared by the threads */
    Worker *workers;
    int requested_threads; /* the system granted model.threads */
    atomic_uint pass, arrived, round, sleepers;
    atomic_int closing;
    pthread_mutex_t lock;
    pthread_cond_t awake;
};

/* ---- waiting ---- */

/* Wait until a counter leaves `seen`: spin for about 0.1 ms, which is longer than sampling a token
 * takes, and then sleep, so that a busy machine gives this core to the thread being waited for. */
static void await(Decoder *d, atomic_uint *counter, unsigned seen)
{
    for (int tries = 0; tries < 4000; tries++) {
        if (atomic_load(counter) != seen)
            return;
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
        await(d, &d->round, round);
    } else {
        atomic_store(&d->arrived, 0);
        advance(d, &d->round);
    }
}

/* ---- products ---- */

/* The weights of a slice's outputs for one input. */
INLINE void unpack(const int kind, const void *panel, int slice, int input, floats w[4])
{
    int first = slice * WIDE;
    if (kind == FLOAT32) {
        const float *from = (const float *)panel + (size_t)input * PANEL + first;
        for (int j = 0; j < 4; j++)
            w[j] = *(const floats *)(from + 16 * j);
    } else if (kind == BFLOAT16) { /* the upper half of a float32 */
        const uint32_t *from = (const uint32_t *)panel + (size_t)input * (PANEL / 2) + first;
        for (int j = 0; j < 2; j++) {
            words pair = *(const words *)(from + 16 * j);
            w[2 * j] = (floats)(pair << 16);
            w[2 * j + 1] = (floats)(pair & 0xffff0000u);
        }
    } else {
        const uint32_t *from = (const uint32_t *)panel + (size_t)input * (PANEL / 4) + first;
        words four = *(const words *)from;
        for (int j = 0; j < 4; j++)
            w[j] = __builtin_convertvector((ints)(four << (24 - 8 * j)) >> 24, floats);
    }
}

/* y[lane, 64] = panel x[lane] for `lanes` lanes, each sum in the order of the inputs. */
INLINE void multiply(const int kind, const int lanes, const void *panel, int inputs,
                     const float *x, int stride, float *y)
{
    /* One lane has registers for two slices, and reads its weights from farther away. */
    const int together = lanes == 1 && SLICES > 1 ? 2 : 1;
    for (int slice = 0; slice < SLICES; slice += together) {
        floats sum[GROUP][2][4] = {0};
        for (int i = 0; i < inputs; i++)
            for (int s = 0; s < together; s++) {
                floats w[4];
                unpack(kind, panel, slice + s, i, w);
                for (int lane = 0; lane < lanes; lane++)
                    for (int j = 0; j < 4; j++)
                        sum[lane][s][j] += w[j] * x[lane * stride + i];
            }
        for (int lane = 0; lane < lanes; lane++)
            for (int s = 0; s < together; s++)
                for (int j = 0; j < 4; j++)
                    *(floats *)(y + lane * PANEL + 16 * j + (slice + s) * WIDE) = sum[lane][s][j];
    }
}

/* `multiply` for any number of lanes. The constants let the compiler keep all sums in registers. */
INLINE void multiply_all(const int kind, int lanes, const void *panel, int inputs, const float *x,
                         int stride, float *y)
{
    int lane = 0;
    for (; lane + GROUP <= lanes; lane += GROUP)
        multiply(kind, GROUP, panel, inputs, x + lane * stride, stride, y + lane * PANEL);
    for (; GROUP > 2 && lane + 2 <= lanes; lane += 2)
        multiply(kind, 2, panel, inputs, x + lane * stride, stride, y + lane * PANEL);
    for (; lane < lanes; lane++)
        multiply(kind, 1, panel, inputs, x + lane * stride, stride, y + lane * PANEL);
}

/* One panel of a matrix times every lane: x[lanes, stride] -> y[lanes, 64]. */
static void product(const Decoder *d, const Matrix *m, int panel, int lanes, const float *x,
                    int stride, float *y)
{
    static const int bytes[] = {4, 2, 1};
    int kind = d->model.kind;
    const char *from =
        (const char *)m->panels + (size_t)panel * m->inputs * PANEL * bytes[kind];
    if (kind == FLOAT32)
        multiply_all(FLOAT32, lanes, from, m->inputs, x, stride, y);
    else if (kind == BFLOAT16)
        multiply_all(BFLOAT16, lanes, from, m->inputs, x, stride, y);
    else {
        multiply_all(INT8, lanes, from, m->inputs, x, stride, y);
        for (int lane = 0; lane < lanes; lane++)
            for (int i = 0; i < PANEL; i++)
                y[lane * PANEL + i] *= m->scales[panel * PANEL + i];
    }
}

/* ---- norms and rotary positions ---- */

/* y = x / root mean square of x, times the gain; `width` numbers, padded to `padded`. */
static void rms_norm(const float *x, const float *gain, int width, int padded, float epsilon,
                     float *y)
{
    floats squares = {0};
    for (int i = 0; i < padded; i += WIDE) {
        floats part = *(const floats *)(x + i);
        squares += part * part;
    }
    float scale = 1.0f / sqrtf(total(squares) / width + epsilon);
    for (int i = 0; i < padded; i += WIDE)
        *(floats *)(y + i) = *(const floats *)(x + i) * scale * *(const floats *)(gain + i);
}

/* Rotate each pair (i, i + D/2) by the position's angle. */
static void rotate(float *x, const float *cosines, const float *sines, int half)
{
    for (int i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] - second * sines[i];
        x[i + half] = second * cosines[i] + first * sines[i];
    }
}

/* ---- attention ---- */

/* The numbers of a row's block of 64 positions. All layers and heads of a block lie together, so that
 * a short text fills few pages of memory: with 64 rows, 4,096 positions and 0.8 million parameters,
 * one block of each row touched the whole gigabyte before. */
static size_t block_size(const Decoder *d)
{
    return (size_t)d->model.n_layer * d->model.n_kv_head * d->head_width * 64;
}

static size_t cache_offset(const Decoder *d, int layer, int lane, int head)
{
    size_t before = d->rows[lane] * (size_t)(d->positions / 64) * block_size(d);
    return before + ((size_t)layer * d->model.n_kv_head + head / d->group) * d->head_width * 64;
}

/* Normalise a head's query or key, where the model does that, and rotate it. */
static void ready(const Decoder *d, int position, const float *gain, float *x)
{
    const Model *m = &d->model;
    int half = m->head_width / 2;
    if (gain)
        rms_norm(x, gain, m->head_width, d->head_width, m->epsilon, x);
    rotate(x, m->cosines + (size_t)position * half, m->sines + (size_t)position * half, half);
}

/* One head of one lane: make its query ready, and its group's first head caches key and value. */
static void cache_head(Decoder *d, int layer, int lane, int head)
{
    const Model *m = &d->model;
    const Layer *weights = &m->layers[layer];
    int position = d->positions_of[lane], wide = d->head_width;
    float *qkv = d->qkv + (size_t)lane * d->qkv_width, *query = qkv + head * wide;
    ready(d, position, weights->query_norm, query);
    float scale = 1.0f / sqrtf((float)m->head_width);
    for (int i = 0; i < wide; i++)
        query[i] *= scale;
    if (head % d->group)
        return;
    float *key = qkv + (m->n_head + head / d->group) * wide, *value = key + m->n_kv_head * wide;
    ready(d, position, weights->key_norm, key);
    size_t offset = cache_offset(d, layer, lane, head) + position / 64 * block_size(d);
    for (int i = 0; i < wide; i++) {
        /* In blocks of 64 adjacent positions: a row of all positions would be as far from the next
         * as a page or more is long, and 64 rows would fall into the same few sets of the cache. */
        m->keys[offset + i * 64 + (position & 63)] = key[i];
        m->values[offset + (position & 63) * wide + i] = value[i];
    }
}

/* Attention of one head of one lane over its row: softmax(q k) v, over a window that ends with its
 * own position. */
static void attend(Decoder *d, int layer, int lane, int head, float *scores)
{
    int wide = d->head_width, length = d->positions_of[lane] + 1;
    int first = length > d->model.window ? length - d->model.window : 0;
    /* Rounded to 64 on both sides; masked positions are computed and then set to zero. */
    int begin = first & ~63, padded = (length + 63) & ~63;
    const float *query = d->qkv + (size_t)lane * d->qkv_width + head * wide;
    const float *keys = d->model.keys + cache_offset(d, layer, lane, head);
    const float *values = d->model.values + cache_offset(d, layer, lane, head);
    size_t apart = block_size(d);
    float *mixed = d->mixed + (size_t)lane * d->attention_width + head * wide;

    for (int s = begin; s < padded; s += 4 * WIDE) {
        const float *block = keys + s / 64 * apart;
        floats sum[4] = {0};
        for (int i = 0; i < wide; i++)
            for (int j = 0; j < 4; j++)
                sum[j] += query[i] * *(const floats *)(block + i * 64 + (s & 63) + WIDE * j);
        for (int j = 0; j < 4; j++)
            *(floats *)(scores + s + WIDE * j) = sum[j];
    }
    for (int s = begin; s < first; s++)
        scores[s] = scores[first];
    for (int s = length; s < padded; s++)
        scores[s] = scores[first];
    floats highest = *(floats *)(scores + begin);
    for (int s = begin + WIDE; s < padded; s += WIDE) {
        floats part = *(floats *)(scores + s);
        highest = choose(part > highest, part, highest);
    }
    float most = largest(highest);
    for (int s = begin; s < padded; s += WIDE)
        *(floats *)(scores + s) = exponential(*(const floats *)(scores + s) - most);
    memset(scores + begin, 0, (first - begin) * sizeof(float));
    memset(scores + length, 0, (padded - length) * sizeof(float));
    floats sums = {0};
    for (int s = begin; s < padded; s += WIDE)
        sums += *(const floats *)(scores + s);
    float share = 1.0f / total(sums);
    for (int i = 0; i < wide; i += WIDE) {
        floats sum[4] = {0};
        for (int s = begin; s < length; s += 4) { /* the last few may have weight zero */
            const float *four = values + s / 64 * apart + (s & 63) * wide + i;
            for (int j = 0; j < 4; j++)
                sum[j] += scores[s + j] * *(const floats *)(four + j * wide);
        }
        *(floats *)(mixed + i) = ((sum[0] + sum[1]) + (sum[2] + sum[3])) * share;
    }
}

/* ---- one pass ---- */

/* This thread's share of `count` items. */
#define EACH(item, count)                                                                          \
    for (int item = (int)((int64_t)(count) * me->number / d->active),                              \
             item##_end = (int)((int64_t)(count) * (me->number + 1) / d->active);                  \
         item < item##_end; item++)

/* Add a product to the residual stream. */
static void add_product(Decoder *d, Worker *me, const Matrix *matrix, const float *x, int stride)
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
        rms_norm(d->stream + (size_t)lane * d->width, gain, d->model.width, d->width,
                 d->model.epsilon, me->normal + (size_t)lane * d->width);
}

static void attention(Decoder *d, Worker *me, int layer)
{
    const Layer *weights = &d->model.layers[layer];
    int lanes = d->lanes, heads = lanes * d->model.n_head;
    normalise(d, me, weights->attention_norm);
    EACH(panel, weights->qkv.count) {
        product(d, &weights->qkv, panel, lanes, me->normal, d->width, me->product);
        for (int lane = 0; lane < lanes; lane++)
            memcpy(d->qkv + (size_t)lane * d->qkv_width + panel * PANEL,
                   me->product + lane * PANEL, PANEL * sizeof(float));
    }
    barrier(d);
    EACH(head, heads) cache_head(d, layer, head / d->model.n_head, head % d->model.n_head);
    /* A lane may attend to another lane of this pass, or to a key that another head cached. */
    if (lanes > 1 || d->group > 1)
        barrier(d);
    EACH(head, heads)
        attend(d, layer, head / d->model.n_head, head % d->model.n_head, me->scores);
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
                *(floats *)(d->hidden + (size_t)lane * d->mlp_width + panel * PANEL +
                            (i - lane * PANEL)) = g / (1.0f + exponential(-g)) * u;
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
            rms_norm(d->stream + (size_t)lane * d->width, m->norm, m->width, d->width, m->epsilon,
                     me->normal + (size_t)count * d->width);
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
    d->positions = (model->context_size + 63) & ~63;
    d->stream = calloc((size_t)LANES * d->width, sizeof(float));
    d->qkv = calloc((size_t)LANES * d->qkv_width, sizeof(float));
    d->mixed = calloc((size_t)LANES * d->attention_width, sizeof(float));
    d->hidden = calloc((size_t)LANES * d->mlp_width, sizeof(float));
    d->cached = calloc(model->rows, sizeof(int32_t));
    d->workers = calloc(model->threads, sizeof(Worker));
    d->requested_threads = model->threads;
    d->model.threads = 1;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->awake, NULL);
    int ready = d->stream && d->qkv && d->mixed && d->hidden && d->cached && d->workers;
    for (int i = 0; ready && i < d->requested_threads; i++) {
        Worker *worker = &d->workers[i];
        worker->decoder = d;
        worker->number = i;
        worker->normal = calloc((size_t)LANES * d->width, sizeof(float));
        worker->product = calloc((size_t)2 * LANES * PANEL, sizeof(float));
        worker->scores = calloc(d->positions, sizeof(float));
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
    size_t size = ((size_t)length + 63) / 64 * block_size(d) * sizeof(float);
    size_t apart = d->positions / 64 * block_size(d);
    if (source != row) {
        memcpy(m->keys + row * apart, m->keys + source * apart, size);
        memcpy(m->values + row * apart, m->values + source * apart, size);
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
        for (int lane = 0; lane < d->lanes; lane++) {
            int last = step == length[at] - 1;
            d->rows[lane] = row[at];
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
        d->active = d->lanes < d->model.lanes_worth_threads ? 1 : d->model.threads;
        if (d->active > 1)
            advance(d, &d->pass);
        forward(d, &d->workers[0]);
    }
    return 0;
}
