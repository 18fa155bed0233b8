/* adam.py: Adam of a table's rows, and the steps that rows without a gradient have missed. */

#include "kernel.h"
#include <math.h>

/* What is kept of a past step: adam.py's columns. */
enum { RATE, EPS, DECAY, SHRINK, SUM, MOMENT, SQUARE, COLUMNS };

STRUCT(adam_missed,
    float *weight, *mean, *square; /* (rows, W), square (rows, 1) if per_row */
    int *last;                     /* (rows,): the step up to which each row is updated, 0 before its first gradient */
    const long *OPTIONAL rows;     /* (n,), unique; null: all */
    const double *past, *powers;   /* (n_past, COLUMNS), (n_past + 1, 2) */
    long n, width, per_row, step, n_past, decays, n_left; /* after n_left steps without decay a row moves no more */
    double beta1, beta2;
)

/* The second moments of a row's numbers from j on; one number for all of them if per_row. */
INLINE vec second_moment(const float *square, long j, long width, long per_row) {
    if (per_row) return (vec){0} + *square;
    return load_some(square + j, width - j);
}

/* The steps one by one: gradients are `decay` times the weights. */
static void one_by_one(vec *w, vec *m, vec *v, const double *past, long n, const struct adam_missed *a) {
    float b1 = a->beta1, b2 = a->beta2, c1 = 1 - a->beta1, c2 = 1 - a->beta2;
    for (; n--; past += COLUMNS) {
        vec g = (float)past[DECAY] * *w;
        *w *= (float)past[SHRINK];
        *m = b1 * *m + c1 * g;
        *v = b2 * *v + c2 * g * g;
        *w -= (float)past[RATE] * *m / (square_root(*v) + (float)past[EPS]);
    }
}

/* All steps at once, without decay; `past` is the first. False where v is so small that this would be inexact. */
static int at_once(vec *w, vec m, vec v, const double *past) {
    double sum = past[SUM], mean = sum ? past[MOMENT] / sum : 0, spread = sum ? past[SQUARE] / sum - mean * mean : 0;
    float variance = spread > 0 ? spread : 0;
    vec root = square_root(v) + (float)mean, relative = variance / (root * root);
    if (any((relative > 2.5e-5f) & (m != 0.f))) return 0;
    *w -= either(m != 0.f, (float)sum * m / root * (1.f + relative), (vec){0});
    return 1;
}

/* The sum of c_t r^j / (sqrt(v) + q_t) over the steps without decay, which times m is how far they move the weights. */
static vec sum_of_steps(vec v, const double *past, long n, const struct adam_missed *a) {
    double growth = 1 / sqrt(a->beta2), share = 1, grown = 1;
    vec root = square_root(v), sum = {0};
    for (; n--; past += COLUMNS) {
        share *= a->beta1 * growth;
        grown *= growth;
        sum += (float)(past[RATE] * share) / (root + (float)(past[EPS] * grown));
    }
    return sum;
}

static void adam_missed_thread(void *args, long thread, long n_threads) {
    const struct adam_missed *a = args;
    long width = a->width;
    BLOCKS(start, rows, a->n) for (long i = start; i < start + rows; i++) {
        if (a->rows && i + AHEAD < a->n) {
            long next = a->rows[i + AHEAD];
            fetch(a->weight + next * width, width);
            fetch(a->mean + next * width, width);
            fetch(a->square + next * (a->per_row ? 1 : width), a->per_row ? 1 : width);
            __builtin_prefetch(a->last + next, 1);
        }
        long row = a->rows ? a->rows[i] : i, last = a->last[row], gap = a->step - last;
        if (!gap || (!last && !a->decays)) continue;
        const double *past = a->past + (a->n_past - gap) * COLUMNS, *power = a->powers + 2 * gap;
        float *square = a->square + row * (a->per_row ? 1 : width);
        EACH(j, width) {
            float *weight = a->weight + row * width + j, *mean = a->mean + row * width + j;
            vec w = load_some(weight, width - j), m = load_some(mean, width - j);
            vec v = second_moment(square, j, width, a->per_row);
            if (a->decays)
                one_by_one(&w, &m, &v, past, gap, a);
            else {
                if (!at_once(&w, m, v, past)) w -= m * sum_of_steps(v, past, gap < a->n_left ? gap : a->n_left, a);
                m *= (float)power[0];
                v *= (float)power[1];
            }
            store_some(weight, w, width - j);
            store_some(mean, m, width - j);
            if (!a->per_row) store_some(square + j, v, width - j);
        }
        if (a->per_row) *square *= (float)power[1];
        a->last[row] = a->step;
    }
}
KERNEL(adam_missed)

STRUCT(adam_update,
    float *weight, *mean, *square; /* (rows, W), square (rows, 1) if per_row */
    int *last;                     /* (rows,) */
    const long *OPTIONAL rows;     /* (n,), unique; null: all */
    const float *grad;             /* (n, W) */
    long n, width, per_row, step;
    double beta1, beta2, rate, eps, decay, shrink;
)

static void adam_update_thread(void *args, long thread, long n_threads) {
    const struct adam_update *a = args;
    long width = a->width;
    float b1 = a->beta1, b2 = a->beta2, c1 = 1 - a->beta1, c2 = 1 - a->beta2;
    float rate = a->rate, eps = a->eps, decay = a->decay, shrink = a->shrink;
    BLOCKS(start, rows, a->n) for (long i = start; i < start + rows; i++) {
        if (a->rows && i + AHEAD < a->n) {
            long next = a->rows[i + AHEAD];
            fetch(a->weight + next * width, width);
            fetch(a->mean + next * width, width);
            fetch(a->square + next * (a->per_row ? 1 : width), a->per_row ? 1 : width);
            __builtin_prefetch(a->last + next);
        }
        long row = a->rows ? a->rows[i] : i;
        float *square = a->square + row * (a->per_row ? 1 : width);
        if (a->per_row) {
            vec sum = {0};
            EACH(j, width) {
                vec g = load_some(a->grad + i * width + j, width - j);
                g += decay * load_some(a->weight + row * width + j, width - j);
                sum += g * g;
            }
            *square = b2 * *square + c2 * sum_of(sum)[0] / width;
        }
        EACH(j, width) {
            float *weight = a->weight + row * width + j, *mean = a->mean + row * width + j;
            vec w = load_some(weight, width - j), m = load_some(mean, width - j);
            vec g = load_some(a->grad + i * width + j, width - j) + decay * w;
            vec v = second_moment(square, j, width, a->per_row);
            if (!a->per_row) v = b2 * v + c2 * g * g;
            w *= shrink;
            m = b1 * m + c1 * g;
            store_some(weight, w - rate * m / (square_root(v) + eps), width - j);
            store_some(mean, m, width - j);
            if (!a->per_row) store_some(square + j, v, width - j);
        }
        a->last[row] = a->step;
    }
}
KERNEL(adam_update)
