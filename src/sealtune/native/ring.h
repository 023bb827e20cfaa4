// What the ways of computing a ring product share: its operands, and how they are packed.
//
// A way multiplies blocks of `rows` rows of codes by `cols` columns of weights. Both are packed
// first, `group` inner indices side by side: codes as digits, weights in the same order, zeros
// beyond the edges. All arithmetic is mod 2^32: sums wrap, and nothing may saturate.
#pragma once
#include <stdint.h>
#include <string.h>

struct ring_job {
    const int32_t *codes;  // [rows, inner], neighbours side by side
    int64_t codes_row;     // elements from one row to the next
    const int8_t *weight;  // [inner, cols]; one of its two strides is 1
    int64_t weight_inner, weight_col;
    int32_t *out;  // [rows, cols], neighbours side by side
    int64_t out_row;
    int64_t rows, inner, cols;
};

struct ring_range {
    int64_t start, end;
};

struct ring_way {
    int rows, cols, group;           // of a block; block of codes is at most RING_BLOCK entries
    int code_bytes, weight_bytes;    // of a packed entry
    int codes_stay;                  // in the first cache while weights stream; 0: the other way
    void (*pack_codes)(const struct ring_job *, struct ring_range rows, struct ring_range inner,
                       uint8_t *packed);
    void (*pack_weight)(const struct ring_job *, struct ring_range inner, struct ring_range cols,
                        uint8_t *packed);
    // out = (add: +=) a block of codes times a block of weights, over so many groups
    void (*multiply)(const uint8_t *codes, const uint8_t *weight, int64_t groups, int32_t *out,
                     int64_t out_row, int add);
    void (*begin)(void), (*end)(void);  // of a thread's share; may be NULL
};

enum { RING_BLOCK = 16 * 16 };

// Four bytes of memory in any place, as a broadcast reads them.
typedef int32_t ring_word __attribute__((aligned(1), may_alias));

static inline int64_t ring_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static inline int64_t ring_min(int64_t a, int64_t b) { return a < b ? a : b; }

// weight[k, n], zero beyond the edges.
static inline int8_t ring_weight_at(const struct ring_job *job, int64_t k, int64_t n) {
    if (k >= job->inner || n >= job->cols) return 0;
    return job->weight[k * job->weight_inner + n * job->weight_col];
}
