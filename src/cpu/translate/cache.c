/*
 * Translations: how they are found, linked and dropped.
 *
 * A translation is found by the guest-physical address of its first byte, its RIP and the privilege
 * it runs at; RIP, because constants that depend on it (return addresses, RIP-relative operands)
 * are in the code, unless it is relative (relative.c), and privilege, because the TLB to probe is.
 * So it survives every change of the page tables. The dispatcher learns the physical address of RIP
 * from the instruction TLB, as the interpreter does.
 *
 * Generated code passes from one translation to another without the dispatcher in two ways:
 *  - a link, a patched jump to a translation in the same page (same physical, same linear page);
 *  - the jump cache, by RIP (jump.c).
 *
 * A dropped translation (its page was written, or moved) leaves the tables at once, and its memory
 * stays as it is: it may be what is running. The jumps to it are undone by the dispatcher, on the
 * vCPU's own thread, before anything runs again, so code is written on one thread only. An evicted
 * one (ring.c) leaves them in the dispatcher, with all jumps to it.
 *
 * Invariants: a translation that is not dead is in both tables; jumps lead to translations that are
 * alive, or in `dead` and about to be buried; translate_drop is called on the vCPU's thread or
 * while the vCPU is parked, so there is no lock here.
 */

#include <stdlib.h>
#include <string.h>

#include "cpu/translate/crossing.h"

/* From the machine's pool, or from one of our own (which a sandbox may refuse us). */
static enum status take_code(struct translate *translate, struct error *err)
{
    enum status status = STATUS_OK;
    translate->pool = translate->vcpu->code_pool;
    if (translate->pool == NULL) {
        status = code_pool_create(&translate->own_pool, CODE_POOL_DEFAULT, 1, err);
        translate->pool = translate->own_pool;
    }
    return status == STATUS_OK ? code_pool_take(translate->pool, &translate->code, err) : status;
}

/* The tables are the first part of the data, a bucket for about each translation that there will
 * be. */
static void place_tables(struct translate *translate)
{
    uint32_t buckets = 1;
    while (buckets * 2 <= translate->code.expected / 256)
        buckets *= 2;
    translate->hash_mask = buckets - 1;
    translate->page_mask = buckets / 16 - 1;
    translate->hash = (ref *)(void *)translate->code.data;
    translate->pages = translate->hash + buckets;
    translate->data_ring.start = (buckets + buckets / 16) * (uint32_t)sizeof(ref);
}

enum status translate_create(struct translate **out, struct vcpu *vcpu, struct error *err)
{
    struct translate *translate = calloc(1, sizeof(*translate));
    if (translate == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the translator's tables");
    translate->vcpu = vcpu;
    __builtin_cpu_init();
    translate->has_rorx = __builtin_cpu_supports("bmi2");
    enum status status = take_code(translate, err);
    if (status != STATUS_OK) {
        translate_destroy(translate);
        return status;
    }
    place_tables(translate);
    translate->code_starts = calloc(translate->code.code_size >> PAGE_SHIFT, sizeof(ref));
    if (translate->code_starts == NULL) {
        translate_destroy(translate);
        return error_set(err, STATUS_NO_MEMORY, "no memory for the translator's tables");
    }
    translate_emit_stubs(translate);
    jump_init(translate);
    ring_init(translate);
    slow_forget(translate, MMU_ALL_PAGES);
    direct_init(translate);
    *out = translate;
    return STATUS_OK;
}

void translate_destroy(struct translate *translate)
{
    if (translate == NULL)
        return;
    if (translate->code.write != NULL)
        code_pool_give(translate->pool, &translate->code);
    code_pool_destroy(translate->own_pool);
    free(translate->code_starts);
    free(translate);
}

/* Code that was written through another linear address is only sure to be seen after a serializing
 * instruction (SDM vol. 3 8.1.3). IRET is the cheapest that a program may execute everywhere. */
void translate_serialize(struct translate *translate)
{
    if (!translate->code_is_new)
        return;
    translate->code_is_new = false;
    uint64_t scratch, stack;
    __asm__ volatile("movq %%rsp, %[stack]\n\t"
                     "subq $128, %%rsp\n\t" /* the caller's red zone */
                     "movl %%ss, %k[scratch]\n\t"
                     "pushq %[scratch]\n\t"
                     "pushq %[stack]\n\t"
                     "pushfq\n\t"
                     "movl %%cs, %k[scratch]\n\t"
                     "pushq %[scratch]\n\t"
                     "leaq 1f(%%rip), %[scratch]\n\t"
                     "pushq %[scratch]\n\t"
                     "iretq\n"
                     "1:"
                     : [scratch] "=&r"(scratch), [stack] "=&r"(stack)
                     :
                     : "memory", "cc");
}

/* ------------------------------------------------------------------------- tables */

/* A page's translations are in so many consecutive buckets: a few cache lines. */
#define HASH_PAGE 128u

static ref *hash_bucket(struct translate *translate, uint64_t gpa)
{
    uint64_t mixed = (gpa >> PAGE_SHIFT) * 0x9e3779b97f4a7c15u;
    uint64_t in_page = (gpa ^ (gpa & PAGE_MASK) >> 6) % HASH_PAGE;
    return &translate->hash[((mixed >> 32) + in_page) & translate->hash_mask];
}

static ref *page_bucket(const struct translate *translate, uint64_t ppn)
{
    return &translate->pages[(ppn ^ ppn >> 12) & translate->page_mask];
}

struct translation *translate_page_first(const struct translate *translate, uint64_t ppn)
{
    return ref_get(translate, *page_bucket(translate, ppn));
}

struct translation *translate_look_up(struct translate *translate, uint64_t gpa, uint64_t rip,
                                      unsigned privilege)
{
    const bool may_be_direct = direct_may_run(translate, privilege);
    struct translation *other = NULL;
    for (struct translation *t = ref_get(translate, *hash_bucket(translate, gpa)); t != NULL;
         t = ref_get(translate, t->hash_next)) {
        if (translation_gpa(t) != gpa || t->privilege != privilege || !translation_is_for(t, rip))
            continue;
        if (t->is_direct == may_be_direct)
            return t;
        if (may_be_direct && other == NULL)
            other = t;
    }
    return other;
}

void translate_insert(struct translate *translate, struct translation *t)
{
    ref self = ref_of(translate, t);
    ref *bucket = hash_bucket(translate, translation_gpa(t));
    t->hash_next = *bucket;
    *bucket = self;

    bucket = page_bucket(translate, t->ppn);
    struct translation *next = ref_get(translate, *bucket);
    t->page_next = *bucket;
    t->page_previous = 0;
    if (next != NULL)
        next->page_previous = self;
    *bucket = self;
    translate->stats.translations++;
}

static void unlink_tables(struct translate *translate, struct translation *t)
{
    const ref self = ref_of(translate, t);
    ref *at = hash_bucket(translate, translation_gpa(t));
    while (*at != self)
        at = &((struct translation *)ref_get(translate, *at))->hash_next;
    *at = t->hash_next;

    struct translation *next = ref_get(translate, t->page_next);
    struct translation *previous = ref_get(translate, t->page_previous);
    if (next != NULL)
        next->page_previous = t->page_previous;
    if (previous != NULL)
        previous->page_next = t->page_next;
    else
        *page_bucket(translate, t->ppn) = t->page_next;
    jump_forget(translate, t);
    if (t->is_crossing)
        crossing_unlist(t);
    t->is_dead = true;
}

void translate_unlink(struct translate *translate, struct translation *t)
{
    unlink_tables(translate, t);
    t->hash_next = translate->dead;
    translate->dead = ref_of(translate, t);
}

void translate_unlink_page(struct translate *translate, uint64_t ppn)
{
    bool all = ppn == MMU_ALL_PAGES;
    ref *first = all ? translate->pages : page_bucket(translate, ppn);
    ref *end = all ? translate->pages + translate->page_mask + 1 : first + 1;
    for (ref *bucket = first; bucket != end; bucket++) {
        struct translation *next;
        for (struct translation *t = ref_get(translate, *bucket); t != NULL; t = next) {
            next = ref_get(translate, t->page_next);
            if (all || t->ppn == ppn)
                translate_unlink(translate, t);
        }
    }
}

void translate_drop(void *context, uint64_t ppn)
{
    struct translate *translate = context;
    block_drop(translate->vcpu, ppn);
    slow_forget(translate, ppn);
    relative_forget(translate, ppn);
    crossing_drop(translate, ppn);
    translate_unlink_page(translate, ppn);
}

/* Other pages come here by the jump cache alone; the dispatcher goes by the instruction TLB. */
void translate_keep(void *context, uint64_t ppn)
{
    struct translate *translate = context;
    crossing_drop(translate, ppn);
    for (struct translation *t = translate_page_first(translate, ppn); t != NULL;
         t = ref_get(translate, t->page_next)) {
        if (t->ppn == ppn)
            jump_put_away(translate, t);
    }
}

/* ------------------------------------------------------------------------- links */

static void patch(struct translate *translate, const struct link *link, uint32_t target)
{
    struct emit e = emit_begin(translate->code.write, 0);
    emit_link(&e, link_from(translate, link)->code + link->at, target);
    translate->code_is_new = true;
}

bool translate_chain(struct translate *translate, struct translation *to)
{
    struct link *link = translate->left_by;
    if (link == NULL || link->to != 0)
        return false;
    const struct translation *from = link_from(translate, link);
    if (from->is_dead || to->is_crossing || link->target != (to->rip & PAGE_MASK) ||
        link->privilege != to->privilege || from->ppn != to->ppn ||
        from->is_relative != to->is_relative || from->is_direct != to->is_direct ||
        (!to->is_relative && (from->rip ^ to->rip) >> PAGE_SHIFT != 0))
        return false;
    uint32_t entry = translate_entry(translate, to, link);
    if (entry == 0)
        return false;
    link->to = ref_of(translate, to);
    link->next = to->incoming;
    to->incoming = ref_of(translate, link);
    patch(translate, link, entry);
    return true;
}

/* Takes the link out of those that lead to its target. */
static void unchain(struct translate *translate, struct link *link)
{
    const ref self = ref_of(translate, link);
    ref *at = &((struct translation *)ref_get(translate, link->to))->incoming;
    while (*at != self)
        at = &((struct link *)ref_get(translate, *at))->next;
    *at = link->next;
    link->to = 0;
}

static void unlink_incoming(struct translate *translate, struct translation *t)
{
    while (t->incoming != 0) {
        struct link *link = ref_get(translate, t->incoming);
        patch(translate, link, link_from(translate, link)->aside + link->unlinked);
        unchain(translate, link);
    }
}

void translate_part(struct translate *translate, struct translation *t)
{
    unlink_incoming(translate, t);
    jump_put_away(translate, t);
}

/* No jump of t leads anywhere, and no jump leads to t. */
static void unlink_jumps(struct translate *translate, struct translation *t)
{
    struct link *links = translation_links(translate, t);
    for (struct link *link = links; link != links + t->link_count; link++) {
        if (link->to != 0)
            unchain(translate, link);
        if (link == translate->left_by)
            translate->left_by = NULL;
    }
    unlink_incoming(translate, t);
}

void translate_bury(struct translate *translate)
{
    while (translate->dead != 0) {
        struct translation *t = ref_get(translate, translate->dead);
        translate->dead = t->hash_next;
        unlink_jumps(translate, t);
    }
}

void translate_evict(struct translate *translate, struct translation *t)
{
    if (!t->is_dead)
        unlink_tables(translate, t);
    unlink_jumps(translate, t);
}
