/* What belongs to the library as a whole: the width of its vectors, its threads, and their sums. */

#include "kernel.h"

EXPORT long lanes(void) { return LANES; }

typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);
static Parallel *parallel;
struct team {
    Work *work;
    void *args;
    long n_threads, next;
};

EXPORT void use_threads(Parallel *entry) { parallel = entry; }

static void take_threads(void *arg) {
    struct team *team = arg;
    long thread;
    while ((thread = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED)) < team->n_threads)
        team->work(team->args, thread, team->n_threads);
}

void run(Work *work, void *args, long n_threads) {
    struct team team = {work, args, n_threads, 0};
    if (n_threads > 1)
        parallel(take_threads, &team, n_threads, 0);
    else
        take_threads(&team);
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
