/*
 * When the guest's vector registers are in the CPU.
 *
 * While generated code that uses them runs, guest XMMn or YMMn is host XMMn or YMMn, and the CPU's
 * MXCSR is the guest's. At all other times they are in vcpu->xstate: C code uses vector registers
 * as it likes. vcpu->vectors says which it is, at two levels:
 *
 *   VECTORS_SSE   XMM registers and MXCSR are in the CPU. The upper halves of its YMM registers
 *                 are zero, so that legacy SSE code is fast; the guest's are in memory.
 *   VECTORS_AVX   YMM registers too
 *
 * They come in when a translation that begins with them is entered (one look at a byte, which links
 * from where they are known to be go past: entry.c) or, behind a handler, before an instruction
 * that needs them (vectors_require). They go out before anything calls C: every such stub calls
 * vectors_save. So kernel code that has no vector instruction pays for nothing.
 *
 * In the CPU implies usable: availability (CR0, CR4, XCR0) and that all SIMD exceptions are masked
 * is checked when they are loaded, and everything that can change either is a handler, before which
 * they were saved. Where they are not usable, generated code is left and the interpreter runs the
 * block, raising what has to be raised.
 *
 * XSTATE_BV. Loading marks SSE as in use. AVX is in use, after a save, if an upper half is not
 * zero; XSTATE_BV.AVX clear means that all of them are zero in memory.
 */

#include "cpu/thunk/xstate.h"
#include "cpu/translate/context.h"

#define XSTATE(member) (offsetof(struct vcpu, xstate) + offsetof(struct xstate_image, member))
#define OFFSET(member) rm_vcpu(offsetof(struct vcpu, member))

static const struct vex vmovups_load = {.map = 1, .opcode = 0x10};
static const struct vex vmovups_store = {.map = 1, .opcode = 0x11};
static const struct vex vinsertf128 = {.map = 3, .pp = 1, .l = true, .opcode = 0x18};
static const struct vex vextractf128 = {.map = 3, .pp = 1, .l = true, .opcode = 0x19};
static const struct vex vorps_ymm = {.map = 1, .l = true, .opcode = 0x56};
static const struct vex vptest = {.map = 2, .pp = 1, .opcode = 0x17};

static struct emit_rm rm_low(unsigned reg)
{
    return rm_vcpu(XSTATE(xmm) + 16 * reg);
}

static struct emit_rm rm_high(unsigned reg)
{
    return rm_vcpu(XSTATE(ymm_high) + 16 * reg);
}

static struct emit_rm absent(unsigned level)
{
    return level == VECTORS_AVX ? OFFSET(vectors.avx_absent) : OFFSET(vectors.sse_absent);
}

static void emit_vzeroupper(struct emit *e)
{
    emit_u8(e, 0xc5);
    emit_u8(e, 0xf8);
    emit_u8(e, 0x77);
}

static bool has_avx(const struct vcpu *vcpu)
{
    return features_has(vcpu->features, FEATURE_AVX);
}

/* ------------------------------------------------------------------------- stubs */

static uint32_t jump_unless(struct emit *e, size_t offset, uint32_t mask, unsigned condition)
{
    emit_op(e, 0, 0xf7, 0, rm_vcpu(offset)); /* test */
    emit_u32(e, mask);
    return emit_jcc(e, condition);
}

/* Leaves T0 = MXCSR & masks compared with all masks set. */
static uint32_t jump_unless_masked(struct emit *e)
{
    emit_op(e, 0, 0x8b, T0, rm_vcpu(XSTATE(mxcsr)));
    emit_alu_immediate(e, 4, 4, rm_reg(T0), MXCSR_INITIAL);
    emit_alu_immediate(e, 7, 4, rm_reg(T0), MXCSR_INITIAL);
    return emit_jcc(e, CONDITION_NE);
}

static void emit_load_low(struct emit *e, bool avx)
{
    emit_ldmxcsr(e, rm_vcpu(XSTATE(mxcsr)));
    if (avx)
        emit_vzeroupper(e);
    for (unsigned reg = 0; reg < 16; reg++) {
        if (avx)
            emit_vex(e, vmovups_load, reg, 0, rm_low(reg));
        else
            emit_op(e, 0, 0x0f10, reg, rm_low(reg));
    }
    emit_alu_immediate(e, 1, 1, rm_vcpu(XSTATE(xstate_bv)), XSTATE_SSE);
    emit_alu_immediate(e, 4, 1, absent(VECTORS_SSE), 0);
}

static void emit_load_high(struct emit *e)
{
    emit_op(e, EMIT_BYTE_RM, 0xf6, 0, rm_vcpu(XSTATE(xstate_bv))); /* test */
    emit_u8(e, XSTATE_AVX);
    uint32_t initial = emit_jcc(e, CONDITION_E);
    for (unsigned reg = 0; reg < 16; reg++) {
        emit_vex(e, vinsertf128, reg, reg, rm_high(reg));
        emit_u8(e, 1);
    }
    emit_link(e, initial, emit_offset(e));
    emit_alu_immediate(e, 4, 1, absent(VECTORS_AVX), 0);
}

/*
 * Called with T1 = RIP of what comes next; above the return address is the flags slot. Returns with
 * the registers of the level in the CPU, or leaves for the dispatcher. Spoils T0 and flags.
 */
static void emit_load_stub(struct emit *e, const struct translate *translate, unsigned level)
{
    uint32_t fail[8];
    unsigned fails = 0;
    const size_t cr0 = offsetof(struct vcpu, mmu.cr0), cr4 = offsetof(struct vcpu, mmu.cr4);
    const size_t xcr0 = offsetof(struct vcpu, xcr0);
    bool avx = has_avx(translate->vcpu);

    fail[fails++] = jump_unless(e, cr0, CR0_EM | CR0_TS, CONDITION_NE);
    fail[fails++] = jump_unless(e, cr4, CR4_OSFXSR, CONDITION_E);
    if (level == VECTORS_AVX) {
        fail[fails++] = jump_unless(e, cr4, CR4_OSXSAVE, CONDITION_E);
        fail[fails++] = jump_unless(e, xcr0, XSTATE_SSE, CONDITION_E);
        fail[fails++] = jump_unless(e, xcr0, XSTATE_AVX, CONDITION_E);
        emit_alu_immediate(e, 7, 1, absent(VECTORS_SSE), 0);
        uint32_t has_low = emit_jcc(e, CONDITION_E);
        fail[fails++] = jump_unless_masked(e);
        emit_load_low(e, avx);
        emit_link(e, has_low, emit_offset(e));
        emit_load_high(e);
    } else {
        fail[fails++] = jump_unless_masked(e);
        emit_load_low(e, avx);
    }
    emit_u8(e, 0xc3);

    for (unsigned i = 0; i < fails; i++)
        emit_link(e, fail[i], emit_offset(e));
    emit_op(e, EMIT_BYTE_RM, 0xc6, 0, OFFSET(vectors.interpret));
    emit_u8(e, 1);
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, 16));
    emit_mov(e, T0, T1);
    emit_jmp_to(e, translate->exit_saved);
}

static void emit_save_high(struct emit *e)
{
    for (unsigned reg = 0; reg < 16; reg++) {
        emit_vex(e, vextractf128, reg, 0, rm_high(reg));
        emit_u8(e, 1);
    }
    for (unsigned reg = 2; reg < 16; reg++)
        emit_vex(e, vorps_ymm, reg & 1, reg & 1, rm_reg(reg));
    emit_vex(e, vorps_ymm, 0, 0, rm_reg(1));
    emit_vex(e, vextractf128, 0, 0, rm_reg(1));
    emit_u8(e, 1);
    emit_alu_immediate(e, 1, 1, rm_vcpu(XSTATE(xstate_bv)), XSTATE_AVX);
    emit_vex(e, vptest, 1, 0, rm_reg(1));
    uint32_t in_use = emit_jcc(e, CONDITION_NE);
    emit_alu_immediate(e, 4, 1, rm_vcpu(XSTATE(xstate_bv)), ~(uint64_t)XSTATE_AVX);
    emit_link(e, in_use, emit_offset(e));
    emit_op(e, EMIT_BYTE_RM, 0xc6, 0, absent(VECTORS_AVX));
    emit_u8(e, 1);
    emit_vzeroupper(e);
}

/* Called where sse_absent is 0. Spoils flags and vector registers, no others. */
static void emit_save_stub(struct emit *e, const struct translate *translate)
{
    emit_stmxcsr(e, rm_vcpu(XSTATE(mxcsr)));
    emit_ldmxcsr(e, OFFSET(vectors.host_mxcsr));
    emit_op(e, EMIT_BYTE_RM, 0xc6, 0, absent(VECTORS_SSE));
    emit_u8(e, 1);
    bool avx = has_avx(translate->vcpu);
    for (unsigned reg = 0; reg < 16; reg++) {
        if (avx)
            emit_vex(e, vmovups_store, reg, 0, rm_low(reg));
        else
            emit_op(e, 0, 0x0f11, reg, rm_low(reg));
    }
    if (avx) {
        emit_alu_immediate(e, 7, 1, absent(VECTORS_AVX), 0);
        uint32_t only_sse = emit_jcc(e, CONDITION_NE);
        emit_save_high(e);
        emit_link(e, only_sse, emit_offset(e));
    }
    emit_u8(e, 0xc3);
}

void vectors_emit_load_stubs(struct translate *translate, struct emit *e)
{
    translate->vectors_load[VECTORS_SSE] = emit_offset(e);
    emit_load_stub(e, translate, VECTORS_SSE);
    translate->vectors_load[VECTORS_AVX] = emit_offset(e);
    if (has_avx(translate->vcpu))
        emit_load_stub(e, translate, VECTORS_AVX);
}

void vectors_emit_save_stub(struct translate *translate, struct emit *e)
{
    translate->vectors_save = emit_offset(e);
    emit_save_stub(e, translate);
}

void vectors_emit_save(struct emit *e, const struct translate *translate)
{
    emit_alu_immediate(e, 7, 1, absent(VECTORS_SSE), 0);
    uint32_t saved = emit_jcc(e, CONDITION_NE);
    emit_call_to(e, translate->vectors_save);
    emit_link(e, saved, emit_offset(e));
}

void vectors_emit_restore(struct emit *e, const struct translate *translate,
                          struct emit_rm absent_bytes)
{
    uint32_t done[2];
    unsigned count = 0;
    for (unsigned level = VECTORS_AVX; level >= VECTORS_SSE; level--) {
        if (level == VECTORS_AVX && !has_avx(translate->vcpu))
            continue;
        struct emit_rm byte = absent_bytes;
        byte.displacement += level == VECTORS_AVX;
        emit_alu_immediate(e, 7, 1, byte, 0);
        uint32_t not_so = emit_jcc(e, CONDITION_NE);
        emit_call_to(e, translate->vectors_load[level]);
        done[count++] = emit_jmp(e);
        emit_link(e, not_so, emit_offset(e));
    }
    while (count-- > 0)
        emit_link(e, done[count], emit_offset(e));
}

/* ------------------------------------------------------------------------- in blocks */

/* In the code of t, flags in their slot. */
static void emit_load_call(struct emit *e, const struct translate *translate,
                           const struct translation *t, unsigned level, uint64_t rip)
{
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, -8));
    emit_rip(e, t, T1, rip);
    emit_call_to(e, translate->vectors_load[level]);
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, 8));
}

void vectors_require(struct context *c, unsigned level)
{
    struct emit *e = &c->e;
    if (c->vectors >= level)
        return;
    c->held = RUN_NONE; /* loading spoils T0 to T2 */
    context_forget_copies(c);
    struct vectors_load *load = &c->loads[c->load_count++];
    *load = (struct vectors_load){
        .rip = c->rip, .level = (uint8_t)level, .in_host = !c->in_slot, .in_parts = c->in_parts};
    if (c->in_slot) {
        emit_alu_immediate(e, 7, 1, absent(level), 0);
        load->jump = emit_jcc(e, CONDITION_NE);
        c->in_host = false;
        load->back = emit_offset(e);
    } else {
        /* Without touching flags. */
        emit_mov(e, T1, HOST_RCX);
        emit_op(e, 0, 0x0fb6, HOST_RCX, absent(level));
        emit_u8(e, 0xe3); /* jrcxz over the next two */
        emit_u8(e, 3 + 5);
        emit_mov(e, HOST_RCX, T1);
        load->jump = emit_jmp(e);
        emit_mov(e, HOST_RCX, T1);
        load->back = emit_offset(e);
    }
    c->vectors = level;
}

void vectors_load_emit(struct context *c, const struct vectors_load *load)
{
    struct emit *e = &c->e;
    emit_link(e, load->jump, emit_offset(e));
    c->in_host = load->in_host && !load->in_parts;
    c->in_parts = load->in_parts;
    c->in_slot = !load->in_host;
    context_flags_save(c);
    c->in_host = false;
    emit_load_call(e, c->translate, c->translation, load->level, load->rip);
    if (load->in_host)
        context_flags_load(c);
    emit_jmp_to(e, load->back);
}

void vectors_emit_check(struct emit *e, const struct translate *translate,
                        const struct translation *t)
{
    emit_alu_immediate(e, 7, 1, absent(t->vectors), 0);
    uint32_t present = emit_jcc(e, CONDITION_E);
    emit_load_call(e, translate, t, t->vectors, t->rip);
    emit_link(e, present, emit_offset(e));
}

bool vectors_are_usable(const struct vcpu *vcpu, unsigned level)
{
    const struct xstate_image *image = (const struct xstate_image *)vcpu->xstate;
    uint64_t both = XSTATE_SSE | XSTATE_AVX;
    bool sse = !(vcpu->mmu.cr0 & (CR0_EM | CR0_TS)) && vcpu->mmu.cr4 & CR4_OSFXSR &&
               (image->mxcsr & MXCSR_INITIAL) == MXCSR_INITIAL;
    bool avx = vcpu->mmu.cr4 & CR4_OSXSAVE && (vcpu->xcr0 & both) == both;
    return level == VECTORS_NONE || (sse && (level == VECTORS_SSE || avx));
}
