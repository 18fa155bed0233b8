/* cross_entropy.py: log sum_i e^<q_p, v_i> over all items of a catalogue, and its gradients.

   The logits of BLOCK items and BLOCK queries at a time are computed, used and forgotten in the cache, and computed
   again in the backward pass. A column is a query, so that maxima and sums over items need none over lanes, and items
   are read as they lie in memory. Threads take different items: each alone writes their gradients, and has its own sums
   of what belongs to a query. */

#include "kernel.h"

#include <math.h>

STRUCT(cross_entropy,
    const float *query, *items; /* (P, D), P a multiple of LANES; (V, D) */
    const long *target;         /* (P,) */
    float *peak, *sum;          /* (n_threads, P) each: a thread's largest logit, its sum of e^(logit - peak) */
    float *own;                 /* (P,) the target's logit */
    long n, n_items, dim, out_of_range;
)

STRUCT(cross_entropy_back,
    const float *query, *items;
    const long *target;
    const float *total, *dout; /* (P,) each: the log of the sum over all items */
    float *ditems;             /* (V, D), 0 at first */
    long n, n_items, dim;
    struct sum dquery; /* (P, D) */
)

/* Loops over blocks of queries. */
#define QUERIES(start, columns, n) \
    for (long start = 0, columns; columns = (n) - start < BLOCK ? (n) - start : BLOCK, start < (n); start += BLOCK)

/* Each block of queries with its columns side by side: (D, BLOCK). */
static float *transposed(const float *query, long n, long dim) {
    float *to = scratch(n + BLOCK, dim);
    QUERIES(start, columns, n)
        for (long k = 0; k < dim; k++)
            for (long p = 0; p < columns; p++) to[start * dim + k * BLOCK + p] = query[(start + p) * dim + k];
    return to;
}

/* Adds the logits (items, BLOCK) of a block to the peak and the sum of each query. */
static void add_logits(const float *logits, long items, long columns, float *peak, float *sum) {
    EACH(j, columns) {
        vec before = LOAD(peak + j), now = before, total = {0};
        for (long i = 0; i < items; i++) now = larger(now, LOAD(logits + i * BLOCK + j));
        for (long i = 0; i < items; i++) total += exponential(LOAD(logits + i * BLOCK + j) - now);
        STORE(sum + j, LOAD(sum + j) * exponential(before - now) + total);
        STORE(peak + j, now);
    }
}

static void cross_entropy_thread(void *args, long thread, long n_threads) {
    struct cross_entropy *c = args;
    float *query = transposed(c->query, c->n, c->dim), logits[BLOCK * BLOCK];
    float *peak = c->peak + thread * c->n, *sum = c->sum + thread * c->n;
    for (long p = 0; p < c->n; p++) {
        peak[p] = -INFINITY, sum[p] = 0;
        if (!thread) c->out_of_range |= c->target[p] < 0 || c->target[p] >= c->n_items;
    }
    BLOCKS(first, items, c->n_items) QUERIES(start, columns, c->n) {
        multiply(items, columns, c->dim, c->items + first * c->dim, c->dim, 1, query + start * c->dim, BLOCK, logits,
                 BLOCK, 0);
        add_logits(logits, items, columns, peak + start, sum + start);
        for (long p = 0; p < columns; p++) {
            long item = c->target[start + p] - first;
            if (item >= 0 && item < items) c->own[start + p] = logits[item * BLOCK + p];
        }
    }
    free(query);
}
KERNEL(cross_entropy)

/* Turns the logits (items, BLOCK) of a block into the gradients of the loss by them. */
static void logits_back(float *logits, long items, long columns, const long *target, long first, const float *total,
                        const float *dout) {
    for (long i = 0; i < items; i++) EACH(j, columns) {
        float *at = logits + i * BLOCK + j;
        STORE(at, exponential(LOAD(at) - LOAD(total + j)) * LOAD(dout + j));
    }
    for (long p = 0; p < columns; p++) {
        long item = target[p] - first;
        if (item >= 0 && item < items) logits[item * BLOCK + p] -= dout[p];
    }
}

static void cross_entropy_back_thread(void *args, long thread, long n_threads) {
    const struct cross_entropy_back *c = args;
    float *query = transposed(c->query, c->n, c->dim), change[BLOCK * BLOCK], *dquery = sum_at(&c->dquery, thread);
    long dim = c->dim;
    BLOCKS(first, items, c->n_items) QUERIES(start, columns, c->n) {
        const float *item = c->items + first * dim;
        multiply(items, columns, dim, item, dim, 1, query + start * dim, BLOCK, change, BLOCK, 0);
        logits_back(change, items, columns, c->target + start, first, c->total + start, c->dout + start);
        multiply(items, dim, columns, change, BLOCK, 1, c->query + start * dim, dim, c->ditems + first * dim, dim, 1);
        multiply(columns, dim, items, change, 1, BLOCK, item, dim, dquery + start * dim, dim, 1);
    }
    free(query);
}
SUMMING_KERNEL(cross_entropy_back, dquery)
