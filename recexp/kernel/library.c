/* What belongs to the library as a whole: the width of its vectors, its threads, and their sums. */

#include "kernel.h"

EXPORT long lanes(void) { return LANES; }

typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);
typedef int Number(void);
static Parallel *parallel;
static Number *own_number;
struct team {
    Work *work;
    void *args;
    long n_threads;
    unsigned char *taken; /* (n_threads,) */
};

EXPORT void use_threads(Parallel *entry, Number *thread_number) { parallel = entry, own_number = thread_number; }

/* Each thread of the pool takes the part of its own number, whose rows may still be in its core's cache, then those of
   threads that are late. */
static void take_threads(void *arg) {
    struct team *team = arg;
    for (long i = 0, first = own_number(); i < team->n_threads; i++) {
        long thread = (first + i) % team->n_threads;
        if (!__atomic_exchange_n(team->taken + thread, 1, __ATOMIC_RELAXED))
            team->work(team->args, thread, team->n_threads);
    }
}

void run(Work *work, void *args, long n_threads) {
    unsigned char taken[n_threads];
    memset(taken, 0, n_threads);
    struct team team = {work, args, n_threads, taken};
    if (n_threads > 1)
        parallel(take_threads, &team, n_threads, 0);
    else
        work(args, 0, 1);
}

void run_summing(Work *work, void *args, struct sum *sums, long n_sums, long n_threads) {
    for (long i = 0; i < n_sums; i++) {
        if (sums[i].size) memset(sums[i].total, 0, sizeof(float) * sums[i].size);
        sums[i].own = calloc((n_threads - 1) * sums[i].size + 1, sizeof(float));
    }
    run(work, args, n_threads);
    for (long i = 0; i < n_sums; i++) {
        for (long thread = 1; thread < n_threads; thread++) {
            const float *own = sum_at(sums + i, thread);
            for (long j = 0; j < sums[i].size; j++) sums[i].total[j] += own[j];
        }
        free(sums[i].own);
    }
}
