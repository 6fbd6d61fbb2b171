/* SHA-256 (FIPS 180-4) in plain C: a benchmark, and what checks the output of others. */
#ifndef SPEED_SHA256_H
#define SPEED_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_HEX = 65 };

/* Writes the digest of `size` bytes as 64 hexadecimal digits and a NUL. */
void sha256_hex(const void *data, size_t size, char hex[SHA256_HEX]);

#endif
