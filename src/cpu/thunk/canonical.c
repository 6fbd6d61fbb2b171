/*
 * Finding the canonical encoding of a guest instruction.
 *
 * Opcode, mandatory prefix, vector length, immediate and opcode extension are kept; registers that
 * stand in a slot are replaced by that slot's fixed one, a memory operand by [RSI], and everything
 * that has no meaning (other prefixes, REX.X, VEX length) is left out. Code of 16- and 32-bit modes
 * comes out as 64-bit code. So the number of distinct canonical instructions does not depend on
 * which registers and addresses a guest uses.
 *
 * Example: C4 41 35 58 C2 (VADDPD ymm8, ymm9, ymm10) and C5 E5 58 D4 (VADDPD ymm2, ymm3, ymm4) are
 * both C4 E1 65 58 CA (VADDPD ymm1, ymm3, ymm2) here.
 *
 * As a safety net the result is decoded again and must be the same instruction with the same kinds
 * and sizes of operands; that also settles the cases where VEX.W means nothing outside 64-bit mode.
 */

#include "cpu/thunk/thunk_internal.h"

#include <string.h>

static bool encoding_slot(ZydisOperandEncoding encoding, unsigned *slot)
{
    switch (encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        *slot = SLOT_REG;
        return true;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        *slot = SLOT_RM;
        return true;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        *slot = SLOT_VVVV;
        return true;
    case ZYDIS_OPERAND_ENCODING_IS4:
        *slot = SLOT_IS4;
        return true;
    default:
        return false;
    }
}

bool thunk_operand_register(const ZydisDecodedOperand *operand, struct operand *out)
{
    ZydisRegister reg = operand->reg.value;
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    out->size = (uint8_t)(operand->size / 8);
    switch (class) {
    case ZYDIS_REGCLASS_XMM:
        out->kind = OPERAND_VECTOR;
        out->reg = (uint8_t)(reg - ZYDIS_REGISTER_XMM0);
        break;
    case ZYDIS_REGCLASS_YMM:
        out->kind = OPERAND_VECTOR;
        out->reg = (uint8_t)(reg - ZYDIS_REGISTER_YMM0);
        break;
    case ZYDIS_REGCLASS_GPR8:
        if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
            out->kind = OPERAND_GPR_HIGH;
            out->reg = (uint8_t)(reg - ZYDIS_REGISTER_AH);
            return true;
        }
        out->kind = OPERAND_GPR;
        if (reg <= ZYDIS_REGISTER_BL)
            out->reg = (uint8_t)(reg - ZYDIS_REGISTER_AL);
        else
            out->reg = (uint8_t)(reg - ZYDIS_REGISTER_SPL + GPR_RSP);
        break;
    case ZYDIS_REGCLASS_GPR16:
        out->kind = OPERAND_GPR;
        out->reg = (uint8_t)(reg - ZYDIS_REGISTER_AX);
        break;
    case ZYDIS_REGCLASS_GPR32:
        out->kind = OPERAND_GPR;
        out->reg = (uint8_t)(reg - ZYDIS_REGISTER_EAX);
        break;
    case ZYDIS_REGCLASS_GPR64:
        out->kind = OPERAND_GPR;
        out->reg = (uint8_t)(reg - ZYDIS_REGISTER_RAX);
        break;
    default:
        return false;
    }
    return out->reg < 16;
}

static uint8_t address_register(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR16:
        return (uint8_t)(reg - ZYDIS_REGISTER_AX);
    case ZYDIS_REGCLASS_GPR32:
        return (uint8_t)(reg - ZYDIS_REGISTER_EAX);
    case ZYDIS_REGCLASS_GPR64:
        return (uint8_t)(reg - ZYDIS_REGISTER_RAX);
    case ZYDIS_REGCLASS_XMM: /* VSIB */
        return (uint8_t)(reg - ZYDIS_REGISTER_XMM0);
    case ZYDIS_REGCLASS_YMM:
        return (uint8_t)(reg - ZYDIS_REGISTER_YMM0);
    case ZYDIS_REGCLASS_IP:
        return INSN_REG_RIP;
    default:
        return INSN_REG_NONE;
    }
}

void thunk_bind_memory(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operand,
                       struct insn *insn)
{
    insn->length = decoded->length;
    insn->address_size = decoded->address_width / 8;
    insn->base = address_register(operand->mem.base);
    insn->index = address_register(operand->mem.index);
    insn->scale = 0;
    for (unsigned scale = operand->mem.scale; scale > 1; scale /= 2)
        insn->scale++;
    insn->displacement = operand->mem.disp.has_displacement ? operand->mem.disp.value : 0;
    insn->seg = (uint8_t)(operand->mem.segment - ZYDIS_REGISTER_ES);
}

/* The parts of an encoding in the making. */
struct encoding {
    unsigned reg, rm, vvvv; /* 4 bits each */
    unsigned mod;
    bool w;
    bool prefix66, prefix_f2, prefix_f3;
    bool has_immediate;
    uint8_t immediate;
};

static unsigned encode_legacy(const ZydisDecodedInstruction *decoded, const struct encoding *e,
                              uint8_t *out)
{
    unsigned n = 0;
    if (e->prefix66)
        out[n++] = 0x66;
    if (e->prefix_f2)
        out[n++] = 0xf2;
    if (e->prefix_f3)
        out[n++] = 0xf3;
    uint8_t rex = (uint8_t)(0x40 | e->w << 3 | (e->reg >> 3) << 2 | e->rm >> 3);
    if (rex != 0x40)
        out[n++] = rex;
    if (decoded->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        out[n++] = 0x0f;
    if (decoded->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        out[n++] = 0x38;
    else if (decoded->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        out[n++] = 0x3a;
    out[n++] = decoded->opcode;
    out[n++] = (uint8_t)(e->mod << 6 | (e->reg & 7) << 3 | (e->rm & 7));
    if (e->has_immediate)
        out[n++] = e->immediate;
    return n;
}

static unsigned encode_vex(const ZydisDecodedInstruction *decoded, const struct encoding *e,
                           uint8_t *out)
{
    unsigned map = decoded->opcode_map == ZYDIS_OPCODE_MAP_0F     ? 1
                   : decoded->opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 2
                                                                  : 3;
    unsigned n = 0;
    out[n++] = 0xc4;
    out[n++] = (uint8_t)((~e->reg >> 3 & 1) << 7 | 1 << 6 | (~e->rm >> 3 & 1) << 5 | map);
    out[n++] =
        (uint8_t)(e->w << 7 | (~e->vvvv & 15) << 3 | decoded->raw.vex.L << 2 | decoded->raw.vex.pp);
    out[n++] = decoded->opcode;
    out[n++] = (uint8_t)(e->mod << 6 | (e->reg & 7) << 3 | (e->rm & 7));
    if (e->has_immediate)
        out[n++] = e->immediate;
    return n;
}

/* Is what the key encodes the same instruction, up to the registers' numbers and the address? */
static bool decodes_alike(const ZydisDecoder *decoder, const struct thunk_key *key, unsigned length,
                          const ZydisDecodedInstruction *decoded,
                          const ZydisDecodedOperand *operands)
{
    ZydisDecodedInstruction other;
    ZydisDecodedOperand other_operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeFull(decoder, key->bytes, length, &other, other_operands)) ||
        other.length != length || other.mnemonic != decoded->mnemonic ||
        other.encoding != decoded->encoding || other.meta.isa_set != decoded->meta.isa_set ||
        other.operand_count_visible != decoded->operand_count_visible)
        return false;
    for (unsigned i = 0; i < decoded->operand_count_visible; i++) {
        const ZydisDecodedOperand *a = &operands[i], *b = &other_operands[i];
        if (a->type != b->type || a->size != b->size || a->actions != b->actions ||
            a->encoding != b->encoding)
            return false;
        if (a->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(a->reg.value) != ZydisRegisterGetClass(b->reg.value))
            return false;
        if (a->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && a->imm.value.u != b->imm.value.u)
            return false;
    }
    return true;
}

bool thunk_canonicalize(const ZydisDecoder *decoder, const ZydisDecodedInstruction *decoded,
                        const ZydisDecodedOperand *operands, const uint8_t *bytes,
                        enum thunk_unit unit, struct thunk_key *key, struct insn *insn)
{
    if (!(decoded->attributes & ZYDIS_ATTRIB_HAS_MODRM))
        return false;
    bool is_vex = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    bool full = thunk_unit_is_full(unit);
    /* What is not in a slot (opcode extensions, ST(i), MMX registers) stays as it was. */
    struct encoding e = {
        .mod = decoded->raw.modrm.mod == 3 ? 3 : 0,
        .reg = decoded->raw.modrm.reg,
        .rm = decoded->raw.modrm.rm,
        .w = is_vex ? decoded->raw.vex.W : decoded->raw.rex.W,
    };
    unsigned *field[] = {&e.reg, &e.rm, &e.vvvv};

    if (decoded->raw.imm[0].size != 0) {
        if (decoded->raw.imm[0].size != 8 || decoded->raw.imm[1].size != 0)
            return false;
        e.has_immediate = true;
        e.immediate = bytes[decoded->length - 1];
    }
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *op = &operands[i];
        unsigned slot;
        struct operand named;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT || e.mod == 3 ||
                op->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
                op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
                return false;
            e.rm = 6; /* RSI */
            thunk_bind_memory(decoded, op, insn);
            continue;
        }
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
            !thunk_operand_register(op, &named))
            continue;
        if (!encoding_slot(op->encoding, &slot))
            return false;
        insn->op[slot] = named;
        if (slot == SLOT_IS4) {
            e.has_immediate = true;
            e.immediate =
                (uint8_t)((CANONICAL_VECTOR + SLOT_IS4) << 4 | (bytes[decoded->length - 1] & 15));
        } else if (named.kind != OPERAND_VECTOR) {
            *field[slot] = CANONICAL_GPR + slot;
        } else {
            *field[slot] = full ? named.reg : CANONICAL_VECTOR + slot;
        }
    }

    memset(key, 0, sizeof(*key));
    unsigned length;
    uint8_t buffer[16];
    if (is_vex) {
        length = encode_vex(decoded, &e, buffer);
    } else {
        for (unsigned i = 0; i < decoded->raw.prefix_count; i++) {
            if (decoded->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_MANDATORY)
                continue;
            e.prefix66 |= decoded->raw.prefixes[i].value == 0x66;
            e.prefix_f2 |= decoded->raw.prefixes[i].value == 0xf2;
            e.prefix_f3 |= decoded->raw.prefixes[i].value == 0xf3;
        }
        if (unit == THUNK_UNIT_GPR && decoded->operand_width == 16)
            e.prefix66 = true;
        length = encode_legacy(decoded, &e, buffer);
    }
    if (length > sizeof(key->bytes))
        return false;
    memcpy(key->bytes, buffer, length);
    if (decodes_alike(decoder, key, length, decoded, operands))
        return true;
    if (!e.w || decoded->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return false;
    e.w = false;
    memset(key, 0, sizeof(*key));
    length = is_vex ? encode_vex(decoded, &e, buffer) : encode_legacy(decoded, &e, buffer);
    memcpy(key->bytes, buffer, length);
    return decodes_alike(decoder, key, length, decoded, operands);
}
