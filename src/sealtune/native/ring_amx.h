// The ring product with AMX: tdpbusd adds 16 x 64 digits u8 times 64 x 16 weights s8 to a tile of
// 16 x 16 sums, wrapping. Four tiles hold the sums of the four digits, so that a tile of weights is
// loaded once for all of them.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

#include "ring_x86.h"

#define RING_AMX \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vbmi,amx-tile,amx-int8")))

enum { TILE_ROWS = 16, TILE_BYTES = 64, TILE = TILE_ROWS * TILE_BYTES, CODE_BYTES = 4 };

// Eight tiles of 16 rows of 64 bytes; Intel's manual, volume 1, 18.3.
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} ring_tiles = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

// The kernel lends tiles to a process that asks; its threads inherit them.
static int ring_amx_granted(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    static int granted = -1;
    if (__atomic_load_n(&granted, __ATOMIC_RELAXED) < 0) {
        const long refused = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
        __atomic_store_n(&granted, !refused && __builtin_cpu_supports("avx512vbmi"),
                         __ATOMIC_RELAXED);
    }
    return granted;
}

RING_AMX static void ring_begin_amx(void) { _tile_loadconfig(&ring_tiles); }

RING_AMX static void ring_end_amx(void) { _tile_release(); }

RING_AMX static inline __m512i ring_sixteen(const int32_t *from, int64_t there) {
    if (there >= 16) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi32(there > 0 ? (__mmask16)((1u << there) - 1) : 0, from);
}

// [block of rows][64 inner indices][digit][16 rows][64 bytes].
RING_AMX static void ring_codes_amx(const struct ring_job *job, struct ring_range rows,
                                    struct ring_range inner, uint8_t *packed) {
    uint8_t places[64];  // of 32 codes the lowest bytes, then the next ones
    for (int i = 0; i < 64; i++) places[i] = (uint8_t)(i % 32 * 4 + i / 32);
    const __m512i low = _mm512_loadu_si512(places);
    const __m512i high = _mm512_add_epi8(low, _mm512_set1_epi8(2));
    const int64_t size = inner.end - inner.start;
    const int64_t steps = (size + TILE_BYTES - 1) / TILE_BYTES;
    for (int64_t row = 0; row < ring_up(rows.end - rows.start, TILE_ROWS); row++) {
        uint8_t *to = packed + row / TILE_ROWS * steps * CODE_BYTES * TILE + row % TILE_ROWS * 64;
        const int32_t *from = job->codes + (rows.start + row) * job->codes_row + inner.start;
        for (int64_t k = 0; k < size; k += TILE_BYTES, to += CODE_BYTES * TILE) {
            const int64_t there = rows.start + row < rows.end ? size - k : 0;
            const __m512i a = ring_sixteen(from + k, there);
            const __m512i b = ring_sixteen(from + k + 16, there - 16);
            const __m512i c = ring_sixteen(from + k + 32, there - 32);
            const __m512i d = ring_sixteen(from + k + 48, there - 48);
            const __m512i low_ab = _mm512_permutex2var_epi8(a, low, b);
            const __m512i low_cd = _mm512_permutex2var_epi8(c, low, d);
            const __m512i high_ab = _mm512_permutex2var_epi8(a, high, b);
            const __m512i high_cd = _mm512_permutex2var_epi8(c, high, d);
            _mm512_storeu_si512(to, _mm512_shuffle_i64x2(low_ab, low_cd, 0x44));
            _mm512_storeu_si512(to + TILE, _mm512_shuffle_i64x2(low_ab, low_cd, 0xee));
            _mm512_storeu_si512(to + 2 * TILE, _mm512_shuffle_i64x2(high_ab, high_cd, 0x44));
            _mm512_storeu_si512(to + 3 * TILE, _mm512_shuffle_i64x2(high_ab, high_cd, 0xee));
        }
    }
}

RING_AVX2 static void ring_weights_amx(const struct ring_job *job, struct ring_range inner,
                                       struct ring_range cols, uint8_t *packed) {
    const int64_t groups = ring_up(inner.end - inner.start, TILE_BYTES) / 4;
    ring_weights(job, TILE_ROWS, 0, inner, cols, groups, packed);
}

RING_AMX static void ring_multiply_amx(const uint8_t *codes, const uint8_t *weight, int64_t groups,
                                       int32_t *out, int64_t out_row, int add) {
    int32_t sums[CODE_BYTES][TILE_ROWS][16] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t group = 0; group < groups; group++) {
        _tile_loadd(7, weight, TILE_BYTES);
        _tile_loadd(4, codes, TILE_BYTES);
        _tile_dpbusd(0, 4, 7);
        _tile_loadd(5, codes + TILE, TILE_BYTES);
        _tile_dpbusd(1, 5, 7);
        _tile_loadd(6, codes + 2 * TILE, TILE_BYTES);
        _tile_dpbusd(2, 6, 7);
        _tile_loadd(4, codes + 3 * TILE, TILE_BYTES);
        _tile_dpbusd(3, 4, 7);
        codes += CODE_BYTES * TILE;
        weight += TILE;
    }
    _tile_stored(0, sums[0], TILE_BYTES);
    _tile_stored(1, sums[1], TILE_BYTES);
    _tile_stored(2, sums[2], TILE_BYTES);
    _tile_stored(3, sums[3], TILE_BYTES);
    for (int row = 0; row < TILE_ROWS; row++) {
        __m512i total = _mm512_load_si512(sums[3][row]);
        for (int digit = 2; digit >= 0; digit--)
            total = _mm512_add_epi32(_mm512_slli_epi32(total, 8),
                                     _mm512_load_si512(sums[digit][row]));
        int32_t *to = out + row * out_row;
        if (add) total = _mm512_add_epi32(total, _mm512_loadu_si512(to));
        _mm512_storeu_si512(to, total);
    }
}

static const struct ring_way ring_amx = {
    TILE_ROWS, 16, TILE_BYTES, CODE_BYTES, 1, 1, ring_codes_amx, ring_weights_amx, ring_multiply_amx,
    ring_begin_amx, ring_end_amx};
