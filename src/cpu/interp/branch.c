/* Near control transfers: Jcc JMP CALL RET LOOPcc JrCXZ. Far ones are cpu/system's. */

#include <Zydis/Zydis.h>

#include "cpu/access.h"
#include "cpu/exception.h"
#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"

/* #GP where `target` cannot be a RIP. Before any state changes. */
static ALWAYS_INLINE void branch_check(struct vcpu *vcpu, uint64_t target)
{
    bool good =
        vcpu->mode == MODE_LONG ? access_is_canonical(target) : target <= vcpu->seg[SEG_CS].limit;
    if (unlikely(!good))
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
}

/* In 64-bit code the operand size is 8 whatever the prefixes, so nothing is cut off. */
static ALWAYS_INLINE uint64_t branch_relative(const struct vcpu *vcpu, const struct insn *insn)
{
    return bits_truncate(vcpu->next_rip + insn->immediate, insn->operand_size);
}

static ALWAYS_INLINE void branch_take(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t target = branch_relative(vcpu, insn);
    branch_check(vcpu, target);
    vcpu->next_rip = target;
}

#define JCC_DEFINE(condition)                                                                      \
    static void jcc_##condition(struct vcpu *vcpu, const struct insn *insn)                        \
    {                                                                                              \
        if (flags_condition(vcpu->rflags, condition))                                              \
            branch_take(vcpu, insn);                                                               \
    }

JCC_DEFINE(0)
JCC_DEFINE(1)
JCC_DEFINE(2)
JCC_DEFINE(3)
JCC_DEFINE(4)
JCC_DEFINE(5)
JCC_DEFINE(6)
JCC_DEFINE(7)
JCC_DEFINE(8)
JCC_DEFINE(9)
JCC_DEFINE(10)
JCC_DEFINE(11)
JCC_DEFINE(12)
JCC_DEFINE(13)
JCC_DEFINE(14)
JCC_DEFINE(15)

insn_fn *jcc_bind(const struct insn *insn)
{
    static insn_fn *const table[16] = {jcc_0,  jcc_1,  jcc_2,  jcc_3, jcc_4,  jcc_5,
                                       jcc_6,  jcc_7,  jcc_8,  jcc_9, jcc_10, jcc_11,
                                       jcc_12, jcc_13, jcc_14, jcc_15};
    return table[insn->condition & 15];
}

void exec_jcc(struct vcpu *vcpu, const struct insn *insn)
{
    jcc_bind(insn)(vcpu, insn);
}

static ALWAYS_INLINE uint64_t branch_target(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t target = insn->op[0].kind == OPERAND_IMMEDIATE ? branch_relative(vcpu, insn)
                                                            : insn_read(vcpu, insn, 0);
    branch_check(vcpu, target);
    return target;
}

void exec_jmp(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->next_rip = branch_target(vcpu, insn);
}

void exec_call(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t target = branch_target(vcpu, insn);
    if (likely(vcpu->mode == MODE_LONG)) {
        uint64_t pointer = vcpu->gpr[GPR_RSP] - 8;
        access_store(vcpu, SEG_SS, pointer, 8, vcpu->next_rip);
        vcpu->gpr[GPR_RSP] = pointer;
    } else {
        access_push(vcpu, insn->operand_size, bits_truncate(vcpu->next_rip, insn->operand_size));
    }
    vcpu->next_rip = target;
}

/* The immediate, if any, is the bytes of parameters to release. */
void exec_ret(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t pointer = vcpu->gpr[GPR_RSP];
    uint64_t target = access_load(vcpu, SEG_SS, bits_truncate(pointer, vcpu->stack_size), size);
    branch_check(vcpu, target);
    pointer += size + (insn->operand_count != 0 ? insn->immediate & 0xffff : 0);
    insn_gpr_set(vcpu, GPR_RSP, vcpu->stack_size, pointer);
    vcpu->next_rip = target;
}

/* The counter's width is the address size. */
void exec_loop(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t count = bits_truncate(vcpu->gpr[GPR_RCX] - 1, insn->address_size);
    bool zero = vcpu->rflags & FLAG_ZF;
    bool taken = count != 0;
    if (insn->mnemonic == ZYDIS_MNEMONIC_LOOPE)
        taken = taken && zero;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        taken = taken && !zero;
    if (taken)
        branch_take(vcpu, insn);
    insn_gpr_set(vcpu, GPR_RCX, insn->address_size, count);
}

void exec_jcxz(struct vcpu *vcpu, const struct insn *insn)
{
    if (insn_gpr_get(vcpu, GPR_RCX, insn->address_size) == 0)
        branch_take(vcpu, insn);
}
