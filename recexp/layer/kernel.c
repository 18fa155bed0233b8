/* The layers that a step on a CPU spends its time in, each as one pass over memory; kernel.py calls them.

   What torch does operation by operation goes through memory once an operation. Here a thread takes a block of rows,
   does all there is to do with it while it lies in the cache, and takes the next. Matrices are float, row after row;
   widths are multiples of LANES. Thread `share` of `shares` always does the same work, so sums come out the same to the
   bit; what threads add up, each adds to rows of its own. */

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
#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, x) (*(vec *)(p) = (x))
#define EACH(j, width) for (long j = 0; j < (width); j += LANES)

long lanes(void) { return LANES; }

/* Threads: torch's own pool, by the entry point of its OpenMP. A second pool would fight for the cores. */

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
                TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
            }
        }
    }
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

static void add_rows(const float *x, long rows, long width, float *sum) {
    for (long i = 0; i < rows; i++) EACH(j, width) STORE(sum + j, LOAD(sum + j) + LOAD(x + i * width + j));
}

/* A Linear: x (rows, C), weight (C, O), bias (O,) -> out (rows, O); O is 1 or a multiple of LANES. */
static void affine(const float *x, long rows, long width, const float *weight, const float *bias, long n_out,
                   float *out) {
    for (long i = 0; n_out == 1 && i < rows; i++) {
        vec sum = {0};
        EACH(j, width) sum += LOAD(x + i * width + j) * LOAD(weight + j);
        out[i] = sum_of(sum)[0] + bias[0];
    }
    if (n_out == 1) return;
    for (long i = 0; i < rows; i++) memcpy(out + i * n_out, bias, sizeof(float) * n_out);
    multiply(rows, n_out, width, x, width, 1, weight, n_out, out, n_out, 1);
}

/* Its gradients: weight (O, C); dweight (O, C) and dbias (O,) are added to, and dx (rows, C) where `add` says so. */
static void affine_back(const float *x, const float *dout, long rows, long width, const float *weight, long n_out,
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

/* lookup.py: rows of a table by their places, and sums into these. */

struct gather {
    const float *table; /* (rows, W) */
    const long *place;  /* (N,) */
    float *out;         /* (N, W) */
    long n, width, add, n_rows, amiss; /* whether a place is none of the rows */
};

static void gather_share(void *args, long share, long shares) {
    struct gather *g = args;
    BLOCKS(start, rows, g->n) for (long i = start; i < start + rows; i++) {
        if (g->place[i] < 0 || g->place[i] >= g->n_rows) {
            g->amiss = 1;
            return;
        }
        const float *from = g->table + g->place[i] * g->width;
        float *to = g->out + i * g->width;
        if (g->add)
            EACH(j, g->width) STORE(to + j, LOAD(to + j) + LOAD(from + j));
        else
            memcpy(to, from, sizeof(float) * g->width);
    }
}
KERNEL(gather)

struct scatter {
    float *table; /* of 0 */
    const long *place;
    const float *x; /* (N, W) */
    long n, width;
};

/* A share takes columns, so no two write to one number. */
static void scatter_share(void *args, long share, long shares) {
    const struct scatter *s = args;
    for (long i = 0; i < s->n; i++) {
        float *to = s->table + s->place[i] * s->width;
        const float *from = s->x + i * s->width;
        for (long j = share * LANES; j < s->width; j += shares * LANES) STORE(to + j, LOAD(to + j) + LOAD(from + j));
    }
}
KERNEL(scatter)

/* attention.py, _Meet: x_i = key_p + query_r + W (v_p * t_r), event i having place p and row r. */

struct meet {
    const float *vectors, *target, *key, *query, *weight; /* (n, D), (B, D), (n, H), (B, H), (D, H) */
    const long *place, *row;                              /* (N,) */
    float *x;                                             /* (N, H) */
    long n, dim, width;
};

/* v_p * t_r of events (rows, D). */
static void meet_rows(const float *vectors, const float *target, const long *place, const long *row, long rows,
                      long dim, float *met) {
    for (long i = 0; i < rows; i++) {
        const float *v = vectors + place[i] * dim, *t = target + row[i] * dim;
        EACH(j, dim) STORE(met + i * dim + j, LOAD(v + j) * LOAD(t + j));
    }
}

static void meet_share(void *args, long share, long shares) {
    const struct meet *m = args;
    long dim = m->dim, width = m->width;
    float *met = scratch(BLOCK, dim);
    BLOCKS(start, rows, m->n) {
        meet_rows(m->vectors, m->target, m->place + start, m->row + start, rows, dim, met);
        for (long i = 0; i < rows; i++) {
            const float *key = m->key + m->place[start + i] * width, *query = m->query + m->row[start + i] * width;
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
        meet_rows(m->vectors, m->target, m->place + start, m->row + start, rows, dim, met);
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
        if (n_out) affine(y, rows, width, d->weight, d->bias, n_out, d->out + start * n_out);
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
        if (n_out) affine_back(y, dout, rows, width, d->weight, n_out, dweight, dbias, made, 0);
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
                if (c->da) c->da[at + i] = sum_of(da)[0];
            }
            memset(dx + n * all, 0, sizeof(float) * (rows - n) * all);
            multiply(n, width, all, dy, all, 1, c->weight, width, dh, width, 1);
            multiply(all, width, n, dy, 1, all, old, width, dweight, width, 1);
        }
    }
    free(dy), free(dh);
}
KERNEL(recurrence_back)

/* fused.py, _Attend: softmax(q k^T / sqrt(d)) v, a head of a row at a time; a query that sees nothing gets 0. */

struct attend {
    const float *q;                   /* (B, M, D), or null: the first D numbers of each position are its query */
    const float *table_1, *table_2;   /* (n, W) each: positions hold [k, v] or [q, k, v], the sum of rows of both */
    const long *place_1, *place_2;    /* (B, L): which rows; without them each position has its own */
    const unsigned char *seen;        /* (B, M or 1, L) */
    float *out;                       /* (B, M, D); dout in attend_back */
    long n_rows, n_queries, length, dim, n_heads, width;
    long each;                        /* whether each query has a row of seen */
    long dropped, seed;               /* dropout of the weights, of 2^32 */
    float *dq, *dpositions;           /* (B, M, D) or null, (B, L, W); of attend_back */
};

/* What the positions of a row hold: (L, W). */
static void look_up(const struct attend *s, long row, float *to) {
    long width = s->width;
    for (long i = row * s->length; i < (row + 1) * s->length; i++, to += width) {
        const float *first = s->table_1 + (s->place_1 ? s->place_1[i] : i) * width;
        if (s->table_2) {
            const float *second = s->table_2 + (s->place_2 ? s->place_2[i] : i) * width;
            EACH(j, width) STORE(to + j, LOAD(first + j) + LOAD(second + j));
        } else
            memcpy(to, first, sizeof(float) * width);
    }
}

/* One round of a square's transposition: what lies off the diagonal of squares of 2 half changes places. */
INLINE void turn(vec *square, const int half) {
    ivec upper, lower; /* where the two rows' numbers come from, those from LANES on being the second row's */
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

/* b (width, to) = a (rows, width) transposed, with columns of 0 up to `to`. */
static void transpose(const float *a, long a_row, long rows, long width, float *b, long to) {
    for (long start = 0; start < to; start += LANES)
        for (long column = 0; column < width; column += LANES) {
            vec square[LANES];
#pragma GCC unroll 16
            for (long i = 0; i < LANES; i++)
                square[i] = start + i < rows ? LOAD(a + (start + i) * a_row + column) : (vec){0};
            turn(square, 1), turn(square, 2), turn(square, 4);
            if (LANES > 8) turn(square, 8);
#pragma GCC unroll 16
            for (long j = 0; j < LANES; j++) STORE(b + (column + j) * to + start, square[j]);
        }
}

/* Weights (M, padded) of a head's queries q on its keys (d, padded), 0 where they are not seen. */
static void weigh(const struct attend *s, const float *q, long q_step, const float *keys, const unsigned char *seen,
                  long padded, float *visible, float *weights) {
    long size = s->dim / s->n_heads;
    float scale = 1.f / __builtin_sqrtf(size);
    multiply(s->n_queries, padded, size, q, q_step, 1, keys, padded, weights, padded, 0);
    for (long i = 0; i < s->n_queries; i++) {
        float *row = weights + i * padded;
        for (long j = 0; (i == 0 || s->each) && j < padded; j++)
            visible[j] = j < s->length && seen[(s->each ? i * s->length : 0) + j];
        vec largest = (vec){0} - 3e38f, total = {0};
        EACH(j, padded) {
            vec score = either(LOAD(visible + j) > 0.f, LOAD(row + j) * scale, (vec){0} - 3e38f);
            largest = either(score > largest, score, largest);
            STORE(row + j, score);
        }
        largest = largest_of(largest);
        EACH(j, padded) {
            vec weight = exponential(LOAD(row + j) - largest) * LOAD(visible + j);
            STORE(row + j, weight);
            total += weight;
        }
        float sum = sum_of(total)[0], share = sum > 0 ? 1.f / sum : 0;
        EACH(j, padded) STORE(row + j, LOAD(row + j) * share);
    }
}

/* Weights of a head after dropout. */
static void drop(const struct attend *s, long row, long head, const float *weights, long n, float *to) {
    EACH(i, n) STORE(to + i, LOAD(weights + i) * kept(s->seed, (row * s->dim + head) * n + i, s->dropped));
}

static void attend_share(void *args, long share, long shares) {
    const struct attend *s = args;
    long m = s->n_queries, n = s->length, dim = s->dim, size = dim / s->n_heads, width = s->width;
    long padded = (n + LANES - 1) / LANES * LANES, seen_row = n * (s->each ? m : 1), q_step = s->q ? dim : width;
    float *keys = scratch(size, padded), *weights = scratch(m, padded), *visible = scratch(1, padded);
    float *positions = scratch(n, width), *k = positions + width - 2 * dim, *v = k + dim;
    for (long row = share; row < s->n_rows; row += shares) {
        const float *q = s->q ? s->q + row * m * dim : positions;
        look_up(s, row, positions);
        for (long head = 0; head < dim; head += size) {
            transpose(k + head, width, n, size, keys, padded);
            weigh(s, q + head, q_step, keys, s->seen + row * seen_row, padded, visible, weights);
            if (s->dropped) drop(s, row, head, weights, m * padded, weights);
            multiply(m, size, n, weights, padded, 1, v + head, width, s->out + row * m * dim + head, dim, 0);
        }
    }
    free(keys), free(weights), free(visible), free(positions);
}
KERNEL(attend)

static void attend_back_share(void *args, long share, long shares) {
    const struct attend *s = args;
    long m = s->n_queries, n = s->length, dim = s->dim, size = dim / s->n_heads, width = s->width;
    long padded = (n + LANES - 1) / LANES * LANES, seen_row = n * (s->each ? m : 1), q_step = s->q ? dim : width;
    float *turned = scratch(size, padded), *weights = scratch(m, padded), *change = scratch(m, padded);
    float *visible = scratch(1, padded), *left = scratch(m, padded), scale = 1.f / __builtin_sqrtf(size);
    float *positions = scratch(n, width), *k = positions + width - 2 * dim, *v = k + dim;
    for (long row = share; row < s->n_rows; row += shares) {
        const float *q = s->q ? s->q + row * m * dim : positions;
        float *dpositions = s->dpositions + row * n * width, *dk = dpositions + width - 2 * dim, *dv = dk + dim;
        float *dq = s->q ? s->dq + row * m * dim : dpositions;
        look_up(s, row, positions);
        for (long head = 0; head < dim; head += size) {
            const float *dout = s->out + row * m * dim + head;
            transpose(k + head, width, n, size, turned, padded);
            weigh(s, q + head, q_step, turned, s->seen + row * seen_row, padded, visible, weights);
            transpose(v + head, width, n, size, turned, padded);
            multiply(m, padded, size, dout, dim, 1, turned, padded, change, padded, 0);
            if (s->dropped) {
                drop(s, row, head, weights, m * padded, left);
                drop(s, row, head, change, m * padded, change);
            }
            multiply(n, size, m, s->dropped ? left : weights, 1, padded, dout, dim, dv + head, width, 0);
            for (long i = 0; i < m; i++) { /* of the scores */
                vec total = {0};
                EACH(j, padded) total += LOAD(change + i * padded + j) * LOAD(weights + i * padded + j);
                vec mean = sum_of(total);
                EACH(j, padded) {
                    float *to = change + i * padded + j;
                    STORE(to, (LOAD(to) - mean) * LOAD(weights + i * padded + j) * scale);
                }
            }
            multiply(m, size, n, change, padded, 1, k + head, width, dq + head, q_step, 0);
            multiply(n, size, m, change, 1, padded, q + head, q_step, dk + head, width, 0);
        }
    }
    free(turned), free(weights), free(change), free(visible), free(left), free(positions);
}
KERNEL(attend_back)

/* fused.py, _Sublayer: y = LayerNorm(x + F(z)), F(z) = W_2 f(W_1 z + b_1) + b_2 or, without hidden units, W_2 z; f a
   relu of slope percent / 100 below 0. What lies between z and y stays in the cache; the gradient makes it again. */

struct sublayer {
    const float *x, *z, *weight_1, *bias_1, *weight_2, *bias_2; /* (N, D), (N, K), (K, H), (H,), (H or K, D), (D,) */
    const float *scale, *shift;                                 /* (D,): of the LayerNorm */
    float *y;                                                   /* (N, D); dy in sublayer_back */
    long n, dim, n_in, hidden, percent;
    long dropped_hidden, dropped, seed; /* dropout of the hidden units and of F(z), of 2^32 */
    double eps;
    const float *back_1, *back_2;         /* (H, K), (D, H or K): as they are; of sublayer_back, as all below */
    float *dx, *dz;                       /* (N, D), (N, K); dz null where z is x, and dx has both */
    float *dweight_1, *dbias_1;           /* (shares, H, K), (shares, H) */
    float *dweight_2, *dbias_2;           /* (shares, D, H or K), (shares, D) */
    float *dscale, *dshift;               /* (shares, D) */
};

/* The hidden units u (rows, H) before f and after it, and the sum x + F(z) (rows, D). */
static void sublayer_sum(const struct sublayer *s, long start, long rows, float *before, float *u, float *sum) {
    long dim = s->dim, n_in = s->n_in, hidden = s->hidden;
    const float *z = s->z + start * n_in;
    float slope = s->percent / 100.f;
    if (hidden) {
        affine(z, rows, n_in, s->weight_1, s->bias_1, hidden, before);
        EACH(i, rows * hidden) {
            vec keep = kept(s->seed, start * hidden + i, s->dropped_hidden), x = LOAD(before + i);
            STORE(u + i, either(x > 0.f, x, x * slope) * keep);
        }
        affine(u, rows, hidden, s->weight_2, s->bias_2, dim, sum);
    } else
        multiply(rows, dim, n_in, z, n_in, 1, s->weight_2, dim, sum, dim, 0);
    EACH(i, rows * dim) {
        vec keep = kept(s->seed + 1, start * dim + i, s->dropped);
        STORE(sum + i, LOAD(s->x + start * dim + i) + LOAD(sum + i) * keep);
    }
}

/* A row to mean 0 and variance 1, in place: 1 / deviation. */
INLINE float normal(float *row, long dim, double eps) {
    vec first = {0}, second = {0};
    EACH(j, dim) first += LOAD(row + j);
    vec mean = sum_of(first) * (1.f / dim);
    EACH(j, dim) {
        vec distance = LOAD(row + j) - mean;
        second += distance * distance;
        STORE(row + j, distance);
    }
    float rate = 1.f / __builtin_sqrtf(sum_of(second)[0] / dim + (float)eps);
    EACH(j, dim) STORE(row + j, LOAD(row + j) * rate);
    return rate;
}

static void sublayer_share(void *args, long share, long shares) {
    const struct sublayer *s = args;
    long dim = s->dim;
    float *before = scratch(BLOCK, s->hidden + 1), *u = scratch(BLOCK, s->hidden + 1);
    BLOCKS(start, rows, s->n) {
        float *y = s->y + start * dim;
        sublayer_sum(s, start, rows, before, u, y);
        for (long i = 0; i < rows; i++) {
            normal(y + i * dim, dim, s->eps);
            EACH(j, dim) STORE(y + i * dim + j, LOAD(y + i * dim + j) * LOAD(s->scale + j) + LOAD(s->shift + j));
        }
    }
    free(before), free(u);
}
KERNEL(sublayer)

static void sublayer_back_share(void *args, long share, long shares) {
    const struct sublayer *s = args;
    long dim = s->dim, n_in = s->n_in, hidden = s->hidden, n_u = hidden ? hidden : n_in;
    float *before = scratch(BLOCK, hidden + 1), *made = scratch(BLOCK, hidden + 1), *sum = scratch(BLOCK, dim);
    float *left = scratch(BLOCK, dim);
    float *dweight_1 = s->dweight_1 + share * hidden * n_in, *dweight_2 = s->dweight_2 + share * dim * n_u;
    float *dscale = s->dscale + share * dim, *dshift = s->dshift + share * dim, slope = s->percent / 100.f;
    BLOCKS(start, rows, s->n) {
        const float *z = s->z + start * n_in;
        float *dsum = s->dx + start * dim;
        sublayer_sum(s, start, rows, before, made, sum);
        for (long i = 0; i < rows; i++) {
            float *row = sum + i * dim, rate = normal(row, dim, s->eps);
            const float *dy = s->y + (start + i) * dim;
            vec total = {0}, along = {0};
            EACH(j, dim) {
                vec change = LOAD(dy + j) * LOAD(s->scale + j);
                total += change;
                along += change * LOAD(row + j);
                STORE(dscale + j, LOAD(dscale + j) + LOAD(dy + j) * LOAD(row + j));
                STORE(dshift + j, LOAD(dshift + j) + LOAD(dy + j));
            }
            vec mean = sum_of(total) * (1.f / dim), tilt = sum_of(along) * (1.f / dim);
            EACH(j, dim)
                STORE(dsum + i * dim + j, (LOAD(dy + j) * LOAD(s->scale + j) - mean - LOAD(row + j) * tilt) * rate);
        }
        const float *df = s->dropped ? left : dsum;
        for (long i = 0; s->dropped && i < rows * dim; i += LANES)
            STORE(left + i, LOAD(dsum + i) * kept(s->seed + 1, start * dim + i, s->dropped));
        if (!hidden) {
            multiply(dim, n_in, rows, df, 1, dim, z, n_in, dweight_2, n_in, 1);
            multiply(rows, n_in, dim, df, dim, 1, s->back_2, n_in, s->dz + start * n_in, n_in, 0);
            continue;
        }
        affine_back(made, df, rows, hidden, s->back_2, dim, dweight_2, s->dbias_2 + share * dim, made, 0);
        EACH(i, rows * hidden) {
            vec change = LOAD(made + i) * kept(s->seed, start * hidden + i, s->dropped_hidden);
            STORE(made + i, either(LOAD(before + i) > 0.f, change, change * slope));
        }
        float *dz = s->dz ? s->dz + start * n_in : dsum;
        affine_back(z, made, rows, n_in, s->back_1, hidden, dweight_1, s->dbias_1 + share * hidden, dz, !s->dz);
    }
    free(before), free(made), free(sum), free(left);
}
KERNEL(sublayer_back)

/* fused.py, _Tail: what follows the first product x (N, C_0) of an MLP: f, dropout and a Linear, layer by layer. */

enum { DEEPEST = 4 };

struct tail {
    const float *x;  /* (N, C_0) */
    float *out, *dx; /* (N, C_n), dout in tail_back; (N, C_0) of tail_back, as all that starts with d */
    long n, n_layers, percent, dropped, seed; /* dropped: of 2^32 */
    long width[DEEPEST + 1];                  /* C_0, ..., C_n, of which the last may be 1 */
    const float *weight[DEEPEST], *bias[DEEPEST], *back[DEEPEST]; /* (C_i, C_i+1), (C_i+1,), (C_i+1, C_i) */
    float *dweight[DEEPEST], *dbias[DEEPEST];                     /* (shares, C_i+1, C_i), (shares, C_i+1) */
};

/* Hidden units u_i (rows, C_i) after f and dropout, of a block that starts at a row; `out` may be null. */
static void tail_hidden(const struct tail *t, long start, long rows, float **u, float *out) {
    float slope = t->percent / 100.f;
    memcpy(u[0], t->x + start * t->width[0], sizeof(float) * rows * t->width[0]);
    for (long layer = 0; layer < t->n_layers; layer++) {
        long width = t->width[layer], n_out = t->width[layer + 1];
        float *next = layer + 1 < t->n_layers ? u[layer + 1] : out, *now = u[layer];
        EACH(i, rows * width) {
            vec x = LOAD(now + i), keep = kept(t->seed + layer, start * width + i, t->dropped);
            STORE(now + i, either(x > 0.f, x, x * slope) * keep);
        }
        if (next) affine(now, rows, width, t->weight[layer], t->bias[layer], n_out, next);
    }
}

static void tail_share(void *args, long share, long shares) {
    const struct tail *t = args;
    float *u[DEEPEST];
    for (long i = 0; i < t->n_layers; i++) u[i] = scratch(BLOCK, t->width[i]);
    BLOCKS(start, rows, t->n) tail_hidden(t, start, rows, u, t->out + start * t->width[t->n_layers]);
    for (long i = 0; i < t->n_layers; i++) free(u[i]);
}
KERNEL(tail)

static void tail_back_share(void *args, long share, long shares) {
    const struct tail *t = args;
    float *u[DEEPEST], *du[DEEPEST], slope = t->percent / 100.f;
    for (long i = 0; i < t->n_layers; i++) u[i] = scratch(BLOCK, t->width[i]), du[i] = scratch(BLOCK, t->width[i]);
    BLOCKS(start, rows, t->n) {
        const float *dnext = t->out + start * t->width[t->n_layers];
        tail_hidden(t, start, rows, u, 0);
        for (long layer = t->n_layers - 1; layer >= 0; dnext = du[layer--]) {
            long width = t->width[layer], n_out = t->width[layer + 1];
            float *dx = layer ? du[layer] : t->dx + start * width;
            float *dweight = t->dweight[layer] + share * n_out * width, *dbias = t->dbias[layer] + share * n_out;
            affine_back(u[layer], dnext, rows, width, t->back[layer], n_out, dweight, dbias, dx, 0);
            EACH(i, rows * width) {
                vec keep = kept(t->seed + layer, start * width + i, t->dropped), change = LOAD(dx + i) * keep;
                STORE(dx + i, either(LOAD(u[layer] + i) > 0.f, change, change * slope));
            }
        }
    }
    for (long i = 0; i < t->n_layers; i++) free(u[i]), free(du[i]);
}
KERNEL(tail_back)

/* interaction.py, _Terms: of fields e (n, F, D) of rows their sum, the sum of their squares and W e, side by side. */

struct terms {
    const float *e, *weight;           /* (n, F, D), (F D, H) */
    float *out;                        /* (n, 2 D + H); its gradient in terms_back */
    long n, n_fields, dim, hidden;
    const float *back;                 /* (H, F D), of terms_back as all below */
    float *de, *dweight;               /* (n, F, D), (shares, H, F D) */
};

static void terms_share(void *args, long share, long shares) {
    const struct terms *t = args;
    long dim = t->dim, all = t->n_fields * dim, width = 2 * dim + t->hidden;
    BLOCKS(start, rows, t->n) {
        const float *e = t->e + start * all;
        float *out = t->out + start * width;
        for (long i = 0; i < rows; i++) EACH(j, dim) {
            vec sum = {0}, squares = {0};
            for (long field = 0; field < all; field += dim) {
                vec x = LOAD(e + i * all + field + j);
                sum += x;
                squares += x * x;
            }
            STORE(out + i * width + j, sum);
            STORE(out + i * width + dim + j, squares);
        }
        multiply(rows, t->hidden, all, e, all, 1, t->weight, t->hidden, out + 2 * dim, width, 0);
    }
}
KERNEL(terms)

static void terms_back_share(void *args, long share, long shares) {
    const struct terms *t = args;
    long dim = t->dim, all = t->n_fields * dim, width = 2 * dim + t->hidden;
    BLOCKS(start, rows, t->n) {
        const float *e = t->e + start * all, *dout = t->out + start * width;
        float *de = t->de + start * all;
        for (long i = 0; i < rows; i++)
            for (long field = 0; field < all; field += dim) EACH(j, dim) {
                vec dsquares = LOAD(dout + i * width + dim + j), x = LOAD(e + i * all + field + j);
                STORE(de + i * all + field + j, LOAD(dout + i * width + j) + 2.f * x * dsquares);
            }
        multiply(rows, all, t->hidden, dout + 2 * dim, width, 1, t->back, all, de, all, 1);
        multiply(t->hidden, all, rows, dout + 2 * dim, 1, width, e, all, t->dweight + share * t->hidden * all, all, 1);
    }
}
KERNEL(terms_back)

/* interaction.py, _Apart: the products of pairs (S^2 - Q) / 2 and the rest plus a bias, of sums [S, Q, rest]. */

struct apart {
    const float *sums, *bias; /* (n, 2 D + H), (H,) or null */
    float *products, *rest;   /* (n, D), (n, H); of apart_back their gradients */
    float *dsums, *dbias;     /* (n, 2 D + H), (shares, H); of apart_back */
    long n, dim, hidden;
};

static void apart_share(void *args, long share, long shares) {
    const struct apart *p = args;
    long dim = p->dim, hidden = p->hidden;
    BLOCKS(start, rows, p->n) for (long i = start; i < start + rows; i++) {
        const float *sum = p->sums + i * (2 * dim + hidden), *squares = sum + dim, *rest = squares + dim;
        EACH(j, dim) STORE(p->products + i * dim + j, (LOAD(sum + j) * LOAD(sum + j) - LOAD(squares + j)) * .5f);
        EACH(j, hidden) STORE(p->rest + i * hidden + j, LOAD(rest + j) + LOAD(p->bias + j));
    }
}
KERNEL(apart)

static void apart_back_share(void *args, long share, long shares) {
    const struct apart *p = args;
    long dim = p->dim, hidden = p->hidden, width = 2 * dim + hidden;
    BLOCKS(start, rows, p->n) {
        for (long i = start; i < start + rows; i++) {
            const float *sum = p->sums + i * width;
            float *dsum = p->dsums + i * width;
            EACH(j, dim) {
                vec change = LOAD(p->products + i * dim + j);
                STORE(dsum + j, LOAD(sum + j) * change);
                STORE(dsum + dim + j, change * -.5f);
            }
            memcpy(dsum + 2 * dim, p->rest + i * hidden, sizeof(float) * hidden);
        }
        add_rows(p->rest + start * hidden, rows, hidden, p->dbias + share * hidden);
    }
}
KERNEL(apart_back)
