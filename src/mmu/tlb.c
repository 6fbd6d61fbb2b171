/*
 * Fills, flushes and revocations of the software TLB.
 *
 * Beside each table are the sets of its filled slots, global ones and others. So a flush costs in
 * proportion to what was filled since the last one, not to the table's size, and one that keeps
 * global pages does not even look at them. A revocation finds its entries by tlb_places.h.
 *
 * Large guest pages are kept in pieces of 4 KiB. INVLPG must drop all pieces of the page it names,
 * which takes a scan; large_regions and huge_regions tell most small pages apart that cannot be
 * part of a large one.
 */

#include "mmu/tlb.h"

#include <stdlib.h>

#include "mmu/tlb_places.h"

#define LARGE_REGION_SHIFT 22 /* 2 MiB pages are taken for 4 MiB ones */
#define HUGE_REGION_SHIFT  30

#define SPARE_BITS_LEAST 13u

void tlb_init(struct mmu *mmu, uint64_t ram_pages)
{
    mmu->tlb_spare_bits = SPARE_BITS_LEAST;
    while (bit(mmu->tlb_spare_bits) < ram_pages && bit(mmu->tlb_spare_bits) < TLB_SPARE_ENTRIES)
        mmu->tlb_spare_bits++;
    /* An entry of zeros is an empty one: page 0 is looked for in the first slot alone, and in the
     * last one by what begins in the last page and ends in the first. So the memory of entries that
     * are never used is never touched. */
    for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
        for (unsigned privilege = 0; privilege <= MMU_USER_CHECKED; privilege++) {
            mmu->tlb[privilege][0].of[access].tag = tlb_no_tag(0);
            mmu->tlb[privilege][TLB_ENTRIES - 1].of[access].tag = tlb_no_tag(TLB_ENTRIES - 1);
        }
        for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
            unsigned first = tlb_spare_slot(mmu, 0), last = tlb_spare_slot(mmu, UINT64_MAX);
            mmu->tlb_spare[privilege][first].of[access].tag = tlb_no_tag(first);
            mmu->tlb_spare[privilege][last].of[access].tag = tlb_no_tag(last);
        }
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++)
        mmu->itlb[table][0].tag = tlb_no_tag(0);
}

static inline unsigned code_slot(uint64_t linear)
{
    return (unsigned)(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1);
}

/* ------------------------------------------------------------------------- fills */

void tlb_note_large(struct mmu *mmu, uint64_t linear, unsigned info)
{
    if (info & TLB_LARGE)
        tlb_filter_add(&mmu->large_regions, linear, LARGE_REGION_SHIFT);
    if (info & TLB_HUGE)
        tlb_filter_add(&mmu->huge_regions, linear, HUGE_REGION_SHIFT);
}

static inline void data_drop(const struct data_table *table, unsigned slot)
{
    entry_at(table, slot)->tag = tlb_no_tag(slot);
    tlb_use_clear(table->use, slot);
}

/* In the main table. What was there becomes a spare entry, if it is of another page. */
static void data_put(struct mmu *mmu, enum mmu_privilege privilege, enum mmu_access access,
                     struct tlb_entry entry, uint64_t info)
{
    struct data_table table = main_table(mmu, privilege, access);
    unsigned slot = main_slot(entry.tag);
    struct tlb_entry old = *entry_at(&table, slot);
    if (tlb_use_has(table.use, slot) && old.tag != entry.tag) {
        struct data_table spare = spare_table(mmu, privilege, access);
        data_set(&spare, tlb_spare_slot(mmu, old.tag), old, *info_at(&table, slot));
    }
    data_set(&table, slot, entry, info);
}

void tlb_fill_data(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                   enum mmu_access access, const struct tlb_page *page)
{
    uint64_t tag = linear & ~PAGE_MASK, info = page->ppn << INFO_PPN_SHIFT | page->info;
    struct tlb_entry entry = {.tag = tag, .addend = (uintptr_t)page->host - tag};
    places_add(mmu, page->ppn, tag);
    for (enum mmu_access kind = MMU_READ; kind <= MMU_WRITE; kind++) {
        struct data_table table = main_table(mmu, privilege, kind);
        unsigned slot = main_slot(linear);
        if (kind == MMU_WRITE && !page->writable)
            continue;
        if (kind != access && tlb_use_has(table.use, slot) && entry_at(&table, slot)->tag != tag)
            continue;
        data_put(mmu, privilege, kind, entry, info);
        /* An older one of the same page never comes back. */
        struct data_table spare = spare_table(mmu, privilege, kind);
        if (entry_at(&spare, tlb_spare_slot(mmu, tag))->tag == tag)
            data_drop(&spare, tlb_spare_slot(mmu, tag));
    }
    tlb_note_large(mmu, linear, page->info);
}

bool tlb_recall(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                enum mmu_access access)
{
    struct data_table spare = spare_table(mmu, privilege, access);
    unsigned slot = tlb_spare_slot(mmu, linear);
    struct tlb_entry entry = *entry_at(&spare, slot);
    if (entry.tag != (linear & ~PAGE_MASK))
        return false;
    uint64_t info = *info_at(&spare, slot);
    data_drop(&spare, slot);
    data_put(mmu, privilege, access, entry, info);
    return true;
}

void tlb_fill_code(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                   const struct tlb_page *page)
{
    unsigned table = itlb_index(privilege), slot = code_slot(linear);
    mmu->itlb[table][slot] = (struct itlb_entry){
        .tag = linear & ~PAGE_MASK,
        .host = page->host,
        .info = page->ppn << INFO_PPN_SHIFT | page->info,
    };
    tlb_use_set(&mmu->itlb_use[table], slot, page->info & TLB_GLOBAL);
    tlb_note_large(mmu, linear, page->info);
}

unsigned mmu_user_pages(const struct mmu *mmu)
{
    unsigned count = 0;
    for (unsigned global = 0; global < 2; global++)
        count += tlb_set_count(&mmu->tlb_use[MMU_USER][MMU_READ].of[global]) +
                 tlb_set_count(&mmu->tlb_spare_use[MMU_USER][MMU_READ].of[global]);
    return count;
}

bool mmu_show(struct mmu *mmu, uint64_t linear)
{
    const uint64_t page = linear & ~PAGE_MASK;
    if (mmu->window == NULL || !window_has_place(page))
        return false;
    if (mmu->window_cr3 != mmu->cr3)
        window_empty(mmu->window);
    mmu->window_cr3 = mmu->cr3;
    enum window_access how = WINDOW_WRITE;
    const uint8_t *host = mmu_probe_write(mmu, MMU_USER, page, 1);
    uint64_t info = mmu->tlb_info[MMU_USER][main_slot(page)].of[MMU_WRITE];
    if (host == NULL) {
        host = mmu_probe_read(mmu, MMU_USER, page, 1);
        info = mmu->tlb_info[MMU_USER][main_slot(page)].of[MMU_READ];
        how = info & TLB_ZERO ? WINDOW_ZERO : WINDOW_READ;
    }
    return host != NULL && window_map(mmu->window, page, info >> INFO_PPN_SHIFT, host, how);
}

/* ------------------------------------------------------------------------- flushes */

static void flush_set(struct mmu *mmu, bool global)
{
    struct tlb_cursor cursor;
    unsigned slot;
    for (unsigned number = 0; number < DATA_TABLES; number++) {
        struct data_table table = data_table(mmu, number);
        struct tlb_set *set = &table.use->of[global];
        for (cursor = tlb_set_begin(set); tlb_set_next(set, &cursor, &slot);)
            entry_at(&table, slot)->tag = tlb_no_tag(slot);
        tlb_set_clear(set);
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        struct tlb_set *set = &mmu->itlb_use[table].of[global];
        for (cursor = tlb_set_begin(set); tlb_set_next(set, &cursor, &slot);)
            mmu->itlb[table][slot].tag = tlb_no_tag(slot);
        tlb_set_clear(set);
    }
}

void tlb_flush(struct mmu *mmu, bool keep_global)
{
    flush_set(mmu, false);
    if (!keep_global) {
        flush_set(mmu, true);
        tlb_filter_clear(&mmu->large_regions);
        tlb_filter_clear(&mmu->huge_regions);
    }
}

/* Drops entries of the ITLBs for which `drop` holds; they are all looked at. */
static inline void drop_code_where(struct mmu *mmu,
                                   bool (*drop)(uint64_t tag, uint64_t info, const void *),
                                   const void *argument)
{
    struct tlb_cursor cursor;
    unsigned slot;
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        for (unsigned global = 0; global < 2; global++) {
            struct tlb_set *set = &mmu->itlb_use[table].of[global];
            for (cursor = tlb_set_begin(set); tlb_set_next(set, &cursor, &slot);) {
                struct itlb_entry *entry = &mmu->itlb[table][slot];
                if (!drop(entry->tag, entry->info, argument))
                    continue;
                entry->tag = tlb_no_tag(slot);
                tlb_set_remove(set, slot);
            }
        }
    }
}

/* True for a piece of a large page that may hold linear. A flush may drop more than it must. */
static inline bool piece_of_same_page(uint64_t tag, uint64_t info, const void *argument)
{
    const uint64_t linear = *(const uint64_t *)argument;
    if (info & TLB_HUGE)
        return (tag ^ linear) >> HUGE_REGION_SHIFT == 0;
    return info & TLB_LARGE && (tag ^ linear) >> LARGE_REGION_SHIFT == 0;
}

static void drop_piece(struct mmu *mmu, const struct data_table *table, unsigned slot,
                       const void *linear)
{
    (void)mmu;
    if (piece_of_same_page(entry_at(table, slot)->tag, *info_at(table, slot), linear))
        data_drop(table, slot);
}

void tlb_drop_page(struct mmu *mmu, uint64_t linear)
{
    uint64_t tag = linear & ~PAGE_MASK;
    unsigned slot = main_slot(linear), spare_slot = tlb_spare_slot(mmu, linear);
    if (mmu->window != NULL)
        window_drop_linear(mmu->window, tag);
    /* Most entries are of other pages: it is done at every page fault and INVLPG. */
    for (enum mmu_privilege privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        for (enum mmu_access access = MMU_READ; access <= MMU_WRITE; access++) {
            if (unlikely(mmu->tlb[privilege][slot].of[access].tag == tag)) {
                struct data_table table = main_table(mmu, privilege, access);
                data_drop(&table, slot);
            }
            if (unlikely(mmu->tlb_spare[privilege][spare_slot].of[access].tag == tag)) {
                struct data_table table = spare_table(mmu, privilege, access);
                data_drop(&table, spare_slot);
            }
        }
    }
    slot = code_slot(linear);
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        struct itlb_entry *entry = &mmu->itlb[table][slot];
        if (entry->tag == tag) {
            entry->tag = tlb_no_tag(slot);
            tlb_use_clear(&mmu->itlb_use[table], slot);
        }
    }
}

/* Of a page in the window, which does not know how large pages are. */
static bool is_elsewhere(const struct window_page *page, void *linear)
{
    return (page->linear ^ *(const uint64_t *)linear) >> HUGE_REGION_SHIFT != 0;
}

void tlb_flush_page(struct mmu *mmu, uint64_t linear)
{
    tlb_drop_page(mmu, linear);
    if (unlikely(tlb_filter_may_have(&mmu->large_regions, linear, LARGE_REGION_SHIFT) ||
                 tlb_filter_may_have(&mmu->huge_regions, linear, HUGE_REGION_SHIFT))) {
        if (mmu->window != NULL)
            window_keep(mmu->window, is_elsewhere, &linear);
        data_visit(mmu, drop_piece, &linear);
        drop_code_where(mmu, piece_of_same_page, &linear);
    }
}

/* ------------------------------------------------------------------------- revocations */

#define FILTER_BITS (ARRAY_LENGTH(((struct tlb_pages *)NULL)->filter) * 64)
_Static_assert(FILTER_BITS <= 1u << SPARE_BITS_LEAST, "pages that share places share a bit");

void tlb_pages_init(struct tlb_pages *pages, const uint64_t *ppns, unsigned count)
{
    *pages = (struct tlb_pages){.ppns = ppns, .count = count, .sorted = true};
    for (unsigned i = 0; i < count; i++) {
        pages->filter[ppns[i] % FILTER_BITS / 64] |= bit(ppns[i] % 64);
        pages->sorted = pages->sorted && (i == 0 || ppns[i - 1] < ppns[i]);
    }
}

static int compare_ppns(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

static bool has_page(const struct tlb_pages *pages, uint64_t ppn)
{
    if (pages->sorted)
        return bsearch(&ppn, pages->ppns, pages->count, sizeof ppn, compare_ppns) != NULL;
    for (unsigned i = 0; i < pages->count; i++) {
        if (pages->ppns[i] == ppn)
            return true;
    }
    return false;
}

static inline bool maps_page(uint64_t tag, uint64_t info, const void *argument)
{
    (void)tag;
    const struct tlb_pages *pages = argument;
    uint64_t ppn = info >> INFO_PPN_SHIFT;
    return unlikely(pages->filter[ppn % FILTER_BITS / 64] >> ppn % 64 & 1) && has_page(pages, ppn);
}

/* The places of these pages have been reset: those of entries that stay are added, for they may be
 * shared with one of them. */
static void drop_or_add(struct mmu *mmu, const struct data_table *table, unsigned slot,
                        const void *argument)
{
    const struct tlb_pages *pages = argument;
    uint64_t ppn = *info_at(table, slot) >> INFO_PPN_SHIFT;
    if (likely((pages->filter[ppn % FILTER_BITS / 64] >> ppn % 64 & 1) == 0))
        return;
    if (has_page(pages, ppn))
        data_drop(table, slot);
    else
        places_add(mmu, ppn, entry_at(table, slot)->tag);
}

void tlb_drop_mappings(struct mmu *mmu, const struct tlb_pages *pages)
{
    bool are_many = false;
    for (unsigned i = 0; mmu->window != NULL && i < pages->count; i++)
        window_drop_ppn(mmu->window, pages->ppns[i]);
    for (unsigned i = 0; i < pages->count; i++)
        are_many |= places_are_many(places_of(mmu, pages->ppns[i]));
    if (unlikely(are_many)) {
        for (unsigned i = 0; i < pages->count; i++)
            places_reset(mmu, pages->ppns[i]);
        data_visit(mmu, drop_or_add, pages);
    } else {
        for (unsigned i = 0; i < pages->count; i++)
            places_visit(mmu, pages->ppns[i], data_drop);
    }
    drop_code_where(mmu, maps_page, pages);
}

/* Of an entry that maps a page with code. */
static void drop_write(const struct data_table *table, unsigned slot)
{
    *info_at(table, slot) |= TLB_CODE;
    if (table->access == MMU_WRITE)
        data_drop(table, slot);
}

static void drop_write_of(struct mmu *mmu, const struct data_table *table, unsigned slot,
                          const void *argument)
{
    (void)mmu;
    if (*info_at(table, slot) >> INFO_PPN_SHIFT == *(const uint64_t *)argument)
        drop_write(table, slot);
}

void tlb_drop_writes(struct mmu *mmu, uint64_t ppn)
{
    if (mmu->window != NULL)
        window_drop_ppn(mmu->window, ppn);
    if (unlikely(places_are_many(places_of(mmu, ppn))))
        data_visit(mmu, drop_write_of, &ppn);
    else
        places_visit(mmu, ppn, drop_write);
}
