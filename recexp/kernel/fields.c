/* fields.py: sums over the fields of a row, and the terms of a factorization machine and an MLP from them. */

#include "kernel.h"


/* The sum of fields e, the sum of their squares and W e, side by side. */

STRUCT(field_sums,
    const float *e, *OPTIONAL weight; /* (n, F, D), (F D, H) */
    float *out;                       /* (n, 2 D + H) */
    long n, n_fields, dim, hidden;
)

static void field_sums_thread(void *args, long thread, long n_threads) {
    const struct field_sums *t = args;
    long dim = t->dim, all = t->n_fields * dim, width = 2 * dim + t->hidden;
    BLOCKS(start, rows, t->n) {
        const float *e = t->e + start * all;
        float *out = t->out + start * width;
        for (long i = 0; i < rows; i++) EACH(j, dim) {
            vec sum = {0}, squares = {0};
            for (long field = 0; field < all; field += dim) {
                vec x = LOAD(e + i * all + field + j);
                sum += x;
                squares += x * x;
            }
            STORE(out + i * width + j, sum);
            STORE(out + i * width + dim + j, squares);
        }
        multiply(rows, t->hidden, all, e, all, 1, t->weight, t->hidden, out + 2 * dim, width, 0);
    }
}
KERNEL(field_sums)

STRUCT(field_sums_back,
    const float *e, *OPTIONAL weight, *dout; /* weight (H, F D) */
    float *de;                               /* (n, F, D) */
    long n, n_fields, dim, hidden;
    struct sum OPTIONAL dweight; /* (H, F D) */
)

static void field_sums_back_thread(void *args, long thread, long n_threads) {
    const struct field_sums_back *t = args;
    long dim = t->dim, all = t->n_fields * dim, width = 2 * dim + t->hidden;
    float *dweight = sum_at(&t->dweight, thread);
    BLOCKS(start, rows, t->n) {
        const float *e = t->e + start * all, *dout = t->dout + start * width;
        float *de = t->de + start * all;
        for (long i = 0; i < rows; i++)
            for (long field = 0; field < all; field += dim) EACH(j, dim) {
                vec dsquares = LOAD(dout + i * width + dim + j), x = LOAD(e + i * all + field + j);
                STORE(de + i * all + field + j, LOAD(dout + i * width + j) + 2.f * x * dsquares);
            }
        multiply(rows, all, t->hidden, dout + 2 * dim, width, 1, t->weight, all, de, all, 1);
        multiply(t->hidden, all, rows, dout + 2 * dim, 1, width, e, all, dweight, all, 1);
    }
}
SUMMING_KERNEL(field_sums_back, dweight)

/* From sums [S, Q, W e], the products of pairs (S^2 - Q) / 2, and W e + b. */

STRUCT(split_sums,
    const float *sums, *OPTIONAL bias; /* (n, 2 D + H), (H,) */
    float *pairs, *linear;             /* (n, D), (n, H) */
    long n, dim, hidden;
)

static void split_sums_thread(void *args, long thread, long n_threads) {
    const struct split_sums *p = args;
    long dim = p->dim, hidden = p->hidden;
    BLOCKS(start, rows, p->n) for (long i = start; i < start + rows; i++) {
        const float *sum = p->sums + i * (2 * dim + hidden), *squares = sum + dim, *product = squares + dim;
        EACH(j, dim) STORE(p->pairs + i * dim + j, (LOAD(sum + j) * LOAD(sum + j) - LOAD(squares + j)) * .5f);
        EACH(j, hidden) STORE(p->linear + i * hidden + j, LOAD(product + j) + LOAD(p->bias + j));
    }
}
KERNEL(split_sums)

STRUCT(split_sums_back,
    const float *sums, *dpairs, *dlinear;
    float *dsums; /* (n, 2 D + H) */
    long n, dim, hidden;
    struct sum OPTIONAL dbias; /* (H,) */
)

static void split_sums_back_thread(void *args, long thread, long n_threads) {
    const struct split_sums_back *p = args;
    long dim = p->dim, hidden = p->hidden, width = 2 * dim + hidden;
    float *dbias = sum_at(&p->dbias, thread);
    BLOCKS(start, rows, p->n) {
        for (long i = start; i < start + rows; i++) {
            const float *sum = p->sums + i * width;
            float *dsum = p->dsums + i * width;
            EACH(j, dim) {
                vec change = LOAD(p->dpairs + i * dim + j);
                STORE(dsum + j, LOAD(sum + j) * change);
                STORE(dsum + dim + j, change * -.5f);
            }
            if (hidden) memcpy(dsum + 2 * dim, p->dlinear + i * hidden, sizeof(float) * hidden);
        }
        add_rows(p->dlinear + start * hidden, rows, hidden, dbias);
    }
}
SUMMING_KERNEL(split_sums_back, dbias)
