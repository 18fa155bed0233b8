/* lookup.py: rows of one table or two by their places, summed; and sums into the tables. */

#include "kernel.h"


STRUCT(gather,
    const float *table_1, *OPTIONAL table_2; /* (rows, W) each; table_2 may be null */
    const long *place_1, *OPTIONAL place_2; /* (N,) */
    float *out;                     /* (N, W) */
    long n, width, n_rows_1, n_rows_2, out_of_range; /* whether a place is none of the rows */
)

static void gather_thread(void *args, long thread, long n_threads) {
    struct gather *g = args;
    BLOCKS(start, rows, g->n) for (long i = start; i < start + rows; i++) {
        long first = g->place_1[i], second = g->table_2 ? g->place_2[i] : 0;
        if (first < 0 || first >= g->n_rows_1 || (g->table_2 && (second < 0 || second >= g->n_rows_2))) {
            g->out_of_range = 1;
            return;
        }
        const float *from = g->table_1 + first * g->width, *other = g->table_2 + second * g->width;
        float *to = g->out + i * g->width;
        if (g->table_2)
            EACH(j, g->width) STORE(to + j, LOAD(from + j) + LOAD(other + j));
        else
            memcpy(to, from, sizeof(float) * g->width);
    }
}
KERNEL(gather, gather)

STRUCT(scatter,
    float *table_1, *table_2; /* of 0; table_2 may be null */
    const long *place_1, *place_2;
    const float *x; /* (N, W) */
    long n, width;
)

/* A thread takes columns, so no two write to one number. */
static void scatter_thread(void *args, long thread, long n_threads) {
    const struct scatter *s = args;
    for (long i = 0; i < s->n; i++) {
        float *to = s->table_1 + s->place_1[i] * s->width, *also = s->table_2;
        if (also) also += s->place_2[i] * s->width;
        for (long j = thread * LANES; j < s->width; j += n_threads * LANES) {
            vec x = LOAD(s->x + i * s->width + j);
            STORE(to + j, LOAD(to + j) + x);
            if (also) STORE(also + j, LOAD(also + j) + x);
        }
    }
}
KERNEL(scatter, scatter)

/* lookup.py, _WeightedSum: out_b = sum_l w_bl v_p of rows of a table by their places. */

STRUCT(weighted_sum,
    const float *weights, *table; /* (B, L), (rows, W) */
    const long *place;            /* (B, L) */
    float *out;                   /* (B, W); its gradient in weighted_sum_back */
    long n, length, width, n_rows, out_of_range; /* whether a place is none of the rows */
    float *dweights, *dtable; /* (B, L), and (rows, W) of 0; of weighted_sum_back */
)

static void weighted_sum_thread(void *args, long thread, long n_threads) {
    struct weighted_sum *s = args;
    long length = s->length, width = s->width;
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++) {
        for (long k = i * length; k < (i + 1) * length; k++)
            if (s->place[k] < 0 || s->place[k] >= s->n_rows) {
                s->out_of_range = 1;
                return;
            }
        EACH(j, width) {
            vec sum = {0};
            for (long k = i * length; k < (i + 1) * length; k++)
                if (s->weights[k]) sum += s->weights[k] * LOAD(s->table + s->place[k] * width + j);
            STORE(s->out + i * width + j, sum);
        }
    }
}
KERNEL(weighted_sum, weighted_sum)

static void weighted_sum_back_thread(void *args, long thread, long n_threads) {
    const struct weighted_sum *s = args;
    long length = s->length, width = s->width;
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++)
        for (long k = i * length; k < (i + 1) * length; k++) {
            vec sum = {0};
            EACH(j, width) sum += LOAD(s->out + i * width + j) * LOAD(s->table + s->place[k] * width + j);
            s->dweights[k] = sum_of(sum)[0];
        }
    /* A thread takes columns, so no two write to one number. */
    for (long i = 0; i < s->n; i++)
        for (long k = i * length; k < (i + 1) * length; k++)
            for (long j = thread * LANES; s->weights[k] && j < width; j += n_threads * LANES) {
                float *to = s->dtable + s->place[k] * width + j;
                STORE(to, LOAD(to) + s->weights[k] * LOAD(s->out + i * width + j));
            }
}
KERNEL(weighted_sum_back, weighted_sum)
