/*
 * Instructions that cross into the next page.
 *
 * Such an instruction is a translation of its own, of one instruction. Its two pages can come
 * apart: either may be written, moved, or mapped elsewhere. So beside what holds for every
 * translation,
 *   - it is found only while the instruction TLB says that RIP's next page is the one that its
 * bytes were read from; there may be several for one RIP, with different second pages;
 *   - it is in the list of crossings, from which a write to its second page drops it;
 *   - no link leads to it (flow_is_linked): they are good as long as RIP's own page is mapped. The
 *     jump cache may have it, and forgets it with a flush of either page.
 */

#include "cpu/translate/crossing.h"

#include <string.h>

#include "cpu/interp/interp.h"

/* RIP's page, or the next one, as the instruction TLB has it; NULL: it does not. */
static const struct itlb_entry *page_of(const struct vcpu *vcpu, uint64_t linear)
{
    const struct itlb_entry *entry =
        &vcpu->mmu.itlb[vcpu->cpl != 3][(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1)];
    return entry->tag == (linear & ~PAGE_MASK) ? entry : NULL;
}

static uint64_t next_page(uint64_t rip)
{
    return (rip & ~PAGE_MASK) + PAGE_SIZE;
}

struct translation *crossing_current(struct vcpu *vcpu, struct translation *t)
{
    const struct itlb_entry *next = page_of(vcpu, next_page(vcpu->rip));
    if (next == NULL)
        return NULL;
    uint64_t ppn = next->info >> PAGE_SHIFT, gpa = translation_gpa(t);
    for (; t != NULL; t = ref_get(translate_of(vcpu), t->hash_next)) {
        if (t->is_crossing && translation_gpa(t) == gpa && translation_is_for(t, vcpu->rip) &&
            t->privilege == vcpu->privilege && ((struct crossing *)t)->next_ppn == ppn)
            return t;
    }
    return NULL;
}

/* Decodes again from bytes of two pages that are both marked as code. False: the instruction at RIP
 * has become another one. */
static bool decode_guarded(struct vcpu *vcpu, uint64_t *next_ppn)
{
    const uint64_t rip = vcpu->rip;
    struct block *solo = vcpu->interp->solo;
    uint64_t marked[2] = {UINT64_MAX, UINT64_MAX};
    for (;;) {
        /* Both are there, unless what resolved the second has parked meanwhile. */
        const struct itlb_entry *first = page_of(vcpu, rip),
                                *second = page_of(vcpu, next_page(rip));
        if (first != NULL && second != NULL) {
            uint64_t ppn[2] = {first->info >> PAGE_SHIFT, second->info >> PAGE_SHIFT};
            if (ppn[0] == marked[0] && ppn[1] == marked[1] &&
                pmap_code_is_guarded(vcpu->mmu.map, ppn[0]) &&
                pmap_code_is_guarded(vcpu->mmu.map, ppn[1])) {
                uint8_t bytes[INSN_MAX_LENGTH];
                unsigned have = (unsigned)(PAGE_SIZE - (rip & PAGE_MASK));
                bool ends_block;
                if (have >= INSN_MAX_LENGTH)
                    return false;
                memcpy(bytes, first->host + (rip & PAGE_MASK), have);
                memcpy(bytes + have, second->host, INSN_MAX_LENGTH - have);
                if (insn_decode(vcpu, bytes, INSN_MAX_LENGTH, &solo->insns[0], &ends_block) ==
                        INSN_TRUNCATED ||
                    solo->insns[0].length <= have)
                    return false;
                solo->gpa = ppn[0] << PAGE_SHIFT | (rip & PAGE_MASK);
                solo->count = 1;
                solo->bytes = solo->insns[0].length;
                *next_ppn = ppn[1];
                return true;
            }
            marked[0] = ppn[0];
            marked[1] = ppn[1];
            mmu_mark_code(&vcpu->mmu, ppn[0]);
            mmu_mark_code(&vcpu->mmu, ppn[1]);
        }
        if (block_find(vcpu) != solo)
            return false;
    }
}

struct translation *crossing_find(struct vcpu *vcpu, struct translate *translate)
{
    uint64_t next_ppn;
    struct translation *t =
        translate_look_up(translate, vcpu->interp->solo->gpa, vcpu->rip, vcpu->privilege);
    if (t != NULL && t->is_crossing) {
        t = crossing_current(vcpu, t);
        if (t != NULL)
            return t;
    }
    if (!decode_guarded(vcpu, &next_ppn))
        return NULL;
    t = translate_block(translate, vcpu->interp->solo, NULL, false, false);
    struct crossing *crossing = (struct crossing *)t;
    crossing->next_ppn = next_ppn;
    crossing->next = translate->crossings;
    crossing->back = &translate->crossings;
    if (crossing->next != NULL)
        crossing->next->back = &crossing->next;
    translate->crossings = crossing;
    return t;
}

void crossing_unlist(struct translation *t)
{
    struct crossing *crossing = (struct crossing *)t;
    *crossing->back = crossing->next;
    if (crossing->next != NULL)
        crossing->next->back = crossing->back;
}

void crossing_drop(struct translate *translate, uint64_t ppn)
{
    struct crossing *next;
    for (struct crossing *crossing = translate->crossings; crossing != NULL; crossing = next) {
        next = crossing->next;
        if (crossing->next_ppn == ppn)
            translate_unlink(translate, &crossing->t);
    }
}
