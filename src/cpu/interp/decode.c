/*
 * Instruction bytes to struct insn, by Zydis.
 *
 * Zydis knows every instruction there is; what the guest may execute is what a table of handlers
 * names, or a thunk can be made for, and what its CPUID offers. Where an encoding means different
 * things on different CPUs the offered features decide: F3 0F BC is TZCNT or BSF, and encodings of
 * features that are never offered (MPX, CET, CLDEMOTE, WBNOINVD) are the NOPs and WBINVD they are
 * on CPUs without them.
 */

#include <Zydis/Zydis.h>
#include <pthread.h>
#include <string.h>

#include "cpu/exception.h"
#include "cpu/interp/interp.h"
#include "cpu/system/system.h"
#include "cpu/thunk/thunk.h"

struct decode_entry {
    insn_fn *exec;
    insn_bind_fn *bind;
    uint8_t flags;
};

/* Made once from the handlers' tables, constant from then on. */
static struct decode_entry decode_table[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static pthread_once_t decode_table_once = PTHREAD_ONCE_INIT;

/* Mnemonics that exist only with a feature. */
static const struct {
    uint16_t mnemonic;
    uint16_t feature;
} decode_features[] = {
    {ZYDIS_MNEMONIC_POPCNT, FEATURE_POPCNT},   {ZYDIS_MNEMONIC_MOVBE, FEATURE_MOVBE},
    {ZYDIS_MNEMONIC_CMPXCHG16B, FEATURE_CX16}, {ZYDIS_MNEMONIC_CLFLUSHOPT, FEATURE_CLFLUSHOPT},
    {ZYDIS_MNEMONIC_CLWB, FEATURE_CLWB},
};

static void decode_table_add(const struct insn_handler *handlers)
{
    for (; handlers->exec != NULL; handlers++) {
        struct decode_entry *entry = &decode_table[handlers->mnemonic];
        if (entry->exec != NULL)
            continue; /* the first table that names it has it */
        entry->exec = handlers->exec;
        entry->flags = handlers->flags;
        for (const struct insn_family *family = integer_families; family->exec != NULL; family++) {
            if (family->exec == handlers->exec)
                entry->bind = family->bind;
        }
    }
}

static void decode_table_make(void)
{
    decode_table_add(integer_handlers);
    decode_table_add(system_handlers);
    decode_table_add(state_handlers);
}

void exec_undefined(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu_raise(vcpu, VECTOR_UD);
}

void exec_too_long(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu_raise_error(vcpu, VECTOR_GP, 0);
}

static void decoder_init(ZydisDecoder *decoder, const struct vcpu *vcpu)
{
    ZydisMachineMode mode;
    ZydisStackWidth width;
    if (vcpu->mode == MODE_LONG) {
        mode = ZYDIS_MACHINE_MODE_LONG_64;
        width = ZYDIS_STACK_WIDTH_64;
    } else if (vcpu->code_size == 4) {
        mode = vcpu->mode == MODE_COMPATIBILITY ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
                                                : ZYDIS_MACHINE_MODE_LEGACY_32;
        width = ZYDIS_STACK_WIDTH_32;
    } else {
        mode = vcpu->mode == MODE_COMPATIBILITY ? ZYDIS_MACHINE_MODE_LONG_COMPAT_16
               : vcpu->mode == MODE_REAL || (vcpu->rflags & FLAG_VM) ? ZYDIS_MACHINE_MODE_REAL_16
                                                                     : ZYDIS_MACHINE_MODE_LEGACY_16;
        width = ZYDIS_STACK_WIDTH_16;
    }
    /* These cannot fail for the constants they are given. */
    ZydisDecoderInit(decoder, mode, width);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_LZCNT,
                           features_has(vcpu->features, FEATURE_LZCNT));
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_TZCNT,
                           features_has(vcpu->features, FEATURE_BMI1));
}

/* ------------------------------------------------------------------------- operands */

static uint8_t decode_address_register(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return (uint8_t)ZydisRegisterGetId(reg);
    case ZYDIS_REGCLASS_IP:
        return INSN_REG_RIP;
    default:
        return INSN_REG_NONE; /* none, or a vector index: the thunks see to those themselves */
    }
}

static uint8_t decode_segment(ZydisRegister reg)
{
    ZyanI8 id = ZydisRegisterGetId(reg);
    return id >= 0 && id < SEG_COUNT ? (uint8_t)id : (uint8_t)SEG_DS;
}

/* False for a register that no CPU with a long mode has. */
static bool decode_register(ZydisRegister reg, struct operand *op)
{
    unsigned id = (unsigned)ZydisRegisterGetId(reg);
    op->reg = (uint8_t)id;
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8: /* AL CL DL BL, AH CH DH BH, SPL BPL SIL DIL, R8B and up */
        op->kind = OPERAND_GPR;
        if (id >= 8)
            op->reg = (uint8_t)(id - 4);
        else if (id >= 4) {
            op->kind = OPERAND_GPR_HIGH;
            op->reg = (uint8_t)(id - 4);
        }
        return true;
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        op->kind = OPERAND_GPR;
        return true;
    case ZYDIS_REGCLASS_SEGMENT:
        op->kind = OPERAND_SEGMENT;
        return true;
    case ZYDIS_REGCLASS_CONTROL:
        op->kind = OPERAND_CONTROL;
        return true;
    case ZYDIS_REGCLASS_DEBUG:
        op->kind = OPERAND_DEBUG;
        return true;
    case ZYDIS_REGCLASS_TEST:
        return false;
    default:
        op->kind = OPERAND_VECTOR;
        return true;
    }
}

/* What Zydis 4.0 tells otherwise than CPUs do it. */
static void correct_operands(const struct vcpu *vcpu, const ZydisDecodedInstruction *decoded,
                             ZydisDecodedOperand *operands)
{
    /* A SIB byte with base 101 and mod 0 has no base but a displacement, whatever REX.B says (SDM
     * vol. 2 table 2-3). With 32-bit addresses Zydis takes R13D for the base. */
    bool no_base = decoded->attributes & ZYDIS_ATTRIB_HAS_SIB && decoded->raw.modrm.mod == 0;
    for (unsigned i = 0; no_base && i < decoded->operand_count_visible; i++) {
        ZydisDecodedOperandMem *mem = &operands[i].mem;
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && mem->base == ZYDIS_REGISTER_R13D) {
            mem->base = ZYDIS_REGISTER_NONE;
            mem->disp.has_displacement = true;
            mem->disp.value = decoded->raw.disp.value;
        }
    }
    /* MOVSXD with a 16-bit register reads two bytes; four on AMD's CPUs, of which it drops two. */
    if (decoded->mnemonic == ZYDIS_MNEMONIC_MOVSXD && decoded->operand_width == 16 &&
        !vcpu->features->amd)
        operands[1].size = 16;
}

/* F3 REX.B 90 is PAUSE to Intel's CPUs and to Zydis, XCHG to AMD's. */
static void correct_pause(const struct vcpu *vcpu, ZydisDecodedInstruction *decoded,
                          ZydisDecodedOperand *operands)
{
    bool rex_b = decoded->attributes & ZYDIS_ATTRIB_HAS_REX && decoded->raw.rex.B;
    if (decoded->mnemonic != ZYDIS_MNEMONIC_PAUSE || !rex_b || !vcpu->features->amd)
        return;
    ZydisRegisterClass class = decoded->operand_width == 64   ? ZYDIS_REGCLASS_GPR64
                               : decoded->operand_width == 32 ? ZYDIS_REGCLASS_GPR32
                                                              : ZYDIS_REGCLASS_GPR16;
    decoded->mnemonic = ZYDIS_MNEMONIC_XCHG;
    decoded->operand_count = decoded->operand_count_visible = 2;
    memset(operands, 0, 2 * sizeof(operands[0]));
    for (unsigned i = 0; i < 2; i++) {
        operands[i].type = ZYDIS_OPERAND_TYPE_REGISTER;
        operands[i].size = decoded->operand_width;
        operands[i].reg.value = ZydisRegisterEncode(class, i == 0 ? 8 : 0);
    }
}

static void decode_memory(const ZydisDecodedOperandMem *mem, struct insn *insn)
{
    insn->base = decode_address_register(mem->base);
    insn->index = decode_address_register(mem->index);
    insn->scale = mem->scale > 1 ? (uint8_t)__builtin_ctz(mem->scale) : 0;
    insn->displacement = mem->disp.has_displacement ? mem->disp.value : 0;
    insn->seg = decode_segment(mem->segment);
}

static void decode_immediate(const ZydisDecodedOperand *from, struct insn *insn, struct operand *op,
                             bool first)
{
    op->kind = OPERAND_IMMEDIATE;
    if (first)
        insn->immediate = from->imm.value.u;
    else
        insn->displacement = from->imm.value.s; /* ENTER */
    if (from->imm.is_signed && insn->operand_size > op->size)
        op->size = insn->operand_size;
}

static bool decode_operands(const ZydisDecodedInstruction *decoded,
                            const ZydisDecodedOperand *operands, struct insn *insn)
{
    bool has_immediate = false;
    unsigned count = decoded->operand_count_visible;
    insn->base = insn->index = INSN_REG_NONE;
    insn->seg = SEG_DS;
    if (count > INSN_MAX_OPERANDS)
        count = INSN_MAX_OPERANDS;
    insn->operand_count = (uint8_t)count;
    for (unsigned i = 0; i < count; i++) {
        const ZydisDecodedOperand *from = &operands[i];
        struct operand *op = &insn->op[i];
        unsigned size = from->size / 8u;
        op->size = size <= UINT8_MAX ? (uint8_t)size : 0; /* 0: state images */
        switch (from->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (!decode_register(from->reg.value, op))
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            op->kind = OPERAND_MEMORY;
            decode_memory(&from->mem, insn);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            decode_immediate(from, insn, op, !has_immediate);
            has_immediate = true;
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            op->kind = OPERAND_IMMEDIATE;
            insn->immediate = from->ptr.offset;
            insn->displacement = from->ptr.segment;
            break;
        default:
            return false;
        }
    }
    return true;
}

/* The overridable segment of an instruction whose memory operand is not written out: the source of
 * a string instruction, XLAT's table. */
static void decode_hidden_segment(const ZydisDecodedInstruction *decoded,
                                  const ZydisDecodedOperand *operands, struct insn *insn)
{
    insn->seg = SEG_ES;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        unsigned base = decode_address_register(operands[i].mem.base);
        if (base == GPR_RSI || base == GPR_RBX)
            insn->seg = decode_segment(operands[i].mem.segment);
    }
}

/* LOCK, and the last of REP and REPNE. Where F2 or F3 is part of the opcode nobody looks. */
static uint8_t decode_prefixes(const ZydisDecodedInstruction *decoded)
{
    uint8_t prefixes = 0;
    for (unsigned i = 0; i < decoded->raw.prefix_count; i++) {
        switch (decoded->raw.prefixes[i].value) {
        case 0xf0:
            prefixes |= INSN_LOCK;
            break;
        case 0xf2:
            prefixes = (uint8_t)((prefixes & ~INSN_REP) | INSN_REPNE);
            break;
        case 0xf3:
            prefixes = (uint8_t)((prefixes & ~INSN_REPNE) | INSN_REP);
            break;
        default:
            break;
        }
    }
    return prefixes;
}

/* ------------------------------------------------------------------------- handlers */

static bool decode_has(const struct insn *insn, enum operand_kind kind)
{
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (insn->op[i].kind == kind)
            return true;
    }
    return false;
}

/* Forms that share a mnemonic with an integer instruction and are cpu/system's. */
static insn_fn *decode_system_form(const ZydisDecodedInstruction *decoded, const struct insn *insn,
                                   bool *ends_block)
{
    bool far = decoded->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    *ends_block = true;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        *ends_block = insn->op[0].kind == OPERAND_CONTROL || insn->op[0].kind == OPERAND_DEBUG;
        if (decode_has(insn, OPERAND_SEGMENT))
            return system_mov_segment;
        if (decode_has(insn, OPERAND_CONTROL))
            return system_mov_control;
        return decode_has(insn, OPERAND_DEBUG) ? system_mov_debug : NULL;
    case ZYDIS_MNEMONIC_PUSH:
        *ends_block = false;
        return decode_has(insn, OPERAND_SEGMENT) ? system_push_segment : NULL;
    case ZYDIS_MNEMONIC_POP:
        *ends_block = false;
        return decode_has(insn, OPERAND_SEGMENT) ? system_pop_segment : NULL;
    case ZYDIS_MNEMONIC_JMP:
        return far ? system_far_jump : NULL;
    case ZYDIS_MNEMONIC_CALL:
        return far ? system_far_call : NULL;
    case ZYDIS_MNEMONIC_RET:
        return far ? system_far_return : NULL;
    default:
        return NULL;
    }
}

/* MOVSD and CMPSD name a string and an SSE2 instruction each. */
static bool decode_is_vector_namesake(const ZydisDecodedInstruction *decoded)
{
    return (decoded->mnemonic == ZYDIS_MNEMONIC_MOVSD ||
            decoded->mnemonic == ZYDIS_MNEMONIC_CMPSD) &&
           decoded->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT;
}

/* A prefetch (0F 0D) of a register: a NOP to Intel, undefined to AMD. */
static bool decode_is_prefetch_of_register(const ZydisDecodedInstruction *decoded)
{
    return decoded->opcode_map == ZYDIS_OPCODE_MAP_0F && decoded->opcode == 0x0d &&
           decoded->raw.modrm.mod == 3;
}

static bool decode_is_offered(const struct vcpu *vcpu, const ZydisDecodedInstruction *decoded)
{
    const ZydisMnemonic mnemonic = decoded->mnemonic;
    for (unsigned i = 0; i < ARRAY_LENGTH(decode_features); i++) {
        if (decode_features[i].mnemonic == mnemonic)
            return features_has(vcpu->features, (enum feature)decode_features[i].feature);
    }
    if ((mnemonic == ZYDIS_MNEMONIC_LAHF || mnemonic == ZYDIS_MNEMONIC_SAHF) &&
        vcpu->mode == MODE_LONG)
        return features_has(vcpu->features, FEATURE_LAHF_LM);
    return !(vcpu->features->amd && decode_is_prefetch_of_register(decoded));
}

/* Sets exec. False: the guest's CPU does not have this instruction. */
static bool decode_choose(struct vcpu *vcpu, const ZydisDecodedInstruction *decoded,
                          const ZydisDecodedOperand *operands, const uint8_t *bytes,
                          struct insn *insn, bool *ends_block)
{
    bool lock = insn->prefixes & INSN_LOCK;
    insn->exec = decode_system_form(decoded, insn, ends_block);
    if (insn->exec != NULL)
        return !lock;

    const struct decode_entry *entry = &decode_table[insn->mnemonic];
    *ends_block = entry->flags & INSN_ENDS_BLOCK;
    if (entry->exec != NULL && !decode_is_vector_namesake(decoded)) {
        if (lock && (!(entry->flags & INSN_LOCKABLE) || !decode_has(insn, OPERAND_MEMORY)))
            return false;
        insn->exec = entry->bind != NULL ? entry->bind(insn) : entry->exec;
        return decode_is_offered(vcpu, decoded);
    }
    *ends_block = false;
    return !lock && vcpu->thunks != NULL &&
           thunk_bind(vcpu->thunks, vcpu, decoded, operands, bytes, insn);
}

static enum insn_decode_result decode_fail(struct insn *insn, bool *ends_block,
                                           enum insn_decode_result result)
{
    memset(insn, 0, sizeof(*insn));
    insn->exec = result == INSN_TOO_LONG ? exec_too_long : exec_undefined;
    insn->length = 1;
    *ends_block = true;
    return result;
}

/* Hidden operands are only decoded for those who look at them: thunks, and string instructions. */
static ZyanStatus decode_bytes(const ZydisDecoder *decoder, const uint8_t *bytes,
                               unsigned available, ZydisDecodedInstruction *decoded,
                               ZydisDecodedOperand *operands)
{
    ZydisDecoderContext context;
    ZyanStatus status = ZydisDecoderDecodeInstruction(decoder, &context, bytes, available, decoded);
    if (!ZYAN_SUCCESS(status))
        return status;
    if (decoded->operand_count == 0) {
        decoded->operand_count_visible = 0; /* it is: operands[] stays unwritten */
        return status;
    }
    unsigned count = decoded->operand_count_visible;
    if (count == 0 || decode_table[decoded->mnemonic].exec == NULL ||
        decode_is_vector_namesake(decoded))
        count = decoded->operand_count;
    return ZydisDecoderDecodeOperands(decoder, &context, decoded, operands, (ZyanU8)count);
}

enum insn_decode_result insn_decode(struct vcpu *vcpu, const uint8_t *bytes, unsigned available,
                                    struct insn *insn, bool *ends_block)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    pthread_once(&decode_table_once, decode_table_make);
    decoder_init(&decoder, vcpu);
    if (available > INSN_MAX_LENGTH)
        available = INSN_MAX_LENGTH;
    ZyanStatus status = decode_bytes(&decoder, bytes, available, &decoded, operands);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && available < INSN_MAX_LENGTH)
        return INSN_TRUNCATED;
    if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return decode_fail(insn, ends_block, INSN_TOO_LONG);
    if (!ZYAN_SUCCESS(status))
        return decode_fail(insn, ends_block, INSN_UNDEFINED);
    correct_operands(vcpu, &decoded, operands);
    correct_pause(vcpu, &decoded, operands);

    memset(insn, 0, sizeof(*insn));
    insn->mnemonic = (uint16_t)decoded.mnemonic;
    insn->length = decoded.length;
    insn->operand_size = (uint8_t)(decoded.operand_width / 8);
    insn->address_size = (uint8_t)(decoded.address_width / 8);
    insn->prefixes = decode_prefixes(&decoded);
    insn->condition = decoded.opcode & 15;
    if (!decode_operands(&decoded, operands, insn))
        return decode_fail(insn, ends_block, INSN_UNDEFINED);
    if (insn->operand_count == 0)
        decode_hidden_segment(&decoded, operands, insn);
    if (!decode_choose(vcpu, &decoded, operands, bytes, insn, ends_block))
        return decode_fail(insn, ends_block, INSN_UNDEFINED);
    return INSN_DECODED;
}
