/* interaction.py, _Terms: of fields e (n, F, D) of rows their sum, the sum of their squares and W e, side by side. */

#include "kernel.h"


STRUCT(terms,
    const float *e, *weight; /* (n, F, D), (F D, H) */
    float *out;              /* (n, 2 D + H); its gradient in terms_back */
    long n, n_fields, dim, hidden;
    const float *back; /* (H, F D), of terms_back as all below */
    float *de;         /* (n, F, D) */
    struct sum dweight;  /* of the gradient of weight (H, F D) */
)

static void terms_thread(void *args, long thread, long n_threads) {
    const struct terms *t = args;
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
KERNEL(terms, terms)

static void terms_back_thread(void *args, long thread, long n_threads) {
    const struct terms *t = args;
    long dim = t->dim, all = t->n_fields * dim, width = 2 * dim + t->hidden;
    float *dweight = sum_at(&t->dweight, thread);
    BLOCKS(start, rows, t->n) {
        const float *e = t->e + start * all, *dout = t->out + start * width;
        float *de = t->de + start * all;
        for (long i = 0; i < rows; i++)
            for (long field = 0; field < all; field += dim) EACH(j, dim) {
                vec dsquares = LOAD(dout + i * width + dim + j), x = LOAD(e + i * all + field + j);
                STORE(de + i * all + field + j, LOAD(dout + i * width + j) + 2.f * x * dsquares);
            }
        multiply(rows, all, t->hidden, dout + 2 * dim, width, 1, t->back, all, de, all, 1);
        multiply(t->hidden, all, rows, dout + 2 * dim, 1, width, e, all, dweight, all, 1);
    }
}
SUMMING_KERNEL(terms_back, terms, dweight)

/* interaction.py, _Apart: the products of pairs (S^2 - Q) / 2 and the rest plus a bias, of sums [S, Q, rest]. */

STRUCT(apart,
    const float *terms, *bias; /* (n, 2 D + H), (H,) or null */
    float *products, *rest;    /* (n, D), (n, H); of apart_back their gradients */
    float *dterms;             /* (n, 2 D + H); of apart_back */
    long n, dim, hidden;
    struct sum dbias; /* of the gradient of bias (H,) */
)

static void apart_thread(void *args, long thread, long n_threads) {
    const struct apart *p = args;
    long dim = p->dim, hidden = p->hidden;
    BLOCKS(start, rows, p->n) for (long i = start; i < start + rows; i++) {
        const float *sum = p->terms + i * (2 * dim + hidden), *squares = sum + dim, *rest = squares + dim;
        EACH(j, dim) STORE(p->products + i * dim + j, (LOAD(sum + j) * LOAD(sum + j) - LOAD(squares + j)) * .5f);
        EACH(j, hidden) STORE(p->rest + i * hidden + j, LOAD(rest + j) + LOAD(p->bias + j));
    }
}
KERNEL(apart, apart)

static void apart_back_thread(void *args, long thread, long n_threads) {
    const struct apart *p = args;
    long dim = p->dim, hidden = p->hidden, width = 2 * dim + hidden;
    float *dbias = sum_at(&p->dbias, thread);
    BLOCKS(start, rows, p->n) {
        for (long i = start; i < start + rows; i++) {
            const float *sum = p->terms + i * width;
            float *dsum = p->dterms + i * width;
            EACH(j, dim) {
                vec change = LOAD(p->products + i * dim + j);
                STORE(dsum + j, LOAD(sum + j) * change);
                STORE(dsum + dim + j, change * -.5f);
            }
            memcpy(dsum + 2 * dim, p->rest + i * hidden, sizeof(float) * hidden);
        }
        add_rows(p->rest + start * hidden, rows, hidden, dbias);
    }
}
SUMMING_KERNEL(apart_back, apart, dbias)
