/* pair_attention.py: attention over the products of all pairs of fields, for a few samples at a time.

   In a block, the products of a sample stand below each other, P rows for each, padded to lanes. */

#include "kernel.h"

STRUCT(pair_attention,
    const float *e;                     /* (n, F, D) */
    const float *weight, *bias, *score; /* (D, A), (A,), (A,) */
    long n, n_fields, dim, size;        /* A */
    long dropped, seed;
    float *out, *attention; /* (n, D), (n, P) before dropout */
)

STRUCT(pair_attention_back,
    const float *e; /* up to the seed as in pair_attention */
    const float *weight, *bias, *score;
    long n, n_fields, dim, size;
    long dropped, seed;
    const float *attention, *turned, *dout; /* (n, P), (A, D padded), (n, D) */
    float *de;                              /* (n, F, D) */
    struct sum dweight, dbias, dscore;
)

struct sizes {
    long n_pairs, padded; /* P, also padded to lanes */
    long wide, all;       /* D padded to lanes, F D */
    long samples, rows;   /* of a block */
};

static struct sizes sizes_of(const struct pair_attention *a) {
    long n_pairs = a->n_fields * (a->n_fields - 1) / 2, samples = n_pairs < BLOCK ? BLOCK / n_pairs : 1;
    return (struct sizes){
        .n_pairs = n_pairs, .padded = padded_to_lanes(n_pairs), .wide = padded_to_lanes(a->dim),
        .all = a->n_fields * a->dim, .samples = samples, .rows = samples * n_pairs,
    };
}

/* Loops over a thread's blocks of samples. */
#define SAMPLES(s, start, count, n)                                                                             \
    for (long start = thread * (s)->samples, count;                                                             \
         count = (n) - start < (s)->samples ? (n) - start : (s)->samples, start < (n); start += n_threads * (s)->samples)

/* Loops over the pairs i < j of a sample's fields. */
#define PAIRS(n_fields, i, j) \
    for (long i = 0; i < (n_fields) - 1; i++) \
        for (long j = i + 1; j < (n_fields); j++)

/* The products p (P, wide) of a sample. */
static void products(const float *e, long n_fields, long dim, long wide, float *p) {
    PAIRS(n_fields, i, j) {
        EACH(k, dim) STORE(p + k, load_some(e + i * dim + k, dim - k) * load_some(e + j * dim + k, dim - k));
        p += wide;
    }
}

static void products_back(const float *e, long n_fields, long dim, long wide, const float *dp, float *de) {
    memset(de, 0, sizeof(float) * n_fields * dim);
    PAIRS(n_fields, i, j) {
        EACH(k, dim) {
            float *left = de + i * dim + k, *right = de + j * dim + k;
            vec change = LOAD(dp + k);
            store_some(left, load_some(left, dim - k) + change * load_some(e + j * dim + k, dim - k), dim - k);
            store_some(right, load_some(right, dim - k) + change * load_some(e + i * dim + k, dim - k), dim - k);
        }
        dp += wide;
    }
}

/* W p + b of a block: hidden (rows, A). */
static void hidden_of(const struct pair_attention *a, const struct sizes *s, long start, long count, float *p,
                      float *hidden) {
    for (long i = 0; i < count; i++)
        products(a->e + (start + i) * s->all, a->n_fields, a->dim, s->wide, p + i * s->n_pairs * s->wide);
    multiply_onto(count * s->n_pairs, a->size, a->dim, p, s->wide, 1, a->weight, a->size, hidden, a->size, a->bias, 0);
}

/* The weights of a sample's pairs from their hidden layer: softmax of h^T relu(hidden); 0 in the padding. */
static void weights_of(const struct pair_attention *a, const struct sizes *s, const float *hidden, float *weights) {
    vec total = {0};
    for (long i = 0; i < s->n_pairs; i++, hidden += a->size) {
        vec sum = {0};
        EACH(k, a->size) sum += larger(LOAD(hidden + k), (vec){0}) * LOAD(a->score + k);
        weights[i] = sum_of(sum)[0];
    }
    for (long i = s->n_pairs; i < s->padded; i++) weights[i] = weights[0];
    vec top = LOAD(weights);
    EACH(i, s->padded) top = larger(top, LOAD(weights + i));
    top = largest_of(top);
    EACH(i, s->padded) STORE(weights + i, exponential(LOAD(weights + i) - top));
    for (long i = s->n_pairs; i < s->padded; i++) weights[i] = 0;
    EACH(i, s->padded) total += LOAD(weights + i);
    total = sum_of(total);
    EACH(i, s->padded) STORE(weights + i, LOAD(weights + i) / total);
}

static void pair_attention_thread(void *args, long thread, long n_threads) {
    const struct pair_attention *a = args;
    const struct sizes s = sizes_of(a);
    float *p = scratch(s.rows, s.wide), *hidden = scratch(s.rows, a->size), *weights = scratch(1, s.padded);
    SAMPLES(&s, start, count, a->n) {
        hidden_of(a, &s, start, count, p, hidden);
        for (long i = 0; i < count; i++) {
            long sample = start + i, first = sample * s.n_pairs;
            weights_of(a, &s, hidden + i * s.n_pairs * a->size, weights);
            EACH(k, s.n_pairs) {
                store_some(a->attention + first + k, LOAD(weights + k), s.n_pairs - k);
                STORE(weights + k, LOAD(weights + k) * kept(a->seed, first + k, a->dropped));
            }
            EACH(k, s.wide) {
                const float *row = p + i * s.n_pairs * s.wide + k;
                vec sum = {0};
                for (long pair = 0; pair < s.n_pairs; pair++, row += s.wide) sum += weights[pair] * LOAD(row);
                store_some(a->out + sample * a->dim + k, sum, a->dim - k);
            }
        }
    }
    free(p), free(hidden), free(weights);
}
KERNEL(pair_attention)

/* Of a sample: dp (P, wide) by the sum, and the gradient of the scores, in `change` (P padded). `weights` (P padded) get
   those after dropout. */
static void weights_back(const struct pair_attention_back *b, const struct sizes *s, long sample, const float *p,
                         float *dp, float *change, float *weights) {
    long first = sample * s->n_pairs;
    const float *dout = b->dout + sample * b->dim, *attention = b->attention + first;
    vec total = {0};
    for (long pair = 0; pair < s->n_pairs; pair++) {
        vec sum = {0};
        EACH(k, s->wide) sum += LOAD(p + pair * s->wide + k) * load_some(dout + k, b->dim - k);
        change[pair] = sum_of(sum)[0];
    }
    EACH(k, s->n_pairs) {
        vec weight = load_some(attention + k, s->n_pairs - k), factor = kept(b->seed, first + k, b->dropped);
        vec all = LOAD(change + k) * factor;
        STORE(change + k, all);
        STORE(weights + k, weight * factor);
        total += weight * all; /* 0 in the padding, where `change` is 0 */
    }
    total = sum_of(total);
    for (long pair = 0; pair < s->n_pairs; pair++) EACH(k, s->wide)
        STORE(dp + pair * s->wide + k, weights[pair] * load_some(dout + k, b->dim - k));
    EACH(k, s->n_pairs) STORE(change + k, load_some(attention + k, s->n_pairs - k) * (LOAD(change + k) - total));
}

/* The gradient of the hidden layer of a sample, in its place, from that of the scores. */
static void hidden_back(const struct pair_attention_back *b, long n_pairs, const float *change, float *hidden,
                        float *dbias, float *dscore) {
    for (long pair = 0; pair < n_pairs; pair++, hidden += b->size) EACH(k, b->size) {
        vec x = LOAD(hidden + k), dx = either(x > 0.f, change[pair] * LOAD(b->score + k), (vec){0});
        STORE(dscore + k, LOAD(dscore + k) + change[pair] * larger(x, (vec){0}));
        STORE(dbias + k, LOAD(dbias + k) + dx);
        STORE(hidden + k, dx);
    }
}

static void pair_attention_back_thread(void *args, long thread, long n_threads) {
    const struct pair_attention_back *b = args;
    const struct pair_attention *a = args;
    const struct sizes s = sizes_of(a);
    float *p = scratch(s.rows, s.wide), *dp = scratch(s.rows, s.wide), *hidden = scratch(s.rows, b->size);
    float *change = calloc(s.padded, sizeof(float)), *weights = scratch(1, s.padded);
    float *dweight = sum_at(&b->dweight, thread), *dbias = sum_at(&b->dbias, thread), *dscore = sum_at(&b->dscore, thread);
    SAMPLES(&s, start, count, b->n) {
        long rows = count * s.n_pairs;
        hidden_of(a, &s, start, count, p, hidden);
        for (long i = 0; i < count; i++) {
            long at = i * s.n_pairs;
            weights_back(b, &s, start + i, p + at * s.wide, dp + at * s.wide, change, weights);
            hidden_back(b, s.n_pairs, change, hidden + at * b->size, dbias, dscore);
        }
        multiply(rows, s.wide, b->size, hidden, b->size, 1, b->turned, s.wide, dp, s.wide, 1);
        multiply(b->dim, b->size, rows, p, 1, s.wide, hidden, b->size, dweight, b->size, 1);
        for (long i = 0; i < count; i++)
            products_back(b->e + (start + i) * s.all, b->n_fields, b->dim, s.wide, dp + i * s.n_pairs * s.wide,
                          b->de + (start + i) * s.all);
    }
    free(p), free(dp), free(hidden), free(change), free(weights);
}
SUMMING_KERNEL(pair_attention_back, dweight)
