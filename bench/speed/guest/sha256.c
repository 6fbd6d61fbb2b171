/* sha256.h, and the benchmark of it. */
#include "sha256.h"

#include <stdio.h>
#include <string.h>

#include "bench.h"

enum { BLOCK = 64, MESSAGE = 65536 };

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t value, unsigned bits)
{
    return value >> bits | value << (32 - bits);
}

static void block_hash(uint32_t hash[8], const uint8_t *block)
{
    uint32_t w[64];
    for (unsigned t = 0; t < 16; t++) {
        memcpy(&w[t], block + 4 * t, 4);
        w[t] = __builtin_bswap32(w[t]);
    }
    for (unsigned t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3];
    uint32_t e = hash[4], f = hash[5], g = hash[6], h = hash[7];
    for (unsigned t = 0; t < 64; t++) {
        uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        uint32_t first = h + s1 + ((e & f) ^ (~e & g)) + round_constants[t] + w[t];
        uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        uint32_t second = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    const uint32_t sums[8] = {a, b, c, d, e, f, g, h};
    for (unsigned i = 0; i < 8; i++)
        hash[i] += sums[i];
}

void sha256_hex(const void *data, size_t size, char hex[SHA256_HEX])
{
    uint32_t hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *bytes = data;
    size_t whole = size / BLOCK * BLOCK, rest = size - whole;
    for (size_t i = 0; i < whole; i += BLOCK)
        block_hash(hash, bytes + i);

    /* A one bit, zeros, and the length in bits, big-endian, end the last block. */
    uint8_t last[2 * BLOCK] = {0};
    size_t padded = rest + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
    uint64_t bits = __builtin_bswap64((uint64_t)size * 8);
    memcpy(last, bytes + whole, rest);
    last[rest] = 0x80;
    memcpy(last + padded - 8, &bits, 8);
    for (size_t i = 0; i < padded; i += BLOCK)
        block_hash(hash, last + i);

    for (unsigned i = 0; i < 8; i++)
        snprintf(hex + (size_t)8 * i, 9, "%08x", hash[i]);
}

static void *hash_setup(const struct bench_env *env, uint64_t size)
{
    uint8_t *message = buffer_alloc(size);
    for (uint64_t i = 0; message && i < size; i++)
        message[i] = (uint8_t)(i * 7 + (i >> 8));
    return message;
}

static bool hash_run(void *state)
{
    char hex[SHA256_HEX];
    sha256_hex(state, MESSAGE, hex);
    return strcmp(hex, "5fce37f3129150ce7ec3939b54016d9c1fd01364e27b0a788dc634064aec76b1") == 0;
}

static void hash_teardown(void *state)
{
    buffer_free(state, MESSAGE);
}

const struct bench hash_benches[] = {
    {"sha256-c", "byte", MESSAGE, MESSAGE, hash_setup, hash_run, NULL, hash_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
