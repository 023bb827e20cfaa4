// The ring product on arm64: sdot adds four products s8 x s8 to a 32-bit lane, wrapping. Its digits
// are signed, so codes are balanced first: a digit above 127 carries into the next one.
#pragma once
#include <arm_neon.h>

#include "ring.h"

enum { NEON_COLS = 16 };

// [row][group of 4][digit][4 bytes], the least digit first.
static void ring_codes_neon(const struct ring_job *job, struct ring_range rows,
                            struct ring_range inner, uint8_t *packed) {
    static const uint8_t places[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const uint8x16_t order = vld1q_u8(places);
    const uint32x4_t carry = vdupq_n_u32(0x80808080);
    for (int64_t row = rows.start; row < rows.end; row++)
        for (int64_t k = inner.start; k < inner.end; k += 4, packed += 16) {
            uint32_t codes[4] = {0};
            memcpy(codes, job->codes + row * job->codes_row + k,
                   (size_t)ring_min(4, inner.end - k) * sizeof *codes);
            const uint32x4_t balanced = veorq_u32(vaddq_u32(vld1q_u32(codes), carry), carry);
            vst1q_u8(packed, vqtbl1q_u8(vreinterpretq_u8_u32(balanced), order));
        }
}

// [block of columns][group][column][4 bytes].
static void ring_weights_neon(const struct ring_job *job, struct ring_range inner,
                              struct ring_range cols, uint8_t *packed) {
    for (int64_t col = cols.start; col < cols.end; col += NEON_COLS)
        for (int64_t k = inner.start; k < inner.end; k += 4)
            for (int64_t c = col; c < col + NEON_COLS; c++, packed += 4)
                if (job->weight_inner == 1 && k + 4 <= inner.end && c < job->cols)
                    memcpy(packed, job->weight + c * job->weight_col + k, 4);
                else
                    for (int i = 0; i < 4; i++)
                        packed[i] = k + i < inner.end ? (uint8_t)ring_weight_at(job, k + i, c) : 0;
}

typedef uint32_t ring_v4 __attribute__((vector_size(16), aligned(4), may_alias));

#define NAME ring_multiply_neon
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define VEC ring_v4
#define ROWS 1
#define VECS 4
#define DIGITS 4
#define BITS 8
#define LOAD(p) (ring_v4) vld1q_u8(p)
#define SPREAD(p) (ring_v4) vdupq_n_s32(*(const ring_word *)(p))
#define DOT(sum, digits, weights) \
    (ring_v4) vdotq_s32((int32x4_t)(sum), (int8x16_t)(digits), (int8x16_t)(weights))
#include "ring_dot.h"

static const struct ring_way ring_neon = {
    1, NEON_COLS, 4, 4, 1, 0, ring_codes_neon, ring_weights_neon, ring_multiply_neon, 0, 0};
