/* The layers that a step on a CPU spends its time in, each as one pass over memory; kernel.py calls them.

   What torch does operation by operation goes through memory once an operation. Here a thread takes a block of rows,
   does all there is to do with it while it lies in the cache, and takes the next. Matrices are float, row after row;
   widths are multiples of LANES. Thread `share` of `shares` always does the same work, so sums come out the same to the
   bit. */

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

/* Arrays that the shares add to, as gradients of weights: the last member of a kernel's structure. */

enum { SUMS = 8 };
struct sums {
    float *to[SUMS]; /* null: none */
    long size[SUMS];
    float *own; /* (shares - 1, all sizes): every share but the first has its own */
};

/* Where a share adds to one of the arrays. */
static float *sum_at(const struct sums *sums, long which, long share) {
    if (!share) return sums->to[which];
    long before = 0, all = 0;
    for (long i = 0; i < SUMS; all += sums->size[i++])
        if (i < which) before += sums->size[i];
    return sums->own + (share - 1) * all + before;
}

static void run_summing(Work *work, void *args, struct sums *sums, long shares) {
    long all = 0;
    for (long i = 0; i < SUMS; all += sums->size[i++])
        if (sums->size[i]) memset(sums->to[i], 0, sizeof(float) * sums->size[i]);
    sums->own = calloc((shares - 1) * all + 1, sizeof(float));
    run(work, args, shares);
    for (long share = 1; share < shares; share++)
        for (long i = 0; i < SUMS; i++) {
            const float *own = sum_at(sums, i, share);
            for (long j = 0; j < sums->size[i]; j++) sums->to[i][j] += own[j];
        }
    free(sums->own);
}

#define SUMMING_KERNEL(name, structure) \
    void name(void *args, long shares) { \
        run_summing(name##_share, args, &((struct structure *)args)->sums, shares); \
    }
/* The blocks of n rows that are this share's, each as its first row and its number of rows. */
#define BLOCKS(start, rows, n) \
    for (long start = share * BLOCK, rows; rows = (n) - start < BLOCK ? (n) - start : BLOCK, start < (n); \
         start += shares * BLOCK)

static float *scratch(long rows, long width) { return malloc(sizeof(float) * rows * width); }

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

static void multiply_onto(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b,
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
static void multiply(long m, long n, long depth, const float *a, long a_row, long a_column, const float *b, long b_row,
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
static long those_of(const unsigned char *mask, long start, long rows, long *at) {
    long n = 0;
    for (long i = start; i < start + rows; i++)
        if (!mask || mask[i]) at[n++] = i;
    return n;
}

/* Those rows of x one behind the other, in `to` unless they are so already; and back, with 0 in the other rows. */
static const float *taken(const float *x, const long *at, long n, long width, float *to) {
    if (!n || at[n - 1] - at[0] == n - 1) return x + (n ? at[0] * width : 0);
    for (long i = 0; i < n; i++) memcpy(to + i * width, x + at[i] * width, sizeof(float) * width);
    return to;
}

static void put_back(const float *x, const long *at, long n, long width, long start, long rows, float *to) {
    for (long i = 0, row = start; row < start + rows; row++)
        if (i < n && at[i] == row)
            memcpy(to + row * width, x + i++ * width, sizeof(float) * width);
        else
            memset(to + row * width, 0, sizeof(float) * width);
}

static void add_rows(const float *x, long rows, long width, float *sum) {
    for (long i = 0; i < rows; i++) EACH(j, width) STORE(sum + j, LOAD(sum + j) + LOAD(x + i * width + j));
}

/* A Linear: x (rows, C), weight (C, O), bias (O,) or null -> out (rows, O); O is 1 or a multiple of LANES. */
static void affine(const float *x, long rows, long width, const float *weight, const float *bias, long n_out,
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

/* product.py, _Product. */

struct linear {
    const float *x, *weight, *bias; /* (N, C), (C, O), (O,) or null */
    float *out;                     /* (N, O); its gradient in linear_back */
    long n, width, n_out;
    const float *back; /* (O, C), of linear_back as all below */
    float *dx;         /* (N, C) */
    struct sums sums;  /* of the gradients of weight (O, C) and bias (O,) */
};

static void linear_share(void *args, long share, long shares) {
    const struct linear *p = args;
    long width = p->width, n_out = p->n_out;
    BLOCKS(start, rows, p->n)
        affine(p->x + start * width, rows, width, p->weight, p->bias, n_out, p->out + start * n_out);
}
KERNEL(linear)

static void linear_back_share(void *args, long share, long shares) {
    const struct linear *p = args;
    long width = p->width, n_out = p->n_out;
    float *dweight = sum_at(&p->sums, 0, share), *dbias = sum_at(&p->sums, 1, share);
    BLOCKS(start, rows, p->n)
        affine_back(p->x + start * width, p->out + start * n_out, rows, width, p->back, n_out, dweight, dbias,
                    p->dx + start * width, 0);
}
SUMMING_KERNEL(linear_back, linear)

/* lookup.py: rows of one table or two by their places, summed; and sums into the tables. */

struct gather {
    const float *table_1, *table_2; /* (rows, W) each; table_2 may be null */
    const long *place_1, *place_2;  /* (N,) */
    float *out;                     /* (N, W) */
    long n, width, n_rows_1, n_rows_2, amiss; /* whether a place is none of the rows */
};

static void gather_share(void *args, long share, long shares) {
    struct gather *g = args;
    BLOCKS(start, rows, g->n) for (long i = start; i < start + rows; i++) {
        long first = g->place_1[i], second = g->table_2 ? g->place_2[i] : 0;
        if (first < 0 || first >= g->n_rows_1 || (g->table_2 && (second < 0 || second >= g->n_rows_2))) {
            g->amiss = 1;
            return;
        }
        const float *from = g->table_1 + first * g->width, *other = g->table_2 + second * g->width;
        float *to = g->out + i * g->width;
        if (g->table_2)
            EACH(j, g->width) STORE(to + j, LOAD(from + j) + LOAD(other + j));
        else
            memcpy(to, from, sizeof(float) * g->width);
    }
}
KERNEL(gather)

struct scatter {
    float *table_1, *table_2; /* of 0; table_2 may be null */
    const long *place_1, *place_2;
    const float *x; /* (N, W) */
    long n, width;
};

/* A share takes columns, so no two write to one number. */
static void scatter_share(void *args, long share, long shares) {
    const struct scatter *s = args;
    for (long i = 0; i < s->n; i++) {
        float *to = s->table_1 + s->place_1[i] * s->width, *also = s->table_2;
        if (also) also += s->place_2[i] * s->width;
        for (long j = share * LANES; j < s->width; j += shares * LANES) {
            vec x = LOAD(s->x + i * s->width + j);
            STORE(to + j, LOAD(to + j) + x);
            if (also) STORE(also + j, LOAD(also + j) + x);
        }
    }
}
KERNEL(scatter)

/* lookup.py, _WeightedSum: out_b = sum_l w_bl v_p of rows of a table by their places. */

struct weighted_sum {
    const float *weights, *table; /* (B, L), (rows, W) */
    const long *place;            /* (B, L) */
    float *out;                   /* (B, W); its gradient in weighted_sum_back */
    long n, length, width, n_rows, amiss; /* whether a place is none of the rows */
    float *dweights, *dtable; /* (B, L), and (rows, W) of 0; of weighted_sum_back */
};

static void weighted_sum_share(void *args, long share, long shares) {
    struct weighted_sum *s = args;
    long length = s->length, width = s->width;
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++) {
        for (long k = i * length; k < (i + 1) * length; k++)
            if (s->place[k] < 0 || s->place[k] >= s->n_rows) {
                s->amiss = 1;
                return;
            }
        EACH(j, width) {
            vec sum = {0};
            for (long k = i * length; k < (i + 1) * length; k++)
                if (s->weights[k]) sum += s->weights[k] * LOAD(s->table + s->place[k] * width + j);
            STORE(s->out + i * width + j, sum);
        }
    }
}
KERNEL(weighted_sum)

static void weighted_sum_back_share(void *args, long share, long shares) {
    const struct weighted_sum *s = args;
    long length = s->length, width = s->width;
    BLOCKS(start, rows, s->n) for (long i = start; i < start + rows; i++)
        for (long k = i * length; k < (i + 1) * length; k++) {
            vec sum = {0};
            EACH(j, width) sum += LOAD(s->out + i * width + j) * LOAD(s->table + s->place[k] * width + j);
            s->dweights[k] = sum_of(sum)[0];
        }
    /* A share takes columns, so no two write to one number. */
    for (long i = 0; i < s->n; i++)
        for (long k = i * length; k < (i + 1) * length; k++)
            for (long j = share * LANES; s->weights[k] && j < width; j += shares * LANES) {
                float *to = s->dtable + s->place[k] * width + j;
                STORE(to, LOAD(to) + s->weights[k] * LOAD(s->out + i * width + j));
            }
}
KERNEL(weighted_sum_back)

/* attention.py, _Meet: x_i = key_p + query_r + W (v_p * t_r), event i having place p and row r. */

struct meet {
    const float *vectors, *target, *key, *query, *weight; /* (n, D), (B, D), (n, H), (B, H), (D, H) */
    const long *place, *row;                              /* (N,) */
    float *x;                                             /* (N, H) */
    long n, dim, width, n_rows, amiss; /* whether a place is none of the rows of vectors and key */
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
    struct meet *m = args;
    long dim = m->dim, width = m->width;
    float *met = scratch(BLOCK, dim);
    BLOCKS(start, rows, m->n) {
        for (long i = start; i < start + rows; i++) m->amiss |= m->place[i] < 0 || m->place[i] >= m->n_rows;
        if (m->amiss) break;
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
    float *dmet; /* (N, D) */
    long n, dim, width;
    struct sums sums; /* of the gradient of weight (H, D) */
};

static void meet_back_share(void *args, long share, long shares) {
    const struct meet_back *m = args;
    long dim = m->dim, width = m->width;
    float *met = scratch(BLOCK, dim), *dweight = sum_at(&m->sums, 0, share);
    BLOCKS(start, rows, m->n) {
        const float *dx = m->dx + start * width;
        meet_rows(m->vectors, m->target, m->place + start, m->row + start, rows, dim, met);
        multiply(width, dim, rows, dx, 1, width, met, dim, dweight, dim, 1);
        multiply(rows, dim, width, dx, width, 1, m->weight, dim, m->dmet + start * dim, dim, 0);
    }
    free(met);
}
SUMMING_KERNEL(meet_back, meet_back)

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

/* activation.py, _DiceByKernel: Dice and the linear layer after it. */

struct moments {
    const float *x;                    /* (N, C) */
    float *running_mean, *running_var; /* (C,), moved towards the batch's; used as they are for less than two rows */
    float *shift, *scale;              /* (C,): z = x scale + shift has mean 0 and variance 1 */
    long n, width;
    double eps, momentum;
    struct sums sums; /* (2, C): of distances from the first row, which do not cancel, and of their squares */
};

static void moments_share(void *args, long share, long shares) {
    const struct moments *m = args;
    long width = m->width;
    BLOCKS(start, rows, m->n) EACH(j, width) {
        float *sums = sum_at(&m->sums, 0, share) + j;
        vec first = LOAD(sums), second = LOAD(sums + width), near = LOAD(m->x + j);
        for (long i = start; i < start + rows; i++) {
            vec distance = LOAD(m->x + i * width + j) - near;
            first += distance;
            second += distance * distance;
        }
        STORE(sums, first);
        STORE(sums + width, second);
    }
}

void moments(void *args, long shares) {
    struct moments *m = args;
    run_summing(moments_share, args, &m->sums, shares);
    const float *first = m->sums.to[0], *second = first + m->width;
    float count = m->n, step = m->momentum;
    for (long j = 0; j < m->width; j++) {
        float mean = m->running_mean[j], var = m->running_var[j];
        if (m->n > 1) {
            float away = first[j] / count, squares = second[j] / count - away * away;
            mean = m->x[j] + away;
            var = squares < 0 ? 0 : squares;
            m->running_mean[j] += step * (mean - m->running_mean[j]);
            m->running_var[j] += step * (var * count / (count - 1) - m->running_var[j]);
        }
        m->scale[j] = 1.f / __builtin_sqrtf(var + (float)m->eps);
        m->shift[j] = -mean * m->scale[j];
    }
}

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
    float *dx;                                              /* (N, C) */
    long n, width, n_out;
    double of_row; /* its share in the statistics: 1 / N, or 0 where they are the running ones */
    struct sums sums; /* of the gradients of weight (O, C), bias (O,) and alpha (C,); (2, C): of g and g z */
};

static void dice_back_share(void *args, long share, long shares) {
    const struct dice_back *d = args;
    long width = d->width, n_out = d->n_out;
    float *p = scratch(BLOCK, width), *y = scratch(BLOCK, width), *made = scratch(BLOCK, width);
    float *dweight = sum_at(&d->sums, 0, share), *dbias = sum_at(&d->sums, 1, share);
    float *to_alpha = sum_at(&d->sums, 2, share), *to_g = sum_at(&d->sums, 3, share);
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
            vec dalpha = LOAD(to_alpha + j), sum_g = LOAD(to_g + j), sum_gz = LOAD(to_g + width + j);
            for (long i = j; i < rows * width; i += width) {
                vec q = LOAD(p + i), dq = LOAD(dy + i) * LOAD(x + i), g = dq * q * (1.f - q);
                dalpha += dq * (1.f - q);
                sum_g += g;
                sum_gz += g * (LOAD(x + i) * scale + shift);
                STORE(d->dx + start * width + i,
                      LOAD(dy + i) * (alpha + q * (1.f - alpha)) + g * ((1.f - alpha) * scale));
            }
            STORE(to_alpha + j, dalpha), STORE(to_g + j, sum_g), STORE(to_g + width + j, sum_gz);
        }
    }
    free(p), free(y), free(made);
}

/* What a row has of the gradient of the statistics: dx -= inner (E[g] + E[g z] z), inner = (1 - alpha) scale. */
static void settle_share(void *args, long share, long shares) {
    const struct dice_back *d = args;
    long width = d->width;
    BLOCKS(start, rows, d->n) EACH(j, width) {
        const float *sums = d->sums.to[3] + j;
        vec scale = LOAD(d->scale + j), inner = (1.f - LOAD(d->alpha + j)) * scale * (float)d->of_row;
        vec along = inner * LOAD(sums + width), level = inner * LOAD(sums) + along * LOAD(d->shift + j);
        for (long i = start * width + j; i < (start + rows) * width; i += width)
            STORE(d->dx + i, LOAD(d->dx + i) - level - LOAD(d->x + i) * (along * scale));
    }
}

void dice_back(void *args, long shares) {
    run_summing(dice_back_share, args, &((struct dice_back *)args)->sums, shares);
    run(settle_share, args, shares);
}

/* recurrent.py, _Steps: rows know nothing of one another, so a block of them goes through all its steps. */

struct recurrence {
    const float *x, *weight_x, *bias_x; /* (L, B, K), (K, 3H), (3H,); or products (n, 3H), null and null */
    const long *place;                  /* (L, B): which of the products; without it each step has its own */
    const float *a;                     /* (B, L) or null */
    const float *weight, *bias;         /* (H, 3H), (H,) of the candidate */
    const unsigned char *mask;          /* (B, L) or null */
    float *h, *gates, *y_n;             /* (L + 1, B, H), of which the first is given; (L, B, 3H); (L, B, H) */
    long n_steps, n_rows, n_in, width, update;
    long n_products, amiss; /* whether a place is none of them */
};

INLINE vec share_of(float weight, vec u, long update) {
    if (update) return weight * u;
    return (vec){0} + weight;
}

/* How many rows of a block go on at step t: up to the last that has an event. The others keep their state. */
static long going_on(const unsigned char *mask, long start, long rows, long t, long n_steps) {
    while (mask && rows && !mask[(start + rows - 1) * n_steps + t]) rows--;
    return rows;
}

static void recurrence_share(void *args, long share, long shares) {
    struct recurrence *c = args;
    long width = c->width, all = 3 * width, n_rows = c->n_rows, n_steps = c->n_steps;
    float *y = scratch(BLOCK, all);
    BLOCKS(start, rows, n_rows) for (long t = 0; t < n_steps; t++) {
        long at = t * n_rows + start, n = going_on(c->mask, start, rows, t, n_steps);
        float *gates = c->gates + at * all, *y_n = c->y_n + at * width, *old = c->h + at * width;
        float *new = old + n_rows * width;
        if (c->weight_x) affine(c->x + at * c->n_in, n, c->n_in, c->weight_x, c->bias_x, all, gates);
        for (long i = 0; !c->weight_x && i < n; i++) {
            long place = c->place ? c->place[at + i] : at + i;
            if (c->place && (place < 0 || place >= c->n_products))
                c->amiss = 1;
            else
                memcpy(gates + i * all, c->x + place * all, sizeof(float) * all);
        }
        multiply_onto(n, 2 * width, width, old, width, 1, c->weight, all, y, all, gates, all);
        multiply_onto(n, width, width, old, width, 1, c->weight + 2 * width, all, y + 2 * width, all, c->bias, 0);
        for (long i = 0; i < n; i++) EACH(j, width) {
            float weight = c->a ? c->a[(start + i) * n_steps + t] : 1.f;
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
    const float *x, *weight_x;    /* (L, B, K), (3H, K); null with products */
    const float *a, *weight;      /* weight (3H, H) */
    const unsigned char *mask;
    const float *h, *gates, *y_n;
    const float *dstates, *dlast; /* (L, B, H), (B, H); each may be null */
    float *da, *dx;               /* (B, L) or null; (L, B, K), with products (L, B, 3H) */
    long n_steps, n_rows, n_in, width, update;
    struct sums sums; /* of the gradients of weight (3H, H), bias (H,), weight_x (3H, K) and bias_x (3H,) */
};

static void recurrence_back_share(void *args, long share, long shares) {
    const struct recurrence_back *c = args;
    long width = c->width, all = 3 * width, n_rows = c->n_rows, n_steps = c->n_steps;
    long n_in = c->weight_x ? c->n_in : all;
    float *dy = scratch(BLOCK, all), *dh = scratch(BLOCK, width), *own = scratch(BLOCK, all);
    float *dweight = sum_at(&c->sums, 0, share), *dbias = sum_at(&c->sums, 1, share);
    float *dweight_x = sum_at(&c->sums, 2, share), *dbias_x = sum_at(&c->sums, 3, share);
    BLOCKS(start, rows, n_rows) {
        memset(dh, 0, sizeof(float) * rows * width);
        if (c->dlast) memcpy(dh, c->dlast + start * width, sizeof(float) * rows * width);
        for (long t = n_steps - 1; t >= 0; t--) {
            long at = t * n_rows + start, n = going_on(c->mask, start, rows, t, n_steps);
            const float *gates = c->gates + at * all, *y_n = c->y_n + at * width, *old = c->h + at * width;
            float *dx = c->dx + at * n_in, *dgates = c->weight_x ? own : dx;
            for (long i = 0; c->dstates && i < rows; i++) EACH(j, width) {
                float *to = dh + i * width + j;
                STORE(to, LOAD(to) + LOAD(c->dstates + (at + i) * width + j));
            }
            for (long i = 0; i < n; i++) {
                float weight = c->a ? c->a[(start + i) * n_steps + t] : 1.f;
                vec da = {0};
                EACH(j, width) {
                    const float *from = gates + i * all + j;
                    float *to = dgates + i * all + j, *hidden = dy + i * all + j, *grad = dh + i * width + j;
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
                if (c->da) c->da[(start + i) * n_steps + t] = sum_of(da)[0];
            }
            for (long i = n; c->da && i < rows; i++) c->da[(start + i) * n_steps + t] = 0;
            memset(dx + n * n_in, 0, sizeof(float) * (rows - n) * n_in);
            multiply(n, width, all, dy, all, 1, c->weight, width, dh, width, 1);
            multiply(all, width, n, dy, 1, all, old, width, dweight, width, 1);
            if (c->weight_x)
                affine_back(c->x + at * n_in, dgates, n, n_in, c->weight_x, all, dweight_x, dbias_x, dx, 0);
        }
    }
    free(dy), free(dh), free(own);
}
SUMMING_KERNEL(recurrence_back, recurrence_back)

/* fused.py, _Attend: softmax(q k^T / sqrt(d)) v, a head of a row at a time; a query that sees nothing gets 0. Positions
   that no query sees are left out; where they are queries as well, they get 0. */

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

/* What positions `at` of all hold: (n, W). */
static void look_up(const struct attend *s, const long *at, long n, float *to) {
    long width = s->width;
    for (long i = 0; i < n; i++, to += width) {
        const float *first = s->table_1 + (s->place_1 ? s->place_1[at[i]] : at[i]) * width;
        if (s->table_2) {
            const float *second = s->table_2 + (s->place_2 ? s->place_2[at[i]] : at[i]) * width;
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

static long padded_to_lanes(long n) { return (n + LANES - 1) / LANES * LANES; }

/* Weights (m, padded) of a head's queries q on its n keys (d, padded): 0 where seen (m, n) is false, if it is given. */
static void weigh(const struct attend *s, long m, long n, const float *q, long q_step, const float *keys,
                  const unsigned char *seen, float *visible, float *weights) {
    long size = s->dim / s->n_heads, padded = padded_to_lanes(n);
    float scale = 1.f / __builtin_sqrtf(size);
    multiply(m, padded, size, q, q_step, 1, keys, padded, weights, padded, 0);
    for (long i = 0; i < m; i++) {
        float *row = weights + i * padded;
        for (long j = 0; (i == 0 || seen) && j < padded; j++) visible[j] = j < n && (!seen || seen[i * n + j]);
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
    long first = (row * s->dim + head) * s->n_queries * padded_to_lanes(s->length);
    EACH(i, n) STORE(to + i, LOAD(weights + i) * kept(s->seed, first + i, s->dropped));
}

static void attend_share(void *args, long share, long shares) {
    const struct attend *s = args;
    long most_m = s->n_queries, most_n = s->length, most = padded_to_lanes(most_n), dim = s->dim, width = s->width;
    long size = dim / s->n_heads, q_step = s->q ? dim : width, *at = malloc(sizeof(long) * most_n);
    float *keys = scratch(size, most), *weights = scratch(most_m, most), *visible = scratch(1, most);
    float *positions = scratch(most_n, width), *k = positions + width - 2 * dim, *v = k + dim;
    float *made = scratch(most_m, dim);
    for (long row = share; row < s->n_rows; row += shares) {
        long n = those_of(s->each ? 0 : s->seen, row * most_n, most_n, at), m = s->q ? most_m : n;
        long padded = padded_to_lanes(n);
        const unsigned char *seen = s->each ? s->seen + row * m * n : 0;
        const float *q = s->q ? s->q + row * m * dim : positions;
        float *out = s->q ? s->out + row * m * dim : made;
        look_up(s, at, n, positions);
        for (long head = 0; head < dim; head += size) {
            transpose(k + head, width, n, size, keys, padded);
            weigh(s, m, n, q + head, q_step, keys, seen, visible, weights);
            if (s->dropped) drop(s, row, head, weights, m * padded, weights);
            multiply(m, size, n, weights, padded, 1, v + head, width, out + head, dim, 0);
        }
        if (!s->q) put_back(out, at, n, dim, row * most_n, most_n, s->out);
    }
    free(at), free(keys), free(weights), free(visible), free(positions), free(made);
}
KERNEL(attend)

static void attend_back_share(void *args, long share, long shares) {
    const struct attend *s = args;
    long most_m = s->n_queries, most_n = s->length, most = padded_to_lanes(most_n), dim = s->dim, width = s->width;
    long size = dim / s->n_heads, q_step = s->q ? dim : width, *at = malloc(sizeof(long) * most_n);
    float *turned = scratch(size, most), *weights = scratch(most_m, most), *change = scratch(most_m, most);
    float *visible = scratch(1, most), *left = scratch(most_m, most), scale = 1.f / __builtin_sqrtf(size);
    float *positions = scratch(most_n, width), *k = positions + width - 2 * dim, *v = k + dim;
    float *dpositions = scratch(most_n, width), *dk = dpositions + width - 2 * dim, *dv = dk + dim;
    float *own = scratch(most_m, dim);
    for (long row = share; row < s->n_rows; row += shares) {
        long n = those_of(s->each ? 0 : s->seen, row * most_n, most_n, at), m = s->q ? most_m : n;
        long padded = padded_to_lanes(n);
        const unsigned char *seen = s->each ? s->seen + row * m * n : 0;
        const float *q = s->q ? s->q + row * m * dim : positions;
        const float *all = s->q ? s->out + row * m * dim : taken(s->out, at, n, dim, own);
        float *dq = s->q ? s->dq + row * m * dim : dpositions;
        look_up(s, at, n, positions);
        for (long head = 0; head < dim; head += size) {
            const float *dout = all + head;
            transpose(k + head, width, n, size, turned, padded);
            weigh(s, m, n, q + head, q_step, turned, seen, visible, weights);
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
        put_back(dpositions, at, n, width, row * most_n, most_n, s->dpositions);
    }
    free(at), free(turned), free(weights), free(visible), free(positions), free(change), free(left);
    free(dpositions), free(own);
}
KERNEL(attend_back)

/* fused.py, _Sublayer: y = LayerNorm(x + F(z)), F(z) = W_2 f(W_1 z + b_1) + b_2 or, without hidden units, W_2 z; f a
   relu of slope percent / 100 below 0; 0 in rows that do not count. The hidden units stay in the cache; the gradient
   makes them again. */

struct sublayer {
    const float *x, *z, *weight_1, *bias_1, *weight_2, *bias_2; /* (N, D), (N, K), (K, H), (H,), (H or K, D), (D,) */
    const float *scale, *shift;                                 /* (D,): of the LayerNorm */
    const unsigned char *mask;                                  /* (N,): the rows that count */
    float *y; /* (N, D), dy in sublayer_back */
    float *normal, *rate; /* (N, D), (N,): for it, or null; what counts of a block one behind the other */
    long n, dim, n_in, hidden, percent;
    long dropped_hidden, dropped, seed; /* dropout of the hidden units and of F(z), of 2^32 */
    double eps;
    const float *back_1, *back_2; /* (H, K), (D, H or K): as they are; of sublayer_back, as all below */
    float *dx, *dz; /* (N, D), (N, K); dz null where z is x, which takes hidden units, and dx has both */
    struct sums sums; /* of the gradients of weight_1 (H, K), bias_1, weight_2 (D, H or K), bias_2, scale and shift */
};

/* Dropout of x (n, width), rows `at` of all. */
static void drop_rows(float *x, const long *at, long n, long width, long seed, long dropped) {
    for (long i = 0; dropped && i < n; i++) EACH(j, width)
        STORE(x + i * width + j, LOAD(x + i * width + j) * kept(seed, at[i] * width + j, dropped));
}

/* The hidden units (n, H) of z (n, K), before f and after it and dropout. */
static void hidden_units(const struct sublayer *s, const float *z, const long *at, long n, float *before, float *u) {
    float slope = s->percent / 100.f;
    affine(z, n, s->n_in, s->weight_1, s->bias_1, s->hidden, before);
    EACH(i, n * s->hidden) STORE(u + i, either(LOAD(before + i) > 0.f, LOAD(before + i), LOAD(before + i) * slope));
    drop_rows(u, at, n, s->hidden, s->seed, s->dropped_hidden);
}

/* A row to mean 0 and variance 1, in place: 1 / deviation. */
INLINE float normalised(float *row, long dim, double eps) {
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
    long dim = s->dim, n_in = s->n_in, hidden = s->hidden, at[BLOCK];
    float *before = scratch(BLOCK, hidden), *u = scratch(BLOCK, hidden), *made = scratch(BLOCK, dim);
    float *own_x = scratch(BLOCK, dim), *own_z = scratch(BLOCK, n_in);
    BLOCKS(start, rows, s->n) {
        long n = those_of(s->mask, start, rows, at);
        const float *x = taken(s->x, at, n, dim, own_x), *z = taken(s->z, at, n, n_in, own_z);
        float *sum = s->normal ? s->normal + start * dim : made;
        if (hidden) {
            hidden_units(s, z, at, n, before, u);
            affine(u, n, hidden, s->weight_2, s->bias_2, dim, sum);
        } else
            multiply(n, dim, n_in, z, n_in, 1, s->weight_2, dim, sum, dim, 0);
        drop_rows(sum, at, n, dim, s->seed + 1, s->dropped);
        memset(s->y + start * dim, 0, sizeof(float) * (n < rows ? rows * dim : 0));
        for (long i = 0; i < n; i++) {
            float *row = sum + i * dim, *y = s->y + at[i] * dim;
            EACH(j, dim) STORE(row + j, LOAD(x + i * dim + j) + LOAD(row + j));
            float rate = normalised(row, dim, s->eps);
            if (s->rate) s->rate[start + i] = rate;
            EACH(j, dim) STORE(y + j, LOAD(row + j) * LOAD(s->scale + j) + LOAD(s->shift + j));
        }
    }
    free(before), free(u), free(made), free(own_x), free(own_z);
}
KERNEL(sublayer)

/* The gradient of x + F(z) (n, D) from that of y, rows `at`; scale's and shift's are added to. */
static void normalised_back(const struct sublayer *s, const float *normal, const float *rate, const long *at, long n,
                            float *dscale, float *dshift, float *dsum) {
    long dim = s->dim;
    for (long i = 0; i < n; i++, normal += dim, dsum += dim) {
        const float *dy = s->y + at[i] * dim;
        vec total = {0}, along = {0};
        EACH(j, dim) {
            vec change = LOAD(dy + j) * LOAD(s->scale + j);
            total += change;
            along += change * LOAD(normal + j);
            STORE(dscale + j, LOAD(dscale + j) + LOAD(dy + j) * LOAD(normal + j));
            STORE(dshift + j, LOAD(dshift + j) + LOAD(dy + j));
            STORE(dsum + j, change);
        }
        vec mean = sum_of(total) * (1.f / dim), tilt = sum_of(along) * (1.f / dim);
        EACH(j, dim) STORE(dsum + j, (LOAD(dsum + j) - mean - LOAD(normal + j) * tilt) * rate[i]);
    }
}

static void sublayer_back_share(void *args, long share, long shares) {
    const struct sublayer *s = args;
    long dim = s->dim, n_in = s->n_in, hidden = s->hidden, at[BLOCK];
    float *before = scratch(BLOCK, hidden), *u = scratch(BLOCK, hidden), *own = scratch(BLOCK, dim);
    float *dropped = scratch(BLOCK, dim), *own_z = scratch(BLOCK, n_in), *own_dz = scratch(BLOCK, n_in);
    float *dweight_1 = sum_at(&s->sums, 0, share), *dbias_1 = sum_at(&s->sums, 1, share);
    float *dweight_2 = sum_at(&s->sums, 2, share), *dbias_2 = sum_at(&s->sums, 3, share);
    float *dscale = sum_at(&s->sums, 4, share), *dshift = sum_at(&s->sums, 5, share), slope = s->percent / 100.f;
    BLOCKS(start, rows, s->n) {
        long n = those_of(s->mask, start, rows, at);
        const float *z = taken(s->z, at, n, n_in, own_z);
        float *dsum = n == rows ? s->dx + start * dim : own, *df = s->dropped ? dropped : dsum;
        float *dz = !s->dz ? dsum : n == rows ? s->dz + start * n_in : own_dz;
        normalised_back(s, s->normal + start * dim, s->rate + start, at, n, dscale, dshift, dsum);
        if (s->dropped) memcpy(df, dsum, sizeof(float) * n * dim);
        drop_rows(df, at, n, dim, s->seed + 1, s->dropped);
        if (hidden) {
            hidden_units(s, z, at, n, before, u);
            affine_back(u, df, n, hidden, s->back_2, dim, dweight_2, dbias_2, u, 0);
            drop_rows(u, at, n, hidden, s->seed, s->dropped_hidden);
            EACH(i, n * hidden) STORE(u + i, either(LOAD(before + i) > 0.f, LOAD(u + i), LOAD(u + i) * slope));
            affine_back(z, u, n, n_in, s->back_1, hidden, dweight_1, dbias_1, dz, !s->dz);
        } else {
            multiply(dim, n_in, n, df, 1, dim, z, n_in, dweight_2, n_in, 1);
            multiply(n, n_in, dim, df, dim, 1, s->back_2, n_in, dz, n_in, 0);
        }
        if (n == rows) continue;
        put_back(dsum, at, n, dim, start, rows, s->dx);
        if (s->dz) put_back(dz, at, n, n_in, start, rows, s->dz);
    }
    free(before), free(u), free(own), free(dropped), free(own_z), free(own_dz);
}
SUMMING_KERNEL(sublayer_back, sublayer)

/* fused.py, _Tail: what follows the first product x (N, C_0) of an MLP: f, dropout and a Linear, layer by layer. */

enum { DEEPEST = 4 };

struct tail {
    const float *x;  /* (N, C_0) */
    float *out, *dx; /* (N, C_n), dout in tail_back; (N, C_0) of tail_back, as all that starts with d */
    long n, n_layers, percent, dropped, seed; /* dropped: of 2^32 */
    long width[DEEPEST + 1];                  /* C_0, ..., C_n, of which the last may be 1 */
    const float *weight[DEEPEST], *bias[DEEPEST], *back[DEEPEST]; /* (C_i, C_i+1), (C_i+1,), (C_i+1, C_i) */
    struct sums sums; /* of the gradients: of weights, from the first on (C_i+1, C_i), and from DEEPEST on of biases */
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
            float *dweight = sum_at(&t->sums, layer, share), *dbias = sum_at(&t->sums, DEEPEST + layer, share);
            affine_back(u[layer], dnext, rows, width, t->back[layer], n_out, dweight, dbias, dx, 0);
            EACH(i, rows * width) {
                vec keep = kept(t->seed + layer, start * width + i, t->dropped), change = LOAD(dx + i) * keep;
                STORE(dx + i, either(LOAD(u[layer] + i) > 0.f, change, change * slope));
            }
        }
    }
    for (long i = 0; i < t->n_layers; i++) free(u[i]), free(du[i]);
}
SUMMING_KERNEL(tail_back, tail)

/* interaction.py, _Terms: of fields e (n, F, D) of rows their sum, the sum of their squares and W e, side by side. */

struct terms {
    const float *e, *weight; /* (n, F, D), (F D, H) */
    float *out;              /* (n, 2 D + H); its gradient in terms_back */
    long n, n_fields, dim, hidden;
    const float *back; /* (H, F D), of terms_back as all below */
    float *de;         /* (n, F, D) */
    struct sums sums;  /* of the gradient of weight (H, F D) */
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
    float *dweight = sum_at(&t->sums, 0, share);
    BLOCKS(start, rows, t->n) {
        const float *e = t->e + start * all, *dout = t->out + start * width;
        float *de = t->de + start * all;
        for (long i = 0; i < rows; i++)
            for (long field = 0; field < all; field += dim) EACH(j, dim) {
                vec dsquares = LOAD(dout + i * width + dim + j), x = LOAD(e + i * all + field + j);
                STORE(de + i * all + field + j, LOAD(dout + i * width + j) + 2.f * x * dsquares);
            }
        multiply(rows, all, t->hidden, dout + 2 * dim, width, 1, t->back, all, de, all, 1);
        multiply(t->hidden, all, rows, dout + 2 * dim, 1, width, e, all, dweight, all, 1);
    }
}
SUMMING_KERNEL(terms_back, terms)

/* interaction.py, _Apart: the products of pairs (S^2 - Q) / 2 and the rest plus a bias, of sums [S, Q, rest]. */

struct apart {
    const float *terms, *bias; /* (n, 2 D + H), (H,) or null */
    float *products, *rest;    /* (n, D), (n, H); of apart_back their gradients */
    float *dterms;             /* (n, 2 D + H); of apart_back */
    long n, dim, hidden;
    struct sums sums; /* of the gradient of bias (H,) */
};

static void apart_share(void *args, long share, long shares) {
    const struct apart *p = args;
    long dim = p->dim, hidden = p->hidden;
    BLOCKS(start, rows, p->n) for (long i = start; i < start + rows; i++) {
        const float *sum = p->terms + i * (2 * dim + hidden), *squares = sum + dim, *rest = squares + dim;
        EACH(j, dim) STORE(p->products + i * dim + j, (LOAD(sum + j) * LOAD(sum + j) - LOAD(squares + j)) * .5f);
        EACH(j, hidden) STORE(p->rest + i * hidden + j, LOAD(rest + j) + LOAD(p->bias + j));
    }
}
KERNEL(apart)

static void apart_back_share(void *args, long share, long shares) {
    const struct apart *p = args;
    long dim = p->dim, hidden = p->hidden, width = 2 * dim + hidden;
    float *dbias = sum_at(&p->sums, 0, share);
    BLOCKS(start, rows, p->n) {
        for (long i = start; i < start + rows; i++) {
            const float *sum = p->terms + i * width;
            float *dsum = p->dterms + i * width;
            EACH(j, dim) {
                vec change = LOAD(p->products + i * dim + j);
                STORE(dsum + j, LOAD(sum + j) * change);
                STORE(dsum + dim + j, change * -.5f);
            }
            memcpy(dsum + 2 * dim, p->rest + i * hidden, sizeof(float) * hidden);
        }
        add_rows(p->rest + start * hidden, rows, hidden, dbias);
    }
}
SUMMING_KERNEL(apart_back, apart)
