/* unique.py: the unique values of an index and where each occurs, and sums of rows over equal values. */

#include "kernel.h"

STRUCT(group,
    const long *index;                 /* (N,) */
    long *rows, *order, *start, *count; /* (N,), (N,), (N + 1,), (1,) */
    long n, n_rows, out_of_range;
)

enum { DIGIT = 12 }; /* bits at most: the counters stay in the first cache */

/* Sorts by the digit above `shift`, the lower 32 bits of a key being its position. */
static void sort_by_digit(const unsigned long *from, unsigned long *to, long n, long shift, long bits) {
    long at[1 << DIGIT] = {0}, mask = (1L << bits) - 1, sum = 0;
    for (long i = 0; i < n; i++) at[from[i] >> shift & mask]++;
    for (long digit = 0; digit <= mask; digit++) {
        long count = at[digit];
        at[digit] = sum;
        sum += count;
    }
    for (long i = 0; i < n; i++) to[at[from[i] >> shift & mask]++] = from[i];
}

/* By one thread: passes of several would wait for each other, which takes as long where cores are busy. */
EXPORT void group(void *args, long n_threads) {
    struct group *g = args;
    long n = g->n, n_bits = 1, n_groups = 0;
    for (long i = 0; i < n; i++)
        if (g->index[i] < 0 || g->index[i] >= g->n_rows) {
            g->out_of_range = 1;
            return;
        }
    unsigned long *keys = malloc(2 * sizeof(long) * n + 1), *sorted = keys + n;
    for (long i = 0; i < n; i++) keys[i] = (unsigned long)g->index[i] << 32 | (unsigned long)i;
    while (g->n_rows - 1 >> n_bits) n_bits++;
    long passes = (n_bits + DIGIT - 1) / DIGIT, bits = (n_bits + passes - 1) / passes;
    for (long pass = 0; pass < passes; pass++) {
        sort_by_digit(keys, sorted, n, 32 + pass * bits, bits);
        unsigned long *other = keys;
        keys = sorted;
        sorted = other;
    }
    for (long i = 0; i < n; i++) {
        long row = keys[i] >> 32;
        g->order[i] = keys[i] & 0xffffffff;
        if (i && row == g->rows[n_groups - 1]) continue;
        g->start[n_groups] = i;
        g->rows[n_groups++] = row;
    }
    g->start[n_groups] = n;
    *g->count = n_groups;
    free(keys < sorted ? keys : sorted);
}

STRUCT(sum_groups,
    const float *x;            /* (N, W) */
    const long *order, *start; /* (N,), (n + 1,) */
    float *out;                /* (n, W) */
    long n, width;
)

static void sum_groups_thread(void *args, long thread, long n_threads) {
    const struct sum_groups *s = args;
    long n_entries = s->start[s->n];
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++) {
        for (long k = s->start[i] + AHEAD; k < s->start[i + 1] + AHEAD && k < n_entries; k++)
            fetch(s->x + s->order[k] * s->width, s->width);
        EACH(j, s->width) {
            vec sum = {0};
            for (long k = s->start[i]; k < s->start[i + 1]; k++)
                sum += load_some(s->x + s->order[k] * s->width + j, s->width - j);
            store_some(s->out + i * s->width + j, sum, s->width - j);
        }
    }
}
KERNEL(sum_groups)
