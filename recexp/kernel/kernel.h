/* What all kernels share: vectors, threads, sums over threads, tiles of products, and functions of vectors.

   What torch does operation by operation goes through memory once per operation. Here a thread takes a block of rows,
   does all there is to do with it while it lies in the cache, and takes the next. Matrices are float, row after row;
   widths are multiples of LANES. Thread `thread` of `n_threads` always does the same work, so sums come out the same to
   the bit. */

#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, COLUMNS = 4 }; /* numbers in a register, registers in a row of a product's tile */
#else /* AVX2 */
enum { LANES = 8, COLUMNS = 2 };
#endif
enum { ROWS = 6, BLOCK = 48 }; /* of a tile, so that it stays in the registers; a multiple of it */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef unsigned uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define SHARED static __attribute__((unused)) /* a copy in every file that needs it */
#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, x) (*(vec *)(p) = (x))
#define EACH(j, width) for (long j = 0; j < (width); j += LANES)


/* A kernel's structure: its members as C sees them, and the same text for library.py, which fills them by name. Members
   are pointers, long, double, `struct sum`, or arrays of these, of 8 bytes or multiples; OPTIONAL ones may be left out. */

#define OPTIONAL
#define STRUCT(name, ...) \
    struct name { \
        __VA_ARGS__ \
    }; \
    static const char name##_members[] = #__VA_ARGS__;

/* Threads are torch's own pool, entered by its OpenMP: a second pool would fight for the cores. */

typedef void Work(void *args, long thread, long n_threads);
void run(Work *work, void *args, long n_threads);

#define EXPORTED(name, structure) __attribute__((visibility("default"))) const char *const name##_text = structure##_members;
#define ENTRY __attribute__((visibility("default"))) void

/* A kernel of a structure, whose work is name_thread. */
#define KERNEL(name, structure) \
    EXPORTED(name, structure) \
    ENTRY name(void *args, long n_threads) { run(name##_thread, args, n_threads); }

/* An array that all threads add to, such as the gradient of a weight. Every thread but the first has its own copy. */
struct sum {
    float *to;
    long size;
    float *own; /* (n_threads - 1, size) */
};

/* Where a thread adds to an array. */
SHARED float *sum_at(const struct sum *sum, long thread) {
    return thread ? sum->own + (thread - 1) * sum->size : sum->to;
}

void run_summing(Work *work, void *args, struct sum *sums, long n_sums, long n_threads);

/* The same for a kernel whose structure ends in sums, from `first` on. */
#define RUN_SUMMING(name, structure, first, args, n_threads) \
    run_summing(name##_thread, args, (struct sum *)((char *)(args) + offsetof(struct structure, first)), \
                (sizeof(struct structure) - offsetof(struct structure, first)) / sizeof(struct sum), n_threads)
#define SUMMING_KERNEL(name, structure, first) \
    EXPORTED(name, structure) \
    ENTRY name(void *args, long n_threads) { RUN_SUMMING(name, structure, first, args, n_threads); }

/* The blocks of n rows that are this thread's, each as its first row and its number of rows. */
#define BLOCKS(start, rows, n) \
    for (long start = thread * BLOCK, rows; rows = (n) - start < BLOCK ? (n) - start : BLOCK, start < (n); \
         start += n_threads * BLOCK)

SHARED float *scratch(long rows, long width) { return malloc(sizeof(float) * rows * width); }

/* c (m, n) = first + a b, or a b where first is null: a (m, depth) with any steps between its rows and columns, b
   (depth, n), first (m, n), or (n,) for all rows with a step of 0. */

INLINE void tile(const int rows, const int columns, long depth, const float *a, long a_row, long a_column,
                 const float *b, long b_row, float *c, long c_row, const float *first, long first_row) {
    vec sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) sum[i][j] = first ? LOAD(first + i * first_row + j * LANES) : (vec){0};
    for (long k = 0; k < depth; k++, a += a_column, b += b_row) {
        vec right[COLUMNS];
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) right[j] = LOAD(b + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
            for (int j = 0; j < columns; j++) sum[i][j] += a[i * a_row] * right[j];
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) STORE(c + i * c_row + j * LANES, sum[i][j]);
}

SHARED void multiply_onto(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b,
                          long b_row, float *c, long c_row, const float *first, long first_row) {
    for (long column = 0; column < n; column += COLUMNS * LANES) {
        long columns = (n - column) / LANES < COLUMNS ? (n - column) / LANES : COLUMNS;
        for (long row = 0; row < m; row += ROWS) {
            long rows = m - row < ROWS ? m - row : ROWS;
            const float *from = first ? first + row * first_row + column : 0;
#define TILE(r, s) \
    case 8 * r + s: \
        tile(r, s, depth, a + row * a_row, a_row, a_column, b + column, b_row, c + row * c_row + column, c_row, from, \
             first_row); \
        break;
#if defined(__AVX512F__)
#define TILES(r) TILE(r, 1) TILE(r, 2) TILE(r, 3) TILE(r, 4)
#else
#define TILES(r) TILE(r, 1) TILE(r, 2)
#endif
            switch (8 * rows + columns) {
                TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
            }
        }
    }
}

/* c = a b, or c + a b where `add` says so. */
SHARED void multiply(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
                     float *c, long c_row, int add) {
    multiply_onto(m, n, depth, a, a_row, a_column, b, b_row, c, c_row, add ? c : 0, c_row);
}

INLINE vec either(ivec condition, vec yes, vec no) {
    return (vec)((condition & (ivec)yes) | (~condition & (ivec)no));
}

/* A vector's numbers, each in the place of the one `distance` from it. */
INLINE vec exchanged(vec x, const int distance) {
    ivec from;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) from[i] = i ^ distance;
    return __builtin_shuffle(x, from);
}

INLINE vec sum_of(vec x) { /* in every lane */
    if (LANES > 8) x += exchanged(x, 8 % LANES);
    x += exchanged(x, 4);
    x += exchanged(x, 2);
    return x + exchanged(x, 1);
}

INLINE vec larger(vec x, vec y) { return either(x > y, x, y); }

INLINE vec largest_of(vec x) {
    if (LANES > 8) x = larger(x, exchanged(x, 8 % LANES));
    x = larger(x, exchanged(x, 4));
    x = larger(x, exchanged(x, 2));
    return larger(x, exchanged(x, 1));
}

INLINE vec exponential(vec x) { /* to 2 units in the last place, of x from -87 to 88; NaN of NaN */
    x = either(x < -87.f, (vec){0} - 87.f, x);
    x = either(x > 88.f, (vec){0} + 88.f, x);
    vec n = x * 1.44269504f + 12582912.f; /* 1.5 * 2^23: the nearest integer, in the lowest bits */
    ivec exponent = (ivec)n << 23;
    n -= 12582912.f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f, p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    return (vec)((ivec)p + exponent);
}

INLINE vec sigmoid(vec x) { return 1.f / (1.f + exponential(-x)); }
INLINE vec hyperbolic(vec x) { return 2.f / (1.f + exponential(-2.f * x)) - 1.f; }

/* What dropout multiplies numbers from `index` on by: 0, or 1 / (1 - p). It is a function of seed and index alone. */
INLINE vec kept(long seed, long index, long dropped) {
    if (!dropped) return (vec){0} + 1.f;
    uvec x;
    for (int j = 0; j < LANES; j++) x[j] = j;
    x += (unsigned)index + (unsigned)seed * 0x9e3779b9u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return either((ivec)(x >= (unsigned)dropped), (vec){0} + 4294967296.f / (4294967296.f - dropped), (vec){0});
}

/* Which of the rows from start on are true in a mask, or all of them without one: their number. */
SHARED long those_of(const unsigned char *mask, long start, long rows, long *at) {
    long n = 0;
    for (long i = start; i < start + rows; i++)
        if (!mask || mask[i]) at[n++] = i;
    return n;
}

/* Those rows of x one behind the other, in `to` unless they are so already; and back, with 0 in the other rows. */
SHARED const float *taken(const float *x, const long *at, long n, long width, float *to) {
    if (!n || at[n - 1] - at[0] == n - 1) return x + (n ? at[0] * width : 0);
    for (long i = 0; i < n; i++) memcpy(to + i * width, x + at[i] * width, sizeof(float) * width);
    return to;
}

SHARED void put_back(const float *x, const long *at, long n, long width, long start, long rows, float *to) {
    for (long i = 0, row = start; row < start + rows; row++)
        if (i < n && at[i] == row)
            memcpy(to + row * width, x + i++ * width, sizeof(float) * width);
        else
            memset(to + row * width, 0, sizeof(float) * width);
}

SHARED void add_rows(const float *x, long rows, long width, float *sum) {
    for (long i = 0; i < rows; i++) EACH(j, width) STORE(sum + j, LOAD(sum + j) + LOAD(x + i * width + j));
}

/* A Linear: x (rows, C), weight (C, O), bias (O,) or null -> out (rows, O); O is 1 or a multiple of LANES. */
SHARED void affine(const float *x, long rows, long width, const float *weight, const float *bias, long n_out,
                   float *out) {
    for (long i = 0; n_out == 1 && i < rows; i++) {
        vec sum = {0};
        EACH(j, width) sum += LOAD(x + i * width + j) * LOAD(weight + j);
        out[i] = sum_of(sum)[0] + (bias ? bias[0] : 0);
    }
    if (n_out == 1) return;
    multiply_onto(rows, n_out, width, x, width, 1, weight, n_out, out, n_out, bias, 0);
}

/* Its gradients: weight (O, C); dweight (O, C) and dbias (O,) are added to, and dx (rows, C) where `add` says so. */
SHARED void affine_back(const float *x, const float *dout, long rows, long width, const float *weight, long n_out,
                        float *dweight, float *dbias, float *dx, int add) {
    for (long i = 0; n_out == 1 && i < rows; i++) {
        dbias[0] += dout[i];
        EACH(j, width) {
            vec change = dout[i] * LOAD(weight + j);
            STORE(dweight + j, LOAD(dweight + j) + dout[i] * LOAD(x + i * width + j));
            if (add) change += LOAD(dx + i * width + j);
            STORE(dx + i * width + j, change);
        }
    }
    if (n_out == 1) return;
    add_rows(dout, rows, n_out, dbias);
    multiply(n_out, width, rows, dout, 1, n_out, x, width, dweight, width, 1);
    multiply(rows, width, n_out, dout, n_out, 1, weight, width, dx, width, add);
}

#endif
