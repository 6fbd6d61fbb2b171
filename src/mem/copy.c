/* Copies between guest-physical memory and the host's. See pmap.h. */

#include <string.h>

#include "mem/pmap_private.h"

bool pmap_covers(const struct pmap *map, uint64_t gpa, uint64_t length)
{
    if (length == 0)
        return true;
    /* Ranges ascend, so one pass follows a range into its neighbour. Nothing here can wrap: gpa
     * never goes beyond the end of a range. */
    for (unsigned i = 0; i < map->range_count; i++) {
        const struct ram_range *range = &map->ranges[i];
        if (gpa - range->base >= range->size)
            continue;
        uint64_t room = range->size - (gpa - range->base);
        if (length <= room)
            return true;
        gpa += room;
        length -= room;
    }
    return false;
}

/* Bytes of [gpa, gpa + length) that lie in gpa's page. */
static uint64_t piece_length(uint64_t gpa, uint64_t length)
{
    uint64_t room = PAGE_SIZE - (gpa & PAGE_MASK);
    return length < room ? length : room;
}

enum status pmap_read(struct pmap *map, uint64_t gpa, void *buffer, uint64_t length)
{
    if (!pmap_covers(map, gpa, length))
        return STATUS_INVALID;
    uint8_t *to = buffer;
    while (length != 0) {
        uint64_t ppn = gpa >> PAGE_SHIFT, piece = piece_length(gpa, length);
        const uint8_t *bytes;
        enum status status = page_borrow(map, ppn, &bytes);
        if (status != STATUS_OK)
            return status;
        if (bytes != NULL) {
            memcpy(to, bytes + (gpa & PAGE_MASK), piece);
            page_give_back(map, ppn, bytes);
        } else {
            memset(to, 0, piece);
        }
        to += piece;
        gpa += piece;
        length -= piece;
    }
    return STATUS_OK;
}

enum status pmap_write(struct pmap *map, uint64_t gpa, const void *buffer, uint64_t length)
{
    if (!pmap_covers(map, gpa, length))
        return STATUS_INVALID;
    const uint8_t *from = buffer;
    while (length != 0) {
        uint64_t ppn = gpa >> PAGE_SHIFT, piece = piece_length(gpa, length);
        enum page_bytes bytes = piece == PAGE_SIZE ? BYTES_REPLACED : BYTES_KEPT;
        enum status status = page_pin(map, ppn, bytes, from);
        if (status != STATUS_OK)
            return status;
        page_spoil(map, ppn);
        memcpy(map->ram.base + gpa, from, piece);
        page_drop_code(map, ppn);
        page_unpin(map, ppn);
        from += piece;
        gpa += piece;
        length -= piece;
    }
    return STATUS_OK;
}
