/* inner_product.py: the fields of a row, the inner products of their pairs, and zeros, side by side. */

#include "kernel.h"

STRUCT(inner_products,
    const float *e; /* (n, F, D) */
    float *out;     /* (n, W) */
    long n, n_fields, dim, width;
)

STRUCT(inner_products_back,
    const float *e, *dout; /* dout (n, W) */
    float *de;             /* (n, F, D) */
    long n, n_fields, dim, width;
)

static void inner_products_thread(void *args, long thread, long n_threads) {
    const struct inner_products *p = args;
    long dim = p->dim, all = p->n_fields * dim;
    BLOCKS(start, rows, p->n) for (long row = start; row < start + rows; row++) {
        const float *e = p->e + row * all;
        float *out = p->out + row * p->width, *to = out + all;
        memcpy(out, e, sizeof(float) * all);
        for (long i = 0; i < all; i += dim)
            for (long j = i + dim; j < all; j += dim) {
                vec sum = {0};
                EACH(k, dim) sum += LOAD(e + i + k) * LOAD(e + j + k);
                *to++ = sum_of(sum)[0];
            }
        memset(to, 0, sizeof(float) * (out + p->width - to));
    }
}
KERNEL(inner_products)

static void inner_products_back_thread(void *args, long thread, long n_threads) {
    const struct inner_products_back *p = args;
    long dim = p->dim, all = p->n_fields * dim;
    BLOCKS(start, rows, p->n) for (long row = start; row < start + rows; row++) {
        const float *e = p->e + row * all, *dout = p->dout + row * p->width, *change = dout + all;
        float *de = p->de + row * all;
        memcpy(de, dout, sizeof(float) * all);
        for (long i = 0; i < all; i += dim)
            for (long j = i + dim; j < all; j += dim, change++) EACH(k, dim) {
                STORE(de + i + k, LOAD(de + i + k) + *change * LOAD(e + j + k));
                STORE(de + j + k, LOAD(de + j + k) + *change * LOAD(e + i + k));
            }
    }
}
KERNEL(inner_products_back)
