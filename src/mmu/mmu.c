/* An MMU's life, its devices, flushes and watched pages. See mmu.h. */

#include "mmu/mmu.h"

#include "mmu/domain.h"
#include "mmu/space.h"
#include "mmu/tlb.h"
#include "mmu/walk.h"

enum status mmu_init(struct mmu *mmu, struct mmu_domain *domain, struct bus *mmio,
                     _Atomic uint32_t *attention, uint32_t attention_bit,
                     mmu_code_drop_fn *code_drop, void *code_context, struct error *err)
{
    const struct mmu_config *config = domain_config(domain);
    struct pmap_stats ram;
    pmap_get_stats(domain_map(domain), &ram);
    tlb_init(mmu, ram.max_pages);
    pthread_mutex_init(&mmu->lock, NULL);
    pthread_cond_init(&mmu->served, NULL);
    mmu->parked = true;
    mmu->domain = domain;
    mmu->map = domain_map(domain);
    mmu->nested = domain_nested(domain);
    mmu->walk_cache.on = !config->no_walk_caches;
    walk_cache_flush(&mmu->walk_cache);
    mmu->mmio = mmio;
    mmu->attention = attention;
    mmu->attention_bit = attention_bit;
    mmu->code_drop = code_drop;
    mmu->code_context = code_context;
    enum status status = STATUS_OK;
    if (config->mode != MMU_NESTED)
        status = shadow_create(&mmu->shadow, config->shadow_bytes, err);
    mmu->is_shadowed = config->mode == MMU_SHADOW;
    mmu->is_choosing = config->mode == MMU_AUTO;
    auto_init(&mmu->choice);
    if (status == STATUS_OK)
        status = domain_join(domain, mmu, err);
    if (status != STATUS_OK) {
        mmu->domain = NULL;
        mmu_destroy(mmu);
    }
    return status;
}

void mmu_destroy(struct mmu *mmu)
{
    if (mmu->domain != NULL)
        domain_leave(mmu->domain, mmu);
    mmu->domain = NULL;
    shadow_destroy(mmu->shadow);
    mmu->shadow = NULL;
    window_destroy(mmu->window);
    mmu->window = NULL;
    pthread_cond_destroy(&mmu->served);
    pthread_mutex_destroy(&mmu->lock);
}

uint64_t mmu_device_read(struct mmu *mmu, uint64_t gpa, unsigned size)
{
    mmu->stats.mmio++;
    mmu_park(mmu);
    uint64_t value = bus_read(mmu->mmio, gpa, size);
    mmu_unpark(mmu);
    return value;
}

void mmu_device_write(struct mmu *mmu, uint64_t gpa, unsigned size, uint64_t value)
{
    mmu->stats.mmio++;
    mmu_park(mmu);
    bus_write(mmu->mmio, gpa, size, value);
    mmu_unpark(mmu);
}

/* All but the TLB and the walk cache. */
static void forget_space(struct mmu *mmu, enum mmu_flush_scope scope, uint64_t linear)
{
    if (mmu->shadow != NULL)
        shadow_flush(mmu->shadow);
    if (mmu->code_flush != NULL)
        mmu->code_flush(mmu->code_context, scope, linear);
}

/*
 * What the window has of the current address space, after a flush. A TLB may be filled at any time
 * with what the tables say, so pages for which they still say the same stay. A guest that flushes
 * everything mostly means a few pages, and to map one again takes fifty times as long as to look.
 */
static bool is_still_so(const struct window_page *page, void *context)
{
    struct mmu *mmu = context;
    struct walk walk;
    if (walk_guest(mmu, page->linear, MMU_READ, MMU_USER, &walk, NULL) != WALK_OK ||
        walk.gpa >> PAGE_SHIFT != page->ppn ||
        (page->access == WINDOW_WRITE && !(walk.may_write && walk.dirty)))
        return false;
    tlb_note_large(mmu, page->linear, walk.large);
    return true;
}

static void window_flush(struct mmu *mmu)
{
    if (mmu->window == NULL)
        return;
    if (mmu->window_cr3 == mmu->cr3)
        window_keep(mmu->window, is_still_so, mmu);
    else
        window_empty(mmu->window);
}

void mmu_flush(struct mmu *mmu, bool keep_global)
{
    mmu->stats.flushes++;
    space_forget_all(mmu);
    tlb_flush(mmu, keep_global);
    walk_cache_flush(&mmu->walk_cache);
    window_flush(mmu);
    forget_space(mmu, keep_global ? MMU_FLUSH_LOCAL : MMU_FLUSH_ALL, 0);
}

void mmu_load_cr3(struct mmu *mmu, uint64_t cr3, bool keep)
{
    unsigned from = mmu->cr3 & PAGING_CR3_PCID, to = cr3 & PAGING_CR3_PCID;
    bool is_other = mmu->cr3 != cr3;
    mmu->cr3 = cr3;
    if (!(mmu->cr4 & PAGING_CR4_PCIDE)) {
        mmu_flush(mmu, true);
        return;
    }
    space_leave(mmu, from);
    bool is_flushed = !keep || from == to;
    if (is_flushed)
        space_forget(mmu, to);
    if (space_enter(mmu, to))
        mmu->stats.space_returns++;
    else
        mmu->stats.flushes++;
    if (is_flushed && (mmu->window_cr3 & PAGING_CR3_PCID) == to)
        window_flush(mmu);
    /* Who comes back to an address space keeps what there is of it. */
    forget_space(mmu, is_other && is_flushed ? MMU_FLUSH_SPACE : MMU_FLUSH_LOCAL, 0);
}

void mmu_flush_space(struct mmu *mmu, unsigned pcid)
{
    space_forget(mmu, pcid);
    if (mmu->window != NULL && (mmu->window_cr3 & PAGING_CR3_PCID) == pcid)
        window_empty(mmu->window);
}

void mmu_flush_page(struct mmu *mmu, uint64_t linear)
{
    mmu->stats.page_flushes++;
    tlb_flush_page(mmu, linear);
    walk_cache_flush_all(&mmu->walk_cache);
    forget_space(mmu, MMU_FLUSH_PAGE, linear);
}

void mmu_watch(struct mmu *mmu, const uint64_t *pages, unsigned count)
{
    if (count > ARRAY_LENGTH(mmu->watched))
        count = ARRAY_LENGTH(mmu->watched);
    space_forget_all(mmu);
    for (unsigned i = 0; i < count; i++) {
        mmu->watched[i] = pages[i] & ~PAGE_MASK;
        tlb_flush_page(mmu, pages[i]);
    }
    mmu->watched_count = count;
}
