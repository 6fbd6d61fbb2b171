#ifndef AEROSTAT_MMU_TLB_TABLES_H
#define AEROSTAT_MMU_TLB_TABLES_H

/* The tables of the software TLB, with what is beside their entries: for tlb.c and space.c. */

#include "mmu/mmu.h"

#define INFO_PPN_SHIFT 12

/* The entries of one kind of access in one table, with what is beside them. */
struct data_table {
    struct tlb_slot *slots;
    struct tlb_info *info;
    struct tlb_use *use;
    enum mmu_access access;
};
#define DATA_TABLES (4 * MMU_PRIVILEGES)

static inline struct data_table main_table(struct mmu *mmu, enum mmu_privilege privilege,
                                           enum mmu_access access)
{
    return (struct data_table){mmu->tlb[privilege], mmu->tlb_info[privilege],
                               &mmu->tlb_use[privilege][access], access};
}

static inline struct data_table spare_table(struct mmu *mmu, enum mmu_privilege privilege,
                                            enum mmu_access access)
{
    return (struct data_table){mmu->tlb_spare[privilege], mmu->tlb_spare_info[privilege],
                               &mmu->tlb_spare_use[privilege][access], access};
}

/* Main tables have even numbers. */
static inline struct data_table data_table(struct mmu *mmu, unsigned number)
{
    enum mmu_privilege privilege = number / 4;
    enum mmu_access access = number / 2 % 2;
    return number % 2 == 0 ? main_table(mmu, privilege, access)
                           : spare_table(mmu, privilege, access);
}

static inline struct tlb_entry *entry_at(const struct data_table *table, unsigned slot)
{
    return &table->slots[slot].of[table->access];
}

static inline uint64_t *info_at(const struct data_table *table, unsigned slot)
{
    return &table->info[slot].of[table->access];
}

static inline unsigned main_slot(uint64_t linear)
{
    return (unsigned)(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
}

/* Calls visit for every filled entry; it may drop the entry. */
typedef void data_visit_fn(struct mmu *mmu, const struct data_table *table, unsigned slot,
                           const void *argument);
static inline void data_visit(struct mmu *mmu, data_visit_fn *visit, const void *argument)
{
    for (unsigned number = 0; number < DATA_TABLES; number++) {
        struct data_table table = data_table(mmu, number);
        for (unsigned global = 0; global < 2; global++) {
            struct tlb_set *set = &table.use->of[global];
            struct tlb_cursor cursor = tlb_set_begin(set);
            for (unsigned slot; tlb_set_next(set, &cursor, &slot);)
                visit(mmu, &table, slot, argument);
        }
    }
}

static inline void data_set(const struct data_table *table, unsigned slot, struct tlb_entry entry,
                            uint64_t info)
{
    *entry_at(table, slot) = entry;
    *info_at(table, slot) = info;
    tlb_use_set(table->use, slot, info & TLB_GLOBAL);
}

#endif
