/* dice.py: the batch statistics of Dice, and Dice with the Linear after it. */

#include "kernel.h"

STRUCT(moments,
    const float *x;                    /* (N, C) */
    float *running_mean, *running_var; /* (C,): updated by two rows or more, else used as the statistics */
    float *shift, *scale;              /* (C,): z = x scale + shift has mean 0 and variance 1 */
    long n, width;
    double eps, momentum;
    struct sum distances; /* (2, C): distances from the first row, which do not cancel, and their squares */
)

static void moments_thread(void *args, long thread, long n_threads) {
    const struct moments *m = args;
    long width = m->width;
    BLOCKS(start, rows, m->n) EACH(j, width) {
        float *sums = sum_at(&m->distances, thread) + j;
        vec first = LOAD(sums), second = LOAD(sums + width), origin = LOAD(m->x + j);
        for (long i = start; i < start + rows; i++) {
            vec distance = LOAD(m->x + i * width + j) - origin;
            first += distance;
            second += distance * distance;
        }
        STORE(sums, first);
        STORE(sums + width, second);
    }
}

EXPORT void moments(void *args, long n_threads) {
    struct moments *m = args;
    RUN_SUMMING(moments, distances, args, n_threads);
    const float *first = m->distances.total, *second = first + m->width;
    float count = m->n, step = m->momentum;
    for (long j = 0; j < m->width; j++) {
        float mean = m->running_mean[j], var = m->running_var[j];
        if (m->n > 1) {
            float distance = first[j] / count, squares = second[j] / count - distance * distance;
            mean = m->x[j] + distance;
            var = squares < 0 ? 0 : squares;
            m->running_mean[j] += step * (mean - m->running_mean[j]);
            m->running_var[j] += step * (var * count / (count - 1) - m->running_var[j]);
        }
        m->scale[j] = 1.f / __builtin_sqrtf(var + (float)m->eps);
        m->shift[j] = -mean * m->scale[j];
    }
}

STRUCT(dice,
    const float *x, *shift, *scale, *alpha;       /* (N, C), then (C,) each: z = x scale + shift */
    const float *OPTIONAL weight, *OPTIONAL bias; /* (C, O), (O,) */
    float *out;                                   /* (N, O), or (N, C) without a Linear */
    long n, width, n_out;                         /* O: 0 without a Linear, or 1, or a multiple of LANES */
)

static void dice_thread(void *args, long thread, long n_threads) {
    const struct dice *d = args;
    long width = d->width, n_out = d->n_out;
    float *own = scratch(BLOCK, width); /* y of a block, if a Linear follows */
    BLOCKS(start, rows, d->n) {
        float *y = n_out ? own : d->out + start * width;
        EACH(j, width) {
            vec scale = LOAD(d->scale + j), shift = LOAD(d->shift + j), alpha = LOAD(d->alpha + j);
            for (long i = 0; i < rows; i++) {
                vec x = LOAD(d->x + (start + i) * width + j), p = sigmoid(x * scale + shift);
                STORE(y + i * width + j, x * (alpha + p * (1.f - alpha)));
            }
        }
        if (n_out) affine(y, rows, width, d->weight, d->bias, n_out, d->out + start * n_out);
    }
    free(own);
}
KERNEL(dice)

STRUCT(dice_back,
    const float *x, *shift, *scale, *alpha, *OPTIONAL weight, *dout; /* weight (O, C), dout (N, O) */
    float *dx;                                                       /* (N, C) */
    long n, width, n_out;
    double row_weight; /* of a row in the statistics: 1 / N, or 0 if they are the running ones */
    struct sum OPTIONAL dweight, OPTIONAL dbias, dalpha, dstatistics; /* (O, C), (O,), (C,); (2, C): g, and g z */
)

static void dice_back_thread(void *args, long thread, long n_threads) {
    const struct dice_back *d = args;
    long width = d->width, n_out = d->n_out;
    float *p = scratch(BLOCK, width), *y = scratch(BLOCK, width), *own = scratch(BLOCK, width);
    float *dweight = sum_at(&d->dweight, thread), *dbias = sum_at(&d->dbias, thread);
    float *to_alpha = sum_at(&d->dalpha, thread), *to_g = sum_at(&d->dstatistics, thread);
    BLOCKS(start, rows, d->n) {
        const float *x = d->x + start * width, *dout = d->dout + start * (n_out ? n_out : width);
        const float *dy = n_out ? own : dout;
        EACH(j, width) {
            vec scale = LOAD(d->scale + j), shift = LOAD(d->shift + j), alpha = LOAD(d->alpha + j);
            for (long i = j; i < rows * width; i += width) {
                vec gate = sigmoid(LOAD(x + i) * scale + shift);
                STORE(p + i, gate);
                STORE(y + i, LOAD(x + i) * (alpha + gate * (1.f - alpha)));
            }
        }
        if (n_out) affine_back(y, dout, rows, width, d->weight, n_out, dweight, dbias, own, 0);
        EACH(j, width) {
            vec scale = LOAD(d->scale + j), shift = LOAD(d->shift + j), alpha = LOAD(d->alpha + j);
            vec dalpha = LOAD(to_alpha + j), sum_g = LOAD(to_g + j), sum_gz = LOAD(to_g + width + j);
            for (long i = j; i < rows * width; i += width) {
                vec gate = LOAD(p + i), dgate = LOAD(dy + i) * LOAD(x + i), g = dgate * gate * (1.f - gate);
                dalpha += dgate * (1.f - gate);
                sum_g += g;
                sum_gz += g * (LOAD(x + i) * scale + shift);
                STORE(d->dx + start * width + i,
                      LOAD(dy + i) * (alpha + gate * (1.f - alpha)) + g * ((1.f - alpha) * scale));
            }
            STORE(to_alpha + j, dalpha), STORE(to_g + j, sum_g), STORE(to_g + width + j, sum_gz);
        }
    }
    free(p), free(y), free(own);
}

/* The gradient through the statistics: dx -= inner (E[g] + E[g z] z), inner = (1 - alpha) scale. */
static void statistics_back_thread(void *args, long thread, long n_threads) {
    const struct dice_back *d = args;
    long width = d->width;
    BLOCKS(start, rows, d->n) EACH(j, width) {
        const float *sums = d->dstatistics.total + j;
        vec scale = LOAD(d->scale + j), inner = (1.f - LOAD(d->alpha + j)) * scale * (float)d->row_weight;
        vec along = inner * LOAD(sums + width), level = inner * LOAD(sums) + along * LOAD(d->shift + j);
        for (long i = start * width + j; i < (start + rows) * width; i += width)
            STORE(d->dx + i, LOAD(d->dx + i) - level - LOAD(d->x + i) * (along * scale));
    }
}

EXPORT void dice_back(void *args, long n_threads) {
    RUN_SUMMING(dice_back, dweight, args, n_threads);
    run(statistics_back_thread, args, n_threads);
}
