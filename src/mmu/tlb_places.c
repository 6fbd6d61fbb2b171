#include "mmu/tlb_places.h"

_Static_assert(TLB_ENTRIES < 1u << 15 && TLB_SPARE_ENTRIES <= 1u << 16,
               "a place has 31 bits, and is not PLACES_MANY");

/* The place's slot in a table of that number: main tables have even ones. */
static unsigned slot_at(uint32_t place, unsigned number)
{
    return number % 2 == 0 ? place >> 16 & (TLB_ENTRIES - 1) : place & (TLB_SPARE_ENTRIES - 1);
}

/* Whether an entry there maps a page with the same places as ppn. */
static bool is_live(struct mmu *mmu, uint32_t place, uint64_t ppn)
{
    for (unsigned number = 0; number < DATA_TABLES; number++) {
        struct data_table table = data_table(mmu, number);
        unsigned slot = slot_at(place, number);
        uint64_t mapped = *info_at(&table, slot) >> INFO_PPN_SHIFT;
        if (places_of(mmu, mapped) == places_of(mmu, ppn) && tlb_use_has(table.use, slot))
            return true;
    }
    return false;
}

void places_make_room(struct mmu *mmu, uint64_t ppn, uint32_t place)
{
    struct tlb_places *places = places_of(mmu, ppn);
    for (unsigned i = 0; i < TLB_PLACES; i++) {
        if (!is_live(mmu, places->of[i], ppn)) {
            for (; i + 1 < TLB_PLACES; i++) /* the oldest is the first to be looked at again */
                places->of[i] = places->of[i + 1];
            places->of[i] = place;
            mmu->places_lost++;
            return;
        }
    }
    places->of[0] = PLACES_MANY;
}

void places_visit(struct mmu *mmu, uint64_t ppn, places_visit_fn *visit)
{
    const struct tlb_places *places = places_of(mmu, ppn);
    for (unsigned i = 0; i < TLB_PLACES && places->of[i] != PLACE_NONE; i++) {
        for (unsigned number = 0; number < DATA_TABLES; number++) {
            struct data_table table = data_table(mmu, number);
            unsigned slot = slot_at(places->of[i], number);
            if (*info_at(&table, slot) >> INFO_PPN_SHIFT == ppn && tlb_use_has(table.use, slot))
                visit(&table, slot);
        }
    }
}

void places_reset(struct mmu *mmu, uint64_t ppn)
{
    *places_of(mmu, ppn) = (struct tlb_places){{PLACE_NONE}};
    mmu->places_lost++;
}
