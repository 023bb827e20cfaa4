// Both enclave sides of a masked product; sealtune.offload.passes is the same in Python and says
// what each does. A row is worked through in chunks that stay in the first-level cache.
//
// Rows are plain C. The compiler makes them anew for each instruction set, which changes how many
// values it takes at once and nothing about the result: no sum of floats is taken in another order.
// The check sums alone are written out for each set: their products are ones it does not find.
#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu.h"
#include "keystream.h"

#define BODY static inline __attribute__((always_inline))
enum { LANES = 16, CHUNK = 256 };  // of a norm's sum; values, a multiple of LANES and of a block
enum { MAX_VECTORS = 8 };          // of a check: a miss rate of 2^-248
static const uint64_t PRIME = 2147483647;  // 2^31 - 1
static const uint64_t SIGN = 1ull << 63;
static const int64_t RESULT_LIMIT = 1 << 30;
static const double SMALLEST_NORM = 1e-20;

// Columns of the input that lie together: float, or the upper halves of floats.
struct part {
    const void *x;
    int64_t cols, stride;  // of rows, in values
};

struct encode {
    const struct part *parts;
    int count, is_half;
    int64_t cols;
    const float *scale;
    double code_norm;
    const struct keystream *stream;  // or, where it is NULL,
    const uint32_t *words;           // its words, or no mask
    const uint32_t *check;
    int64_t vectors;
    uint32_t *out;
    float *step;
    int64_t *sums;
};

struct decode {
    const uint32_t *y, *product;
    int64_t cols;
    const struct keystream *stream;
    const uint32_t *words;
    const float *step, *scale, *bias;
    const uint32_t *check;
    int64_t vectors;
    const int64_t *sums;
    void *out;  // float, or the upper halves of floats
    int is_half;
};

// Ask for memory that is needed soon, while there is arithmetic to do; it need not be there.
BODY void fetch(const void *memory, int64_t from, int64_t bytes) {
    enum { LINE = 64 };
    for (int64_t at = 0; at < bytes; at += LINE)
        __builtin_prefetch((const void *)((uintptr_t)memory + (uintptr_t)(from + at)));
}

BODY void load_part(const struct part *part, int is_half, int64_t row, int64_t from, int count,
                    const float *scale, float *values) {
    if (is_half) {
        const uint16_t *x = (const uint16_t *)part->x + row * part->stride + from;
        for (int i = 0; i < count; i++) {
            const uint32_t bits = (uint32_t)x[i] << 16;
            memcpy(&values[i], &bits, sizeof bits);
        }
        if (scale)
            for (int i = 0; i < count; i++) values[i] *= scale[i];
        return;
    }
    const float *x = (const float *)part->x + row * part->stride + from;
    if (scale)
        for (int i = 0; i < count; i++) values[i] = x[i] * scale[i];
    else
        memcpy(values, x, sizeof *values * (size_t)count);
}

// count values of a row from column at on, scaled, in place or in space; zeros up to a multiple of
// LANES. Where it is the last time, the next row is asked for.
BODY const float *load_values(const struct encode *job, int64_t row, int64_t at, int count,
                              float *space, int is_last) {
    const struct part *part = job->parts;
    const int64_t size = job->is_half ? 2 : 4;
    if (job->count == 1 && !job->is_half && !job->scale && count % LANES == 0) {
        if (is_last) fetch(part->x, ((row + 1) * part->stride + at) * size, count * size);
        return (const float *)part->x + row * part->stride + at;
    }
    int64_t start = 0;
    for (int k = 0; k < job->count; k++, part++) {
        const int64_t end = start + part->cols;
        const int64_t first = at > start ? at : start;
        const int64_t last = at + count < end ? at + count : end;
        if (first < last) {
            const int64_t next = (row + 1) * part->stride + first - start;
            if (is_last) fetch(part->x, next * size, (last - first) * size);
            load_part(part, job->is_half, row, first - start, (int)(last - first),
                      job->scale ? job->scale + first : NULL, space + (first - at));
        }
        start = end;
    }
    for (int i = count; i % LANES; i++) space[i] = 0;
    return space;
}

BODY int chunk_of(int64_t cols, int64_t at) {
    return cols - at < CHUNK ? (int)(cols - at) : CHUNK;
}

BODY double row_norm(const struct encode *job, int64_t row) {
    double lanes[LANES] = {0};
    for (int64_t at = 0; at < job->cols; at += CHUNK) {
        float space[CHUNK];
        const int count = chunk_of(job->cols, at);
        const float *values = load_values(job, row, at, count, space, 0);
        for (int i = 0; i < count; i += LANES)
            for (int j = 0; j < LANES; j++) {
                const double value = (double)values[i + j];
                lanes[j] += value * value;
            }
    }
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
    return sqrt(lanes[0]);
}

// Sum of values[i] * vector[i] mod PRIME, from 0 on. Exact for values in (-2^30, 2^30); others are
// refused. Four products are summed before they are reduced: less than 2^63 in absolute value.
// Adding 2^63 = 2 (mod PRIME) to each such sum makes it unsigned, for processors without an
// arithmetic shift of 64 bits.
typedef int64_t check_function(const int32_t *values, const uint32_t *vector, int count);
enum { SUMMED = 4 };

BODY uint64_t reduce(uint64_t sum) { return (sum & PRIME) + (sum >> 31); }  // same mod PRIME, < 2^34

// What lanes hold after so many reductions, and the last values, which fill no whole step.
BODY int64_t check_sum_end(const uint64_t *lanes, int width, int reductions, const int32_t *values,
                           const uint32_t *vector, int count) {
    int64_t total = -2 * (int64_t)width * reductions;
    for (int j = 0; j < width; j++) total += (int64_t)lanes[j];
    for (int i = 0; i < count; i++) total += (int64_t)values[i] * (int32_t)vector[i] % (int64_t)PRIME;
    total %= (int64_t)PRIME;
    return total < 0 ? total + (int64_t)PRIME : total;
}

BODY int64_t check_sum_plain(const int32_t *values, const uint32_t *vector, int count) {
    enum { STEP = SUMMED * LANES };
    uint64_t lanes[LANES] = {0};
    int i = 0;
    for (; i + STEP <= count; i += STEP)
        for (int j = 0; j < LANES; j++) {
            uint64_t sum = SIGN;
            for (int k = i + j; k < i + STEP; k += LANES)
                sum += (uint64_t)((int64_t)values[k] * (int32_t)vector[k]);
            lanes[j] += reduce(sum);
        }
    return check_sum_end(lanes, LANES, i / STEP, values + i, vector + i, count - i);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#define AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

// The products take every second value, those between come down by a shift.
AVX2 static inline int64_t check_sum_avx2(const int32_t *values, const uint32_t *vector, int count) {
    enum { WIDTH = 4, STEP = SUMMED * 2 * WIDTH };
    const __m256i prime = _mm256_set1_epi64x(PRIME), sign = _mm256_set1_epi64x((long long)SIGN);
    __m256i lanes = _mm256_setzero_si256();
    uint64_t stored[WIDTH];
    int i = 0;
    for (; i + STEP <= count; i += STEP) {
        __m256i even = sign, odd = sign;
        for (int k = i; k < i + STEP; k += 2 * WIDTH) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(values + k));
            const __m256i w = _mm256_loadu_si256((const __m256i *)(vector + k));
            const __m256i next_v = _mm256_srli_epi64(v, 32), next_w = _mm256_srli_epi64(w, 32);
            even = _mm256_add_epi64(even, _mm256_mul_epi32(v, w));
            odd = _mm256_add_epi64(odd, _mm256_mul_epi32(next_v, next_w));
        }
        lanes = _mm256_add_epi64(lanes, _mm256_and_si256(even, prime));
        lanes = _mm256_add_epi64(lanes, _mm256_srli_epi64(even, 31));
        lanes = _mm256_add_epi64(lanes, _mm256_and_si256(odd, prime));
        lanes = _mm256_add_epi64(lanes, _mm256_srli_epi64(odd, 31));
    }
    _mm256_storeu_si256((__m256i *)stored, lanes);
    return check_sum_end(stored, WIDTH, 2 * (i / STEP), values + i, vector + i, count - i);
}

AVX512 static inline int64_t check_sum_avx512(const int32_t *values, const uint32_t *vector,
                                              int count) {
    enum { WIDTH = 8, STEP = SUMMED * 2 * WIDTH };
    const __m512i prime = _mm512_set1_epi64(PRIME), sign = _mm512_set1_epi64((long long)SIGN);
    __m512i lanes = _mm512_setzero_si512();
    uint64_t stored[WIDTH];
    int i = 0;
    for (; i + STEP <= count; i += STEP) {
        __m512i even = sign, odd = sign;
        for (int k = i; k < i + STEP; k += 2 * WIDTH) {
            const __m512i v = _mm512_loadu_si512(values + k), w = _mm512_loadu_si512(vector + k);
            const __m512i next_v = _mm512_srli_epi64(v, 32), next_w = _mm512_srli_epi64(w, 32);
            even = _mm512_add_epi64(even, _mm512_mul_epi32(v, w));
            odd = _mm512_add_epi64(odd, _mm512_mul_epi32(next_v, next_w));
        }
        lanes = _mm512_add_epi64(lanes, _mm512_and_si512(even, prime));
        lanes = _mm512_add_epi64(lanes, _mm512_srli_epi64(even, 31));
        lanes = _mm512_add_epi64(lanes, _mm512_and_si512(odd, prime));
        lanes = _mm512_add_epi64(lanes, _mm512_srli_epi64(odd, 31));
    }
    _mm512_storeu_si512(stored, lanes);
    return check_sum_end(stored, WIDTH, 2 * (i / STEP), values + i, vector + i, count - i);
}
#elif defined(__aarch64__)
BODY int64_t check_sum_neon(const int32_t *values, const uint32_t *vector, int count) {
    enum { WIDTH = 2, STEP = SUMMED * 2 * WIDTH };
    const uint64x2_t prime = vdupq_n_u64(PRIME);
    uint64x2_t lanes = vdupq_n_u64(0);
    uint64_t stored[WIDTH];
    int i = 0;
    for (; i + STEP <= count; i += STEP) {
        int64x2_t low = vreinterpretq_s64_u64(vdupq_n_u64(SIGN)), high = low;
        for (int k = i; k < i + STEP; k += 2 * WIDTH) {
            const int32x4_t v = vld1q_s32(values + k);
            const int32x4_t w = vreinterpretq_s32_u32(vld1q_u32(vector + k));
            low = vmlal_s32(low, vget_low_s32(v), vget_low_s32(w));
            high = vmlal_high_s32(high, v, w);
        }
        const uint64x2_t one = vreinterpretq_u64_s64(low), other = vreinterpretq_u64_s64(high);
        lanes = vsraq_n_u64(vaddq_u64(lanes, vandq_u64(one, prime)), one, 31);
        lanes = vsraq_n_u64(vaddq_u64(lanes, vandq_u64(other, prime)), other, 31);
    }
    vst1q_u64(stored, lanes);
    return check_sum_end(stored, WIDTH, 2 * (i / STEP), values + i, vector + i, count - i);
}
#endif

// The words of a row's key stream from column at on; NULL where there is none.
BODY const uint32_t *row_words(const struct keystream *stream, const uint32_t *words, int64_t cols,
                               int64_t row, int64_t at, int count, uint32_t *space) {
    const uint64_t blocks = (uint64_t)((cols + BLOCK_WORDS - 1) / BLOCK_WORDS);
    const uint64_t first = (uint64_t)row * blocks + (uint64_t)at / BLOCK_WORDS;
    if (!stream) return words ? words + first * BLOCK_WORDS : NULL;
    keystream_fill(stream, first, (size_t)(count + BLOCK_WORDS - 1) / BLOCK_WORDS, space);
    return space;
}

// The answer without its mask: y - (product - words), each read once.
BODY void unmask(const uint32_t *y, const uint32_t *product, const uint32_t *words, int32_t *codes,
                 int count) {
    if (product && words)
        for (int i = 0; i < count; i++) codes[i] = (int32_t)(y[i] - product[i] + words[i]);
    else if (product)
        for (int i = 0; i < count; i++) codes[i] = (int32_t)(y[i] - product[i]);
    else
        memcpy(codes, y, sizeof *codes * (size_t)count);
    // the other side may change y: from here on the compiler may not take it for what it was
    __asm__ volatile("" ::: "memory");
}

// 1 where the row is not finite; then nothing of it is written.
BODY int encode_row(const struct encode *job, int64_t row, check_function *check_sum) {
    const double norm = row_norm(job, row);
    if (!isfinite(norm)) return 1;
    const int small = norm < SMALLEST_NORM;
    const float factor = small ? 0 : (float)(job->code_norm / norm);
    int64_t *sums = job->sums + row * job->vectors;
    job->step[row] = small ? 0 : (float)(norm / job->code_norm);
    for (int64_t k = 0; k < job->vectors; k++) sums[k] = 0;
    for (int64_t at = 0; at < job->cols; at += CHUNK) {
        float values_space[CHUNK];
        int32_t codes[CHUNK];
        uint32_t words_space[CHUNK];
        const int count = chunk_of(job->cols, at);
        uint32_t *out = job->out + row * job->cols + at;
        const float *values = load_values(job, row, at, count, values_space, 1);
        for (int i = 0; i < count; i++) codes[i] = (int32_t)rintf(values[i] * factor);
        for (int64_t k = 0; k < job->vectors; k++) {
            const int64_t sum = check_sum(codes, job->check + k * job->cols + at, count);
            sums[k] = (sums[k] + sum) % (int64_t)PRIME;
        }
        const uint32_t *words =
            row_words(job->stream, job->words, job->cols, row, at, count, words_space);
        if (words)
            for (int i = 0; i < count; i++) out[i] = (uint32_t)codes[i] + words[i];
        else
            memcpy(out, codes, sizeof *out * (size_t)count);
    }
    return 0;
}

// To bfloat16, to the nearest and of two to the even one.
BODY void round_to_half(const float *values, int count, uint16_t *out) {
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);  // NaN stays one
    }
}

// 1 where an entry is out of range, 2 where a check sum is wrong.
BODY int decode_row(const struct decode *job, int64_t row, check_function *check_sum) {
    const float step = job->step[row];
    int64_t sums[MAX_VECTORS] = {0};
    uint32_t furthest = 0;
    for (int64_t at = 0; at < job->cols; at += CHUNK) {
        int32_t codes[CHUNK];
        uint32_t space[CHUNK];
        float wide[CHUNK];
        const int count = chunk_of(job->cols, at);
        const int64_t place = row * job->cols + at;
        const uint32_t *words =
            row_words(job->stream, job->words, job->cols, row, at, count, space);
        fetch(job->y, 4 * (place + CHUNK), 4 * CHUNK);
        if (job->product) fetch(job->product, 4 * (place + CHUNK), 4 * CHUNK);
        unmask(job->y + place, job->product ? job->product + place : NULL, words, codes, count);
        for (int i = 0; i < count; i++) {
            const uint32_t distance = (uint32_t)codes[i] + (RESULT_LIMIT - 1);  // honest: to 2^31 - 2
            furthest = distance > furthest ? distance : furthest;
        }
        for (int64_t k = 0; k < job->vectors; k++) {
            const int64_t sum = check_sum(codes, job->check + k * job->cols + at, count);
            sums[k] = (sums[k] + sum) % (int64_t)PRIME;
        }
        float *out = job->is_half ? wide : (float *)job->out + place;
        for (int i = 0; i < count; i++) out[i] = (float)codes[i] * step;
        if (job->scale)
            for (int i = 0; i < count; i++) out[i] *= job->scale[at + i];
        if (job->bias)
            for (int i = 0; i < count; i++) out[i] += job->bias[at + i];
        if (job->is_half) round_to_half(wide, count, (uint16_t *)job->out + place);
    }
    int wrong = 0;
    for (int64_t k = 0; k < job->vectors; k++) wrong |= sums[k] != job->sums[row * job->vectors + k];
    return furthest > 2 * (RESULT_LIMIT - 1) ? 1 : wrong ? 2 : 0;
}

// The same functions for each instruction set.
typedef int encode_function(const struct encode *job, int64_t row);
typedef int decode_function(const struct decode *job, int64_t row);
#define ROWS(set, attribute)                                                   \
    attribute static int encode_row_##set(const struct encode *job, int64_t row) { \
        return encode_row(job, row, check_sum_##set);                                           \
    }                                                                          \
    attribute static int decode_row_##set(const struct decode *job, int64_t row) { \
        return decode_row(job, row, check_sum_##set);                                           \
    }

ROWS(plain, )
#if defined(__x86_64__)
ROWS(avx2, AVX2)
ROWS(avx512, AVX512)
#elif defined(__aarch64__)
ROWS(neon, )
#endif

static void choose(encode_function **encode, decode_function **decode) {
    const uint32_t features = sealtune_features();
    *encode = encode_row_plain, *decode = decode_row_plain;
#if defined(__x86_64__)
    if (features & HAS_AVX2) *encode = encode_row_avx2, *decode = decode_row_avx2;
    if (features & HAS_AVX512) *encode = encode_row_avx512, *decode = decode_row_avx512;
#elif defined(__aarch64__)
    if (features & HAS_NEON) *encode = encode_row_neon, *decode = decode_row_neon;
#else
    (void)features;
#endif
}

// 0; 1: a row is not finite; -1: there are no instructions for the key stream.
EXPORT int sealtune_encode_mask(const struct part *parts, int count, int is_half, int64_t rows,
                                int64_t cols, const float *scale, double code_norm,
                                const uint8_t *key, uint64_t index, const uint32_t *words,
                                const uint32_t *check, int64_t vectors, uint32_t *out, float *step,
                                int64_t *sums, int threads) {
    struct keystream stream;
    encode_function *encode;
    decode_function *decode;
    int failed = 0;
    if (vectors > MAX_VECTORS || (key && keystream_init(&stream, key, index))) return -1;
    const struct encode job = {parts, count,   is_half, cols, scale, code_norm, key ? &stream : NULL,
                               words, check,   vectors, out,  step,  sums};
    choose(&encode, &decode);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : failed)
    for (int64_t row = 0; row < rows; row++) failed |= encode(&job, row);
    return failed;
}

// 0; 1: an entry is out of range; 2: a check sum is wrong; 3: both; -1 as above.
EXPORT int sealtune_unmask_decode(const uint32_t *y, const uint32_t *product, int64_t rows,
                                  int64_t cols, const uint8_t *key, uint64_t index,
                                  const uint32_t *words, const float *step, const float *scale,
                                  const float *bias, const uint32_t *check, int64_t vectors,
                                  const int64_t *sums, void *out, int is_half, int threads) {
    struct keystream stream;
    encode_function *encode;
    decode_function *decode;
    int failed = 0;
    if (vectors > MAX_VECTORS || (key && keystream_init(&stream, key, index))) return -1;
    const struct decode job = {y,    product, cols,    key ? &stream : NULL, words, step,   scale,
                               bias, check,   vectors, sums,                 out,   is_half};
    choose(&encode, &decode);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : failed)
    for (int64_t row = 0; row < rows; row++) failed |= decode(&job, row);
    return failed;
}

// The key stream of a matrix, without what is left of each row's last block; -1 as above.
EXPORT int sealtune_mask(const uint8_t *key, uint64_t index, int64_t rows, int64_t cols,
                         uint32_t *out, int threads) {
    const int64_t blocks = (cols + BLOCK_WORDS - 1) / BLOCK_WORDS, whole = cols / BLOCK_WORDS;
    struct keystream stream;
    if (keystream_init(&stream, key, index)) return -1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        uint32_t last[BLOCK_WORDS];
        const uint64_t first = (uint64_t)(row * blocks);
        uint32_t *to = out + row * cols;
        keystream_fill(&stream, first, (size_t)whole, to);
        if (whole == blocks) continue;
        keystream_fill(&stream, first + (uint64_t)whole, 1, last);
        memcpy(to + whole * BLOCK_WORDS, last, sizeof *last * (size_t)(cols % BLOCK_WORDS));
    }
    return 0;
}
