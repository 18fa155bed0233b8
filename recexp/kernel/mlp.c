/* fused.py, _Tail: what follows the first product x (N, C_0) of an MLP: f, dropout and a Linear, layer by layer. */

#include "kernel.h"


enum { DEEPEST = 4 };

STRUCT(tail,
    const float *x;  /* (N, C_0) */
    float *out, *dx; /* (N, C_n), dout in tail_back; (N, C_0) of tail_back, as all that starts with d */
    long n, n_layers, percent, dropped, seed; /* dropped: of 2^32 */
    long width[5];                  /* C_0, ..., C_n, of which the last may be 1 */
    const float *weight[4], *OPTIONAL bias[4], *OPTIONAL back[4]; /* (C_i, C_i+1), (C_i+1,), (C_i+1, C_i) */
    struct sum dweight[4], dbias[4]; /* of the gradients: of weights, from the first on (C_i+1, C_i), and from DEEPEST on of biases */
)

/* Hidden units u_i (rows, C_i) after f and dropout, of a block that starts at a row; `out` may be null. */
static void tail_hidden(const struct tail *t, long start, long rows, float **u, float *out) {
    float slope = t->percent / 100.f;
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
KERNEL(tail, tail)

static void tail_back_thread(void *args, long thread, long n_threads) {
    const struct tail *t = args;
    float *u[DEEPEST], *du[DEEPEST], slope = t->percent / 100.f;
    for (long i = 0; i < t->n_layers; i++) u[i] = scratch(BLOCK, t->width[i]), du[i] = scratch(BLOCK, t->width[i]);
    BLOCKS(start, rows, t->n) {
        const float *dnext = t->out + start * t->width[t->n_layers];
        tail_hidden(t, start, rows, u, 0);
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
SUMMING_KERNEL(tail_back, tail, dweight)
