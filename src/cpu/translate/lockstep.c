/*
 * Checking mode: each block is run by the interpreter, undone, and run again as a translation; then
 * registers, vector registers, flags, RIP and the memory that was written must be equal.
 *
 * Blocks that call handlers are the interpreter's anyway and are run once. So are those where the
 * interpreter meets something that cannot be undone: a store that misses the TLB (a device, a page
 * with code), a request to leave the block. An exception leaves by longjmp, and nothing is checked.
 * Other vCPUs and devices that write the same bytes between the two runs would be taken for
 * differences: check with one vCPU.
 */

#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/thunk/xstate.h"
#include "cpu/translate/context.h"
#include "util/log.h"

#define STORES_MAX  (2 * BLOCK_MAX_INSNS)
#define REPORTS_MAX 20u

#define STORE_SIZE_MAX 32u

struct store {
    uint64_t linear;
    uint8_t *host;
    unsigned size;
    uint8_t before[STORE_SIZE_MAX], after[STORE_SIZE_MAX]; /* the block, not the instruction */
};

struct store_log {
    struct store stores[STORES_MAX];
    unsigned count;
};

struct registers {
    uint64_t gpr[GPR_COUNT], rflags, rip;
    struct xstate_image xstate;
};

static void registers_get(const struct vcpu *vcpu, struct registers *r)
{
    memcpy(r->gpr, vcpu->gpr, sizeof(r->gpr));
    r->rflags = vcpu->rflags;
    r->rip = vcpu->rip;
    memcpy(&r->xstate, vcpu->xstate, sizeof(r->xstate));
}

static void registers_set(struct vcpu *vcpu, const struct registers *r)
{
    memcpy(vcpu->gpr, r->gpr, sizeof(r->gpr));
    vcpu->rflags = r->rflags;
    vcpu->rip = r->rip;
    memcpy(vcpu->xstate, &r->xstate, sizeof(r->xstate));
}

/* XSTATE_BV may call more in use than is, and need not be equal. */
static bool vectors_are_equal(const struct xstate_image *a, const struct xstate_image *b)
{
    return a->mxcsr == b->mxcsr && memcmp(a->xmm, b->xmm, sizeof(a->xmm)) == 0 &&
           memcmp(a->ymm_high, b->ymm_high, sizeof(a->ymm_high)) == 0;
}

static bool block_is_inline(const struct block *block)
{
    for (unsigned i = 0; i < block->count; i++) {
        if (!translate_is_inline(&block->insns[i]))
            return false;
    }
    return true;
}

/* Notes what the instruction at RIP is going to overwrite. False: it cannot be told or undone. */
static bool log_store(struct vcpu *vcpu, const struct insn *insn, struct store_log *log)
{
    unsigned size = integer_store_size(insn) + vector_store_size(insn);
    uint64_t linear = insn_address(vcpu, insn);
    if (insn->mnemonic == ZYDIS_MNEMONIC_PUSH || insn->mnemonic == ZYDIS_MNEMONIC_CALL) {
        size = 8;
        linear = vcpu->gpr[GPR_RSP] - 8;
    } else if (insn->seg >= SEG_FS) {
        linear += vcpu->seg[insn->seg].base;
    }
    if (size == 0)
        return true;
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, size);
    if (host == NULL)
        return false;
    struct store *store = &log->stores[log->count++];
    *store = (struct store){.linear = linear, .host = host, .size = size};
    memcpy(store->before, host, size);
    return true;
}

/* Whether all that was stored is still where it was. The block may have parked, and then pages may
 * have been taken away. */
static bool stores_are_at_hand(struct vcpu *vcpu, const struct store_log *log)
{
    for (unsigned i = 0; i < log->count; i++) {
        const struct store *store = &log->stores[i];
        if (mmu_probe_write(&vcpu->mmu, vcpu->privilege, store->linear, store->size) != store->host)
            return false;
    }
    return true;
}

/* By the interpreter. False: it stopped, or went on, where the translation cannot be compared. */
static bool run_logged(struct vcpu *vcpu, const struct block *block, struct store_log *log)
{
    bool comparable = true;
    for (unsigned i = 0; i < block->count; i++) {
        const struct insn *insn = &block->insns[i];
        vcpu->next_rip = vcpu->rip + insn->length;
        if (comparable && !log_store(vcpu, insn, log))
            comparable = false;
        insn->exec(vcpu, insn);
        vcpu->rip = vcpu->next_rip;
        if (vcpu->leave_block)
            return false;
    }
    if (!comparable || !stores_are_at_hand(vcpu, log))
        return false;
    for (unsigned i = 0; i < log->count; i++)
        memcpy(log->stores[i].after, log->stores[i].host, log->stores[i].size);
    for (unsigned i = log->count; i-- > 0;)
        memcpy(log->stores[i].host, log->stores[i].before, log->stores[i].size);
    return true;
}

/* Flags that an instruction of the block leaves undefined: the host's encodings of one instruction
 * need not agree on them. */
static uint64_t undefined_flags(const struct block *block)
{
    uint64_t undefined = 0;
    for (unsigned i = 0; i < block->count; i++) {
        switch (block->insns[i].mnemonic) {
        case ZYDIS_MNEMONIC_SHL:
        case ZYDIS_MNEMONIC_SHR:
        case ZYDIS_MNEMONIC_SAR:
        case ZYDIS_MNEMONIC_ROL:
        case ZYDIS_MNEMONIC_ROR:
        case ZYDIS_MNEMONIC_RCL:
        case ZYDIS_MNEMONIC_RCR:
        case ZYDIS_MNEMONIC_SHLD:
        case ZYDIS_MNEMONIC_SHRD:
            undefined |= FLAG_OF | FLAG_AF;
            break;
        case ZYDIS_MNEMONIC_BEXTR:
            undefined |= FLAG_SF | FLAG_AF | FLAG_PF;
            break;
        case ZYDIS_MNEMONIC_ANDN:
        case ZYDIS_MNEMONIC_BLSI:
        case ZYDIS_MNEMONIC_BLSMSK:
        case ZYDIS_MNEMONIC_BLSR:
        case ZYDIS_MNEMONIC_BZHI:
            undefined |= FLAG_AF | FLAG_PF;
            break;
        default:
            break;
        }
    }
    return undefined;
}

static void report(const struct block *block, uint64_t rip, const struct registers *want,
                   const struct registers *got)
{
    char text[256];
    size_t at = 0;
    for (unsigned i = 0; i < block->count && at < sizeof(text) - 16; i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, " %s",
                               ZydisMnemonicGetString(block->insns[i].mnemonic));
    log_warning("lock-step: block at %#lx differs: rip %#lx, translated %#lx; rflags %#lx, %#lx:%s",
                rip, want->rip, got->rip, want->rflags, got->rflags, text);
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (want->gpr[i] != got->gpr[i])
            log_warning("lock-step: register %u: %#lx, translated %#lx", i, want->gpr[i],
                        got->gpr[i]);
    }
    if (!vectors_are_equal(&want->xstate, &got->xstate))
        log_warning("lock-step: vector state differs; mxcsr %#x, translated %#x",
                    want->xstate.mxcsr, got->xstate.mxcsr);
}

static bool stores_are_equal(struct vcpu *vcpu, const struct store_log *log)
{
    if (!stores_are_at_hand(vcpu, log))
        return true; /* nobody knows */
    for (unsigned i = 0; i < log->count; i++) {
        if (memcmp(log->stores[i].host, log->stores[i].after, log->stores[i].size) != 0)
            return false;
    }
    return true;
}

bool lockstep_run(struct vcpu *vcpu, struct translate *translate, const struct block *block,
                  const struct translation *t)
{
    struct store_log log = {.count = 0};
    struct registers start, want, got;
    if (!block_is_inline(block) || !vectors_are_usable(vcpu, t->vectors))
        return false;
    registers_get(vcpu, &start);
    if (!run_logged(vcpu, block, &log))
        return true; /* it has been run */
    registers_get(vcpu, &want);
    registers_set(vcpu, &start);
    translate_enter(translate, TRANSLATION_ENTRY(translate, t));
    registers_get(vcpu, &got);
    uint64_t mask = ~undefined_flags(block);
    bool equal = memcmp(want.gpr, got.gpr, sizeof(want.gpr)) == 0 && want.rip == got.rip &&
                 (want.rflags & mask) == (got.rflags & mask) &&
                 vectors_are_equal(&want.xstate, &got.xstate) && stores_are_equal(vcpu, &log);
    translate->stats.lockstep_blocks++;
    if (!equal && translate->stats.lockstep_differences++ < REPORTS_MAX)
        report(block, start.rip, &want, &got);
    return true;
}

void lockstep_report(const struct translate *translate)
{
    log_warning("lock-step: %" PRIu64 " blocks compared, %" PRIu64 " differ",
                translate->stats.lockstep_blocks, translate->stats.lockstep_differences);
}
