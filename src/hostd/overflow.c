#include "hostd/overflow.h"

#include <stdlib.h>
#include <string.h>

/* Where the frame is, or would be. */
static size_t place_of(const struct overflow *overflow, uint32_t frame)
{
    size_t low = 0, high = overflow->length;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (overflow->counts[middle].frame < frame)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

enum status overflow_add(struct overflow *overflow, uint32_t frame, uint64_t count)
{
    if (overflow->length == overflow->room) {
        size_t room = overflow->room == 0 ? 4 : 2 * overflow->room;
        struct overflow_count *longer = realloc(overflow->counts, room * sizeof *longer);
        if (longer == NULL)
            return STATUS_NO_MEMORY;
        overflow->counts = longer;
        overflow->room = room;
    }
    size_t place = place_of(overflow, frame);
    memmove(&overflow->counts[place + 1], &overflow->counts[place],
            (overflow->length - place) * sizeof *overflow->counts);
    overflow->counts[place] = (struct overflow_count){.frame = frame, .count = count};
    overflow->length++;
    return STATUS_OK;
}

uint64_t *overflow_find(const struct overflow *overflow, uint32_t frame)
{
    return &overflow->counts[place_of(overflow, frame)].count;
}

void overflow_remove(struct overflow *overflow, uint32_t frame)
{
    size_t place = place_of(overflow, frame);
    overflow->length--;
    memmove(&overflow->counts[place], &overflow->counts[place + 1],
            (overflow->length - place) * sizeof *overflow->counts);
    if (overflow->length == 0)
        overflow_free(overflow);
}

void overflow_free(struct overflow *overflow)
{
    free(overflow->counts);
    *overflow = (struct overflow){0};
}
