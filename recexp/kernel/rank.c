/* rank.py: how many scores of a user are at least as high as one of them. */

#include "kernel.h"

STRUCT(at_least,
    const float *scores, *own; /* (B, V), (n,) */
    const long *row;           /* (n,) */
    long *out;                 /* (n,) */
    long n, n_scores, n_rows, out_of_range;
)

static void at_least_thread(void *args, long thread, long n_threads) {
    struct at_least *a = args;
    BLOCKS(start, rows, a->n) for (long i = start; i < start + rows; i++) {
        if (a->row[i] < 0 || a->row[i] >= a->n_rows) {
            a->out_of_range = 1;
            return;
        }
        const float *scores = a->scores + a->row[i] * a->n_scores, own = a->own[i];
        long count = 0, j = 0;
        while (j < a->n_scores) { /* ints are counted faster, and no block overflows them */
            long end = j + 65536 < a->n_scores ? j + 65536 : a->n_scores;
            int block = 0;
            for (; j < end; j++) block += scores[j] >= own;
            count += block;
        }
        a->out[i] = count;
    }
}
KERNEL(at_least)
