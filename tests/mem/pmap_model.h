#ifndef AEROSTAT_TESTS_MEM_PMAP_MODEL_H
#define AEROSTAT_TESTS_MEM_PMAP_MODEL_H

/*
 * A model of the page map that is nothing but arrays: bytes, states, pins, marks, what is in the
 * store and in the pool. A frame is overwritten as soon as nobody refers to it.
 */

#include "mem/page_share.h"
#include "memory_store.h"

#define SPAN_PAGES 48u
#define SPAN       (SPAN_PAGES * PAGE_SIZE)
#define PINS_MAX   16u
#define FRAMES     24u /* number 0 is none */

struct pin {
    uint64_t gpa, length;
    struct iovec iov;
};

struct page {
    bool ram;
    enum page_state state;
    bool lent, code, hollow, active, sampled;
    bool leaving; /* in the batch that is open, and not wanted since */
    bool moving;  /* is being moved: its payload is the test's */
    unsigned pins;
    uint64_t payload;
    uint32_t frame; /* shared */
};

struct model {
    uint8_t bytes[SPAN];
    struct page pages[SPAN_PAGES];
    struct pin pins[PINS_MAX];
    unsigned pin_count;
    struct pmap_stats stats; /* the counts of events */
    uint64_t revoked_code;   /* pages whose code had to go */
    struct pmap *map;
    struct memory_store *store;
    uint64_t *seed;
    uint8_t pool[FRAMES][1 << PAGE_SHIFT];
    uint32_t held[SPAN_PAGES]; /* as the pool's owner sees it */
    unsigned references[FRAMES];
};

/* Counted in pages and in pages whose code goes: the model says how many. */
struct revoked {
    struct pmap *map;
    uint64_t calls, pages, code;
};

void model_on_revoke(void *context, const struct pmap_revocation *what); /* struct revoked */
extern const struct page_share_ops model_share_ops;                      /* struct model */

uint64_t model_choose(struct model *model, uint64_t below);
bool model_is_away(const struct page *page);
bool model_covers(const struct model *model, uint64_t gpa, uint64_t length);

/* What must happen: by a touch; to a page that comes or goes; ... */
void model_touch(struct model *model, struct page *page);
void model_take_payload(struct page *page);
/* `reads`: from the store, unless it is hollow. */
void model_come(struct model *model, struct page *page, bool reads);
void model_make_private(struct model *model, uint64_t ppn, bool reads);
void model_drop_code(struct model *model, uint64_t ppn);
/* Contents that do not matter: to zero or ballooned. True: changed. */
bool model_discard(struct model *model, uint64_t ppn, enum page_state to, bool *revoked);

/* The map against the model, and recounted. */
void model_compare(struct model *model);

/* Random operations: on pages that are there (pmap_model_test.c), */
void step_page(struct model *model, uint64_t ppn);
void step_any_page(struct model *model);
void step_discard(struct model *model);
/* and on pages that leave, are shared, looked at, moved and sampled (pmap_model_away.c). */
void step_leave(struct model *model);
void step_share(struct model *model);
void step_peek(struct model *model);
void step_scan(struct model *model);
void step_move(struct model *model);
void step_sample(struct model *model);

#endif
