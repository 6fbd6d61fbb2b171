/* BT BTS BTR BTC, and BSF BSR TZCNT LZCNT POPCNT. */

#include <Zydis/Zydis.h>

#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"
#include "cpu/interp/rmw.h"

static uint64_t bit_apply(unsigned mnemonic, uint64_t value, uint64_t mask)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_BTS:
        return value | mask;
    case ZYDIS_MNEMONIC_BTR:
        return value & ~mask;
    case ZYDIS_MNEMONIC_BTC:
        return value ^ mask;
    default:
        return value;
    }
}

static void bit_set_carry(struct vcpu *vcpu, bool carry)
{
    vcpu->rflags = (vcpu->rflags & ~(uint64_t)FLAG_CF) | (carry ? FLAG_CF : 0);
}

/*
 * With a register as bit offset, memory is a bit string that reaches 2^63 bits either way of the
 * address; an immediate stays within the operand.
 */
void exec_bt(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t offset =
        insn->op[1].kind == OPERAND_IMMEDIATE ? insn->immediate : vcpu->gpr[insn->op[1].reg];
    uint64_t mask = bit((unsigned)offset & (8 * size - 1));

    if (insn->op[0].kind != OPERAND_MEMORY) {
        uint64_t value = vcpu->gpr[insn->op[0].reg];
        bit_set_carry(vcpu, value & mask);
        if (insn->mnemonic != ZYDIS_MNEMONIC_BT)
            insn_gpr_set(vcpu, insn->op[0].reg, size, bit_apply(insn->mnemonic, value, mask));
        return;
    }

    uint64_t address = insn_address(vcpu, insn);
    if (insn->op[1].kind != OPERAND_IMMEDIATE) {
        int64_t bits = (int64_t)bits_sign_extend(offset, size);
        unsigned shift = 3 + (unsigned)__builtin_ctz(size);
        address += (uint64_t)(bits >> shift) * size;
        address = bits_truncate(address, insn->address_size);
    }
    enum segment_register seg = (enum segment_register)insn->seg;
    if (insn->mnemonic == ZYDIS_MNEMONIC_BT) {
        bit_set_carry(vcpu, access_load(vcpu, seg, address, size) & mask);
        return;
    }
    uint64_t linear = access_linear(vcpu, seg, address, size, MMU_WRITE);
    struct rmw rmw = rmw_begin_linear(vcpu, linear, size);
    uint64_t old;
    do
        old = rmw.old;
    while (!rmw_commit(vcpu, &rmw, size, bit_apply(insn->mnemonic, old, mask),
                       insn->prefixes & INSN_LOCK));
    bit_set_carry(vcpu, old & mask);
}

#define SCAN_ASM(name, suffix, mod)                                                                \
    __asm__(FLAGS_LOAD name suffix " %" mod "[src], %" mod "[dst]" FLAGS_SAVE                      \
            : [dst] "+r"(dst), "+&a"(packed)                                                       \
            : [src] "r"(src)                                                                       \
            : "cc")
#define SCAN_SIZES(name)                                                                           \
    do {                                                                                           \
        if (size == 2)                                                                             \
            SCAN_ASM(name, "w", "w");                                                              \
        else if (size == 4)                                                                        \
            SCAN_ASM(name, "l", "k");                                                              \
        else                                                                                       \
            SCAN_ASM(name, "q", "q");                                                              \
    } while (0)

/* The destination goes in as well: BSF and BSR of 0 leave it as it was. */
void exec_bit_scan(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t src = insn_read(vcpu, insn, 1);
    uint64_t dst = vcpu->gpr[insn->op[0].reg];
    uint16_t packed = flags_pack(vcpu->rflags);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_BSF:
        SCAN_SIZES("bsf");
        break;
    case ZYDIS_MNEMONIC_BSR:
        SCAN_SIZES("bsr");
        break;
    case ZYDIS_MNEMONIC_TZCNT:
        SCAN_SIZES("tzcnt");
        break;
    case ZYDIS_MNEMONIC_LZCNT:
        SCAN_SIZES("lzcnt");
        break;
    default:
        SCAN_SIZES("popcnt");
        break;
    }
    vcpu->gpr[insn->op[0].reg] = dst;
    vcpu->rflags = flags_unpack(vcpu->rflags, packed);
}
