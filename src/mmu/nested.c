#include "mmu/nested.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct nested_node) == PAGE_SIZE, "a table is a page");

static void *table_create(struct nested *nested, size_t size)
{
    void *table = aligned_alloc(PAGE_SIZE, align_up(size, PAGE_SIZE));
    if (table == NULL)
        return NULL;
    memset(table, 0, size);
    atomic_fetch_add(&nested->table_bytes, align_up(size, PAGE_SIZE));
    return table;
}

enum status nested_create(struct nested **out, struct pmap *map, bool large, struct error *err)
{
    struct nested *nested = calloc(1, sizeof(*nested));
    if (nested != NULL) {
        nested->map = map;
        nested->large = large;
        pthread_mutex_init(&nested->lock, NULL);
        nested->root = table_create(nested, sizeof(struct nested_node));
        if (nested->root != NULL) {
            *out = nested;
            return STATUS_OK;
        }
    }
    nested_destroy(nested);
    return error_set(err, STATUS_NO_MEMORY, "no memory for a nested page table");
}

static void middle_destroy(struct nested_middle *middle)
{
    for (unsigned i = 0; i < NESTED_FANOUT; i++)
        free(middle->table[i]);
    free(middle);
}

void nested_destroy(struct nested *nested)
{
    if (nested == NULL)
        return;
    for (unsigned i = 0; nested->root != NULL && i < NESTED_FANOUT; i++) {
        struct nested_node *upper = nested_child(nested->root->entry[i]);
        for (unsigned j = 0; upper != NULL && j < NESTED_FANOUT; j++) {
            if (upper->entry[j] != 0)
                middle_destroy((struct nested_middle *)nested_child(upper->entry[j]));
        }
        free(upper);
    }
    free(nested->root);
    pthread_mutex_destroy(&nested->lock);
    free(nested);
}

/* ------------------------------------------------------------------------- under the lock */

/* The table below that entry of the node; made of `size` bytes if need be and wanted. */
static struct nested_node *child_of(struct nested *nested, struct nested_node *node, unsigned index,
                                    size_t size, bool make)
{
    uint64_t entry = atomic_load_explicit(&node->entry[index], memory_order_relaxed);
    if (entry == 0 && make) {
        void *made = table_create(nested, size);
        if (made != NULL) {
            entry = (uintptr_t)made | NESTED_PRESENT;
            atomic_store_explicit(&node->entry[index], entry, memory_order_release);
        }
    }
    return nested_child(entry);
}

/* Where the entry of a page is. */
struct place {
    struct nested_middle *middle;
    struct nested_node *table;
    unsigned above, at; /* indices in them */
};

/* False: there is no such table, or no memory to make it. */
static bool find(struct nested *nested, uint64_t ppn, bool make, struct place *place)
{
    struct nested_node *upper =
        child_of(nested, nested->root, nested_index(ppn, 3), sizeof(struct nested_node), make);
    struct nested_node *node = upper == NULL ? NULL
                                             : child_of(nested, upper, nested_index(ppn, 2),
                                                        sizeof(struct nested_middle), make);
    if (node == NULL)
        return false;
    place->middle = (struct nested_middle *)node;
    place->above = nested_index(ppn, 1);
    place->at = nested_index(ppn, 0);
    struct nested_node **table = &place->middle->table[place->above];
    if (*table == NULL && make &&
        (*table = table_create(nested, sizeof(struct nested_node))) != NULL)
        atomic_store_explicit(&node->entry[place->above], (uintptr_t)*table | NESTED_PRESENT,
                              memory_order_release);
    place->table = *table;
    return place->table != NULL;
}

/* A large leaf stands above the table exactly while all of its pages may be written. */
static void set(struct nested *nested, const struct place *place, uint64_t entry)
{
    struct nested_middle *middle = place->middle;
    uint16_t *writable = &middle->writable[place->above];
    uint64_t old = atomic_load_explicit(&place->table->entry[place->at], memory_order_relaxed);
    bool was_whole = *writable == NESTED_FANOUT;
    *writable = (uint16_t)(*writable + ((entry & NESTED_WRITE) != 0) - ((old & NESTED_WRITE) != 0));
    bool is_whole = *writable == NESTED_FANOUT;
    atomic_store_explicit(&place->table->entry[place->at], entry, memory_order_release);
    if (was_whole == is_whole || !nested->large)
        return;
    uint64_t above = (uintptr_t)place->table | NESTED_PRESENT;
    if (is_whole) /* in layer 0, where neighbours are neighbours */
        above = atomic_load_explicit(&place->table->entry[0], memory_order_relaxed) | NESTED_LARGE;
    atomic_store_explicit(&middle->node.entry[place->above], above, memory_order_release);
    atomic_fetch_add(&nested->large_leaves, is_whole ? 1 : (uint64_t)-1);
}

/* ------------------------------------------------------------------------- */

uint64_t nested_fill(struct nested *nested, uint64_t ppn, bool write)
{
    bool writable;
    struct place place;
    uint64_t entry = 0;
    if (write) /* what takes time is done before the lock */
        (void)pmap_page_claim(nested->map, ppn, &writable);
    pthread_mutex_lock(&nested->lock);
    const uint8_t *host = pmap_page_read(nested->map, ppn, &writable);
    if (host != NULL)
        entry = (uintptr_t)host | NESTED_PRESENT | (writable ? NESTED_WRITE : 0);
    if (entry != 0 && find(nested, ppn, true, &place)) /* else it is asked for each time */
        set(nested, &place, entry);
    pthread_mutex_unlock(&nested->lock);
    return entry;
}

void nested_revoke(struct nested *nested, const uint64_t *ppns, unsigned count)
{
    struct place place;
    if (count == 0)
        return;
    pthread_mutex_lock(&nested->lock);
    for (unsigned i = 0; i < count; i++) {
        if (find(nested, ppns[i], false, &place) &&
            atomic_load_explicit(&place.table->entry[place.at], memory_order_relaxed) != 0)
            set(nested, &place, 0);
    }
    pthread_mutex_unlock(&nested->lock);
}

void nested_protect(struct nested *nested, uint64_t ppn)
{
    struct place place;
    pthread_mutex_lock(&nested->lock);
    if (find(nested, ppn, false, &place)) {
        uint64_t entry = atomic_load_explicit(&place.table->entry[place.at], memory_order_relaxed);
        if (entry & NESTED_WRITE)
            set(nested, &place, entry & ~(uint64_t)NESTED_WRITE);
    }
    pthread_mutex_unlock(&nested->lock);
}
