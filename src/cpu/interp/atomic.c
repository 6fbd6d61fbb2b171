/* XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B. */

#include "cpu/exception.h"
#include "cpu/interp/alu.h"
#include "cpu/interp/rmw.h"

/* Always locked with a memory operand, prefix or not. */
void exec_xchg(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    unsigned memory = insn->op[0].kind == OPERAND_MEMORY ? 0 : 1;
    if (insn->op[memory].kind != OPERAND_MEMORY) {
        uint64_t first = insn_read(vcpu, insn, 0), second = insn_read(vcpu, insn, 1);
        insn_write(vcpu, insn, 0, second);
        insn_write(vcpu, insn, 1, first);
        return;
    }
    uint64_t value = insn_read(vcpu, insn, 1 - memory);
    struct rmw rmw = rmw_begin(vcpu, insn, size);
    uint64_t old;
    do
        old = rmw.old;
    while (!rmw_commit(vcpu, &rmw, size, value, true));
    insn_write(vcpu, insn, 1 - memory, old);
}

static ALWAYS_INLINE uint64_t sized_alu(enum alu_op op, unsigned size, uint64_t dst, uint64_t src,
                                        uint64_t *flags)
{
    switch (size) {
    case 1:
        return alu_compute(op, 1, dst, src, flags);
    case 2:
        return alu_compute(op, 2, dst, src, flags);
    case 4:
        return alu_compute(op, 4, dst, src, flags);
    default:
        return alu_compute(op, 8, dst, src, flags);
    }
}

void exec_xadd(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t src = insn_read(vcpu, insn, 1), flags = vcpu->rflags, old;
    if (insn->op[0].kind == OPERAND_MEMORY) {
        struct rmw rmw = rmw_begin(vcpu, insn, size);
        uint64_t sum;
        do {
            old = rmw.old;
            flags = vcpu->rflags;
            sum = sized_alu(ALU_ADD, size, old, src, &flags);
        } while (!rmw_commit(vcpu, &rmw, size, sum, insn->prefixes & INSN_LOCK));
        insn_write(vcpu, insn, 1, old);
    } else {
        old = insn_read(vcpu, insn, 0);
        uint64_t sum = sized_alu(ALU_ADD, size, old, src, &flags);
        insn_write(vcpu, insn, 1, old);
        insn_write(vcpu, insn, 0, sum); /* XADD of a register with itself doubles it */
    }
    vcpu->rflags = flags;
}

/* Memory is written in either case, with its own value where the comparison fails: so the page must
 * be writable and becomes dirty. */
void exec_cmpxchg(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t accumulator = insn_gpr_get(vcpu, GPR_RAX, size);
    uint64_t src = insn_read(vcpu, insn, 1), flags = vcpu->rflags, old;
    if (insn->op[0].kind == OPERAND_MEMORY) {
        struct rmw rmw = rmw_begin(vcpu, insn, size);
        do {
            old = rmw.old;
            flags = vcpu->rflags;
            sized_alu(ALU_CMP, size, accumulator, old, &flags);
        } while (
            !rmw_commit(vcpu, &rmw, size, flags & FLAG_ZF ? src : old, insn->prefixes & INSN_LOCK));
    } else {
        old = insn_read(vcpu, insn, 0);
        sized_alu(ALU_CMP, size, accumulator, old, &flags);
        if (flags & FLAG_ZF) /* a register that differs is not even zero-extended */
            insn_write(vcpu, insn, 0, src);
    }
    if (!(flags & FLAG_ZF))
        insn_gpr_set(vcpu, GPR_RAX, size, old);
    vcpu->rflags = flags;
}

static void set_zero_flag(struct vcpu *vcpu, bool zero)
{
    vcpu->rflags = (vcpu->rflags & ~(uint64_t)FLAG_ZF) | (zero ? FLAG_ZF : 0);
}

void exec_cmpxchg8b(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t expected = (uint32_t)vcpu->gpr[GPR_RAX] | vcpu->gpr[GPR_RDX] << 32;
    uint64_t wanted = (uint32_t)vcpu->gpr[GPR_RBX] | vcpu->gpr[GPR_RCX] << 32;
    struct rmw rmw = rmw_begin(vcpu, insn, 8);
    uint64_t old;
    do
        old = rmw.old;
    while (!rmw_commit(vcpu, &rmw, 8, old == expected ? wanted : old, insn->prefixes & INSN_LOCK));
    if (old != expected) {
        vcpu->gpr[GPR_RAX] = (uint32_t)old;
        vcpu->gpr[GPR_RDX] = old >> 32;
    }
    set_zero_flag(vcpu, old == expected);
}

void exec_cmpxchg16b(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t linear = access_linear_aligned(vcpu, (enum segment_register)insn->seg,
                                            insn_address(vcpu, insn), 16, MMU_WRITE, 15);
    uint64_t low = vcpu->gpr[GPR_RAX], high = vcpu->gpr[GPR_RDX];
    uint64_t new_low = vcpu->gpr[GPR_RBX], new_high = vcpu->gpr[GPR_RCX];
    bool equal;
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, 16);
    if (host == NULL)
        host = access_rmw(vcpu, linear, 16);
    if (host != NULL) {
        __asm__ volatile("lock cmpxchg16b (%[host])"
                         : "+a"(low), "+d"(high), "=@ccz"(equal)
                         : "b"(new_low), "c"(new_high), [host] "r"(host)
                         : "memory");
    } else {
        uint64_t old_low = access_load_linear(vcpu, linear, 8);
        uint64_t old_high = access_load_linear(vcpu, linear + 8, 8);
        equal = old_low == low && old_high == high;
        access_store_linear(vcpu, linear, 8, equal ? new_low : old_low);
        access_store_linear(vcpu, linear + 8, 8, equal ? new_high : old_high);
        low = old_low;
        high = old_high;
    }
    if (!equal) {
        vcpu->gpr[GPR_RAX] = low;
        vcpu->gpr[GPR_RDX] = high;
    }
    set_zero_flag(vcpu, equal);
}
