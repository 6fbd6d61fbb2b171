/* Random programs: one instruction, of random bytes. */

#include <string.h>

#include "program_generator.h"

#define ATTEMPTS 200u

static uint8_t random_opcode(struct generator *g)
{
    return (uint8_t)below(g, 256);
}

static size_t random_vex(struct generator *g, uint8_t *b)
{
    size_t n = 0;
    uint8_t vvvv = (uint8_t)(one_in(g, 3) ? 0x78 : below(g, 16) << 3);
    uint8_t last = vvvv | (uint8_t)below(g, 8); /* vvvv, L, pp */
    if (one_in(g, 4)) {
        b[n++] = 0xc5;
        b[n++] = last | (uint8_t)(below(g, 2) << 7);
    } else {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)(below(g, 8) << 5) | (uint8_t)(1 + below(g, 3));
        b[n++] = last | (uint8_t)(below(g, 2) << 7);
    }
    b[n++] = random_opcode(g);
    return n;
}

static size_t random_legacy(struct generator *g, uint8_t *b)
{
    size_t n = 0;
    unsigned map = (unsigned)below(g, 8); /* 0-3: one byte; 4-6: 0F; 7: 0F 38, 0F 3A */
    if (one_in(g, map < 4 ? 24 : 4))
        b[n++] = one_in(g, 2) ? 0xf2 : 0xf3;
    if (one_in(g, 20))
        b[n++] = 0xf0;
    if (one_in(g, map < 4 ? 8 : 3))
        b[n++] = 0x66;
    if (!one_in(g, 3))
        b[n++] = 0x40 | (uint8_t)below(g, 16);
    if (map >= 4)
        b[n++] = 0x0f;
    if (map == 7)
        b[n++] = one_in(g, 4) ? 0x3a : 0x38;
    b[n++] = random_opcode(g);
    return n;
}

static size_t random_bytes(struct generator *g, uint8_t *b)
{
    static const uint8_t segments[] = {0x64, 0x65, 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};
    size_t n = 0;
    if (one_in(g, 12))
        b[n++] = segments[below(g, sizeof(segments))];
    if (one_in(g, 12))
        b[n++] = 0x67;
    n += one_in(g, 4) ? random_vex(g, b + n) : random_legacy(g, b + n);
    b[n++] = one_in(g, 16) ? 0x05 | (uint8_t)(below(g, 8) << 3) : random_opcode(g);
    for (unsigned i = 0; i < 2; i++) { /* SIB, displacement, immediate: noise or corner values */
        uint64_t value = random_value(&g->random);
        if (i == 0 && one_in(g, 2))
            value = random_next(&g->random);
        memcpy(b + n, &value, 8);
        n += 8;
    }
    return n;
}

void generator_put_random(struct generator *g)
{
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        uint8_t bytes[40];
        struct decoded d;
        struct setup s = {0};
        struct flag_effect e;
        size_t length = random_bytes(g, bytes);
        if (!generator_decode(g, bytes, length, &d) || !generator_may_use(g, &d) ||
            !generator_prepare(g, &s, &d, bytes))
            continue;
        for (unsigned reg = 0; reg < 16; reg++) {
            if (s.set & 1u << reg)
                generator_put_constant(g, reg, s.value[reg]);
        }
        generator_flag_effect(&d, &e);
        if (e.reads & g->undefined)
            generator_define_flags(g);
        generator_aim_relative(g, &d, bytes);
        generator_put(g, bytes, d.insn.length, false);
        return;
    }
}
