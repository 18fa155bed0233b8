/* sublayer.py: y = LayerNorm(x + F(z)) in the rows that count, 0 in the others. F(z) = W_2 f(W_1 z + b_1) + b_2 with f a
   relu with a slope below 0, or W_2 z without hidden units. Hidden units stay in the cache; the backward pass
   recomputes them. */

#include "kernel.h"


STRUCT(sublayer,
    const float *z, *OPTIONAL weight_1, *OPTIONAL bias_1; /* (N, K), (K, H), (H,) */
    const float *weight_2, *OPTIONAL bias_2;              /* (H or K, D), (D,) */
    const float *scale, *shift;                           /* (D,): of the LayerNorm */
    const unsigned char *mask;                            /* (N,): the rows that count */
    long n, dim, n_in, hidden;
    long dropped_hidden, dropped, seed; /* dropout of the hidden units and of F(z), units of 2^-32 */
    double slope, eps;
    const float *x;                             /* (N, D) */
    float *y, *OPTIONAL normal, *OPTIONAL rate; /* (N, D); for the gradient, each block's rows packed: (N, D), (N,) */
)

STRUCT(sublayer_back,
    const float *z, *OPTIONAL weight_1, *OPTIONAL bias_1; /* up to eps as in sublayer */
    const float *weight_2, *OPTIONAL bias_2;
    const float *scale, *shift;
    const unsigned char *mask;
    long n, dim, n_in, hidden;
    long dropped_hidden, dropped, seed;
    double slope, eps;
    const float *OPTIONAL back_1, *back_2;         /* (H, K), (D, H or K) */
    const float *dy, *normal, *rate;
    float *dx, *OPTIONAL dz;                       /* (N, D), (N, K); without dz, z is x and dx sums both */
    struct sum OPTIONAL dweight_1, OPTIONAL dbias_1; /* (H, K), (H,) */
    struct sum dweight_2, OPTIONAL dbias_2, dscale, dshift; /* (D, H or K), (D,) each */
)

/* Dropout on x (n, width), which holds the rows `at` of all. */
static void drop_rows(float *x, const long *at, long n, long width, long seed, long dropped) {
    for (long i = 0; dropped && i < n; i++) EACH(j, width)
        STORE(x + i * width + j, LOAD(x + i * width + j) * kept(seed, at[i] * width + j, dropped));
}

/* The hidden units (n, H) of z (n, K), before f, and after f and dropout. */
static void hidden_units(const struct sublayer *s, const float *z, const long *at, long n, float *before, float *u) {
    float slope = s->slope;
    affine(z, n, s->n_in, s->weight_1, s->bias_1, s->hidden, before);
    EACH(i, n * s->hidden) STORE(u + i, either(LOAD(before + i) > 0.f, LOAD(before + i), LOAD(before + i) * slope));
    drop_rows(u, at, n, s->hidden, s->seed, s->dropped_hidden);
}

/* Normalises a row to mean 0 and variance 1 in place; returns 1 / deviation. */
INLINE float normalised(float *row, long dim, double eps) {
    vec first = {0}, second = {0};
    EACH(j, dim) first += LOAD(row + j);
    vec mean = sum_of(first) * (1.f / dim);
    EACH(j, dim) {
        vec distance = LOAD(row + j) - mean;
        second += distance * distance;
        STORE(row + j, distance);
    }
    float rate = 1.f / __builtin_sqrtf(sum_of(second)[0] / dim + (float)eps);
    EACH(j, dim) STORE(row + j, LOAD(row + j) * rate);
    return rate;
}

static void sublayer_thread(void *args, long thread, long n_threads) {
    const struct sublayer *s = args;
    long dim = s->dim, n_in = s->n_in, hidden = s->hidden, at[BLOCK];
    float *before = scratch(BLOCK, hidden), *u = scratch(BLOCK, hidden), *made = scratch(BLOCK, dim);
    float *own_x = scratch(BLOCK, dim), *own_z = scratch(BLOCK, n_in);
    BLOCKS(start, rows, s->n) {
        long n = counted_rows(s->mask, start, rows, at);
        const float *x = packed(s->x, at, n, dim, own_x), *z = packed(s->z, at, n, n_in, own_z);
        float *sum = s->normal ? s->normal + start * dim : made;
        if (hidden) {
            hidden_units(s, z, at, n, before, u);
            affine(u, n, hidden, s->weight_2, s->bias_2, dim, sum);
        } else
            multiply(n, dim, n_in, z, n_in, 1, s->weight_2, dim, sum, dim, 0);
        drop_rows(sum, at, n, dim, s->seed + 1, s->dropped);
        memset(s->y + start * dim, 0, sizeof(float) * (n < rows ? rows * dim : 0));
        for (long i = 0; i < n; i++) {
            float *row = sum + i * dim, *y = s->y + at[i] * dim;
            EACH(j, dim) STORE(row + j, LOAD(x + i * dim + j) + LOAD(row + j));
            float rate = normalised(row, dim, s->eps);
            if (s->rate) s->rate[start + i] = rate;
            EACH(j, dim) STORE(y + j, LOAD(row + j) * LOAD(s->scale + j) + LOAD(s->shift + j));
        }
    }
    free(before), free(u), free(made), free(own_x), free(own_z);
}
KERNEL(sublayer)

/* The gradient of x + F(z) (n, D) from that of y, rows `at`; adds to those of scale and shift. */
static void normalised_back(const struct sublayer_back *s, const float *normal, const float *rate, const long *at, long n,
                            float *dscale, float *dshift, float *dsum) {
    long dim = s->dim;
    for (long i = 0; i < n; i++, normal += dim, dsum += dim) {
        const float *dy = s->dy + at[i] * dim;
        vec total = {0}, along = {0};
        EACH(j, dim) {
            vec change = LOAD(dy + j) * LOAD(s->scale + j);
            total += change;
            along += change * LOAD(normal + j);
            STORE(dscale + j, LOAD(dscale + j) + LOAD(dy + j) * LOAD(normal + j));
            STORE(dshift + j, LOAD(dshift + j) + LOAD(dy + j));
            STORE(dsum + j, change);
        }
        vec mean = sum_of(total) * (1.f / dim), tilt = sum_of(along) * (1.f / dim);
        EACH(j, dim) STORE(dsum + j, (LOAD(dsum + j) - mean - LOAD(normal + j) * tilt) * rate[i]);
    }
}

static void sublayer_back_thread(void *args, long thread, long n_threads) {
    const struct sublayer_back *s = args;
    long dim = s->dim, n_in = s->n_in, hidden = s->hidden, at[BLOCK];
    float *before = scratch(BLOCK, hidden), *u = scratch(BLOCK, hidden), *own = scratch(BLOCK, dim);
    float *dropped = scratch(BLOCK, dim), *own_z = scratch(BLOCK, n_in), *own_dz = scratch(BLOCK, n_in);
    float *dweight_1 = sum_at(&s->dweight_1, thread), *dbias_1 = sum_at(&s->dbias_1, thread);
    float *dweight_2 = sum_at(&s->dweight_2, thread), *dbias_2 = sum_at(&s->dbias_2, thread);
    float *dscale = sum_at(&s->dscale, thread), *dshift = sum_at(&s->dshift, thread), slope = s->slope;
    BLOCKS(start, rows, s->n) {
        long n = counted_rows(s->mask, start, rows, at);
        const float *z = packed(s->z, at, n, n_in, own_z);
        float *dsum = n == rows ? s->dx + start * dim : own, *df = s->dropped ? dropped : dsum;
        float *dz = !s->dz ? dsum : n == rows ? s->dz + start * n_in : own_dz;
        normalised_back(s, s->normal + start * dim, s->rate + start, at, n, dscale, dshift, dsum);
        if (s->dropped) memcpy(df, dsum, sizeof(float) * n * dim);
        drop_rows(df, at, n, dim, s->seed + 1, s->dropped);
        if (hidden) {
            hidden_units(args, z, at, n, before, u);
            affine_back(u, df, n, hidden, s->back_2, dim, dweight_2, dbias_2, u, 0);
            drop_rows(u, at, n, hidden, s->seed, s->dropped_hidden);
            EACH(i, n * hidden) STORE(u + i, either(LOAD(before + i) > 0.f, LOAD(u + i), LOAD(u + i) * slope));
            affine_back(z, u, n, n_in, s->back_1, hidden, dweight_1, dbias_1, dz, !s->dz);
        } else {
            multiply(dim, n_in, n, df, 1, dim, z, n_in, dweight_2, n_in, 1);
            multiply(n, n_in, dim, df, dim, 1, s->back_2, n_in, dz, n_in, 0);
        }
        if (n == rows) continue;
        unpack(dsum, at, n, dim, start, rows, s->dx);
        if (s->dz) unpack(dz, at, n, n_in, start, rows, s->dz);
    }
    free(before), free(u), free(own), free(dropped), free(own_z), free(own_dz);
}
SUMMING_KERNEL(sublayer_back, dweight_1)
