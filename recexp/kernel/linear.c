/* linear.py: x W^T + b and its gradients. */

#include "kernel.h"

STRUCT(linear,
    const float *x, *weight, *OPTIONAL bias; /* (N, C), (C, O), (O,) */
    float *out;                              /* (N, O) */
    long n, n_in, n_out;
)

static void linear_thread(void *args, long thread, long n_threads) {
    const struct linear *p = args;
    BLOCKS(start, rows, p->n)
        affine(p->x + start * p->n_in, rows, p->n_in, p->weight, p->bias, p->n_out, p->out + start * p->n_out);
}
KERNEL(linear)

STRUCT(linear_back,
    const float *x, *weight, *dout; /* (N, C), (O, C), (N, O) */
    float *dx;                      /* (N, C) */
    long n, n_in, n_out;
    struct sum dweight, dbias;      /* (O, C), (O,) */
)

static void linear_back_thread(void *args, long thread, long n_threads) {
    const struct linear_back *p = args;
    float *dweight = sum_at(&p->dweight, thread), *dbias = sum_at(&p->dbias, thread);
    BLOCKS(start, rows, p->n)
        affine_back(p->x + start * p->n_in, p->dout + start * p->n_out, rows, p->n_in, p->weight, p->n_out, dweight,
                    dbias, p->dx + start * p->n_in, 0);
}
SUMMING_KERNEL(linear_back, dweight)
