/*
 * System instructions that kernels execute all the time, in line.
 *
 * Translated code runs at CPL 0 or 3 (vcpu->is_translatable), so the privilege that a translation
 * is made for tells the CPL. What depends on CR4 or EFER looks at them each time. Whatever is not
 * plain goes to the handler, before anything of it has been done.
 *
 *     cli         and dword gs:[rflags], ~IF
 *
 *     sti         cmp qword gs:[attention], 0     with irq_waiting behind it
 *                 jne slow                        the handler, and the dispatcher
 *                 or  dword gs:[rflags], IF
 *
 * The interrupt shadow. An interrupt that could be taken after STI must be, and not before the next
 * instruction has ended. If none waits when STI is executed, one that comes later may as well have
 * come later still: the next instruction is in the same block, where nobody looks at attention
 * before it has ended. If something does wait, the handler sets up the shadow.
 *
 * STAC and CLAC change which TLB is probed, so what follows in the block is emitted for the other
 * privilege. Which one it is depends on CR4.SMAP: the code assumes what is set when it is made, and
 * checks that.
 */

#include <Zydis/Zydis.h>

#include "cpu/translate/context.h"

#define MEMBER(member) rm_vcpu(offsetof(struct vcpu, member))

_Static_assert(offsetof(struct vcpu, irq_waiting) == offsetof(struct vcpu, attention) + 4 &&
                   offsetof(struct vcpu, attention) % 8 == 0,
               "one compare for both");

static bool is_kernel(const struct context *c)
{
    return c->privilege == MMU_SUPERVISOR || c->privilege == MMU_SUPERVISOR_AC;
}

/* Goes to the slow path unless (`set`: if) none of these bits is set in the member, 4 bytes. */
static void slow_unless(struct context *c, struct slow_path *slow, struct emit_rm member,
                        uint32_t bits, bool set)
{
    emit_op(&c->e, 0, 0xf7, 0, member); /* test */
    emit_u32(&c->e, bits);
    context_slow_jump(c, slow, set ? CONDITION_E : CONDITION_NE);
}

/* Flags other than the status flags, which are not in the CPU. */
static void emit_flag(struct context *c, uint32_t flag, bool set)
{
    context_flags_save(c);
    c->in_host = false;
    emit_alu_immediate(&c->e, set ? 1 : 4, 4, MEMBER(rflags), set ? flag : ~flag);
}

static void emit_sti(struct context *c)
{
    struct slow_path *slow = context_slow_begin(c);
    slow->exits = true;
    emit_alu_immediate(&c->e, 7, 8, MEMBER(attention), 0);
    context_slow_jump(c, slow, CONDITION_NE);
    emit_flag(c, FLAG_IF, true);
}

static void emit_access_override(struct context *c, bool set)
{
    if (set) {
        bool smap = (c->translate->vcpu->mmu.cr4 & CR4_SMAP) != 0;
        struct slow_path *slow = context_slow_begin(c);
        slow->exits = true;
        slow_unless(c, slow, MEMBER(mmu.cr4), CR4_SMAP, smap);
        c->privilege = smap ? MMU_SUPERVISOR_AC : MMU_SUPERVISOR;
    } else {
        c->privilege = MMU_SUPERVISOR;
    }
    emit_flag(c, FLAG_AC, set);
    emit_op(&c->e, 0, 0xc7, 0, MEMBER(privilege)); /* mov */
    emit_u32(&c->e, c->privilege);
}

/* The image: status flags from the slot, the others from where they are. */
static void emit_pushf(struct context *c)
{
    struct emit *e = &c->e;
    struct slow_path *slow = context_slow_begin(c);
    emit_lea(e, T0, rm_at(HOST_R15, -8));
    context_probe(c, slow, 8, true);
    emit_flags_take(e, T1, T2, FLAGS_SLOT);
    emit_op(e, 0, 0x8b, T2, MEMBER(rflags));
    emit_alu_immediate(e, 4, 4, rm_reg(T2), ~(uint32_t)(FLAGS_STATUS | FLAG_VM | FLAG_RF));
    emit_op(e, 0, 0x09, T1, rm_reg(T2)); /* or */
    emit_store(e, rm_at(T0, 0), T2);
    emit_lea(e, HOST_R15, rm_at(HOST_R15, -8));
    context_slow_end(c, slow);
}

static void emit_swapgs(struct context *c)
{
    struct emit *e = &c->e;
    emit_load(e, T0, MEMBER(seg[SEG_GS].base));
    emit_load(e, T1, MEMBER(msr.kernel_gs_base));
    emit_store(e, MEMBER(msr.kernel_gs_base), T0);
    emit_store(e, MEMBER(seg[SEG_GS].base), T1);
}

/* RDTSC, and RDTSCP, which waits for all before it, as LFENCE does. */
static void emit_rdtsc(struct context *c)
{
    struct emit *e = &c->e;
    bool with_aux = c->insn->mnemonic == ZYDIS_MNEMONIC_RDTSCP;
    struct slow_path *slow = NULL;
    context_flags_save(c);
    if (!is_kernel(c)) {
        slow = context_slow_begin(c);
        slow_unless(c, slow, MEMBER(mmu.cr4), CR4_TSD, false);
    }
    if (with_aux)
        emit_fence(e, EMIT_LFENCE);
    emit_u8(e, 0x0f);
    emit_u8(e, 0x31);
    emit_op(e, EMIT_W, 0xc1, 4, rm_reg(HOST_RDX)); /* shl */
    emit_u8(e, 32);
    emit_op(e, EMIT_W, 0x09, HOST_RDX, rm_reg(HOST_RAX)); /* or rax, rdx */
    emit_op(e, EMIT_W, 0x03, HOST_RAX, MEMBER(tsc_offset));
    emit_mov(e, HOST_RDX, HOST_RAX);
    emit_op(e, EMIT_W, 0xc1, 5, rm_reg(HOST_RDX)); /* shr */
    emit_u8(e, 32);
    emit_op(e, 0, 0x8b, HOST_RAX, rm_reg(HOST_RAX));
    if (with_aux)
        emit_op(e, 0, 0x8b, HOST_RCX, MEMBER(msr.tsc_aux));
    c->in_host = false;
    if (slow != NULL)
        context_slow_end(c, slow);
}

/* A register of the guest's gets a member of `size` bytes, zero-extended. */
static void emit_read(struct context *c, struct emit_rm member, unsigned size)
{
    unsigned gpr = c->insn->op[0].reg, to = context_place(gpr, T0);
    emit_op(&c->e, emit_size(size) & EMIT_W, size == 2 ? 0x0fb7 : 0x8b, to, member);
    context_put(c, gpr, to);
}

static bool emit_mov_from_segment(struct context *c)
{
    if (c->insn->op[0].kind != OPERAND_GPR || c->insn->op[0].size < 4)
        return false;
    emit_read(c,
              rm_vcpu(offsetof(struct vcpu, seg) + c->insn->op[1].reg * sizeof(struct segment) +
                      offsetof(struct segment, selector)),
              2);
    return true;
}

static bool emit_mov_from_control(struct context *c)
{
    if (!is_kernel(c))
        return false;
    switch (c->insn->op[1].reg) {
    case 0:
        emit_read(c, MEMBER(mmu.cr0), 8);
        return true;
    case 2:
        emit_read(c, MEMBER(cr2), 8);
        return true;
    case 3:
        emit_read(c, MEMBER(mmu.cr3), 8);
        return true;
    case 4:
        emit_read(c, MEMBER(mmu.cr4), 8);
        return true;
    default:
        return false;
    }
}

static void emit_read_base(struct context *c, struct emit_rm base)
{
    struct slow_path *slow = context_slow_begin(c);
    slow_unless(c, slow, MEMBER(mmu.cr4), CR4_FSGSBASE, true);
    c->in_host = false;
    emit_read(c, base, c->insn->op[0].size);
    context_slow_end(c, slow);
}

static void emit_write_base(struct context *c, struct emit_rm base)
{
    struct emit *e = &c->e;
    const struct operand *op = &c->insn->op[0];
    struct slow_path *slow = context_slow_begin(c);
    slow_unless(c, slow, MEMBER(mmu.cr4), CR4_FSGSBASE, true);
    c->in_host = false;
    unsigned from = context_get(c, op->reg, T0);
    if (op->size == 8) {
        context_slow_unless_canonical(c, slow, from);
    } else {
        emit_op(e, 0, 0x8b, T0, rm_reg(from));
        from = T0;
    }
    emit_store(e, base, from);
    context_slow_end(c, slow);
}

bool privileged_emit(struct context *c, bool is_last)
{
    const struct insn *insn = c->insn;
    const struct vcpu *vcpu = c->translate->vcpu;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
        emit_flag(c, FLAG_DF, insn->mnemonic == ZYDIS_MNEMONIC_STD);
        return true;
    case ZYDIS_MNEMONIC_PUSHFQ:
        if (insn->operand_size != 8)
            return false;
        emit_pushf(c);
        return true;
    case ZYDIS_MNEMONIC_RDTSC:
        emit_rdtsc(c);
        return true;
    case ZYDIS_MNEMONIC_RDTSCP:
        if (!features_has(vcpu->features, FEATURE_RDTSCP))
            return false;
        emit_rdtsc(c);
        return true;
    case ZYDIS_MNEMONIC_LFENCE:
        emit_fence(&c->e, EMIT_LFENCE);
        return true;
    case ZYDIS_MNEMONIC_MFENCE:
        emit_fence(&c->e, EMIT_MFENCE);
        return true;
    case ZYDIS_MNEMONIC_SFENCE:
        emit_fence(&c->e, EMIT_SFENCE);
        return true;
    case ZYDIS_MNEMONIC_PAUSE:
        emit_u8(&c->e, 0xf3);
        emit_u8(&c->e, 0x90);
        return true;
    case ZYDIS_MNEMONIC_RDFSBASE:
        emit_read_base(c, MEMBER(seg[SEG_FS].base));
        return true;
    case ZYDIS_MNEMONIC_RDGSBASE:
        emit_read_base(c, MEMBER(seg[SEG_GS].base));
        return true;
    case ZYDIS_MNEMONIC_WRFSBASE:
        emit_write_base(c, MEMBER(seg[SEG_FS].base));
        return true;
    case ZYDIS_MNEMONIC_WRGSBASE:
        emit_write_base(c, MEMBER(seg[SEG_GS].base));
        return true;
    case ZYDIS_MNEMONIC_MOV:
        if (insn->op[1].kind == OPERAND_SEGMENT)
            return emit_mov_from_segment(c);
        return insn->op[1].kind == OPERAND_CONTROL && emit_mov_from_control(c);
    default:
        break;
    }
    if (!is_kernel(c))
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        emit_flag(c, FLAG_IF, false);
        return true;
    case ZYDIS_MNEMONIC_STI:
        if (is_last)
            return false; /* whoever goes on from here looks at attention first */
        emit_sti(c);
        return true;
    case ZYDIS_MNEMONIC_SWAPGS:
        emit_swapgs(c);
        return true;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        if (!features_has(vcpu->features, FEATURE_SMAP))
            return false;
        emit_access_override(c, insn->mnemonic == ZYDIS_MNEMONIC_STAC);
        return true;
    default:
        return false;
    }
}
