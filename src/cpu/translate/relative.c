/*
 * Relative translations: one for all linear addresses that a page of code is mapped at.
 *
 * Most code is at one address only, and its translations are for that RIP: return addresses,
 * RIP-relative operands and where branches go are constants in them. But each process has its
 * libraries elsewhere. So a page that is executed at a second linear address while translations of
 * it are left loses these, and is translated relatively from then on: in such code RIP is
 *
 *      vcpu->code_page + a constant
 *
 * and code_page is the linear base of the page that is being executed.
 *
 *   - Everybody who comes by RIP (the jump cache, the dispatcher) has RIP in T0. `unloaded`, the
 *     entry that they all come in by, makes code_page of it (entry.c). Absolute translations have
 *     no use for it, and leave it as it is.
 *   - Links stay in the page, and lead from relative translations to relative ones, from absolute
 *     ones to absolute ones: code_page is right already.
 *   - While a relative translation runs, and on its slow paths, code_page is its page. In C it is
 *     that of a translation that has just been left, too (translation_page).
 *
 * THE INVARIANT of a page: where it may be relative, all of its translations are, or none is and
 * all of them have the same linear page. Where it may not (relative_may_be_at), translations are
 * absolute, and may stand beside relative ones: no link leads from one kind to the other, since
 * there it is for another RIP. Which kind a page is, its translations say. If all are gone, but it
 * has not been written, a bit does (relative_seen); pages that share one may take it for theirs.
 *
 * In the jump cache a translation is under one RIP at a time, which is t->rip: jump_remember takes
 * it out of where it was. So it is found and taken out by RIP, as absolute ones are, and nothing
 * that leads to its code is left when its place is wanted for another.
 */

#include <string.h>

#include "cpu/access.h"
#include "cpu/translate/translate.h"

/* A direct branch or an operand reaches 2 GiB and a page from the base of the page. */
#define REACH (1ull << 32)

/* Whether addresses are canonical is found out once, when the code is made. So whatever it may
 * reach must be so at each place: it is not near the hole in the middle of the address space. */
bool relative_may_be_at(uint64_t rip)
{
    return access_is_canonical(rip - REACH) && access_is_canonical(rip + REACH);
}

static unsigned slot_of(uint64_t ppn)
{
    return (unsigned)(ppn * 0x9e3779b97f4a7c15u >> 32) % RELATIVE_SLOTS;
}

bool relative_is_wanted(struct translate *translate, uint64_t ppn, uint64_t rip)
{
    if (!relative_may_be_at(rip))
        return false;
    const struct translation *t = translate_page_first(translate, ppn);
    while (t != NULL && !(t->ppn == ppn && relative_may_be_at(t->rip)))
        t = ref_get(translate, t->page_next);
    const unsigned slot = slot_of(ppn);
    if (t == NULL)
        return translate->relative_seen[slot / 64] & bit(slot % 64) ||
               ppn & translate->relative_pages;
    if (t->is_relative)
        return true;
    if ((t->rip ^ rip) >> PAGE_SHIFT == 0)
        return false;
    translate->relative_seen[slot / 64] |= bit(slot % 64);
    translate_unlink_page(translate, ppn);
    return true;
}

void relative_forget(struct translate *translate, uint64_t ppn)
{
    const unsigned slot = slot_of(ppn);
    if (ppn == MMU_ALL_PAGES)
        memset(translate->relative_seen, 0, sizeof(translate->relative_seen));
    else
        translate->relative_seen[slot / 64] &= ~bit(slot % 64);
}

void emit_rip(struct emit *e, const struct translation *t, unsigned to, uint64_t rip)
{
    if (!t->is_relative) {
        emit_constant(e, to, rip);
        return;
    }
    emit_load(e, to, rm_vcpu(offsetof(struct vcpu, code_page)));
    int64_t left = (int64_t)(rip - (t->rip & ~PAGE_MASK));
    while (left != 0) { /* twice where 2 GiB are not enough */
        int32_t part = left > INT32_MAX ? INT32_MAX : left < INT32_MIN ? INT32_MIN : (int32_t)left;
        emit_lea(e, to, rm_at(to, part));
        left -= part;
    }
}

void relative_emit_entry(struct emit *e, const struct translation *t)
{
    if (t->rip & PAGE_MASK)
        emit_lea(e, T0, rm_at(T0, -(int32_t)(t->rip & PAGE_MASK)));
    emit_store(e, rm_vcpu(offsetof(struct vcpu, code_page)), T0);
}
