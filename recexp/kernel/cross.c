/* cross.py: the full crosses of DCN v2, one after another on a block of rows, and a Linear from them to one number. */

#include "kernel.h"

STRUCT(cross,
    const float *x, *weight, *bias; /* x_0 (B, N), (L, N, N) from inputs to outputs, (L, N) */
    const float *OPTIONAL last;     /* (N,) */
    float *z, *out;                 /* W x_l + b of each cross (L, B, N); x_L (B, N), or its product with `last` (B,) */
    long n, dim, n_layers;
)

STRUCT(cross_back,
    const float *x, *z, *weight, *OPTIONAL last, *dout; /* weight (L, N, N) from outputs to inputs, dout as out */
    float *dx;                                          /* (B, N) */
    long n, dim, n_layers;
    struct sum dweight, dbias, OPTIONAL dlast; /* (L, N, N), (L, N), (N,) */
)

/* next = x_0 * z + x, arrays of n numbers. */
static void add_product(const float *x0, const float *z, const float *x, long n, float *next) {
    EACH(i, n) STORE(next + i, LOAD(x0 + i) * LOAD(z + i) + LOAD(x + i));
}

static void cross_thread(void *args, long thread, long n_threads) {
    const struct cross *c = args;
    long dim = c->dim;
    float *made = scratch(BLOCK, dim);
    BLOCKS(start, rows, c->n) {
        const float *x0 = c->x + start * dim, *x = x0;
        for (long layer = 0; layer < c->n_layers; layer++) {
            float *z = c->z + (layer * c->n + start) * dim;
            float *next = layer + 1 < c->n_layers || c->last ? made : c->out + start * dim;
            affine(x, rows, dim, c->weight + layer * dim * dim, c->bias + layer * dim, dim, z);
            add_product(x0, z, x, rows * dim, next);
            x = next;
        }
        if (c->last) affine(x, rows, dim, c->last, 0, 1, c->out + start);
    }
    free(made);
}
KERNEL(cross)

static void cross_back_thread(void *args, long thread, long n_threads) {
    const struct cross_back *c = args;
    long dim = c->dim, n_layers = c->n_layers;
    float *made = scratch(BLOCK * n_layers, dim), *dnext = scratch(BLOCK, dim), *dz = scratch(BLOCK, dim);
    float *dweight = sum_at(&c->dweight, thread), *dbias = sum_at(&c->dbias, thread);
    float *dlast = sum_at(&c->dlast, thread), unused = 0;
    BLOCKS(start, rows, c->n) {
        const float *x0 = c->x + start * dim, *x = x0;
        float *dx0 = c->dx + start * dim;
        for (long layer = 0; layer + !c->last < n_layers; layer++) { /* x_1, ... again, x_L for `last` alone */
            float *next = made + layer * BLOCK * dim;
            add_product(x0, c->z + (layer * c->n + start) * dim, x, rows * dim, next);
            x = next;
        }
        if (c->last)
            affine_back(x, c->dout + start, rows, dim, c->last, 1, dlast, &unused, dnext, 0);
        else
            memcpy(dnext, c->dout + start * dim, sizeof(float) * rows * dim);
        for (long layer = n_layers - 1; layer >= 0; layer--) {
            const float *z = c->z + (layer * c->n + start) * dim;
            x = layer ? made + (layer - 1) * BLOCK * dim : x0;
            EACH(i, rows * dim) {
                vec change = LOAD(dnext + i), sum = change * LOAD(z + i);
                if (layer + 1 < n_layers) sum += LOAD(dx0 + i);
                STORE(dx0 + i, sum);
                STORE(dz + i, change * LOAD(x0 + i));
            }
            affine_back(x, dz, rows, dim, c->weight + layer * dim * dim, dim, dweight + layer * dim * dim,
                        dbias + layer * dim, dnext, 1);
        }
        EACH(i, rows * dim) STORE(dx0 + i, LOAD(dx0 + i) + LOAD(dnext + i));
    }
    free(made), free(dnext), free(dz);
}
SUMMING_KERNEL(cross_back, dweight)
