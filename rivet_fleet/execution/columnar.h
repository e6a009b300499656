/* Arithmetic that the compiled decoders share: byte order, UTF-8, wide decimals.
 *
 * Every function is total: no allocation, no global state but a table that is filled once, under
 * the GIL, when a decoder module is imported. Decimals are four 64-bit limbs, least significant
 * first, unsigned; 76 digits need 253 bits.
 */
#ifndef RIVET_COLUMNAR_H
#define RIVET_COLUMNAR_H

#include <stdint.h>
#include <string.h>

#define RIVET_DIGITS_MAX 76

typedef unsigned __int128 rivet_u128;

static inline uint16_t rivet_be16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return __builtin_bswap16(v);
}

static inline uint32_t rivet_be32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}

static inline uint64_t rivet_be64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}

/* The low 64 bits of a sum: wraps, where C's signed addition would be undefined. */
static inline int64_t rivet_wrapping_add(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

/* A hash of n bytes, eight at a time; the last ones may be read twice. */
static inline uint32_t rivet_hash(const uint8_t *p, int64_t n) {
    const uint64_t factor = 0x9E3779B97F4A7C15ULL;
    uint64_t hash = (uint64_t)n * factor, word = 0;
    uint32_t low, high;
    int64_t i = 0;
    for (; i + 8 < n; i += 8) {
        memcpy(&word, p + i, 8);
        hash = (hash ^ word) * factor;
        hash ^= hash >> 32;
    }
    if (n >= 8) {
        memcpy(&word, p + n - 8, 8);
    } else if (n >= 4) {
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else if (n) {
        word = (uint64_t)p[0] << 16 | (uint64_t)p[n >> 1] << 8 | p[n - 1];
    }
    hash = (hash ^ word) * factor;
    return (uint32_t)(hash >> 32);
}

/* 1 when p[0..n) is well-formed UTF-8 (Unicode, table 3-7): no overlong forms, no surrogates. */
static inline int rivet_is_utf8(const uint8_t *p, int64_t n) {
    int64_t i = 0;
    while (i < n) {
        while (i + 8 <= n) {
            uint64_t word;
            memcpy(&word, p + i, 8);
            if (word & 0x8080808080808080ULL) break;
            i += 8;
        }
        if (i == n) return 1;
        uint8_t a = p[i];
        if (a < 0x80) {
            i += 1;
        } else if (a >= 0xC2 && a <= 0xDF) {
            if (n - i < 2 || (p[i + 1] & 0xC0) != 0x80) return 0;
            i += 2;
        } else if ((a & 0xF0) == 0xE0) {
            if (n - i < 3 || (p[i + 1] & 0xC0) != 0x80 || (p[i + 2] & 0xC0) != 0x80) return 0;
            if (a == 0xE0 && p[i + 1] < 0xA0) return 0;
            if (a == 0xED && p[i + 1] > 0x9F) return 0;
            i += 3;
        } else if (a >= 0xF0 && a <= 0xF4) {
            if (n - i < 4 || (p[i + 1] & 0xC0) != 0x80 || (p[i + 2] & 0xC0) != 0x80 ||
                (p[i + 3] & 0xC0) != 0x80)
                return 0;
            if (a == 0xF0 && p[i + 1] < 0x90) return 0;
            if (a == 0xF4 && p[i + 1] > 0x8F) return 0;
            i += 4;
        } else {
            return 0;
        }
    }
    return 1;
}

static uint64_t rivet_powers[RIVET_DIGITS_MAX + 1][4];
static uint64_t rivet_small_powers[20];

/* number = number * factor + addend; 1 when the result needs more than 256 bits. */
static inline int rivet_wide_muladd(uint64_t number[4], uint64_t factor, uint64_t addend) {
    rivet_u128 carry = addend;
    for (int i = 0; i < 4; i++) {
        carry += (rivet_u128)number[i] * factor;
        number[i] = (uint64_t)carry;
        carry >>= 64;
    }
    return carry != 0;
}

/* 1 when number < 10^digits, for 0 <= digits <= RIVET_DIGITS_MAX. */
static inline int rivet_wide_fits(const uint64_t number[4], int digits) {
    const uint64_t *limit = rivet_powers[digits];
    for (int i = 3; i >= 0; i--) {
        if (number[i] != limit[i]) return number[i] < limit[i];
    }
    return 0;
}

/* Store ±number as a little-endian two's complement of width bytes, 16 or 32. */
static inline void rivet_wide_store(const uint64_t number[4], int negative, int width,
                                    uint8_t *target) {
    uint64_t out[4];
    uint64_t carry = negative ? 1 : 0;
    for (int i = 0; i < 4; i++) {
        uint64_t limb = negative ? ~number[i] : number[i];
        out[i] = limb + carry;
        carry = carry && out[i] == 0;
    }
    memcpy(target, out, (size_t)width);
}

/* The same for a number of one limb. */
static inline void rivet_small_store(uint64_t number, int negative, int width, uint8_t *target) {
    uint64_t out[4];
    int set = negative && number != 0;
    out[0] = set ? (uint64_t)0 - number : number;
    out[1] = out[2] = out[3] = set ? ~(uint64_t)0 : 0;
    memcpy(target, out, (size_t)width);
}

static inline void rivet_fill_powers(void) {
    uint64_t number[4] = {1, 0, 0, 0};
    for (int i = 0; i <= RIVET_DIGITS_MAX; i++) {
        memcpy(rivet_powers[i], number, sizeof number);
        if (i < 20) rivet_small_powers[i] = number[0];
        rivet_wide_muladd(number, 10, 0);
    }
}

#endif
