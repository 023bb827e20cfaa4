// AES by the processor's own instructions, in constant time; where it has none, the key stream
// comes from another library. Source: FIPS 197, sections 5.1 and 5.2.
#include "keystream.h"

#include <string.h>

#include "cpu.h"

#if defined(__x86_64__) || defined(__aarch64__)
// SubWord of FIPS 197.
static void sub_word(const uint8_t in[4], uint8_t out[4]);

static void expand(const uint8_t key[KEY_BYTES], uint8_t out[ROUNDS + 1][BLOCK_BYTES]) {
    uint8_t *words = &out[0][0];
    uint8_t round_constant = 1;
    memcpy(words, key, KEY_BYTES);
    for (int i = KEY_BYTES / 4; i < 4 * (ROUNDS + 1); i++) {
        uint8_t last[4], turned[4];
        memcpy(last, words + 4 * (i - 1), 4);
        if (i % 8 == 0) {
            for (int j = 0; j < 4; j++) turned[j] = last[(j + 1) % 4];
            sub_word(turned, last);
            last[0] ^= round_constant;
            round_constant = (uint8_t)(round_constant << 1);
        } else if (i % 8 == 4) {
            memcpy(turned, last, 4);
            sub_word(turned, last);
        }
        for (int j = 0; j < 4; j++) words[4 * i + j] = words[4 * (i - 8) + j] ^ last[j];
    }
}
#endif

#if defined(__x86_64__)
#include <immintrin.h>

#define AESNI __attribute__((target("aes,ssse3,sse4.1")))
#define VAES __attribute__((target("aes,vaes,avx512f,avx512bw,avx512vl")))
#define VAES_256 __attribute__((target("aes,vaes,avx2")))
enum { AT_ONCE = 8 };  // blocks in flight: an AES instruction takes several cycles

AESNI static void sub_word(const uint8_t in[4], uint8_t out[4]) {
    int32_t word;
    memcpy(&word, in, 4);
    // word 0 of the result is SubWord of word 1 of the argument
    word = _mm_cvtsi128_si32(_mm_aeskeygenassist_si128(_mm_set1_epi32(word), 0));
    memcpy(out, &word, 4);
}

AESNI static void fill_aesni(const struct keystream *stream, uint64_t block, size_t blocks,
                             uint32_t *words) {
    const __m128i *keys = (const __m128i *)stream->round_keys;
    const long long index = (long long)__builtin_bswap64(stream->index);
    for (size_t done = 0; done < blocks; done += AT_ONCE) {
        const size_t count = blocks - done < AT_ONCE ? blocks - done : AT_ONCE;
        __m128i state[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) {
            const uint64_t number = __builtin_bswap64(block + done + (unsigned)i);
            state[i] = _mm_xor_si128(_mm_set_epi64x((long long)number, index), keys[0]);
        }
        for (int round = 1; round < ROUNDS; round++)
            for (int i = 0; i < AT_ONCE; i++) state[i] = _mm_aesenc_si128(state[i], keys[round]);
        for (int i = 0; i < AT_ONCE; i++) state[i] = _mm_aesenclast_si128(state[i], keys[ROUNDS]);
        memcpy(words + BLOCK_WORDS * done, state, BLOCK_BYTES * count);
    }
}

// The same with wider registers: WIDE of them in flight, EACH blocks in one.
VAES_256 static void fill_vaes_256(const struct keystream *stream, uint64_t block, size_t blocks,
                                   uint32_t *words) {
    enum { WIDE = 8, EACH = 2 };
    const __m128i *keys = (const __m128i *)stream->round_keys;
    const __m256i swap = _mm256_broadcastsi128_si256(
        _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    const long long index = (long long)stream->index;
    for (size_t done = 0; done < blocks; done += WIDE * EACH) {
        __m256i state[WIDE];
        __m256i key = _mm256_broadcastsi128_si256(keys[0]);
        for (int i = 0; i < WIDE; i++) {
            const long long at = (long long)(block + done + (unsigned)(EACH * i));
            const __m256i counter = _mm256_set_epi64x(at + 1, index, at, index);
            state[i] = _mm256_xor_si256(_mm256_shuffle_epi8(counter, swap), key);
        }
        for (int round = 1; round < ROUNDS; round++) {
            key = _mm256_broadcastsi128_si256(keys[round]);
            for (int i = 0; i < WIDE; i++) state[i] = _mm256_aesenc_epi128(state[i], key);
        }
        key = _mm256_broadcastsi128_si256(keys[ROUNDS]);
        for (int i = 0; i < WIDE; i++) state[i] = _mm256_aesenclast_epi128(state[i], key);
        const size_t left = blocks - done;
        const size_t count = left < WIDE * EACH ? left : WIDE * EACH;
        memcpy(words + BLOCK_WORDS * done, state, BLOCK_BYTES * count);
    }
}

VAES static void fill_vaes_512(const struct keystream *stream, uint64_t block, size_t blocks,
                           uint32_t *words) {
    enum { WIDE = 4, EACH = 4 };
    __m512i keys[ROUNDS + 1];
    for (int i = 0; i <= ROUNDS; i++)
        keys[i] = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)stream->round_keys[i]));
    const __m512i swap = _mm512_broadcast_i32x4(
        _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    const long long index = (long long)stream->index;
    for (size_t done = 0; done < blocks; done += WIDE * EACH) {
        __m512i state[WIDE];
        for (int i = 0; i < WIDE; i++) {
            const long long at = (long long)(block + done + (unsigned)(EACH * i));
            const __m512i counter =
                _mm512_set_epi64(at + 3, index, at + 2, index, at + 1, index, at, index);
            state[i] = _mm512_xor_si512(_mm512_shuffle_epi8(counter, swap), keys[0]);
        }
        for (int round = 1; round < ROUNDS; round++)
            for (int i = 0; i < WIDE; i++) state[i] = _mm512_aesenc_epi128(state[i], keys[round]);
        for (int i = 0; i < WIDE; i++) state[i] = _mm512_aesenclast_epi128(state[i], keys[ROUNDS]);
        const size_t left = blocks - done;
        if (left >= WIDE * EACH)
            for (int i = 0; i < WIDE; i++)
                _mm512_storeu_si512(words + BLOCK_WORDS * (done + (size_t)(EACH * i)), state[i]);
        else
            memcpy(words + BLOCK_WORDS * done, state, BLOCK_BYTES * left);
    }
}

int keystream_init(struct keystream *stream, const uint8_t key[KEY_BYTES], uint64_t index) {
    const uint32_t features = sealtune_features();
    if (!(features & HAS_AES)) return -1;
    expand(key, stream->round_keys);
    stream->index = index;
    stream->fill = features & HAS_VAES       ? fill_vaes_512
                   : features & HAS_VAES_256 ? fill_vaes_256
                                             : fill_aesni;
    return 0;
}

#elif defined(__aarch64__)
#include <arm_neon.h>

#define CRYPTO __attribute__((target("+crypto")))
enum { AT_ONCE = 8 };

CRYPTO static void sub_word(const uint8_t in[4], uint8_t out[4]) {
    uint32_t word;
    memcpy(&word, in, 4);
    // four equal columns: ShiftRows changes nothing, and a key of zeros leaves SubBytes
    const uint8x16_t column = vreinterpretq_u8_u32(vdupq_n_u32(word));
    word = vgetq_lane_u32(vreinterpretq_u32_u8(vaeseq_u8(column, vdupq_n_u8(0))), 0);
    memcpy(out, &word, 4);
}

CRYPTO static void fill_arm(const struct keystream *stream, uint64_t block, size_t blocks,
                            uint32_t *words) {
    uint8x16_t keys[ROUNDS + 1];
    for (int i = 0; i <= ROUNDS; i++) keys[i] = vld1q_u8(stream->round_keys[i]);
    const uint64_t index = __builtin_bswap64(stream->index);
    for (size_t done = 0; done < blocks; done += AT_ONCE) {
        const size_t count = blocks - done < AT_ONCE ? blocks - done : AT_ONCE;
        uint8x16_t state[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) {
            const uint64_t number = __builtin_bswap64(block + done + (unsigned)i);
            state[i] = vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(index), vcreate_u64(number)));
        }
        for (int round = 0; round < ROUNDS - 1; round++)
            for (int i = 0; i < AT_ONCE; i++)
                state[i] = vaesmcq_u8(vaeseq_u8(state[i], keys[round]));
        for (int i = 0; i < AT_ONCE; i++)
            state[i] = veorq_u8(vaeseq_u8(state[i], keys[ROUNDS - 1]), keys[ROUNDS]);
        memcpy(words + BLOCK_WORDS * done, state, BLOCK_BYTES * count);
    }
}

int keystream_init(struct keystream *stream, const uint8_t key[KEY_BYTES], uint64_t index) {
    if (!(sealtune_features() & HAS_AES)) return -1;
    expand(key, stream->round_keys);
    stream->index = index;
    stream->fill = fill_arm;
    return 0;
}

#else
int keystream_init(struct keystream *stream, const uint8_t key[KEY_BYTES], uint64_t index) {
    (void)stream, (void)key, (void)index;
    return -1;
}
#endif
