#ifndef AEROSTAT_TESTS_SUPPORT_LISTING_H
#define AEROSTAT_TESTS_SUPPORT_LISTING_H

#include <stddef.h>
#include <stdint.h>

/* Prints 64-bit code that stands at `address`, up to where it cannot be decoded, as an error. */
void listing_print(const uint8_t *code, size_t length, uint64_t address);

#endif
