/* candidates.py: dot products of queries with the rows of a table at an index, with gradients.

   Rows that many queries share are visited once: entries are sorted by row, so that a row and its gradient stay in
   registers, and only the queries, which are few, are read and written at random. */

#include "kernel.h"

enum { COLUMNS = 4 }; /* registers of a row at once */

STRUCT(candidates_sort,
    const long *index; /* (P, S) */
    long *start;       /* (rows + 1,) where the entries of a row begin, 0 at first */
    long *entry;       /* (P S,) query << 32 | position, by row */
    long n, n_each, n_rows, out_of_range;
)

static void candidates_sort_thread(void *args, long thread, long n_threads) {
    struct candidates_sort *c = args;
    if (thread) return;
    for (long k = 0; k < c->n * c->n_each; k++) {
        if (c->index[k] < 0 || c->index[k] >= c->n_rows) {
            c->out_of_range = 1;
            return;
        }
        c->start[c->index[k]]++;
    }
    for (long row = 0, sum = 0; row <= c->n_rows; row++) sum = c->start[row] += sum;
    /* Backwards, so that the entries of a row stay in order and each start ends where its row begins. */
    for (long i = c->n - 1; i >= 0; i--)
        for (long k = (i + 1) * c->n_each - 1; k >= i * c->n_each; k--)
            c->entry[--c->start[c->index[k]]] = i << 32 | k;
}
KERNEL(candidates_sort)

STRUCT(candidates,
    const float *query, *table; /* (P, W), (rows, W) */
    const long *start, *entry;
    float *out; /* (P, S) */
    long width, n_rows;
)

static void candidates_thread(void *args, long thread, long n_threads) {
    const struct candidates *c = args;
    long width = c->width;
    BLOCKS(first, rows, c->n_rows) for (long row = first; row < first + rows; row++) {
        const float *item = c->table + row * width;
        for (long e = c->start[row]; e < c->start[row + 1]; e++) {
            const float *query = c->query + (c->entry[e] >> 32) * width;
            vec sum = {0};
            EACH(j, width) sum += LOAD(query + j) * LOAD(item + j);
            c->out[c->entry[e] & 0xffffffff] = sum_of(sum)[0];
        }
    }
}
KERNEL(candidates)

STRUCT(candidates_back,
    const float *query, *table, *dout; /* (P, W), (rows, W), (P, S) */
    const long *start, *entry;
    float *dquery, *dtable; /* (P, W), (rows, W), 0 at first both */
    long width, n_rows;
)

/* The entries of a row, in n registers of columns from j on. */
INLINE void row_back(const struct candidates_back *c, long row, long j, int n) {
    vec item[COLUMNS], sum[COLUMNS];
    for (int r = 0; r < n; r++) item[r] = LOAD(c->table + row * c->width + j + r * LANES), sum[r] = (vec){0};
    for (long e = c->start[row]; e < c->start[row + 1]; e++) {
        long at = (c->entry[e] >> 32) * c->width + j;
        float dout = c->dout[c->entry[e] & 0xffffffff];
        for (int r = 0; r < n; r++) {
            sum[r] += dout * LOAD(c->query + at + r * LANES);
            STORE(c->dquery + at + r * LANES, LOAD(c->dquery + at + r * LANES) + dout * item[r]);
        }
    }
    for (int r = 0; r < n; r++) STORE(c->dtable + row * c->width + j + r * LANES, sum[r]);
}

static void candidates_back_thread(void *args, long thread, long n_threads) {
    const struct candidates_back *c = args;
    /* Threads take different columns, so no two write to the same number. */
    long vecs = c->width / LANES, first = vecs * thread / n_threads, last = vecs * (thread + 1) / n_threads;
    for (long row = 0; row < c->n_rows; row++) {
        if (c->start[row] == c->start[row + 1]) continue;
        long v = first;
        for (; v + COLUMNS <= last; v += COLUMNS) row_back(c, row, v * LANES, COLUMNS);
        for (; v < last; v++) row_back(c, row, v * LANES, 1);
    }
}
KERNEL(candidates_back)
