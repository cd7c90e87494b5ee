/* Reads a text with a mixer that has learned nothing yet: test_mixer.py compares the losses. */
#include <stdio.h>

#include "mixer.c"

static void *read_array(FILE *file, size_t size)
{
    void *array = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!array || fread(array, 1, size, file) != size)
        exit(2);
    return array;
}

int main(int count, char **arguments)
{
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    if (!file)
        return 1;
    int32_t *sizes = read_array(file, 6 * sizeof(int32_t));
    Model model = {.vocab_size = sizes[0], .line_bits = sizes[1], .counter_bits = sizes[2],
                   .shortest = {sizes[3], sizes[4]}};
    size_t V = (size_t)sizes[0], nodes = 4 * (V - 1), T = (size_t)sizes[5];
    model.child = read_array(file, 2 * nodes);
    model.bucket = read_array(file, nodes);
    model.slot = read_array(file, nodes);
    model.parent = read_array(file, nodes);
    model.depth = read_array(file, nodes);
    model.first = read_array(file, 4 * (V + 1));
    int32_t *steps = read_array(file, sizeof(int32_t));
    model.path = read_array(file, 4 * (size_t)*steps);
    model.folded = read_array(file, 4 * V);
    model.kind = read_array(file, 4 * V);
    int32_t *tokens = read_array(file, 4 * T);
    float *logits = read_array(file, 4 * V * T);
    model.lines = aligned_alloc(LINE, LINE * (size_t)hornbook_mixer_lines(&model));
    model.weights = aligned_alloc(64, (4 * (size_t)hornbook_mixer_floats(&model) + 63) / 64 * 64);
    hornbook_mixer_begin(&model);
    double *nats = malloc(sizeof(double) * T);
    if (hornbook_mixer_read(hornbook_mixer_open(&model, 1), tokens, (int64_t)T, logits, nats))
        return 3;
    return fwrite(nats, sizeof(double), T, stdout) != T;
}
