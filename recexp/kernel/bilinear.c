/* bilinear.py: the bilinear products p_ij = (v_i W) * v_j of all pairs i < j, v_i = a_i e_i, and a Linear of them. The
   products of one i at a time are formed, for a block of rows; the backward pass forms them again. */

#include "kernel.h"

STRUCT(bilinear,
    const float *e, *OPTIONAL scale; /* (n, F, D); a (n, F), 1 without it */
    const float *weight, *first;     /* (1, F or P, D, D), (P D, H) */
    long n, n_fields, dim, hidden;
    long by_field, by_pair; /* whether W depends on i; on (i, j) */
    float *out;             /* (n, H) */
)

STRUCT(bilinear_back,
    const float *e, *OPTIONAL scale; /* up to by_pair as in bilinear, but first (H, P D) */
    const float *weight, *first;
    long n, n_fields, dim, hidden;
    long by_field, by_pair;
    const float *turned, *dout;   /* W transposed */
    float *de, *OPTIONAL dscale; /* (n, F, D), (n, F) */
    struct sum dweight, dfirst;   /* as weight and first */
)

/* The position of the matrix of a pair (i, j) in the array of all. */
static long matrix_at(const struct bilinear *b, long i, long pair) {
    return (b->by_field * i + b->by_pair * pair) * b->dim * b->dim;
}

/* The index of the pair (i, i + 1). */
static long first_pair(long i, long n_fields) { return i * (2 * n_fields - i - 1) / 2; }

/* v (rows, F, D) of the block from row `start` on: e itself, or a e in `to`. */
static const float *scaled(const struct bilinear *b, long start, long rows, float *to) {
    long first = start * b->n_fields;
    const float *e = b->e + first * b->dim;
    if (!b->scale) return e;
    for (long i = 0; i < rows * b->n_fields; i++) EACH(j, b->dim)
        STORE(to + i * b->dim + j, b->scale[first + i] * LOAD(e + i * b->dim + j));
    return to;
}

/* The gradients of e and a from that of v, which stands where that of e goes. */
static void scaled_back(const struct bilinear_back *b, long start, long rows) {
    for (long i = start * b->n_fields; b->scale && i < (start + rows) * b->n_fields; i++) {
        vec sum = {0};
        EACH(j, b->dim) {
            float *de = b->de + i * b->dim + j;
            sum += LOAD(de) * LOAD(b->e + i * b->dim + j);
            STORE(de, LOAD(de) * b->scale[i]);
        }
        b->dscale[i] = sum_of(sum)[0];
    }
}

/* Of a block: v_i W (rows, D), or for each j (rows, F - 1 - i, D) if W depends on it; p_ij (rows, F - 1 - i, D). */
static void pairs_of(const struct bilinear *b, const float *v, long rows, long i, float *left, float *p) {
    long dim = b->dim, all = b->n_fields * dim, n = b->n_fields - 1 - i;
    long width = n * dim, step = b->by_pair ? width : dim;
    for (long k = 0; k < (b->by_pair ? n : 1); k++) {
        const float *weight = b->weight + matrix_at(b, i, first_pair(i, b->n_fields) + k);
        multiply(rows, dim, dim, v + i * dim, all, 1, weight, dim, left + k * dim, step, 0);
    }
    for (long row = 0; row < rows; row++, v += all, left += step, p += width)
        for (long k = 0; k < n; k++) EACH(j, dim)
            STORE(p + k * dim + j, LOAD(left + (b->by_pair ? k * dim : 0) + j) * LOAD(v + (i + 1 + k) * dim + j));
}

static void bilinear_thread(void *args, long thread, long n_threads) {
    const struct bilinear *b = args;
    long dim = b->dim, all = b->n_fields * dim, hidden = b->hidden;
    float *left = scratch(BLOCK, all), *p = scratch(BLOCK, all), *memory = scratch(BLOCK, all);
    BLOCKS(start, rows, b->n) {
        const float *v = scaled(b, start, rows, memory);
        for (long i = 0; i < b->n_fields - 1; i++) {
            long width = all - (i + 1) * dim;
            const float *first = b->first + first_pair(i, b->n_fields) * dim * hidden;
            pairs_of(b, v, rows, i, left, p);
            multiply(rows, hidden, width, p, width, 1, first, hidden, b->out + start * hidden, hidden, i > 0);
        }
    }
    free(left), free(p), free(memory);
}
KERNEL(bilinear)

/* Adds the gradients of v_i W from dp to dleft, of the shape of left, and those of the fields v_j to dv. */
static void pairs_back(const struct bilinear *b, const float *v, long rows, long i, const float *left, const float *dp,
                       float *dleft, float *dv) {
    long dim = b->dim, all = b->n_fields * dim, n = b->n_fields - 1 - i, step = b->by_pair ? n * dim : dim;
    memset(dleft, 0, sizeof(float) * rows * step);
    for (long row = 0; row < rows; row++, v += all, dv += all, left += step, dleft += step)
        for (long k = 0; k < n; k++, dp += dim) EACH(j, dim) {
            long at = (b->by_pair ? k * dim : 0) + j, other = (i + 1 + k) * dim + j;
            STORE(dleft + at, LOAD(dleft + at) + LOAD(dp + j) * LOAD(v + other));
            STORE(dv + other, LOAD(dv + other) + LOAD(dp + j) * LOAD(left + at));
        }
}

static void bilinear_back_thread(void *args, long thread, long n_threads) {
    const struct bilinear_back *b = args;
    const struct bilinear *s = args;
    long dim = b->dim, n_fields = b->n_fields, all = n_fields * dim, hidden = b->hidden;
    long n_columns = n_fields * (n_fields - 1) / 2 * dim;
    float *dweight = sum_at(&b->dweight, thread), *dfirst = sum_at(&b->dfirst, thread);
    float *left = scratch(BLOCK, all), *p = scratch(BLOCK, all), *memory = scratch(BLOCK, all);
    float *dleft = scratch(BLOCK, all), *dp = scratch(BLOCK, all);
    BLOCKS(start, rows, b->n) {
        const float *v = scaled(s, start, rows, memory), *dout = b->dout + start * hidden;
        float *dv = b->de + start * all;
        memset(dv, 0, sizeof(float) * rows * all);
        for (long i = 0; i < n_fields - 1; i++) {
            long pair = first_pair(i, n_fields), width = all - (i + 1) * dim, step = b->by_pair ? width : dim;
            pairs_of(s, v, rows, i, left, p);
            multiply(hidden, width, rows, dout, 1, hidden, p, width, dfirst + pair * dim, n_columns, 1);
            multiply(rows, width, hidden, dout, hidden, 1, b->first + pair * dim, n_columns, dp, width, 0);
            pairs_back(s, v, rows, i, left, dp, dleft, dv);
            for (long k = 0; k < step; k += dim) {
                long matrix = matrix_at(s, i, pair + k / dim);
                multiply(dim, dim, rows, v + i * dim, 1, all, dleft + k, step, dweight + matrix, dim, 1);
                multiply(rows, dim, dim, dleft + k, step, 1, b->turned + matrix, dim, dv + i * dim, all, 1);
            }
        }
        scaled_back(b, start, rows);
    }
    free(left), free(p), free(dleft), free(dp), free(memory);
}
SUMMING_KERNEL(bilinear_back, dweight)
