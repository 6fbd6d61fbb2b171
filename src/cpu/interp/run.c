/*
 * The interpreter's run loop.
 *
 * Once a block: attention, halts, the block to run. Within a block each handler is called with rip
 * at its instruction and next_rip behind it; then rip follows. Whatever must be noticed between two
 * instructions sets leave_block or ends its block.
 *
 * An exception raised anywhere below (a handler, a fetch, vcpu_service) comes back through setjmp
 * in interp_run with rip at the instruction to blame, is delivered, and the loop begins again.
 */

#include "cpu/engine.h"
#include "cpu/exception.h"
#include "cpu/interp/block.h"
#include "cpu/interp/interp.h"

static ALWAYS_INLINE void block_run(struct vcpu *vcpu, const struct block *block, unsigned count)
{
    uint64_t mask = vcpu->mode == MODE_LONG ? UINT64_MAX : UINT32_MAX;
    uint64_t rip = vcpu->rip;
    const struct insn *insn = block->insns, *end = insn + count;
    do {
        vcpu->next_rip = (rip + insn->length) & mask;
        insn->exec(vcpu, insn);
        rip = vcpu->next_rip;
        vcpu->rip = rip;
        vcpu->stats.instructions++;
        insn++;
    } while (insn != end && likely(!vcpu->leave_block));
}

static enum vcpu_exit interp_loop(struct vcpu *vcpu)
{
    for (;;) {
        bool step = false;
        if (unlikely(atomic_load_explicit(&vcpu->attention, memory_order_relaxed) != 0)) {
            enum vcpu_exit exit;
            if (vcpu_service(vcpu, &exit))
                return exit;
            step = atomic_load_explicit(&vcpu->attention, memory_order_relaxed) & ATTENTION_STEP;
        }
        if (unlikely(vcpu->halted || vcpu->wait_for_sipi))
            return VCPU_EXIT_HALTED;
        vcpu->leave_block = false;
        const struct block *block = block_find(vcpu);
        block_run(vcpu, block, step ? 1 : block->count);
    }
}

static enum vcpu_exit interp_after_fault(struct vcpu *vcpu)
{
    if (unlikely(vcpu->is_lost)) {
        vcpu->is_lost = false;
        vcpu_update_mode(vcpu); /* as before a delivery */
        return VCPU_EXIT_LOST;
    }
    return vcpu_deliver_fault(vcpu) ? interp_loop(vcpu) : VCPU_EXIT_SHUTDOWN;
}

static enum vcpu_exit interp_run(struct vcpu *vcpu)
{
    jmp_buf fault_exit;
    enum vcpu_exit exit;

    mmu_unpark(&vcpu->mmu);
    vcpu->fault_exit = &fault_exit;
    if (setjmp(fault_exit) == 0)
        exit = interp_loop(vcpu);
    else
        exit = interp_after_fault(vcpu);
    vcpu->fault_exit = NULL;
    mmu_park(&vcpu->mmu);
    return exit;
}

static enum status interp_attach(struct vcpu *vcpu, struct error *err)
{
    enum status status = block_cache_create(&vcpu->interp, err);
    if (status != STATUS_OK)
        return status;
    vcpu->mmu.code_drop = block_drop;
    vcpu->mmu.code_context = vcpu;
    return STATUS_OK;
}

static void interp_detach(struct vcpu *vcpu)
{
    vcpu->mmu.code_drop = NULL;
    vcpu->mmu.code_context = NULL;
    block_cache_destroy(vcpu->interp);
    vcpu->interp = NULL;
}

const struct engine_ops interp_engine = {
    .name = "interp",
    .attach = interp_attach,
    .detach = interp_detach,
    .run = interp_run,
};
