/* Numbers of a precision, and words of 32 bits that hold PACK of them.
 *
 * With PACK = 2 numbers are bfloat16, two in a word, for processors that multiply them so; with PACK = 1
 * they are float32. All sums are float32.
 */
#include "vectors.h"

typedef uint32_t word;

#if PACK == 2
typedef uint16_t number;
typedef uint16_t halves __attribute__((vector_size(2 * WIDE), aligned(2), may_alias));

#if defined(__AVX512BF16__)
#include <immintrin.h>
INLINE halves rounded(floats x) { return (halves)_mm512_cvtneps_pbh((__m512)x); }
INLINE floats multiply_add(floats sum, word a, words b)
{
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
INLINE halves rounded(floats x) { return (halves)vcvt_bf16_f32((float32x4_t)x); }
INLINE floats multiply_add(floats sum, word a, words b)
{
    return (floats)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)vdupq_n_u32(a), (bfloat16x8_t)b);
}
#else
#error "this processor multiplies no bfloat16"
#endif

INLINE words widened(halves x) { return __builtin_convertvector(x, words); }
INLINE floats load(const number *x) { return (floats)(widened(*(const halves *)x) << 16); }
INLINE void store(number *y, floats x) { *(halves *)y = rounded(x); }
INLINE words paired(floats even, floats odd)
{
    return widened(rounded(even)) | widened(rounded(odd)) << 16;
}
INLINE words pair(const number *even, const number *odd)
{
    return widened(*(const halves *)even) | widened(*(const halves *)odd) << 16;
}
#else
typedef float number;
typedef union { word bits; float value; } Either;

INLINE floats load(const number *x) { return *(const floats *)x; }
INLINE void store(number *y, floats x) { *(floats *)y = x; }
INLINE words paired(floats even, floats odd) { (void)odd; return (words)even; }
INLINE words pair(const number *even, const number *odd)
{
    (void)odd;
    return *(const words *)even;
}
INLINE floats multiply_add(floats sum, word a, words b)
{
    return sum + ((Either){.bits = a}).value * (floats)b;
}
#endif
