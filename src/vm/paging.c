#include "vm/paging.h"

#include <stdlib.h>

#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/temp_file.h"

#define CACHE_PART   10u /* of the VM's memory that the compression cache may take */
#define SAMPLE_PAGES 100u
#define SAMPLE_IDLE  4u /* so many times its period, in the host's time, ends a sample as well */
#define TRIM_PERIOD  (10 * NS_PER_SECOND) /* between looks for space of the swap file */

struct paging {
    struct pmap *map;
    struct zcache *cache;
    struct swap *swap; /* not ours, and may be NULL */
    struct disk_pages *disks;
    struct pager *pager;
    struct reclaim *reclaim;
    struct sample *sample;
    struct io_timer *trim; /* NULL without a swap file */
    struct scan *scan;
    struct chaos *chaos;
};

enum status paging_open_swap(struct swap **swap, const struct vm_options *options,
                             struct error *err)
{
    bool is_wanted = options->swap_dir != NULL || options->swap_size != OPTIONS_SWAP_DEFAULT ||
                     options->resident != options->memory || options->chaos;
    uint64_t size =
        options->swap_size == OPTIONS_SWAP_DEFAULT ? options->memory : options->swap_size;
    const char *dir = temp_file_folder(options->swap_dir);
    *swap = NULL;
    if (size == 0)
        return STATUS_OK;

    struct swap_file file;
    enum status status = swap_file_open(&file, dir, size, SWAP_QUEUE_IF_ANY, err);
    if (status == STATUS_OK)
        return swap_create(swap, &file, size, err);
    if (is_wanted)
        return status;
    if (err != NULL)
        *err = (struct error){.status = STATUS_OK};
    return STATUS_OK;
}

static void note_fresh(void *context, uint64_t ppn, uint64_t count)
{
    scan_note(context, ppn, count, true);
}

/* Share before swap. */
static void note_leaving(void *context, uint64_t ppn)
{
    scan_note(context, ppn, 1, false);
}

enum status paging_create(struct paging **out, struct pmap *map, struct swap *swap,
                          struct error *err)
{
    struct paging *paging = calloc(1, sizeof *paging);
    if (paging == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for paging");
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    paging->map = map;
    paging->swap = swap;
    enum status status =
        zcache_create(&paging->cache, stats.max_pages * PAGE_SIZE / CACHE_PART, err);
    if (status == STATUS_OK)
        status = disk_pages_create(&paging->disks, map, err);
    if (status == STATUS_OK)
        status = pager_create(&paging->pager, map, paging->cache, swap, paging->disks, err);
    if (status == STATUS_OK)
        status = reclaim_create(&paging->reclaim, map, paging->pager, paging->cache, err);
    if (status == STATUS_OK)
        status = scan_create(&paging->scan, map, clock_tsc(), err);
    if (status != STATUS_OK) {
        paging_destroy(paging);
        return status;
    }
    disk_pages_set_note(paging->disks, note_fresh, paging->scan);
    reclaim_set_note(paging->reclaim, note_leaving, paging->scan);
    *out = paging;
    return STATUS_OK;
}

void paging_set_resident(struct paging *paging, uint64_t bytes)
{
    if (bytes != UINT64_MAX)
        disk_pages_enable(paging->disks, true);
    reclaim_set_target(paging->reclaim, bytes == UINT64_MAX ? UINT64_MAX : bytes >> PAGE_SHIFT);
}

void paging_set_blocked(struct paging *paging, bool blocked)
{
    reclaim_set_blocked(paging->reclaim, blocked);
}

void paging_wait_blocked(struct paging *paging, bool (*is_over)(void *context), void *context)
{
    reclaim_wait_blocked(paging->reclaim, is_over, context);
}

void paging_wake(struct paging *paging)
{
    reclaim_wake(paging->reclaim);
}

void paging_restore_resident(struct paging *paging)
{
    reclaim_restore_target(paging->reclaim);
}

static void on_trim(void *context)
{
    struct paging *paging = context;
    swap_trim(paging->swap);
    io_timer_arm(paging->trim, clock_monotonic_ns() + TRIM_PERIOD);
}

enum status paging_start(struct paging *paging, struct io_loop *loop,
                         const struct vm_options *options, uint64_t (*vm_time_ns)(void *context),
                         void *context, struct error *err)
{
    struct sample_config config = {
        .map = paging->map,
        .pages = SAMPLE_PAGES,
        .period_ns = options->sample_period_ns,
        .idle_ns = SAMPLE_IDLE * options->sample_period_ns,
        .cpus = options->cpus,
        .vm_time_ns = vm_time_ns,
        .context = context,
        .loop = loop,
        .seed = clock_tsc() | 1,
    };
    enum status status = sample_create(&paging->sample, &config, err);
    if (status == STATUS_OK && paging->swap != NULL)
        status = io_timer_create(&paging->trim, loop, on_trim, paging, err);
    if (paging->trim != NULL)
        io_timer_arm(paging->trim, clock_monotonic_ns() + TRIM_PERIOD);
    return status;
}

enum status paging_start_chaos(struct paging *paging, uint64_t seed, const struct chaos_ops *ops,
                               void *context, struct error *err)
{
    disk_pages_enable(paging->disks, true);
    return chaos_create(&paging->chaos, paging->map, paging->pager, ops, context, seed, err);
}

void paging_stop_chaos(struct paging *paging)
{
    chaos_destroy(paging->chaos);
    paging->chaos = NULL;
}

void paging_stop(struct paging *paging)
{
    paging_stop_chaos(paging);
    sample_destroy(paging->sample);
    paging->sample = NULL;
    if (paging->trim != NULL)
        io_timer_destroy(paging->trim);
    paging->trim = NULL;
    if (paging->reclaim != NULL)
        reclaim_stop(paging->reclaim);
}

void paging_destroy(struct paging *paging)
{
    if (paging == NULL)
        return;
    paging_stop(paging);
    reclaim_destroy(paging->reclaim);
    scan_destroy(paging->scan);
    pager_destroy(paging->pager);
    disk_pages_destroy(paging->disks);
    zcache_destroy(paging->cache);
    if (paging->swap != NULL)
        swap_clear(paging->swap);
    free(paging);
}

struct disk_pages *paging_disks(struct paging *paging)
{
    return paging->disks;
}

struct scan *paging_scan(struct paging *paging)
{
    return paging->scan;
}

void paging_get(struct paging *paging, struct paging_info *info)
{
    struct pmap_stats pages;
    struct sample_info sample = {0};
    *info = (struct paging_info){0};
    pmap_get_stats(paging->map, &pages);
    zcache_get_stats(paging->cache, &info->cache);
    if (paging->swap != NULL)
        swap_get_stats(paging->swap, &info->swap);
    pager_get_stats(paging->pager, &info->pager);
    reclaim_get_stats(paging->reclaim, &info->reclaim);
    scan_get_stats(paging->scan, &info->scan);
    if (paging->chaos != NULL)
        chaos_get_stats(paging->chaos, &info->chaos);
    if (paging->sample != NULL)
        sample_get(paging->sample, &sample);
    uint64_t max = pages.max_pages * PAGE_SIZE;
    info->resident = pages.private_pages * PAGE_SIZE + info->cache.held_bytes;
    info->target = info->reclaim.target > pages.max_pages ? max : info->reclaim.target * PAGE_SIZE;
    info->stall_ns = pages.reclaim_stall_ns + info->reclaim.wait_ns;
    info->active = sample.active_pages * PAGE_SIZE;
    info->active_slow = (uint64_t)(sample.slow * (double)max);
    info->active_fast = (uint64_t)(sample.fast * (double)max);
    info->active_now = (uint64_t)(sample.now * (double)max);
    info->sample_periods = sample.periods;
    info->overhead = pages.max_pages * sizeof(uint64_t)   /* the page map's entries */
                     + info->swap.used * sizeof(uint64_t) /* checksums */
                     + disk_pages_overhead(paging->disks);
}
