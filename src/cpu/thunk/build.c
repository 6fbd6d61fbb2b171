/*
 * From a canonical instruction to host code.
 *
 * The code is a C function of one argument, the frame in RDI:
 *
 *     load RSI, vector and general registers of the slots, MXCSR, flags from the frame
 *     the instruction
 *     store flags, MXCSR, vector and general registers it writes
 *     ret
 * out:                     (the signal handler comes here when the instruction faults)
 *     restore the host's MXCSR and x87 state
 *     ret
 *
 * x87 and MMX instructions have FXRSTOR64 and FXSAVE64 of the whole legacy image in place of single
 * loads and stores. Only RAX, RCX, RDX, RSI, RDI, R8-R11 are touched: all belong to the caller.
 * Legacy SSE code neither reads nor writes the high halves of YMM registers; VEX code loads them
 * where it works on 256 bits, and always writes them (a 128-bit result zeroes them by itself).
 */

#include "cpu/thunk/thunk_internal.h"

#include <string.h>

/* ---- What it needs ---- */

static bool describe_register(const ZydisDecodedOperand *op, enum thunk_unit unit,
                              struct thunk *thunk)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(op->reg.value);
    bool writes = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    struct operand named;
    if (!thunk_operand_register(op, &named)) {
        if (class == ZYDIS_REGCLASS_FLAGS)
            return true;                 /* see describe_flags */
        return thunk_unit_is_full(unit); /* ST(i), MMX, x87 status: in the image */
    }
    bool is_vector = named.kind == OPERAND_VECTOR;
    if (op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
        if (is_vector && thunk_unit_is_full(unit))
            return true;
        unsigned first = is_vector ? CANONICAL_VECTOR : CANONICAL_GPR;
        unsigned slot = named.reg - first;
        if (named.reg < first || slot >= (is_vector ? (unsigned)SLOT_COUNT : THUNK_RAX))
            return false;
        uint8_t mask = (uint8_t)(1u << slot);
        if (is_vector) {
            thunk->vectors |= mask;
            thunk->vectors_out |= writes ? mask : 0;
            thunk->flags |= class == ZYDIS_REGCLASS_YMM ? THUNK_YMM : 0;
        } else {
            thunk->gprs |= mask;
            thunk->gprs_out |= writes ? mask : 0;
        }
        return true;
    }
    if (is_vector) {
        if (named.reg != 0 || thunk_unit_is_full(unit) || class != ZYDIS_REGCLASS_XMM)
            return false;
        thunk->vectors |= 1u << VECTOR_IMPLICIT;
        thunk->vectors_out |= writes ? 1u << VECTOR_IMPLICIT : 0;
        return true;
    }
    if (named.reg > GPR_RDX || named.kind != OPERAND_GPR)
        return false;
    uint8_t mask = (uint8_t)(1u << (THUNK_RAX + named.reg));
    thunk->gprs |= mask;
    thunk->gprs_out |= writes ? mask : 0;
    return true;
}

static void describe_flags(const ZydisDecodedInstruction *decoded, struct thunk *thunk)
{
    if (decoded->cpu_flags == NULL)
        return;
    const ZydisAccessedFlags *f = decoded->cpu_flags;
    uint32_t written = (f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_STATUS;
    if (written != 0)
        thunk->flags |= THUNK_WRITES_FLAGS;
    /* Flags that are kept, or may be (undefined ones), must be there first. */
    uint32_t defined = (f->modified | f->set_0 | f->set_1) & FLAGS_STATUS;
    if ((f->tested & FLAGS_STATUS) != 0 || (written != 0 && defined != FLAGS_STATUS))
        thunk->flags |= THUNK_READS_FLAGS;
}

/* Legacy SSE checks the alignment of 16-byte operands but for a few instructions, VEX that of
 * aligned moves only (SDM vol. 2 2.4). AMD's CPUs do not check it for the SHA instructions. */
static uint8_t alignment_mask(const struct features *features,
                              const ZydisDecodedInstruction *decoded, enum thunk_unit unit,
                              unsigned size)
{
    if (size < 16)
        return 0;
    if (unit == THUNK_UNIT_AVX)
        return decoded->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? (uint8_t)(size - 1)
                                                                           : 0;
    if (features->amd && decoded->meta.isa_set == ZYDIS_ISA_SET_SHA)
        return 0;
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 0;
    default:
        return 15;
    }
}

/* Where Zydis names no exception class, which it leaves out for some conversions, better once too
 * often. */
static bool uses_mxcsr(const ZydisDecodedInstruction *decoded, enum thunk_unit unit)
{
    if (unit != THUNK_UNIT_SSE && unit != THUNK_UNIT_AVX)
        return false;
    switch (decoded->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_NONE:
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        return true;
    default:
        return false;
    }
}

bool thunk_describe(const ZydisDecoder *decoder, const struct features *features,
                    const struct thunk_key *key, enum thunk_unit unit, struct thunk *thunk)
{
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeFull(decoder, key->bytes, sizeof(key->bytes), &decoded, operands)))
        return false;
    memset(thunk, 0, sizeof(*thunk));
    thunk->unit = (uint8_t)unit;
    thunk->length = decoded.length;
    for (unsigned i = 0; i < decoded.operand_count; i++) {
        const ZydisDecodedOperand *op = &operands[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (op->mem.base != ZYDIS_REGISTER_RSI || op->mem.index != ZYDIS_REGISTER_NONE ||
                op->size < 8 || op->size > 256)
                return false;
            thunk->memory_size = (uint8_t)(op->size / 8);
            thunk->alignment_mask = alignment_mask(features, &decoded, unit, thunk->memory_size);
            thunk->flags |= op->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? THUNK_LOADS : 0;
            thunk->flags |= op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? THUNK_STORES : 0;
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !describe_register(op, unit, thunk)) {
            return false;
        }
    }
    describe_flags(&decoded, thunk);
    if (uses_mxcsr(&decoded, unit))
        thunk->flags |= THUNK_USES_MXCSR;
    if (thunk_unit_is_full(unit))
        thunk->components = XSTATE_X87 | (unit == THUNK_UNIT_MMX_SSE ? XSTATE_SSE : 0);
    else if (unit == THUNK_UNIT_SSE)
        thunk->components = XSTATE_SSE;
    else if (unit == THUNK_UNIT_AVX)
        thunk->components = XSTATE_SSE | XSTATE_AVX;
    return true;
}

/* ---- Its code ---- */

struct emitter {
    uint8_t *at;
};

static void emit(struct emitter *e, const uint8_t *bytes, size_t count)
{
    memcpy(e->at, bytes, count);
    e->at += count;
}

/* Instruction bytes given as a list. */
#define EMIT(e, ...) emit(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

#define FRAME(member) ((uint8_t)offsetof(struct thunk_frame, member))
_Static_assert(offsetof(struct thunk_frame, out) < 128, "code uses one-byte displacements");

enum { REG_RSI = 6, REG_R11 = 11 };

/* mov reg, [rdi + offset] and back */
static void emit_load(struct emitter *e, unsigned reg, unsigned offset)
{
    EMIT(e, (uint8_t)(0x48 | (reg >> 3) << 2), 0x8b, (uint8_t)(0x47 | (reg & 7) << 3),
         (uint8_t)offset);
}

static void emit_store(struct emitter *e, unsigned reg, unsigned offset)
{
    EMIT(e, (uint8_t)(0x48 | (reg >> 3) << 2), 0x89, (uint8_t)(0x47 | (reg & 7) << 3),
         (uint8_t)offset);
}

static unsigned vector_register(unsigned slot)
{
    return slot == VECTOR_IMPLICIT ? 0 : CANONICAL_VECTOR + slot;
}

static unsigned gpr_register(unsigned index)
{
    return index < THUNK_RAX ? CANONICAL_GPR + index : index - THUNK_RAX;
}

/* Between XMMn or YMMn and the register's place in the image. 0x10 loads, 0x11 stores. */
static void emit_vector(struct emitter *e, const struct thunk *thunk, unsigned slot, bool store)
{
    unsigned reg = vector_register(slot);
    uint8_t modrm = (uint8_t)(reg << 3 | (REG_R11 & 7));
    emit_load(e, REG_R11, (unsigned)offsetof(struct thunk_frame, vector) + 8 * slot);
    if (thunk->unit == THUNK_UNIT_SSE) {
        EMIT(e, 0x41, 0x0f, store ? 0x11 : 0x10, modrm); /* movups */
        return;
    }
    EMIT(e, 0xc4, 0xc1, 0x78, store ? 0x11 : 0x10, modrm); /* vmovups xmm */
    uint8_t high[4];
    const uint32_t offset = XSTATE_YMM_HIGH_OFFSET;
    memcpy(high, &offset, sizeof(high));
    if (store)
        EMIT(e, 0xc4, 0xc3, 0x7d, 0x19, 0x80 | modrm, high[0], high[1], high[2], high[3],
             1); /* vextractf128 [r11 + offset], ymm, 1 */
    else if (thunk->flags & THUNK_YMM)
        EMIT(e, 0xc4, 0xc3, (uint8_t)((~reg & 15) << 3 | 5), 0x18, 0x80 | modrm, high[0], high[1],
             high[2], high[3], 1); /* vinsertf128 ymm, ymm, [r11 + offset], 1 */
}

static void emit_stmxcsr(struct emitter *e, uint8_t offset)
{
    EMIT(e, 0x0f, 0xae, 0x5f, offset);
}

static void emit_ldmxcsr(struct emitter *e, uint8_t offset)
{
    EMIT(e, 0x0f, 0xae, 0x57, offset);
}

static void emit_return(struct emitter *e, const struct thunk *thunk)
{
    if (thunk->flags & THUNK_YMM)
        EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper: SSE code of the caller is slow otherwise */
    EMIT(e, 0xc3);
}

size_t thunk_emit(const struct thunk_key *key, struct thunk *thunk, uint8_t *write,
                  const uint8_t *execute)
{
    struct emitter code = {write}, *e = &code;
    bool full = thunk_unit_is_full((enum thunk_unit)thunk->unit);
    bool mxcsr = full || (thunk->flags & THUNK_USES_MXCSR);

    if (thunk->memory_size != 0)
        emit_load(e, REG_RSI, FRAME(memory));
    for (unsigned s = 0; s < VECTOR_COUNT; s++)
        if (thunk->vectors >> s & 1)
            emit_vector(e, thunk, s, false);
    for (unsigned g = 0; g < THUNK_GPR_COUNT; g++)
        if (thunk->gprs >> g & 1)
            emit_load(e, gpr_register(g), (unsigned)offsetof(struct thunk_frame, gpr) + 8 * g);
    if (mxcsr)
        emit_stmxcsr(e, FRAME(host_mxcsr));
    if (full) {
        emit_load(e, REG_R11, FRAME(image));
        EMIT(e, 0x49, 0x0f, 0xae, 0x0b); /* fxrstor64 [r11] */
    } else if (mxcsr) {
        emit_ldmxcsr(e, FRAME(mxcsr));
    }
    if (thunk->flags & THUNK_READS_FLAGS)
        EMIT(e, 0xff, 0x77, FRAME(flags), 0x9d); /* push [rdi + flags]; popfq */

    emit(e, key->bytes, thunk->length);

    if (thunk->flags & THUNK_WRITES_FLAGS)
        EMIT(e, 0x9c, 0x8f, 0x47, FRAME(flags)); /* pushfq; pop [rdi + flags] */
    if (full)
        EMIT(e, 0x49, 0x0f, 0xae, 0x03, 0xdb, 0xe3); /* fxsave64 [r11]; fninit */
    else if (mxcsr)
        emit_stmxcsr(e, FRAME(mxcsr));
    if (mxcsr)
        emit_ldmxcsr(e, FRAME(host_mxcsr));
    for (unsigned s = 0; s < VECTOR_COUNT; s++)
        if (thunk->vectors_out >> s & 1)
            emit_vector(e, thunk, s, true);
    for (unsigned g = 0; g < THUNK_GPR_COUNT; g++)
        if (thunk->gprs_out >> g & 1)
            emit_store(e, gpr_register(g), (unsigned)offsetof(struct thunk_frame, gpr) + 8 * g);
    emit_return(e, thunk);

    thunk->out = (uintptr_t)(execute + (e->at - write));
    if (full)
        EMIT(e, 0xdb, 0xe3);
    if (mxcsr)
        emit_ldmxcsr(e, FRAME(host_mxcsr));
    emit_return(e, thunk);
    thunk->code = (thunk_code *)(uintptr_t)execute;
    return (size_t)(e->at - write);
}
