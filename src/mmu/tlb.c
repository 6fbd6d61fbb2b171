/*
 * Fills, flushes and revocations of the software TLB.
 *
 * A bitmap beside each table says which entries are filled, and another which of those are global.
 * So a flush costs in proportion to what was filled since the last one, not to the table's size,
 * and one that keeps global pages does not even look at them.
 *
 * Large guest pages are kept in pieces of 4 KiB. INVLPG must drop all pieces of the page it names,
 * which takes a scan; large_regions and huge_regions tell most small pages apart that cannot be
 * part of a large one.
 *
 * code_epoch serves caches by RIP, which outlive entries that other pages have displaced. So it
 * does not go by the entries, but by a filter of all pages that were filled since the last flush.
 * That keeps the flushes of data pages, nearly all there are, from costing such a cache anything.
 */

#include "mmu/tlb.h"

#include <string.h>

#define INFO_PPN_SHIFT 12

void tlb_init(struct mmu *mmu)
{
    for (unsigned privilege = 0; privilege <= MMU_USER_CHECKED; privilege++) {
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            mmu->tlb[privilege][i] =
                (struct tlb_entry){.read_tag = TLB_NO_TAG, .write_tag = TLB_NO_TAG};
    }
    for (unsigned privilege = 0; privilege < ARRAY_LENGTH(mmu->itlb); privilege++) {
        for (unsigned i = 0; i < ITLB_ENTRIES; i++)
            mmu->itlb[privilege][i] = (struct itlb_entry){.tag = TLB_NO_TAG};
    }
    memset(mmu->tlb_use, 0, sizeof(mmu->tlb_use));
    memset(mmu->itlb_use, 0, sizeof(mmu->itlb_use));
    mmu->large_regions = mmu->huge_regions = (struct tlb_filter){0};
    memset(mmu->code_use, 0, sizeof(mmu->code_use));
}

static inline unsigned data_slot(uint64_t linear)
{
    return (unsigned)(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
}

static inline unsigned code_slot(uint64_t linear)
{
    return (unsigned)(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1);
}

/* ------------------------------------------------------------------------- filters */

#define LARGE_REGION_SHIFT 22
#define HUGE_REGION_SHIFT  30

/* One of the 1024 bits. */
static inline unsigned filter_hash(uint64_t number)
{
    return (unsigned)(number * 0x9e3779b97f4a7c15u >> 54);
}

static inline void filter_add(struct tlb_filter *filter, uint64_t number)
{
    unsigned hash = filter_hash(number);
    filter->bits[hash / 64] |= bit(hash % 64);
}

static inline bool filter_may_have(const struct tlb_filter *filter, uint64_t number)
{
    unsigned hash = filter_hash(number);
    return filter->bits[hash / 64] >> hash % 64 & 1;
}

static inline void note_large(struct mmu *mmu, uint64_t linear, unsigned info)
{
    if (info & TLB_LARGE)
        filter_add(&mmu->large_regions, linear >> LARGE_REGION_SHIFT);
    if (info & TLB_HUGE)
        filter_add(&mmu->huge_regions, linear >> HUGE_REGION_SHIFT);
}

static inline bool may_be_large(const struct mmu *mmu, uint64_t linear)
{
    return filter_may_have(&mmu->large_regions, linear >> LARGE_REGION_SHIFT) ||
           filter_may_have(&mmu->huge_regions, linear >> HUGE_REGION_SHIFT);
}

/* ------------------------------------------------------------------------- fills */

static inline void use_set(uint64_t *filled, uint64_t *global, unsigned slot, unsigned info)
{
    uint64_t mask = bit(slot % 64);
    filled[slot / 64] |= mask;
    if (info & TLB_GLOBAL)
        global[slot / 64] |= mask;
    else
        global[slot / 64] &= ~mask;
}

static inline void use_clear(uint64_t *filled, uint64_t *global, unsigned slot)
{
    filled[slot / 64] &= ~bit(slot % 64);
    global[slot / 64] &= ~bit(slot % 64);
}

void tlb_fill_data(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                   const struct tlb_page *page)
{
    uint64_t tag = linear & ~PAGE_MASK;
    unsigned slot = data_slot(linear);
    mmu->tlb[privilege][slot] = (struct tlb_entry){
        .read_tag = tag,
        .write_tag = page->writable ? tag : TLB_NO_TAG,
        .addend = (uintptr_t)page->host - tag,
        .info = page->ppn << INFO_PPN_SHIFT | page->info,
    };
    use_set(mmu->tlb_use[privilege].filled, mmu->tlb_use[privilege].global, slot, page->info);
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
    use_set(mmu->itlb_use[table].filled, mmu->itlb_use[table].global, slot, page->info);
    note_large(mmu, linear, page->info);
    if (page->info & TLB_GLOBAL)
        mmu->code_use[table].any_global = true;
    else
        mmu->code_use[table].any_local = true;
    filter_add(&mmu->code_use[table].pages, linear >> PAGE_SHIFT);
}

/* ------------------------------------------------------------------------- flushes */

static inline void data_clear(struct tlb_entry *entry)
{
    entry->read_tag = TLB_NO_TAG;
    entry->write_tag = TLB_NO_TAG;
}

/* The number of the lowest entry in `rest`, a copy of word `word` of a bitmap; not 0. */
static inline unsigned slot_of(unsigned word, uint64_t rest)
{
    return word * 64 + (unsigned)__builtin_ctzll(rest);
}

static void flush_code_use(struct mmu *mmu, bool keep_global)
{
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        bool any_global = mmu->code_use[table].any_global;
        if (mmu->code_use[table].any_local || (any_global && !keep_global))
            mmu->code_epoch[table]++;
        mmu->code_use[table].any_local = false;
        if (!any_global || !keep_global) {
            mmu->code_use[table].any_global = false;
            mmu->code_use[table].pages = (struct tlb_filter){0};
        }
    }
}

void tlb_flush(struct mmu *mmu, bool keep_global)
{
    uint64_t keep = keep_global ? UINT64_MAX : 0;
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        uint64_t *filled = mmu->tlb_use[privilege].filled, *global = mmu->tlb_use[privilege].global;
        for (unsigned word = 0; word < TLB_ENTRIES / 64; word++) {
            struct tlb_entry *entries = &mmu->tlb[privilege][word * 64];
            for (uint64_t rest = filled[word] & ~(global[word] & keep); rest != 0; rest &= rest - 1)
                data_clear(&entries[__builtin_ctzll(rest)]);
            global[word] &= keep;
            filled[word] = global[word];
        }
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        uint64_t *filled = mmu->itlb_use[table].filled, *global = mmu->itlb_use[table].global;
        for (unsigned word = 0; word < ITLB_ENTRIES / 64; word++) {
            struct itlb_entry *entries = &mmu->itlb[table][word * 64];
            for (uint64_t rest = filled[word] & ~(global[word] & keep); rest != 0; rest &= rest - 1)
                entries[__builtin_ctzll(rest)].tag = TLB_NO_TAG;
            global[word] &= keep;
            filled[word] = global[word];
        }
    }
    flush_code_use(mmu, keep_global);
    if (!keep_global)
        mmu->large_regions = mmu->huge_regions = (struct tlb_filter){0};
}

/* True for a piece of a large page that may hold linear. 2 MiB pages are taken for 4 MiB ones: a
 * flush may drop more than it must. */
static inline bool piece_of_same_page(uint64_t tag, uint64_t info, uint64_t linear)
{
    if (info & TLB_HUGE)
        return (tag ^ linear) >> HUGE_REGION_SHIFT == 0;
    return info & TLB_LARGE && (tag ^ linear) >> LARGE_REGION_SHIFT == 0;
}

static void flush_large(struct mmu *mmu, uint64_t linear)
{
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        uint64_t *filled = mmu->tlb_use[privilege].filled, *global = mmu->tlb_use[privilege].global;
        for (unsigned word = 0; word < TLB_ENTRIES / 64; word++) {
            for (uint64_t rest = filled[word]; rest != 0; rest &= rest - 1) {
                unsigned slot = slot_of(word, rest);
                struct tlb_entry *entry = &mmu->tlb[privilege][slot];
                if (piece_of_same_page(entry->read_tag, entry->info, linear)) {
                    data_clear(entry);
                    use_clear(filled, global, slot);
                }
            }
        }
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        uint64_t *filled = mmu->itlb_use[table].filled, *global = mmu->itlb_use[table].global;
        for (unsigned word = 0; word < ITLB_ENTRIES / 64; word++) {
            for (uint64_t rest = filled[word]; rest != 0; rest &= rest - 1) {
                unsigned slot = slot_of(word, rest);
                struct itlb_entry *entry = &mmu->itlb[table][slot];
                if (piece_of_same_page(entry->tag, entry->info, linear)) {
                    entry->tag = TLB_NO_TAG;
                    use_clear(filled, global, slot);
                }
            }
        }
    }
}

void tlb_flush_page(struct mmu *mmu, uint64_t linear)
{
    uint64_t tag = linear & ~PAGE_MASK;
    unsigned slot = data_slot(linear);
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        struct tlb_entry *entry = &mmu->tlb[privilege][slot];
        if (entry->read_tag == tag) {
            data_clear(entry);
            use_clear(mmu->tlb_use[privilege].filled, mmu->tlb_use[privilege].global, slot);
        }
    }
    slot = code_slot(linear);
    bool large = unlikely(may_be_large(mmu, linear));
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        struct itlb_entry *entry = &mmu->itlb[table][slot];
        if (entry->tag == tag) {
            entry->tag = TLB_NO_TAG;
            use_clear(mmu->itlb_use[table].filled, mmu->itlb_use[table].global, slot);
        }
        if (large || filter_may_have(&mmu->code_use[table].pages, linear >> PAGE_SHIFT))
            mmu->code_epoch[table]++;
    }
    if (large)
        flush_large(mmu, linear);
}

void tlb_drop_mapping(struct mmu *mmu, uint64_t ppn)
{
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        uint64_t *filled = mmu->tlb_use[privilege].filled, *global = mmu->tlb_use[privilege].global;
        for (unsigned word = 0; word < TLB_ENTRIES / 64; word++) {
            for (uint64_t rest = filled[word]; rest != 0; rest &= rest - 1) {
                unsigned slot = slot_of(word, rest);
                struct tlb_entry *entry = &mmu->tlb[privilege][slot];
                if (entry->info >> INFO_PPN_SHIFT == ppn) {
                    data_clear(entry);
                    use_clear(filled, global, slot);
                }
            }
        }
    }
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        uint64_t *filled = mmu->itlb_use[table].filled, *global = mmu->itlb_use[table].global;
        for (unsigned word = 0; word < ITLB_ENTRIES / 64; word++) {
            for (uint64_t rest = filled[word]; rest != 0; rest &= rest - 1) {
                unsigned slot = slot_of(word, rest);
                struct itlb_entry *entry = &mmu->itlb[table][slot];
                if (entry->info >> INFO_PPN_SHIFT == ppn) {
                    entry->tag = TLB_NO_TAG;
                    use_clear(filled, global, slot);
                }
            }
        }
    }
}

void tlb_drop_writes(struct mmu *mmu, uint64_t ppn)
{
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        const uint64_t *filled = mmu->tlb_use[privilege].filled;
        for (unsigned word = 0; word < TLB_ENTRIES / 64; word++) {
            for (uint64_t rest = filled[word]; rest != 0; rest &= rest - 1) {
                struct tlb_entry *entry = &mmu->tlb[privilege][slot_of(word, rest)];
                if (entry->info >> INFO_PPN_SHIFT == ppn) {
                    entry->write_tag = TLB_NO_TAG;
                    entry->info |= TLB_CODE;
                }
            }
        }
    }
}
