/* Vectors of the processor's own width, in GNU C. Wider ones gcc keeps in memory: with vectors of 64
 * bytes a training step took four times as long on AVX2. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

/* How many numbers a vector has, 16 at most (arrays are padded to that), and how many vectors the
 * processor's registers hold. */
#if defined(__AVX512F__)
#define WIDE 16
#define REGISTERS 32
#elif defined(__AVX__)
#define WIDE 8
#define REGISTERS 16
#elif defined(__aarch64__)
#define WIDE 4
#define REGISTERS 32
#else
#define WIDE 4
#define REGISTERS 16
#endif

typedef float floats __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

/* The sum of a vector's numbers, halves added to halves. */
INLINE float total(floats x)
{
    typedef float four __attribute__((vector_size(16)));
#if WIDE >= 8
    typedef float eight __attribute__((vector_size(32)));
#endif
#if WIDE == 16
    union { floats all; eight halves[2]; } whole = {x};
    eight half = whole.halves[0] + whole.halves[1];
#elif WIDE == 8
    eight half = (eight)x;
#endif
#if WIDE >= 8
    union { eight all; four halves[2]; } quarters = {half};
    four rest = quarters.halves[0] + quarters.halves[1];
#else
    four rest = (four)x;
#endif
    return (rest[0] + rest[2]) + (rest[1] + rest[3]);
}

/* The largest of a vector's numbers. */
INLINE float largest(floats x)
{
    float most = x[0];
    for (int i = 1; i < WIDE; i++)
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
