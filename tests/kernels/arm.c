/* Calls a function of a library with the memory that a file describes, and writes the memory back.
 *
 * The file: the number of buffers; each one's size and bytes; the number of pointers; for each the
 * buffer and the offset it stands at, and the buffer it points to. All numbers are int64. The first
 * buffer is the function's argument; `hornbook_decode` opens it as a model, and reads the others.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 4096 };

static int64_t number(FILE *file)
{
    int64_t x = 0;
    if (fread(&x, sizeof x, 1, file) != 1)
        exit(3);
    return x;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW), *function = library ? dlsym(library, argv[2]) : NULL;
    FILE *file = fopen(argv[3], "rb");
    if (!function || !file) {
        fprintf(stderr, "%s\n", library ? argv[2] : dlerror());
        return 2;
    }
    char *buffers[MOST];
    int64_t sizes[MOST], count = number(file);
    for (int64_t i = 0; i < count; i++) {
        sizes[i] = number(file);
        buffers[i] = aligned_alloc(64, (sizes[i] + 127) / 64 * 64);
        if (fread(buffers[i], 1, sizes[i], file) != (size_t)sizes[i])
            return 3;
    }
    for (int64_t pointers = number(file); pointers > 0; pointers--) {
        int64_t buffer = number(file), offset = number(file), target = number(file);
        *(char **)(buffers[buffer] + offset) = buffers[target];
    }
    fclose(file);
    int failed;
    if (dlsym(library, "hornbook_open")) {
        void *(*open)(void *) = (void *(*)(void *))dlsym(library, "hornbook_open");
        int (*decode)(void *, void *, void *, void *, void *, int32_t, int32_t, void *) =
            (int (*)(void *, void *, void *, void *, void *, int32_t, int32_t, void *))function;
        char **last = buffers + count - 5; /* tokens; rows, starts, lengths; logits */
        int32_t rows = (int32_t)(sizes[count - 4] / 4);
        failed = decode(open(buffers[0]), last[0], last[1], last[2], last[3], rows, 1, last[4]);
    } else {
        failed = ((int (*)(void *))function)(buffers[0]);
    }
    file = fopen(argv[3], "wb");
    for (int64_t i = 0; i < count; i++)
        fwrite(buffers[i], 1, sizes[i], file);
    return fclose(file) || failed;
}
