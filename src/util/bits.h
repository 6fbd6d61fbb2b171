#ifndef AEROSTAT_UTIL_BITS_H
#define AEROSTAT_UTIL_BITS_H

/* Small arithmetic that everybody needs. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE_SIZE  ((uint64_t)1 << PAGE_SHIFT)
#define PAGE_MASK  (PAGE_SIZE - 1)

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* The structure that `member` (a pointer) is a member of. */
#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Bit `n` alone. n < 64. */
static inline uint64_t bit(unsigned n)
{
    return (uint64_t)1 << n;
}

/* Bits high..low of value, shifted down. 63 >= high >= low. */
static inline uint64_t bits_extract(uint64_t value, unsigned high, unsigned low)
{
    return (value >> low) & (~(uint64_t)0 >> (63 - (high - low)));
}

/* The low `size` bytes of value. size is 1, 2, 4 or 8. */
static inline uint64_t bits_truncate(uint64_t value, unsigned size)
{
    return value & (~(uint64_t)0 >> (64 - 8 * size));
}

/* The low `size` bytes of value, sign-extended to 64 bits. size is 1, 2, 4 or 8. */
static inline uint64_t bits_sign_extend(uint64_t value, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return (uint64_t)((int64_t)(value << shift) >> shift);
}

static inline uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* alignment is a power of two. align_up wraps to 0 when the result does not fit. */
static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

/* Fibonacci hashing: `bits` bits, 1 to 32, of a number that may be one of a few near each other. */
static inline uint32_t hash_to_bits(uint64_t key, unsigned bits)
{
    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> (64 - bits));
}

/* True when [base, base + length) neither wraps nor leaves [0, limit). */
static inline bool range_fits(uint64_t base, uint64_t length, uint64_t limit)
{
    return base <= limit && length <= limit - base;
}

#endif
