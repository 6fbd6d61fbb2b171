/* PUSH POP PUSHA POPA ENTER LEAVE. RSP moves only when every access has been done. */

#include "cpu/access.h"
#include "cpu/interp/interp.h"

static uint64_t stack_truncate(const struct vcpu *vcpu, uint64_t pointer)
{
    return bits_truncate(pointer, vcpu->stack_size);
}

static void stack_set_pointer(struct vcpu *vcpu, uint64_t pointer)
{
    insn_gpr_set(vcpu, GPR_RSP, vcpu->stack_size, pointer);
}

static ALWAYS_INLINE void push(struct vcpu *vcpu, unsigned size, uint64_t value)
{
    if (likely(vcpu->mode == MODE_LONG)) {
        uint64_t pointer = vcpu->gpr[GPR_RSP] - size;
        access_store(vcpu, SEG_SS, pointer, size, value);
        vcpu->gpr[GPR_RSP] = pointer;
    } else {
        access_push(vcpu, size, value);
    }
}

static ALWAYS_INLINE uint64_t pop(struct vcpu *vcpu, unsigned size)
{
    if (likely(vcpu->mode == MODE_LONG)) {
        uint64_t value = access_load(vcpu, SEG_SS, vcpu->gpr[GPR_RSP], size);
        vcpu->gpr[GPR_RSP] += size;
        return value;
    }
    return access_pop(vcpu, size);
}

/* PUSH RSP pushes the old value, POP RSP keeps what was popped. */
static void push_reg_8(struct vcpu *vcpu, const struct insn *insn)
{
    push(vcpu, 8, vcpu->gpr[insn->op[0].reg]);
}

static void push_any(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value =
        insn->op[0].kind == OPERAND_IMMEDIATE ? insn->immediate : insn_read(vcpu, insn, 0);
    push(vcpu, insn->operand_size, bits_truncate(value, insn->operand_size));
}

insn_fn *push_bind(const struct insn *insn)
{
    return insn->op[0].kind == OPERAND_GPR && insn->op[0].size == 8 ? push_reg_8 : push_any;
}

void exec_push(struct vcpu *vcpu, const struct insn *insn)
{
    push_any(vcpu, insn);
}

static void pop_reg_8(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value = pop(vcpu, 8);
    vcpu->gpr[insn->op[0].reg] = value;
}

/* An address with RSP in it is computed with RSP after the pop, and RSP is the old one still should
 * the store fault. */
static void pop_any(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t old_pointer = vcpu->gpr[GPR_RSP];
    uint64_t value = pop(vcpu, insn->operand_size);
    if (insn->op[0].kind != OPERAND_MEMORY) {
        insn_write(vcpu, insn, 0, value);
        return;
    }
    uint64_t new_pointer = vcpu->gpr[GPR_RSP];
    uint64_t address = insn_address(vcpu, insn);
    vcpu->gpr[GPR_RSP] = old_pointer;
    access_store(vcpu, (enum segment_register)insn->seg, address, insn->operand_size, value);
    vcpu->gpr[GPR_RSP] = new_pointer;
}

insn_fn *pop_bind(const struct insn *insn)
{
    return insn->op[0].kind == OPERAND_GPR && insn->op[0].size == 8 ? pop_reg_8 : pop_any;
}

void exec_pop(struct vcpu *vcpu, const struct insn *insn)
{
    pop_any(vcpu, insn);
}

void exec_pusha(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t pointer = vcpu->gpr[GPR_RSP];
    for (unsigned reg = GPR_RAX; reg <= GPR_RDI; reg++) {
        pointer -= size;
        access_store(vcpu, SEG_SS, stack_truncate(vcpu, pointer), size, vcpu->gpr[reg]);
    }
    stack_set_pointer(vcpu, pointer);
}

void exec_popa(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t pointer = vcpu->gpr[GPR_RSP];
    uint64_t values[GPR_RDI + 1];
    for (unsigned i = 0; i <= GPR_RDI; i++) {
        values[GPR_RDI - i] = access_load(vcpu, SEG_SS, stack_truncate(vcpu, pointer), size);
        pointer += size;
    }
    for (unsigned reg = GPR_RAX; reg <= GPR_RDI; reg++) {
        if (reg != GPR_RSP)
            insn_gpr_set(vcpu, reg, size, values[reg]);
    }
    stack_set_pointer(vcpu, pointer);
}

/* The immediate is the size of the frame, the displacement the nesting level (SDM vol. 1 6.6). */
void exec_enter(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    unsigned level = (unsigned)insn->displacement & 31;
    uint64_t pointer = vcpu->gpr[GPR_RSP] - size;
    access_store(vcpu, SEG_SS, stack_truncate(vcpu, pointer), size, vcpu->gpr[GPR_RBP]);
    uint64_t frame = stack_truncate(vcpu, pointer);
    if (level > 0) {
        uint64_t display = vcpu->gpr[GPR_RBP];
        for (unsigned i = 1; i < level; i++) {
            display -= size;
            pointer -= size;
            uint64_t link = access_load(vcpu, SEG_SS, stack_truncate(vcpu, display), size);
            access_store(vcpu, SEG_SS, stack_truncate(vcpu, pointer), size, link);
        }
        pointer -= size;
        access_store(vcpu, SEG_SS, stack_truncate(vcpu, pointer), size, frame);
    }
    /* The new stack must be there (SDM vol. 2 ENTER: a write to it must not fault). */
    pointer = stack_truncate(vcpu, pointer - (insn->immediate & 0xffff));
    access_check_store(vcpu, access_linear(vcpu, SEG_SS, pointer, size, MMU_WRITE), size);
    stack_set_pointer(vcpu, pointer);
    insn_gpr_set(vcpu, GPR_RBP, size, frame);
}

void exec_leave(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t pointer = stack_truncate(vcpu, vcpu->gpr[GPR_RBP]);
    uint64_t value = access_load(vcpu, SEG_SS, pointer, size);
    stack_set_pointer(vcpu, pointer + size);
    insn_gpr_set(vcpu, GPR_RBP, size, value);
}
