/* gated_linear.py: W_k (2 s_k * e) + b_k for k = 0, 1: two gates on the same numbers, and the product after each. */

#include "kernel.h"

STRUCT(gated_linear,
    const float *e, *s[2];            /* (B, N), (n_k, N) each */
    const long *index[2];             /* (B,) each: the row of s_k */
    const float *weight[2], *bias[2]; /* (N, H_k), (H_k,) */
    float *out[2];                    /* (B, H_k) */
    long n, dim, n_out[2], n_rows[2]; /* n_k */
    long out_of_range;                /* whether an index is none of them */
)

STRUCT(gated_linear_back,
    const float *e, *s[2]; /* up to index as in gated_linear */
    const long *index[2];
    const float *weight[2], *dout[2]; /* (H_k, N), (B, H_k) */
    float *de, *ds;                   /* (B, N), and of the rows of both s_k side by side (B, 2 N) */
    long n, dim, n_out[2];
    struct sum dweight[2], dbias[2]; /* (H_k, N), (H_k,) */
)

/* 2 s * e of the rows from `start` on. */
static void gate(const float *e, const float *s, const long *index, long start, long rows, long dim, float *to) {
    for (long i = 0; i < rows; i++) {
        const float *share = s + index[start + i] * dim, *row = e + (start + i) * dim;
        EACH(j, dim) STORE(to + i * dim + j, 2.f * LOAD(share + j) * LOAD(row + j));
    }
}

static void gated_linear_thread(void *args, long thread, long n_threads) {
    struct gated_linear *g = args;
    float *x = scratch(BLOCK, g->dim);
    BLOCKS(start, rows, g->n) for (long k = 0; k < 2; k++) {
        for (long i = start; i < start + rows; i++)
            g->out_of_range |= g->index[k][i] < 0 || g->index[k][i] >= g->n_rows[k];
        if (g->out_of_range) break;
        gate(g->e, g->s[k], g->index[k], start, rows, g->dim, x);
        affine(x, rows, g->dim, g->weight[k], g->bias[k], g->n_out[k], g->out[k] + start * g->n_out[k]);
    }
    free(x);
}
KERNEL(gated_linear)

static void gated_linear_back_thread(void *args, long thread, long n_threads) {
    const struct gated_linear_back *g = args;
    long dim = g->dim;
    float *x = scratch(BLOCK, dim), *dx = scratch(BLOCK, dim);
    BLOCKS(start, rows, g->n) for (long k = 0; k < 2; k++) {
        gate(g->e, g->s[k], g->index[k], start, rows, dim, x);
        affine_back(x, g->dout[k] + start * g->n_out[k], rows, dim, g->weight[k], g->n_out[k],
                    sum_at(&g->dweight[k], thread), sum_at(&g->dbias[k], thread), dx, 0);
        for (long i = 0; i < rows; i++) {
            const float *share = g->s[k] + g->index[k][start + i] * dim, *e = g->e + (start + i) * dim;
            float *de = g->de + (start + i) * dim, *ds = g->ds + (start + i) * 2 * dim + k * dim;
            EACH(j, dim) {
                vec change = 2.f * LOAD(dx + i * dim + j), of_e = change * LOAD(share + j);
                if (k) of_e += LOAD(de + j);
                STORE(de + j, of_e);
                STORE(ds + j, change * LOAD(e + j));
            }
        }
    }
    free(x), free(dx);
}
SUMMING_KERNEL(gated_linear_back, dweight)
