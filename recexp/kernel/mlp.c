/* mlp.py: what follows the first product x (N, C_0) of an MLP: f, dropout and a Linear, layer by layer. f is a relu with
   a slope below 0. The backward pass recomputes the hidden units. */

#include "kernel.h"


enum { DEEPEST = 4 }; /* layers; as in mlp.py */

STRUCT(tail,
    const float *x, *weight[4], *bias[4];      /* (N, C_0), (C_i, C_i+1), (C_i+1,) */
    long n, n_layers, width[5], dropped, seed; /* width: C_0, ..., C_n, the last may be 1; dropped: units of 2^-32 */
    double slope;
    float *out; /* (N, C_n) */
)

STRUCT(tail_back,
    const float *x, *weight[4], *bias[4]; /* up to slope as in tail */
    long n, n_layers, width[5], dropped, seed;
    double slope;
    const float *back[4], *dout;     /* (C_i+1, C_i), (N, C_n) */
    float *dx;                       /* (N, C_0) */
    struct sum dweight[4], dbias[4]; /* (C_i+1, C_i), (C_i+1,) */
)

/* Hidden units u_i (rows, C_i), after f and dropout, of the block from row `start` on; `out` may be null. */
static void tail_hidden(const struct tail *t, long start, long rows, float **u, float *out) {
    float slope = t->slope;
    memcpy(u[0], t->x + start * t->width[0], sizeof(float) * rows * t->width[0]);
    for (long layer = 0; layer < t->n_layers; layer++) {
        long width = t->width[layer], n_out = t->width[layer + 1];
        float *next = layer + 1 < t->n_layers ? u[layer + 1] : out, *now = u[layer];
        EACH(i, rows * width) {
            vec x = LOAD(now + i), keep = kept(t->seed + layer, start * width + i, t->dropped);
            STORE(now + i, either(x > 0.f, x, x * slope) * keep);
        }
        if (next) affine(now, rows, width, t->weight[layer], t->bias[layer], n_out, next);
    }
}

static void tail_thread(void *args, long thread, long n_threads) {
    const struct tail *t = args;
    float *u[DEEPEST];
    for (long i = 0; i < t->n_layers; i++) u[i] = scratch(BLOCK, t->width[i]);
    BLOCKS(start, rows, t->n) tail_hidden(t, start, rows, u, t->out + start * t->width[t->n_layers]);
    for (long i = 0; i < t->n_layers; i++) free(u[i]);
}
KERNEL(tail)

static void tail_back_thread(void *args, long thread, long n_threads) {
    const struct tail_back *t = args;
    float *u[DEEPEST], *du[DEEPEST], slope = t->slope;
    for (long i = 0; i < t->n_layers; i++) u[i] = scratch(BLOCK, t->width[i]), du[i] = scratch(BLOCK, t->width[i]);
    BLOCKS(start, rows, t->n) {
        const float *dnext = t->dout + start * t->width[t->n_layers];
        tail_hidden(args, start, rows, u, 0);
        for (long layer = t->n_layers - 1; layer >= 0; dnext = du[layer--]) {
            long width = t->width[layer], n_out = t->width[layer + 1];
            float *dx = layer ? du[layer] : t->dx + start * width;
            float *dweight = sum_at(&t->dweight[layer], thread), *dbias = sum_at(&t->dbias[layer], thread);
            affine_back(u[layer], dnext, rows, width, t->back[layer], n_out, dweight, dbias, dx, 0);
            EACH(i, rows * width) {
                vec keep = kept(t->seed + layer, start * width + i, t->dropped), change = LOAD(dx + i) * keep;
                STORE(dx + i, either(LOAD(u[layer] + i) > 0.f, change, change * slope));
            }
        }
    }
    for (long i = 0; i < t->n_layers; i++) free(u[i]), free(du[i]);
}
SUMMING_KERNEL(tail_back, dweight)
