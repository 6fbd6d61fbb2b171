/*
 * SYSCALL and SYSRET, wholly in line, for what 64-bit kernels and programs do with them.
 *
 * Both load CS and SS with fixed attributes and with selectors from STAR, so there is nothing to
 * read but MSRs. The new level's privilege is known when the code is made, and it goes on by that
 * privilege's jump cache. Neither TF nor RF is ever set while generated code runs. What the fast
 * path does not do: alignment checks at CPL 3 or SMAP suspended in the new level (AC), SYSRET to
 * compatibility mode, and SYSRET where it might have to let an interrupt in.
 */

#include <Zydis/Zydis.h>

#include "cpu/system/descriptor.h"
#include "cpu/translate/context.h"

#define MEMBER(member) rm_vcpu(offsetof(struct vcpu, member))

/* As cpu/system/fast.c's load_flat. */
#define FLAT_CODE64 (SEG_S | SEG_P | SEG_G | SEG_L | TYPE_CODE | TYPE_READABLE | TYPE_ACCESSED)
#define FLAT_DATA   (SEG_S | SEG_P | SEG_G | SEG_DB | TYPE_WRITABLE | TYPE_ACCESSED)

#define SYSRET_FLAGS                                                                               \
    (FLAGS_STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_VIF | FLAG_VIP | FLAG_ID)

static void put_u32(struct context *c, struct emit_rm member, uint32_t value, bool wide)
{
    emit_op(&c->e, wide ? EMIT_W : 0, 0xc7, 0, member);
    emit_u32(&c->e, value);
}

/* T1: the selector. */
static void emit_segment(struct context *c, unsigned seg, uint32_t attributes)
{
    size_t at = offsetof(struct vcpu, seg) + seg * sizeof(struct segment);
    put_u32(c, rm_vcpu(at + offsetof(struct segment, base)), 0, true);
    put_u32(c, rm_vcpu(at + offsetof(struct segment, limit)), UINT32_MAX, false);
    put_u32(c, rm_vcpu(at + offsetof(struct segment, attributes)), attributes, false);
    emit_op(&c->e, EMIT_66, 0x89, T1, rm_vcpu(at + offsetof(struct segment, selector)));
}

static void emit_level(struct context *c, unsigned cpl, enum mmu_privilege privilege)
{
    emit_op(&c->e, 0, 0xc6, 0, MEMBER(cpl));
    emit_u8(&c->e, cpl);
    put_u32(c, MEMBER(privilege), privilege, false);
    c->privilege = privilege;
}

static struct slow_path *begin(struct context *c)
{
    struct slow_path *slow = context_slow_begin(c);
    slow->exits = true;
    c->in_host = false;
    emit_op(&c->e, 0, 0xf7, 0, MEMBER(mmu.efer)); /* test */
    emit_u32(&c->e, EFER_SCE);
    context_slow_jump(c, slow, CONDITION_E);
    return slow;
}

/* T1: the new flags. */
static void emit_flags_check(struct context *c, struct slow_path *slow, uint32_t refused)
{
    emit_op(&c->e, 0, 0xf7, 0, rm_reg(T1)); /* test */
    emit_u32(&c->e, refused);
    context_slow_jump(c, slow, CONDITION_NE);
}

static void emit_flags_put(struct context *c)
{
    emit_alu_immediate(&c->e, 1, 4, rm_reg(T1), FLAG_FIXED);
    emit_store(&c->e, MEMBER(rflags), T1);
    emit_flags_give(&c->e, T1, T2, FLAGS_SLOT);
}

static void emit_syscall(struct context *c)
{
    struct emit *e = &c->e;
    struct slow_path *slow = begin(c);
    emit_flags_take(e, T0, T1, FLAGS_SLOT);
    emit_op(e, 0, 0x8b, T1, MEMBER(rflags));
    emit_alu_immediate(e, 4, 4, rm_reg(T1), ~(uint32_t)FLAGS_STATUS);
    emit_op(e, 0, 0x0b, T0, rm_reg(T1)); /* or */
    emit_op(e, 0, 0x8b, T1, MEMBER(msr.sfmask));
    emit_op(e, 0, 0xf7, 2, rm_reg(T1)); /* not */
    emit_op(e, 0, 0x23, T1, rm_reg(T0));
    emit_flags_check(c, slow, FLAG_AC);
    /* Nothing can fail from here on. */
    emit_store(e, context_in_frame(c, GPR_R11), T0);
    emit_rip(e, c->translation, HOST_RCX, c->next_rip);
    emit_flags_put(c);
    emit_op(e, 0, 0x0fb7, T1, rm_vcpu(offsetof(struct vcpu, msr.star) + 4)); /* bits 32-47 */
    emit_alu_immediate(e, 4, 4, rm_reg(T1), ~3u);
    emit_segment(c, SEG_CS, FLAT_CODE64);
    emit_alu_immediate(e, 0, 4, rm_reg(T1), 8);
    emit_segment(c, SEG_SS, FLAT_DATA);
    emit_level(c, 0, MMU_SUPERVISOR);
    emit_load(e, T0, MEMBER(msr.lstar));
    flow_go(c);
}

static void emit_sysret(struct context *c)
{
    struct emit *e = &c->e;
    const uint32_t user = 3u << 5; /* DPL */
    struct slow_path *slow = begin(c);
    context_slow_unless_canonical(c, slow, HOST_RCX);
    emit_alu_immediate(e, 7, 8, MEMBER(attention), 0); /* and irq_waiting: see privileged.c */
    context_slow_jump(c, slow, CONDITION_NE);
    emit_load(e, T1, context_in_frame(c, GPR_R11));
    emit_flags_check(c, slow, FLAG_TF | FLAG_AC);
    emit_alu_immediate(e, 4, 4, rm_reg(T1), SYSRET_FLAGS);
    emit_flags_put(c);
    emit_op(e, 0, 0x0fb7, T1, rm_vcpu(offsetof(struct vcpu, msr.star) + 6)); /* bits 48-63 */
    emit_alu_immediate(e, 0, 4, rm_reg(T1), 8);
    emit_alu_immediate(e, 1, 4, rm_reg(T1), 3);
    emit_segment(c, SEG_SS, FLAT_DATA | user);
    emit_alu_immediate(e, 0, 4, rm_reg(T1), 8);
    emit_segment(c, SEG_CS, FLAT_CODE64 | user);
    emit_level(c, 3, MMU_USER);
    emit_mov(e, T0, HOST_RCX);
    flow_go(c);
}

bool level_emit(struct context *c)
{
    bool is_kernel = c->privilege == MMU_SUPERVISOR || c->privilege == MMU_SUPERVISOR_AC;
    switch (c->insn->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
        emit_syscall(c);
        return true;
    case ZYDIS_MNEMONIC_SYSRET:
        if (!is_kernel || c->insn->operand_size != 8)
            return false;
        emit_sysret(c);
        return true;
    default:
        return false;
    }
}
