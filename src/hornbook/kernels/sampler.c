/* Draws the next token of each of several texts from a model's logits. infer/sampling.py is the
 * reference, and names the sources of the methods; tests/infer/test_native_sampler.py compares them.
 *
 * Numbers are float64, as the reference's are, so that a seed gives the same text by both. Nothing is
 * sorted: the least number that top-k or top-p keeps is found by bisection.
 */
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { EIGHT = 8 }; /* arrays are padded to so many numbers */

typedef double doubles __attribute__((vector_size(4 * WIDE), aligned(8), may_alias));
typedef int64_t longs __attribute__((vector_size(4 * WIDE), aligned(8), may_alias));

enum { HALF = WIDE / 2 }; /* numbers of a vector */

/* The settings of a text, constant while it is generated. */
typedef struct {
    double temperature, min_p, top_p, repetition, presence, frequency;
    int64_t top_k, biases; /* 0: all; how many tokens have a bias */
    const int32_t *biased;
    const double *bias;
} Setting;

/* A text with penalties: the repetition penalty is for the tokens from `context` on, the presence and
 * frequency penalties are for those from `generated` on. */
typedef struct {
    const int32_t *tokens; /* none in a text without penalties */
    int64_t length, context, generated;
} Text;

/* One text's numbers. */
typedef struct {
    int count, padded; /* of the vocabulary */
    double *p;
    int32_t *times; /* zeros between texts */
} Room;

/* e^x for x <= 0 to about 2e-16, and 0 below e^-708: 2^n e^r with |r| <= ln(2) / 2, and the Taylor
 * series of e^r. */
INLINE doubles exponential64(doubles x)
{
    const doubles zero = {0}, magic = zero + 6755399441055744.0; /* 1.5 x 2^52 rounds */
    longs none = (longs)(x < zero - 708.0);
    x = (doubles)(((longs)(zero - 708.0) & none) | ((longs)x & ~none));
    doubles shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
    doubles r = x - n * 6.93147180369123816490e-01; /* ln(2) in two parts */
    r = r - n * 1.90821492927058770002e-10;
    double factorial = 6227020800.0; /* 13! */
    doubles e = zero + 1.0 / factorial;
    for (int i = 13; i > 0; i--) {
        factorial /= i;
        e = e * r + 1.0 / factorial;
    }
    return (doubles)((longs)(e * (doubles)(((longs)shifted + 1023) << 52)) & ~none);
}

static void penalise(Room *room, const Setting *s, const Text *text)
{
    double *score = room->p;
    for (int64_t i = 0; i < s->biases; i++)
        if (s->biased[i] < room->count)
            score[s->biased[i]] += s->bias[i];
    if (s->repetition != 1)
        for (int64_t i = text->context; i < text->length; i++) {
            double *x = score + text->tokens[i];
            if (room->times[text->tokens[i]]++)
                continue;
            *x = *x > 0 ? *x / s->repetition : *x * s->repetition;
            *x = *x > 1e300 ? 1e300 : *x < -1e300 ? -1e300 : *x; /* a penalty may be near 0 */
        }
    for (int64_t i = text->context; i < text->length; i++)
        room->times[text->tokens[i]] = 0;
    if (s->presence == 0 && s->frequency == 0)
        return;
    for (int64_t i = text->generated; i < text->length; i++)
        room->times[text->tokens[i]]++;
    for (int64_t i = text->generated; i < text->length; i++) {
        int32_t token = text->tokens[i];
        if (room->times[token])
            score[token] -= s->presence + room->times[token] * s->frequency;
        room->times[token] = 0;
    }
}

/* How many numbers are above a threshold, and their sum. */
static int above(const Room *room, double threshold, double *sum)
{
    doubles sums = {0};
    longs counts = {0};
    for (int i = 0; i < room->padded; i += HALF) {
        doubles part = *(const doubles *)(room->p + i);
        longs is = (longs)(part > threshold);
        sums += (doubles)((longs)part & is);
        counts -= is;
    }
    int64_t count = 0;
    *sum = 0;
    for (int i = 0; i < HALF; i++) {
        *sum += sums[i];
        count += counts[i];
    }
    return (int)count;
}

/* Keep the likeliest tokens, of equal ones the first: each while the number of those before it, or their
 * mass, is less than `limit`; the first in any case. The others become zero. */
static void keep_likeliest(Room *room, int by_mass, double limit)
{
    typedef union { double value; int64_t bits; } Number; /* both in one order */
    double *p = room->p, sum = 0, least = 0;
    Number low = {0}, high = {1}, middle;
    int of_low = above(room, 0, &sum), of_high = 0, count;
    /* The least to be kept is above `low`, and not above `high`. */
    while (high.bits - low.bits > 1 && of_low - of_high > 1) {
        middle.bits = low.bits + (high.bits - low.bits) / 2;
        count = above(room, middle.value, &sum);
        if ((by_mass ? sum : count) < limit) {
            high = middle;
            of_high = count;
        } else {
            low = middle;
            of_low = count;
        }
    }
    for (int i = 0; i < room->count; i++)
        least = p[i] <= high.value && p[i] > least ? p[i] : least;
    count = above(room, least, &sum);
    double before = by_mass ? sum : count;
    for (int i = 0; i < room->count; i++) {
        int equal = p[i] == least;
        p[i] = p[i] > least || (equal && (before == 0 || before < limit)) ? p[i] : 0;
        before += equal ? by_mass ? least : 1 : 0;
    }
}

/* Set to zero what top-k, min-p and top-p drop. The likeliest token has the number 1. */
static void cut_off(Room *room, const Setting *s)
{
    double *p = room->p, mass;
    for (int i = 0; i < room->count; i++)
        p[i] = p[i] >= s->min_p ? p[i] : 0;
    if (s->top_k && s->top_k < room->count)
        keep_likeliest(room, 0, (double)s->top_k);
    if (s->top_p < 1) {
        above(room, 0, &mass);
        keep_likeliest(room, 1, s->top_p * mass * (1 - 1e-12));
    }
}

/* A text's token by a number in [0, 1), never one of probability 0; -1 where logits are not numbers. */
static int draw(Room *room, const float *logits, const Setting *s, const Text *text, double uniform)
{
    double *p = room->p, most = -INFINITY;
    for (int i = 0; i < room->count; i++)
        p[i] = logits[i];
    for (int i = room->count; i < room->padded; i++)
        p[i] = -INFINITY;
    penalise(room, s, text);
    int likeliest = -1;
    for (int i = 0; i < room->count; i++) {
        if (p[i] != p[i])
            return -1;
        if (p[i] > most) {
            most = p[i];
            likeliest = i;
        }
    }
    if (!(most < INFINITY) || s->temperature == 0)
        return most < INFINITY ? likeliest : -1;
    for (int i = 0; i < room->padded; i += HALF)
        *(doubles *)(p + i) = exponential64((*(doubles *)(p + i) - most) / s->temperature);
    if (likeliest >= 0 && (s->top_k || s->min_p > 0 || s->top_p < 1))
        cut_off(room, s);
    double sum = 0;
    for (int i = 0; i < room->count; i++)
        p[i] = sum += p[i];
    if (!(sum > 0))
        return -1;
    int low = 0, high = room->count - 1; /* the first whose share is above the number */
    while (low < high) {
        int middle = (low + high) / 2;
        if (p[middle] / sum > uniform)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* A token for each row of logits[rows, vocab_size]. Returns 0, 1 where logits are not numbers, 2 without
 * memory. */
int hornbook_draw(const float *logits, int32_t rows, int32_t vocab_size, const Setting *settings,
                  const Text *texts, const double *uniforms, int32_t *tokens)
{
    int padded = (vocab_size + EIGHT - 1) & ~(EIGHT - 1), failed = 0;
    Room room = {vocab_size, padded, malloc(padded * sizeof(double)),
                 calloc(vocab_size, sizeof(int32_t))};
    if (!room.p || !room.times)
        failed = 2;
    for (int row = 0; row < rows && !failed; row++) {
        tokens[row] = draw(&room, logits + (size_t)row * vocab_size, settings + row,
                           texts + row, uniforms[row]);
        failed = tokens[row] < 0;
    }
    free(room.p);
    free(room.times);
    return failed;
}
