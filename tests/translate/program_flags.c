/* Random programs: what instructions do to status flags. */

#include "program_generator.h"

/* SDM vol. 2, by instruction. A count in CL may be 0: nothing is sure to be written then. */
static void shift_effect(const struct decoded *d, struct flag_effect *e)
{
    ZydisMnemonic m = d->insn.mnemonic;
    bool is_double = m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD;
    bool is_rotate = m == ZYDIS_MNEMONIC_ROL || m == ZYDIS_MNEMONIC_ROR ||
                     m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR;
    unsigned width = d->insn.operand_width;
    const ZydisDecodedOperand *op = &d->operands[is_double ? 2 : 1];
    bool is_constant = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    unsigned count = (unsigned)op->imm.value.u & (width == 64 ? 63 : 31);
    if (d->operands[0].size == 8)
        width = 8;
    e->reads = m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR ? F_CF : 0;
    e->writes = e->leaves = 0;
    if (is_constant && count == 0)
        return;
    e->leaves = is_constant && count == 1 ? 0 : F_OF;
    if (!is_rotate) {
        e->leaves |= F_AF;
        if (m != ZYDIS_MNEMONIC_SAR && width < 32 && (!is_constant || count >= width))
            e->leaves |= F_CF;
    }
    if (is_constant)
        e->writes = is_rotate ? F_CF | F_OF : F_ALL;
}

static bool is_shift(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default:
        return false;
    }
}

void generator_flag_effect(const struct decoded *d, struct flag_effect *e)
{
    const ZydisAccessedFlags *flags = d->insn.cpu_flags;
    *e = (struct flag_effect){0};
    if (is_shift(d->insn.mnemonic)) {
        shift_effect(d, e);
        return;
    }
    if (flags == NULL)
        return;
    e->reads = flags->tested & F_ALL;
    e->leaves = flags->undefined & F_ALL;
    e->writes = (flags->modified | flags->set_0 | flags->set_1) & F_ALL;
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
        e->leaves |= F_AF;
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        e->writes = F_CF;
        e->leaves = F_OF | F_SF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
        e->leaves = F_CF | F_OF | F_SF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        e->leaves = F_SF | F_ZF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        e->leaves = F_ALL;
        break;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFQ:
        e->reads = F_ALL;
        break;
    case ZYDIS_MNEMONIC_LAHF:
        e->reads = F_ALL & ~F_OF;
        break;
    default:
        break;
    }
    if (d->insn.attributes &
        (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        e->writes = 0; /* RCX may be 0 */
}
