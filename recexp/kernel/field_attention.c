/* field_attention.py: attention among the fields of each row. Rows stand side by side in a register, so that heads of
   any size and number of fields fill it: an array of LANES rows has the shape (channels, F, LANES). */

#include "kernel.h"

STRUCT(field_attention,
    const float *x, *weight; /* (B, F, N); W^Q, W^K, W^V and, if there is one, W^R one below another (n_out, N) */
    float *y;                /* (B, F, A) */
    long n, n_fields, n_in, size, n_heads, n_out;
    long relu, dropped, seed; /* dropout of the softmax, units of 2^-32 */
    double scale;             /* of the scores */
)

STRUCT(field_attention_back,
    const float *x, *weight; /* up to scale as in field_attention, with y read */
    const float *y;
    long n, n_fields, n_in, size, n_heads, n_out;
    long relu, dropped, seed;
    double scale;
    const float *dy;
    float *dx;
    struct sum dweight; /* (n_out, N) */
)

/* c_pq = sum_r a_pr b_qr, each of LANES numbers, for up to 2 p and 4 q. */
INLINE void some_sums(const int m, const int n, long depth, const float *a, long a_row, long a_column, const float *b,
                      long b_row, long b_column, float *c, long c_row, long c_column) {
    vec sum[2][4] = {0};
    for (long k = 0; k < depth; k++, a += a_column, b += b_column) {
        vec left[2];
#pragma GCC unroll 2
        for (int i = 0; i < m; i++) left[i] = LOAD(a + i * a_row);
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            vec right = LOAD(b + j * b_row);
#pragma GCC unroll 2
            for (int i = 0; i < m; i++) sum[i][j] += left[i] * right;
        }
    }
#pragma GCC unroll 2
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) STORE(c + i * c_row + j * c_column, sum[i][j]);
}

/* The same for all m p and n q. */
static void sums(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
                 long b_column, float *c, long c_row, long c_column) {
    for (long i = 0; i < m; i += 2)
        for (long j = 0; j < n; j += 4) {
            const float *left = a + i * a_row, *right = b + j * b_row;
            float *to = c + i * c_row + j * c_column;
#define SUMS(p, q) \
    case 4 * p + q: \
        some_sums(p, q, depth, left, a_row, a_column, right, b_row, b_column, to, c_row, c_column); \
        break;
            switch (4 * (m - i < 2 ? 1 : 2) + (n - j < 4 ? n - j : 4)) {
                SUMS(1, 1) SUMS(1, 2) SUMS(1, 3) SUMS(1, 4) SUMS(2, 1) SUMS(2, 2) SUMS(2, 3) SUMS(2, 4)
            }
        }
}

/* Arrays of LANES rows: x (N, F, LANES), and q, k, v and R x (n_out, F, LANES). */
struct block {
    float *x, *made, *weights, *left; /* softmax of a head (F, F, LANES), and after dropout */
};

static struct block new_block(const struct field_attention *s) {
    long F = s->n_fields;
    return (struct block){
        .x = scratch(s->n_in * F, LANES), .made = scratch(s->n_out * F, LANES), .weights = scratch(F * F, LANES),
        .left = scratch(F * F, LANES),
    };
}

static void free_block(struct block b) { free(b.x), free(b.made), free(b.weights), free(b.left); }

/* (C, F, LANES) from rows (rows, F, C), with 0 for missing rows; and back, for LANES rows. */
static void side_by_side(const float *x, long rows, long n_fields, long channels, float *to) {
    for (long field = 0; field < n_fields; field++)
        transpose(x + field * channels, n_fields * channels, rows, channels, to + field * LANES, n_fields * LANES,
                  LANES);
}

static void one_by_one(const float *x, long n_fields, long channels, float *to) {
    for (long field = 0; field < n_fields; field++)
        transpose(x + field * LANES, n_fields * LANES, channels, LANES, to + field * channels, n_fields * channels,
                  channels);
}

/* x, q, k, v and R x of the rows from `start` on. */
static void products(const struct field_attention *s, long start, long rows, struct block b) {
    long F = s->n_fields;
    side_by_side(s->x + start * F * s->n_in, rows, F, s->n_in, b.x);
    multiply(s->n_out, F * LANES, s->n_in, s->weight, s->n_in, 1, b.x, F * LANES, b.made, F * LANES, 0);
}

/* Dropout factors of weight (i, j) of a head, i F + j being `at`. */
static vec factors(const struct field_attention *s, long start, long head, long at) {
    long per_head = s->n_fields * s->n_fields, per_row = s->n_heads * per_head;
    return kept_every(s->seed, start * per_row + head * per_head + at, per_row, s->dropped);
}

/* A head's softmax, and the same after dropout. */
static void weigh(const struct field_attention *s, long start, long head, struct block b) {
    long F = s->n_fields, d = s->size / s->n_heads, step = F * LANES;
    const float *q = b.made + head * d * step, *k = q + s->size * step;
    float scale = s->scale;
    sums(F, F, d, q, LANES, step, k, LANES, step, b.weights, step, LANES);
    for (long i = 0; i < F; i++) {
        float *row = b.weights + i * step;
        vec largest = LOAD(row) * scale, total = {0};
        EACH(j, step) largest = larger(LOAD(row + j) * scale, largest);
        EACH(j, step) {
            vec weight = exponential(LOAD(row + j) * scale - largest);
            STORE(row + j, weight);
            total += weight;
        }
        total = 1.f / total;
        EACH(j, step) STORE(row + j, LOAD(row + j) * total);
    }
    for (long i = 0; s->dropped && i < F * F; i++)
        STORE(b.left + i * LANES, LOAD(b.weights + i * LANES) * factors(s, start, head, i));
}

static void field_attention_thread(void *args, long thread, long n_threads) {
    const struct field_attention *s = args;
    long F = s->n_fields, size = s->size, d = size / s->n_heads, step = F * LANES;
    struct block b = new_block(s);
    float *heads = scratch(size * F, LANES), *rows_of = scratch(LANES, F * size);
    const float *v = b.made + 2 * size * step, *residual = s->n_out > 3 * size ? b.made + 3 * size * step : b.x;
    const float *weights = s->dropped ? b.left : b.weights;
    for (long start = thread * LANES; start < s->n; start += n_threads * LANES) {
        long rows = s->n - start < LANES ? s->n - start : LANES;
        products(s, start, rows, b);
        for (long head = 0; head < s->n_heads; head++) {
            weigh(s, start, head, b);
            sums(d, F, F, v + head * d * step, step, LANES, weights, step, LANES, heads + head * d * step, step, LANES);
        }
        EACH(i, size * step) {
            vec y = LOAD(heads + i) + LOAD(residual + i);
            STORE(heads + i, s->relu ? larger((vec){0}, y) : y);
        }
        one_by_one(heads, F, size, rows_of);
        memcpy(s->y + start * F * size, rows_of, sizeof(float) * rows * F * size);
    }
    free_block(b), free(heads), free(rows_of);
}
KERNEL(field_attention)

/* The gradients of a head's q, k and v from that of its output g (d, F, LANES). */
static void head_back(const struct field_attention *s, long start, long head, struct block b, const float *g,
                      float *dmade, float *change) {
    long F = s->n_fields, d = s->size / s->n_heads, step = F * LANES, all = s->size * step;
    const float *q = b.made + head * d * step, *k = q + all, *v = k + all, *left = s->dropped ? b.left : b.weights;
    float *dq = dmade + head * d * step, *dk = dq + all, *dv = dk + all, scale = s->scale;
    weigh(s, start, head, b);
    sums(d, F, F, g, step, LANES, left, LANES, step, dv, step, LANES);
    sums(F, F, d, g, LANES, step, v, LANES, step, change, step, LANES);
    for (long i = 0; i < F; i++) {
        vec mean = {0};
        for (long at = i * F; at < (i + 1) * F; at++) {
            vec here = LOAD(change + at * LANES);
            if (s->dropped) here *= factors(s, start, head, at);
            STORE(change + at * LANES, here);
            mean += here * LOAD(b.weights + at * LANES);
        }
        float *row = change + i * step;
        EACH(j, step) STORE(row + j, (LOAD(row + j) - mean) * LOAD(b.weights + i * step + j) * scale);
    }
    sums(d, F, F, k, step, LANES, change, step, LANES, dq, step, LANES);
    sums(d, F, F, q, step, LANES, change, LANES, step, dk, step, LANES);
}

static void field_attention_back_thread(void *args, long thread, long n_threads) {
    const struct field_attention_back *t = args;
    const struct field_attention *s = args;
    long F = s->n_fields, size = s->size, n_in = s->n_in, d = size / s->n_heads, step = F * LANES;
    struct block b = new_block(s);
    float *dmade = scratch(4 * size, step), *change = scratch(F, step), *dx = scratch(n_in, step);
    float *g = dmade + 3 * size * step, *rows_of = scratch(LANES, F * (n_in > size ? n_in : size));
    float *dweight = sum_at(&t->dweight, thread);
    for (long start = thread * LANES; start < s->n; start += n_threads * LANES) {
        long rows = s->n - start < LANES ? s->n - start : LANES, first = start * F * size;
        products(s, start, rows, b);
        EACH(i, rows * F * size) {
            vec dy = LOAD(t->dy + first + i);
            STORE(rows_of + i, s->relu ? either(LOAD(s->y + first + i) > 0.f, dy, (vec){0}) : dy);
        }
        side_by_side(rows_of, rows, F, size, g);
        for (long head = 0; head < s->n_heads; head++)
            head_back(s, start, head, b, g + head * d * step, dmade, change);
        const float *residual = s->n_out > 3 * size ? 0 : g;
        multiply_onto(n_in, step, s->n_out, s->weight, 1, n_in, dmade, step, dx, step, residual, step);
        one_by_one(dx, F, n_in, rows_of);
        memcpy(t->dx + start * F * n_in, rows_of, sizeof(float) * rows * F * n_in);
        memset(rows_of, 0, sizeof(float) * LANES * F * n_in);
        for (long field = 0; field < F; field++) /* x as (F, LANES, N), in the order of dmade's columns */
            for (long i = 0; i < rows; i++)
                memcpy(rows_of + (field * LANES + i) * n_in, s->x + ((start + i) * F + field) * n_in,
                       sizeof(float) * n_in);
        multiply(s->n_out, n_in, step, dmade, step, 1, rows_of, n_in, dweight, n_in, 1);
    }
    free_block(b), free(dmade), free(change), free(dx), free(rows_of);
}
SUMMING_KERNEL(field_attention_back, dweight)
