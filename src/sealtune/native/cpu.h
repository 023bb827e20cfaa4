// Which instructions the processor has, and which of them may be used.
#pragma once
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

enum feature {
    HAS_AES = 1 << 0,       // AES-NI, or ARMv8's AES
    HAS_AVX2 = 1 << 1,      // with FMA
    HAS_AVX_VNNI = 1 << 2,
    HAS_AVX512 = 1 << 3,    // F, BW, DQ, VL
    HAS_AVX512_VNNI = 1 << 4,
    HAS_VAES = 1 << 5,      // on 512 bits
    HAS_AMX_INT8 = 1 << 6,  // the kernel has to be asked for it besides
    HAS_AVX512_BF16 = 1 << 7,
    HAS_NEON = 1 << 8,
    HAS_NEON_DOT = 1 << 9,
    HAS_VAES_256 = 1 << 10,  // on 256 bits, as without AVX-512
};

// What may be used: what the processor has, or less after sealtune_use.
uint32_t sealtune_features(void);
