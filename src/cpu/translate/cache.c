/*
 * Translations: their memory, how they are found, dropped and evicted.
 *
 * A translation is found by the guest-physical address of its first byte, its RIP and the privilege
 * it runs at; RIP, because constants that depend on it (return addresses, RIP-relative operands)
 * are in the code, and privilege, because the TLB to probe is. So it survives every change of the
 * page tables. The dispatcher learns the physical address of RIP from the instruction TLB, as the
 * interpreter does.
 *
 * Generated code passes from one translation to another without the dispatcher in two ways:
 *  - a link, a patched jump to a translation in the same page (same physical, same linear page);
 *  - the jump cache (jump.c), by RIP, which remembers what the dispatcher has found.
 *
 * Code memory is a memfd mapped twice, writable here and executable there, filled from the start to
 * the end; then everything goes at once. A dropped translation (its page was written, or moved)
 * leaves the tables at once, and its memory stays as it is: it may be what is running. The jumps to
 * it are undone by the dispatcher, on the vCPU's own thread, before anything runs again, so code is
 * written on one thread only.
 *
 * Invariants: a translation in the tables is in both; jumps lead to translations that are alive, or
 * in `dead` and about to be buried; translate_drop is called on the vCPU's thread or while the vCPU
 * is parked, so there is no lock here.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/translate/crossing.h"

/* From the machine's pool, or from one of our own (which a sandbox may refuse us). */
static enum status take_code(struct translate *translate, struct error *err)
{
    enum status status = STATUS_OK;
    translate->pool = translate->vcpu->code_pool;
    if (translate->pool == NULL) {
        status = code_pool_create(&translate->own_pool, 1, err);
        translate->pool = translate->own_pool;
    }
    return status == STATUS_OK ? code_pool_take(translate->pool, &translate->code, err) : status;
}

enum status translate_create(struct translate **out, struct vcpu *vcpu, struct error *err)
{
    struct translate *translate = calloc(1, sizeof(*translate));
    if (translate == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the translator's tables");
    translate->vcpu = vcpu;
    enum status status = take_code(translate, err);
    if (status == STATUS_OK) {
        void *data = mmap(NULL, TRANSLATE_DATA_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED)
            status = error_set(err, STATUS_NO_MEMORY, "no memory for translations");
        else
            translate->data = data;
    }
    if (status != STATUS_OK) {
        translate_destroy(translate);
        return status;
    }
    translate_emit_stubs(translate);
    jump_init(translate);
    translate_serialize();
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
    if (translate->data != NULL)
        munmap(translate->data, TRANSLATE_DATA_SIZE);
    free(translate);
}

void *translate_allocate(struct translate *translate, size_t size)
{
    void *memory = translate->data + translate->data_used;
    translate->data_used += align_up(size, 8);
    return memory;
}

/* Code that was written through another linear address is only sure to be seen after a serializing
 * instruction (SDM vol. 3 8.1.3). IRET is the cheapest that a program may execute everywhere. */
void translate_serialize(void)
{
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

static struct translation **hash_bucket(struct translate *translate, uint64_t gpa, uint64_t rip)
{
    uint64_t mixed = (gpa ^ (rip >> PAGE_SHIFT) << 3) * 0x9e3779b97f4a7c15u;
    return &translate->hash[(mixed >> 40) & (TRANSLATE_HASH_SIZE - 1)];
}

static struct translation **page_bucket(struct translate *translate, uint64_t ppn)
{
    return &translate->pages[(ppn ^ ppn >> 10) & (TRANSLATE_PAGE_HASH_SIZE - 1)];
}

struct translation *translate_look_up(struct translate *translate, uint64_t gpa, uint64_t rip,
                                      unsigned privilege)
{
    struct translation *t = *hash_bucket(translate, gpa, rip);
    while (t != NULL && !(t->gpa == gpa && t->rip == rip && t->privilege == privilege))
        t = t->hash_next;
    return t;
}

void translate_insert(struct translate *translate, struct translation *t)
{
    struct translation **bucket = hash_bucket(translate, t->gpa, t->rip);
    t->hash_next = *bucket;
    t->hash_back = bucket;
    if (*bucket != NULL)
        (*bucket)->hash_back = &t->hash_next;
    *bucket = t;

    bucket = page_bucket(translate, t->gpa >> PAGE_SHIFT);
    t->page_next = *bucket;
    t->page_back = bucket;
    if (*bucket != NULL)
        (*bucket)->page_back = &t->page_next;
    *bucket = t;
    translate->stats.translations++;
}

void translate_unlink(struct translate *translate, struct translation *t)
{
    *t->hash_back = t->hash_next;
    if (t->hash_next != NULL)
        t->hash_next->hash_back = t->hash_back;
    *t->page_back = t->page_next;
    if (t->page_next != NULL)
        t->page_next->page_back = t->page_back;
    jump_forget(translate, t);
    if (t->is_crossing)
        crossing_unlist(t);
    t->is_dead = true;
    t->dead_next = translate->dead;
    translate->dead = t;
}

void translate_drop(void *context, uint64_t ppn)
{
    struct translate *translate = context;
    block_drop(translate->vcpu, ppn);
    crossing_drop(translate, ppn);
    bool all = ppn == MMU_ALL_PAGES;
    struct translation **first = all ? translate->pages : page_bucket(translate, ppn);
    struct translation **end = all ? translate->pages + TRANSLATE_PAGE_HASH_SIZE : first + 1;
    for (struct translation **bucket = first; bucket != end; bucket++) {
        struct translation *next;
        for (struct translation *t = *bucket; t != NULL; t = next) {
            next = t->page_next;
            if (all || t->gpa >> PAGE_SHIFT == ppn)
                translate_unlink(translate, t);
        }
    }
}

/* ------------------------------------------------------------------------- links */

static void patch(struct translate *translate, const struct link *link, uint32_t target)
{
    struct emit e = {translate->code.write, translate->code.write};
    emit_link(&e, link->at, target);
}

void translate_chain(struct translate *translate, struct link *link, struct translation *to)
{
    if (link->to != NULL)
        return;
    link->to = to;
    link->next = to->incoming;
    link->back = &to->incoming;
    if (to->incoming != NULL)
        to->incoming->back = &link->next;
    to->incoming = link;
    patch(translate, link, link->is_saved ? to->entry_saved : to->entry_host);
    translate_serialize();
}

static void unchain(struct link *link)
{
    *link->back = link->next;
    if (link->next != NULL)
        link->next->back = link->back;
    link->to = NULL;
}

void translate_bury(struct translate *translate)
{
    while (translate->dead != NULL) {
        struct translation *t = translate->dead;
        translate->dead = t->dead_next;
        for (unsigned i = 0; i < ARRAY_LENGTH(t->links); i++) {
            if (t->links[i].to != NULL)
                unchain(&t->links[i]);
        }
        while (t->incoming != NULL) {
            struct link *link = t->incoming;
            patch(translate, link, link->unlinked);
            unchain(link);
        }
    }
    translate_serialize();
}

void translate_evict_all(struct translate *translate)
{
    memset(translate->hash, 0, sizeof(translate->hash));
    memset(translate->pages, 0, sizeof(translate->pages));
    translate->dead = NULL;
    translate->crossings = NULL;
    jump_clear(translate);
    translate->code_used = translate->code_start;
    translate->data_used = 0;
    translate->epoch++;
    translate->stats.evictions++;
}
