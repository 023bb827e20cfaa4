// Runs both passes on numbers that every machine makes alike, and prints what they give: for each
// instruction set that this processor has, a line with its name, a hash of the passes and one of masks,
// which are none without AES. Linked with the library's sources.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 5, MOST = 1025, VECTORS = 2 };

const char *sealtune_set_name(int number);
int sealtune_set_is_there(int number);
void sealtune_use(int number);
struct part {
    const void *x;
    int64_t cols, stride;
};
int sealtune_encode_mask(const struct part *parts, int count, int is_half, int64_t rows,
                         int64_t cols, const float *scale, double code_norm, const uint8_t *key,
                         uint64_t index, const uint32_t *words, const uint32_t *check,
                         int64_t vectors, uint32_t *out, float *step, int64_t *sums, int threads);
int sealtune_unmask_decode(const uint32_t *y, const uint32_t *product, int64_t rows, int64_t cols,
                           const uint8_t *key, uint64_t index, const uint32_t *words,
                           const float *step, const float *scale, const float *bias,
                           const uint32_t *check, int64_t vectors, const int64_t *sums, void *out,
                           int is_half, int threads);
int sealtune_mask(const uint8_t *key, uint64_t index, int64_t rows, int64_t cols, uint32_t *out,
                  int threads);

static uint64_t state, passes, masks;

static uint32_t number(void) {  // xorshift64*
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)((state * 2685821657736338717ull) >> 32);
}

static void take(uint64_t *hash, const void *data, size_t size) {  // FNV-1a
    for (size_t i = 0; i < size; i++) *hash = (*hash ^ ((const uint8_t *)data)[i]) * 1099511628211ull;
}

static float x[ROWS * MOST], scale[MOST], bias[MOST], step[ROWS], decoded[ROWS * MOST];
static uint32_t check[VECTORS * MOST], out[ROWS * MOST], words[ROWS * (MOST + 3)];
static int64_t sums[ROWS * VECTORS];

static void make_inputs(int64_t cols, int is_half) {
    for (int64_t i = 0; i < ROWS * cols; i++) {
        x[i] = (float)(int32_t)number() / (float)(1 + number() % 9999);
        if (is_half) memcpy((char *)x + 2 * i, (char *)&x[i] + 2, 2);
    }
    for (int64_t i = 0; i < cols; i++) {
        scale[i] = (float)(number() % 1000) / 997;
        bias[i] = (float)number();
    }
    for (int64_t i = 0; i < VECTORS * cols; i++) check[i] = number() % 2147483647u;
    for (int64_t i = 0; i < ROWS * (cols + 3); i++) words[i] = number();
}

// Encode, then decode the codes themselves: their check sums are those of the encoding.
static int both_ways(int64_t cols, int is_half) {
    const size_t codes = sizeof *out * (size_t)(ROWS * cols);
    uint8_t key[32];
    for (int i = 0; i < 32; i++) key[i] = (uint8_t)number();
    make_inputs(cols, is_half);
    const struct part part = {x, cols, cols};
    int failed = sealtune_encode_mask(&part, 1, is_half, ROWS, cols, scale, 1e6, NULL, 0, words,
                                      check, VECTORS, out, step, sums, 2);
    take(&passes, out, codes);
    take(&passes, step, sizeof step);
    take(&passes, sums, sizeof sums);
    failed |= sealtune_encode_mask(&part, 1, is_half, ROWS, cols, scale, 1e6, NULL, 0, NULL, check,
                                   VECTORS, out, step, sums, 1);
    failed |= sealtune_unmask_decode(out, NULL, ROWS, cols, NULL, 0, NULL, step, scale, bias, check,
                                     VECTORS, sums, decoded, is_half, 2);
    take(&passes, decoded, is_half ? codes / 2 : codes);
    if (sealtune_mask(key, ~5ull, ROWS, cols, out, 2) == 0) take(&masks, out, codes);
    return failed;
}

int main(void) {
    static const int64_t cols[] = {1, 2, 3, 4, 15, 16, 17, 63, 64, 65, 511, 512, 513, 576, MOST};
    for (int set = 0; sealtune_set_name(set); set++) {
        if (!sealtune_set_is_there(set)) continue;
        int failed = 0;
        sealtune_use(set);
        state = 88172645463325252ull, passes = masks = 14695981039346656037ull;
        for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
            failed |= both_ways(cols[i], 0) | both_ways(cols[i], 1);
        if (failed) return 1;
        printf("%s %016llx %016llx\n", sealtune_set_name(set), (unsigned long long)passes,
               (unsigned long long)masks);
    }
    return 0;
}
