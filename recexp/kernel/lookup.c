/* lookup.py: rows of tables by index, summed or side by side, with gradients; and weighted sums of a table's rows. */

#include "kernel.h"

STRUCT(gather,
    const float *table[2]; /* (rows, W) each */
    const long *index[2];  /* (N,) each */
    float *out;            /* (N, W) */
    long n, width, n_rows[2], out_of_range;
)

static int outside(long index, long n_rows) { return index < 0 || index >= n_rows; }

static void gather_thread(void *args, long thread, long n_threads) {
    struct gather *g = args;
    BLOCKS(start, rows, g->n) for (long i = start; i < start + rows; i++) {
        if (i + AHEAD < g->n) __builtin_prefetch(g->table[0] + g->index[0][i + AHEAD] * g->width);
        long first = g->index[0][i], second = g->table[1] ? g->index[1][i] : 0;
        if (outside(first, g->n_rows[0]) || (g->table[1] && outside(second, g->n_rows[1]))) {
            g->out_of_range = 1;
            return;
        }
        const float *from = g->table[0] + first * g->width, *other = g->table[1] + second * g->width;
        float *to = g->out + i * g->width;
        if (g->table[1])
            EACH(j, g->width) STORE(to + j, LOAD(from + j) + LOAD(other + j));
        else
            EACH(j, g->width) store_some(to + j, load_some(from + j, g->width - j), g->width - j);
    }
}
KERNEL(gather)

STRUCT(scatter,
    float *table[2];      /* (rows, W) each, 0 at first */
    const long *index[2]; /* (N,) each */
    const float *x;       /* (N, W) */
    long n, width;
)

/* Threads take different columns, so no two write to the same number. */
static void scatter_thread(void *args, long thread, long n_threads) {
    const struct scatter *s = args;
    for (long i = 0; i < s->n; i++) {
        float *to = s->table[0] + s->index[0][i] * s->width, *also = s->table[1];
        if (also) also += s->index[1][i] * s->width;
        for (long j = thread * LANES; j < s->width; j += n_threads * LANES) {
            vec x = LOAD(s->x + i * s->width + j);
            STORE(to + j, LOAD(to + j) + x);
            if (also) STORE(also + j, LOAD(also + j) + x);
        }
    }
}
KERNEL(scatter)

STRUCT(gather_beside,
    const float *table[3]; /* (rows, W_t) each */
    const long *index[3];  /* (N,) each */
    float *out;            /* (N, W_0 + ...) */
    long n, n_tables, width[3], n_rows[3], out_of_range;
)

static void gather_beside_thread(void *args, long thread, long n_threads) {
    struct gather_beside *g = args;
    long all = g->width[0] + g->width[1] + g->width[2];
    BLOCKS(start, rows, g->n) for (long i = start; i < start + rows; i++) {
        float *to = g->out + i * all;
        for (long t = 0; t < g->n_tables; to += g->width[t++]) {
            long row = g->index[t][i], width = g->width[t];
            if (outside(row, g->n_rows[t])) {
                g->out_of_range = 1;
                return;
            }
            EACH(j, width) STORE(to + j, LOAD(g->table[t] + row * width + j));
        }
    }
}
KERNEL(gather_beside)

STRUCT(scatter_beside,
    float *table[3];      /* (rows, W_t) each, 0 at first */
    const long *index[3]; /* (N,) each */
    const float *x;       /* (N, W_0 + ...) */
    long n, n_tables, width[3];
)

/* Threads take different columns, so no two write to the same number. */
static void scatter_beside_thread(void *args, long thread, long n_threads) {
    const struct scatter_beside *s = args;
    long all = s->width[0] + s->width[1] + s->width[2], column = 0;
    for (long t = 0; t < s->n_tables; column += s->width[t++]) {
        long width = s->width[t];
        for (long i = 0; i < s->n; i++)
            for (long j = thread * LANES; j < width; j += n_threads * LANES) {
                float *to = s->table[t] + s->index[t][i] * width + j;
                STORE(to, LOAD(to) + LOAD(s->x + i * all + column + j));
            }
    }
}
KERNEL(scatter_beside)

STRUCT(weighted_sum,
    const float *weights, *table; /* (B, L), (rows, W) */
    const long *index;            /* (B, L) */
    float *out;                   /* (B, W) */
    long n, length, width, n_rows, out_of_range;
)

static void weighted_sum_thread(void *args, long thread, long n_threads) {
    struct weighted_sum *s = args;
    long length = s->length, width = s->width;
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++) {
        for (long k = i * length; k < (i + 1) * length; k++)
            if (outside(s->index[k], s->n_rows)) {
                s->out_of_range = 1;
                return;
            }
        EACH(j, width) {
            vec sum = {0};
            for (long k = i * length; k < (i + 1) * length; k++)
                if (s->weights[k]) sum += s->weights[k] * LOAD(s->table + s->index[k] * width + j);
            STORE(s->out + i * width + j, sum);
        }
    }
}
KERNEL(weighted_sum)

STRUCT(weighted_sum_back,
    const float *weights, *table, *dout; /* (B, L), (rows, W), (B, W) */
    const long *index;                   /* (B, L) */
    float *dweights, *dtable;            /* (B, L); (rows, W), 0 at first */
    long n, length, width;
)

static void weighted_sum_back_thread(void *args, long thread, long n_threads) {
    const struct weighted_sum_back *s = args;
    long length = s->length, width = s->width;
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++)
        for (long k = i * length; k < (i + 1) * length; k++) {
            vec sum = {0};
            EACH(j, width) sum += LOAD(s->dout + i * width + j) * LOAD(s->table + s->index[k] * width + j);
            s->dweights[k] = sum_of(sum)[0];
        }
    /* Threads take different columns, so no two write to the same number. */
    for (long i = 0; i < s->n; i++)
        for (long k = i * length; k < (i + 1) * length; k++)
            for (long j = thread * LANES; s->weights[k] && j < width; j += n_threads * LANES) {
                float *to = s->dtable + s->index[k] * width + j;
                STORE(to, LOAD(to) + s->weights[k] * LOAD(s->dout + i * width + j));
            }
}
KERNEL(weighted_sum_back)
