/* The layers that a step on a CPU spends its time in, each as one pass over memory; kernel.py calls them.

   What torch does operation by operation goes through memory once an operation. Here a thread takes a block of rows,
   does all there is to do with it while it lies in the cache, and takes the next. Matrices are float, row after row;
   widths are multiples of LANES. Thread `share` of `shares` always does the same work, so sums come out the same to the
   bit; what threads add up, each adds to rows of its own. */

#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 6, COLUMNS = 4 }; /* of a product's tile, so that it stays in the registers */
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 6, COLUMNS = 2 };
#else
enum { LANES = 4, ROWS = 4, COLUMNS = 2 };
#endif
enum { BLOCK = 48 }; /* rows; a multiple of ROWS */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, x) (*(vec *)(p) = (x))
#define EACH(j, width) for (long j = 0; j < (width); j += LANES)

long lanes(void) { return LANES; }

/* Threads: torch's own pool, by the entry point of the OpenMP that it brings. A second pool would fight for its cores. */

typedef void Work(void *args, long share, long shares);
typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);
static Parallel *parallel;
struct team {
    Work *work;
    void *args;
    long shares, next;
};

void use_threads(Parallel *entry) { parallel = entry; }

static void take_shares(void *arg) {
    struct team *team = arg;
    long share;
    while ((share = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED)) < team->shares)
        team->work(team->args, share, team->shares);
}

static void run(Work *work, void *args, long shares) {
    struct team team = {work, args, shares, 0};
    if (shares > 1)
        parallel(take_shares, &team, shares, 0);
    else
        take_shares(&team);
}

#define KERNEL(name) \
    void name(void *args, long shares) { run(name##_share, args, shares); }
/* The blocks of n rows that are this share's, each as its first row and its number of rows. */
#define BLOCKS(start, rows, n) \
    for (long start = share * BLOCK, rows; rows = (n) - start < BLOCK ? (n) - start : BLOCK, start < (n); \
         start += shares * BLOCK)

static float *scratch(long rows, long width) { return malloc(sizeof(float) * rows * width); }

/* c (m, n) = a b, or c + a b: a (m, depth) with any steps between its rows and columns, b (depth, n). */

INLINE void tile(const int rows, const int columns, long depth, const float *a, long a_row, long a_column,
                 const float *b, long b_row, float *c, long c_row, int add) {
    vec sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++) sum[i][j] = add ? LOAD(c + i * c_row + j * LANES) : (vec){0};
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

static void multiply(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
                     float *c, long c_row, int add) {
    for (long column = 0; column < n; column += COLUMNS * LANES) {
        long columns = (n - column) / LANES < COLUMNS ? (n - column) / LANES : COLUMNS;
        for (long row = 0; row < m; row += ROWS) {
            long rows = m - row < ROWS ? m - row : ROWS;
#define TILE(r, s) \
    case 8 * r + s: \
        tile(r, s, depth, a + row * a_row, a_row, a_column, b + column, b_row, c + row * c_row + column, c_row, add); \
        break;
#if defined(__AVX512F__)
#define TILES(r) TILE(r, 1) TILE(r, 2) TILE(r, 3) TILE(r, 4)
#else
#define TILES(r) TILE(r, 1) TILE(r, 2)
#endif
            switch (8 * rows + columns) {
                TILES(1) TILES(2) TILES(3) TILES(4)
#if defined(__AVX2__)
                TILES(5) TILES(6)
#endif
            }
        }
    }
}

INLINE float sum_of(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

INLINE vec either(ivec condition, vec yes, vec no) {
    return (vec)((condition & (ivec)yes) | (~condition & (ivec)no));
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


/* attention.py, _Meet: x_i = key_p + query_r + W (v_p * t_r), event i having place p and row r. */

struct meet {
    const float *vectors, *target, *key, *query, *weight; /* (n, D), (B, D), (n, H), (B, H), (D, H) */
    const long *place, *row;                              /* (N,) */
    float *x;                                             /* (N, H) */
    long n, dim, width;
};

static void meet_share(void *args, long share, long shares) {
    const struct meet *m = args;
    long dim = m->dim, width = m->width;
    float *met = scratch(BLOCK, dim);
    BLOCKS(start, rows, m->n) {
        for (long i = 0; i < rows; i++) {
            const float *v = m->vectors + m->place[start + i] * dim, *t = m->target + m->row[start + i] * dim;
            const float *key = m->key + m->place[start + i] * width, *query = m->query + m->row[start + i] * width;
            EACH(j, dim) STORE(met + i * dim + j, LOAD(v + j) * LOAD(t + j));
            EACH(j, width) STORE(m->x + (start + i) * width + j, LOAD(key + j) + LOAD(query + j));
        }
        multiply(rows, width, dim, met, dim, 1, m->weight, width, m->x + start * width, width, 1);
    }
    free(met);
}
KERNEL(meet)

struct meet_back {
    const float *vectors, *target, *weight, *dx; /* weight (H, D) */
    const long *place, *row;
    float *dmet, *dweight; /* (N, D), (shares, H, D) */
    long n, dim, width;
};

static void meet_back_share(void *args, long share, long shares) {
    const struct meet_back *m = args;
    long dim = m->dim, width = m->width;
    float *met = scratch(BLOCK, dim), *dweight = m->dweight + share * width * dim;
    BLOCKS(start, rows, m->n) {
        const float *dx = m->dx + start * width;
        for (long i = 0; i < rows; i++) {
            const float *v = m->vectors + m->place[start + i] * dim, *t = m->target + m->row[start + i] * dim;
            EACH(j, dim) STORE(met + i * dim + j, LOAD(v + j) * LOAD(t + j));
        }
        multiply(width, dim, rows, dx, 1, width, met, dim, dweight, dim, 1);
        multiply(rows, dim, width, dx, width, 1, m->weight, dim, m->dmet + start * dim, dim, 0);
    }
    free(met);
}
KERNEL(meet_back)

/* What events bring to the rows they came from; a share takes columns, so no two write to one number. */

struct meet_add {
    const float *vectors, *target, *dx, *dmet;
    const long *place, *row;
    float *dvectors, *dtarget, *dkey, *dquery; /* as the four are, from 0 */
    long n, dim, width;
};

static void meet_add_share(void *args, long share, long shares) {
    const struct meet_add *m = args;
    long dim = m->dim, width = m->width;
    for (long i = 0; i < m->n; i++) {
        long p = m->place[i], r = m->row[i];
        for (long j = share * LANES; j < dim; j += shares * LANES) {
            vec dmet = LOAD(m->dmet + i * dim + j);
            float *dv = m->dvectors + p * dim + j, *dt = m->dtarget + r * dim + j;
            STORE(dv, LOAD(dv) + dmet * LOAD(m->target + r * dim + j));
            STORE(dt, LOAD(dt) + dmet * LOAD(m->vectors + p * dim + j));
        }
        for (long j = share * LANES; j < width; j += shares * LANES) {
            vec dx = LOAD(m->dx + i * width + j);
            float *dk = m->dkey + p * width + j, *dq = m->dquery + r * width + j;
            STORE(dk, LOAD(dk) + dx);
            STORE(dq, LOAD(dq) + dx);
        }
    }
}
KERNEL(meet_add)

/* activation.py, _Dice, and the linear layer after it. */

struct moments {
    const float *x, *shift; /* (N, C), (C,) */
    float *sums;            /* (shares, 2, C): of distances from the shift, of their squares */
    long n, width;
};

static void moments_share(void *args, long share, long shares) {
    const struct moments *m = args;
    long width = m->width;
    BLOCKS(start, rows, m->n) EACH(j, width) {
        float *sums = m->sums + share * 2 * width + j;
        vec first = LOAD(sums), second = LOAD(sums + width), shift = LOAD(m->shift + j);
        for (long i = start; i < start + rows; i++) {
            vec distance = LOAD(m->x + i * width + j) - shift;
            first += distance;
            second += distance * distance;
        }
        STORE(sums, first);
        STORE(sums + width, second);
    }
}
KERNEL(moments)

struct dice {
    const float *x, *shift, *scale, *alpha; /* (N, C), then (C,) each: z = x scale + shift */
    const float *weight, *bias;             /* (C, O), (O,) */
    float *out;                             /* (N, O) */
    long n, width, n_out;                   /* O: 0 without a linear layer, or 1, or a multiple of LANES */
};

static void dice_share(void *args, long share, long shares) {
    const struct dice *d = args;
    long width = d->width, n_out = d->n_out;
    float *made = scratch(BLOCK, width);
    BLOCKS(start, rows, d->n) {
        float *y = n_out ? made : d->out + start * width;
        EACH(j, width) {
            vec scale = LOAD(d->scale + j), shift = LOAD(d->shift + j), alpha = LOAD(d->alpha + j);
            for (long i = 0; i < rows; i++) {
                vec x = LOAD(d->x + (start + i) * width + j), p = sigmoid(x * scale + shift);
                STORE(y + i * width + j, x * (alpha + p * (1.f - alpha)));
            }
        }
        for (long i = 0; n_out == 1 && i < rows; i++) {
            vec sum = {0};
            EACH(j, width) sum += LOAD(y + i * width + j) * LOAD(d->weight + j);
            d->out[start + i] = sum_of(sum) + d->bias[0];
        }
        if (n_out > 1) {
            float *out = d->out + start * n_out;
            for (long i = 0; i < rows; i++) memcpy(out + i * n_out, d->bias, sizeof(float) * n_out);
            multiply(rows, n_out, width, y, width, 1, d->weight, n_out, out, n_out, 1);
        }
    }
    free(made);
}
KERNEL(dice)

struct dice_back {
    const float *x, *shift, *scale, *alpha, *weight, *dout; /* weight (O, C), dout (N, O) */
    float *dx, *sums, *dweight, *dbias;                     /* (N, C), (shares, 3, C), (shares, O, C), (shares, O) */
    long n, width, n_out;
};

static void dice_back_share(void *args, long share, long shares) {
    const struct dice_back *d = args;
    long width = d->width, n_out = d->n_out;
    float *p = scratch(BLOCK, width), *y = scratch(BLOCK, width), *made = scratch(BLOCK, width);
    float *dweight = d->dweight + share * n_out * width, *dbias = d->dbias + share * n_out;
    BLOCKS(start, rows, d->n) {
        const float *x = d->x + start * width, *dout = d->dout + start * (n_out ? n_out : width);
        const float *dy = n_out ? made : dout;
        EACH(j, width) {
            vec scale = LOAD(d->scale + j), shift = LOAD(d->shift + j), alpha = LOAD(d->alpha + j);
            for (long i = j; i < rows * width; i += width) {
                vec share_of_x = sigmoid(LOAD(x + i) * scale + shift);
                STORE(p + i, share_of_x);
                STORE(y + i, LOAD(x + i) * (alpha + share_of_x * (1.f - alpha)));
            }
        }
        for (long i = 0; n_out == 1 && i < rows; i++) {
            dbias[0] += dout[i];
            EACH(j, width) {
                STORE(dweight + j, LOAD(dweight + j) + dout[i] * LOAD(y + i * width + j));
                STORE(made + i * width + j, dout[i] * LOAD(d->weight + j));
            }
        }
        if (n_out > 1) {
            for (long i = 0; i < rows; i++) EACH(j, n_out) STORE(dbias + j, LOAD(dbias + j) + LOAD(dout + i * n_out + j));
            multiply(n_out, width, rows, dout, 1, n_out, y, width, dweight, width, 1);
            multiply(rows, width, n_out, dout, n_out, 1, d->weight, width, made, width, 0);
        }
        EACH(j, width) {
            vec scale = LOAD(d->scale + j), shift = LOAD(d->shift + j), alpha = LOAD(d->alpha + j);
            float *sums = d->sums + share * 3 * width + j;
            vec dalpha = LOAD(sums), sum_g = LOAD(sums + width), sum_gz = LOAD(sums + 2 * width);
            for (long i = j; i < rows * width; i += width) {
                vec q = LOAD(p + i), dq = LOAD(dy + i) * LOAD(x + i), g = dq * q * (1.f - q);
                dalpha += dq * (1.f - q);
                sum_g += g;
                sum_gz += g * (LOAD(x + i) * scale + shift);
                STORE(d->dx + start * width + i,
                      LOAD(dy + i) * (alpha + q * (1.f - alpha)) + g * ((1.f - alpha) * scale));
            }
            STORE(sums, dalpha);
            STORE(sums + width, sum_g);
            STORE(sums + 2 * width, sum_gz);
        }
    }
    free(p), free(y), free(made);
}
KERNEL(dice_back)

/* dx -= level + slope x, by which the gradient goes through the batch's statistics. */

struct settle {
    float *dx;
    const float *x, *level, *slope; /* (N, C), then (C,) each */
    long n, width;
};

static void settle_share(void *args, long share, long shares) {
    const struct settle *s = args;
    BLOCKS(start, rows, s->n) EACH(j, s->width) {
        vec level = LOAD(s->level + j), slope = LOAD(s->slope + j);
        for (long i = start * s->width + j; i < (start + rows) * s->width; i += s->width)
            STORE(s->dx + i, LOAD(s->dx + i) - level - LOAD(s->x + i) * slope);
    }
}
KERNEL(settle)

/* recurrent.py, _Recurrence: rows know nothing of one another, so a block of them goes through all its steps. */

struct recurrence {
    float *gates;                    /* (L, B, 3H): the input's products, then r, u and the candidate */
    const float *a, *weight, *bias;  /* (L, B) or null, (H, 3H), (H,) of the candidate */
    float *h, *y_n;                  /* (L + 1, B, H), of which the first is given; (L, B, H) */
    const long *active;              /* (L,) */
    long n_steps, n_rows, width, update;
};

INLINE vec share_of(float weight, vec u, long update) {
    if (update) return weight * u;
    return (vec){0} + weight;
}

static void recurrence_share(void *args, long share, long shares) {
    const struct recurrence *c = args;
    long width = c->width, all = 3 * width, n_rows = c->n_rows;
    float *y = scratch(BLOCK, all);
    BLOCKS(start, rows, n_rows) for (long t = 0; t < c->n_steps; t++) {
        long at = t * n_rows + start, left = c->active[t] - start, n = left < 0 ? 0 : left < rows ? left : rows;
        float *gates = c->gates + at * all, *y_n = c->y_n + at * width, *old = c->h + at * width;
        float *new = old + n_rows * width;
        for (long i = 0; i < n; i++) {
            memcpy(y + i * all, gates + i * all, sizeof(float) * 2 * width);
            memcpy(y + i * all + 2 * width, c->bias, sizeof(float) * width);
        }
        multiply(n, all, width, old, width, 1, c->weight, all, y, all, 1);
        for (long i = 0; i < n; i++) EACH(j, width) {
            float weight = c->a ? c->a[at + i] : 1.f;
            const float *from = y + i * all + j;
            float *to = gates + i * all + j;
            vec r = sigmoid(LOAD(from)), u = sigmoid(LOAD(from + width)), product = LOAD(from + 2 * width);
            vec candidate = hyperbolic(LOAD(to + 2 * width) + r * product), h = LOAD(old + i * width + j);
            STORE(to, r);
            STORE(to + width, u);
            STORE(to + 2 * width, candidate);
            STORE(y_n + i * width + j, product);
            STORE(new + i * width + j, h + share_of(weight, u, c->update) * (candidate - h));
        }
        memcpy(new + n * width, old + n * width, sizeof(float) * (rows - n) * width);
    }
    free(y);
}
KERNEL(recurrence)

struct recurrence_back {
    const float *gates, *a, *weight, *h, *y_n;   /* weight (3H, H) */
    const float *dstates, *dlast;                /* (L, B, H), (B, H); each may be null */
    float *da, *dx, *dweight, *dbias;            /* (L, B) or null, (L, B, 3H), (shares, 3H, H), (shares, H) */
    const long *active;
    long n_steps, n_rows, width, update;
};

static void recurrence_back_share(void *args, long share, long shares) {
    const struct recurrence_back *c = args;
    long width = c->width, all = 3 * width, n_rows = c->n_rows;
    float *dy = scratch(BLOCK, all), *dh = scratch(BLOCK, width);
    float *dweight = c->dweight + share * all * width, *dbias = c->dbias + share * width;
    BLOCKS(start, rows, n_rows) {
        memset(dh, 0, sizeof(float) * rows * width);
        if (c->dlast) memcpy(dh, c->dlast + start * width, sizeof(float) * rows * width);
        for (long t = c->n_steps - 1; t >= 0; t--) {
            long at = t * n_rows + start, left = c->active[t] - start, n = left < 0 ? 0 : left < rows ? left : rows;
            const float *gates = c->gates + at * all, *y_n = c->y_n + at * width, *old = c->h + at * width;
            float *dx = c->dx + at * all;
            for (long i = 0; c->dstates && i < rows; i++) EACH(j, width) {
                float *to = dh + i * width + j;
                STORE(to, LOAD(to) + LOAD(c->dstates + (at + i) * width + j));
            }
            for (long i = 0; i < n; i++) {
                float weight = c->a ? c->a[at + i] : 1.f;
                vec da = {0};
                EACH(j, width) {
                    const float *from = gates + i * all + j;
                    float *to = dx + i * all + j, *hidden = dy + i * all + j, *grad = dh + i * width + j;
                    vec r = LOAD(from), u = LOAD(from + width), candidate = LOAD(from + 2 * width);
                    vec through = LOAD(grad) * share_of(weight, u, c->update);
                    vec dk = LOAD(grad) * (candidate - LOAD(old + i * width + j));
                    vec dn = through * (1.f - candidate * candidate), dyn = dn * r;
                    vec dr = dyn * LOAD(y_n + i * width + j) * (1.f - r), du = {0};
                    if (c->update) {
                        da += dk * u;
                        du = dk * weight * u * (1.f - u);
                    } else
                        da += dk;
                    STORE(grad, LOAD(grad) - through);
                    STORE(to, dr), STORE(to + width, du), STORE(to + 2 * width, dn);
                    STORE(hidden, dr), STORE(hidden + width, du), STORE(hidden + 2 * width, dyn);
                    STORE(dbias + j, LOAD(dbias + j) + dyn);
                }
                if (c->da) c->da[at + i] = sum_of(da);
            }
            memset(dx + n * all, 0, sizeof(float) * (rows - n) * all);
            multiply(n, width, all, dy, all, 1, c->weight, width, dh, width, 1);
            multiply(all, width, n, dy, 1, all, old, width, dweight, width, 1);
        }
    }
    free(dy), free(dh);
}
KERNEL(recurrence_back)
