/* Hashes of column values, a block at a time; what is computed stands in checksums.py.
 *
 * A block is at most 64 values, so that one word holds their validity. Loops over whole numbers
 * have no branch, for the compiler to vectorise. Values below a NULL are hashed too, whatever they
 * are, and replaced afterwards: Arrow demands that their bytes can be read.
 */
#ifndef RIVET_COLUMNSUMS_H
#define RIVET_COLUMNSUMS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define RIVET_BLOCK 64
#define RIVET_NULL_HASH 0xA0761D6478BD642FULL
#define RIVET_LIST_SEED 0x589965CC75374CC3ULL
#define RIVET_NAN 0x7FF8000000000000ULL

typedef unsigned __int128 rivet_product;

static inline uint64_t rivet_mixed(uint64_t x) {
    x = (x + 0x9E3779B97F4A7C15ULL) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ x >> 32) * 0x94D049BB133111EBULL;
    return x ^ x >> 29;
}

/* wyhash, final version 4, seed 0, with its default secret, little-endian reads; but 17 to 48 bytes
 * in one step of reads that overlap: their number of rounds would be guessed wrong every other time.
 */
static inline uint64_t rivet_word(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline uint64_t rivet_half(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static inline uint64_t rivet_folded(uint64_t a, uint64_t b) {
    rivet_product product = (rivet_product)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t rivet_bytes_hash(const uint8_t *p, uint64_t n) {
    const uint64_t s0 = 0x2D358DCCAA6C78A5ULL, s1 = 0x8BB84B93962EACC9ULL;
    const uint64_t s2 = 0x4B33A62ED433D4A3ULL, s3 = 0x4D5A2DA51DE1AA47ULL;
    uint64_t seed = rivet_folded(s0, s1), a, b, left = n;
    if (n <= 16) {
        if (n >= 4) {
            uint64_t in = n >> 3 << 2;
            a = rivet_half(p) << 32 | rivet_half(p + in);
            b = rivet_half(p + n - 4) << 32 | rivet_half(p + n - 4 - in);
        } else if (n) {
            a = (uint64_t)p[0] << 16 | (uint64_t)p[n >> 1] << 8 | p[n - 1];
            b = 0;
        } else {
            a = b = 0;
        }
    } else if (n <= 48) {
        uint64_t in = n < 32 ? n - 16 : 16;
        seed = rivet_folded(rivet_word(p) ^ s1, rivet_word(p + 8) ^ seed) ^
               rivet_folded(rivet_word(p + in) ^ s2, rivet_word(p + in + 8) ^ s3);
        a = rivet_word(p + n - 16);
        b = rivet_word(p + n - 8);
    } else {
        uint64_t second = seed, third = seed;
        do {
            seed = rivet_folded(rivet_word(p) ^ s1, rivet_word(p + 8) ^ seed);
            second = rivet_folded(rivet_word(p + 16) ^ s2, rivet_word(p + 24) ^ second);
            third = rivet_folded(rivet_word(p + 32) ^ s3, rivet_word(p + 40) ^ third);
            p += 48;
            left -= 48;
        } while (left >= 48);
        seed ^= second ^ third;
        for (; left > 16; left -= 16, p += 16)
            seed = rivet_folded(rivet_word(p) ^ s1, rivet_word(p + 8) ^ seed);
        a = rivet_word(p + left - 16);
        b = rivet_word(p + left - 8);
    }
    {
        rivet_product product = (rivet_product)(a ^ s1) * (b ^ seed);
        a = (uint64_t)product;
        b = (uint64_t)(product >> 64);
    }
    return rivet_folded(a ^ s0 ^ n, b ^ s1);
}

enum rivet_storage {
    RIVET_BITS,
    RIVET_WHOLE,    /* width 1, 2, 4 or 8, sign-extended */
    RIVET_UNSIGNED, /* the same, extended by zeros */
    RIVET_FLOAT,    /* width 4 or 8 */
    RIVET_DECIMAL,  /* width 16 or 32 */
    RIVET_FIXED,    /* any width, as bytes */
    RIVET_TEXT,     /* ends of 32 bits */
    RIVET_LONG_TEXT,
    RIVET_LIST,
    RIVET_DICTIONARY /* scratch: the hashes of the dictionary's values */
};

typedef struct rivet_column {
    enum rivet_storage storage;
    int64_t width;
    int64_t offset;
    const uint8_t *validity;
    const uint8_t *data;
    const void *ends;
    struct rivet_column *child;
    uint64_t *scratch;
    int64_t room;
} rivet_column;

static inline uint64_t rivet_float_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return value != value ? RIVET_NAN : bits;
}

/* The shortest of 8, 16 and 32 bytes that holds the number, whatever it is stored in. */
static inline uint64_t rivet_decimal_hash(const uint8_t *p, int64_t width) {
    uint64_t low = rivet_word(p), sign = (uint64_t)((int64_t)low >> 63), next = rivet_word(p + 8);
    int64_t bytes = 8, i;
    if (next != sign) {
        bytes = 16;
        sign = (uint64_t)((int64_t)next >> 63);
    }
    for (i = 16; i < width; i += 8) {
        if (rivet_word(p + i) != sign) bytes = 32;
    }
    return bytes == 8 ? rivet_mixed(low) : rivet_bytes_hash(p, (uint64_t)bytes);
}

/* Bits first to first + n of a bitmap, of which no byte behind the last bit is touched. */
static inline uint64_t rivet_bits(const uint8_t *bitmap, int64_t first, int n) {
    uint8_t held[16] = {0};
    int shift = (int)(first & 7);
    uint64_t bits;
    memcpy(held, bitmap + (first >> 3), (size_t)((shift + n + 7) >> 3));
    memcpy(&bits, held, 8);
    bits >>= shift;
    if (shift) bits |= (uint64_t)held[8] << (64 - shift);
    return n < 64 ? bits & (((uint64_t)1 << n) - 1) : bits;
}

#define RIVET_EACH(TYPE, VALUE)                             \
    {                                                       \
        const TYPE *v = (const TYPE *)column->data + at;    \
        for (i = 0; i < n; i++) out[i] = (VALUE);           \
        break;                                              \
    }

/* Whole numbers and floats: the loops that wide registers make several times as fast. */
static inline __attribute__((always_inline)) void rivet_numbers_body(const rivet_column *column,
                                                                     int64_t at, int n,
                                                                     uint64_t *out) {
    int i;
    switch (column->storage * 16 + (int)column->width) {
        case RIVET_WHOLE * 16 + 1: RIVET_EACH(int8_t, rivet_mixed((uint64_t)(int64_t)v[i]))
        case RIVET_WHOLE * 16 + 2: RIVET_EACH(int16_t, rivet_mixed((uint64_t)(int64_t)v[i]))
        case RIVET_WHOLE * 16 + 4: RIVET_EACH(int32_t, rivet_mixed((uint64_t)(int64_t)v[i]))
        case RIVET_UNSIGNED * 16 + 1: RIVET_EACH(uint8_t, rivet_mixed(v[i]))
        case RIVET_UNSIGNED * 16 + 2: RIVET_EACH(uint16_t, rivet_mixed(v[i]))
        case RIVET_UNSIGNED * 16 + 4: RIVET_EACH(uint32_t, rivet_mixed(v[i]))
        case RIVET_FLOAT * 16 + 4: RIVET_EACH(float, rivet_mixed(rivet_float_bits(v[i])))
        case RIVET_FLOAT * 16 + 8: RIVET_EACH(double, rivet_mixed(rivet_float_bits(v[i])))
        default: RIVET_EACH(uint64_t, rivet_mixed(v[i]))
    }
}

static void rivet_numbers_plain(const rivet_column *column, int64_t at, int n, uint64_t *out) {
    rivet_numbers_body(column, at, n, out);
}

static void (*rivet_numbers)(const rivet_column *, int64_t, int, uint64_t *) = rivet_numbers_plain;

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void rivet_numbers_avx2(const rivet_column *column,
                                                               int64_t at, int n, uint64_t *out) {
    rivet_numbers_body(column, at, n, out);
}

__attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl"))) static void
rivet_numbers_avx512(const rivet_column *column, int64_t at, int n, uint64_t *out) {
    rivet_numbers_body(column, at, n, out);
}
#endif

/* The widest registers that this processor has: 0, 2 or 5 (AVX2, AVX-512); at most `most`. */
static int rivet_choose(int most) {
    rivet_numbers = rivet_numbers_plain;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (most >= 5 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        rivet_numbers = rivet_numbers_avx512;
        return 5;
    }
    if (most >= 2 && __builtin_cpu_supports("avx2")) {
        rivet_numbers = rivet_numbers_avx2;
        return 2;
    }
#endif
    (void)most;
    return 0;
}

static int rivet_hashes(rivet_column *column, int64_t first, int64_t n, uint64_t *out);

static int rivet_lists(rivet_column *column, int64_t at, int n, uint64_t *out) {
    const int32_t *ends = (const int32_t *)column->ends + at;
    int64_t count = (int64_t)ends[n] - ends[0], each;
    const uint64_t *hashes;
    int i;
    if (count > column->room) {
        void *grown = realloc(column->scratch, (size_t)count * 8);
        if (!grown) return -1;
        column->scratch = (uint64_t *)grown;
        column->room = count;
    }
    if (count && rivet_hashes(column->child, ends[0], count, column->scratch)) return -1;
    hashes = column->scratch;
    for (i = 0; i < n; i++) {
        int64_t elements = (int64_t)ends[i + 1] - ends[i];
        uint64_t hash = rivet_mixed(RIVET_LIST_SEED + (uint64_t)elements);
        for (each = 0; each < elements; each++) hash = rivet_mixed(hash ^ *hashes++);
        out[i] = hash;
    }
    return 0;
}

/* A block's hashes as if nothing were NULL. -1 without memory. */
static int rivet_block(rivet_column *column, int64_t first, int n, uint64_t *out) {
    int64_t at = column->offset + first;
    const uint8_t *p;
    int i;
    switch (column->storage) {
        case RIVET_BITS: {
            uint64_t bits = rivet_bits(column->data, at, n);
            for (i = 0; i < n; i++) out[i] = rivet_mixed(bits >> i & 1);
            return 0;
        }
        case RIVET_WHOLE:
        case RIVET_UNSIGNED:
        case RIVET_FLOAT:
            rivet_numbers(column, at, n, out);
            return 0;
        case RIVET_DECIMAL:
            p = column->data + at * column->width;
            for (i = 0; i < n; i++) out[i] = rivet_decimal_hash(p + i * column->width, column->width);
            return 0;
        case RIVET_FIXED:
            p = column->data + at * column->width;
            for (i = 0; i < n; i++)
                out[i] = rivet_bytes_hash(p + i * column->width, (uint64_t)column->width);
            return 0;
        case RIVET_TEXT: {
            const int32_t *ends = (const int32_t *)column->ends + at;
            for (i = 0; i < n; i++)
                out[i] = rivet_bytes_hash(column->data + ends[i], (uint64_t)(ends[i + 1] - ends[i]));
            return 0;
        }
        case RIVET_LONG_TEXT: {
            const int64_t *ends = (const int64_t *)column->ends + at;
            for (i = 0; i < n; i++)
                out[i] = rivet_bytes_hash(column->data + ends[i], (uint64_t)(ends[i + 1] - ends[i]));
            return 0;
        }
        case RIVET_LIST:
            return rivet_lists(column, at, n, out);
        case RIVET_DICTIONARY: {
            const int32_t *places = (const int32_t *)column->data + at;
            for (i = 0; i < n; i++) {
                /* Below a NULL any number may stand. */
                uint32_t place = (uint32_t)places[i];
                out[i] = column->scratch[place < (uint64_t)column->room ? place : 0];
            }
            return 0;
        }
    }
    return 0;
}

static inline int rivet_whole_block(rivet_column *column, int64_t first, int n, uint64_t *out) {
    uint64_t there;
    int i;
    if (rivet_block(column, first, n, out)) return -1;
    if (!column->validity) return 0;
    there = rivet_bits(column->validity, column->offset + first, n);
    if (n == 64 ? !~there : there + 1 == (uint64_t)1 << n) return 0;
    for (i = 0; i < n; i++) {
        uint64_t keep = (uint64_t)0 - (there >> i & 1);
        out[i] = (out[i] & keep) | (RIVET_NULL_HASH & ~keep);
    }
    return 0;
}

/* The hash of each of n values. -1 without memory. */
static int rivet_hashes(rivet_column *column, int64_t first, int64_t n, uint64_t *out) {
    int64_t i;
    for (i = 0; i < n; i += RIVET_BLOCK) {
        int size = n - i < RIVET_BLOCK ? (int)(n - i) : RIVET_BLOCK;
        if (rivet_whole_block(column, first + i, size, out + i)) return -1;
    }
    return 0;
}

/* Adds the hashes of n values to *sum. -1 without memory. */
static int rivet_sum(rivet_column *column, int64_t n, uint64_t *sum) {
    uint64_t block[RIVET_BLOCK];
    int64_t i;
    int j;
    for (i = 0; i < n; i += RIVET_BLOCK) {
        int size = n - i < RIVET_BLOCK ? (int)(n - i) : RIVET_BLOCK;
        if (rivet_whole_block(column, i, size, block)) return -1;
        for (j = 0; j < size; j++) *sum += block[j];
    }
    return 0;
}

#endif
