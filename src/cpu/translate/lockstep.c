/*
 * Checking mode: each block is run by the interpreter, undone, and run again as a translation; then
 * registers, flags, RIP and the memory that was written must be equal.
 *
 * Blocks that call handlers are the interpreter's anyway and are run once. So are those where the
 * interpreter meets something that cannot be undone: a store that misses the TLB (a device, a page
 * with code), a request to leave the block. An exception leaves by longjmp, and nothing is checked.
 * Other vCPUs and devices that write the same bytes between the two runs would be taken for
 * differences: check with one vCPU.
 */

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/translate/context.h"
#include "util/log.h"

#define STORES_MAX  (2 * BLOCK_MAX_INSNS)
#define REPORTS_MAX 20u

struct store {
    uint8_t *host;
    unsigned size;
    uint64_t before, after; /* after: the block, not the instruction */
};

struct store_log {
    struct store stores[STORES_MAX];
    unsigned count;
};

struct registers {
    uint64_t gpr[GPR_COUNT], rflags, rip;
};

static void registers_get(const struct vcpu *vcpu, struct registers *r)
{
    memcpy(r->gpr, vcpu->gpr, sizeof(r->gpr));
    r->rflags = vcpu->rflags;
    r->rip = vcpu->rip;
}

static void registers_set(struct vcpu *vcpu, const struct registers *r)
{
    memcpy(vcpu->gpr, r->gpr, sizeof(r->gpr));
    vcpu->rflags = r->rflags;
    vcpu->rip = r->rip;
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
    unsigned size = integer_store_size(insn);
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
    log->stores[log->count++] =
        (struct store){.host = host, .size = size, .before = access_get(host, size)};
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
    if (!comparable)
        return false;
    for (unsigned i = 0; i < log->count; i++)
        log->stores[i].after = access_get(log->stores[i].host, log->stores[i].size);
    for (unsigned i = log->count; i-- > 0;)
        access_put(log->stores[i].host, log->stores[i].size, log->stores[i].before);
    return true;
}

/* Flags that an instruction of the block leaves undefined: the host's encodings of one instruction
 * need not agree on them. */
static uint64_t undefined_flags(const struct block *block)
{
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
            return FLAG_OF | FLAG_AF;
        default:
            break;
        }
    }
    return 0;
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
}

static bool stores_are_equal(const struct store_log *log)
{
    for (unsigned i = 0; i < log->count; i++) {
        if (access_get(log->stores[i].host, log->stores[i].size) != log->stores[i].after)
            return false;
    }
    return true;
}

bool lockstep_run(struct vcpu *vcpu, struct translate *translate, const struct block *block,
                  const struct translation *t)
{
    struct store_log log = {.count = 0};
    struct registers start, want, got;
    if (!block_is_inline(block))
        return false;
    registers_get(vcpu, &start);
    if (!run_logged(vcpu, block, &log))
        return true; /* it has been run */
    registers_get(vcpu, &want);
    registers_set(vcpu, &start);
    translate_enter(translate, t);
    registers_get(vcpu, &got);
    uint64_t mask = ~undefined_flags(block);
    bool equal = memcmp(want.gpr, got.gpr, sizeof(want.gpr)) == 0 && want.rip == got.rip &&
                 (want.rflags & mask) == (got.rflags & mask) && stores_are_equal(&log);
    translate->stats.lockstep_blocks++;
    if (!equal && translate->stats.lockstep_differences++ < REPORTS_MAX)
        report(block, start.rip, &want, &got);
    return true;
}
