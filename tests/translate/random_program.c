#include "random_program.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "program_generator.h"

/* Numbers that arithmetic has fun with, among noise. */
static void fill(struct random *random, void *to, size_t size)
{
    uint8_t *at = to;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t value = random_next(random);
        double d = (double)(int64_t)(value >> 44) / 16.0;
        float f[2] = {(float)d, (float)(int8_t)value};
        if (value & 1)
            memcpy(&value, value & 2 ? (void *)&d : (void *)f, 8);
        memcpy(at + i, &value, 8);
    }
}

static uint64_t random_segment_base(struct generator *g)
{
    switch (below(g, 4)) {
    case 0:
        return 0;
    case 1:
        return ARENA_DATA + below(g, 0x1000);
    case 2:
        return ARENA_FAR + below(g, ARENA_FAR_SIZE);
    default:
        return below(g, 1ull << 31);
    }
}

static void make_start(struct generator *g)
{
    struct machine_state *start = &g->p->start;
    *start = (struct machine_state){.rip = ARENA_CODE + g->at};
    for (unsigned i = 0; i < 16; i++)
        start->gpr[i] = random_value(&g->random);
    start->gpr[GPR_RSP] = STACK_LOW + 0x200;
    start->rflags = FLAG_FIXED | FLAG_IF | (random_next(&g->random) & F_ALL);
    start->fs_base = random_segment_base(g);
    start->gs_base = random_segment_base(g);
    struct xstate_image *x = &start->xstate;
    x->fcw = 0x37f;
    x->mxcsr = 0x1f80;
    x->mxcsr_mask = 0xffff;
    if (one_in(g, 8))
        return; /* all registers in their initial state */
    x->xstate_bv = XSTATE_SSE;
    fill(&g->random, x->xmm, sizeof(x->xmm));
    if (features_has(g->features, FEATURE_AVX) && !one_in(g, 4)) {
        x->xstate_bv |= XSTATE_AVX;
        fill(&g->random, x->ymm_high, sizeof(x->ymm_high));
    }
}

void program_make(struct program *program, uint64_t seed, const struct features *features,
                  bool with_fsgsbase)
{
    struct generator g = {.p = program, .features = features, .with_fsgsbase = with_fsgsbase};
    g.random.state = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
    random_next(&g.random);
    ZydisDecoderInit(&g.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    memset(program->code, 0xcc, sizeof(program->code));
    memset(program->undefined, 0xff, sizeof(program->undefined));
    program->piece_count = 0;
    fill(&g.random, program->memory.data, sizeof(program->memory.data));
    fill(&g.random, program->memory.stack, sizeof(program->memory.stack));
    memset(program->memory.control, 0, sizeof(program->memory.control));
    uint32_t fuel = 1 + (uint32_t)below(&g, 24);
    memcpy(program->memory.control, &fuel, sizeof(fuel));
    g.at = (uint32_t)(one_in(&g, 3) ? 0xf00 + below(&g, 0xe0) : below(&g, 0x800));
    make_start(&g);
    generator_put_items(&g, 4 + (unsigned)below(&g, one_in(&g, 4) ? 60 : 16));
    generator_put(&g, "\xcc", 1, true);
}

uint64_t program_undefined_flags(const struct program *program, uint64_t rip)
{
    uint64_t offset = rip - ARENA_CODE;
    if (offset >= ARENA_CODE_SIZE)
        return F_ALL;
    /* INT3 is a trap: RIP is behind it. Padding has 0xffff: all. */
    if (program->undefined[offset] == UINT16_MAX && offset > 0 && program->code[offset - 1] == 0xcc)
        offset--;
    return program->undefined[offset] & F_ALL;
}

void program_print(const struct program *program)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned i = 0; i < program->piece_count; i++) {
        const struct program_piece *piece = &program->pieces[i];
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        char text[128] = "?", hex[48];
        const uint8_t *bytes = program->code + piece->at;
        size_t length = 0;
        for (unsigned b = 0; b < piece->length; b++)
            length += (size_t)snprintf(hex + length, sizeof(hex) - length, "%02x", bytes[b]);
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, piece->length, &insn, operands)))
            ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                            text, sizeof(text), ARENA_CODE + piece->at, NULL);
        if (insn.mnemonic != ZYDIS_MNEMONIC_NOP || piece->length == 1 || bytes[0] != 0x90)
            print_error("%x  %-32s %s\n", ARENA_CODE + piece->at, hex, text);
    }
}
