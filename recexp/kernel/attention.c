/* attention.py: a target's interaction with each event (target_interaction), and multi-head attention (attend). */

#include "kernel.h"


/* x = key_i + query_r + W (v_i * t_r) of each of N events, i being its index among the vectors and r its row. */

STRUCT(target_interaction,
    const float *vectors, *target, *key, *query, *weight; /* (n, D), (B, D), (n, H), (B, H), (D, H) */
    const long *index, *row;                              /* (N,) */
    float *x;                                             /* (N, H) */
    long n, dim, width, n_vectors, out_of_range; /* whether an index is outside the vectors */
)

/* v_i * t_r of some events (rows, D). */
static void multiply_rows(const float *vectors, const float *target, const long *index, const long *row, long rows,
                          long dim, float *product) {
    for (long i = 0; i < rows; i++) {
        const float *v = vectors + index[i] * dim, *t = target + row[i] * dim;
        EACH(j, dim) STORE(product + i * dim + j, LOAD(v + j) * LOAD(t + j));
    }
}

static void target_interaction_thread(void *args, long thread, long n_threads) {
    struct target_interaction *m = args;
    long dim = m->dim, width = m->width;
    float *product = scratch(BLOCK, dim);
    BLOCKS(start, rows, m->n) {
        for (long i = start; i < start + rows; i++) m->out_of_range |= m->index[i] < 0 || m->index[i] >= m->n_vectors;
        if (m->out_of_range) break;
        multiply_rows(m->vectors, m->target, m->index + start, m->row + start, rows, dim, product);
        for (long i = 0; i < rows; i++) {
            const float *key = m->key + m->index[start + i] * width, *query = m->query + m->row[start + i] * width;
            EACH(j, width) STORE(m->x + (start + i) * width + j, LOAD(key + j) + LOAD(query + j));
        }
        multiply(rows, width, dim, product, dim, 1, m->weight, width, m->x + start * width, width, 1);
    }
    free(product);
}
KERNEL(target_interaction)

STRUCT(target_interaction_back,
    const float *vectors, *target, *weight, *dx; /* weight (H, D) */
    const long *index, *row;
    float *dproduct; /* (N, D) */
    long n, dim, width;
    struct sum dweight; /* (H, D) */
)

static void target_interaction_back_thread(void *args, long thread, long n_threads) {
    const struct target_interaction_back *m = args;
    long dim = m->dim, width = m->width;
    float *product = scratch(BLOCK, dim), *dweight = sum_at(&m->dweight, thread);
    BLOCKS(start, rows, m->n) {
        const float *dx = m->dx + start * width;
        multiply_rows(m->vectors, m->target, m->index + start, m->row + start, rows, dim, product);
        multiply(width, dim, rows, dx, 1, width, product, dim, dweight, dim, 1);
        multiply(rows, dim, width, dx, width, 1, m->weight, dim, m->dproduct + start * dim, dim, 0);
    }
    free(product);
}
SUMMING_KERNEL(target_interaction_back, dweight)

/* Adds the events' gradients to the rows they came from. Threads take different columns: no two write to one number. */

STRUCT(target_interaction_add,
    const float *vectors, *target, *dx, *dproduct;
    const long *index, *row;
    float *dvectors, *dtarget, *dkey, *dquery; /* shaped as vectors, target, key, query; 0 at first */
    long n, dim, width;
)

static void target_interaction_add_thread(void *args, long thread, long n_threads) {
    const struct target_interaction_add *m = args;
    long dim = m->dim, width = m->width;
    for (long i = 0; i < m->n; i++) {
        long p = m->index[i], r = m->row[i];
        for (long j = thread * LANES; j < dim; j += n_threads * LANES) {
            vec dproduct = LOAD(m->dproduct + i * dim + j);
            float *dv = m->dvectors + p * dim + j, *dt = m->dtarget + r * dim + j;
            STORE(dv, LOAD(dv) + dproduct * LOAD(m->target + r * dim + j));
            STORE(dt, LOAD(dt) + dproduct * LOAD(m->vectors + p * dim + j));
        }
        for (long j = thread * LANES; j < width; j += n_threads * LANES) {
            vec dx = LOAD(m->dx + i * width + j);
            float *dk = m->dkey + p * width + j, *dq = m->dquery + r * width + j;
            STORE(dk, LOAD(dk) + dx);
            STORE(dq, LOAD(dq) + dx);
        }
    }
}
KERNEL(target_interaction_add)

/* softmax(q k^T / sqrt(d)) v, one head of one row at a time. A query that sees nothing gets 0. Positions that no query
   sees are left out; where positions are also the queries, those left out get 0. */

STRUCT(attend,
    const float *OPTIONAL q;       /* (B, M, D); without it the first D numbers of each position */
    const float *table[2];         /* (n, W) each: positions hold [k, v] or [q, k, v], the sum of a row of each */
    const long *OPTIONAL index[2]; /* (B, L) each: which row; without it each position has its own */
    const unsigned char *seen;     /* (B, M or 1, L) */
    long n_rows, n_queries, length, dim, n_heads, width;
    long by_query;      /* whether seen has a row for each query */
    long dropped, seed; /* dropout of the weights, units of 2^-32 */
    float *out;         /* (B, M, D) */
)

STRUCT(attend_back,
    const float *OPTIONAL q; /* up to seed as in attend */
    const float *table[2];
    const long *OPTIONAL index[2];
    const unsigned char *seen;
    long n_rows, n_queries, length, dim, n_heads, width;
    long by_query;
    long dropped, seed;
    const float *dout;
    float *OPTIONAL dq, *dpositions; /* (B, M, D), with q; (B, L, W) */
)

/* Whether queries are given, not part of the positions. A null pointer cannot tell: an empty array is null too. */
static int has_queries(const struct attend *s) { return s->width == 2 * s->dim; }

/* Writes the positions `at` (n, W) to `to`. */
static void look_up(const struct attend *s, const long *at, long n, float *to) {
    long width = s->width;
    for (long i = 0; i < n; i++, to += width) {
        const float *first = s->table[0] + (s->index[0] ? s->index[0][at[i]] : at[i]) * width;
        if (s->table[1]) {
            const float *second = s->table[1] + (s->index[1] ? s->index[1][at[i]] : at[i]) * width;
            EACH(j, width) STORE(to + j, LOAD(first + j) + LOAD(second + j));
        } else
            memcpy(to, first, sizeof(float) * width);
    }
}

/* One head of a row: the m queries q on its n positions. */
static struct head head_of(const struct attend *s, long row, long head, long m, long n, const float *q,
                           const float *positions) {
    long size = s->dim / s->n_heads;
    const float *k = positions + s->width - 2 * s->dim + head * size;
    return (struct head){
        .q = q + head * size, .k = k, .v = k + s->dim, .m = m, .n = n, .size = size, .step = s->width,
        .q_step = has_queries(s) ? s->dim : s->width, .seen = s->by_query ? s->seen + row * m * n : 0,
        .dropped = s->dropped, .seed = s->seed, .drop_step = padded_to_lanes(n),
        .first = (row * s->dim + head * size) * s->n_queries * padded_to_lanes(s->length),
    };
}

static void attend_thread(void *args, long thread, long n_threads) {
    const struct attend *s = args;
    long most_m = s->n_queries, most_n = s->length, dim = s->dim, size = dim / s->n_heads;
    long *at = malloc(sizeof(long) * most_n);
    float *memory = head_memory(most_n, size), *positions = scratch(most_n, s->width), *made = scratch(most_m, dim);
    for (long row = thread; row < s->n_rows; row += n_threads) {
        long n = counted_rows(s->by_query ? 0 : s->seen, row * most_n, most_n, at), m = has_queries(s) ? most_m : n;
        const float *q = has_queries(s) ? s->q + row * m * dim : positions;
        float *out = has_queries(s) ? s->out + row * m * dim : made;
        look_up(s, at, n, positions);
        for (long i = 0; i < s->n_heads; i++) {
            struct head head = head_of(s, row, i, m, n, q, positions);
            attend_head(&head, out + i * size, dim, memory);
        }
        if (!has_queries(s)) unpack(out, at, n, dim, row * most_n, most_n, s->out);
    }
    free(at), free(memory), free(positions), free(made);
}
KERNEL(attend)

static void attend_back_thread(void *args, long thread, long n_threads) {
    const struct attend_back *b = args;
    const struct attend *s = args;
    long most_m = s->n_queries, most_n = s->length, dim = s->dim, width = s->width, size = dim / s->n_heads;
    long *at = malloc(sizeof(long) * most_n);
    float *memory = head_memory(most_n, size), *positions = scratch(most_n, width), *own = scratch(most_m, dim);
    float *dpositions = scratch(most_n, width), *dk = dpositions + width - 2 * dim, *dv = dk + dim;
    for (long row = thread; row < s->n_rows; row += n_threads) {
        long n = counted_rows(s->by_query ? 0 : s->seen, row * most_n, most_n, at), m = has_queries(s) ? most_m : n;
        const float *q = has_queries(s) ? s->q + row * m * dim : positions;
        const float *dout = has_queries(s) ? b->dout + row * m * dim : packed(b->dout, at, n, dim, own);
        float *dq = has_queries(s) ? b->dq + row * m * dim : dpositions;
        look_up(s, at, n, positions);
        for (long i = 0; i < s->n_heads; i++) {
            struct head head = head_of(s, row, i, m, n, q, positions);
            long part = i * size;
            attend_head_back(&head, dout + part, dim, dq + part, dk + part, dv + part, memory);
        }
        unpack(dpositions, at, n, width, row * most_n, most_n, b->dpositions);
    }
    free(at), free(memory), free(positions), free(dpositions), free(own);
}
KERNEL(attend_back)
