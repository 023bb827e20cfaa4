// AES-256-CTR as words. Counter block: index, then block, 8 bytes each, big-endian.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { KEY_BYTES = 32, BLOCK_BYTES = 16, BLOCK_WORDS = 4, ROUNDS = 14 };

struct keystream {
    _Alignas(16) uint8_t round_keys[ROUNDS + 1][BLOCK_BYTES];
    uint64_t index;
    void (*fill)(const struct keystream *, uint64_t block, size_t blocks, uint32_t *words);
};

// Ready a key stream; -1 where the processor has no instructions for AES.
int keystream_init(struct keystream *stream, const uint8_t key[KEY_BYTES], uint64_t index);

// Write BLOCK_WORDS * blocks words, from this block on.
static inline void keystream_fill(const struct keystream *stream, uint64_t block, size_t blocks,
                                  uint32_t *words) {
    stream->fill(stream, block, blocks, words);
}
