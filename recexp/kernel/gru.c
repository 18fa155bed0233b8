/* gru.py: a GRU, AUGRU or AGRU over sequences. Rows do not depend on one another, so a thread takes a block of rows
   through all of its steps. */

#include "kernel.h"


STRUCT(recurrence,
    const float *x;                          /* (L, B, K), with the two below; or products of inputs (n, 3H) */
    const float *OPTIONAL weight_x, *OPTIONAL bias_x; /* (K, 3H), (3H,) */
    const long *OPTIONAL index;              /* (L, B): rows of the products; without it each step has its own */
    const float *OPTIONAL a;                 /* (B, L): attention, 1 without it */
    const float *weight, *bias;              /* (H, 3H), (H,) of the candidate */
    const unsigned char *OPTIONAL mask;      /* (B, L) */
    float *h, *gates, *y_n;                  /* (L + 1, B, H), the first step given; (L, B, 3H); (L, B, H) */
    long n_steps, n_rows, n_in, width;
    long update;                             /* whether attention scales the update gate (AUGRU) or replaces it (AGRU) */
    long n_products, out_of_range;           /* whether an index is outside the products */
)

/* The weight of the candidate in the new state. */
INLINE vec candidate_weight(float attention, vec u, long update) {
    if (update) return attention * u;
    return (vec){0} + attention;
}

/* The number of rows of a block up to the last one with an event at step t. Later rows keep their state. */
static long active_rows(const unsigned char *mask, long start, long rows, long t, long n_steps) {
    while (mask && rows && !mask[(start + rows - 1) * n_steps + t]) rows--;
    return rows;
}

static void recurrence_thread(void *args, long thread, long n_threads) {
    struct recurrence *c = args;
    long width = c->width, all = 3 * width, n_rows = c->n_rows, n_steps = c->n_steps;
    float *y = scratch(BLOCK, all);
    BLOCKS(start, rows, n_rows) for (long t = 0; t < n_steps; t++) {
        long at = t * n_rows + start, n = active_rows(c->mask, start, rows, t, n_steps);
        float *gates = c->gates + at * all, *y_n = c->y_n + at * width, *old = c->h + at * width;
        float *new = old + n_rows * width;
        if (c->weight_x) affine(c->x + at * c->n_in, n, c->n_in, c->weight_x, c->bias_x, all, gates);
        for (long i = 0; !c->weight_x && i < n; i++) {
            long index = c->index ? c->index[at + i] : at + i;
            if (c->index && (index < 0 || index >= c->n_products))
                c->out_of_range = 1;
            else
                memcpy(gates + i * all, c->x + index * all, sizeof(float) * all);
        }
        multiply_onto(n, 2 * width, width, old, width, 1, c->weight, all, y, all, gates, all);
        multiply_onto(n, width, width, old, width, 1, c->weight + 2 * width, all, y + 2 * width, all, c->bias, 0);
        for (long i = 0; i < n; i++) EACH(j, width) {
            float attention = c->a ? c->a[(start + i) * n_steps + t] : 1.f;
            const float *from = y + i * all + j;
            float *to = gates + i * all + j;
            vec r = sigmoid(LOAD(from)), u = sigmoid(LOAD(from + width)), product = LOAD(from + 2 * width);
            vec candidate = hyperbolic(LOAD(to + 2 * width) + r * product), h = LOAD(old + i * width + j);
            STORE(to, r);
            STORE(to + width, u);
            STORE(to + 2 * width, candidate);
            STORE(y_n + i * width + j, product);
            STORE(new + i * width + j, h + candidate_weight(attention, u, c->update) * (candidate - h));
        }
        memcpy(new + n * width, old + n * width, sizeof(float) * (rows - n) * width);
    }
    free(y);
}
KERNEL(recurrence)

STRUCT(recurrence_back,
    const float *OPTIONAL x, *OPTIONAL weight_x;    /* (L, B, K), (3H, K); neither with products */
    const float *OPTIONAL a, *weight;               /* weight (3H, H) */
    const unsigned char *OPTIONAL mask;
    const float *h, *gates, *y_n;
    const float *OPTIONAL dstates, *OPTIONAL dlast; /* (L, B, H), (B, H) */
    float *OPTIONAL da, *dx;                        /* (B, L); (L, B, K), with products (L, B, 3H) */
    long n_steps, n_rows, n_in, width, update;
    struct sum dweight, dbias;                      /* (3H, H), (H,) */
    struct sum OPTIONAL dweight_x, OPTIONAL dbias_x; /* (3H, K), (3H,) */
)

static void recurrence_back_thread(void *args, long thread, long n_threads) {
    const struct recurrence_back *c = args;
    long width = c->width, all = 3 * width, n_rows = c->n_rows, n_steps = c->n_steps;
    long n_in = c->weight_x ? c->n_in : all;
    float *dy = scratch(BLOCK, all), *dh = scratch(BLOCK, width), *own = scratch(BLOCK, all);
    float *dweight = sum_at(&c->dweight, thread), *dbias = sum_at(&c->dbias, thread);
    float *dweight_x = sum_at(&c->dweight_x, thread), *dbias_x = sum_at(&c->dbias_x, thread);
    BLOCKS(start, rows, n_rows) {
        memset(dh, 0, sizeof(float) * rows * width);
        if (c->dlast) memcpy(dh, c->dlast + start * width, sizeof(float) * rows * width);
        for (long t = n_steps - 1; t >= 0; t--) {
            long at = t * n_rows + start, n = active_rows(c->mask, start, rows, t, n_steps);
            const float *gates = c->gates + at * all, *y_n = c->y_n + at * width, *old = c->h + at * width;
            float *dx = c->dx + at * n_in, *dgates = c->weight_x ? own : dx;
            for (long i = 0; c->dstates && i < rows; i++) EACH(j, width) {
                float *to = dh + i * width + j;
                STORE(to, LOAD(to) + LOAD(c->dstates + (at + i) * width + j));
            }
            for (long i = 0; i < n; i++) {
                float attention = c->a ? c->a[(start + i) * n_steps + t] : 1.f;
                vec da = {0};
                EACH(j, width) {
                    const float *from = gates + i * all + j;
                    float *to = dgates + i * all + j, *hidden = dy + i * all + j, *grad = dh + i * width + j;
                    vec r = LOAD(from), u = LOAD(from + width), candidate = LOAD(from + 2 * width);
                    vec through = LOAD(grad) * candidate_weight(attention, u, c->update);
                    vec dk = LOAD(grad) * (candidate - LOAD(old + i * width + j));
                    vec dn = through * (1.f - candidate * candidate), dyn = dn * r;
                    vec dr = dyn * LOAD(y_n + i * width + j) * (1.f - r), du = {0};
                    if (c->update) {
                        da += dk * u;
                        du = dk * attention * u * (1.f - u);
                    } else
                        da += dk;
                    STORE(grad, LOAD(grad) - through);
                    STORE(to, dr), STORE(to + width, du), STORE(to + 2 * width, dn);
                    STORE(hidden, dr), STORE(hidden + width, du), STORE(hidden + 2 * width, dyn);
                    STORE(dbias + j, LOAD(dbias + j) + dyn);
                }
                if (c->da) c->da[(start + i) * n_steps + t] = sum_of(da)[0];
            }
            for (long i = n; c->da && i < rows; i++) c->da[(start + i) * n_steps + t] = 0;
            memset(dx + n * n_in, 0, sizeof(float) * (rows - n) * n_in);
            multiply(n, width, all, dy, all, 1, c->weight, width, dh, width, 1);
            multiply(all, width, n, dy, 1, all, old, width, dweight, width, 1);
            if (c->weight_x)
                affine_back(c->x + at * n_in, dgates, n, n_in, c->weight_x, all, dweight_x, dbias_x, dx, 0);
        }
    }
    free(dy), free(dh), free(own);
}
SUMMING_KERNEL(recurrence_back, dweight)
