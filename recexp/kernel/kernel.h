/* What all kernels share: structures, threads, sums over threads, products, and functions of vectors.

   Torch passes over memory once per operation. Here a thread takes a block of rows, does all its work on it while it is
   in the cache, and takes the next. Matrices are float, row-major; widths are multiples of LANES. Thread `thread` of
   `n_threads` always does the same work, so that sums are the same to the bit. */

#ifndef KERNEL_H
#define KERNEL_H

#include <immintrin.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 }; /* numbers in a register */
#else /* AVX2 */
enum { LANES = 8 };
#endif
enum { BLOCK = 48 }; /* rows; a multiple of the rows of a product's tile */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef unsigned uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, x) (*(vec *)(p) = (x))
#define EACH(j, width) for (long j = 0; j < (width); j += LANES)

/* A kernel's structure, and its members as text for library.py, which fills them by name. A member is a pointer to
   float, double, int, long or unsigned char (const if it is only read), a long, a double, a `struct sum`, or an array of these. Only
   OPTIONAL pointers, and entries of an array beyond those given, may be null. */

#define EXPORT __attribute__((visibility("default")))
#define OPTIONAL
#define STRUCT(name, ...) \
    struct name { \
        __VA_ARGS__ \
    }; \
    EXPORT const char *const name##_text = #__VA_ARGS__;

/* Runs the work of each thread, on torch's own threads: a second pool would compete with them for the cores. */
typedef void Work(void *args, long thread, long n_threads);
void run(Work *work, void *args, long n_threads);

/* Defines a structure's kernel; name_thread does the work of one thread. */
#define KERNEL(name) \
    EXPORT void name(void *args, long n_threads) { run(name##_thread, args, n_threads); }

/* An array that all threads add to, such as the gradient of a weight. Every thread but the first has its own copy. */
struct sum {
    float *total;
    long size;
    float *own; /* (n_threads - 1, size) */
};

/* The copy that a thread adds to. */
INLINE float *sum_at(const struct sum *sum, long thread) {
    return thread ? sum->own + (thread - 1) * sum->size : sum->total;
}

/* Sets sums to 0, runs the work of each thread, and adds up the threads' copies. */
void run_summing(Work *work, void *args, struct sum *sums, long n_sums, long n_threads);

/* The same for a structure whose last members, from `first` on, are sums. */
#define RUN_SUMMING(name, first, args, n_threads) \
    run_summing(name##_thread, args, (struct sum *)((char *)(args) + offsetof(struct name, first)), \
                (sizeof(struct name) - offsetof(struct name, first)) / sizeof(struct sum), n_threads)
#define SUMMING_KERNEL(name, first) \
    EXPORT void name(void *args, long n_threads) { RUN_SUMMING(name, first, args, n_threads); }

/* Loops over a thread's blocks of n rows; `start` is a block's first row, `rows` its number of rows. */
#define BLOCKS(start, rows, n) \
    for (long start = thread * BLOCK, rows; rows = (n) - start < BLOCK ? (n) - start : BLOCK, start < (n); \
         start += n_threads * BLOCK)

enum { AHEAD = 12 }; /* rows between the one at work and the one that is fetched: as many as take the time of a fetch */

/* Asks for a row of a table ahead of its use. */
INLINE void fetch(const float *row, long width) {
    for (long j = 0; j < width; j += 16) __builtin_prefetch(row + j);
}

INLINE long padded_to_lanes(long n) { return (n + LANES - 1) / LANES * LANES; }

INLINE float *scratch(long rows, long width) { return malloc(sizeof(float) * rows * width); }

/* product.c: c (m, n) = first + a b, or a b if first is null: a (m, depth) with any strides, b (depth, n), first
   (m, n), or (n,) for all rows with a stride of 0. */
void multiply_onto(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
                   float *c, long c_row, const float *first, long first_row);

/* c = a b, or c + a b with `add`. */
void multiply(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
              float *c, long c_row, int add);

/* Adds the rows of x (rows, width) to a sum (width,). */
void add_rows(const float *x, long rows, long width, float *sum);

/* A Linear: x (rows, C), weight (C, O), bias (O,) or null -> out (rows, O); O is 1 or a multiple of LANES. */
void affine(const float *x, long rows, long width, const float *weight, const float *bias, long n_out, float *out);

/* Its gradients: weight (O, C); adds to dweight (O, C) and dbias (O,), and to dx (rows, C) with `add`. */
void affine_back(const float *x, const float *dout, long rows, long width, const float *weight, long n_out,
                 float *dweight, float *dbias, float *dx, int add);

/* head.c: softmax attention of one head. Its m queries see its n positions, or each only those up to its own, or
   what `seen` says. Weight (i, j) has dropout's index first + i drop_step + j. */
struct head {
    const float *q, *k, *v; /* (m, size), (n, size) and (n, size), their rows q_step and step apart */
    long m, n, size, q_step, step;
    const unsigned char *seen; /* (m, n), or null */
    int causal;                /* m is n then */
    long dropped, seed, first, drop_step;
};

/* Memory for heads of up to `most` positions; one block, to be freed by the caller. */
float *head_memory(long most, long size);

/* out (m, size) = softmax(q k^T / sqrt(size)) v, its rows out_step apart. A query that sees nothing gets 0. */
void attend_head(const struct head *h, float *out, long out_step, float *memory);

/* The gradients from that of out; dq has the strides of q, dk and dv have those of k and v. */
void attend_head_back(const struct head *h, const float *dout, long dout_step, float *dq, float *dk, float *dv,
                      float *memory);

/* rows.c: the number of rows from start on that a mask selects, all if it is null; writes their indices to `at`. */
long counted_rows(const unsigned char *mask, long start, long rows, long *at);

/* Those rows of x as a contiguous array: copied to `to`, or inside x if they are contiguous there. */
const float *packed(const float *x, const long *at, long n, long width, float *to);

/* The inverse of `packed`, with 0 in the other rows. */
void unpack(const float *x, const long *at, long n, long width, long start, long rows, float *to);

/* x (rows, columns) transposed, to (columns, to_width), with 0 in the columns beyond `rows`. */
void transpose(const float *x, long x_row, long rows, long columns, float *to, long to_row, long to_width);

INLINE vec either(ivec condition, vec yes, vec no) {
    return (vec)((condition & (ivec)yes) | (~condition & (ivec)no));
}

/* Swaps the numbers in lanes i and i ^ distance. */
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

/* The first n numbers, or LANES if n is more, in rows of any width: 0 in the other lanes, which are not stored. The
   larger and the smaller of two numbers: y if one is NaN. */
#if defined(__AVX512F__)
#define SOME(n) ((__mmask16)((1u << ((n) < 16 ? (n) : 16)) - 1))
INLINE vec load_some(const float *p, long n) {
    return (vec)(n == 1 ? _mm512_castps128_ps512(_mm_load_ss(p)) : _mm512_maskz_loadu_ps(SOME(n), p));
}
INLINE void store_some(float *p, vec x, long n) { /* one number alone: loads beside a masked store wait for it */
    if (n == 1)
        *p = x[0];
    else
        _mm512_mask_storeu_ps(p, SOME(n), (__m512)x);
}
INLINE vec square_root(vec x) { return (vec)_mm512_sqrt_ps((__m512)x); }
INLINE vec larger(vec x, vec y) { return (vec)_mm512_max_ps((__m512)x, (__m512)y); }
INLINE vec smaller(vec x, vec y) { return (vec)_mm512_min_ps((__m512)x, (__m512)y); }
INLINE int any(ivec condition) { return _mm512_test_epi32_mask((__m512i)condition, (__m512i)condition) != 0; }
#else
#define SOME(n) ((__m256i)((ivec){0, 1, 2, 3, 4, 5, 6, 7} < (int)((n) < 8 ? (n) : 8)))
INLINE vec load_some(const float *p, long n) { return n < LANES ? (vec)_mm256_maskload_ps(p, SOME(n)) : LOAD(p); }
INLINE void store_some(float *p, vec x, long n) { /* AMD's masked stores take ten times as long as plain ones */
    if (n < LANES)
        for (long i = 0; i < n; i++) p[i] = x[i];
    else
        STORE(p, x);
}
INLINE vec square_root(vec x) { return (vec)_mm256_sqrt_ps((__m256)x); }
INLINE vec larger(vec x, vec y) { return (vec)_mm256_max_ps((__m256)x, (__m256)y); }
INLINE vec smaller(vec x, vec y) { return (vec)_mm256_min_ps((__m256)x, (__m256)y); }
INLINE int any(ivec condition) { return !_mm256_testz_si256((__m256i)condition, (__m256i)condition); }
#endif

INLINE vec largest_of(vec x) {
    if (LANES > 8) x = larger(x, exchanged(x, 8 % LANES));
    x = larger(x, exchanged(x, 4));
    x = larger(x, exchanged(x, 2));
    return larger(x, exchanged(x, 1));
}

INLINE vec exponential(vec x) { /* within 2 units in the last place, for x from -87 to 88; NaN for NaN */
    x = smaller((vec){0} + 88.f, larger((vec){0} - 87.f, x));
    vec n = x * 1.44269504f + 12582912.f; /* 1.5 * 2^23 puts the nearest integer in the lowest bits */
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

/* Dropout factors, 0 or 1 / (1 - p), of the numbers at index, index + step, ... They depend on seed and index alone. */
INLINE vec kept_every(long seed, long index, long step, long dropped) {
    if (!dropped) return (vec){0} + 1.f;
    uvec x;
    for (int j = 0; j < LANES; j++) x[j] = j;
    x *= (unsigned)step;
    x += (unsigned)index + (unsigned)seed * 0x9e3779b9u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return either((ivec)(x >= (unsigned)dropped), (vec){0} + 4294967296.f / (4294967296.f - dropped), (vec){0});
}

INLINE vec kept(long seed, long index, long dropped) { return kept_every(seed, index, 1, dropped); }

#endif
