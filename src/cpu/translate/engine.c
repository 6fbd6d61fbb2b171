/*
 * The translator: x86-64 to x86-64, for 64-bit mode.
 *
 * The dispatcher below is the interpreter's loop with one more possibility: where the vCPU runs
 * 64-bit code at CPL 0 or 3 and nothing wants single-stepping, it enters generated code, which
 * passes from one translation to the next by itself until something asks for the dispatcher:
 * attention, an instruction that ends its block, RIP without a translation. All state is in struct
 * vcpu again then. Decoding, the marks on pages with code, all other modes and every instruction
 * that is not generated are the interpreter's: generated code calls its handlers.
 *
 *   engine.c    the dispatcher
 *   cache.c     translations: found, dropped, chained
 *   ring.c      their memory
 *   slow.c      instructions that miss the TLB
 *   stubs.c     entering and leaving generated code, calls of handlers
 *   trace.c     which blocks make a translation
 *   block.c     a translation
 *   entry.c     the ways into it
 *   flow.c      branches
 *   jump.c      the jump cache
 *   crossing.c  instructions that cross into the next page
 *   relative.c  code that is mapped at several addresses
 *   integer.c   integer instructions; plan.c: their encoding; stack.c: PUSH and POP;
 *               high.c: AH to BH; divide.c: DIV and IDIV
 *   privileged.c, level.c
 *               system instructions
 *   memory.c    memory operands, slow paths
 *   probe.c     TLB probes
 *   direct.c    accesses without them: the window
 *   run.c       accesses that share a probe
 *   flags.c     where the guest's flags are
 *   vector.c    vector instructions; splice.c: their encoding
 *   vector_state.c  whose registers the vector registers are
 *   emit.h      encoding
 *
 * Host registers: see translate.h. The gs base is struct vcpu while a vCPU runs.
 */

#include <Zydis/Zydis.h>
#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/engine.h"
#include "cpu/exception.h"
#include "cpu/translate/crossing.h"

/* Less memory of translations than this is not worth to be given back: what an idle guest executes
 * now and then takes about as much. */
#define TRIM_LEAST (3 * MIB)

typedef struct link *enter_fn(const void *code);

/* As the interpreter's block_run. */
static void interpret(struct vcpu *vcpu, const struct block *block, unsigned count)
{
    uint64_t mask = vcpu->mode == MODE_LONG ? UINT64_MAX : UINT32_MAX;
    for (unsigned i = 0; i < count && !vcpu->leave_block; i++) {
        const struct insn *insn = &block->insns[i];
        vcpu->next_rip = (vcpu->rip + insn->length) & mask;
        insn->exec(vcpu, insn);
        vcpu->rip = vcpu->next_rip;
        vcpu->stats.instructions++;
    }
}

/* Where RIP is, if the instruction TLB has its page. */
static bool find_gpa(const struct vcpu *vcpu, uint64_t *gpa)
{
    uint64_t rip = vcpu->rip;
    const struct itlb_entry *entry =
        &vcpu->mmu.itlb[vcpu->cpl != 3][(rip >> PAGE_SHIFT) & (ITLB_ENTRIES - 1)];
    *gpa = (entry->info & ~PAGE_MASK) | (rip & PAGE_MASK);
    return entry->tag == (rip & ~PAGE_MASK);
}

/* The translation at RIP, if there is one and the instruction TLB has its page. */
static struct translation *find_known(struct vcpu *vcpu, struct translate *translate)
{
    uint64_t gpa;
    if (!find_gpa(vcpu, &gpa))
        return NULL;
    struct translation *t = translate_look_up(translate, gpa, vcpu->rip, vcpu->privilege);
    return t != NULL && unlikely(t->is_crossing) ? crossing_current(vcpu, t) : t;
}

/* Has the page of RIP in the instruction TLB, or raises what fetching raises. Then: what the jump
 * cache knew of RIP before a flush, if that still holds. What comes by a link is for find, which
 * patches it. */
static const void *recall(struct vcpu *vcpu, struct translate *translate)
{
    uint64_t gpa;
    if (unlikely(!find_gpa(vcpu, &gpa)))
        block_locate(vcpu);
    if (translate->left_by != NULL || translate->is_lockstep || !find_gpa(vcpu, &gpa))
        return NULL;
    return jump_recall(translate, vcpu->privilege, vcpu->rip, gpa >> PAGE_SHIFT);
}

/* The link by which the guest came to RIP; NULL: none. */
static const struct link *link_here(const struct vcpu *vcpu, const struct translate *translate)
{
    const struct link *link = translate->left_by;
    return link != NULL && link->target == (vcpu->rip & PAGE_MASK) ? link : NULL;
}

/*
 * Loops are made anew as more of them is known, so that their ways follow in line (trace.c). A
 * translation is hot if it was made for a loop, or reached by a link from a hot one. One that has
 * gone on by a link where it could have gone on in line is dropped, to be made when it is next
 * reached; this happens once for each such link.
 */
static bool could_grow(struct translate *translate, const struct translation *t)
{
    const struct link *links = translation_links(translate, t);
    for (const struct link *link = links; link != links + t->link_count; link++) {
        uint64_t gpa = (uint64_t)t->ppn << PAGE_SHIFT | link->target;
        uint64_t rip = (t->rip & ~PAGE_MASK) | link->target;
        if (link->may_follow && translate_look_up(translate, gpa, rip, link->privilege) != NULL)
            return true;
    }
    return false;
}

/* t is at RIP. True: it has become hot. */
static bool heat(struct vcpu *vcpu, struct translate *translate, struct translation *t)
{
    const struct link *link = link_here(vcpu, translate);
    struct translation *from = link != NULL ? link_from(translate, link) : NULL;
    if (from == NULL || !from->is_hot || from == t || from->is_dead)
        return false;
    if (link->may_follow)
        translate_unlink(translate, from);
    if (t->is_hot)
        return false;
    t->is_hot = true;
    return true;
}

/* Its runs have failed, where the guest has had its stack in another process. */
static bool has_foreign_runs(const struct vcpu *vcpu, struct translate *translate,
                             const struct translation *t)
{
    if (likely((t->rip ^ vcpu->rip) >> PAGE_SHIFT == 0) ||
        !slow_has_bad_runs(translate, translation_gpa(t)))
        return false;
    slow_forgive_runs(translate, translation_gpa(t));
    return true;
}

/* The translation at RIP, made if need be. NULL: *block is not one to be kept. Raises what fetching
 * raises. */
static struct translation *find(struct vcpu *vcpu, struct translate *translate,
                                const struct block **block)
{
    struct translation *t = find_known(vcpu, translate);
    bool is_direct = direct_is_due(translate, t, link_here(vcpu, translate)), was_hot = false;
    if (t != NULL) {
        bool grows = heat(vcpu, translate, t) && could_grow(translate, t);
        if (grows || unlikely(has_foreign_runs(vcpu, translate, t)))
            translate_unlink(translate, t);
        else if (unlikely(is_direct != t->is_direct))
            was_hot = t->is_hot;
        else {
            direct_follow(translate, t, link_here(vcpu, translate));
            return t;
        }
    }
    *block = translate->is_lockstep ? block_find(vcpu) : block_decode_here(vcpu);
    if (*block == vcpu->interp->solo) {
        t = crossing_find(vcpu, translate);
        if (t == NULL)
            *block = block_find(vcpu);
        return t;
    }
    /* It may have parked, and RIP be somewhere else now. */
    t = translate_look_up(translate, (*block)->gpa, vcpu->rip, vcpu->privilege);
    is_direct = is_direct && direct_may_run(translate, vcpu->privilege);
    if (t == NULL || t->is_direct != is_direct) {
        const struct link *link = link_here(vcpu, translate);
        bool is_loop = link != NULL && link->is_backward;
        bool is_hot = is_loop || was_hot || (link != NULL && link_from(translate, link)->is_hot);
        t = translate_block(translate, *block, link, is_hot, is_direct);
        heat(vcpu, translate, t);
    }
    direct_follow(translate, t, link_here(vcpu, translate));
    return t;
}

void translate_enter(struct translate *translate, const void *code)
{
    translate_serialize(translate);
    enter_fn *enter = (enter_fn *)(uintptr_t)(translate->code.execute + translate->enter);
    translate->stats.dispatches++;
    struct link *link = enter(code);
    if (link != NULL)
        translate->vcpu->rip =
            translation_page(translate, link_from(translate, link)) | link->target;
    translate->left_by = link;
}

static bool run_lockstep(struct vcpu *vcpu, struct translate *translate,
                         const struct translation *t)
{
    const struct block *block = block_lookup(vcpu->interp, translation_gpa(t), block_key(vcpu));
    return block != NULL && lockstep_run(vcpu, translate, block, t);
}

static enum vcpu_exit translate_loop(struct vcpu *vcpu)
{
    struct translate *translate = translate_of(vcpu);
    translate->left_by = NULL;
    for (;;) {
        bool step = false;
        bool interpreted = vcpu->vectors.interpret;
        vcpu->vectors.interpret = false;
        if (unlikely(atomic_load_explicit(&vcpu->attention, memory_order_relaxed) != 0)) {
            enum vcpu_exit exit;
            if (vcpu->cpl == 3 && atomic_load(&vcpu->attention) & ATTENTION_IRQ)
                direct_tick(translate);
            atomic_store(&vcpu->mmu.jump_mask, 0);
            if (vcpu_service(vcpu, &exit))
                return exit;
            step = atomic_load_explicit(&vcpu->attention, memory_order_relaxed) & ATTENTION_STEP;
        }
        if (unlikely(vcpu->halted || vcpu->wait_for_sipi))
            return VCPU_EXIT_HALTED;
        vcpu->leave_block = false;
        const struct block *block = NULL;
        const void *code = NULL;
        struct translation *t = NULL;
        if (vcpu->cpl == 3)
            direct_return(translate);
        if (likely(vcpu->is_translatable && !step && !interpreted)) {
            code = recall(vcpu, translate);
            if (code == NULL)
                t = find(vcpu, translate, &block);
        } else {
            block = block_find(vcpu);
        }
        if (unlikely(code == NULL && t == NULL)) {
            translate->stats.interpreted++;
            vcpu->leave_block = false;
            interpret(vcpu, block, step ? 1 : block->count);
            translate->left_by = NULL;
            continue;
        }
        /* Finding may have parked, and code may have been dropped meanwhile: never t itself, which
         * was looked up after that. */
        vcpu->leave_block = false;
        jump_arm(vcpu);
        if (unlikely(translate->dead != 0))
            translate_bury(translate);
        if (code == NULL) {
            code = TRANSLATION_ENTRY(translate, t);
            if (unlikely(translate->is_lockstep)) {
                if (run_lockstep(vcpu, translate, t))
                    continue;
            } else if (!translate_chain(translate, t)) {
                jump_remember(translate, t, vcpu->rip);
            }
        }
        translate_enter(translate, code);
    }
}

static enum vcpu_exit loop_after_fault(struct vcpu *vcpu)
{
    if (unlikely(vcpu->is_lost)) {
        vcpu->is_lost = false;
        vcpu_update_mode(vcpu); /* as before a delivery */
        return VCPU_EXIT_LOST;
    }
    return vcpu_deliver_fault(vcpu) ? translate_loop(vcpu) : VCPU_EXIT_SHUTDOWN;
}

/* ------------------------------------------------------------------------- the gs base */

/* The kernel says in the auxiliary vector whether programs may use WRGSBASE. */
static bool has_fsgsbase(void)
{
    return getauxval(AT_HWCAP2) & 2;
}

static uint64_t gs_base_read(void)
{
    uint64_t base = 0;
    if (has_fsgsbase())
        __asm__ volatile("rdgsbase %0" : "=r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    return base;
}

static void gs_base_write(uint64_t base)
{
    if (has_fsgsbase())
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

/* ------------------------------------------------------------------------- the engine */

static enum vcpu_exit translate_run(struct vcpu *vcpu)
{
    jmp_buf fault_exit;
    enum vcpu_exit exit;
    const uint64_t gs_base = gs_base_read();

    vcpu->vectors = (struct vcpu_vectors){
        .sse_absent = 1, .avx_absent = 1, .host_mxcsr = __builtin_ia32_stmxcsr()};
    gs_base_write((uint64_t)(uintptr_t)vcpu + VCPU_GS_BASE);
    mmu_unpark(&vcpu->mmu);
    direct_watch(translate_of(vcpu));
    vcpu->fault_exit = &fault_exit;
    if (setjmp(fault_exit) == 0)
        exit = translate_loop(vcpu);
    else
        exit = loop_after_fault(vcpu);
    vcpu->fault_exit = NULL;
    direct_watch(NULL);
    mmu_park(&vcpu->mmu);
    gs_base_write(gs_base);
    return exit;
}

static void translate_detach(struct vcpu *vcpu)
{
    struct translate *translate = translate_of(vcpu);
    if (translate->is_lockstep)
        lockstep_report(translate);
    vcpu->mmu.code_drop = NULL;
    vcpu->mmu.code_keep = NULL;
    vcpu->mmu.code_flush = NULL;
    vcpu->mmu.code_context = NULL;
    block_cache_destroy(vcpu->interp);
    vcpu->interp = NULL;
    translate_destroy(translate);
}

static enum status translate_attach(struct vcpu *vcpu, struct error *err)
{
    struct translate *translate;
    enum status status = translate_create(&translate, vcpu, err);
    if (status != STATUS_OK)
        return status;
    status = block_cache_create(&vcpu->interp, err);
    if (status != STATUS_OK) {
        translate_destroy(translate);
        return status;
    }
    vcpu->mmu.code_drop = translate_drop;
    vcpu->mmu.code_keep = translate_keep;
    vcpu->mmu.code_flush = jump_flush;
    vcpu->mmu.code_context = translate;
    return STATUS_OK;
}

static enum status lockstep_attach(struct vcpu *vcpu, struct error *err)
{
    enum status status = translate_attach(vcpu, err);
    if (status == STATUS_OK) {
        translate_of(vcpu)->is_lockstep = true;
        translate_of(vcpu)->relative_pages = 1; /* so both kinds of code are checked */
    }
    return status;
}

/* Unparked, so that no other thread drops translations meanwhile. */
static void translate_trim(struct vcpu *vcpu)
{
    struct translate *translate = translate_of(vcpu);
    if (ring_bytes(translate) < TRIM_LEAST)
        return;
    mmu_unpark(&vcpu->mmu);
    ring_empty(translate);
    mmu_park(&vcpu->mmu);
    translate->stats.trims++;
}

/* Another thread may ask while the vCPU counts: each number is one that it had (vm/stats.c). */
__attribute__((no_sanitize("thread"))) static void translate_get_stats(const struct vcpu *vcpu,
                                                                       struct engine_stats *stats)
{
    const struct translate *translate = vcpu->mmu.code_context;
    *stats = (struct engine_stats){
        .translations = translate->stats.translations,
        .evictions = translate->stats.evictions,
        .dispatches = translate->stats.dispatches,
        .slow_paths = translate->stats.slow_paths,
        .slow_instructions = translate->stats.slow_instructions,
        .interpreted = translate->stats.interpreted,
        .code_bytes = ring_bytes(translate),
        .code_limit = translate->code.granted,
        .trims = translate->stats.trims,
        .windows = translate->stats.windows,
        .window_faults = translate->stats.window_faults,
    };
}

const struct engine_ops translate_lockstep_engine = {
    .name = "translate-lockstep",
    .attach = lockstep_attach,
    .detach = translate_detach,
    .run = translate_run,
    .trim = translate_trim,
    .get_stats = translate_get_stats,
};

const struct engine_ops translate_engine = {
    .name = "translate",
    .attach = translate_attach,
    .detach = translate_detach,
    .run = translate_run,
    .trim = translate_trim,
    .get_stats = translate_get_stats,
};
