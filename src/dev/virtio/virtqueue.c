#include "dev/virtio/virtqueue.h"

#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtqueue_ring.h"
#include "util/log.h"

/* Lists of pieces and segments start at this many entries and double. */
#define CHAIN_FIRST_CAPACITY 16u

/* The most pieces that CHAIN_BYTES_MAX can fall into: a page each, and two ends per descriptor. */
#define CHAIN_IOV_MAX                                                                              \
    ((unsigned)(VIRTQUEUE_CHAIN_BYTES_MAX / PAGE_SIZE) + 2 * VIRTQUEUE_CHAIN_DESCRIPTORS_MAX)

bool virtqueue_break(struct virtqueue *queue, const char *reason)
{
    if (!queue->broken) {
        queue->broken = true;
        queue->broken_reason = reason;
        log_debug("virtqueue broken: %s", reason);
    }
    return false;
}

void virtqueue_init(struct virtqueue *queue, struct pmap *map, uint16_t size_max)
{
    *queue = (struct virtqueue){.map = map, .size_max = size_max, .size = size_max};
}

void virtqueue_finish(struct virtqueue *queue)
{
    free(queue->table);
    queue->table = NULL;
}

static struct virtqueue_layout virtqueue_layout(const struct virtqueue *queue)
{
    return queue->packed ? packed_layout(queue) : split_layout(queue);
}

/* Pins one area as a single host piece. NULL when it is not RAM. */
static void *area_pin(struct virtqueue *queue, uint64_t gpa, uint64_t length)
{
    struct iovec iov[2];
    unsigned count = 0;

    if (pmap_pin(queue->map, gpa, length, PIN_WRITE, iov, &count, ARRAY_LENGTH(iov)) != STATUS_OK)
        return NULL;
    if (count == 1)
        return iov[0].iov_base;
    pmap_unpin(queue->map, gpa, length, false);
    return NULL;
}

static void area_unpin(struct virtqueue *queue, void **area, uint64_t gpa, uint64_t length,
                       bool written)
{
    if (*area != NULL)
        pmap_unpin(queue->map, gpa, length, written);
    *area = NULL;
}

static void areas_unpin(struct virtqueue *queue)
{
    struct virtqueue_layout layout = virtqueue_layout(queue);

    area_unpin(queue, &queue->desc, queue->desc_gpa, layout.desc, queue->packed);
    area_unpin(queue, &queue->driver, queue->driver_gpa, layout.driver, false);
    area_unpin(queue, &queue->device, queue->device_gpa, layout.device, true);
}

static bool size_valid(const struct virtqueue *queue)
{
    uint16_t size = queue->size;

    if (size == 0 || size > queue->size_max)
        return false;
    return queue->packed || (size & (size - 1)) == 0;
}

static bool alignment_valid(const struct virtqueue *queue)
{
    uint64_t driver_alignment = queue->packed ? 4 : VRING_AVAIL_ALIGN_SIZE;

    return queue->desc_gpa % VRING_DESC_ALIGN_SIZE == 0 &&
           queue->driver_gpa % driver_alignment == 0 &&
           queue->device_gpa % VRING_USED_ALIGN_SIZE == 0;
}

bool virtqueue_enable(struct virtqueue *queue, bool packed, bool event_idx, bool indirect)
{
    if (queue->ready)
        return true;
    queue->packed = packed;
    queue->event_idx = event_idx;
    queue->indirect = indirect;
    if (!size_valid(queue))
        return virtqueue_break(queue, "bad ring size");
    if (!alignment_valid(queue))
        return virtqueue_break(queue, "misaligned ring");

    struct virtqueue_layout layout = virtqueue_layout(queue);
    queue->desc = area_pin(queue, queue->desc_gpa, layout.desc);
    queue->driver = area_pin(queue, queue->driver_gpa, layout.driver);
    queue->device = area_pin(queue, queue->device_gpa, layout.device);
    if (queue->desc == NULL || queue->driver == NULL || queue->device == NULL) {
        areas_unpin(queue);
        return virtqueue_break(queue, "ring outside RAM");
    }
    queue->next_avail = 0;
    queue->next_used = 0;
    queue->avail_wrap = true;
    queue->used_wrap = true;
    queue->unsignalled = 0;
    queue->batch_open = false;
    queue->broken = false;
    queue->broken_reason = NULL;
    queue->ready = true;
    return true;
}

void virtqueue_disable(struct virtqueue *queue)
{
    if (!queue->ready)
        return;
    areas_unpin(queue);
    queue->ready = false;
}

/* Doubles a list, up to `limit` entries. */
static bool list_grow(void **list, unsigned *capacity, size_t entry_size, unsigned limit)
{
    unsigned wanted = *capacity == 0 ? CHAIN_FIRST_CAPACITY : *capacity * 2;

    if (*capacity >= limit)
        return false;
    if (wanted > limit)
        wanted = limit;
    void *grown = realloc(*list, wanted * entry_size);
    if (grown == NULL)
        return false;
    *list = grown;
    *capacity = wanted;
    return true;
}

static bool iov_grow(struct virtqueue_chain *chain)
{
    void *list = chain->iov;
    bool grown = list_grow(&list, &chain->iov_capacity, sizeof(*chain->iov), CHAIN_IOV_MAX);

    chain->iov = list;
    return grown;
}

static bool segments_grow(struct virtqueue_chain *chain)
{
    void *list = chain->segments;
    bool grown = list_grow(&list, &chain->segment_capacity, sizeof(*chain->segments),
                           2 * (VIRTQUEUE_CHAIN_DESCRIPTORS_MAX + VIRTQUEUE_BORROWED_MAX));

    chain->segments = list;
    return grown;
}

static bool segment_add(struct virtqueue *queue, struct virtqueue_chain *chain,
                        struct virtqueue_segment segment)
{
    if (chain->segment_count == chain->segment_capacity && !segments_grow(chain))
        return virtqueue_break(queue, "no memory for a chain");
    chain->segments[chain->segment_count++] = segment;
    return true;
}

/* The host has no memory for a page of the chain: it stays in the ring, to be popped later. */
static bool virtqueue_starve(struct virtqueue *queue)
{
    queue->starved = true;
    return false;
}

/* Pins a buffer and appends it to the chain's list. */
static bool chain_pin(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa,
                      uint32_t length, bool write)
{
    unsigned base = write ? chain->out_count : 0;
    unsigned *count = write ? &chain->in_count : &chain->out_count;
    for (;;) {
        /* What a device does not write of a buffer means nothing to the driver (virtio 1.2,
         * 2.7.8.3). */
        enum status status = pmap_pin(queue->map, gpa, length, write ? PIN_OVERWRITE : PIN_READ,
                                      chain->iov == NULL ? NULL : chain->iov + base, count,
                                      chain->iov_capacity - base);
        if (status == STATUS_OK)
            return true;
        if (status == STATUS_NO_MEMORY)
            return virtqueue_starve(queue);
        if (status == STATUS_IO)
            return virtqueue_break(queue, "buffer lost");
        if (status != STATUS_NO_SPACE)
            return virtqueue_break(queue, "buffer outside RAM");
        if (!iov_grow(chain))
            return virtqueue_break(queue, "no memory for a chain");
    }
}

/* Holds [gpa, end), which does not wrap, until the chain is unpinned. */
static bool chain_hold(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa,
                       uint64_t end, bool write)
{
    struct virtqueue_segment segment = {
        .gpa = gpa, .length = (uint32_t)(end - gpa), .write = write};
    if (gpa == end)
        return true;
    /* The place first: what is pinned must be found again. */
    if (!segment_add(queue, chain, segment))
        return false;
    if (chain->bare || chain_pin(queue, chain, gpa, segment.length, write))
        return true;
    chain->segment_count--;
    return false;
}

/* Borrows [gpa, gpa + length), which lies in one page, if that is away or shared. */
static bool chain_borrow(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa,
                         uint32_t length)
{
    struct virtqueue_segment segment = {.gpa = gpa, .length = length, .borrowed = true};
    if (chain->borrowed_count == VIRTQUEUE_BORROWED_MAX)
        return false;
    if (chain->borrowed == NULL)
        chain->borrowed = aligned_alloc(PAGE_SIZE, VIRTQUEUE_BORROWED_MAX * PAGE_SIZE);
    if (chain->borrowed == NULL || (chain->out_count == chain->iov_capacity && !iov_grow(chain)))
        return false;
    uint8_t *page = chain->borrowed + chain->borrowed_count * PAGE_SIZE;
    /* Where it fails the page is there meanwhile; or it is lost, of which pinning it tells. */
    if (pmap_peek(queue->map, gpa >> PAGE_SHIFT, page) != STATUS_OK ||
        !segment_add(queue, chain, segment))
        return false;
    chain->borrowed_count++;
    chain->iov[chain->out_count++] =
        (struct iovec){.iov_base = page + (gpa & PAGE_MASK), .iov_len = length};
    return true;
}

/* A buffer for the device to read: its whole pages that are away are borrowed, and what it has of
 * shared ones, which holding would make private; the rest is held. */
static bool chain_hold_for_reading(struct virtqueue *queue, struct virtqueue_chain *chain,
                                   uint64_t gpa, uint64_t end)
{
    uint64_t next = gpa; /* what comes before is in the chain */
    for (uint64_t at = gpa, past; at < end; at = past) {
        past = align_down(at, PAGE_SIZE) + PAGE_SIZE;
        past = past < end ? past : end;
        if (!pmap_is_shared(queue->map, at >> PAGE_SHIFT) &&
            (past - at < PAGE_SIZE || !pmap_is_away(queue->map, at >> PAGE_SHIFT)))
            continue;
        if (!chain_hold(queue, chain, next, at, false))
            return false;
        next = at;
        if (chain_borrow(queue, chain, at, (uint32_t)(past - at)))
            next = past;
    }
    return chain_hold(queue, chain, next, end, false);
}

bool virtqueue_chain_add(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa,
                         uint32_t length, bool write)
{
    if (!write && chain->in_length > 0)
        return virtqueue_break(queue, "readable buffer after a writable one");
    uint64_t limit = chain->bare ? VIRTQUEUE_BARE_BYTES_MAX : VIRTQUEUE_CHAIN_BYTES_MAX;
    if (length > limit - chain->out_length - chain->in_length)
        return virtqueue_break(queue, "chain too long");
    if (length == 0)
        return true;
    if (!chain->bare && !range_fits(gpa, length, (uint64_t)1 << 63))
        return virtqueue_break(queue, "buffer outside RAM");
    bool is_held = write || chain->bare ? chain_hold(queue, chain, gpa, gpa + length, write)
                                        : chain_hold_for_reading(queue, chain, gpa, gpa + length);
    if (!is_held)
        return false;
    if (write)
        chain->in_length += length;
    else
        chain->out_length += length;
    return true;
}

unsigned virtqueue_load_table(struct virtqueue *queue, uint64_t gpa, uint32_t length)
{
    unsigned count = length / (unsigned)sizeof(struct vring_desc);

    if (!queue->indirect) {
        virtqueue_break(queue, "indirect table without the feature");
        return 0;
    }
    if (length == 0 || length % sizeof(struct vring_desc) != 0 ||
        count > VIRTQUEUE_CHAIN_DESCRIPTORS_MAX) {
        virtqueue_break(queue, "bad indirect table length");
        return 0;
    }
    if (queue->table == NULL) {
        queue->table = malloc(VIRTQUEUE_CHAIN_DESCRIPTORS_MAX * sizeof(struct vring_desc));
        if (queue->table == NULL) {
            virtqueue_break(queue, "no memory for an indirect table");
            return 0;
        }
    }
    enum status status = pmap_read(queue->map, gpa, queue->table, length);
    if (status == STATUS_NO_MEMORY) {
        virtqueue_starve(queue);
        return 0;
    }
    if (status != STATUS_OK) {
        virtqueue_break(queue, "indirect table outside RAM");
        return 0;
    }
    return count;
}

/* Unpins a chain of which the device wrote `written` bytes. */
static void chain_unpin(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t written)
{
    for (unsigned i = 0; !chain->bare && i < chain->segment_count; i++) {
        const struct virtqueue_segment *segment = &chain->segments[i];
        if (!segment->borrowed)
            pmap_unpin(queue->map, segment->gpa, segment->length, segment->write && written > 0);
        if (segment->write)
            written -= written < segment->length ? written : segment->length;
    }
    chain->segment_count = 0;
    chain->borrowed_count = 0;
    chain->held = false;
}

bool virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    if (!queue->ready || queue->broken)
        return false;
    chain->out_count = 0;
    chain->in_count = 0;
    chain->out_length = 0;
    chain->in_length = 0;
    chain->segment_count = 0;
    queue->starved = false;
    chain->held = queue->packed ? packed_pop(queue, chain) : split_pop(queue, chain);
    if (!chain->held)
        chain_unpin(queue, chain, 0);
    return chain->held;
}

void virtqueue_push(struct virtqueue *queue, struct virtqueue_chain *chain, uint32_t written)
{
    chain_unpin(queue, chain, written);
    if (!queue->ready)
        return;
    if (queue->packed)
        packed_push(queue, chain, written);
    else
        split_push(queue, chain, written);
}

bool virtqueue_publish(struct virtqueue *queue)
{
    if (!queue->ready || queue->unsignalled == 0)
        return false;
    return queue->packed ? packed_publish(queue) : split_publish(queue);
}

void virtqueue_drop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    if (chain->held)
        chain_unpin(queue, chain, UINT64_MAX);
}

void virtqueue_mute(struct virtqueue *queue)
{
    if (!queue->ready)
        return;
    if (queue->packed)
        packed_mute(queue);
    else
        split_mute(queue);
}

bool virtqueue_unmute(struct virtqueue *queue)
{
    if (!queue->ready || queue->broken || queue->starved)
        return false;
    return queue->packed ? packed_unmute(queue) : split_unmute(queue);
}

void virtqueue_chain_finish(struct virtqueue_chain *chain)
{
    free(chain->iov);
    free(chain->segments);
    free(chain->borrowed);
    *chain = (struct virtqueue_chain){0};
}
