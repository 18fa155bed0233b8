/* Softmax attention of one head, some queries at a time, so that their weights stay in the cache. */

#include "kernel.h"

enum { QUERIES = 24 }; /* at a time; a multiple of the rows of a product's tile */

/* What attend_head and attend_head_back need: transposed keys and values (size, padded), and of some queries the
   weights, these after dropout, and their change (QUERIES, padded). */
struct memory {
    float *keys, *values, *weights, *left, *change;
};

float *head_memory(long most, long size) { return scratch(2 * size + 3 * QUERIES, padded_to_lanes(most)); }

static struct memory divided(float *memory, const struct head *h) {
    long padded = padded_to_lanes(h->n);
    struct memory m = {.keys = memory, .values = memory + h->size * padded};
    m.weights = m.values + h->size * padded;
    m.left = m.weights + QUERIES * padded;
    m.change = m.left + QUERIES * padded;
    return m;
}

/* How many positions the queries before `end` see, from the first. */
static long reach(const struct head *h, long end) { return h->causal ? end : h->n; }

/* Softmax of the scores of query i (padded,), 0 where it sees nothing. */
static void weigh(const struct head *h, long i, long padded, float *row) {
    float scale = 1.f / __builtin_sqrtf(h->size);
    vec hidden = (vec){0} - 3e38f, largest = hidden, total = {0}; /* below all scores */
    ivec position, limit = (ivec){0} + (int)reach(h, i + 1);
    for (int j = 0; j < LANES; j++) position[j] = j;
    for (long j = 0; h->seen && j < h->n; j++)
        if (!h->seen[i * h->n + j]) row[j] = -__builtin_inff();
    EACH(j, padded) {
        vec score = either(position + (int)j < limit, LOAD(row + j) * scale, hidden);
        largest = larger(score, largest);
        STORE(row + j, score);
    }
    largest = largest_of(largest);
    EACH(j, padded) {
        vec score = LOAD(row + j), weight = either(score <= hidden, (vec){0}, exponential(score - largest));
        STORE(row + j, weight);
        total += weight;
    }
    float sum = sum_of(total)[0], inverse = sum != 0 ? 1.f / sum : 0;
    EACH(j, padded) STORE(row + j, LOAD(row + j) * inverse);
}

/* Weights of the queries from `start` on (rows, padded). */
static void weigh_all(const struct head *h, long start, long rows, long padded, const struct memory *m) {
    multiply(rows, padded, h->size, h->q + start * h->q_step, h->q_step, 1, m->keys, padded_to_lanes(h->n), m->weights,
             padded, 0);
    for (long i = 0; i < rows; i++) weigh(h, start + i, padded, m->weights + i * padded);
}

/* Those weights, or their change, with dropout. */
static void drop(const struct head *h, long start, long rows, long padded, const float *weights, float *to) {
    for (long i = 0; i < rows; i++) EACH(j, padded) {
        vec keep = kept(h->seed, h->first + (start + i) * h->drop_step + j, h->dropped);
        STORE(to + i * padded + j, LOAD(weights + i * padded + j) * keep);
    }
}

void attend_head(const struct head *h, float *out, long out_step, float *memory) {
    struct memory m = divided(memory, h);
    transpose(h->k, h->step, h->n, h->size, m.keys, padded_to_lanes(h->n), padded_to_lanes(h->n));
    for (long start = 0; start < h->m; start += QUERIES) {
        long rows = h->m - start < QUERIES ? h->m - start : QUERIES;
        long n = reach(h, start + rows), padded = padded_to_lanes(n);
        weigh_all(h, start, rows, padded, &m);
        if (h->dropped) drop(h, start, rows, padded, m.weights, m.weights);
        multiply(rows, h->size, n, m.weights, padded, 1, h->v, h->step, out + start * out_step, out_step, 0);
    }
}

/* The gradient of scores (rows, padded) from that of the weights, in place. */
static void softmax_back(const struct head *h, const float *weights, long rows, long padded, float *change) {
    float scale = 1.f / __builtin_sqrtf(h->size);
    for (long i = 0; i < rows; i++, weights += padded, change += padded) {
        vec total = {0};
        EACH(j, padded) total += LOAD(change + j) * LOAD(weights + j);
        vec mean = sum_of(total);
        EACH(j, padded) STORE(change + j, (LOAD(change + j) - mean) * LOAD(weights + j) * scale);
    }
}

void attend_head_back(const struct head *h, const float *dout, long dout_step, float *dq, float *dk, float *dv,
                      float *memory) {
    struct memory m = divided(memory, h);
    long q_step = h->q_step, step = h->step, size = h->size, turned = padded_to_lanes(h->n), add = 0;
    transpose(h->k, step, h->n, size, m.keys, turned, turned);
    transpose(h->v, step, h->n, size, m.values, turned, turned);
    /* From the last queries on, which see all positions. */
    for (long start = (h->m - 1) / QUERIES * QUERIES; start >= 0; start -= QUERIES, add = 1) {
        long rows = h->m - start < QUERIES ? h->m - start : QUERIES;
        long n = reach(h, start + rows), padded = padded_to_lanes(n);
        const float *q = h->q + start * q_step, *change = dout + start * dout_step;
        weigh_all(h, start, rows, padded, &m);
        multiply(rows, padded, size, change, dout_step, 1, m.values, turned, m.change, padded, 0);
        if (h->dropped) {
            drop(h, start, rows, padded, m.weights, m.left);
            drop(h, start, rows, padded, m.change, m.change);
        }
        multiply(n, size, rows, h->dropped ? m.left : m.weights, 1, padded, change, dout_step, dv, step, add);
        softmax_back(h, m.weights, rows, padded, m.change);
        multiply(rows, size, n, m.change, padded, 1, h->k, step, dq + start * q_step, q_step, 0);
        multiply(n, size, rows, m.change, 1, padded, q, q_step, dk, step, add);
    }
}
