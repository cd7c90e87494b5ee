/* Muon's step for a model's matrices: momentum, orthogonalisation and update of one matrix at a time,
 * while it is in the processor's caches. optim/muon.py is the reference, and
 * tests/optim/test_optimizer.py compares this file with it.
 *
 * A matrix's sums have an order of their own: the bits are the same for any number of threads.
 */
#include "products.h"
#include "threads.h"

typedef struct {
    int32_t rows, columns; /* multiples of 32 */
    float *weight, *momentum;
    const float *gradient;
} Matrix;

typedef struct {
    const Matrix *matrices;
    int32_t count, threads, iterations;
    float momentum, kept, epsilon; /* `kept`: the factor of weight decay */
    float rate;
    float linear, cubic, quintic; /* of each iteration's polynomial */
    Parallel parallel;
} Step;

/* A thread's buffers. */
typedef struct {
    number *x, *polynomial, *gram;
    word *x_turned, *x_panels, *square_panels;
    float *product, *grams;
} Room;

typedef struct {
    const Step *step;
    char *memory;
    size_t room, largest, side; /* bytes of a room; numbers of the largest matrix, and of its short side */
    atomic_int next;
} Run;

static size_t furnish(const Run *run, Room *room, char *memory)
{
    size_t used = 0, largest = run->largest, square = run->side * run->side;
    room->x = NUMBERS(largest);
    room->x_turned = WORDS(largest / PACK);
    room->x_panels = WORDS(largest / PACK);
    room->product = FLOATS(largest);
    room->polynomial = NUMBERS(square);
    room->gram = NUMBERS(square);
    room->square_panels = WORDS(square / PACK);
    room->grams = FLOATS(square);
    return used;
}

/* A matrix's Gram matrix over its short side, [side, side]. */
static void gram(const Room *room, int rows, int columns, int side)
{
    if (rows > columns) { /* x^T x */
        pair_rows(room->x, columns, rows, columns, room->x_panels);
        int deep = rows / PACK;
        symmetric_product(side, deep, turned(room->x_panels, deep), panels(room->x_panels, deep),
                          room->grams);
    } else { /* x x^T */
        turn(room->x, columns, rows, columns, room->x_turned);
        symmetric_product(side, columns / PACK, lying(room->x, columns),
                          panels(room->x_turned, columns / PACK), room->grams);
    }
}

/* x = linear x + (cubic gram + quintic gram^2) x: all singular values move towards 1. */
static void iterate(const Step *step, const Room *room, int rows, int columns)
{
    int side = rows < columns ? rows : columns, deep = side / PACK;
    size_t square = (size_t)side * side, all = (size_t)rows * columns;
    gram(room, rows, columns, side);
    for (size_t i = 0; i < square; i += WIDE)
        store(room->gram + i, *(floats *)(room->grams + i));
    pair_rows(room->gram, side, side, side, room->square_panels);
    symmetric_product(side, deep, lying(room->gram, side), panels(room->square_panels, deep),
                      room->product);
    for (size_t i = 0; i < square; i += WIDE)
        store(room->polynomial + i, step->cubic * *(floats *)(room->grams + i) +
                                        step->quintic * *(floats *)(room->product + i));
    if (rows > columns) {
        pair_rows(room->polynomial, side, side, side, room->square_panels);
        product(SET, rows, columns, deep, lying(room->x, columns),
                panels(room->square_panels, deep), room->product, columns);
    } else {
        pair_rows(room->x, columns, rows, columns, room->x_panels);
        product(SET, rows, columns, deep, lying(room->polynomial, side),
                panels(room->x_panels, deep), room->product, columns);
    }
    for (size_t i = 0; i < all; i += WIDE)
        store(room->x + i, step->linear * load(room->x + i) + *(floats *)(room->product + i));
}

static void move(const Step *step, const Room *room, const Matrix *matrix)
{
    int rows = matrix->rows, columns = matrix->columns;
    size_t all = (size_t)rows * columns;
    floats squares = {0};
    for (size_t i = 0; i < all; i += WIDE) {
        floats gradient = *(const floats *)(matrix->gradient + i);
        floats *momentum = (floats *)(matrix->momentum + i);
        *momentum += (gradient - *momentum) * (1.0f - step->momentum);
        store(room->x + i, gradient + (*momentum - gradient) * step->momentum);
        squares += load(room->x + i) * load(room->x + i);
    }
    float norm = sqrtf(total(squares)), shrink = 1.0f / (norm > step->epsilon ? norm : step->epsilon);
    for (size_t i = 0; i < all; i += WIDE)
        store(room->x + i, load(room->x + i) * shrink);
    for (int i = 0; i < step->iterations; i++)
        iterate(step, room, rows, columns);
    float rate = step->rate * (rows > columns ? sqrtf((float)rows / columns) : 1.0f);
    for (size_t i = 0; i < all; i += WIDE) {
        floats *weight = (floats *)(matrix->weight + i);
        *weight = *weight * step->kept - rate * load(room->x + i);
    }
}

/* A thread's work: it takes one matrix after another. */
static void move_some(void *argument, int number)
{
    Run *run = argument;
    Room room;
    furnish(run, &room, run->memory + run->room * number);
    for (int i; (i = atomic_fetch_add(&run->next, 1)) < run->step->count;)
        move(run->step, &room, &run->step->matrices[i]);
}

/* Update every matrix; 1 when there is no memory, and then nothing is updated. */
int hornbook_muon(const Step *step)
{
    Run run = {.step = step};
    for (int i = 0; i < step->count; i++) {
        size_t rows = step->matrices[i].rows, columns = step->matrices[i].columns;
        size_t side = rows < columns ? rows : columns;
        run.largest = rows * columns > run.largest ? rows * columns : run.largest;
        run.side = side > run.side ? side : run.side;
    }
    Room room;
    run.room = furnish(&run, &room, NULL);
    int threads = step->threads < step->count ? step->threads : step->count;
    run.memory = aligned_alloc(LINE, run.room * threads);
    if (!run.memory)
        return 1;
    share_out(step->parallel, threads, threads, move_some, &run);
    free(run.memory);
    return 0;
}
