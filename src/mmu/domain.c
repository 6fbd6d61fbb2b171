/*
 * Parking, safepoints and revocation: how one vCPU's TLB is changed because of what others do.
 *
 * A request says "drop your translations of these pages", "drop your permission to write this one"
 * and "drop what you decoded from those" (or "keep it, but look those pages up when you come
 * there"). Whoever makes one holds domain->lock from the first post to the last acknowledgement, so
 * that there is one at a time, and it can lie on the requester's stack. For each member it takes
 * mmu->lock and either carries the request out itself (the member is parked) or posts it and raises
 * the attention bit; after it has visited all, it waits until each has served what it posted.
 *
 * No deadlock: a requester waits for running vCPUs only. A running vCPU takes mmu->lock, a leaf,
 * and nothing else; it reaches its next safepoint or parks within a bounded time, and both serve
 * what is posted. Everybody who waits for domain->lock is parked or is no vCPU.
 *
 * Ordering: a vCPU that still wrote through an old translation did so before it took mmu->lock to
 * serve the request; the requester sees it served under the same lock, hence those writes as well.
 *
 *   vCPU A (parked, makes page 7 private)      vCPU B (running, maps 7 as zero page)
 *   domain->lock
 *   B->lock: posted = 7, attention |= bit
 *   wait for B->served                         ... one block ...
 *                                              safepoint: B->lock, drop 7, posted = 0, signal
 *   domain->unlock; writes page 7              next access to 7 walks, and finds the private page
 *
 * Stopping is the same with every member at once: `stopped` keeps a parked MMU from running again,
 * and a running one parks at its next safepoint. The one who has stopped the others holds
 * domain->lock, so nobody edits its TLB, and no page that it maps can leave, since that takes a
 * revocation. It does nothing that waits: all of memory is its own, but for devices.
 *
 * Lock order: domain->lock, then mmu->lock. The page map's locks are never held here.
 */

#include "mmu/domain.h"

#include <stdlib.h>

#include "mmu/space.h"
#include "mmu/tlb.h"

#define MEMBERS_MAX 64u

struct mmu_request {
    struct tlb_pages mappings; /* drop translations of these */
    const uint64_t *code_ppns; /* drop what was decoded from these, or have it looked up */
    unsigned code_count;
    bool keeps_code;
    const uint64_t *guarded_ppn; /* drop permission to write this one, if not NULL */
};

struct mmu_domain {
    pthread_mutex_t lock;
    struct pmap *map;
    struct nested *nested;
    struct mmu_config config;
    struct mmu *members[MEMBERS_MAX];
    unsigned count;
};

static void revoke_hook(void *context, const struct pmap_revocation *what)
{
    mmu_domain_revoke(context, what);
}

enum status mmu_domain_create(struct mmu_domain **domain, struct pmap *map,
                              const struct mmu_config *config, struct error *err)
{
    struct mmu_domain *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an MMU domain");
    enum status status = nested_create(&made->nested, map, !config->no_host_large, err);
    if (status != STATUS_OK) {
        free(made);
        return status;
    }
    pthread_mutex_init(&made->lock, NULL);
    made->map = map;
    made->config = *config;
    pmap_set_revoke_hook(map, revoke_hook, made);
    *domain = made;
    return STATUS_OK;
}

void mmu_domain_destroy(struct mmu_domain *domain)
{
    if (domain == NULL)
        return;
    pmap_set_revoke_hook(domain->map, NULL, NULL);
    nested_destroy(domain->nested);
    pthread_mutex_destroy(&domain->lock);
    free(domain);
}

uint64_t mmu_domain_overhead(const struct mmu_domain *domain)
{
    uint64_t bytes = atomic_load(&domain->nested->table_bytes);
    for (unsigned i = 0; i < domain->count; i++)
        bytes += shadow_bytes(domain->members[i]->shadow);
    return bytes;
}

struct pmap *domain_map(struct mmu_domain *domain)
{
    return domain->map;
}

struct nested *domain_nested(struct mmu_domain *domain)
{
    return domain->nested;
}

const struct mmu_config *domain_config(const struct mmu_domain *domain)
{
    return &domain->config;
}

enum status domain_join(struct mmu_domain *domain, struct mmu *mmu, struct error *err)
{
    enum status status = STATUS_OK;
    pthread_mutex_lock(&domain->lock);
    if (domain->count == MEMBERS_MAX)
        status = error_set(err, STATUS_NO_SPACE, "more than %u CPUs in one machine", MEMBERS_MAX);
    else
        domain->members[domain->count++] = mmu;
    pthread_mutex_unlock(&domain->lock);
    return status;
}

void domain_leave(struct mmu_domain *domain, struct mmu *mmu)
{
    pthread_mutex_lock(&domain->lock);
    for (unsigned i = 0; i < domain->count; i++) {
        if (domain->members[i] == mmu) {
            domain->members[i] = domain->members[--domain->count];
            break;
        }
    }
    pthread_mutex_unlock(&domain->lock);
}

/* Carries a request out. On the MMU's own thread, or while it is parked; under mmu->lock. */
static void request_apply(struct mmu *mmu, const struct mmu_request *request)
{
    for (unsigned i = 0; i < request->mappings.count; i++) {
        walk_cache_drop_page(&mmu->walk_cache, request->mappings.ppns[i]);
        if (mmu->shadow != NULL)
            shadow_revoke(mmu->shadow, request->mappings.ppns[i]);
    }
    if (request->mappings.count != 0)
        tlb_drop_mappings(mmu, &request->mappings);
    if (request->mappings.count != 0 || request->guarded_ppn != NULL)
        space_forget_all(mmu);
    if (request->guarded_ppn != NULL) {
        walk_cache_drop_page(&mmu->walk_cache, *request->guarded_ppn);
        if (mmu->shadow != NULL)
            shadow_protect(mmu->shadow, *request->guarded_ppn);
        tlb_drop_writes(mmu, *request->guarded_ppn);
    }
    for (unsigned i = 0; i < request->code_count; i++) {
        if (request->keeps_code && mmu->code_keep != NULL)
            mmu->code_keep(mmu->code_context, request->code_ppns[i]);
        if (!request->keeps_code && mmu->code_drop != NULL)
            mmu->code_drop(mmu->code_context, request->code_ppns[i]);
        if (mmu->shadow != NULL)
            shadow_untrace(mmu->shadow, request->code_ppns[i]);
    }
}

/* Under mmu->lock. */
static void raise_attention(struct mmu *mmu)
{
    atomic_fetch_or(mmu->attention, mmu->attention_bit);
    atomic_store(&mmu->jump_mask, 0);
}

/* Under domain->lock. When it returns, every member has done it. */
static void request_all(struct mmu_domain *domain, const struct mmu_request *request)
{
    /* Nobody decodes anew while the others drop what they have, nor marks anew: that takes the
     * lock. */
    unsigned unmarked = request->keeps_code ? 0 : request->code_count;
    for (unsigned i = 0; i < unmarked; i++)
        pmap_code_unguard(domain->map, request->code_ppns[i]);
    /* First, so that nobody who has served the request finds there what is to be forgotten. */
    nested_revoke(domain->nested, request->mappings.ppns, request->mappings.count);
    if (request->guarded_ppn != NULL)
        nested_protect(domain->nested, *request->guarded_ppn);
    for (unsigned i = 0; i < domain->count; i++) {
        struct mmu *mmu = domain->members[i];
        pthread_mutex_lock(&mmu->lock);
        if (mmu->parked) {
            request_apply(mmu, request);
        } else {
            mmu->posted = request;
            raise_attention(mmu);
        }
        pthread_mutex_unlock(&mmu->lock);
    }
    for (unsigned i = 0; i < domain->count; i++) {
        struct mmu *mmu = domain->members[i];
        pthread_mutex_lock(&mmu->lock);
        while (mmu->posted != NULL)
            pthread_cond_wait(&mmu->served, &mmu->lock);
        pthread_mutex_unlock(&mmu->lock);
    }
    for (unsigned i = 0; i < unmarked; i++)
        pmap_code_clear(domain->map, request->code_ppns[i]);
}

void mmu_domain_revoke(struct mmu_domain *domain, const struct pmap_revocation *what)
{
    struct mmu_request request = {.code_ppns = what->code_ppns,
                                  .code_count = what->code_count,
                                  .keeps_code = what->keeps_code};
    tlb_pages_init(&request.mappings, what->ppns, what->count);
    pthread_mutex_lock(&domain->lock);
    request_all(domain, &request);
    pthread_mutex_unlock(&domain->lock);
}

void domain_mark_code(struct mmu_domain *domain, uint64_t ppn)
{
    /* The lock keeps a second vCPU from decoding between our mark and the end of our sweep. */
    pthread_mutex_lock(&domain->lock);
    if (pmap_code_mark(domain->map, ppn)) {
        request_all(domain, &(struct mmu_request){.guarded_ppn = &ppn});
        pmap_code_guard(domain->map, ppn);
    }
    pthread_mutex_unlock(&domain->lock);
}

void domain_drop_code(struct mmu_domain *domain, uint64_t ppn)
{
    mmu_domain_revoke(domain, &(struct pmap_revocation){.code_ppns = &ppn, .code_count = 1});
}

/* Under mmu->lock. */
static void serve_posted(struct mmu *mmu)
{
    atomic_fetch_and(mmu->attention, ~mmu->attention_bit);
    if (mmu->posted == NULL)
        return;
    request_apply(mmu, mmu->posted);
    mmu->posted = NULL;
    pthread_cond_broadcast(&mmu->served);
}

/* Under mmu->lock. */
static void park(struct mmu *mmu)
{
    serve_posted(mmu);
    mmu->parked = true;
    mmu->parkings++;
    if (mmu->stopped)
        pthread_cond_broadcast(&mmu->served);
}

static void unpark(struct mmu *mmu)
{
    while (mmu->stopped)
        pthread_cond_wait(&mmu->served, &mmu->lock);
    mmu->parked = false;
}

void mmu_service(struct mmu *mmu)
{
    pthread_mutex_lock(&mmu->lock);
    park(mmu);
    unpark(mmu);
    pthread_mutex_unlock(&mmu->lock);
}

void mmu_park(struct mmu *mmu)
{
    pthread_mutex_lock(&mmu->lock);
    park(mmu);
    pthread_mutex_unlock(&mmu->lock);
}

void mmu_unpark(struct mmu *mmu)
{
    pthread_mutex_lock(&mmu->lock);
    unpark(mmu);
    pthread_mutex_unlock(&mmu->lock);
}

void mmu_stop_others(struct mmu *mmu)
{
    struct mmu_domain *domain = mmu->domain;
    mmu_park(mmu);
    pthread_mutex_lock(&domain->lock);
    for (unsigned i = 0; i < domain->count; i++) {
        struct mmu *other = domain->members[i];
        if (other == mmu)
            continue;
        pthread_mutex_lock(&other->lock);
        other->stopped = true;
        if (!other->parked)
            raise_attention(other);
        pthread_mutex_unlock(&other->lock);
    }
    for (unsigned i = 0; i < domain->count; i++) {
        struct mmu *other = domain->members[i];
        if (other == mmu)
            continue;
        pthread_mutex_lock(&other->lock);
        while (!other->parked)
            pthread_cond_wait(&other->served, &other->lock);
        pthread_mutex_unlock(&other->lock);
    }
}

void mmu_resume_others(struct mmu *mmu)
{
    struct mmu_domain *domain = mmu->domain;
    for (unsigned i = 0; i < domain->count; i++) {
        struct mmu *other = domain->members[i];
        pthread_mutex_lock(&other->lock);
        other->stopped = false;
        pthread_cond_broadcast(&other->served);
        pthread_mutex_unlock(&other->lock);
    }
    pthread_mutex_unlock(&domain->lock);
    mmu_unpark(mmu);
}
