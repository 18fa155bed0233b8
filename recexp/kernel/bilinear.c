/* bilinear.py: the bilinear products p_ij = (e_i W) * e_j of all pairs i < j, and a Linear of them. The products of one
   i at a time are formed, for a block of rows; the backward pass forms them again. */

#include "kernel.h"

STRUCT(bilinear,
    const float *e, *weight, *first; /* (n, F, D), (1, F or P, D, D), (P D, H) */
    long n, n_fields, dim, hidden;
    long by_field, by_pair; /* whether W depends on i; on (i, j) */
    float *out;             /* (n, H) */
)

STRUCT(bilinear_back,
    const float *e, *weight, *first; /* up to by_pair as in bilinear, but first (H, P D) */
    long n, n_fields, dim, hidden;
    long by_field, by_pair;
    const float *turned, *dout;  /* W transposed */
    float *de;                   /* (n, F, D) */
    struct sum dweight, dfirst;  /* as weight and first */
)

/* The position of the matrix of a pair (i, j) in the array of all. */
static long matrix_at(const struct bilinear *b, long i, long pair) {
    return (b->by_field * i + b->by_pair * pair) * b->dim * b->dim;
}

/* The index of the pair (i, i + 1). */
static long first_pair(long i, long n_fields) { return i * (2 * n_fields - i - 1) / 2; }

/* Of a block: e_i W (rows, D), or for each j (rows, F - 1 - i, D) if W depends on it; p_ij (rows, F - 1 - i, D). */
static void pairs_of(const struct bilinear *b, const float *e, long rows, long i, float *left, float *p) {
    long dim = b->dim, all = b->n_fields * dim, n = b->n_fields - 1 - i, width = n * dim, step = b->by_pair ? width : dim;
    for (long k = 0; k < (b->by_pair ? n : 1); k++) {
        const float *weight = b->weight + matrix_at(b, i, first_pair(i, b->n_fields) + k);
        multiply(rows, dim, dim, e + i * dim, all, 1, weight, dim, left + k * dim, step, 0);
    }
    for (long row = 0; row < rows; row++, e += all, left += step, p += width)
        for (long k = 0; k < n; k++) EACH(j, dim)
            STORE(p + k * dim + j, LOAD(left + (b->by_pair ? k * dim : 0) + j) * LOAD(e + (i + 1 + k) * dim + j));
}

static void bilinear_thread(void *args, long thread, long n_threads) {
    const struct bilinear *b = args;
    long dim = b->dim, all = b->n_fields * dim, hidden = b->hidden;
    float *left = scratch(BLOCK, all), *p = scratch(BLOCK, all);
    BLOCKS(start, rows, b->n)
        for (long i = 0; i < b->n_fields - 1; i++) {
            long width = all - (i + 1) * dim;
            const float *first = b->first + first_pair(i, b->n_fields) * dim * hidden;
            pairs_of(b, b->e + start * all, rows, i, left, p);
            multiply(rows, hidden, width, p, width, 1, first, hidden, b->out + start * hidden, hidden, i > 0);
        }
    free(left), free(p);
}
KERNEL(bilinear)

/* Adds the gradients of e_i W from dp to dleft, of the shape of left, and those of the fields e_j to de. */
static void pairs_back(const struct bilinear *b, const float *e, long rows, long i, const float *left, const float *dp,
                       float *dleft, float *de) {
    long dim = b->dim, all = b->n_fields * dim, n = b->n_fields - 1 - i, step = b->by_pair ? n * dim : dim;
    memset(dleft, 0, sizeof(float) * rows * step);
    for (long row = 0; row < rows; row++, e += all, de += all, left += step, dleft += step)
        for (long k = 0; k < n; k++, dp += dim) EACH(j, dim) {
            long at = (b->by_pair ? k * dim : 0) + j, other = (i + 1 + k) * dim + j;
            STORE(dleft + at, LOAD(dleft + at) + LOAD(dp + j) * LOAD(e + other));
            STORE(de + other, LOAD(de + other) + LOAD(dp + j) * LOAD(left + at));
        }
}

static void bilinear_back_thread(void *args, long thread, long n_threads) {
    const struct bilinear_back *b = args;
    const struct bilinear *s = args;
    long dim = b->dim, n_fields = b->n_fields, all = n_fields * dim, hidden = b->hidden;
    long n_columns = n_fields * (n_fields - 1) / 2 * dim;
    float *dweight = sum_at(&b->dweight, thread), *dfirst = sum_at(&b->dfirst, thread);
    float *left = scratch(BLOCK, all), *p = scratch(BLOCK, all), *dleft = scratch(BLOCK, all), *dp = scratch(BLOCK, all);
    BLOCKS(start, rows, b->n) {
        const float *e = b->e + start * all, *dout = b->dout + start * hidden;
        float *de = b->de + start * all;
        memset(de, 0, sizeof(float) * rows * all);
        for (long i = 0; i < n_fields - 1; i++) {
            long pair = first_pair(i, n_fields), width = all - (i + 1) * dim, step = b->by_pair ? width : dim;
            pairs_of(s, e, rows, i, left, p);
            multiply(hidden, width, rows, dout, 1, hidden, p, width, dfirst + pair * dim, n_columns, 1);
            multiply(rows, width, hidden, dout, hidden, 1, b->first + pair * dim, n_columns, dp, width, 0);
            pairs_back(s, e, rows, i, left, dp, dleft, de);
            for (long k = 0; k < step; k += dim) {
                long matrix = matrix_at(s, i, pair + k / dim);
                multiply(dim, dim, rows, e + i * dim, 1, all, dleft + k, step, dweight + matrix, dim, 1);
                multiply(rows, dim, dim, dleft + k, step, 1, b->turned + matrix, dim, de + i * dim, all, 1);
            }
        }
    }
    free(left), free(p), free(dleft), free(dp);
}
SUMMING_KERNEL(bilinear_back, dweight)
