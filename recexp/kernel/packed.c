/* packed.py: softmax(q k^T / sqrt(d)) v over sequences packed one after another, each event in its place. */

#include "kernel.h"

STRUCT(attend_packed,
    const float *OPTIONAL q;    /* (n, D): one of each sequence, which sees all of it; without it all events ask */
    const float *x;             /* (T, W): each event's [k, v] or [q, k, v] */
    const long *start, *length; /* (n,): of the sequences */
    long n, dim, n_heads, width, causal, longest;
    long dropped, seed; /* dropout of the weights, units of 2^-32 */
    float *out;         /* (n, D) or (T, D) */
)

STRUCT(attend_packed_back,
    const float *OPTIONAL q; /* up to seed as in attend_packed */
    const float *x;
    const long *start, *length;
    long n, dim, n_heads, width, causal, longest;
    long dropped, seed;
    const float *dout;
    float *OPTIONAL dq, *dx; /* (n, D), with q; (T, W) */
)

/* Whether each sequence has one query, not each event. */
static int asks_once(const struct attend_packed *s) { return s->width == 2 * s->dim; }

/* The row of a sequence's first query, and of its output. */
static long first_query(const struct attend_packed *s, long sequence) {
    return asks_once(s) ? sequence : s->start[sequence];
}

/* A head of a sequence. Dropout's indices are those of an array (T or n, heads, longest). */
static struct head head_of(const struct attend_packed *s, long sequence, long head) {
    long size = s->dim / s->n_heads, once = asks_once(s), n = s->length[sequence], row = first_query(s, sequence);
    const float *x = s->x + s->start[sequence] * s->width + head * size, *k = x + s->width - 2 * s->dim;
    return (struct head){
        .q = once ? s->q + row * s->dim + head * size : x, .k = k, .v = k + s->dim, .m = once ? 1 : n, .n = n,
        .size = size, .q_step = once ? s->dim : s->width, .step = s->width, .causal = s->causal && !once,
        .dropped = s->dropped, .seed = s->seed, .first = (row * s->n_heads + head) * s->longest,
        .drop_step = s->n_heads * s->longest,
    };
}

static void attend_packed_thread(void *args, long thread, long n_threads) {
    const struct attend_packed *s = args;
    long dim = s->dim, size = dim / s->n_heads;
    float *memory = head_memory(s->longest, size);
    for (long i = thread; i < s->n; i += n_threads)
        for (long j = 0; j < s->n_heads; j++) {
            struct head head = head_of(s, i, j);
            attend_head(&head, s->out + first_query(s, i) * dim + j * size, dim, memory);
        }
    free(memory);
}
KERNEL(attend_packed)

static void attend_packed_back_thread(void *args, long thread, long n_threads) {
    const struct attend_packed_back *b = args;
    const struct attend_packed *s = args;
    long dim = s->dim, size = dim / s->n_heads;
    float *memory = head_memory(s->longest, size);
    for (long i = thread; i < s->n; i += n_threads)
        for (long j = 0; j < s->n_heads; j++) {
            struct head head = head_of(s, i, j);
            long row = first_query(s, i) * dim + j * size;
            float *dx = b->dx + s->start[i] * s->width + j * size, *dk = dx + s->width - 2 * dim;
            attend_head_back(&head, b->dout + row, dim, asks_once(s) ? b->dq + row : dx, dk, dk + dim, memory);
        }
    free(memory);
}
KERNEL(attend_packed_back)
