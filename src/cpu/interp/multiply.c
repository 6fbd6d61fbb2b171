/* MUL IMUL DIV IDIV. #DE is found here, before the host divides. */

#include "cpu/exception.h"
#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"

/* RDX:RAX (AX for bytes) by one source. AX carries the flags, so RAX goes in and out through `lo`.
 */
#define WIDE_ASM(name, suffix, mod)                                                                \
    __asm__(FLAGS_LOAD "movq %[lo], %%rax\n\t" name suffix " %" mod                                \
                       "[src]\n\tmovq %%rax, %[lo]" FLAGS_SAVE                                     \
            : [lo] "+&r"(lo), [hi] "+&d"(hi), "+&a"(packed)                                        \
            : [src] "r"(src)                                                                       \
            : "cc")
#define WIDE_SIZES(name)                                                                           \
    do {                                                                                           \
        if (size == 1)                                                                             \
            WIDE_ASM(name, "b", "b");                                                              \
        else if (size == 2)                                                                        \
            WIDE_ASM(name, "w", "w");                                                              \
        else if (size == 4)                                                                        \
            WIDE_ASM(name, "l", "k");                                                              \
        else                                                                                       \
            WIDE_ASM(name, "q", "q");                                                              \
    } while (0)

enum wide_op { WIDE_MUL, WIDE_IMUL, WIDE_DIV, WIDE_IDIV };

static ALWAYS_INLINE void wide_run(struct vcpu *vcpu, unsigned size, uint64_t src, enum wide_op op)
{
    uint64_t lo = vcpu->gpr[GPR_RAX], hi = vcpu->gpr[GPR_RDX];
    uint16_t packed = flags_pack(vcpu->rflags);
    if (op == WIDE_MUL)
        WIDE_SIZES("mul");
    else if (op == WIDE_IMUL)
        WIDE_SIZES("imul");
    else if (op == WIDE_DIV)
        WIDE_SIZES("div");
    else
        WIDE_SIZES("idiv");
    vcpu->gpr[GPR_RAX] = lo;
    vcpu->gpr[GPR_RDX] = hi;
    vcpu->rflags = flags_unpack(vcpu->rflags, packed);
}

void exec_mul(struct vcpu *vcpu, const struct insn *insn)
{
    wide_run(vcpu, insn->op[0].size, insn_read(vcpu, insn, 0), WIDE_MUL);
}

void exec_imul(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    if (insn->operand_count == 1) {
        wide_run(vcpu, size, insn_read(vcpu, insn, 0), WIDE_IMUL);
        return;
    }
    bool three = insn->operand_count == 3;
    uint64_t src = insn_read(vcpu, insn, 1);
    uint64_t factor = three ? insn->immediate : vcpu->gpr[insn->op[0].reg];
    uint64_t dst = vcpu->gpr[insn->op[0].reg];
    uint16_t packed = flags_pack(vcpu->rflags);
    /* The low halves of the product are the same either way round, so `dst` takes the factor, and
     * keeps the upper part of the register for the 16-bit form. */
    if (size == 2) {
        dst = (dst & ~(uint64_t)0xffff) | (factor & 0xffff);
        __asm__(FLAGS_LOAD "imulw %w[src], %w[dst]" FLAGS_SAVE
                : [dst] "+r"(dst), "+&a"(packed)
                : [src] "r"(src)
                : "cc");
    } else if (size == 4) {
        dst = factor;
        __asm__(FLAGS_LOAD "imull %k[src], %k[dst]" FLAGS_SAVE
                : [dst] "+r"(dst), "+&a"(packed)
                : [src] "r"(src)
                : "cc");
    } else {
        dst = factor;
        __asm__(FLAGS_LOAD "imulq %[src], %[dst]" FLAGS_SAVE
                : [dst] "+r"(dst), "+&a"(packed)
                : [src] "r"(src)
                : "cc");
    }
    vcpu->gpr[insn->op[0].reg] = dst;
    vcpu->rflags = flags_unpack(vcpu->rflags, packed);
}

void exec_div(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t divisor = insn_read(vcpu, insn, 0);
    uint64_t high =
        size == 1 ? vcpu->gpr[GPR_RAX] >> 8 & 0xff : bits_truncate(vcpu->gpr[GPR_RDX], size);
    /* The quotient fits just when the upper half is less than the divisor; 0 never is. */
    if (high >= divisor)
        vcpu_raise(vcpu, VECTOR_DE);
    wide_run(vcpu, size, divisor, WIDE_DIV);
}

/* Whether a signed quotient fits `size` bytes. */
static bool idiv_fits(const struct vcpu *vcpu, unsigned size, int64_t divisor)
{
    uint64_t rax = vcpu->gpr[GPR_RAX], rdx = vcpu->gpr[GPR_RDX];
    __int128 dividend;
    if (divisor == 0)
        return false;
    if (size == 1)
        dividend = (int16_t)rax;
    else if (size == 8)
        dividend = (__int128)((unsigned __int128)rdx << 64 | rax);
    else
        dividend = (int64_t)bits_sign_extend(
            bits_truncate(rdx, size) << 8 * size | bits_truncate(rax, size), 2 * size);
    __int128 limit = (__int128)1 << (8 * size - 1);
    if (dividend == (int64_t)dividend) {
        int64_t small = (int64_t)dividend;
        if (divisor == -1) /* also keeps INT64_MIN / -1 from the host's own #DE */
            return small > -limit && small <= limit;
        int64_t quotient = small / divisor;
        return quotient >= -limit && quotient < limit;
    }
    /* More than 64 bits of dividend: of these 2^63 alone has a negative that fits. */
    if (divisor == -1)
        return dividend == limit;
    __int128 quotient = dividend / divisor;
    return quotient >= -limit && quotient < limit;
}

void exec_idiv(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t divisor = insn_read(vcpu, insn, 0);
    if (!idiv_fits(vcpu, size, (int64_t)bits_sign_extend(divisor, size)))
        vcpu_raise(vcpu, VECTOR_DE);
    wide_run(vcpu, size, divisor, WIDE_IDIV);
}
