/*
 * Marks of pages that code was decoded from, or that are page tables which a shadow follows (mmu/
 * shadow.h): whatever was made of a page's bytes and must go when they change. What is said of code
 * here goes for such a table, too.
 *
 * The mark comes in two steps: CODE makes every *new* look-up say "not writable"; then the caller
 * sweeps the TLBs; then GUARDED says that this is done, and code may be decoded.
 *
 * It goes in three: without GUARDED nobody decodes anew; then everybody drops what was decoded;
 * then CODE goes, and the page may be written. If CODE went first, a vCPU that has not heard of it
 * yet could write the page, and execute what it was before.
 *
 * Both are one piece, under the lock of whoever revokes (mmu/domain.c): if two took a mark off at
 * once, the slower one could take it from code that was decoded after the quicker one's drop, and
 * that the other has not been told to drop yet.
 *
 * A page may be marked while it is away, since who wants to decode from it parks in between; that
 * does no harm: no TLB lets it be written then, and before it is decoded from it is brought back. A
 * page that leaves loses its mark and its code, at once (page_leave_begin) or when it really goes
 * (page_leave_code).
 */

#include "mem/pmap_private.h"

bool pmap_code_mark(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return false;
    return !(atomic_fetch_or(entry, ENTRY_CODE) & ENTRY_GUARDED);
}

void pmap_code_guard(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return;
    uint64_t value = atomic_load(entry);
    while (value & ENTRY_CODE &&
           !atomic_compare_exchange_weak(entry, &value, value | ENTRY_GUARDED))
        ;
}

bool pmap_code_is_guarded(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && atomic_load(entry) & ENTRY_GUARDED;
}

bool pmap_has_code(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && atomic_load(entry) & ENTRY_CODE;
}

void pmap_code_unguard(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry != NULL)
        atomic_fetch_and(entry, ~(uint64_t)ENTRY_GUARDED);
}

void pmap_code_clear(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    uint64_t value = entry != NULL ? atomic_load(entry) : 0;
    while ((value & (ENTRY_CODE | ENTRY_GUARDED)) == ENTRY_CODE &&
           !atomic_compare_exchange_weak(entry, &value, value & ~(uint64_t)ENTRY_CODE))
        ;
}

void page_drop_code(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    /* Orders the bytes just written before the look at the mark; the other side sets the mark, then
     * reads the bytes. One of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (likely(!(atomic_load(entry) & ENTRY_CODE)))
        return;
    pages_revoke(map, &(struct pmap_revocation){
                          .ppns = &ppn, .count = 1, .code_ppns = &ppn, .code_count = 1});
}
