/* dropout.py: numbers times dropout factors, which depend on a seed and on where a number stands (kernel.h, kept). */

#include "kernel.h"

STRUCT(drop,
    const float *x; /* (n, D) */
    float *out;
    long n, dim, dropped, seed; /* dropped: units of 2^-32 */
)

static void drop_thread(void *args, long thread, long n_threads) {
    const struct drop *d = args;
    BLOCKS(start, rows, d->n) {
        long first = start * d->dim;
        EACH(i, rows * d->dim) STORE(d->out + first + i, LOAD(d->x + first + i) * kept(d->seed, first + i, d->dropped));
    }
}
KERNEL(drop)
