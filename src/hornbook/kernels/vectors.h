/* Sixteen numbers at a time, in GNU C: the compiler cuts them to the machine's width. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));

/* The sum of sixteen, halves added to halves. */
INLINE float total(floats x)
{
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    union { floats all; eight halves[2]; } whole = {x};
    union { eight all; four halves[2]; } half = {whole.halves[0] + whole.halves[1]};
    four rest = half.halves[0] + half.halves[1];
    return (rest[0] + rest[2]) + (rest[1] + rest[3]);
}

/* The largest of sixteen. */
INLINE float largest(floats x)
{
    float most = x[0];
    for (int i = 1; i < 16; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

INLINE floats choose(ints where, floats yes, floats no)
{
    return (floats)(((ints)yes & where) | ((ints)no & ~where));
}

/* e^x to about 1e-7: 2^n e^r with |r| <= ln(2) / 2, and the Taylor series of e^r. */
INLINE floats exponential(floats x)
{
    const floats zero = {0}, low = zero - 87.0f, high = zero + 88.0f;
    x = choose(x < low, low, choose(x > high, high, x));
    /* Adding and taking away 1.5 x 2^23 rounds to a whole number. */
    floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln(2) in two parts */
    floats e = zero + 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    return e * (floats)((__builtin_convertvector(n, ints) + 127) << 23);
}
