/*
 * The fixed routines of generated code.
 *
 *   enter(code)          a C function: saves the host's registers, loads the guest's, jumps to code
 *                        that expects the flags in their slot, RIP in T0. Returns the link through
 *                        which the guest left (a struct link, or NULL)
 *   slow                 T0: the key of a slow path, see slow.c; flags in their slot. One for each
 *                        level of vector registers that are to be in the CPU afterwards
 *   call_handler         T0: the instruction, T1: its RIP. Runs its handler on struct vcpu, as the
 *                        interpreter would, and goes on after the call; or leaves for the
 *                        dispatcher, where the handler has asked for it
 *   call_handler_exit    the same, and leaves always
 *   exit_saved           T0: RIP to go on at; flags in their slot
 *   exit_host            the same, flags in the CPU
 *   exit_link_saved      T0: the link (a ref) to go on by, which says where; flags in their slot
 *   exit_link_host       the same, flags in the CPU
 *   exit_jump            T0: RIP to go on at; flags in their slot. Where there is nothing for the
 *                        dispatcher to do, goes on at the code that the jump cache has
 *   jump_second          a subroutine: looks T0 up again in the table at T2, in both places. Then
 *                        [T2 + 8 * T1] is the entry to go on by; that of the dispatcher if there is
 *                        none, or attention is wanted. ZF: T0 is canonical
 *   second_look          a subroutine: looks T0, a linear address, up in the TLB's spare table, and
 *                        then asks the MMU (slow_find); T2 is its last byte, or the page of that.
 *                        ZF: T0 is the host address. Spoils T1 and T2. One for each privilege and
 *                        access
 *   stack_look           the same for what is not in the stack page: looks into the first table
 *                        before that, and fills the stack page, if it is that of RSP
 *   third_look           what is the same of all these. T1: privilege and access
 *
 * Leaving after a handler (go_on) is going on by exit_jump, if the vCPU runs on in 64-bit mode and
 * the dispatcher has no dead translations to bury.
 *
 * A handler that raises an exception leaves by longjmp, and everything it may look at has been
 * stored before. Vector registers go to memory before any of this leaves generated code, and come
 * back by routines of vector_state.c.
 */

#include "cpu/translate/context.h"

#define OFFSET(member) rm_vcpu(offsetof(struct vcpu, member))

static const uint8_t callee_saved[] = {HOST_RBX, HOST_RBP, HOST_R12, HOST_R13, HOST_R14, HOST_R15};

/* To struct vcpu and back, where C is to see or to change them. The frame is at [RSP + frame].
 * Both spoil T2. Coming back, there are no stack pages any more. */
static void emit_store_guest(struct emit *e, int32_t frame)
{
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++) {
        struct emit_rm from = rm_gpr(gpr);
        from.displacement += frame;
        if (host_of(gpr) == HOST_NONE)
            emit_load(e, T2, from);
        emit_store(e, rm_vcpu_gpr(gpr), host_of(gpr) == HOST_NONE ? T2 : host_of(gpr));
    }
}

static void emit_load_guest(struct emit *e, int32_t frame)
{
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++) {
        struct emit_rm to = rm_gpr(gpr);
        to.displacement += frame;
        emit_load(e, host_of(gpr) == HOST_NONE ? T2 : host_of(gpr), rm_vcpu_gpr(gpr));
        if (host_of(gpr) == HOST_NONE)
            emit_store(e, to, T2);
    }
    for (unsigned privilege = 0; privilege < STACK_PAGES; privilege++) {
        emit_op(e, EMIT_W, 0xc7, 0,
                rm_stack(privilege, offsetof(struct stack_page, limit), frame)); /* mov */
        emit_u32(e, 0);
    }
}

/* vcpu->rflags gets the status flags of the slot, which is at [RSP + slot]. Spoils RAX, RCX. */
static void emit_store_flags(struct emit *e, int32_t slot)
{
    emit_flags_take(e, HOST_RAX, HOST_RCX, slot);
    emit_load(e, HOST_RCX, OFFSET(rflags));
    emit_alu_immediate(e, 4, 8, rm_reg(HOST_RCX), ~(uint64_t)FLAGS_STATUS);
    emit_op(e, EMIT_W, 0x09, HOST_RAX, rm_reg(HOST_RCX)); /* or rcx, rax */
    emit_store(e, OFFSET(rflags), HOST_RCX);
}

/* RAX is the result of enter. */
static void emit_leave(struct emit *e)
{
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, FRAME_SIZE));
    for (unsigned i = sizeof(callee_saved); i-- > 0;) {
        if (callee_saved[i] & 8)
            emit_u8(e, 0x41);
        emit_u8(e, 0x58 | (callee_saved[i] & 7));
    }
    emit_u8(e, 0xc3);
}

static void emit_enter(struct emit *e)
{
    for (unsigned i = 0; i < sizeof(callee_saved); i++) {
        if (callee_saved[i] & 8)
            emit_u8(e, 0x41);
        emit_u8(e, 0x50 | (callee_saved[i] & 7));
    }
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, -FRAME_SIZE));
    emit_mov(e, T1, HOST_RDI);
    emit_load(e, T0, OFFSET(rflags));
    emit_flags_give(e, T0, T2, FLAGS_SLOT);
    emit_load_guest(e, 0);
    emit_load(e, T0, OFFSET(rip));
    emit_op(e, 0, 0xff, 4, rm_reg(T1)); /* jmp */
}

static uint32_t emit_jump_unless(struct emit *e, unsigned size, struct emit_rm rm, unsigned value)
{
    emit_alu_immediate(e, 7, size, rm, value);
    return emit_jcc(e, CONDITION_NE);
}

_Static_assert(sizeof(bool) == 1, "compared below");

/* After a handler: from one translation to the next if there is nothing for the dispatcher to do.
 * RSP is the frame. */
static void emit_go_on(struct emit *e, const struct translate *translate)
{
    uint32_t out[4];
    emit_constant(e, T0, (uint64_t)(uintptr_t)&translate->dead);
    out[0] = emit_jump_unless(e, 4, rm_at(T0, 0), 0);
    out[1] = emit_jump_unless(e, 4, OFFSET(attention), 0);
    out[2] = emit_jump_unless(e, 1, OFFSET(is_translatable), 1);
    out[3] = emit_jump_unless(e, 1, OFFSET(halted), 0);
    emit_op(e, 0, 0xc6, 0, OFFSET(leave_block)); /* mov */
    emit_u8(e, 0);
    emit_load(e, T1, OFFSET(rflags));
    emit_flags_give(e, T1, T2, FLAGS_SLOT);
    emit_load_guest(e, 0);
    emit_load(e, T0, OFFSET(rip));
    emit_jmp_to(e, translate->exit_jump);
    for (unsigned i = 0; i < ARRAY_LENGTH(out); i++)
        emit_link(e, out[i], emit_offset(e));
    emit_op(e, 0, 0x31, HOST_RAX, rm_reg(HOST_RAX));
    emit_leave(e);
}

/* On entry RSP has the return address, and the caller has moved RSP down by 8 before that. */
static void emit_call_handler(struct emit *e, struct translate *translate, bool exits,
                              uint32_t go_on)
{
    const struct vcpu *vcpu = translate->vcpu;
    const int32_t frame = 16, slot = frame + FLAGS_SLOT;
    emit_store_guest(e, frame);
    emit_store(e, OFFSET(rip), T1);
    emit_op(e, 0, 0x0fb6, T2, rm_at(T0, offsetof(struct insn, length)));
    emit_op(e, EMIT_W, 0x01, T1, rm_reg(T2)); /* add T2, T1 */
    emit_store(e, OFFSET(next_rip), T2);
    emit_store_flags(e, slot);
    vectors_emit_save(e, translate);
    emit_constant(e, HOST_RDI, (uint64_t)(uintptr_t)vcpu);
    emit_mov(e, HOST_RSI, T0);
    emit_op(e, 0, 0xff, 2, rm_at(HOST_RSI, offsetof(struct insn, exec))); /* call */
    emit_load(e, HOST_RAX, OFFSET(next_rip));
    emit_store(e, OFFSET(rip), HOST_RAX);
    uint32_t stay = 0;
    if (!exits) {
        emit_alu_immediate(e, 7, 1, OFFSET(leave_block), 0);
        stay = emit_jcc(e, CONDITION_E);
    }
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, frame));
    emit_jmp_to(e, go_on);
    if (exits)
        return;
    emit_link(e, stay, emit_offset(e));
    emit_load(e, T0, OFFSET(rflags));
    emit_flags_give(e, T0, T1, slot);
    emit_load_guest(e, frame);
    emit_u8(e, 0xc3);
}

/* For each level of vector registers that are to be in the CPU when it resumes. */
static void emit_slow(struct emit *e, const struct translate *translate, unsigned vectors,
                      uint32_t go_on)
{
    emit_store_guest(e, 0);
    emit_store_flags(e, FLAGS_SLOT);
    emit_op(e, 0, 0x8b, HOST_RSI, rm_reg(T0));
    vectors_emit_save(e, translate);
    emit_constant(e, HOST_RDI, (uint64_t)(uintptr_t)translate->vcpu);
    emit_constant(e, HOST_RAX, (uint64_t)(uintptr_t)slow_run);
    emit_op(e, 0, 0xff, 2, rm_reg(HOST_RAX));             /* call */
    emit_op(e, EMIT_W, 0x85, HOST_RAX, rm_reg(HOST_RAX)); /* test */
    emit_link(e, emit_jcc(e, CONDITION_E), go_on);
    emit_store(e, rm_at(HOST_RSP, FRAME_TARGET), HOST_RAX);
    emit_load(e, T0, OFFSET(rflags));
    emit_flags_give(e, T0, T1, FLAGS_SLOT);
    emit_load_guest(e, 0);
    if (vectors != VECTORS_NONE) {
        emit_load(e, T1, OFFSET(rip));
        emit_lea(e, HOST_RSP, rm_at(HOST_RSP, -8));
        emit_call_to(e, translate->vectors_load[vectors]);
        emit_lea(e, HOST_RSP, rm_at(HOST_RSP, 8));
    }
    emit_flags_load(e);
    emit_op(e, 0, 0xff, 4, rm_at(HOST_RSP, FRAME_TARGET)); /* jmp */
}

/* RAX, the result of enter, is always NULL. */
static void emit_exit(struct emit *e, const struct translate *translate)
{
    emit_store(e, OFFSET(rip), T0);
    emit_store_guest(e, 0);
    emit_store_flags(e, FLAGS_SLOT);
    vectors_emit_save(e, translate);
    emit_op(e, 0, 0x31, HOST_RAX, rm_reg(HOST_RAX));
    emit_leave(e);
}

/* T0: a link. RIP follows from it. */
static void emit_exit_link(struct emit *e, const struct translate *translate)
{
    emit_store_guest(e, 0);
    emit_store_flags(e, FLAGS_SLOT);
    vectors_emit_save(e, translate);
    emit_constant(e, HOST_RAX, (uint64_t)(uintptr_t)translate->code.data);
    _Static_assert(REF_UNIT == 8, "the scale");
    emit_lea(e, HOST_RAX, (struct emit_rm){1, 0, HOST_RAX, T0, 3, 0});
    emit_leave(e);
}

/*
 * slow_find is called as if from C, with the guest's registers as they are in the vCPU meanwhile,
 * and vector registers as well where they are in the CPU: they come back at the level they were at.
 */
static void emit_third_look(struct emit *e, const struct translate *translate)
{
    enum { RESULT = 0, ABSENT = 8, SIZE = 24, FRAME = SIZE + 8 }; /* which keeps RSP aligned */
    _Static_assert(offsetof(struct vcpu_vectors, avx_absent) ==
                       offsetof(struct vcpu_vectors, sse_absent) + 1,
                   "both are saved together");
    emit_op(e, EMIT_W, 0x33, T2, rm_reg(T0)); /* one page: only then they differ in its low bits */
    emit_alu_immediate(e, 7, 8, rm_reg(T2), PAGE_MASK);
    uint32_t crosses = emit_jcc(e, CONDITION_A);
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, -SIZE));
    emit_store_guest(e, FRAME);
    emit_op(e, 0, 0x0fb7, T2, OFFSET(vectors.sse_absent));
    emit_store(e, rm_at(HOST_RSP, ABSENT), T2);
    vectors_emit_save(e, translate);
    emit_constant(e, HOST_RDI, (uint64_t)(uintptr_t)translate->vcpu);
    emit_mov(e, HOST_RSI, T0);
    emit_mov(e, HOST_RDX, T1);
    emit_constant(e, HOST_RAX, (uint64_t)(uintptr_t)slow_find);
    emit_op(e, 0, 0xff, 2, rm_reg(HOST_RAX)); /* call */
    emit_store(e, rm_at(HOST_RSP, RESULT), HOST_RAX);
    vectors_emit_restore(e, translate, rm_at(HOST_RSP, ABSENT));
    emit_load_guest(e, FRAME);
    emit_load(e, T0, rm_at(HOST_RSP, RESULT));
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, SIZE));
    emit_op(e, EMIT_W, 0x85, T0, rm_reg(T0)); /* test */
    uint32_t none = emit_jcc(e, CONDITION_E);
    emit_op(e, EMIT_W, 0x3b, T0, rm_reg(T0));
    emit_u8(e, 0xc3);
    emit_link(e, none, emit_offset(e));
    emit_op(e, EMIT_W, 0x85, HOST_RSP, rm_reg(HOST_RSP));
    emit_link(e, crosses, emit_offset(e));
    emit_u8(e, 0xc3);
}

/* T0 becomes a host address, with ZF. */
static void emit_found(struct emit *e, struct emit_rm addend)
{
    emit_op(e, EMIT_W, 0x03, T0, addend);
    emit_op(e, EMIT_W, 0x3b, T0, rm_reg(T0));
    emit_u8(e, 0xc3);
}

/* As tlb_spare_slot says, all of it shifted by PAGE_SHIFT. The slot is by T0, the first byte. */
static void emit_second_look(struct emit *e, const struct mmu *mmu, unsigned privilege,
                             enum mmu_access access, uint32_t third_look)
{
    struct tlb_rm entry = rm_tlb_spare(privilege, access, T1);
    emit_alu_immediate(e, 4, 8, rm_reg(T2), ~PAGE_MASK);
    emit_mov(e, T1, T0);
    emit_op(e, EMIT_W, 0xc1, 5, rm_reg(T1)); /* shr */
    emit_u8(e, (uint8_t)(PAGE_SHIFT + mmu->tlb_spare_bits));
    emit_op(e, EMIT_W, 0x69, T1, rm_reg(T1)); /* imul */
    emit_u32(e, TLB_SPARE_FACTOR);
    emit_op(e, EMIT_W, 0xc1, 4, rm_reg(T1)); /* shl */
    emit_u8(e, PAGE_SHIFT);
    emit_op(e, EMIT_W, 0x33, T1, rm_reg(T0));
    emit_op(e, EMIT_W, 0xc1, 5, rm_reg(T1));
    emit_u8(e, PAGE_SHIFT - ENTRY_SHIFT);
    emit_alu_immediate(e, 4, 4, rm_reg(T1), (bit(mmu->tlb_spare_bits) - 1) << ENTRY_SHIFT);
    emit_op(e, EMIT_W, 0x3b, T2, entry.tag);
    uint32_t miss = emit_jcc(e, CONDITION_NE);
    emit_found(e, entry.addend);
    emit_link(e, miss, emit_offset(e));
    emit_constant(e, T1, privilege << 1 | access);
    emit_jmp_to(e, third_look);
}

static void emit_stack_look(struct emit *e, unsigned privilege, enum mmu_access access,
                            uint32_t second_look)
{
    enum { FRAME = 8 }; /* above the return address */
    struct tlb_rm read = rm_tlb(privilege, MMU_READ, T1);
    struct tlb_rm write = rm_tlb(privilege, MMU_WRITE, T1);
    emit_alu_immediate(e, 4, 8, rm_reg(T2), ~PAGE_MASK);
    emit_mov(e, T1, T0);
    emit_op(e, EMIT_W, 0xc1, 5, rm_reg(T1)); /* shr */
    emit_u8(e, PAGE_SHIFT - ENTRY_SHIFT);
    emit_alu_immediate(e, 4, 4, rm_reg(T1), (TLB_ENTRIES - 1) << ENTRY_SHIFT);
    emit_op(e, EMIT_W, 0x3b, T2, write.tag);
    uint32_t is_not_write = emit_jcc(e, CONDITION_NE);
    /* Is it that of RSP? */
    emit_op(e, EMIT_W, 0x33, T2, rm_reg(HOST_R15)); /* xor */
    emit_alu_immediate(e, 7, 8, rm_reg(T2), PAGE_MASK);
    uint32_t elsewhere = emit_jcc(e, CONDITION_A);
    emit_op(e, EMIT_W, 0x33, T2, rm_reg(HOST_R15));
    emit_store(e, rm_stack(privilege, offsetof(struct stack_page, page), FRAME), T2);
    emit_op(e, EMIT_W, 0xc7, 0, rm_stack(privilege, offsetof(struct stack_page, limit), FRAME));
    emit_u32(e, STACK_LIMIT);
    emit_op(e, EMIT_W, 0x03, T2, write.addend);
    emit_store(e, rm_stack(privilege, offsetof(struct stack_page, host), FRAME), T2);
    emit_link(e, elsewhere, emit_offset(e));
    emit_found(e, write.addend);
    emit_link(e, is_not_write, emit_offset(e));
    if (access == MMU_READ) {
        emit_op(e, EMIT_W, 0x3b, T2, read.tag);
        emit_link(e, emit_jcc(e, CONDITION_NE), second_look);
        emit_found(e, read.addend);
    } else {
        emit_jmp_to(e, second_look);
    }
}

static void emit_jump_second(struct emit *e)
{
    uint32_t attention = emit_jump_unless(e, 4, OFFSET(attention), 0);
    emit_mov(e, T1, T0);
    emit_op(e, EMIT_W, 0xc1, 5, rm_reg(T1)); /* shr */
    emit_u8(e, JUMP_SHIFT);
    emit_op(e, 0, 0x33, T1, rm_reg(T0));
    emit_alu_immediate(e, 4, 4, rm_reg(T1), JUMP_MASK);
    emit_op(e, EMIT_W, 0x3b, T0, rm_jump(offsetof(struct jump, rip)));
    uint32_t first = emit_jcc(e, CONDITION_E);
    emit_alu_immediate(e, 6, 4, rm_reg(T1), 2); /* xor */
    emit_op(e, EMIT_W, 0x3b, T0, rm_jump(offsetof(struct jump, rip)));
    uint32_t second = emit_jcc(e, CONDITION_E);
    emit_link(e, attention, emit_offset(e));
    emit_compare_canonical(e, T1, T0);
    emit_constant(e, T1, 0); /* entry 0, for the dispatcher */
    emit_link(e, first, emit_offset(e));
    emit_link(e, second, emit_offset(e));
    emit_u8(e, 0xc3);
}

static void emit_exit_jump(struct emit *e, const struct translate *translate)
{
    emit_op(e, 0, 0x8b, T1, OFFSET(privilege));
    emit_op(e, EMIT_W, 0x69, T1, rm_reg(T1)); /* imul */
    emit_u32(e, sizeof(struct jump_cache));
    emit_constant(e, T2, (uint64_t)(uintptr_t)translate->jumps[0].jumps);
    emit_op(e, EMIT_W, 0x03, T2, rm_reg(T1));
    emit_call_to(e, translate->jump_second);
    uint32_t miss = emit_jcc(e, CONDITION_NE);
    emit_op(e, 0, 0xff, 4, rm_jump(offsetof(struct jump, code)));
    emit_link(e, miss, translate->exit_saved);
}

void translate_emit_stubs(struct translate *translate)
{
    struct emit e = emit_begin(translate->code.write, 0);
    vectors_emit_save_stub(translate, &e);
    translate->enter = emit_offset(&e);
    emit_enter(&e);
    translate->exit_host = emit_offset(&e);
    emit_flags_save(&e);
    translate->exit_saved = emit_offset(&e);
    emit_exit(&e, translate);
    translate->exit_link_host = emit_offset(&e);
    emit_flags_save(&e);
    translate->exit_link_saved = emit_offset(&e);
    emit_exit_link(&e, translate);
    translate->jump_second = emit_offset(&e);
    emit_jump_second(&e);
    vectors_emit_load_stubs(translate, &e);
    uint32_t third_look = emit_offset(&e);
    emit_third_look(&e, translate);
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        for (enum mmu_access access = MMU_READ; access <= MMU_WRITE; access++) {
            translate->second_look[privilege][access] = emit_offset(&e);
            emit_second_look(&e, &translate->vcpu->mmu, privilege, access, third_look);
            if (privilege >= STACK_PAGES)
                continue;
            translate->stack_look[privilege][access] = emit_offset(&e);
            emit_stack_look(&e, privilege, access, translate->second_look[privilege][access]);
        }
    }
    translate->exit_jump = emit_offset(&e);
    emit_exit_jump(&e, translate);
    uint32_t go_on = emit_offset(&e);
    emit_go_on(&e, translate);
    for (unsigned vectors = VECTORS_NONE; vectors < VECTORS_LEVELS; vectors++) {
        translate->slow[vectors] = emit_offset(&e);
        emit_slow(&e, translate, vectors, go_on);
    }
    translate->call_handler = emit_offset(&e);
    emit_call_handler(&e, translate, false, go_on);
    translate->call_handler_exit = emit_offset(&e);
    emit_call_handler(&e, translate, true, go_on);
    translate->code_ring.start = (uint32_t)align_up(emit_offset(&e), 64);
    translate->code_is_new = true;
}
