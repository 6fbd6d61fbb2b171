/*
 * AH, CH, DH and BH: compilers test flags in bits 8 to 15 so.
 *
 * A REX prefix takes these registers away, so there is none here: the other operand is an immediate
 * or one of the first registers, as in the guest's own encoding, which has none either. All of them
 * have the same name on the host.
 */

#include <Zydis/Zydis.h>

#include "cpu/translate/plan.h"

static bool is_high(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_GPR_HIGH;
}

/* AL to BL, AH to BH: the number in a ModRM byte. */
static bool byte_register(const struct operand *op, unsigned *number)
{
    *number = op->kind == OPERAND_GPR_HIGH ? 4u + op->reg : op->reg;
    return op->kind == OPERAND_GPR_HIGH ||
           (op->kind == OPERAND_GPR && op->size == 1 && op->reg < 4);
}

/* Opcode of the form with r/m and register, and the /digit of that with an immediate; both for
 * bytes. */
struct form {
    uint16_t opcode, immediate_opcode;
    uint8_t extension;
    bool reads_flags, writes_flags;
};

static bool find_form(const struct insn *insn, struct form *f)
{
    static const struct {
        uint16_t mnemonic;
        struct form form;
    } forms[] = {
        {ZYDIS_MNEMONIC_ADD, {0x00, 0x80, 0, false, true}},
        {ZYDIS_MNEMONIC_OR, {0x08, 0x80, 1, false, true}},
        {ZYDIS_MNEMONIC_ADC, {0x10, 0x80, 2, true, true}},
        {ZYDIS_MNEMONIC_SBB, {0x18, 0x80, 3, true, true}},
        {ZYDIS_MNEMONIC_AND, {0x20, 0x80, 4, false, true}},
        {ZYDIS_MNEMONIC_SUB, {0x28, 0x80, 5, false, true}},
        {ZYDIS_MNEMONIC_XOR, {0x30, 0x80, 6, false, true}},
        {ZYDIS_MNEMONIC_CMP, {0x38, 0x80, 7, false, true}},
        {ZYDIS_MNEMONIC_TEST, {0x84, 0xf6, 0, false, true}},
        {ZYDIS_MNEMONIC_MOV, {0x88, 0xc6, 0, false, false}},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(forms); i++) {
        if (forms[i].mnemonic == insn->mnemonic) {
            *f = forms[i].form;
            return true;
        }
    }
    return false;
}

/* MOVZX and MOVSX to 32 bits. */
static bool is_extension(const struct insn *insn)
{
    return (insn->mnemonic == ZYDIS_MNEMONIC_MOVZX || insn->mnemonic == ZYDIS_MNEMONIC_MOVSX) &&
           is_gpr(insn, 0) && insn->op[0].size == 4 && host_of(insn->op[0].reg) < HOST_R8 &&
           is_high(insn, 1);
}

bool high_is_inline(const struct insn *insn)
{
    struct form f;
    unsigned number;
    if (insn->operand_count != 2 || (!is_high(insn, 0) && !is_high(insn, 1)))
        return false;
    return is_extension(insn) || (find_form(insn, &f) && byte_register(&insn->op[0], &number) &&
                                  (is_immediate(insn, 1) || byte_register(&insn->op[1], &number)));
}

enum flags_need high_need(const struct insn *insn)
{
    struct form f = {0};
    find_form(insn, &f);
    return f.reads_flags ? FLAGS_HOST : f.writes_flags ? FLAGS_OVERWRITTEN : FLAGS_INDIFFERENT;
}

void high_emit(struct context *c)
{
    const struct insn *insn = c->insn;
    struct form f = {0};
    unsigned rm, reg;
    find_form(insn, &f);
    if (f.reads_flags)
        context_flags_load(c);
    else if (!f.writes_flags)
        flags_keep(c, insn->op[0].reg);
    byte_register(&insn->op[0], &rm);
    if (is_extension(insn)) {
        byte_register(&insn->op[1], &rm);
        emit_op(&c->e, 0, insn->mnemonic == ZYDIS_MNEMONIC_MOVZX ? 0x0fb6 : 0x0fbe,
                host_of(insn->op[0].reg), rm_reg(rm));
    } else if (is_immediate(insn, 1)) {
        emit_op(&c->e, 0, f.immediate_opcode, f.extension, rm_reg(rm));
        emit_u8(&c->e, insn->immediate & 0xff);
    } else {
        byte_register(&insn->op[1], &reg);
        emit_op(&c->e, 0, f.opcode, reg, rm_reg(rm));
    }
    if (f.writes_flags)
        context_flags_written(c);
}
