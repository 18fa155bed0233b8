/* Rows that a mask selects, gathered into a contiguous array and put back. */

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
