/* cross_entropy.py: log sum_i e^<q_p, v_i> over all items of a catalogue, and its gradients.

   A column is a query, so that maxima and sums over items need none over lanes, and items are read as they lie in
   memory.

   summed_cross_entropy computes the losses and the gradients of their sum together: three products. The logits of BLOCK
   queries and all items are kept until they are used. Threads take different queries.

   cross_entropy and cross_entropy_back keep no more than the logits of BLOCK items and BLOCK queries, and compute them
   once more in the backward pass: four products, for losses that are weighted, and for catalogues too large to keep a
   row of logits. Threads take different items: each alone writes their gradients, and has its own sums of what belongs to
   a query. */

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

STRUCT(summed_cross_entropy,
    const float *query, *items; /* (P, D); (V, D) */
    const long *target;         /* (P,) */
    float *loss, *dquery;       /* (P,); (P, D) */
    long n, n_items, dim, out_of_range;
    struct sum ditems; /* (V, D) */
)

/* Loops over all blocks of n rows in one thread, queries or items. */
#define ALL_BLOCKS(start, rows, n) \
    for (long start = 0, rows; rows = (n) - start < BLOCK ? (n) - start : BLOCK, start < (n); start += BLOCK)

/* Each block of queries with its columns side by side: (D, BLOCK). */
static float *transposed(const float *query, long n, long dim) {
    float *to = scratch(n + BLOCK, dim);
    ALL_BLOCKS(start, columns, n)
        transpose(query + start * dim, dim, columns, dim, to + start * dim, BLOCK, columns);
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
    BLOCKS(first, items, c->n_items) ALL_BLOCKS(start, columns, c->n) {
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
    BLOCKS(first, items, c->n_items) ALL_BLOCKS(start, columns, c->n) {
        const float *item = c->items + first * dim;
        multiply(items, columns, dim, item, dim, 1, query + start * dim, BLOCK, change, BLOCK, 0);
        logits_back(change, items, columns, c->target + start, first, c->total + start, c->dout + start);
        multiply(items, dim, columns, change, BLOCK, 1, c->query + start * dim, dim, c->ditems + first * dim, dim, 1);
        multiply(columns, dim, items, change, 1, BLOCK, item, dim, dquery + start * dim, dim, 1);
    }
    free(query);
}
SUMMING_KERNEL(cross_entropy_back, dquery)

/* The logits (V, BLOCK) of the queries (columns of (D, BLOCK)), and the largest of each. */
static void block_logits(const struct summed_cross_entropy *c, const float *query, long width, float *logits,
                         float *peak) {
    EACH(j, width) STORE(peak + j, (vec){0} - INFINITY);
    ALL_BLOCKS(first, items, c->n_items) {
        float *at = logits + first * BLOCK;
        multiply(items, width, c->dim, c->items + first * c->dim, c->dim, 1, query, BLOCK, at, BLOCK, 0);
        EACH(j, width) {
            vec largest = LOAD(peak + j);
            for (long i = 0; i < items; i++) largest = larger(largest, LOAD(at + i * BLOCK + j));
            STORE(peak + j, largest);
        }
    }
}

/* The logits (V, BLOCK) become e^(logit - peak), with their sums by query. */
static void block_weights(float *logits, long n_items, long width, const float *peak, float *sum) {
    memset(sum, 0, sizeof(float) * width);
    ALL_BLOCKS(first, items, n_items) EACH(j, width) {
        vec total = {0};
        for (long i = first; i < first + items; i++) {
            float *at = logits + i * BLOCK + j;
            STORE(at, exponential(LOAD(at) - LOAD(peak + j)));
            total += LOAD(at);
        }
        STORE(sum + j, LOAD(sum + j) + total);
    }
}

/* to (rows, D) = x of the same shape, each row divided by a number of its own. */
static void divide_rows(const float *x, const float *by, long rows, long dim, float *to) {
    for (long p = 0; p < rows; p++) EACH(k, dim) STORE(to + p * dim + k, LOAD(x + p * dim + k) / by[p]);
}

/* A block of queries, from `start` on; logits (V, BLOCK) and divided (BLOCK, D) are memory. */
static void summed_block(const struct summed_cross_entropy *c, long start, long columns, float *logits, float *divided,
                         float *ditems) {
    long dim = c->dim, width = padded_to_lanes(columns);
    const float *query = c->query + start * dim;
    float peak[BLOCK], sum[BLOCK], *dquery = c->dquery + start * dim;
    transpose(query, dim, columns, dim, divided, BLOCK, BLOCK);
    block_logits(c, divided, width, logits, peak);
    for (long p = 0; p < columns; p++) {
        long item = c->target[start + p];
        c->loss[start + p] = item >= 0 && item < c->n_items ? peak[p] - logits[item * BLOCK + p] : 0;
    }
    block_weights(logits, c->n_items, width, peak, sum);
    for (long p = 0; p < columns; p++) { /* weights are sum times the gradients by the logits from here on */
        long item = c->target[start + p];
        c->loss[start + p] += logf(sum[p]);
        if (item >= 0 && item < c->n_items) logits[item * BLOCK + p] -= sum[p];
    }
    divide_rows(query, sum, columns, dim, divided);
    ALL_BLOCKS(first, items, c->n_items) {
        const float *weight = logits + first * BLOCK, *item = c->items + first * dim;
        multiply(items, dim, columns, weight, BLOCK, 1, divided, dim, ditems + first * dim, dim, 1);
        multiply(columns, dim, items, weight, 1, BLOCK, item, dim, dquery, dim, first > 0);
    }
    divide_rows(dquery, sum, columns, dim, dquery);
}

static void summed_cross_entropy_thread(void *args, long thread, long n_threads) {
    struct summed_cross_entropy *c = args;
    float *logits = scratch(c->n_items, BLOCK), *divided = scratch(BLOCK, c->dim), *ditems = sum_at(&c->ditems, thread);
    for (long p = 0; p < c->n && !thread; p++) c->out_of_range |= c->target[p] < 0 || c->target[p] >= c->n_items;
    long share = padded_to_lanes((c->n + n_threads - 1) / n_threads); /* of the queries, for each thread */
    long end = (thread + 1) * share < c->n ? (thread + 1) * share : c->n;
    for (long start = thread * share; start < end; start += BLOCK)
        summed_block(c, start, end - start < BLOCK ? end - start : BLOCK, logits, divided, ditems);
    free(logits);
    free(divided);
}
SUMMING_KERNEL(summed_cross_entropy, ditems)
