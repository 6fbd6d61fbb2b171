/*
 * Running a thunk.
 *
 * Order of checks, as a CPU has it: availability (#UD, #NM), a pending x87 exception (#MF),
 * segment and canonical checks, alignment (#GP), paging (#PF), then what the instruction itself
 * finds (#XM). Guest state changes only after the last of them; the exception is MXCSR, whose flags
 * say which SIMD exception it was.
 *
 * Generated code writes registers straight to vcpu->xstate, so a store of the memory operand after
 * it must not fail, and was checked before.
 */

#include "cpu/thunk/thunk_internal.h"

#include <cpuid.h>
#include <string.h>

/* The copy of the memory operand keeps the guest's address modulo 64. */
struct operand_copy {
    _Alignas(64) uint8_t bytes[128];
};

static void require_available(struct vcpu *vcpu, enum thunk_unit unit)
{
    switch (unit) {
    case THUNK_UNIT_GPR:
        break;
    case THUNK_UNIT_VEX_GPR:
        xstate_require_vex(vcpu);
        break;
    case THUNK_UNIT_SSE:
        xstate_require_sse(vcpu);
        break;
    case THUNK_UNIT_AVX:
        xstate_require_avx(vcpu);
        break;
    case THUNK_UNIT_X87:
        xstate_require_x87(vcpu);
        xstate_wait_x87(vcpu);
        break;
    case THUNK_UNIT_MMX_SSE:
        xstate_require_sse(vcpu);
        xstate_wait_x87(vcpu);
        break;
    case THUNK_UNIT_MMX:
        xstate_require_mmx(vcpu);
        xstate_wait_x87(vcpu);
        break;
    }
}

/* On Intel's CPUs VCVTPS2PH and x87 stores compute before they reach for memory, and do not where
 * that ends in an unmasked exception. The former changes nothing else; for the latter see
 * check_x87_store. On AMD's the page fault comes first, as with every other instruction. */
static bool stores_late(const struct vcpu *vcpu, const struct thunk *thunk)
{
    return !vcpu->features->amd &&
           ((thunk->flags & THUNK_USES_MXCSR) || thunk->unit == THUNK_UNIT_X87);
}

/* All that can fault before the instruction itself runs. Returns the operand's linear address. */
static uint64_t prepare(struct vcpu *vcpu, const struct insn *insn, const struct thunk *thunk,
                        struct thunk_frame *frame, struct operand_copy *copy)
{
    struct xstate_image *image = xstate_of(vcpu);
    uint64_t linear = 0;
    require_available(vcpu, (enum thunk_unit)thunk->unit);

    unsigned size = thunk->memory_size;
    if (size != 0) {
        bool stores = thunk->flags & THUNK_STORES;
        linear =
            access_linear_aligned(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn),
                                  size, stores ? MMU_WRITE : MMU_READ, thunk->alignment_mask);
        uint8_t *place = copy->bytes + (linear & 63);
        if (thunk->flags & THUNK_LOADS)
            xstate_load(vcpu, linear, place, size);
        if (stores && !stores_late(vcpu, thunk) &&
            mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, size) == NULL)
            access_check_store(vcpu, linear, size);
        frame->memory = place;
    }

    for (unsigned slots = thunk->vectors; slots != 0; slots &= slots - 1) {
        unsigned slot = (unsigned)__builtin_ctz(slots);
        frame->vector[slot] = image->xmm[slot == VECTOR_IMPLICIT ? 0 : insn->op[slot].reg];
    }
    for (unsigned gprs = thunk->gprs; gprs != 0; gprs &= gprs - 1) {
        unsigned g = (unsigned)__builtin_ctz(gprs);
        if (g >= THUNK_RAX)
            frame->gpr[g] = vcpu->gpr[g - THUNK_RAX];
        else if (insn->op[g].kind == OPERAND_GPR_HIGH)
            frame->gpr[g] = vcpu->gpr[insn->op[g].reg] >> 8;
        else
            frame->gpr[g] = vcpu->gpr[insn->op[g].reg];
    }
    frame->image = image;
    /* Only status flags, and those that are always set in user code. */
    frame->flags = (vcpu->rflags & FLAGS_STATUS) | FLAG_FIXED | FLAG_IF;
    frame->mxcsr = image->mxcsr;
    frame->fault = 0;
    return linear;
}

static _Noreturn void raise_fault(struct vcpu *vcpu, const struct thunk_frame *frame)
{
    unsigned vector = (unsigned)frame->fault - 1;
    if (vector == VECTOR_XM) {
        struct xstate_image *image = xstate_of(vcpu);
        image->mxcsr = frame->mxcsr & MXCSR_VALID;
        image->xstate_bv |= XSTATE_SSE;
        vcpu_raise(vcpu, vcpu->mmu.cr4 & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD);
    }
    if (vector == VECTOR_GP)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
    if (vector == VECTOR_AC)
        vcpu_raise_error(vcpu, VECTOR_AC, 0);
    vcpu_raise(vcpu, (enum vector)vector);
}

#define X87_PART offsetof(struct xstate_image, xmm) /* and MXCSR, which x87 leaves alone */

/* What x87 pointers were before an instruction that may change them. */
struct x87_pointers {
    uint64_t fip, fdp;
    uint16_t fop;
};

/* The host must not see the guest's pointers, for an opcode would be mistaken for the instruction's
 * own, and the guest must not see the host's. */
static void hide_pointers(struct xstate_image *image, struct x87_pointers *saved)
{
    *saved = (struct x87_pointers){image->fip, image->fdp, image->fop};
    image->fip = 0;
    image->fdp = 0;
    image->fop = 0;
}

static uint64_t with_selector(const struct vcpu *vcpu, uint64_t offset, enum segment_register seg)
{
    if (vcpu->mode == MODE_LONG)
        return offset;
    return (uint32_t)offset | (uint64_t)vcpu->seg[seg].selector << 32;
}

/* All x87 instructions that come here set FIP, and FDP if they have an operand in memory; control
 * instructions, which do not, are in x87_env.c, and MMX instructions leave the pointers alone. What
 * the host has stored does not tell, as AMD's FXSAVE has zeros unless an exception is pending.
 * Except for FOP: many of Intel's CPUs set that by an unmasked exception only, AMD's always. */
static void restore_pointers(struct vcpu *vcpu, const struct insn *insn, const struct thunk *thunk,
                             const struct thunk_frame *frame, const struct x87_pointers *saved)
{
    struct xstate_image *image = xstate_of(vcpu);
    bool updated = thunk->unit == THUNK_UNIT_X87 && frame->fault == 0;
    bool has_opcode = vcpu->features->amd || image->fop != 0;
    image->fip = updated ? with_selector(vcpu, vcpu->rip, SEG_CS) : saved->fip;
    image->fdp =
        updated && thunk->memory_size != 0
            ? with_selector(vcpu, insn_address(vcpu, insn), (enum segment_register)insn->seg)
            : saved->fdp;
    /* The canonical x87 instruction is its opcode byte and ModRM, perhaps with a prefix. */
    uint8_t opcode = ((const uint8_t *)&insn->immediate)[thunk->length - 2];
    uint16_t fop = (uint16_t)((opcode & 7) << 8 | insn->condition);
    image->fop = updated && has_opcode ? fop : saved->fop;
}

/* An x87 store whose unmasked exception comes before the result leaves memory alone; an inexact
 * result is stored all the same (SDM vol. 1 8.5). ES was clear before, so these flags are new. */
static bool store_suppressed(const struct xstate_image *image, const struct thunk *thunk)
{
    return thunk->unit == THUNK_UNIT_X87 && (image->fsw & ~image->fcw & 0x1f) != 0;
}

/* The instruction has run, and its new state is in the image; a page fault must find the old one.
 */
static void check_x87_store(struct vcpu *vcpu, const struct thunk *thunk, const uint8_t *before,
                            uint64_t linear)
{
    uint8_t after[X87_PART];
    if (store_suppressed(xstate_of(vcpu), thunk) ||
        mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, thunk->memory_size) != NULL)
        return;
    memcpy(after, vcpu->xstate, X87_PART);
    memcpy(vcpu->xstate, before, X87_PART);
    access_check_store(vcpu, linear, thunk->memory_size);
    memcpy(vcpu->xstate, after, X87_PART);
}

static void finish(struct vcpu *vcpu, const struct insn *insn, const struct thunk *thunk,
                   const struct thunk_frame *frame, uint64_t linear)
{
    struct xstate_image *image = xstate_of(vcpu);
    if ((thunk->flags & THUNK_STORES) && !store_suppressed(image, thunk))
        xstate_store(vcpu, linear, frame->memory, thunk->memory_size);
    if (thunk->flags & THUNK_USES_MXCSR)
        image->mxcsr = frame->mxcsr;
    image->xstate_bv |= thunk->components;
    if (thunk->flags & THUNK_WRITES_FLAGS)
        vcpu->rflags = (vcpu->rflags & ~(uint64_t)FLAGS_STATUS) | (frame->flags & FLAGS_STATUS);
    /* From the last slot to the first: where MULX names one register twice, the first wins. */
    for (unsigned gprs = thunk->gprs_out; gprs != 0;) {
        unsigned g = 31 - (unsigned)__builtin_clz(gprs);
        gprs &= ~(1u << g);
        vcpu->gpr[g >= THUNK_RAX ? g - THUNK_RAX : insn->op[g].reg] = frame->gpr[g];
    }
}

/* Code that was written through another linear address is only sure to be seen after a serializing
 * instruction (SDM vol. 3 8.1.3). */
static void serialize(void)
{
    unsigned a, b, c, d;
    __cpuid(0, a, b, c, d);
}

/* Runs code that exists, or generates it for this once. Cannot raise: the lock may be held. */
static void run_code(struct thunk_set *set, const struct insn *insn, const struct thunk *thunk,
                     struct thunk_frame *frame)
{
    if (likely(thunk->code != NULL)) {
        frame->out = thunk->out;
        thunk->code(frame);
        return;
    }
    struct thunk once = *thunk;
    struct thunk_key key = {.value = insn->immediate};
    size_t scratch = THUNK_CODE_SIZE - THUNK_CODE_MAX;
    pthread_mutex_lock(&set->lock);
    thunk_emit(&key, &once, set->code.write + scratch, set->code.execute + scratch);
    serialize();
    frame->out = once.out;
    once.code(frame);
    set->stats.uncached_runs++;
    pthread_mutex_unlock(&set->lock);
}

static void run_full(struct vcpu *vcpu, const struct insn *insn, const struct thunk *thunk,
                     struct thunk_frame *frame, uint64_t linear)
{
    struct xstate_image *image = xstate_of(vcpu);
    struct x87_pointers saved;
    uint8_t before[X87_PART];
    bool x87_store =
        thunk->unit == THUNK_UNIT_X87 && (thunk->flags & THUNK_STORES) && stores_late(vcpu, thunk);
    if (x87_store)
        memcpy(before, image, X87_PART);
    hide_pointers(image, &saved);
    run_code(vcpu->thunks, insn, thunk, frame);
    restore_pointers(vcpu, insn, thunk, frame, &saved);
    if (unlikely(frame->fault != 0))
        raise_fault(vcpu, frame);
    if (x87_store)
        check_x87_store(vcpu, thunk, before, linear);
}

static void run(struct vcpu *vcpu, const struct insn *insn, const struct thunk *thunk)
{
    struct thunk_frame frame;
    struct operand_copy copy;
    uint64_t linear = prepare(vcpu, insn, thunk, &frame, &copy);
    if (unlikely(!thunk_thread_is_ready))
        thunk_thread_prepare();
    if (unlikely(thunk_unit_is_full((enum thunk_unit)thunk->unit))) {
        run_full(vcpu, insn, thunk, &frame, linear);
    } else {
        run_code(vcpu->thunks, insn, thunk, &frame);
        if (unlikely(frame.fault != 0))
            raise_fault(vcpu, &frame);
    }
    finish(vcpu, insn, thunk, &frame, linear);
}

void thunk_exec(struct vcpu *vcpu, const struct insn *insn)
{
    run(vcpu, insn, insn->extra);
}

/* The set is full: insn has the key and the unit, and code is generated for each execution. */
void thunk_exec_uncached(struct vcpu *vcpu, const struct insn *insn)
{
    struct thunk_key key = {.value = insn->immediate};
    struct thunk thunk;
    if (!thunk_describe(&vcpu->thunks->decoder, vcpu->features, &key,
                        (enum thunk_unit)insn->operand_size, &thunk))
        vcpu_raise(vcpu, VECTOR_UD);
    run(vcpu, insn, &thunk);
}
