/*
 * Fills, flushes and revocations of the software TLB.
 *
 * Beside each table are the sets of its filled slots, global ones and others. So a flush costs in
 * proportion to what was filled since the last one, not to the table's size, and one that keeps
 * global pages does not even look at them.
 *
 * Large guest pages are kept in pieces of 4 KiB. INVLPG must drop all pieces of the page it names,
 * which takes a scan; large_regions and huge_regions tell most small pages apart that cannot be
 * part of a large one.
 */

#include "mmu/tlb.h"

#define INFO_PPN_SHIFT 12

#define LARGE_REGION_SHIFT 22 /* 2 MiB pages are taken for 4 MiB ones */
#define HUGE_REGION_SHIFT  30

static inline void data_clear(struct tlb_entry *entry)
{
    entry->read_tag = TLB_NO_TAG;
    entry->write_tag = TLB_NO_TAG;
}

void tlb_init(struct mmu *mmu)
{
    /* An entry of zeros is an empty one: page 0 is looked for in the first slot alone, and in the
     * last one by what begins in the last page and ends in the first. So the memory of entries that
     * are never used is never touched. */
    for (unsigned privilege = 0; privilege <= MMU_USER_CHECKED; privilege++) {
        data_clear(&mmu->tlb[privilege][0]);
        data_clear(&mmu->tlb[privilege][TLB_ENTRIES - 1]);
        data_clear(&mmu->tlb_write[privilege][0]);
        data_clear(&mmu->tlb_write[privilege][TLB_WRITE_ENTRIES - 1]);
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++)
        mmu->itlb[table][0].tag = TLB_NO_TAG;
}

/* One table of data entries with its filled slots. */
struct data_table {
    struct tlb_entry *entries;
    struct tlb_use *use;
    unsigned mask;
};
#define DATA_TABLES (2 * MMU_PRIVILEGES)

static inline struct data_table data_table(struct mmu *mmu, unsigned number)
{
    unsigned privilege = number / 2;
    if (number % 2 == 0)
        return (struct data_table){mmu->tlb[privilege], &mmu->tlb_use[privilege], TLB_ENTRIES - 1};
    return (struct data_table){mmu->tlb_write[privilege], &mmu->tlb_write_use[privilege],
                               TLB_WRITE_ENTRIES - 1};
}

static inline unsigned code_slot(uint64_t linear)
{
    return (unsigned)(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1);
}

/* ------------------------------------------------------------------------- fills */

static inline void use_set(struct tlb_use *use, unsigned slot, unsigned info)
{
    bool global = info & TLB_GLOBAL;
    if (unlikely(tlb_set_has(&use->of[!global], slot)))
        tlb_set_remove(&use->of[!global], slot);
    tlb_set_add(&use->of[global], slot);
}

static inline bool is_filled(const struct tlb_use *use, unsigned slot)
{
    return tlb_set_has(&use->of[false], slot) || tlb_set_has(&use->of[true], slot);
}

static inline void note_large(struct mmu *mmu, uint64_t linear, unsigned info)
{
    if (info & TLB_LARGE)
        tlb_filter_add(&mmu->large_regions, linear, LARGE_REGION_SHIFT);
    if (info & TLB_HUGE)
        tlb_filter_add(&mmu->huge_regions, linear, HUGE_REGION_SHIFT);
}

void tlb_fill_data(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear, bool write,
                   const struct tlb_page *page)
{
    uint64_t tag = linear & ~PAGE_MASK;
    struct tlb_entry entry = {
        .read_tag = tag,
        .write_tag = page->writable ? tag : TLB_NO_TAG,
        .addend = (uintptr_t)page->host - tag,
        .info = page->ppn << INFO_PPN_SHIFT | page->info,
    };
    for (unsigned writes = 0; writes < 2; writes++) {
        struct data_table table = data_table(mmu, privilege * 2 + writes);
        unsigned slot = (unsigned)(linear >> PAGE_SHIFT) & table.mask;
        struct tlb_entry *place = &table.entries[slot];
        if (writes && !page->writable)
            continue;
        if (writes != write && is_filled(table.use, slot) && place->read_tag != tag)
            continue;
        *place = entry;
        use_set(table.use, slot, page->info);
    }
    note_large(mmu, linear, page->info);
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
    use_set(&mmu->itlb_use[table], slot, page->info);
    note_large(mmu, linear, page->info);
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
            data_clear(&table.entries[slot]);
        tlb_set_clear(set);
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        struct tlb_set *set = &mmu->itlb_use[table].of[global];
        for (cursor = tlb_set_begin(set); tlb_set_next(set, &cursor, &slot);)
            mmu->itlb[table][slot].tag = TLB_NO_TAG;
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

/* Drops entries for which `drop` holds; they are all looked at. */
static inline void drop_where(struct mmu *mmu,
                              bool (*drop)(uint64_t tag, uint64_t info, const void *),
                              const void *argument)
{
    struct tlb_cursor cursor;
    unsigned slot;
    for (unsigned number = 0; number < DATA_TABLES; number++) {
        struct data_table table = data_table(mmu, number);
        for (unsigned global = 0; global < 2; global++) {
            struct tlb_set *set = &table.use->of[global];
            for (cursor = tlb_set_begin(set); tlb_set_next(set, &cursor, &slot);) {
                struct tlb_entry *entry = &table.entries[slot];
                if (!drop(entry->read_tag, entry->info, argument))
                    continue;
                data_clear(entry);
                tlb_set_remove(set, slot);
            }
        }
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        for (unsigned global = 0; global < 2; global++) {
            struct tlb_set *set = &mmu->itlb_use[table].of[global];
            for (cursor = tlb_set_begin(set); tlb_set_next(set, &cursor, &slot);) {
                struct itlb_entry *entry = &mmu->itlb[table][slot];
                if (!drop(entry->tag, entry->info, argument))
                    continue;
                entry->tag = TLB_NO_TAG;
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

static inline void use_clear(struct tlb_use *use, unsigned slot)
{
    tlb_set_remove(&use->of[false], slot);
    tlb_set_remove(&use->of[true], slot);
}

void tlb_flush_page(struct mmu *mmu, uint64_t linear)
{
    uint64_t tag = linear & ~PAGE_MASK;
    unsigned slot;
    for (unsigned number = 0; number < DATA_TABLES; number++) {
        struct data_table table = data_table(mmu, number);
        slot = (unsigned)(linear >> PAGE_SHIFT) & table.mask;
        if (table.entries[slot].read_tag == tag) {
            data_clear(&table.entries[slot]);
            use_clear(table.use, slot);
        }
    }
    bool large = tlb_filter_may_have(&mmu->large_regions, linear, LARGE_REGION_SHIFT) ||
                 tlb_filter_may_have(&mmu->huge_regions, linear, HUGE_REGION_SHIFT);
    slot = code_slot(linear);
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        struct itlb_entry *entry = &mmu->itlb[table][slot];
        if (entry->tag == tag) {
            entry->tag = TLB_NO_TAG;
            use_clear(&mmu->itlb_use[table], slot);
        }
    }
    if (unlikely(large))
        drop_where(mmu, piece_of_same_page, &linear);
}

/* ------------------------------------------------------------------------- revocations */

#define FILTER_BITS (ARRAY_LENGTH(((struct tlb_pages *)NULL)->filter) * 64)

void tlb_pages_init(struct tlb_pages *pages, const uint64_t *ppns, unsigned count)
{
    *pages = (struct tlb_pages){.ppns = ppns, .count = count};
    for (unsigned i = 0; i < count; i++)
        pages->filter[ppns[i] % FILTER_BITS / 64] |= bit(ppns[i] % 64);
}

static inline bool maps_page(uint64_t tag, uint64_t info, const void *argument)
{
    (void)tag;
    const struct tlb_pages *pages = argument;
    uint64_t ppn = info >> INFO_PPN_SHIFT;
    if (likely(!(pages->filter[ppn % FILTER_BITS / 64] >> ppn % 64 & 1)))
        return false;
    for (unsigned i = 0; i < pages->count; i++) {
        if (pages->ppns[i] == ppn)
            return true;
    }
    return false;
}

void tlb_drop_mappings(struct mmu *mmu, const struct tlb_pages *pages)
{
    drop_where(mmu, maps_page, pages);
}

void tlb_drop_writes(struct mmu *mmu, uint64_t ppn)
{
    for (unsigned number = 0; number < DATA_TABLES; number++) {
        struct data_table table = data_table(mmu, number);
        for (unsigned global = 0; global < 2; global++) {
            const struct tlb_set *set = &table.use->of[global];
            struct tlb_cursor cursor = tlb_set_begin(set);
            for (unsigned slot; tlb_set_next(set, &cursor, &slot);) {
                struct tlb_entry *entry = &table.entries[slot];
                if (entry->info >> INFO_PPN_SHIFT == ppn) {
                    entry->write_tag = TLB_NO_TAG;
                    entry->info |= TLB_CODE;
                }
            }
        }
    }
}
