// The ring product on x86-64 with AVX-512 VNNI, AVX-VNNI or AVX2; ring_amx.h has AMX.
//
// vpdpbusd adds four products u8 x s8 to a 32-bit lane, wrapping: the four bytes of a code are its
// digits as they are. (vpdpbusds and vpmaddubsw saturate, and are not used.) AVX2 has vpmaddwd, two
// products s16 x s16: there a code is two digits, and weights widen to 16 bits.
#pragma once
#include <immintrin.h>

#include "ring.h"

#define RING_AVX2 __attribute__((target("avx2")))

// The packed codes of this row of a block, every `block` cells of so many bytes.
static inline uint8_t *ring_cell(uint8_t *packed, int64_t row, int block, int64_t groups,
                                 int bytes) {
    return packed + (row / block * groups * block + row % block) * bytes;
}

// [block of rows][group of 4][row][digit][4 bytes], the least digit first.
RING_AVX2 static void ring_codes_of_bytes(const struct ring_job *job, int block,
                                          struct ring_range rows, struct ring_range inner,
                                          uint8_t *packed) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int64_t size = inner.end - inner.start, groups = (size + 3) / 4;
    for (int64_t row = 0; row < ring_up(rows.end - rows.start, block); row++) {
        uint8_t *to = ring_cell(packed, row, block, groups, 16);
        const int there = rows.start + row < rows.end;
        const int32_t *from = job->codes + (rows.start + row) * job->codes_row + inner.start;
        for (int64_t k = 0; k < size; k += 4, to += 16 * block) {
            __m128i codes = _mm_setzero_si128();
            if (there && k + 4 <= size)
                codes = _mm_loadu_si128((const __m128i *)(from + k));
            else if (there)
                memcpy(&codes, from + k, (size_t)(size - k) * sizeof *from);
            _mm_storeu_si128((__m128i *)to, _mm_shuffle_epi8(codes, order));
        }
    }
}

// [block of rows][group of 2][row][digit][2 words], the lower digit signed and first.
RING_AVX2 static void ring_codes_of_words(const struct ring_job *job, int block,
                                          struct ring_range rows, struct ring_range inner,
                                          uint8_t *packed) {
    const int64_t size = inner.end - inner.start, groups = (size + 1) / 2;
    for (int64_t row = 0; row < ring_up(rows.end - rows.start, block); row++) {
        uint8_t *to = ring_cell(packed, row, block, groups, 8);
        const int there = rows.start + row < rows.end;
        const int32_t *from = job->codes + (rows.start + row) * job->codes_row + inner.start;
        for (int64_t k = 0; k < size; k += 2, to += 8 * block) {
            const uint32_t first = there ? (uint32_t)from[k] : 0;
            const uint32_t second = there && k + 1 < size ? (uint32_t)from[k + 1] : 0;
            // a lower digit of 2^15 or more is read as negative: then the upper one is one more
            const uint32_t digits[2] = {
                (first & 0xffff) | second << 16,
                (first + 0x8000) >> 16 | ((second + 0x8000) & 0xffff0000),
            };
            memcpy(to, digits, sizeof digits);
        }
    }
}

// Eight vectors of eight 32-bit words, turned.
RING_AVX2 static inline void ring_turn(__m256i r[8]) {
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

// Eight groups of eight columns that lie along the inner dimension. `step`: bytes between groups.
RING_AVX2 static inline void ring_eight_along(const int8_t *from, int64_t column, int words,
                                              uint8_t *to, int64_t step) {
    __m256i r[8];
    for (int i = 0; i < 8; i++, from += column)
        r[i] = words ? _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from))
                     : _mm256_loadu_si256((const __m256i *)from);
    ring_turn(r);
    for (int i = 0; i < 8; i++) _mm256_storeu_si256((__m256i *)(to + i * step), r[i]);
}

// One group of eight columns that lie side by side.
RING_AVX2 static inline void ring_eight_across(const int8_t *from, int64_t row, int words,
                                               uint8_t *to) {
    const __m128i first = _mm_loadl_epi64((const __m128i *)from);
    const __m128i pairs = _mm_unpacklo_epi8(first, _mm_loadl_epi64((const __m128i *)(from + row)));
    if (words) {
        _mm256_storeu_si256((__m256i *)to, _mm256_cvtepi8_epi16(pairs));
        return;
    }
    const __m128i third = _mm_loadl_epi64((const __m128i *)(from + 2 * row));
    const __m128i more =
        _mm_unpacklo_epi8(third, _mm_loadl_epi64((const __m128i *)(from + 3 * row)));
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(pairs, more));
    _mm_storeu_si128((__m128i *)(to + 16), _mm_unpackhi_epi16(pairs, more));
}

// Any group of eight columns, at edges too.
static void ring_eight_at_edge(const struct ring_job *job, int64_t k, int64_t end, int64_t col,
                               int words, uint8_t *to) {
    const int size = words ? 2 : 4;
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < size; j++) {
            const int16_t value = k + j < end ? ring_weight_at(job, k + j, col + i) : 0;
            if (words)
                memcpy(to + 4 * i + 2 * j, &value, 2);
            else
                to[4 * i + j] = (uint8_t)value;
        }
}

// [block of columns][group][column][4 bytes or 2 words]. Memory is read in the order in which it
// lies: column by column, or group by group.
RING_AVX2 static inline void ring_weights(const struct ring_job *job, int block, int words,
                                          struct ring_range inner, struct ring_range cols,
                                          int64_t groups, uint8_t *packed) {
    const int size = words ? 2 : 4;  // inner indices of a group
    const int64_t step = 4 * block, along = job->weight_inner == 1;
    const int64_t down = size * job->weight_inner, across = job->weight_col;
    const int64_t padded = ring_up(cols.end - cols.start, block);
    const int64_t eights = (ring_min(cols.start + padded, job->cols) - cols.start) / 8 * 8;
    const int64_t whole = (inner.end - inner.start) / size / (along ? 8 : 1) * (along ? 8 : 1);
    const int8_t *from = job->weight + inner.start * job->weight_inner + cols.start * across;
    if (along)
        for (int64_t col = 0; col < eights; col += 8)
            for (int64_t group = 0; group < whole; group += 8)
                ring_eight_along(from + col * across + group * down, across, words,
                                 ring_cell(packed, col, block, groups, 4) + group * step, step);
    else
        for (int64_t group = 0; group < whole; group++)
            for (int64_t col = 0; col < eights; col += 8)
                ring_eight_across(from + col + group * down, job->weight_inner, words,
                                  ring_cell(packed, col, block, groups, 4) + group * step);
    for (int64_t col = 0; col < padded; col += 8)
        for (int64_t group = col < eights ? whole : 0; group < groups; group++)
            ring_eight_at_edge(job, inner.start + group * size, inner.end, cols.start + col, words,
                               ring_cell(packed, col, block, groups, 4) + group * step);
}

#define RING_PACKERS(way, rows_, cols_, digits, words)                                            \
    static void ring_codes_##way(const struct ring_job *job, struct ring_range rows,              \
                                 struct ring_range inner, uint8_t *packed) {                      \
        ring_codes_of_##digits(job, rows_, rows, inner, packed);                                  \
    }                                                                                             \
    RING_AVX2 static void ring_weights_##way(const struct ring_job *job, struct ring_range inner, \
                                             struct ring_range cols, uint8_t *packed) {           \
        const int64_t groups = (inner.end - inner.start + (words ? 1 : 3)) / (words ? 2 : 4);     \
        ring_weights(job, cols_, words, inner, cols, groups, packed);                             \
    }

RING_PACKERS(avx512, 2, 48, bytes, 0)
RING_PACKERS(avxvnni, 1, 24, bytes, 0)
RING_PACKERS(avx2, 2, 16, words, 1)
#undef RING_PACKERS

typedef uint32_t ring_v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t ring_v8 __attribute__((vector_size(32), aligned(4), may_alias));

#define NAME ring_multiply_avx512
#define TARGET __attribute__((target("avx512f,avx512vnni")))
#define VEC ring_v16
#define ROWS 2
#define VECS 3
#define DIGITS 4
#define BITS 8
#define LOAD(p) (ring_v16) _mm512_loadu_si512(p)
#define SPREAD(p) (ring_v16) _mm512_set1_epi32(*(const ring_word *)(p))
#define DOT(sum, digits, weights) \
    (ring_v16) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(digits), (__m512i)(weights))
#include "ring_dot.h"

#define NAME ring_multiply_avxvnni
#define TARGET __attribute__((target("avx2,avxvnni")))
#define VEC ring_v8
#define ROWS 1
#define VECS 3
#define DIGITS 4
#define BITS 8
#define LOAD(p) (ring_v8) _mm256_loadu_si256((const __m256i *)(p))
#define SPREAD(p) (ring_v8) _mm256_set1_epi32(*(const ring_word *)(p))
#define DOT(sum, digits, weights) \
    (ring_v8) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(digits), (__m256i)(weights))
#include "ring_dot.h"

#define NAME ring_multiply_avx2
#define TARGET RING_AVX2
#define VEC ring_v8
#define ROWS 2
#define VECS 2
#define DIGITS 2
#define BITS 16
#define LOAD(p) (ring_v8) _mm256_loadu_si256((const __m256i *)(p))
#define SPREAD(p) (ring_v8) _mm256_set1_epi32(*(const ring_word *)(p))
#define DOT(sum, digits, weights) \
    ((sum) + (ring_v8) _mm256_madd_epi16((__m256i)(digits), (__m256i)(weights)))
#include "ring_dot.h"

static const struct ring_way ring_avx512 = {
    2, 48, 4, 4, 1, 0, ring_codes_avx512, ring_weights_avx512, ring_multiply_avx512, 0, 0};
static const struct ring_way ring_avxvnni = {
    1, 24, 4, 4, 1, 0, ring_codes_avxvnni, ring_weights_avxvnni, ring_multiply_avxvnni, 0, 0};
static const struct ring_way ring_avx2 = {
    2, 16, 2, 4, 2, 0, ring_codes_avx2, ring_weights_avx2, ring_multiply_avx2, 0, 0};
