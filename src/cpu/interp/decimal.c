/* DAA DAS AAA AAS AAM AAD: outside 64-bit mode only, so the host cannot do them (SDM vol. 2). */

#include "cpu/exception.h"
#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"

#define AX_MASK ((uint64_t)0xffff)

static void decimal_set_flags(struct vcpu *vcpu, uint8_t result, uint64_t carry_flags)
{
    uint64_t flags = carry_flags;
    if (result == 0)
        flags |= FLAG_ZF;
    if (result & 0x80)
        flags |= FLAG_SF;
    if (!__builtin_parity(result))
        flags |= FLAG_PF;
    vcpu->rflags = (vcpu->rflags & ~(uint64_t)FLAGS_STATUS) | flags;
}

static void decimal_set_ax(struct vcpu *vcpu, uint64_t ax)
{
    vcpu->gpr[GPR_RAX] = (vcpu->gpr[GPR_RAX] & ~AX_MASK) | (ax & AX_MASK);
}

void exec_daa(struct vcpu *vcpu, const struct insn *insn)
{
    uint8_t old = (uint8_t)vcpu->gpr[GPR_RAX], al = old;
    uint64_t flags = 0;
    if ((old & 0xf) > 9 || vcpu->rflags & FLAG_AF) {
        al = (uint8_t)(al + 6);
        flags |= FLAG_AF;
    }
    if (old > 0x99 || vcpu->rflags & FLAG_CF) {
        al = (uint8_t)(al + 0x60);
        flags |= FLAG_CF;
    }
    insn_gpr_set(vcpu, GPR_RAX, 1, al);
    decimal_set_flags(vcpu, al, flags);
}

void exec_das(struct vcpu *vcpu, const struct insn *insn)
{
    uint8_t old = (uint8_t)vcpu->gpr[GPR_RAX], al = old;
    uint64_t flags = 0;
    if ((old & 0xf) > 9 || vcpu->rflags & FLAG_AF) {
        flags |= FLAG_AF;
        if (al < 6)
            flags |= FLAG_CF;
        al = (uint8_t)(al - 6);
    }
    if (old > 0x99 || vcpu->rflags & FLAG_CF) {
        al = (uint8_t)(al - 0x60);
        flags |= FLAG_CF;
    }
    insn_gpr_set(vcpu, GPR_RAX, 1, al);
    decimal_set_flags(vcpu, al, flags);
}

static void ascii_adjust(struct vcpu *vcpu, int direction)
{
    uint64_t ax = vcpu->gpr[GPR_RAX] & AX_MASK;
    uint64_t flags = 0;
    if ((ax & 0xf) > 9 || vcpu->rflags & FLAG_AF) {
        ax = direction > 0 ? ax + 0x106 : ax - 0x106;
        flags = FLAG_AF | FLAG_CF;
    }
    decimal_set_ax(vcpu, ax & 0xff0f);
    decimal_set_flags(vcpu, (uint8_t)(ax & 0xf), flags);
}

void exec_aaa(struct vcpu *vcpu, const struct insn *insn)
{
    ascii_adjust(vcpu, 1);
}

void exec_aas(struct vcpu *vcpu, const struct insn *insn)
{
    ascii_adjust(vcpu, -1);
}

void exec_aam(struct vcpu *vcpu, const struct insn *insn)
{
    uint8_t al = (uint8_t)vcpu->gpr[GPR_RAX], base = (uint8_t)insn->immediate;
    if (base == 0)
        vcpu_raise(vcpu, VECTOR_DE);
    decimal_set_ax(vcpu, (uint64_t)(al / base) << 8 | al % base);
    decimal_set_flags(vcpu, al % base, 0);
}

void exec_aad(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t ax = vcpu->gpr[GPR_RAX] & AX_MASK;
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (insn->immediate & 0xff));
    decimal_set_ax(vcpu, al);
    decimal_set_flags(vcpu, al, 0);
}
