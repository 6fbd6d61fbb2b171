#ifndef AEROSTAT_TESTS_TRANSLATE_PROGRAM_GENERATOR_H
#define AEROSTAT_TESTS_TRANSLATE_PROGRAM_GENERATOR_H

/* Inside the generator of random programs: random_program.h. */

#include <Zydis/Zydis.h>

#include "random_program.h"

#define STACK_LOW (ARENA_STACK + 0x400u)

struct generator {
    struct program *p;
    const struct features *features;
    struct random random;
    ZydisDecoder decoder;
    uint32_t at;    /* offset of the next instruction */
    uint16_t known; /* registers whose value is in value[] */
    uint64_t value[16];
    uint32_t undefined; /* status flags */
    bool keeps_stack;   /* in a function: RSP stays */
    unsigned depth, cells;
    bool with_fsgsbase;
};

struct decoded {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

#define F_CF  0x001u
#define F_PF  0x004u
#define F_AF  0x010u
#define F_ZF  0x040u
#define F_SF  0x080u
#define F_OF  0x800u
#define F_ALL (F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF)

struct flag_effect {
    uint32_t reads, writes, leaves; /* leaves: undefined */
};

/* Registers that an instruction needs. */
struct setup {
    uint16_t set; /* registers to be loaded first */
    uint64_t value[16];
};

static inline uint64_t below(struct generator *g, uint64_t limit)
{
    return random_below(&g->random, limit);
}

static inline bool one_in(struct generator *g, unsigned n)
{
    return below(g, n) == 0;
}

/* program_usable.c */
bool generator_may_use(struct generator *g, const struct decoded *d);
/* -1: none of the sixteen. */
int zydis_gpr(ZydisRegister reg);

/* program_flags.c: status flags, by what the manual says. */
void generator_flag_effect(const struct decoded *d, struct flag_effect *e);

/* program_emit.c */
bool generator_decode(struct generator *g, const uint8_t *bytes, size_t length, struct decoded *d);
/* All status flags are defined after this. */
void generator_define_flags(struct generator *g);
/* Whole instructions, and what is known after them. */
void generator_put(struct generator *g, const void *bytes, size_t length, bool is_pinned);
void generator_put_constant(struct generator *g, unsigned reg, uint64_t value);

/* program_memory.c: makes operands hit something. */
bool generator_prepare(struct generator *g, struct setup *s, struct decoded *d, uint8_t *bytes);
void generator_aim_relative(struct generator *g, struct decoded *d, uint8_t *bytes);

/* program_insn.c */
void generator_put_random(struct generator *g);

/* program_shapes.c */
void generator_put_items(struct generator *g, unsigned count);

#endif
