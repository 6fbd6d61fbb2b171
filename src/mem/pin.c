/*
 * Pins: ranges of guest memory lent to a device for a transfer.
 *
 * A pinned page is private, even one that is only read: a device that went on reading the common
 * zero page would miss what the guest writes later. Private pages lie in layer 0 in the order of
 * their PPNs, so a pinned range is always one piece.
 */

#include "mem/pmap_private.h"

static void unpin_pages(struct pmap *map, uint64_t first, uint64_t end)
{
    for (uint64_t ppn = first; ppn < end; ppn++)
        page_unpin(map, ppn);
}

enum status pmap_pin(struct pmap *map, uint64_t gpa, uint64_t length, enum pmap_pin_use use,
                     struct iovec *iov, unsigned *count, unsigned capacity)
{
    if (!pmap_covers(map, gpa, length))
        return STATUS_INVALID;
    if (length == 0)
        return STATUS_OK;
    if (*count >= capacity)
        return STATUS_NO_SPACE;

    uint64_t first = gpa >> PAGE_SHIFT, end = ((gpa + length - 1) >> PAGE_SHIFT) + 1;
    for (uint64_t ppn = first; ppn < end; ppn++) {
        bool is_whole = ppn << PAGE_SHIFT >= gpa && ((ppn + 1) << PAGE_SHIFT) - gpa <= length;
        enum page_bytes bytes = use == PIN_OVERWRITE && is_whole ? BYTES_USELESS : BYTES_KEPT;
        if (use == PIN_READ && is_whole && pmap_is_away(map, ppn))
            count_event(&map->double_paging_seen, 1);
        enum status status = page_pin(map, ppn, bytes, NULL);
        if (status != STATUS_OK) {
            unpin_pages(map, first, ppn);
            return status;
        }
        if (use != PIN_READ) {
            page_spoil(map, ppn);
            page_drop_code(map, ppn);
        }
    }
    iov[*count] = (struct iovec){.iov_base = map->ram.base + gpa, .iov_len = length};
    ++*count;
    return STATUS_OK;
}

void pmap_unpin(struct pmap *map, uint64_t gpa, uint64_t length, bool written)
{
    if (length == 0 || !pmap_covers(map, gpa, length))
        return;
    uint64_t first = gpa >> PAGE_SHIFT, end = ((gpa + length - 1) >> PAGE_SHIFT) + 1;
    if (written) {
        /* Before the pin goes: code decoded while the device was writing may be half old. */
        for (uint64_t ppn = first; ppn < end; ppn++)
            page_drop_code(map, ppn);
    }
    unpin_pages(map, first, end);
}
