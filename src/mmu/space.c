#include "mmu/space.h"

#include "mmu/tlb_places.h"

static struct mmu_space *find(struct mmu *mmu, unsigned pcid)
{
    for (unsigned i = 0; i < MMU_SPACES; i++) {
        if (mmu->spaces[i].count != 0 && mmu->spaces[i].pcid == pcid)
            return &mmu->spaces[i];
    }
    return NULL;
}

/* A list that is empty, or is made so. */
static struct mmu_space *take(struct mmu *mmu)
{
    struct mmu_space *oldest = &mmu->spaces[0];
    for (unsigned i = 0; i < MMU_SPACES && oldest->count != 0; i++) {
        if (mmu->spaces[i].count == 0 || mmu->spaces[i].left < oldest->left)
            oldest = &mmu->spaces[i];
    }
    oldest->count = 0;
    return oldest;
}

static struct mmu_space_entry *entries_of(struct mmu *mmu, const struct mmu_space *space)
{
    return mmu->space_entries[space - mmu->spaces];
}

static void save(struct mmu *mmu, struct mmu_space *space, struct mmu_space_entry entry)
{
    if (space->count < MMU_SPACE_ENTRIES)
        entries_of(mmu, space)[space->count++] = entry;
}

static void leave_data(struct mmu *mmu, struct mmu_space *space, unsigned number)
{
    struct data_table table = data_table(mmu, number);
    struct tlb_set *set = &table.use->of[false];
    struct tlb_cursor cursor = tlb_set_begin(set);
    for (unsigned slot; tlb_set_next(set, &cursor, &slot);) {
        struct tlb_entry *entry = entry_at(&table, slot);
        save(mmu, space,
             (struct mmu_space_entry){entry->tag, *info_at(&table, slot), entry->addend, number,
                                      slot});
        entry->tag = tlb_no_tag(slot);
    }
    tlb_set_clear(set);
}

static void leave_code(struct mmu *mmu, struct mmu_space *space, unsigned table)
{
    struct tlb_set *set = &mmu->itlb_use[table].of[false];
    struct tlb_cursor cursor = tlb_set_begin(set);
    for (unsigned slot; tlb_set_next(set, &cursor, &slot);) {
        struct itlb_entry *entry = &mmu->itlb[table][slot];
        save(mmu, space,
             (struct mmu_space_entry){entry->tag, entry->info, (uintptr_t)entry->host,
                                      DATA_TABLES + table, slot});
        entry->tag = tlb_no_tag(slot);
    }
    tlb_set_clear(set);
}

void space_leave(struct mmu *mmu, unsigned pcid)
{
    struct mmu_space *space = take(mmu);
    space->pcid = pcid;
    space->left = ++mmu->space_clock;
    space->tables = mmu->walk_cache.generation;
    space->places_lost = mmu->places_lost;
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++)
        leave_code(mmu, space, table);
    /* Those of main tables first: they have been in use last. */
    for (unsigned number = 0; number < DATA_TABLES; number += 2)
        leave_data(mmu, space, number);
    for (unsigned number = 1; number < DATA_TABLES; number += 2)
        leave_data(mmu, space, number);
}

/* Where a global entry is now, nothing is put. */
static void put_back(struct mmu *mmu, const struct mmu_space_entry *entry, bool places_are_known)
{
    if (entry->table < DATA_TABLES) {
        struct data_table table = data_table(mmu, entry->table);
        if (tlb_use_has(table.use, entry->slot))
            return;
        if (!places_are_known)
            places_add(mmu, entry->info >> INFO_PPN_SHIFT, entry->tag);
        data_set(&table, entry->slot, (struct tlb_entry){entry->tag, entry->value}, entry->info);
        return;
    }
    unsigned table = entry->table - DATA_TABLES;
    if (tlb_use_has(&mmu->itlb_use[table], entry->slot))
        return;
    mmu->itlb[table][entry->slot] = (struct itlb_entry){
        .tag = entry->tag, .host = (const uint8_t *)entry->value, .info = entry->info};
    tlb_use_set(&mmu->itlb_use[table], entry->slot, entry->info & TLB_GLOBAL);
}

bool space_enter(struct mmu *mmu, unsigned pcid)
{
    struct mmu_space *space = find(mmu, pcid);
    if (space == NULL) {
        walk_cache_flush(&mmu->walk_cache);
        return false;
    }
    walk_cache_return(&mmu->walk_cache, space->tables);
    bool places_are_known = space->places_lost == mmu->places_lost;
    for (unsigned i = 0; i < space->count; i++)
        put_back(mmu, &entries_of(mmu, space)[i], places_are_known);
    space->count = 0;
    return true;
}

void space_forget(struct mmu *mmu, unsigned pcid)
{
    struct mmu_space *space = find(mmu, pcid);
    if (space != NULL)
        space->count = 0;
}

void space_forget_all(struct mmu *mmu)
{
    for (unsigned i = 0; i < MMU_SPACES; i++)
        mmu->spaces[i].count = 0;
}
