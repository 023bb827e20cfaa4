#include "cpu.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t enabled_state(void) {  // XCR0: which registers the operating system keeps
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static uint32_t processor(void) {
    // bits by Intel's manual, volume 2, CPUID leaves 1 and 7
    const uint32_t fma = 1u << 12, aes = 1u << 25, osxsave = 1u << 27;       // 1, ecx
    const uint32_t avx2 = 1u << 5;                                           // 7.0, ebx
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;       // F, DQ, BW, VL
    const uint32_t vaes = 1u << 9, avx512_vnni = 1u << 11;                   // 7.0, ecx
    const uint32_t amx = 1u << 24 | 1u << 25;                                // 7.0, edx: tile, int8
    const uint32_t avx_vnni = 1u << 4, avx512_bf16 = 1u << 5;                // 7.1, eax
    const uint64_t ymm = 0x6, zmm = 0xe6, tiles = 0x60000;                   // XCR0
    uint32_t a, b, c, d, one;
    uint32_t found = 0;
    if (!__get_cpuid(1, &a, &b, &one, &d) || !(one & osxsave)) return 0;
    const uint64_t state = enabled_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    uint32_t more = 0;
    if (a >= 1) {
        uint32_t b1, c1, d1;
        __get_cpuid_count(7, 1, &more, &b1, &c1, &d1);
    }
    if (one & aes) found |= HAS_AES;
    if ((state & ymm) == ymm && (b & avx2) && (one & fma)) {
        found |= HAS_AVX2;
        if (more & avx_vnni) found |= HAS_AVX_VNNI;
        if (c & vaes) found |= HAS_VAES_256;
    }
    if ((state & zmm) == zmm && (b & avx512) == avx512) {
        found |= HAS_AVX512;
        if (c & vaes) found |= HAS_VAES;
        if (c & avx512_vnni) found |= HAS_AVX512_VNNI;
        if (more & avx512_bf16) found |= HAS_AVX512_BF16;
    }
    if ((state & tiles) == tiles && (d & amx) == amx) found |= HAS_AMX_INT8;
    return found;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static uint32_t processor(void) {
    const unsigned long aes = 1ul << 3, dot = 1ul << 20;  // <asm/hwcap.h>
    const unsigned long has = getauxval(AT_HWCAP);
    return HAS_NEON | (has & aes ? HAS_AES : 0) | (has & dot ? HAS_NEON_DOT : 0);
}
#else
static uint32_t processor(void) { return 0; }
#endif

// Instruction sets by name, from the least to the best: what one needs, and what it adds.
static const struct {
    const char *name;
    uint32_t needs, adds;
} SETS[] = {
    {"plain", 0, 0},
    {"avx2", HAS_AVX2 | HAS_AES, 0},
    {"vaes", HAS_VAES_256, 0},
    {"avxvnni", HAS_AVX_VNNI, 0},
    {"avx512", HAS_AVX512, HAS_AVX512_VNNI | HAS_VAES | HAS_AVX512_BF16},
    {"amx", HAS_AMX_INT8, 0},
    {"neon", HAS_NEON, HAS_AES | HAS_NEON_DOT},
};
enum { COUNT = sizeof SETS / sizeof SETS[0] };

static uint32_t allowed = ~0u;

uint32_t sealtune_features(void) {
    static uint32_t found;
    static int asked;
    if (!__atomic_load_n(&asked, __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&found, processor(), __ATOMIC_RELAXED);
        __atomic_store_n(&asked, 1, __ATOMIC_RELEASE);
    }
    return __atomic_load_n(&found, __ATOMIC_RELAXED) & __atomic_load_n(&allowed, __ATOMIC_RELAXED);
}

// Name of the set with this number; NULL past the last.
EXPORT const char *sealtune_set_name(int number) {
    return number >= 0 && number < COUNT ? SETS[number].name : NULL;
}

// Whether the processor has the set with this number.
EXPORT int sealtune_set_is_there(int number) {
    return number >= 0 && number < COUNT && !(SETS[number].needs & ~processor());
}

// Use the set with this number and lesser ones only.
EXPORT void sealtune_use(int number) {
    uint32_t features = 0;
    for (int i = 0; i <= number && i < COUNT; i++)
        if (sealtune_set_is_there(i)) features |= SETS[i].needs | SETS[i].adds;
    __atomic_store_n(&allowed, features, __ATOMIC_RELAXED);
}

EXPORT uint32_t sealtune_used_features(void) { return sealtune_features(); }

// Digest of the sources that this was built from.
EXPORT const char *sealtune_sources(void) { return SEALTUNE_SOURCES; }
