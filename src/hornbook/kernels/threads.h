/* Work for the threads of torch's own OpenMP: a second pool would wait for cores on which torch's idle
 * threads spin. */
#include <stdatomic.h>

/* GOMP_parallel: run `work` in so many threads at once. */
typedef void (*Parallel)(void (*work)(void *), void *argument, unsigned threads, unsigned flags);

typedef struct {
    void (*item)(void *argument, int number);
    void *argument;
    int count;
    atomic_int next;
} Work;

static void work(void *argument)
{
    Work *all = argument;
    for (int number; (number = atomic_fetch_add(&all->next, 1)) < all->count;)
        all->item(all->argument, number);
}

/* Do every item from 0 to count - 1, in at most so many threads (one where `parallel` is null). */
static void share_out(Parallel parallel, int threads, int count,
                      void (*item)(void *argument, int number), void *argument)
{
    Work all = {item, argument, count, 0};
    threads = threads < count ? threads : count;
    if (parallel && threads > 1)
        parallel(work, &all, threads, 0);
    else
        work(&all);
}
