/* The matrix products of a training step.
 *
 * Panels. In a product left @ right, right is cut into panels of PANEL columns: as many adjacent words
 * for each word of depth. `pair_rows` (depth along rows) and `turn` (along columns) make them.
 */
#include <stdlib.h>
#include <string.h>

#include "numbers.h"

/* Sums kept in registers, beside a row of the right side's vectors and one number of the left's: 8 x 2
 * vectors reach AVX-512's peak, and 6 x 2, which take 15 of 16 registers, 97% of AVX2's. On NEON 4 x 4
 * take 24 of 32: gcc loads all rows' numbers first, and with 6 x 4 sums it has none left. */
#if WIDE == 16
enum { TILE_ROWS = 8, TILE_VECTORS = 2 };
#elif REGISTERS == 32
enum { TILE_ROWS = 4, TILE_VECTORS = 4 };
#else
enum { TILE_ROWS = 6, TILE_VECTORS = 2 };
#endif
enum { PANEL = WIDE * TILE_VECTORS, LINE = 64 }; /* columns of a tile; bytes of a cache line */

/* The next piece of memory; without memory it only counts how much is needed. */
static void *take(char *memory, size_t *used, size_t bytes)
{
    void *piece = memory ? memory + *used : NULL;
    *used += (bytes + LINE - 1) / LINE * LINE;
    return piece;
}
#define NUMBERS(count) take(memory, &used, (count) * sizeof(number))
#define WORDS(count) take(memory, &used, (count) * sizeof(word))
#define FLOATS(count) take(memory, &used, (count) * sizeof(float))

typedef struct {
    const word *at;
    size_t panel, row, step; /* from PANEL rows to the next, row to row, and word to word in depth */
} Left;

typedef struct {
    const word *at;
    size_t panel; /* from panel to panel */
} Right;

enum { SET, ADD, ROUND }; /* store float32; add to float32; store numbers */

INLINE void tile(const int rows, const int vectors, int how, int depth, const word *a, size_t row,
                 size_t step, const word *b, void *c, size_t stride)
{
    floats sum[TILE_ROWS][TILE_VECTORS] = {0};
    for (int k = 0; k < depth; k++) {
        words w[TILE_VECTORS];
        for (int j = 0; j < vectors; j++)
            w[j] = *(const words *)(b + (size_t)k * PANEL + WIDE * j);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++)
                sum[i][j] = multiply_add(sum[i][j], a[i * row + k * step], w[j]);
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) {
            if (how == ROUND) {
                store((number *)c + i * stride + WIDE * j, sum[i][j]);
            } else {
                floats *to = (floats *)((float *)c + i * stride + WIDE * j);
                *to = sum[i][j] + (how == ADD ? *to : (floats){0});
            }
        }
}

/* How many of the remaining rows, a multiple of 8 at first, a tile takes: 16 are 6 + 6 + 4. */
INLINE int tile_rows(int rest)
{
    return TILE_ROWS != 6 || (rest >= 6 && rest != 8) ? TILE_ROWS : 4;
}

/* c[rows, columns] = left @ right, `depth` words deep; rows in 8s, columns in 16s. With `lower` the
 * part above the diagonal may be skipped. */
INLINE void multiply(int lower, int how, int rows, int columns, int depth, Left left, Right right,
                     void *c, size_t stride)
{
    size_t size = how == ROUND ? sizeof(number) : sizeof(float);
    int goes_on = left.panel == PANEL * left.row; /* a tile may lie in two panels */
    for (int n = 0; n < columns; n += PANEL) {
        const word *b = right.at + (n / PANEL) * right.panel;
        for (int m = lower ? n : 0, high; m < rows; m += high) {
            const word *a = left.at + (m / PANEL) * left.panel + (m % PANEL) * left.row;
            void *to = (char *)c + (m * stride + n) * size;
            int end = goes_on || rows - m < PANEL - m % PANEL ? rows : m - m % PANEL + PANEL;
            high = tile_rows(end - m);
            if (PANEL > 16 && columns - n < PANEL)
                tile(TILE_ROWS, 1, how, depth, a, left.row, left.step, b, to, stride);
            else if (high == TILE_ROWS)
                tile(TILE_ROWS, TILE_VECTORS, how, depth, a, left.row, left.step, b, to, stride);
            else
                tile(4, TILE_VECTORS, how, depth, a, left.row, left.step, b, to, stride);
        }
    }
}

static void product(int how, int rows, int columns, int depth, Left left, Right right, void *c,
                    size_t stride)
{
    multiply(0, how, rows, columns, depth, left, right, c, stride);
}

/* The same for a symmetric product: a little more than half is computed, and mirrored. */
INLINE void symmetric_product(int side, int depth, Left left, Right right, float *c)
{
    multiply(1, SET, side, side, depth, left, right, c, side);
    for (int m = WIDE; m < side; m += WIDE)
        for (int n = 0; n < m; n += WIDE)
            for (int i = 0; i < WIDE; i++) {
                floats row = *(floats *)(c + (size_t)(m + i) * side + n);
                for (int j = 0; j < WIDE; j++)
                    c[(size_t)(n + j) * side + m + i] = row[j];
            }
}

/* Rows of numbers as the left side; `stride` numbers from row to row. */
static Left lying(const number *x, size_t stride)
{
    size_t row = stride / PACK;
    return (Left){(const word *)x, PANEL * row, row, 1};
}

/* Panels of `depth` words as the left side, transposed. */
static Left turned(const word *panels, int depth)
{
    return (Left){panels, (size_t)depth * PANEL, 1, PANEL};
}

static Right panels(const word *at, int depth)
{
    return (Right){at, (size_t)depth * PANEL};
}

/* Panels of x[rows, columns], depth along the rows. */
static void pair_rows(const number *x, size_t stride, int rows, int columns, word *to)
{
    int depth = rows / PACK;
    for (int k = 0; k < depth; k++) {
        const number *even = x + (size_t)k * PACK * stride;
        for (int n = 0; n < columns; n += WIDE)
            *(words *)(to + ((size_t)(n / PANEL) * depth + k) * PANEL + n % PANEL) =
                pair(even + n, even + (PACK - 1) * stride + n);
    }
}

/* Panels of the transpose of x[rows, columns], depth along the columns. */
static void turn(const number *x, size_t stride, int rows, int columns, word *to)
{
    int depth = columns / PACK;
    for (int n = 0; n < rows; n++) {
        const word *from = (const word *)(x + n * stride);
        word *at = to + (size_t)(n / PANEL) * depth * PANEL + n % PANEL;
        for (int k = 0; k < depth; k++)
            at[(size_t)k * PANEL] = from[k];
    }
}
