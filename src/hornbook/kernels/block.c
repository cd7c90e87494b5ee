/* The training passes of a GPT block, forward and backward. Each PyTorch operation passes over
 * memory; this file keeps the data of a few rows in the processor's caches. models/gpt.py is the
 * reference, and tests/kernels/test_block.py compares this file with it.
 *
 * Shares. Threads split a batch by its rows (texts), which share nothing but the weights' gradients.
 * Each thread sums those for itself; at the end they are added in order. So the same number of
 * threads gives the same bits. A share is processed in groups of whole rows.
 *
 * Names: C width, H heads, D head width, A width of all heads, K width of all key-value heads (each
 * shared by a group of heads), Q = A + 2 K, F MLP width, T length of a row, padded to QUERIES where it
 * says Tp; a number is bfloat16 or float32 (see products.h).
 */
#include "products.h"
#include "threads.h"

/* Tokens processed together: few enough for the L2 cache, and so many that adding to the weights'
 * gradients costs little beside computing them. 64 to 512 made no difference. */
enum { GROUP_TOKENS = 256 };

/* Queries of a head whose attention is computed together, a multiple of PANEL. */
enum { QUERIES = 32 };

/* In the order of Block.parameters(), as their gradients are. */
enum { ATTENTION_NORM, QUERY, KEY, VALUE, OUTPUT, QUERY_NORM, KEY_NORM,
       MLP_NORM, GATE, UP, DOWN, WEIGHTS };

/* The call from Python. Activations are contiguous, [rows, length, width]. */
typedef struct {
    int32_t rows, length, width, n_head, n_kv_head, head_width, mlp_width;
    int32_t threads;
    int32_t dropped; /* the dropout rate in 256ths */
    float epsilon;
    const number *x;
    const int8_t *mask; /* [2, rows, length, width], or null */
    const float *cosines, *sines; /* [length, D] */
    const float *weights[WEIGHTS]; /* those of queries' and keys' norms may be null */
    number *kept; /* hornbook_kept_numbers of them, kept from forward to backward */
    number *y;
    const number *dy;
    number *dx;
    float *gradients; /* of all weights, concatenated */
    Parallel parallel;
} Block;

/* A thread's buffers. */
typedef struct {
    number *normal, *hidden, *found, *mixed, *wide;
    word *normal_panels, *hidden_panels, *found_panels, *wide_panels;
    float *sum, *stream;
    /* of one head */
    number *query, *key, *weights, *slopes;
    word *query_panels, *key_panels, *key_turned, *value_panels, *value_turned, *mixed_panels;
    word *weight_panels, *slope_panels;
    float *scores, *d_scores, *d_query, *d_key, *d_value;
    float *gradients;
} Room;

typedef struct {
    const Block *block;
    int C, H, D, A, K, Q, F, T, Tp;
    int heads; /* of a group */
    int norm; /* the width of queries' and keys' norms: D, or 0 without */
    int shares, group; /* the most rows of a group */
    word *qkv, *output, *gate_up, *down; /* packed weights */
    size_t gradient_numbers;
    number *kept_qkv, *kept_mixed, *kept_middle, *kept_gate_up;
    Room *rooms;
} Run;

/* ---- weights ---- */

/* Loop over a share's part of `count` items. */
#define PART(item, count)                                                                          \
    for (int item = (int)((int64_t)(count) * share / run->shares),                                 \
             item##_end = (int)((int64_t)(count) * (share + 1) / run->shares);                     \
         item < item##_end; item++)

/* A matrix [outputs, inputs] in a product of several whose outputs are concatenated: `whole` of them,
 * its own from `first` on. */
typedef struct {
    const float *numbers;
    int outputs, inputs, first, whole;
} Weights;

/* Panels of x -> x W^T. */
static void pack_forward(const Run *run, int share, Weights w, word *to)
{
    int depth = w.inputs / PACK;
    PART(panel, w.outputs / PANEL) {
        word *at = to + (size_t)(w.first / PANEL + panel) * depth * PANEL;
        for (int n = 0; n < PANEL; n++) {
            const float *row = w.numbers + ((size_t)panel * PANEL + n) * w.inputs;
            for (int k = 0; k < w.inputs; k += WIDE) {
                union { number numbers[WIDE]; word words[WIDE / PACK]; } part;
                store(part.numbers, *(const floats *)(row + k));
                for (int i = 0; i < WIDE / PACK; i++)
                    at[(size_t)(k / PACK + i) * PANEL + n] = part.words[i];
            }
        }
    }
}

/* Panels of dy -> dy W. */
static void pack_backward(const Run *run, int share, Weights w, word *to)
{
    PART(panel, w.inputs / PANEL) {
        word *at = to + ((size_t)panel * w.whole + w.first) / PACK * PANEL;
        for (int k = 0; k < w.outputs / PACK; k++) {
            const float *row = w.numbers + (size_t)k * PACK * w.inputs + panel * PANEL;
            for (int n = 0; n < PANEL; n += WIDE)
                *(words *)(at + (size_t)k * PANEL + n) = paired(
                    *(const floats *)(row + n), *(const floats *)(row + (PACK - 1) * w.inputs + n));
        }
    }
}

typedef void (*Pack)(const Run *, int, Weights, word *);

static void pack_all(const Run *run, int share, Pack pack)
{
    const float *const *weights = run->block->weights;
    int C = run->C, A = run->A, K = run->K, Q = run->Q, F = run->F;
    pack(run, share, (Weights){weights[QUERY], A, C, 0, Q}, run->qkv);
    pack(run, share, (Weights){weights[KEY], K, C, A, Q}, run->qkv);
    pack(run, share, (Weights){weights[VALUE], K, C, A + K, Q}, run->qkv);
    pack(run, share, (Weights){weights[OUTPUT], C, A, 0, C}, run->output);
    pack(run, share, (Weights){weights[GATE], F, C, 0, 2 * F}, run->gate_up);
    pack(run, share, (Weights){weights[UP], F, C, F, 2 * F}, run->gate_up);
    pack(run, share, (Weights){weights[DOWN], C, F, 0, C}, run->down);
}

static void pack_for_forward(void *run, int share) { pack_all(run, share, pack_forward); }
static void pack_for_backward(void *run, int share) { pack_all(run, share, pack_backward); }

/* ---- normalisation ---- */

static float inverse_root_mean_square(const float *x, int width, float epsilon)
{
    floats squares = {0};
    for (int i = 0; i < width; i += WIDE)
        squares += *(const floats *)(x + i) * *(const floats *)(x + i);
    return 1.0f / sqrtf(total(squares) / width + epsilon);
}

/* Backward of y = x scale gain with scale = 1 / rms(x): dy becomes dx; adds to the gain's gradient. */
static void normalise_backward(const float *x, const float *gain, int width, float scale, float *dy,
                               float *d_gain)
{
    floats sums = {0};
    for (int i = 0; i < width; i += WIDE) {
        floats xs = *(const floats *)(x + i), ds = *(floats *)(dy + i);
        *(floats *)(d_gain + i) += ds * xs * scale;
        sums += ds * *(const floats *)(gain + i) * xs;
    }
    float along = total(sums) / width * scale * scale;
    for (int i = 0; i < width; i += WIDE)
        *(floats *)(dy + i) = (*(floats *)(dy + i) * *(const floats *)(gain + i) -
                               *(const floats *)(x + i) * along) * scale;
}

/* to[rows, C] = the rows of `from` normalised. */
static void normalise(const Run *run, int rows, const number *from, const float *gain, number *to)
{
    float x[run->C];
    for (int row = 0; row < rows; row++, from += run->C, to += run->C) {
        for (int i = 0; i < run->C; i += WIDE)
            *(floats *)(x + i) = load(from + i);
        float scale = inverse_root_mean_square(x, run->C, run->block->epsilon);
        for (int i = 0; i < run->C; i += WIDE)
            store(to + i, *(floats *)(x + i) * scale * *(const floats *)(gain + i));
    }
}

/* ---- heads ---- */

/* Normalise a head's query or key (where it has a gain), rotate it by its position's angle, and
 * scale it. */
static void ready(const Run *run, const number *from, const float *gain, float scale, number *to)
{
    int D = run->D, half = D / 2;
    float x[D], y[D];
    for (int t = 0; t < run->Tp; t++, from += run->Q, to += D) {
        for (int i = 0; i < D; i += WIDE)
            *(floats *)(x + i) = load(from + i);
        float by = gain ? scale * inverse_root_mean_square(x, D, run->block->epsilon) : scale;
        for (int i = 0; i < D; i++)
            x[i] *= gain ? by * gain[i] : by;
        int place = t < run->T ? t : 0;
        const float *cosines = run->block->cosines + (size_t)place * D;
        const float *sines = run->block->sines + (size_t)place * D;
        for (int i = 0; i < half; i++) {
            y[i] = x[i] * cosines[i] - x[i + half] * sines[i];
            y[i + half] = x[i + half] * cosines[i] + x[i] * sines[i];
        }
        for (int i = 0; i < D; i += WIDE)
            store(to + i, *(floats *)(y + i));
    }
}

/* Its backward pass: from `dy` to `to`, the gradient of the product. */
static void ready_backward(const Run *run, const number *from, const float *gain, float scale,
                           const float *dy, number *to, float *d_gain)
{
    int D = run->D, half = D / 2;
    float x[D], dx[D];
    for (int t = 0; t < run->Tp; t++, from += run->Q, to += run->Q, dy += D) {
        int place = t < run->T ? t : 0;
        const float *cosines = run->block->cosines + (size_t)place * D;
        const float *sines = run->block->sines + (size_t)place * D;
        for (int i = 0; i < half; i++) {
            dx[i] = (dy[i] * cosines[i] + dy[i + half] * sines[i]) * scale;
            dx[i + half] = (dy[i + half] * cosines[i] - dy[i] * sines[i]) * scale;
        }
        if (gain) {
            for (int i = 0; i < D; i += WIDE)
                *(floats *)(x + i) = load(from + i);
            float by = inverse_root_mean_square(x, D, run->block->epsilon);
            normalise_backward(x, gain, D, by, dx, d_gain);
        }
        for (int i = 0; i < D; i += WIDE)
            store(to + i, *(floats *)(dx + i));
    }
}

/* Softmax of the first `seen` scores; the rest up to `columns` is zero. Stored as numbers too. */
static void softmax(float *scores, int seen, int columns, number *weights)
{
    for (int s = seen; s < (seen + WIDE - 1) / WIDE * WIDE; s++)
        scores[s] = scores[0];
    floats highest = *(floats *)scores;
    for (int s = WIDE; s < seen; s += WIDE) {
        floats part = *(floats *)(scores + s);
        highest = choose(part > highest, part, highest);
    }
    float most = largest(highest);
    for (int s = 0; s < seen; s += WIDE)
        *(floats *)(scores + s) = exponential(*(floats *)(scores + s) - most);
    memset(scores + seen, 0, (columns - seen) * sizeof(float));
    floats sums = {0};
    for (int s = 0; s < seen; s += WIDE)
        sums += *(floats *)(scores + s);
    float share = 1.0f / total(sums);
    for (int s = 0; s < columns; s += WIDE) {
        *(floats *)(scores + s) *= share;
        store(weights + s, *(floats *)(scores + s));
    }
}

/* Scores and weights of 32 queries from `begin` on, over all visible positions. */
static void look_back(const Run *run, Room *room, int begin)
{
    int D = run->D, columns = begin + QUERIES;
    product(SET, QUERIES, columns, D / PACK, lying(room->query + (size_t)begin * D, D),
            panels(room->key_turned, D / PACK), room->scores, run->Tp);
    for (int i = 0; i < QUERIES; i++)
        softmax(room->scores + (size_t)i * run->Tp, begin + i + 1, columns,
                room->weights + (size_t)i * run->Tp);
}

/* Where the key of a head is in its row's products; the value is K further. */
static const number *key_of(const Run *run, const number *qkv, int head)
{
    return qkv + run->A + head / run->heads * run->D;
}

/* The head's query, and for the first head of a group their key. */
static void prepare_head(const Run *run, Room *room, const number *qkv, int head)
{
    const float *const *weights = run->block->weights;
    ready(run, qkv + head * run->D, weights[QUERY_NORM], 1.0f / sqrtf((float)run->D), room->query);
    if (head % run->heads)
        return;
    ready(run, key_of(run, qkv, head), weights[KEY_NORM], 1.0f, room->key);
    turn(room->key, run->D, run->Tp, run->D, room->key_turned);
}

/* One head of one row, the heads of a group in order: mixed[Tp, D of A] = softmax(q k) v. */
static void attend(const Run *run, Room *room, const number *qkv, int head, number *mixed)
{
    int D = run->D, Tp = run->Tp;
    prepare_head(run, room, qkv, head);
    if (head % run->heads == 0)
        pair_rows(key_of(run, qkv, head) + run->K, run->Q, Tp, D, room->value_panels);
    mixed += head * D;
    for (int begin = 0; begin < Tp; begin += QUERIES) {
        look_back(run, room, begin);
        product(ROUND, QUERIES, D, (begin + QUERIES) / PACK, lying(room->weights, Tp),
                panels(room->value_panels, Tp / PACK), mixed + (size_t)begin * run->A, run->A);
    }
}

/* Its backward pass: from the gradient of `mixed` to that of the products q, k and v. */
static void attend_backward(const Run *run, Room *room, const number *qkv, int head,
                            const number *d_mixed, number *d_qkv)
{
    int C = run->C, D = run->D, A = run->A, Tp = run->Tp, deep = Tp / PACK, tile = QUERIES / PACK;
    const float *const *weights = run->block->weights;
    float *of_query_norm = room->gradients + C + (size_t)C * (run->Q + A),
          *of_key_norm = of_query_norm + run->norm;
    const number *key = key_of(run, qkv, head);
    prepare_head(run, room, qkv, head);
    pair_rows(room->query, D, Tp, D, room->query_panels);
    d_mixed += head * D;
    pair_rows(d_mixed, A, Tp, D, room->mixed_panels);
    if (head % run->heads == 0) {
        pair_rows(room->key, D, Tp, D, room->key_panels);
        turn(key + run->K, run->Q, Tp, D, room->value_turned);
        memset(room->d_key, 0, (size_t)Tp * D * sizeof(float));
        memset(room->d_value, 0, (size_t)Tp * D * sizeof(float));
    }
    for (int begin = 0; begin < Tp; begin += QUERIES) {
        int columns = begin + QUERIES;
        size_t at = (size_t)begin / PACK * PANEL; /* where these queries begin in a panel */
        look_back(run, room, begin);
        product(SET, QUERIES, columns, D / PACK, lying(d_mixed + (size_t)begin * A, A),
                panels(room->value_turned, D / PACK), room->d_scores, Tp);
        for (int i = 0; i < QUERIES; i++) {
            float *weight = room->scores + (size_t)i * Tp, *slope = room->d_scores + (size_t)i * Tp;
            floats sums = {0};
            for (int s = 0; s < columns; s += WIDE)
                sums += *(floats *)(weight + s) * *(floats *)(slope + s);
            float mean = total(sums);
            for (int s = 0; s < columns; s += WIDE)
                store(room->slopes + (size_t)i * Tp + s,
                      *(floats *)(weight + s) * (*(floats *)(slope + s) - mean));
        }
        product(SET, QUERIES, D, columns / PACK, lying(room->slopes, Tp),
                panels(room->key_panels, deep), room->d_query + (size_t)begin * D, D);
        pair_rows(room->weights, Tp, QUERIES, columns, room->weight_panels);
        pair_rows(room->slopes, Tp, QUERIES, columns, room->slope_panels);
        product(ADD, columns, D, tile, turned(room->weight_panels, tile),
                panels(room->mixed_panels + at, deep), room->d_value, D);
        product(ADD, columns, D, tile, turned(room->slope_panels, tile),
                panels(room->query_panels + at, deep), room->d_key, D);
    }
    ready_backward(run, qkv + head * D, weights[QUERY_NORM], 1.0f / sqrtf((float)D), room->d_query,
                   d_qkv + head * D, of_query_norm);
    if ((head + 1) % run->heads)
        return;
    number *d_key = d_qkv + (key - qkv);
    ready_backward(run, key, weights[KEY_NORM], 1.0f, room->d_key, d_key, of_key_norm);
    for (int t = 0; t < Tp; t++)
        for (int i = 0; i < D; i += WIDE)
            store(d_key + run->K + (size_t)t * run->Q + i, *(floats *)(room->d_value + t * D + i));
}

/* ---- the residual stream ---- */

/* Dropout of a vector of outputs of a half. */
INLINE floats left_by_dropout(const Block *block, const int8_t *mask, floats found)
{
    typedef int8_t bytes __attribute__((vector_size(WIDE), aligned(1), may_alias));
    ints drawn = __builtin_convertvector(*(const bytes *)mask, ints);
    floats none = {0};
    return choose(drawn >= block->dropped - 128, found * (256.0f / (256 - block->dropped)), none);
}

/* The place in the batch of a padded row of a group; -1 for padding. */
INLINE int64_t place(const Run *run, int first, int padded)
{
    int row = first + padded / run->Tp, t = padded % run->Tp;
    return t < run->T ? ((int64_t)row * run->T + t) * run->C : -1;
}

static const int8_t *mask_of(const Run *run, int half)
{
    const Block *block = run->block;
    size_t size = (size_t)block->rows * run->T * run->C;
    return block->mask ? block->mask + half * size : NULL;
}

/* y = x + found, in [rows, Tp, C]; with `out` in [rows, T, C]. */
static void add_found(const Run *run, int first, int rows, int half, const number *x,
                      const float *found, number *y, int out)
{
    int C = run->C;
    const int8_t *mask = mask_of(run, half);
    for (int row = 0; row < rows; row++, x += C, found += C) {
        int64_t at = place(run, first, row);
        if (at < 0 && out)
            continue;
        number *to = out ? y + at : y + (size_t)row * C;
        for (int i = 0; i < C; i += WIDE) {
            floats more = *(const floats *)(found + i);
            if (mask && at >= 0)
                more = left_by_dropout(run->block, mask + at + i, more);
            store(to + i, load(x + i) + more);
        }
    }
}

/* Copy rows of [rows, T, C] to a group's padded rows; the padding is zero. */
static void take_rows(const Run *run, int first, int rows, const number *from, number *to)
{
    for (int row = 0; row < rows; row++) {
        int64_t at = place(run, first, row);
        if (at < 0)
            memset(to + (size_t)row * run->C, 0, run->C * sizeof(number));
        else
            memcpy(to + (size_t)row * run->C, from + at, run->C * sizeof(number));
    }
}

/* ---- forward ---- */

static void forward_group(const Run *run, Room *room, int first, int texts)
{
    const Block *block = run->block;
    const float *const *weights = block->weights;
    int C = run->C, A = run->A, Q = run->Q, F = run->F, Tp = run->Tp, rows = texts * Tp;
    number *qkv = run->kept_qkv + (size_t)first * Tp * Q;
    number *mixed = run->kept_mixed + (size_t)first * Tp * A;
    number *middle = run->kept_middle + (size_t)first * Tp * C;
    number *gate_up = run->kept_gate_up + (size_t)first * Tp * 2 * F;

    take_rows(run, first, rows, block->x, room->found);
    normalise(run, rows, room->found, weights[ATTENTION_NORM], room->normal);
    product(ROUND, rows, Q, C / PACK, lying(room->normal, C), panels(run->qkv, C / PACK), qkv, Q);
    for (int text = 0; text < texts; text++)
        for (int head = 0; head < run->H; head++)
            attend(run, room, qkv + (size_t)text * Tp * Q, head, mixed + (size_t)text * Tp * A);
    product(SET, rows, C, A / PACK, lying(mixed, A), panels(run->output, A / PACK), room->sum, C);
    add_found(run, first, rows, 0, room->found, room->sum, middle, 0);

    normalise(run, rows, middle, weights[MLP_NORM], room->normal);
    product(ROUND, rows, 2 * F, C / PACK, lying(room->normal, C), panels(run->gate_up, C / PACK),
            gate_up, 2 * F);
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < F; i += WIDE) {
            floats gate = load(gate_up + (size_t)row * 2 * F + i);
            floats up = load(gate_up + (size_t)row * 2 * F + F + i);
            store(room->hidden + (size_t)row * F + i, gate / (1.0f + exponential(-gate)) * up);
        }
    product(SET, rows, C, F / PACK, lying(room->hidden, F), panels(run->down, F / PACK), room->sum,
            C);
    add_found(run, first, rows, 1, middle, room->sum, block->y, 1);
}

/* ---- backward ---- */

/* A half's gradient: the stream's after dropout, as numbers and as panels. */
static void found_backward(const Run *run, Room *room, int first, int rows, int half)
{
    int C = run->C;
    const int8_t *mask = mask_of(run, half);
    for (int row = 0; row < rows; row++) {
        int64_t at = place(run, first, row);
        for (int i = 0; i < C; i += WIDE) {
            floats found = *(floats *)(room->stream + (size_t)row * C + i);
            if (mask && at >= 0)
                found = left_by_dropout(run->block, mask + at + i, found);
            store(room->found + (size_t)row * C + i, found);
        }
    }
    pair_rows(room->found, C, rows, C, room->found_panels);
}

/* Add the gradient through a half's normalisation of `x` to the stream's. */
static void stream_backward(const Run *run, Room *room, int rows, const number *x, const float *gain,
                            float *d_gain)
{
    int C = run->C;
    float wide[C];
    for (int row = 0; row < rows; row++) {
        float *dy = room->sum + (size_t)row * C;
        for (int i = 0; i < C; i += WIDE)
            *(floats *)(wide + i) = load(x + (size_t)row * C + i);
        float scale = inverse_root_mean_square(wide, C, run->block->epsilon);
        normalise_backward(wide, gain, C, scale, dy, d_gain);
        for (int i = 0; i < C; i += WIDE)
            *(floats *)(room->stream + (size_t)row * C + i) += *(floats *)(dy + i);
    }
}

static void backward_group(const Run *run, Room *room, int first, int texts, int how)
{
    const Block *block = run->block;
    const float *const *weights = block->weights;
    int C = run->C, A = run->A, Q = run->Q, F = run->F, Tp = run->Tp;
    int rows = texts * Tp, deep = rows / PACK;
    float *of_attention_norm = room->gradients, *of_qkv = of_attention_norm + C,
          *of_output = of_qkv + (size_t)Q * C,
          *of_mlp_norm = of_output + (size_t)A * C + 2 * run->norm,
          *of_gate_up = of_mlp_norm + C, *of_down = of_gate_up + 2 * (size_t)F * C;
    const number *qkv = run->kept_qkv + (size_t)first * Tp * Q;
    const number *mixed = run->kept_mixed + (size_t)first * Tp * A;
    const number *middle = run->kept_middle + (size_t)first * Tp * C;
    const number *gate_up = run->kept_gate_up + (size_t)first * Tp * 2 * F;

    take_rows(run, first, rows, block->dy, room->found);
    for (size_t i = 0; i < (size_t)rows * C; i += WIDE)
        *(floats *)(room->stream + i) = load(room->found + i);

    /* the MLP */
    found_backward(run, room, first, rows, 1);
    product(ROUND, rows, F, C / PACK, lying(room->found, C), panels(run->down, C / PACK),
            room->hidden, F);
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < F; i += WIDE) {
            floats gate = load(gate_up + (size_t)row * 2 * F + i);
            floats up = load(gate_up + (size_t)row * 2 * F + F + i);
            number *hidden = room->hidden + (size_t)row * F + i;
            number *wide = room->wide + (size_t)row * 2 * F + i;
            floats d = load(hidden), open = 1.0f / (1.0f + exponential(-gate)), lit = gate * open;
            store(wide, d * up * (open + lit * (1.0f - open)));
            store(wide + F, d * lit);
            store(hidden, lit * up);
        }
    pair_rows(room->hidden, F, rows, F, room->hidden_panels);
    product(how, C, F, deep, turned(room->found_panels, deep), panels(room->hidden_panels, deep),
            of_down, F);
    pair_rows(room->wide, 2 * F, rows, 2 * F, room->wide_panels);
    product(SET, rows, C, 2 * F / PACK, lying(room->wide, 2 * F), panels(run->gate_up, 2 * F / PACK),
            room->sum, C);
    normalise(run, rows, middle, weights[MLP_NORM], room->normal);
    pair_rows(room->normal, C, rows, C, room->normal_panels);
    product(how, 2 * F, C, deep, turned(room->wide_panels, deep), panels(room->normal_panels, deep),
            of_gate_up, C);
    stream_backward(run, room, rows, middle, weights[MLP_NORM], of_mlp_norm);

    /* attention */
    found_backward(run, room, first, rows, 0);
    product(ROUND, rows, A, C / PACK, lying(room->found, C), panels(run->output, C / PACK),
            room->mixed, A);
    pair_rows(mixed, A, rows, A, room->normal_panels);
    product(how, C, A, deep, turned(room->found_panels, deep), panels(room->normal_panels, deep),
            of_output, A);
    for (int text = 0; text < texts; text++)
        for (int head = 0; head < run->H; head++)
            attend_backward(run, room, qkv + (size_t)text * Tp * Q, head,
                            room->mixed + (size_t)text * Tp * A, room->wide + (size_t)text * Tp * Q);
    product(SET, rows, C, Q / PACK, lying(room->wide, Q), panels(run->qkv, Q / PACK), room->sum, C);
    pair_rows(room->wide, Q, rows, Q, room->wide_panels);
    take_rows(run, first, rows, block->x, room->found);
    normalise(run, rows, room->found, weights[ATTENTION_NORM], room->normal);
    pair_rows(room->normal, C, rows, C, room->normal_panels);
    product(how, Q, C, deep, turned(room->wide_panels, deep), panels(room->normal_panels, deep),
            of_qkv, C);
    stream_backward(run, room, rows, room->found, weights[ATTENTION_NORM], of_attention_norm);
    for (int row = 0; row < rows; row++) {
        int64_t at = place(run, first, row);
        if (at >= 0)
            for (int i = 0; i < C; i += WIDE)
                store(block->dx + at + i, *(floats *)(room->stream + (size_t)row * C + i));
    }
}

/* ---- shares ---- */

/* Each group of a share's rows; groups are about equal. */
#define GROUPS(first, texts)                                                                       \
    int begin_ = (int)((int64_t)run->block->rows * share / run->shares);                           \
    int end_ = (int)((int64_t)run->block->rows * (share + 1) / run->shares);                       \
    int count_ = (end_ - begin_ + run->group - 1) / run->group;                                    \
    for (int group = 0, first, texts;                                                              \
         first = begin_ + (end_ - begin_) * group / (count_ ? count_ : 1), group < count_ &&       \
         (texts = begin_ + (end_ - begin_) * (group + 1) / count_ - first, 1);                     \
         group++)

static void forward_share(void *argument, int share)
{
    const Run *run = argument;
    GROUPS(first, texts) forward_group(run, &run->rooms[share], first, texts);
}

static void backward_share(void *argument, int share)
{
    const Run *run = argument;
    Room *room = &run->rooms[share];
    size_t C = run->C, gains = C + C * (run->Q + run->A);
    /* Sums that start at zero: the gains of the normalisations. */
    memset(room->gradients, 0, C * sizeof(float));
    memset(room->gradients + gains, 0, (2 * run->norm + C) * sizeof(float));
    GROUPS(first, texts) backward_group(run, room, first, texts, group ? ADD : SET);
}

static void add_gradients(void *argument, int share)
{
    const Run *run = argument;
    PART(line, (int)(run->gradient_numbers / WIDE)) {
        floats sum = *(floats *)(run->rooms[0].gradients + (size_t)line * WIDE);
        for (int other = 1; other < run->shares; other++)
            sum += *(floats *)(run->rooms[other].gradients + (size_t)line * WIDE);
        *(floats *)(run->rooms[0].gradients + (size_t)line * WIDE) = sum;
    }
}

/* Run a function for every share. */
static void everywhere(Run *run, void (*of_share)(void *run, int share))
{
    share_out(run->block->parallel, run->shares, run->shares, of_share, run);
}

/* ---- called from Python ---- */

static size_t furnish(const Run *run, Room *room, char *memory, float *gradients, int backward)
{
    size_t used = 0, C = run->C, D = (run->D + PANEL - 1) / PANEL * PANEL, F = run->F, Tp = run->Tp;
    size_t rows = run->group * Tp, A = run->A, Q = run->Q, wide = 2 * F > Q ? 2 * F : Q;
    room->normal = NUMBERS(rows * C);
    room->found = NUMBERS(rows * C);
    room->hidden = NUMBERS(rows * F);
    room->sum = FLOATS(rows * C);
    room->query = NUMBERS(Tp * D);
    room->key = NUMBERS(Tp * D);
    room->key_turned = WORDS(Tp * D / PACK);
    room->value_panels = WORDS(Tp * D / PACK);
    room->scores = FLOATS(QUERIES * Tp);
    room->weights = NUMBERS(QUERIES * Tp);
    if (!backward)
        return used;
    room->mixed = NUMBERS(rows * A);
    room->wide = NUMBERS(rows * wide);
    room->stream = FLOATS(rows * C);
    room->normal_panels = WORDS(rows * (A > C ? A : C) / PACK);
    room->found_panels = WORDS(rows * C / PACK);
    room->hidden_panels = WORDS(rows * F / PACK);
    room->wide_panels = WORDS(rows * wide / PACK);
    room->query_panels = WORDS(Tp * D / PACK);
    room->key_panels = WORDS(Tp * D / PACK);
    room->value_turned = WORDS(Tp * D / PACK);
    room->mixed_panels = WORDS(Tp * D / PACK);
    room->slopes = NUMBERS(QUERIES * Tp);
    room->weight_panels = WORDS(QUERIES * Tp / PACK);
    room->slope_panels = WORDS(QUERIES * Tp / PACK);
    room->d_scores = FLOATS(QUERIES * Tp);
    room->d_query = FLOATS(Tp * D);
    room->d_key = FLOATS(Tp * D);
    room->d_value = FLOATS(Tp * D);
    room->gradients = gradients ? gradients : FLOATS(run->gradient_numbers);
    return used;
}

static Run begin(const Block *block)
{
    Run run = {.block = block, .C = block->width, .H = block->n_head, .D = block->head_width,
               .F = block->mlp_width, .T = block->length};
    run.A = run.H * run.D;
    run.K = block->n_kv_head * run.D;
    run.Q = run.A + 2 * run.K;
    run.heads = run.H / block->n_kv_head;
    run.norm = block->weights[QUERY_NORM] ? run.D : 0;
    run.Tp = (run.T + QUERIES - 1) / QUERIES * QUERIES;
    run.shares = block->threads < block->rows ? block->threads : block->rows;
    int most = (block->rows + run.shares - 1) / run.shares;
    run.group = GROUP_TOKENS / run.Tp < 1 ? 1 : GROUP_TOKENS / run.Tp;
    run.group = run.group < most ? run.group : most;
    size_t C = run.C, F = run.F, rows = (size_t)block->rows * run.Tp;
    run.gradient_numbers = 2 * C + 2 * run.norm + C * (run.Q + run.A) + 3 * C * F;
    run.kept_qkv = block->kept;
    run.kept_mixed = run.kept_qkv + rows * run.Q;
    run.kept_middle = run.kept_mixed + rows * run.A;
    run.kept_gate_up = run.kept_middle + rows * C;
    return run;
}

/* How many numbers forward keeps for backward. */
int64_t hornbook_kept_numbers(const Block *block)
{
    Run run = begin(block);
    return (int64_t)block->rows * run.Tp * (run.Q + run.A + run.C + 2 * run.F);
}

static int pass(const Block *block, int backward)
{
    Run run = begin(block);
    size_t C = run.C, A = run.A, Q = run.Q, F = run.F;
    size_t packed = (C * (Q + A) + 3 * C * F) / PACK * sizeof(word);
    Room measured;
    size_t room = furnish(&run, &measured, NULL, NULL, backward);
    char *memory = aligned_alloc(LINE, (packed + run.shares * room + LINE - 1) / LINE * LINE);
    run.rooms = calloc(run.shares, sizeof(Room));
    if (!memory || !run.rooms) {
        free(memory);
        free(run.rooms);
        return 1;
    }
    run.qkv = (word *)memory;
    run.output = run.qkv + C * Q / PACK;
    run.gate_up = run.output + C * A / PACK;
    run.down = run.gate_up + 2 * C * F / PACK;
    for (int share = 0; share < run.shares; share++)
        furnish(&run, &run.rooms[share], memory + packed + share * room,
                share ? NULL : block->gradients, backward);
    everywhere(&run, backward ? pack_for_backward : pack_for_forward);
    everywhere(&run, backward ? backward_share : forward_share);
    if (backward && run.shares > 1)
        everywhere(&run, add_gradients);
    free(memory);
    free(run.rooms);
    return 0;
}

int hornbook_forward(const Block *block) { return pass(block, 0); }
int hornbook_backward(const Block *block) { return pass(block, 1); }
