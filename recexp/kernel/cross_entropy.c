/* cross_entropy.py: log sum_i e^<q_p, v_i> over all items of a catalogue, and its gradients.

   A column is a query, so that maxima and sums over items need none over lanes, and items are read as they lie in
   memory.

   summed_cross_entropy computes the losses and the gradients of their sum together: three products. The logits of BLOCK
   queries and all items are kept until they are used. Threads take different queries. sampled_cross_entropy does the same
   over sampled items, beside which each query has a target of its own.

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

STRUCT(sampled_cross_entropy,
    const float *query, *items; /* (P, D); (S, D) */
    const long *target, *id;    /* (P,), below 0 for a query that does not count; (S,): of the same items */
    const float *own;           /* (P,) the target's logit */
    float *loss, *dquery, *down; /* (P,); (P, D); (P,) */
    long n, n_items, dim;
    struct sum ditems; /* (S, D) */
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

/* Excludes the items (items, BLOCK) that are a query's target. */
static void exclude_targets(float *logits, long items, long columns, const long *id, const long *target) {
    for (long i = 0; i < items; i++)
        for (long p = 0; p < columns; p++)
            logits[i * BLOCK + p] = id[i] == target[p] ? -INFINITY : logits[i * BLOCK + p];
}

/* The logits (V, BLOCK) of the queries (columns of (D, BLOCK)), and the largest of each if it is above `peak`.
   With id, a query's target (columns,) is excluded. */
static void block_logits(const float *all_items, long n_items, long dim, const float *query, long columns,
                         const long *id, const long *target, float *logits, float *peak) {
    long width = padded_to_lanes(columns);
    ALL_BLOCKS(first, items, n_items) {
        float *at = logits + first * BLOCK;
        multiply(items, width, dim, all_items + first * dim, dim, 1, query, BLOCK, at, BLOCK, 0);
        if (id) exclude_targets(at, items, columns, id + first, target);
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

/* The gradients of BLOCK queries, and of all items, from the gradients of the loss by the logits times `sum`.
   divided (BLOCK, D) is memory. */
static void block_gradients(const float *query, const float *all_items, long n_items, long dim, long columns,
                            const float *logits, const float *sum, float *divided, float *dquery, float *ditems) {
    divide_rows(query, sum, columns, dim, divided);
    ALL_BLOCKS(first, items, n_items) {
        const float *weight = logits + first * BLOCK, *item = all_items + first * dim;
        multiply(items, dim, columns, weight, BLOCK, 1, divided, dim, ditems + first * dim, dim, 1);
        multiply(columns, dim, items, weight, 1, BLOCK, item, dim, dquery, dim, first > 0);
    }
    divide_rows(dquery, sum, columns, dim, dquery);
}

/* A block of queries, from `start` on; logits (V, BLOCK) and divided (BLOCK, D) are memory. */
static void summed_block(const struct summed_cross_entropy *c, long start, long columns, float *logits, float *divided,
                         float *ditems) {
    long dim = c->dim;
    const float *query = c->query + start * dim;
    float peak[BLOCK], sum[BLOCK];
    transpose(query, dim, columns, dim, divided, BLOCK, BLOCK);
    for (long p = 0; p < BLOCK; p++) peak[p] = -INFINITY;
    block_logits(c->items, c->n_items, dim, divided, columns, NULL, NULL, logits, peak);
    for (long p = 0; p < columns; p++) {
        long item = c->target[start + p];
        c->loss[start + p] = item >= 0 && item < c->n_items ? peak[p] - logits[item * BLOCK + p] : 0;
    }
    block_weights(logits, c->n_items, padded_to_lanes(columns), peak, sum);
    for (long p = 0; p < columns; p++) { /* weights are sum times the gradients by the logits from here on */
        long item = c->target[start + p];
        c->loss[start + p] += logf(sum[p]);
        if (item >= 0 && item < c->n_items) logits[item * BLOCK + p] -= sum[p];
    }
    block_gradients(query, c->items, c->n_items, dim, columns, logits, sum, divided, c->dquery + start * dim, ditems);
}

/* The same of sampled items. */
static void sampled_block(const struct sampled_cross_entropy *c, long start, long columns, float *logits,
                          float *divided, float *ditems) {
    long dim = c->dim;
    const float *query = c->query + start * dim, *own = c->own + start;
    const long *target = c->target + start;
    float peak[BLOCK] = {0}, sum[BLOCK];
    transpose(query, dim, columns, dim, divided, BLOCK, BLOCK);
    memcpy(peak, own, sizeof(float) * columns);
    block_logits(c->items, c->n_items, dim, divided, columns, c->id, target, logits, peak);
    block_weights(logits, c->n_items, padded_to_lanes(columns), peak, sum);
    for (long p = 0; p < columns; p++) {
        float weight = expf(own[p] - peak[p]);
        sum[p] = target[p] < 0 ? INFINITY : sum[p] + weight; /* so that all gradients become 0 */
        c->loss[start + p] = target[p] < 0 ? 0 : peak[p] - own[p] + logf(sum[p]);
        c->down[start + p] = target[p] < 0 ? 0 : weight / sum[p] - 1;
    }
    block_gradients(query, c->items, c->n_items, dim, columns, logits, sum, divided, c->dquery + start * dim, ditems);
}

/* Loops over the blocks of the queries of a thread: each takes the same number, a multiple of LANES. */
#define BLOCKS_OF_THREAD(start, columns, n) \
    for (long share = padded_to_lanes(((n) + n_threads - 1) / n_threads), start = thread * share, \
              end = start + share < (n) ? start + share : (n), columns; \
         columns = end - start < BLOCK ? end - start : BLOCK, start < end; start += BLOCK)

static void summed_cross_entropy_thread(void *args, long thread, long n_threads) {
    struct summed_cross_entropy *c = args;
    float *logits = scratch(c->n_items, BLOCK), *divided = scratch(BLOCK, c->dim), *ditems = sum_at(&c->ditems, thread);
    for (long p = 0; p < c->n && !thread; p++) c->out_of_range |= c->target[p] < 0 || c->target[p] >= c->n_items;
    BLOCKS_OF_THREAD(start, columns, c->n) summed_block(c, start, columns, logits, divided, ditems);
    free(logits);
    free(divided);
}
SUMMING_KERNEL(summed_cross_entropy, ditems)

static void sampled_cross_entropy_thread(void *args, long thread, long n_threads) {
    struct sampled_cross_entropy *c = args;
    float *logits = scratch(c->n_items, BLOCK), *divided = scratch(BLOCK, c->dim), *ditems = sum_at(&c->ditems, thread);
    BLOCKS_OF_THREAD(start, columns, c->n) sampled_block(c, start, columns, logits, divided, ditems);
    free(logits);
    free(divided);
}
SUMMING_KERNEL(sampled_cross_entropy, ditems)
