/* product.py, _Product. */

#include "kernel.h"


STRUCT(linear,
    const float *x, *weight, *bias; /* (N, C), (C, O), (O,) or null */
    float *out;                     /* (N, O); its gradient in linear_back */
    long n, width, n_out;
    const float *back; /* (O, C), of linear_back as all below */
    float *dx;         /* (N, C) */
    struct sum dweight, dbias;  /* of the gradients of weight (O, C) and bias (O,) */
)

static void linear_thread(void *args, long thread, long n_threads) {
    const struct linear *p = args;
    long width = p->width, n_out = p->n_out;
    BLOCKS(start, rows, p->n)
        affine(p->x + start * width, rows, width, p->weight, p->bias, n_out, p->out + start * n_out);
}
KERNEL(linear, linear)

static void linear_back_thread(void *args, long thread, long n_threads) {
    const struct linear *p = args;
    long width = p->width, n_out = p->n_out;
    float *dweight = sum_at(&p->dweight, thread), *dbias = sum_at(&p->dbias, thread);
    BLOCKS(start, rows, p->n)
        affine_back(p->x + start * width, p->out + start * n_out, rows, width, p->back, n_out, dweight, dbias,
                    p->dx + start * width, 0);
}
SUMMING_KERNEL(linear_back, linear, dweight)
