/* Matrix products, in tiles that stay in registers, and a Linear and its gradients built on them. */

#include "kernel.h"

#if defined(__AVX512F__)
enum { ROWS = 6, COLUMNS = 4 }; /* of a tile, its columns counted in registers */
#else /* AVX2 */
enum { ROWS = 6, COLUMNS = 2 };
#endif

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

void multiply_onto(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b,
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

void multiply(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
                     float *c, long c_row, int add) {
    multiply_onto(m, n, depth, a, a_row, a_column, b, b_row, c, c_row, add ? c : 0, c_row);
}

void add_rows(const float *x, long rows, long width, float *sum) {
    for (long i = 0; i < rows; i++) EACH(j, width) STORE(sum + j, LOAD(sum + j) + LOAD(x + i * width + j));
}

void affine(const float *x, long rows, long width, const float *weight, const float *bias, long n_out,
                   float *out) {
    for (long i = 0; n_out == 1 && i < rows; i++) {
        vec sum = {0};
        EACH(j, width) sum += LOAD(x + i * width + j) * LOAD(weight + j);
        out[i] = sum_of(sum)[0] + (bias ? bias[0] : 0);
    }
    if (n_out == 1) return;
    multiply_onto(rows, n_out, width, x, width, 1, weight, n_out, out, n_out, bias, 0);
}

void affine_back(const float *x, const float *dout, long rows, long width, const float *weight, long n_out,
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
