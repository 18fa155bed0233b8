/* Rows that a mask selects, gathered into a contiguous array and put back; rows as columns. */

#include "kernel.h"

long counted_rows(const unsigned char *mask, long start, long rows, long *at) {
    long n = 0;
    for (long i = start; i < start + rows; i++)
        if (!mask || mask[i]) at[n++] = i;
    return n;
}

const float *packed(const float *x, const long *at, long n, long width, float *to) {
    if (!n || at[n - 1] - at[0] == n - 1) return x + (n ? at[0] * width : 0);
    for (long i = 0; i < n; i++) memcpy(to + i * width, x + at[i] * width, sizeof(float) * width);
    return to;
}

void unpack(const float *x, const long *at, long n, long width, long start, long rows, float *to) {
    for (long i = 0, row = start; row < start + rows; row++)
        if (i < n && at[i] == row)
            memcpy(to + row * width, x + i++ * width, sizeof(float) * width);
        else
            memset(to + row * width, 0, sizeof(float) * width);
}

/* One round of transposing a square: in each block of size 2 half, swaps the two off-diagonal quarters. */
INLINE void turn(vec *square, const int half) {
    ivec upper, lower; /* the lanes that the two rows take; from LANES on, those of the second row */
#pragma GCC unroll 16
    for (int j = 0; j < LANES; j++) {
        upper[j] = j & half ? LANES + j - half : j;
        lower[j] = j & half ? LANES + j : j + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & half)) {
            vec first = square[i], second = square[i + half];
            square[i] = __builtin_shuffle(first, second, upper);
            square[i + half] = __builtin_shuffle(first, second, lower);
        }
}

void transpose(const float *x, long x_row, long rows, long columns, float *to, long to_row, long to_width) {
    for (long row = 0; row < to_width; row += LANES)
        for (long column = 0; column < columns; column += LANES) {
            vec square[LANES];
            long across = columns - column, down = to_width - row;
            const float *from = x + row * x_row + column;
#pragma GCC unroll 16
            for (long i = 0; i < LANES; i++)
                square[i] = row + i >= rows  ? (vec){0}
                            : across < LANES ? load_some(from + i * x_row, across)
                                             : LOAD(from + i * x_row);
            turn(square, 1), turn(square, 2), turn(square, 4);
            if (LANES > 8) turn(square, 8);
#pragma GCC unroll 16
            for (long j = 0; j < LANES; j++) {
                float *place = to + (column + j) * to_row + row;
                if (j < across && down < LANES)
                    store_some(place, square[j], down);
                else if (j < across)
                    STORE(place, square[j]);
            }
        }
}
