// codes int32 [T, K] @ weight int8 [K, N] mod 2^32, exactly, for any shape.
//
// A code is written in a few digits. Digits and weights meet in the processor's dot products of
// small integers, whose 32-bit sums wrap as the ring does: neither K nor the values have a bound.
// Blocks of both operands are packed into buffers of the thread, which fit its caches; digits become
// one number again in registers. `plain` is the definition, which all other ways are tested against.
#include "ring.h"

#include "cpu.h"

#if defined(__x86_64__)
#include "ring_amx.h"
#elif defined(__aarch64__)
#include "ring_neon.h"
#endif

// What is packed at one time.
enum { MOST_INNER = 640, MOST_COLS = 768, MOST_ROWS = 32, MOST_GROUP = 64 };

// The fastest way that may be used; NULL: `plain`.
static const struct ring_way *fastest(void) {
#if defined(__x86_64__)
    const uint32_t has = sealtune_features();
    if ((has & HAS_AMX_INT8) && ring_amx_granted()) return &ring_amx;
    if (has & HAS_AVX512_VNNI) return &ring_avx512;
    if (has & HAS_AVX_VNNI) return &ring_avxvnni;
    if (has & HAS_AVX2) return &ring_avx2;
#elif defined(__aarch64__)
    if (sealtune_features() & HAS_NEON_DOT) return &ring_neon;
#endif
    return NULL;
}

// Whether there is a way that is faster than plain C.
EXPORT int sealtune_ring_is_fast(void) { return fastest() != NULL; }

static void plain(const struct ring_job *job, struct ring_range rows, struct ring_range cols) {
    for (int64_t row = rows.start; row < rows.end; row++) {
        const int32_t *codes = job->codes + row * job->codes_row;
        uint32_t *out = (uint32_t *)job->out + row * job->out_row;
        for (int64_t col = cols.start; col < cols.end; col++) {
            const int8_t *weight = job->weight + col * job->weight_col;
            uint32_t sum = 0;
            for (int64_t k = 0; k < job->inner; k++)
                sum += (uint32_t)codes[k] * (uint32_t)weight[k * job->weight_inner];
            out[col] = sum;
        }
    }
}

// One block; at an edge by way of a whole one.
static void multiply(const struct ring_way *way, const struct ring_job *job, const uint8_t *codes,
                     const uint8_t *weight, int64_t groups, int64_t row, int64_t col, int add) {
    int32_t *out = job->out + row * job->out_row + col;
    const int64_t rows = ring_min(job->rows - row, way->rows);
    const int64_t cols = ring_min(job->cols - col, way->cols);
    if (rows == way->rows && cols == way->cols) {
        way->multiply(codes, weight, groups, out, job->out_row, add);
        return;
    }
    int32_t whole[RING_BLOCK];
    way->multiply(codes, weight, groups, whole, way->cols, 0);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            const uint32_t before = add ? (uint32_t)out[r * job->out_row + c] : 0;
            out[r * job->out_row + c] = (int32_t)(before + (uint32_t)whole[r * way->cols + c]);
        }
}

// What a thread has packed.
struct packed {
    uint8_t weights[MOST_INNER * MOST_COLS * 2], codes[MOST_INNER * MOST_ROWS * 4];
};

// Few rows times packed weights: a piece of the inner dimension, added to those before it.
static void strip(const struct ring_way *way, const struct ring_job *job, struct packed *packed,
                  struct ring_range rows, struct ring_range inner, struct ring_range cols) {
    const int64_t groups = (inner.end - inner.start + way->group - 1) / way->group;
    const int64_t code_row = groups * way->group * way->code_bytes;
    const int64_t weight_col = groups * way->group * way->weight_bytes;
    const int64_t high = (rows.end - rows.start + way->rows - 1) / way->rows;
    const int64_t broad = (cols.end - cols.start + way->cols - 1) / way->cols;
    way->pack_codes(job, rows, inner, packed->codes);
    for (int64_t i = 0; i < high * broad; i++) {
        const int64_t r = (way->codes_stay ? i / broad : i % high) * way->rows;
        const int64_t c = (way->codes_stay ? i % broad : i / high) * way->cols;
        multiply(way, job, packed->codes + r * code_row, packed->weights + c * weight_col, groups,
                 rows.start + r, cols.start + c, inner.start > 0);
    }
}

static void blocks(const struct ring_way *way, const struct ring_job *job, struct ring_range rows,
                   struct ring_range cols) {
    static _Thread_local struct packed packed __attribute__((aligned(64)));
    const int64_t wide = MOST_COLS / way->cols * way->cols;
    const int64_t pieces = (job->inner + MOST_INNER - 1) / MOST_INNER;  // of equal size
    const int64_t deep = ring_up((job->inner + pieces - 1) / pieces, MOST_GROUP);
    for (int64_t col = cols.start; col < cols.end; col += wide) {
        const struct ring_range across = {col, ring_min(col + wide, cols.end)};
        for (int64_t k = 0; k < job->inner; k += deep) {
            const struct ring_range inner = {k, ring_min(k + deep, job->inner)};
            way->pack_weight(job, inner, across, packed.weights);
            for (int64_t row = rows.start; row < rows.end; row += MOST_ROWS) {
                const struct ring_range down = {row, ring_min(row + MOST_ROWS, rows.end)};
                strip(way, job, &packed, down, inner, across);
            }
        }
    }
}

static void share(const struct ring_way *way, const struct ring_job *job, struct ring_range rows,
                  struct ring_range cols) {
    if (!way || !job->inner) {
        plain(job, rows, cols);
        return;
    }
    if (way->begin) way->begin();
    blocks(way, job, rows, cols);
    if (way->end) way->end();
}

// This one of so many equal parts of `size`, in whole multiples of `step`.
static struct ring_range part_of(int64_t size, int64_t step, int64_t part, int64_t parts) {
    const int64_t steps = (size + step - 1) / step;
    const struct ring_range range = {ring_min(steps * part / parts * step, size),
                                     ring_min(steps * (part + 1) / parts * step, size)};
    return range;
}

// Into how many parts the rows are cut, so that little is packed by several threads.
static int cut_rows(const struct ring_job *job, int64_t block_rows, int64_t block_cols,
                    int threads) {
    int best = 1;
    int64_t least = INT64_MAX;
    for (int down = 1; down <= threads; down++) {
        if (threads % down) continue;
        const int across = threads / down;
        const int64_t high = ring_up((job->rows + down - 1) / down, block_rows);
        const int64_t wide = ring_up((job->cols + across - 1) / across, block_cols);
        // packing a code costs as much as 32 products, packing a weight as 16 (AMX)
        const int64_t cost = high * wide + 32 * high + 16 * wide;
        if (cost >= least) continue;
        least = cost;
        best = down;
    }
    return best;
}

// The product. The caller has checked types, shapes and strides.
EXPORT int sealtune_ring_product(const int32_t *codes, int64_t codes_row, const int8_t *weight,
                                 int64_t weight_inner, int64_t weight_col, int32_t *out,
                                 int64_t out_row, int64_t rows, int64_t inner, int64_t cols,
                                 int threads) {
    const struct ring_job job = {codes,   codes_row, weight, weight_inner, weight_col,
                                 out,     out_row,   rows,   inner,        cols};
    const struct ring_way *way = fastest();
    const int64_t block_rows = way ? way->rows : 1, block_cols = way ? way->cols : 16;
    const int down = cut_rows(&job, block_rows, block_cols, threads), across = threads / down;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < threads; i++) {
        const struct ring_range some_rows = part_of(rows, block_rows, i / across, down);
        const struct ring_range some_cols = part_of(cols, block_cols, i % across, across);
        if (some_rows.start < some_rows.end && some_cols.start < some_cols.end)
            share(way, &job, some_rows, some_cols);
    }
    return 0;
}
