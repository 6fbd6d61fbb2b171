/*
 * Legacy SSE instructions, and plain vector moves.
 *
 * Vector registers stay in vcpu->xstate. An instruction is made of a load of those it names, the
 * instruction itself, and a store of those it writes. It is the canonical one that its thunk runs
 * (see thunk.c): registers XMM1 to XMM4, at most one of R8 to R10, memory at [RSI]; nothing else of
 * the guest's is in it. Availability is checked once a block, which nothing in a block can change
 * without leaving it. Exceptions that are not masked are the handler's.
 */

#include <Zydis/Zydis.h>

#include "cpu/thunk/thunk_internal.h"
#include "cpu/translate/context.h"

#define XSTATE(member) (offsetof(struct vcpu, xstate) + offsetof(struct xstate_image, member))
#define OPCODE_LOAD    0x0f10u /* MOVUPS */
#define OPCODE_STORE   0x0f11u

static struct emit_rm rm_low(unsigned reg)
{
    return rm_vcpu(XSTATE(xmm) + 16 * reg);
}

static struct emit_rm rm_high(unsigned reg)
{
    return rm_vcpu(XSTATE(ymm_high) + 16 * reg);
}

static void emit_test(struct context *c, size_t offset, uint32_t mask)
{
    emit_op(&c->e, 0, 0xf7, 0, rm_vcpu(offset));
    emit_u32(&c->e, mask);
}

static void require_sse(struct context *c, struct slow_path *slow)
{
    if (c->has_sse)
        return;
    c->has_sse = true;
    emit_test(c, offsetof(struct vcpu, mmu.cr0), CR0_EM | CR0_TS);
    context_slow_jump(c, slow, CONDITION_NE);
    emit_test(c, offsetof(struct vcpu, mmu.cr4), CR4_OSFXSR);
    context_slow_jump(c, slow, CONDITION_E);
}

static void require_avx(struct context *c, struct slow_path *slow)
{
    if (c->has_avx)
        return;
    c->has_avx = true;
    emit_test(c, offsetof(struct vcpu, mmu.cr0), CR0_TS);
    context_slow_jump(c, slow, CONDITION_NE);
    emit_test(c, offsetof(struct vcpu, mmu.cr4), CR4_OSXSAVE);
    context_slow_jump(c, slow, CONDITION_E);
    emit_op(&c->e, 0, 0x8b, T1, rm_vcpu(offsetof(struct vcpu, xcr0)));
    emit_alu_immediate(&c->e, 4, 4, rm_reg(T1), XSTATE_SSE | XSTATE_AVX);
    emit_alu_immediate(&c->e, 7, 4, rm_reg(T1), XSTATE_SSE | XSTATE_AVX);
    context_slow_jump(c, slow, CONDITION_NE);
}

/* All SIMD exceptions masked; asked each time, since the handler goes on if they are not. */
static void require_masked(struct context *c, struct slow_path *slow)
{
    emit_op(&c->e, 0, 0x8b, T1, rm_vcpu(XSTATE(mxcsr)));
    emit_alu_immediate(&c->e, 4, 4, rm_reg(T1), MXCSR_INITIAL);
    emit_alu_immediate(&c->e, 7, 4, rm_reg(T1), MXCSR_INITIAL);
    context_slow_jump(c, slow, CONDITION_NE);
}

static void require_aligned(struct context *c, struct slow_path *slow, unsigned mask)
{
    if (mask == 0)
        return;
    emit_op(&c->e, EMIT_BYTE_RM, 0xf6, 0, rm_reg(T0));
    emit_u8(&c->e, mask);
    context_slow_jump(c, slow, CONDITION_NE);
}

/* xstate_bv: what is no longer in its initial state. */
static void emit_in_use(struct context *c, unsigned components)
{
    emit_alu_immediate(&c->e, 1, 4, rm_vcpu(XSTATE(xstate_bv)), components);
}

/* ------------------------------------------------------------------------- moves */

enum move_kind { MOVE_NONE, MOVE_SSE, MOVE_SSE_ALIGNED, MOVE_AVX, MOVE_AVX_ALIGNED };

static enum move_kind move_kind_of(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
        return MOVE_SSE;
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
        return MOVE_SSE_ALIGNED;
    case ZYDIS_MNEMONIC_VMOVUPS:
    case ZYDIS_MNEMONIC_VMOVUPD:
    case ZYDIS_MNEMONIC_VMOVDQU:
        return MOVE_AVX;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
        return MOVE_AVX_ALIGNED;
    default:
        return MOVE_NONE;
    }
}

/* Guest register `reg` = XMM0 and, with 32 bytes, XMM1; VEX moves of 16 bytes clear the rest. */
static void emit_write_register(struct context *c, unsigned reg, unsigned size, bool vex)
{
    struct emit *e = &c->e;
    emit_op(e, 0, OPCODE_STORE, 0, rm_low(reg));
    if (!vex)
        return;
    if (size == 16)
        emit_op(e, 0, 0x0f57, 1, rm_reg(1)); /* xorps xmm1, xmm1 */
    emit_op(e, 0, OPCODE_STORE, 1, rm_high(reg));
}

static void emit_move(struct context *c, enum move_kind kind)
{
    struct emit *e = &c->e;
    const struct insn *insn = c->insn;
    bool vex = kind >= MOVE_AVX;
    bool aligned = kind == MOVE_SSE_ALIGNED || kind == MOVE_AVX_ALIGNED;
    bool loads = insn->op[1].kind == OPERAND_MEMORY, stores = insn->op[0].kind == OPERAND_MEMORY;
    unsigned size = insn->op[0].size;
    struct slow_path *slow = context_slow_begin(c);

    c->in_host = false;
    if (vex)
        require_avx(c, slow);
    else
        require_sse(c, slow);
    if (loads || stores) {
        context_address(c);
        require_aligned(c, slow, aligned ? size - 1 : 0);
        context_probe(c, slow, size, stores);
    }
    if (!stores)
        emit_in_use(c, vex ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE);
    unsigned from = insn->op[1].reg;
    emit_op(e, 0, OPCODE_LOAD, 0, loads ? rm_at(T0, 0) : rm_low(from));
    if (size == 32)
        emit_op(e, 0, OPCODE_LOAD, 1, loads ? rm_at(T0, 16) : rm_high(from));
    if (stores) {
        emit_op(e, 0, OPCODE_STORE, 0, rm_at(T0, 0));
        if (size == 32)
            emit_op(e, 0, OPCODE_STORE, 1, rm_at(T0, 16));
    } else {
        emit_write_register(c, insn->op[0].reg, size, vex);
    }
    context_slow_end(c, slow);
}

/* ------------------------------------------------------------------------- thunks */

/* At most one general register, and not with memory: its place is one of the scratch registers. */
static bool thunk_is_inline(const struct insn *insn)
{
    const struct thunk *thunk = insn->extra;
    if (insn->exec != thunk_exec || thunk == NULL || thunk->code == NULL ||
        thunk->unit != THUNK_UNIT_SSE || thunk->gprs >> THUNK_RAX != 0 ||
        thunk->flags & THUNK_READS_FLAGS)
        return false;
    if (thunk->gprs == 0)
        return true;
    unsigned slot = (unsigned)__builtin_ctz(thunk->gprs);
    return (thunk->gprs & (thunk->gprs - 1)) == 0 && thunk->memory_size == 0 &&
           insn->op[slot].kind == OPERAND_GPR;
}

static unsigned vector_host(unsigned slot)
{
    return slot == VECTOR_IMPLICIT ? 0 : CANONICAL_VECTOR + slot;
}

static unsigned vector_guest(const struct insn *insn, unsigned slot)
{
    return slot == VECTOR_IMPLICIT ? 0 : insn->op[slot].reg;
}

static void emit_vectors(struct context *c, unsigned vectors, uint32_t opcode)
{
    for (; vectors != 0; vectors &= vectors - 1) {
        unsigned slot = (unsigned)__builtin_ctz(vectors);
        emit_op(&c->e, 0, opcode, vector_host(slot), rm_low(vector_guest(c->insn, slot)));
    }
}

/*
 * The guest's MXCSR in the CPU. LDMXCSR is slow, so once there it stays until generated code is
 * left (stubs.c), or until the guest has changed it: the comparison is with all of it, so that the
 * exception flags afterwards are the guest's alone.
 */
static void emit_guest_mxcsr(struct emit *e)
{
    emit_stmxcsr(e, rm_at(HOST_RSP, FRAME_MXCSR));
    emit_op(e, 0, 0x8b, T1, rm_at(HOST_RSP, FRAME_MXCSR));
    emit_op(e, 0, 0x3b, T1, rm_vcpu(XSTATE(mxcsr)));
    uint32_t same = emit_jcc(e, CONDITION_E);
    emit_ldmxcsr(e, rm_vcpu(XSTATE(mxcsr)));
    emit_link(e, same, emit_offset(e));
}

static void emit_thunk(struct context *c)
{
    struct emit *e = &c->e;
    const struct insn *insn = c->insn;
    const struct thunk *thunk = insn->extra;
    bool mxcsr = thunk->flags & THUNK_USES_MXCSR, memory = thunk->memory_size != 0;
    unsigned gpr_slot = thunk->gprs != 0 ? (unsigned)__builtin_ctz(thunk->gprs) : 0;
    unsigned gpr_host = CANONICAL_GPR + gpr_slot;
    struct slow_path *slow = context_slow_begin(c);

    c->in_host = false;
    require_sse(c, slow);
    if (mxcsr) {
        require_masked(c, slow);
        emit_guest_mxcsr(e);
    }
    if (memory) {
        context_address(c);
        require_aligned(c, slow, thunk->alignment_mask);
        context_probe(c, slow, thunk->memory_size, thunk->flags & THUNK_STORES);
        emit_store(e, rm_at(HOST_RSP, FRAME_RSI), HOST_RSI);
        emit_mov(e, HOST_RSI, T0);
    }
    emit_in_use(c, thunk->components);
    emit_vectors(c, thunk->vectors, OPCODE_LOAD);
    if (thunk->gprs != 0) {
        emit_store(e, rm_at(HOST_RSP, FRAME_R8), HOST_R8);
        emit_mov(e, gpr_host, context_get(c, insn->op[gpr_slot].reg, gpr_host));
    }

    uint64_t canonical = insn->immediate;
    memcpy(e->at, &canonical, thunk->length);
    e->at += thunk->length;

    if (mxcsr)
        emit_stmxcsr(e, rm_vcpu(XSTATE(mxcsr)));
    emit_vectors(c, thunk->vectors_out, OPCODE_STORE);
    if (thunk->gprs != 0) {
        emit_mov(e, T2, gpr_host);
        emit_load(e, HOST_R8, rm_at(HOST_RSP, FRAME_R8));
        if (thunk->gprs_out != 0) {
            unsigned to = insn->op[gpr_slot].reg;
            if (host_of(to) != HOST_NONE)
                emit_mov(e, host_of(to), T2);
            context_put(c, to, T2);
        }
    }
    if (memory)
        emit_load(e, HOST_RSI, rm_at(HOST_RSP, FRAME_RSI));
    if (thunk->flags & THUNK_WRITES_FLAGS)
        context_flags_written(c);
    context_slow_end(c, slow);
}

bool vector_emit(struct context *c)
{
    enum move_kind kind = move_kind_of(c->insn);
    if (kind != MOVE_NONE)
        emit_move(c, kind);
    else if (thunk_is_inline(c->insn))
        emit_thunk(c);
    else
        return false;
    return true;
}
