#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "area.h"

/* Objects in anonymous memory. */

#define HUGE_BYTES  (2ull << 20)
#define SMALL_PIECE 3u /* pages */

static struct area *area_new(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct area *area = check_allocate(sizeof *area);
    *area = (struct area){.worker = worker,
                          .object = number,
                          .pages = area_pages_of(bytes),
                          .file = -1,
                          .place = "memory"};
    return area;
}

static void area_step(void *object, uint32_t round)
{
    area_verify(object, round - 1);
    area_write(object, round);
    area_sabotage(object, round);
}

static void area_finish(void *object, uint32_t last_round)
{
    area_verify(object, last_round);
}

/* In one piece, aligned so that the guest may use large pages. */
static void *anonymous_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct area *area = area_new(worker, number, bytes);
    uint64_t length = (uint64_t)area->pages * PAGE_BYTES;
    uintptr_t start = (uintptr_t)check_map(length + HUGE_BYTES, MAP_PRIVATE);
    area->memory = (uint8_t *)((start + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
    madvise(area->memory, length, MADV_HUGEPAGE);
    return area;
}

const struct object_kind kind_anonymous = {
    .name = "anonymous",
    .help = "memory in one piece, in large pages where the guest has them",
    .share = 20,
    .start = anonymous_start,
    .step = area_step,
    .finish = area_finish,
};

/* In pieces with a page between them that may not be touched. */
static void *small_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct area *area = area_new(worker, number, bytes);
    area->piece = SMALL_PIECE;
    uint32_t gaps = area->pages / SMALL_PIECE + 1;
    area->memory = check_map((uint64_t)(area->pages + gaps) * PAGE_BYTES, MAP_PRIVATE);
    madvise(area->memory, (uint64_t)(area->pages + gaps) * PAGE_BYTES, MADV_NOHUGEPAGE);
    return area;
}

const struct object_kind kind_small = {
    .name = "small",
    .help = "memory in pieces of a few pages",
    .share = 15,
    .start = small_start,
    .step = area_step,
    .finish = area_finish,
};

/*
 * Memory shared by two processes: each writes half of the pages and reads what the other wrote.
 */
struct shared {
    struct area area;
    uint32_t round;
};

static void *shared_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct shared *shared = check_allocate(sizeof *shared);
    struct area *area = area_new(worker, number, bytes);
    shared->area = *area;
    shared->area.memory = check_map((uint64_t)area->pages * PAGE_BYTES, MAP_SHARED);
    return shared;
}

static void shared_write_half(const struct shared *shared, uint32_t half)
{
    const struct area *area = &shared->area;
    for (uint32_t page = half; page < area->pages; page += 2) {
        uint32_t generation = area_generation(area, page, shared->round);
        if (generation == shared->round)
            area_write_page(area, page, (struct page_identity){area->object, page, generation});
    }
}

static void shared_partner(void *object)
{
    const struct shared *shared = object;
    area_verify(&shared->area, shared->round - 1);
    shared_write_half(shared, 1);
}

static void shared_step(void *object, uint32_t round)
{
    struct shared *shared = object;
    shared->round = round;
    check_join(check_fork(shared_partner, shared));
    shared_write_half(shared, 0);
    area_sabotage(&shared->area, round);
}

static void shared_finish(void *object, uint32_t last_round)
{
    struct shared *shared = object;
    area_verify(&shared->area, last_round);
}

const struct object_kind kind_shared = {
    .name = "shared",
    .help = "memory that two processes write and read in turns",
    .share = 10,
    .start = shared_start,
    .step = shared_step,
    .finish = shared_finish,
};

/*
 * Copy-on-write: two children and their parent, all at once, each overwrite a quarter of the pages
 * with patterns of their own; each must see its own and, in the rest, what was there at the fork.
 */
struct family {
    struct area area;
    uint32_t round;
    uint32_t member; /* 0: the parent */
};

#define FAMILY 3u

static void *fork_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct family *family = check_allocate(sizeof *family);
    struct area *area = area_new(worker, number, bytes);
    family->area = *area;
    family->area.memory = check_map((uint64_t)area->pages * PAGE_BYTES, MAP_PRIVATE);
    return family;
}

static bool is_of_member(const struct family *family, uint32_t page)
{
    return (mix64(page + family->round) & 3) == family->member;
}

/* The parent's own copies are of a generation that only they have. */
static struct page_identity own_identity(const struct family *family, uint32_t page)
{
    uint32_t generation = family->member == 0 ? GENERATION_MASK : family->round & GENERATION_MASK;
    return (struct page_identity){family->area.object + family->member, page, generation};
}

static void family_overwrite(void *object)
{
    const struct family *family = object;
    const struct area *area = &family->area;
    for (uint32_t page = 0; page < area->pages; page++)
        if (is_of_member(family, page))
            area_write_page(area, page, own_identity(family, page));
    for (uint32_t page = 0; page < area->pages; page++) {
        uint32_t generation = area_generation(area, page, family->round);
        if (is_of_member(family, page))
            area_verify_page(area, page, own_identity(family, page));
        else
            area_verify_page(area, page, (struct page_identity){area->object, page, generation});
    }
}

static void fork_step(void *object, uint32_t round)
{
    struct family *family = object;
    int children[FAMILY - 1];
    area_verify(&family->area, round - 1);
    area_write(&family->area, round);
    area_sabotage(&family->area, round);
    family->round = round;
    for (uint32_t i = 0; i < FAMILY - 1; i++) {
        family->member = i + 1;
        children[i] = check_fork(family_overwrite, family);
    }
    family->member = 0;
    family_overwrite(family);
    for (uint32_t page = 0; page < family->area.pages; page++) {
        uint32_t generation = area_generation(&family->area, page, round);
        if (is_of_member(family, page))
            area_write_page(&family->area, page,
                            (struct page_identity){family->area.object, page, generation});
    }
    for (uint32_t i = 0; i < FAMILY - 1; i++)
        check_join(children[i]);
}

static void fork_finish(void *object, uint32_t last_round)
{
    struct family *family = object;
    area_verify(&family->area, last_round);
}

const struct object_kind kind_fork = {
    .name = "fork",
    .help = "memory that parent and children overwrite after a fork",
    .share = 10,
    .start = fork_start,
    .step = fork_step,
    .finish = fork_finish,
};

/* Memory that is given back and taken again, wholly and in parts: it must be zero each time. */
static void churn_step(void *object, uint32_t round)
{
    struct area *area = object;
    uint64_t length = (uint64_t)area->pages * PAGE_BYTES;
    area->memory = check_map(length, MAP_PRIVATE);
    for (uint32_t page = 0; page < area->pages; page += 2)
        area_verify_zero(area, page);
    area_write_all(area, round);
    area_sabotage(area, round);
    area_verify(area, round);
    for (uint32_t page = 0; page < area->pages; page++)
        if (area_generation(area, page, round) == round &&
            madvise(area_address(area, page), PAGE_BYTES, MADV_DONTNEED) != 0)
            check_fail_call("madvise");
    for (uint32_t page = 0; page < area->pages; page++) {
        uint32_t generation = area_generation(area, page, round);
        if (generation == round)
            area_verify_zero(area, page);
        else
            area_verify_page(area, page, (struct page_identity){area->object, page, generation});
    }
    if (munmap(area->memory, length) != 0)
        check_fail_call("munmap");
}

static void *churn_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    return area_new(worker, number, bytes);
}

static void churn_finish(void *object, uint32_t last_round)
{
    (void)object;
    (void)last_round;
}

const struct object_kind kind_churn = {
    .name = "churn",
    .help = "memory that is freed and taken again, and must be zero then",
    .share = 5,
    .start = churn_start,
    .step = churn_step,
    .finish = churn_finish,
};
