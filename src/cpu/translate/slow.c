/*
 * The slow path of generated code, in C.
 *
 * Where a memory operand misses the TLB, the whole instruction goes to its handler in the
 * interpreter. Nearly all accesses never do, so generated code has no more for them than a number,
 * the key: the translation, and which of its slow paths. That says where the instruction is; what
 * it is, is decoded again, from guest memory, and kept for a while in a small cache.
 *
 * Where the operand is in a run (run.c), so go the instructions up to its end. Runs that fail too
 * often are given up, until the code runs at another address (relative.c): another process has its
 * stack elsewhere. An access between those of a run goes alone, as long as the MMU has not parked
 * for it: up to then the host addresses that the run has found stay good (mmu.h).
 *
 * That its bytes are still those that were translated is sure: a translation that runs has not been
 * dropped, and that it would have been by the first write to its page. So what is in the cache is
 * good until its page is dropped.
 */

#include <Zydis/Zydis.h>

#include "cpu/access.h"
#include "cpu/interp/interp.h"
#include "cpu/translate/crossing.h"

#define NO_GPA UINT64_MAX

/* A page's instructions are in SLOW_PAGE consecutive entries, from here on. */
static unsigned first_slot(uint64_t ppn)
{
    return (unsigned)(ppn * 0x9e3779b97f4a7c15u >> 32) % SLOW_INSNS;
}

/* It is good until the next call. */
static const struct insn *find_insn(struct vcpu *vcpu, struct translate *translate, uint64_t gpa)
{
    unsigned first = first_slot(gpa >> PAGE_SHIFT);
    unsigned slot_in_page = (unsigned)(gpa ^ gpa >> 6) % SLOW_PAGE;
    struct slow_insn *slot = &translate->slow_insns[(first + slot_in_page) % SLOW_INSNS];
    struct slow_insn *other = &translate->slow_insns[(first + (slot_in_page ^ 1)) % SLOW_INSNS];
    if (likely(slot->gpa == gpa))
        return &slot->insn;
    if (other->gpa == gpa)
        return &other->insn;
    *other = *slot;
    uint8_t bytes[INSN_MAX_LENGTH];
    uint64_t in_page = PAGE_SIZE - (gpa & PAGE_MASK);
    unsigned length = in_page < sizeof(bytes) ? (unsigned)in_page : (unsigned)sizeof(bytes);
    bool ends_block;
    pmap_read(vcpu->mmu.map, gpa, bytes, length);
    insn_decode(vcpu, bytes, length, &slot->insn, &ends_block);
    slot->gpa = gpa;
    return &slot->insn;
}

static unsigned bad_runs_slot(uint64_t gpa)
{
    return (unsigned)(gpa ^ gpa >> PAGE_SHIFT) % BAD_RUNS;
}

bool slow_has_bad_runs(const struct translate *translate, uint64_t gpa)
{
    return translate->bad_runs[bad_runs_slot(gpa)] >= BAD_RUNS_MAX;
}

void slow_forgive_runs(struct translate *translate, uint64_t gpa)
{
    translate->bad_runs[bad_runs_slot(gpa)] = 0;
}

/* Linear address of the access that begins a run. */
static uint64_t access_address(const struct vcpu *vcpu, const struct insn *insn)
{
    if (insn->mnemonic == ZYDIS_MNEMONIC_PUSH || insn->exec == exec_call)
        return vcpu->gpr[GPR_RSP] - 8;
    if (insn->mnemonic == ZYDIS_MNEMONIC_POP || insn->exec == exec_ret)
        return vcpu->gpr[GPR_RSP];
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEAVE)
        return vcpu->gpr[GPR_RBP];
    uint64_t address = insn_address(vcpu, insn);
    return insn->seg >= SEG_FS ? address + vcpu->seg[insn->seg].base : address;
}

/* The run's probe has failed, and its accesses have been done: if it would fail again it is over a
 * page border, or has a page of no use to it. If that is so often, the block is better off without
 * runs. */
static void weigh_run(struct vcpu *vcpu, struct translate *translate, struct translation *t,
                      const struct slow_entry *entry, uint64_t linear)
{
    const uint8_t *host = entry->insn & SLOW_WRITES
                              ? mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, entry->span)
                              : mmu_probe_read(&vcpu->mmu, vcpu->privilege, linear, entry->span);
    uint8_t *bad = &translate->bad_runs[bad_runs_slot(translation_gpa(t))];
    if (host != NULL || t->is_dead)
        return;
    /* Others with this hash may have been there before: those made since have no runs. */
    if (*bad == BAD_RUNS_MAX || ++*bad == BAD_RUNS_MAX)
        translate_unlink(translate, t);
}

uint8_t *slow_find(struct vcpu *vcpu, uint64_t linear, unsigned look)
{
    if (unlikely(!access_is_canonical(linear)))
        return NULL;
    return mmu_find(&vcpu->mmu, linear, look & 1, look >> 1);
}

const void *slow_run(struct vcpu *vcpu, uint32_t key)
{
    struct translate *translate = translate_of(vcpu);
    struct translation *t = ref_get(translate, key >> SLOW_KEY_BITS);
    const struct slow_entry *entries = ref_get(translate, (key >> SLOW_KEY_BITS) + t->slow);
    const struct slow_entry *entry = &entries[key & ((1u << SLOW_KEY_BITS) - 1)];
    translate->stats.slow_paths++;
    const uint64_t rip = translation_page(translate, t) | (t->rip & PAGE_MASK);
    uint64_t offset = entry->insn & PAGE_MASK, gpa = translation_gpa(t);
    const struct insn *insn = t->is_crossing ? &((const struct crossing *)t)->insn
                                             : find_insn(vcpu, translate, gpa + offset);
    vcpu->rip = rip + offset;
    bool is_run = entry->insn & SLOW_RUN, is_alone = entry->insn & SLOW_ALONE;
    uint64_t linear = is_run ? access_address(vcpu, insn) - entry->at : 0;
    uint64_t parkings = vcpu->mmu.parkings;
    if (t->is_direct)
        direct_begin(translate);
    bool leaves = entry->insn & SLOW_EXITS;
    for (unsigned left = entry->count;;) {
        const uint64_t next_rip = vcpu->rip + insn->length;
        vcpu->next_rip = next_rip;
        insn->exec(vcpu, insn);
        vcpu->rip = vcpu->next_rip;
        translate->stats.slow_instructions++;
        is_alone = is_alone && vcpu->mmu.parkings == parkings;
        if (--left == 0 || vcpu->leave_block || is_alone)
            break;
        if (vcpu->rip != next_rip && flow_is_jcc(insn)) { /* no way in line */
            leaves = true;
            break;
        }
        insn = find_insn(vcpu, translate, gpa + (vcpu->rip - rip));
    }
    if (is_run && !translate->is_lockstep)
        weigh_run(vcpu, translate, t, entry, linear);
    if (entry->direct != 0 && !t->is_dead)
        direct_learn(translate, t, gpa + offset);
    if (vcpu->leave_block || t->is_dead)
        return NULL;
    if (is_alone)
        return translate->code.execute + t->code + entry->alone;
    return leaves ? NULL : translate->code.execute + t->code + entry->resume;
}

void slow_forget(struct translate *translate, uint64_t ppn)
{
    bool all = ppn == MMU_ALL_PAGES;
    unsigned first = all ? 0 : first_slot(ppn), count = all ? SLOW_INSNS : SLOW_PAGE;
    for (unsigned i = first; i < first + count; i++) {
        struct slow_insn *slot = &translate->slow_insns[i % SLOW_INSNS];
        if (all || slot->gpa >> PAGE_SHIFT == ppn)
            slot->gpa = NO_GPA;
    }
}
