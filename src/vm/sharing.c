#include "vm/sharing.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/sparse.h"

#define NOT_LISTED 0 /* PPNs below this are known to the manager: none, ... */
#define ALL_LISTED UINT64_MAX

struct sharing {
    void (*on_drop)(void *context);
    void *context;
    uint64_t span_pages;

    int pool; /* -1: none */
    const uint8_t *base;
    uint64_t bytes, key;
    _Atomic uint64_t cpu_ns;

    pthread_mutex_t lock; /* a leaf; guards what follows */
    uint32_t *held;       /* frame of each page, 0: none. Takes memory where there are some */
    uint64_t held_count;
    uint64_t listed; /* pages below this, as the manager knows */
    struct link_ref *queue;
    uint64_t queue_size, queue_first, queue_count; /* a ring that begins anew when it is empty */
};

enum status sharing_create(struct sharing **out, uint64_t span_pages,
                           void (*on_drop)(void *context), void *context, struct error *err)
{
    struct sharing *sharing = calloc(1, sizeof *sharing);
    if (sharing == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for page sharing");
    pthread_mutex_init(&sharing->lock, NULL);
    sharing->on_drop = on_drop;
    sharing->context = context;
    sharing->span_pages = span_pages;
    sharing->pool = -1;
    /* Each page has one reference at most, held or not yet told; and what one message proposes. */
    sharing->queue_size = span_pages + LINK_PAGES;
    sharing->held = sparse_map(span_pages * sizeof *sharing->held);
    sharing->queue = sparse_map(sharing->queue_size * sizeof *sharing->queue);
    if (sharing->held == NULL || sharing->queue == NULL) {
        sharing_destroy(sharing);
        return error_set(err, STATUS_NO_MEMORY, "no memory for page sharing");
    }
    *out = sharing;
    return STATUS_OK;
}

static void pool_close(struct sharing *sharing)
{
    if (sharing->pool < 0)
        return;
    munmap((void *)sharing->base, sharing->bytes);
    close(sharing->pool);
    sharing->pool = -1;
    sharing->bytes = 0;
}

void sharing_destroy(struct sharing *sharing)
{
    if (sharing == NULL)
        return;
    pool_close(sharing);
    sparse_unmap(sharing->held, sharing->span_pages * sizeof *sharing->held);
    sparse_unmap(sharing->queue, sharing->queue_size * sizeof *sharing->queue);
    pthread_mutex_destroy(&sharing->lock);
    free(sharing);
}

/* ------------------------------------------------------------------------- references */

/* With the lock held. */
static void enqueue(struct sharing *sharing, uint32_t ppn, uint32_t frame)
{
    uint64_t at = (sharing->queue_first + sharing->queue_count) % sharing->queue_size;
    if (sharing->queue_count == sharing->queue_size) /* sharing_attach sees to it */
        abort();
    sharing->queue[at] = (struct link_ref){ppn, frame};
    sharing->queue_count++;
}

static void release(struct sharing *sharing, uint32_t ppn, uint32_t frame)
{
    pthread_mutex_lock(&sharing->lock);
    sharing->held[ppn] = 0;
    sharing->held_count--;
    bool tells = ppn < sharing->listed;
    if (tells)
        enqueue(sharing, ppn, frame);
    bool first = tells && sharing->queue_count == 1;
    pthread_mutex_unlock(&sharing->lock);
    if (first && sharing->on_drop != NULL)
        sharing->on_drop(sharing->context);
}

static void on_map_drop(void *context, uint64_t ppn, uint32_t frame)
{
    release(context, (uint32_t)ppn, frame);
}

static const struct page_share_ops share_ops = {.drop = on_map_drop};

void sharing_join(struct sharing *sharing, struct pmap *map)
{
    pmap_set_share(map, &share_ops, sharing);
    pmap_set_pool(map, sharing->base, sharing->bytes >> PAGE_SHIFT);
}

void sharing_leave(struct sharing *sharing, struct pmap *map)
{
    (void)sharing;
    page_share_end(map);
}

/* False: refused. With the lock held. */
static bool take(struct sharing *sharing, const struct link_ref *ref)
{
    if (sharing->held[ref->ppn] != 0)
        return false;
    sharing->held[ref->ppn] = ref->frame;
    sharing->held_count++;
    return true;
}

static void attach_batch(struct sharing *sharing, struct pmap *map, const struct link_ref *refs,
                         unsigned count)
{
    struct page_ref taken[PAGE_SHARE_MAX];
    bool shared[PAGE_SHARE_MAX];
    unsigned taken_count = 0;
    pthread_mutex_lock(&sharing->lock);
    for (unsigned i = 0; i < count; i++) {
        /* For a page that has one already: a manager's mistake, which does no harm. */
        if (take(sharing, &refs[i]))
            taken[taken_count++] = (struct page_ref){refs[i].ppn, refs[i].frame};
        else
            enqueue(sharing, refs[i].ppn, refs[i].frame);
    }
    bool refused = taken_count != count;
    pthread_mutex_unlock(&sharing->lock);
    if (refused && sharing->on_drop != NULL)
        sharing->on_drop(sharing->context);
    page_share(map, taken, taken_count, shared);
    for (unsigned i = 0; i < taken_count; i++) {
        if (!shared[i])
            release(sharing, (uint32_t)taken[i].ppn, taken[i].frame);
    }
}

static enum status attach_check(struct sharing *sharing, struct pmap *map,
                                const struct link_ref *refs, unsigned count, struct error *err)
{
    uint64_t frames = sharing->bytes >> PAGE_SHIFT;
    for (unsigned i = 0; i < count; i++) {
        if (refs[i].frame == 0 || refs[i].frame >= frames)
            return error_set(err, STATUS_INVALID, "a frame that the pool does not have");
        if (pmap_state(map, refs[i].ppn) == PAGE_NONE)
            return error_set(err, STATUS_INVALID, "a page that the VM does not have");
    }
    pthread_mutex_lock(&sharing->lock);
    bool fits = sharing->queue_count + sharing->held_count + count <= sharing->queue_size;
    pthread_mutex_unlock(&sharing->lock);
    return fits ? STATUS_OK
                : error_set(err, STATUS_INVALID, "more frames than the VM can have pages");
}

static int compare_ppns(const void *left, const void *right)
{
    const struct link_ref *a = left, *b = right;
    return (a->ppn > b->ppn) - (a->ppn < b->ppn);
}

enum status sharing_attach(struct sharing *sharing, struct pmap *map, const struct link_ref *refs,
                           unsigned count, struct error *err)
{
    /* In the order of PPNs: the host takes neighbours' memory back in one piece, which costs as
     * much as that of one page, and they come in the order of whoever found the match. */
    struct link_ref sorted[LINK_PAGES];
    enum status status = count > LINK_PAGES
                             ? error_set(err, STATUS_INVALID, "more pages than a message has")
                             : attach_check(sharing, map, refs, count, err);
    if (status != STATUS_OK)
        return status;
    memcpy(sorted, refs, count * sizeof *refs);
    qsort(sorted, count, sizeof *sorted, compare_ppns);
    for (unsigned done = 0, some; done < count; done += some) {
        some = count - done < PAGE_SHARE_MAX ? count - done : PAGE_SHARE_MAX;
        attach_batch(sharing, map, sorted + done, some);
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------- what is told */

void sharing_holds_begin(struct sharing *sharing)
{
    pthread_mutex_lock(&sharing->lock);
    /* What has not been told to the manager before need not be: the new one hears what is left. */
    sharing->queue_first = sharing->queue_count = 0;
    sharing->listed = NOT_LISTED;
    pthread_mutex_unlock(&sharing->lock);
}

unsigned sharing_holds(struct sharing *sharing, struct link_ref *refs, unsigned most)
{
    unsigned count = 0;
    pthread_mutex_lock(&sharing->lock);
    uint64_t ppn = sharing->held_count != 0 ? sharing->listed : sharing->span_pages;
    for (; ppn < sharing->span_pages && count < most; ppn++) {
        if (sharing->held[ppn] != 0)
            refs[count++] = (struct link_ref){(uint32_t)ppn, sharing->held[ppn]};
    }
    sharing->listed = count == 0 ? ALL_LISTED : ppn;
    pthread_mutex_unlock(&sharing->lock);
    return count;
}

void sharing_unlink(struct sharing *sharing)
{
    sharing_holds_begin(sharing);
}

unsigned sharing_drops(struct sharing *sharing, struct link_ref *refs, unsigned most)
{
    pthread_mutex_lock(&sharing->lock);
    unsigned count = sharing->queue_count < most ? (unsigned)sharing->queue_count : most;
    for (unsigned i = 0; i < count; i++)
        refs[i] = sharing->queue[(sharing->queue_first + i) % sharing->queue_size];
    pthread_mutex_unlock(&sharing->lock);
    return count;
}

void sharing_told(struct sharing *sharing, unsigned count)
{
    pthread_mutex_lock(&sharing->lock);
    sharing->queue_count -= count;
    sharing->queue_first =
        sharing->queue_count == 0 ? 0 : (sharing->queue_first + count) % sharing->queue_size;
    pthread_mutex_unlock(&sharing->lock);
}

/* ------------------------------------------------------------------------- the pool */

enum status sharing_pool_check(int fd, uint64_t bytes, struct error *err)
{
    struct stat stat;
    int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode) || seals < 0 || !(seals & F_SEAL_SHRINK))
        return error_set(err, STATUS_INVALID, "a pool that might shrink");
    if (bytes < 2 * PAGE_SIZE || bytes % PAGE_SIZE != 0 ||
        bytes > (uint64_t)LINK_FRAMES_MOST * PAGE_SIZE || (uint64_t)stat.st_size < bytes)
        return error_set(err, STATUS_INVALID, "a pool of another size than was said");
    return STATUS_OK;
}

enum status sharing_set_pool(struct sharing *sharing, struct pmap *map, int fd, uint64_t bytes,
                             uint64_t key, struct error *err)
{
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED)
        return error_set(err, STATUS_NO_MEMORY, "cannot map the pool: %s", strerror(errno));
    madvise(base, bytes, MADV_DONTDUMP);
    if (!pmap_set_pool(map, base, bytes >> PAGE_SHIFT)) {
        munmap(base, bytes);
        return error_set(err, STATUS_BUSY, "pages of the pool before are still shared");
    }
    pool_close(sharing);
    sharing->pool = fd;
    sharing->base = base;
    sharing->bytes = bytes;
    sharing->key = key;
    /* The manager takes all that was held before as given back, and has been told of nothing. */
    pthread_mutex_lock(&sharing->lock);
    sharing->queue_first = sharing->queue_count = 0;
    sharing->listed = ALL_LISTED;
    pthread_mutex_unlock(&sharing->lock);
    return STATUS_OK;
}

bool sharing_has_pool(const struct sharing *sharing, int fd)
{
    struct stat ours, theirs;
    return sharing->pool >= 0 && fstat(sharing->pool, &ours) == 0 && fstat(fd, &theirs) == 0 &&
           ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

int sharing_pool(const struct sharing *sharing)
{
    return sharing->pool;
}

uint64_t sharing_key(const struct sharing *sharing)
{
    return sharing->key;
}

/* ------------------------------------------------------------------------- figures */

uint64_t sharing_saved(struct sharing *sharing)
{
    uint64_t saved = 0, left;
    pthread_mutex_lock(&sharing->lock);
    uint64_t *seen = sharing->held_count != 0 ? calloc(LINK_FRAMES_MOST / 64, sizeof *seen) : NULL;
    left = seen != NULL ? sharing->held_count : 0;
    for (uint64_t ppn = 0; ppn < sharing->span_pages && left != 0; ppn++) {
        uint32_t frame = sharing->held[ppn];
        if (frame == 0)
            continue;
        left--;
        saved += seen[frame / 64] >> frame % 64 & 1;
        seen[frame / 64] |= bit(frame % 64);
    }
    pthread_mutex_unlock(&sharing->lock);
    free(seen);
    return saved;
}

void sharing_count_cpu(struct sharing *sharing, uint64_t ns)
{
    atomic_store(&sharing->cpu_ns, ns);
}

uint64_t sharing_cpu_ns(const struct sharing *sharing)
{
    return atomic_load(&sharing->cpu_ns);
}

uint64_t sharing_overhead(const struct sharing *sharing)
{
    return sharing->held_count * sizeof *sharing->held;
}
