/* pointwise.py: silu(q k^T + bias) v / scale over packed sequences, each event in its place.

   A block of queries at a time attends to the keys up to its last one. Keys and values are transposed once per sequence;
   all heads share the biases. */

#include "kernel.h"

STRUCT(attend_pointwise,
    const float *x;               /* (T, 3 D): each event's v, q and k */
    const float *age;             /* (T,): time from each event to the end of its sequence */
    const float *position, *time; /* biases by how many events lie between, and by the bucket of the time between */
    const long *start, *length;   /* (n,): of the sequences */
    long n, dim, n_heads, n_buckets, longest, scale;
    long last;  /* whether the last event of each sequence alone asks */
    float *out; /* (n, D) then, else (T, D) */
)

STRUCT(attend_pointwise_back,
    const float *x; /* up to last as in attend_pointwise */
    const float *age;
    const float *position, *time;
    const long *start, *length;
    long n, dim, n_heads, n_buckets, longest, scale;
    long last;
    const float *dout;
    float *dx; /* (T, 3 D), 0 at first */
    struct sum dposition, dtime;
)

/* Queries first to first + rows of a sequence of n events, whose keys are those up to the last of them. */
struct block {
    long sequence, first, rows, width;
};

/* Loops over blocks of a sequence's queries. */
#define QUERY_BLOCKS(b, s, i) \
    for (struct block b = first_block(s, i); b.rows > 0; b = next_block(s, b))

static struct block block_at(const struct attend_pointwise *s, long sequence, long first) {
    long n = s->length[sequence], rows = n - first < BLOCK ? n - first : BLOCK;
    return (struct block){sequence, first, rows, padded_to_lanes(first + rows)};
}

static struct block first_block(const struct attend_pointwise *s, long sequence) {
    return block_at(s, sequence, s->last && s->length[sequence] ? s->length[sequence] - 1 : 0);
}

static struct block next_block(const struct attend_pointwise *s, struct block b) {
    return block_at(s, b.sequence, b.first + b.rows);
}

/* floor(log2(1 + gap)), at most the last bucket. */
static long bucket_of(float gap, long n_buckets) {
    float x = 1 + (gap > 0 ? gap : 0);
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    long bucket = (long)(bits >> 23) - 127;
    return bucket < n_buckets ? bucket : n_buckets - 1;
}

/* bias (rows, width) of each query and the keys that it sees, 0 for others. */
static void block_bias(const struct attend_pointwise *s, struct block b, float *bias) {
    const float *age = s->age + s->start[b.sequence];
    memset(bias, 0, sizeof(float) * b.rows * b.width);
    for (long i = 0; i < b.rows; i++)
        for (long query = b.first + i, key = 0; key <= query; key++)
            bias[i * b.width + key] =
                s->position[query - key] + s->time[bucket_of(age[key] - age[query], s->n_buckets)];
}

/* The gradients of the biases, from those of the logits summed over heads (rows, width). */
static void block_bias_back(const struct attend_pointwise *s, struct block b, const float *dbias, float *dposition,
                            float *dtime) {
    const float *age = s->age + s->start[b.sequence];
    for (long i = 0; i < b.rows; i++)
        for (long query = b.first + i, key = 0; key <= query; key++) {
            dposition[query - key] += dbias[i * b.width + key];
            dtime[bucket_of(age[key] - age[query], s->n_buckets)] += dbias[i * b.width + key];
        }
}

/* Lanes of the keys from `key` on that a query sees. */
INLINE ivec seen_lanes(long key, long query) {
    ivec index;
    for (int i = 0; i < LANES; i++) index[i] = i;
    return index + (int)key <= (ivec){0} + (int)query;
}

/* The logits (rows, width) of a head: keys (size, longest) are transposed. */
static void block_logits(const struct attend_pointwise *s, struct block b, const float *q, const float *keys,
                         long across, const float *bias, float *logits) {
    multiply_onto(b.rows, b.width, s->dim / s->n_heads, q + b.first * 3 * s->dim, 3 * s->dim, 1, keys, across, logits,
                  b.width, bias, b.width);
}

/* Logits become weights silu(logit) / scale; 0 for keys that a query does not see. */
static void block_weights(struct block b, float scale, float *logits) {
    for (long i = 0; i < b.rows; i++) EACH(j, b.width) {
        vec logit = LOAD(logits + i * b.width + j);
        STORE(logits + i * b.width + j, either(seen_lanes(j, b.first + i), logit * sigmoid(logit) * scale, (vec){0}));
    }
}

/* The row of out that a query's answer is in. */
static long out_row(const struct attend_pointwise *s, struct block b) {
    return s->last ? b.sequence : s->start[b.sequence] + b.first;
}

static void attend_pointwise_thread(void *args, long thread, long n_threads) {
    const struct attend_pointwise *s = args;
    long dim = s->dim, size = dim / s->n_heads, across = padded_to_lanes(s->longest);
    float *keys = scratch(dim, across), *bias = scratch(BLOCK, across), *weights = scratch(BLOCK, across);
    for (long i = thread; i < s->n; i += n_threads) {
        const float *x = s->x + s->start[i] * 3 * dim;
        transpose(x + 2 * dim, 3 * dim, s->length[i], dim, keys, across, across);
        QUERY_BLOCKS(b, s, i) {
            block_bias(s, b, bias);
            for (long at = 0; at < dim; at += size) {
                block_logits(s, b, x + dim + at, keys + at * across, across, bias, weights);
                block_weights(b, 1.f / s->scale, weights);
                multiply(b.rows, size, b.first + b.rows, weights, b.width, 1, x + at, 3 * dim,
                         s->out + out_row(s, b) * dim + at, dim, 0);
            }
        }
    }
    free(keys);
    free(bias);
    free(weights);
}
KERNEL(attend_pointwise)

/* Logits become weights, and their gradients by the weights those by the logits, which are added to dbias as well. */
static void block_weights_back(struct block b, float scale, float *logits, float *dlogits, float *dbias) {
    for (long i = 0; i < b.rows; i++) EACH(j, b.width) {
        float *at = logits + i * b.width + j, *dat = dlogits + i * b.width + j, *sum = dbias + i * b.width + j;
        ivec seen = seen_lanes(j, b.first + i);
        vec logit = LOAD(at), gate = sigmoid(logit);
        vec change = either(seen, LOAD(dat) * gate * (1.f + logit * (1.f - gate)) * scale, (vec){0});
        STORE(at, either(seen, logit * gate * scale, (vec){0}));
        STORE(dat, change);
        STORE(sum, LOAD(sum) + change);
    }
}

static void attend_pointwise_back_thread(void *args, long thread, long n_threads) {
    const struct attend_pointwise_back *c = args;
    const struct attend_pointwise *s = args;
    long dim = s->dim, size = dim / s->n_heads, step = 3 * dim, across = padded_to_lanes(s->longest);
    float *keys = scratch(dim, across), *values = scratch(dim, across), *bias = scratch(BLOCK, across);
    float *weights = scratch(BLOCK, across), *change = scratch(BLOCK, across), *dbias = scratch(BLOCK, across);
    for (long i = thread; i < s->n; i += n_threads) {
        const float *x = s->x + s->start[i] * step;
        float *dx = c->dx + s->start[i] * step;
        transpose(x + 2 * dim, step, s->length[i], dim, keys, across, across);
        transpose(x, step, s->length[i], dim, values, across, across);
        QUERY_BLOCKS(b, s, i) {
            long n_keys = b.first + b.rows, row = b.first * step;
            block_bias(s, b, bias);
            memset(dbias, 0, sizeof(float) * b.rows * b.width);
            for (long at = 0; at < dim; at += size) {
                const float *q = x + dim + at, *dout = c->dout + out_row(s, b) * dim + at;
                float *dv = dx + at, *dq = dx + dim + at, *dk = dx + 2 * dim + at;
                block_logits(s, b, q, keys + at * across, across, bias, weights);
                multiply(b.rows, b.width, size, dout, dim, 1, values + at * across, across, change, b.width, 0);
                block_weights_back(b, 1.f / s->scale, weights, change, dbias);
                multiply(n_keys, size, b.rows, weights, 1, b.width, dout, dim, dv, step, 1);
                multiply(n_keys, size, b.rows, change, 1, b.width, q + row, step, dk, step, 1);
                multiply(b.rows, size, n_keys, change, b.width, 1, x + 2 * dim + at, step, dq + row, step, 0);
            }
            block_bias_back(s, b, dbias, sum_at(&c->dposition, thread), sum_at(&c->dtime, thread));
        }
    }
    float *memory[] = {keys, values, bias, weights, change, dbias};
    for (int i = 0; i < 6; i++) free(memory[i]);
}
SUMMING_KERNEL(attend_pointwise_back, dposition)
