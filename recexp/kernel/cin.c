/* cin.py: a compressed interaction network, layer by layer, for a block of samples at a time.

   In a block, arrays are (., D, S) with the S samples in the lanes, so that a field or a map has N = D S numbers side
   by side for any D, and a sum over D is a sum of vectors. Z (G F, N) is the products of a layer's G maps x and the F
   fields x0. Maps that no layer reads are not formed: their sum over D is W times that of Z, which has S columns
   instead of D S. The backward pass recomputes the maps. */

#include "kernel.h"

enum { MOST = 8 };               /* parts; as in cin.py */
enum { STRIP = 64, DEPTH = 96 }; /* columns and rows of Z that are formed at a time */

/* A part is maps of the same layer; its input is the last part before it that is kept. */
STRUCT(cin,
    const float *e, *weight[8];                                  /* (n, F, D), (H, G F) */
    long n, n_fields, dim, n_parts, size[8], kept[8], summed[8]; /* H; whether layers read it; whether it is in out */
    long n_out;
    float *out; /* (n, n_out) */
)

STRUCT(cin_back,
    const float *e, *weight[8]; /* up to n_out as in cin */
    long n, n_fields, dim, n_parts, size[8], kept[8], summed[8];
    long n_out;
    const float *dout;
    float *de;             /* (n, F, D) */
    struct sum dweight[8]; /* (G F, H), H padded to lanes */
)

/* What a part works on: the columns of a Z of N columns, or its sum of `repeat` = D times S columns. */
struct part {
    const float *x, *x0, *weight; /* (G, N), (F, N), (H, G F) */
    long n_in, n_fields, size;    /* G, F, H */
    long all, columns, repeat;    /* N; N and 1, or S and D */
};

static struct part part_of(const struct cin *c, long i, const float *x, long n_in, const float *x0, long samples) {
    long all = samples * c->dim;
    return (struct part){
        .x = x, .x0 = x0, .weight = c->weight[i], .n_in = n_in, .n_fields = c->n_fields, .size = c->size[i], .all = all,
        .columns = c->kept[i] ? all : samples, .repeat = c->kept[i] ? 1 : c->dim,
    };
}

static long maps_at_once(long n_fields) { return n_fields < DEPTH ? DEPTH / n_fields : 1; }

/* Loops over a part's strips of columns, and in these over a few maps at a time. */
#define STRIPS(p, start, width)                                                                              \
    for (long start = 0, width; width = (p)->columns - start < STRIP ? (p)->columns - start : STRIP,         \
              start < (p)->columns;                                                                          \
         start += STRIP)
#define MAPS(p, g, n)                                                                                        \
    for (long most = maps_at_once((p)->n_fields), g = 0, n; n = (p)->n_in - g < most ? (p)->n_in - g : most, \
              g < (p)->n_in;                                                                                 \
         g += most)

/* Columns of Z of n maps from g on: z (n F, width). */
static void products(const struct part *p, long g, long n, long start, long width, float *z) {
    for (long i = 0; i < n; i++)
        for (long f = 0; f < p->n_fields; f++, z += width) EACH(j, width) {
            const float *x = p->x + (g + i) * p->all + start + j, *x0 = p->x0 + f * p->all + start + j;
            vec sum = LOAD(x) * LOAD(x0);
            for (long r = 1; r < p->repeat; r++) sum += LOAD(x + r * p->columns) * LOAD(x0 + r * p->columns);
            STORE(z + j, sum);
        }
}

/* Adds the gradients from that of these columns to dx (G, N) and dx0 (F, N), which may be the same array. */
static void products_back(const struct part *p, long g, long n, long start, long width, const float *dz, float *dx,
                          float *dx0) {
    for (long i = 0; i < n; i++, dz += p->n_fields * width)
        for (long r = 0; r < p->repeat; r++) EACH(j, width) {
            long at = start + r * p->columns + j, own = (g + i) * p->all + at;
            vec x = LOAD(p->x + own), sum = {0};
            for (long f = 0; f < p->n_fields; f++) {
                vec change = LOAD(dz + f * width + j);
                sum += change * LOAD(p->x0 + f * p->all + at);
                STORE(dx0 + f * p->all + at, LOAD(dx0 + f * p->all + at) + change * x);
            }
            STORE(dx + own, LOAD(dx + own) + sum);
        }
}

static float *strip_memory(long n_fields) { return scratch(maps_at_once(n_fields) * n_fields, STRIP); }

/* out (H, columns) = W Z. */
static void part_forward(const struct part *p, float *out, float *z) {
    STRIPS(p, start, width)
        MAPS(p, g, n) {
            products(p, g, n, start, width, z);
            multiply(p->size, width, n * p->n_fields, p->weight + g * p->n_fields, p->n_in * p->n_fields, 1, z, width,
                     out + start, p->columns, g > 0);
        }
}

/* Adds the gradients from that of out. turned: memory for (STRIP, H padded). */
static void part_back(const struct part *p, const float *dout, float *dweight, float *dx, float *dx0, float *z,
                      float *dz, float *turned) {
    long padded = padded_to_lanes(p->size), all = p->n_in * p->n_fields;
    STRIPS(p, start, width) {
        transpose(dout + start, p->columns, p->size, width, turned, padded, padded);
        MAPS(p, g, n) {
            long first = g * p->n_fields, rows = n * p->n_fields;
            products(p, g, n, start, width, z);
            multiply(rows, padded, width, z, width, 1, turned, padded, dweight + first * padded, padded, 1);
            multiply(rows, width, p->size, p->weight + first, 1, all, dout + start, p->columns, dz, width, 0);
            products_back(p, g, n, start, width, dz, dx, dx0);
        }
    }
}

/* A block's sums p (n_out, S), unless null, and its kept maps (H, N). */
static void cin_block(const struct cin *c, const float *x0, long samples, float **maps, float *p, float *z) {
    const float *x = x0;
    long n_in = c->n_fields, all = samples * c->dim;
    for (long i = 0; i < c->n_parts; i++) {
        struct part part = part_of(c, i, x, n_in, x0, samples);
        if (c->kept[i] || p) part_forward(&part, c->kept[i] ? maps[i] : p, z);
        if (c->kept[i] && c->summed[i] && p)
            for (long h = 0; h < c->size[i]; h++) EACH(j, samples) {
                vec sum = {0};
                for (long at = j; at < all; at += samples) sum += LOAD(maps[i] + h * all + at);
                STORE(p + h * samples + j, sum);
            }
        if (c->kept[i]) x = maps[i], n_in = c->size[i];
        if (p && c->summed[i]) p += c->size[i] * samples;
    }
}

static void cin_thread(void *args, long thread, long n_threads) {
    const struct cin *c = args;
    long row = c->n_fields * c->dim;
    float *x0 = scratch(row, BLOCK), *p = scratch(c->n_out, BLOCK), *z = strip_memory(c->n_fields), *maps[MOST];
    for (long i = 0; i < c->n_parts; i++) maps[i] = c->kept[i] ? scratch(c->size[i] * c->dim, BLOCK) : 0;
    BLOCKS(start, rows, c->n) {
        long samples = padded_to_lanes(rows);
        transpose(c->e + start * row, row, rows, row, x0, samples, samples);
        cin_block(c, x0, samples, maps, p, z);
        transpose(p, samples, c->n_out, rows, c->out + start * c->n_out, c->n_out, c->n_out);
    }
    for (long i = 0; i < c->n_parts; i++) free(maps[i]);
    free(x0), free(p), free(z);
}
KERNEL(cin)

static void cin_back_thread(void *args, long thread, long n_threads) {
    const struct cin_back *b = args;
    const struct cin *c = args;
    long row = c->n_fields * c->dim, largest = 0;
    float *x0 = scratch(row, BLOCK), *dx0 = scratch(row, BLOCK), *dp = scratch(c->n_out, BLOCK);
    float *z = strip_memory(c->n_fields), *dz = strip_memory(c->n_fields), *maps[MOST], *dmaps[MOST];
    for (long i = 0; i < c->n_parts; i++) {
        maps[i] = c->kept[i] ? scratch(c->size[i] * c->dim, BLOCK) : 0;
        dmaps[i] = c->kept[i] ? scratch(c->size[i] * c->dim, BLOCK) : 0;
        largest = c->size[i] > largest ? c->size[i] : largest;
    }
    float *turned = scratch(STRIP, padded_to_lanes(largest));
    BLOCKS(start, rows, c->n) {
        long samples = padded_to_lanes(rows);
        transpose(c->e + start * row, row, rows, row, x0, samples, samples);
        transpose(b->dout + start * c->n_out, c->n_out, rows, c->n_out, dp, samples, samples);
        cin_block(c, x0, samples, maps, 0, z);
        memset(dx0, 0, sizeof(float) * row * samples);
        const float *dsum = dp;
        for (long i = 0; i < c->n_parts; i++) {
            for (long at = 0; c->kept[i] && at < c->size[i] * c->dim; at++) EACH(j, samples)
                STORE(dmaps[i] + at * samples + j,
                      c->summed[i] ? LOAD(dsum + at / c->dim * samples + j) : (vec){0});
            if (c->summed[i]) dsum += c->size[i] * samples;
        }
        for (long i = c->n_parts - 1; i >= 0; i--) {
            long from = i - 1; /* the part that it reads; e, if it is below 0 */
            while (from >= 0 && !c->kept[from]) from--;
            const float *x = from < 0 ? x0 : maps[from];
            struct part part = part_of(c, i, x, from < 0 ? c->n_fields : c->size[from], x0, samples);
            if (c->summed[i]) dsum -= c->size[i] * samples;
            part_back(&part, c->kept[i] ? dmaps[i] : dsum, sum_at(&b->dweight[i], thread), from < 0 ? dx0 : dmaps[from],
                      dx0, z, dz, turned);
        }
        transpose(dx0, samples, row, rows, b->de + start * row, row, row);
    }
    for (long i = 0; i < c->n_parts; i++) free(maps[i]), free(dmaps[i]);
    free(x0), free(dx0), free(dp), free(z), free(dz), free(turned);
}
SUMMING_KERNEL(cin_back, dweight)
