/*
 * The slow path of generated code, in C.
 *
 * Where a memory operand misses the TLB, the whole instruction goes to its handler in the
 * interpreter. Nearly all accesses never do, so generated code has no more for them than a number,
 * the key: the translation, and which of its slow paths. That says where the instruction is; what
 * it is, is decoded again, from guest memory, and kept for a while in a small cache.
 *
 * That its bytes are still those that were translated is sure: a translation that runs has not been
 * dropped, and that it would have been by the first write to its page. So what is in the cache is
 * good until its page is dropped.
 */

#include "cpu/translate/crossing.h"

#define NO_GPA UINT64_MAX

/* A page's instructions are in SLOW_PAGE consecutive entries, from here on. */
static unsigned first_slot(uint64_t ppn)
{
    return (unsigned)(ppn * 0x9e3779b97f4a7c15u >> 32) % SLOW_INSNS;
}

static const struct insn *find_insn(struct vcpu *vcpu, struct translate *translate, uint64_t gpa)
{
    unsigned slot_in_page = (unsigned)(gpa ^ gpa >> 6) % SLOW_PAGE;
    struct slow_insn *slot =
        &translate->slow_insns[(first_slot(gpa >> PAGE_SHIFT) + slot_in_page) % SLOW_INSNS];
    if (likely(slot->gpa == gpa))
        return &slot->insn;
    uint8_t bytes[INSN_MAX_LENGTH];
    uint64_t in_page = PAGE_SIZE - (gpa & PAGE_MASK);
    unsigned length = in_page < sizeof(bytes) ? (unsigned)in_page : (unsigned)sizeof(bytes);
    bool ends_block;
    pmap_read(vcpu->mmu.map, gpa, bytes, length);
    insn_decode(vcpu, bytes, length, &slot->insn, &ends_block);
    slot->gpa = gpa;
    return &slot->insn;
}

const void *slow_run(struct vcpu *vcpu, uint32_t key)
{
    struct translate *translate = translate_of(vcpu);
    const struct translation *t = ref_get(translate, key >> SLOW_KEY_BITS);
    const struct slow_entry *entries = ref_get(translate, t->slow);
    const struct slow_entry *entry = &entries[key & ((1u << SLOW_KEY_BITS) - 1)];
    uint64_t offset = entry->insn & PAGE_MASK;
    const struct insn *insn = t->is_crossing ? &((const struct crossing *)t)->insn
                                             : find_insn(vcpu, translate, t->gpa + offset);
    vcpu->rip = t->rip + offset;
    vcpu->next_rip = vcpu->rip + insn->length;
    insn->exec(vcpu, insn);
    vcpu->rip = vcpu->next_rip;
    if (entry->insn & SLOW_EXITS || vcpu->leave_block)
        return NULL;
    return translate->code.execute + t->code + entry->resume;
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
