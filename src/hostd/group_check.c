/* The recount of a group, for tests: every reference that a mirror has is counted by its frame,
 * every hint knows its page, and nothing else is there. */

#include <stdlib.h>

#include "hostd/group.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

void group_check(const struct group *group)
{
    const struct share_table *table = &group->table;
    uint64_t *counts = calloc((size_t)table->frame_end + 1, sizeof *counts);
    uint64_t hints = 0, members = 0;
    must(counts != NULL);
    share_table_check(table);
    for (uint32_t id = 0; id < group->member_room; id++) {
        const struct sharer *sharer = group->members[id];
        if (sharer == NULL)
            continue;
        members++;
        uint64_t own_hints = 0, own_frames = 0;
        const struct mirror *mirror = &sharer->mirror;
        for (uint64_t ppn = 0; (ppn = mirror_next(mirror, ppn)) < mirror->span; ppn++) {
            share_ref ref = mirror_get(mirror, (uint32_t)ppn);
            if (share_is_hint(ref)) {
                struct share_page page = share_hint_page(table, ref);
                must((ref & ~SHARE_HINT) < table->hint_count);
                must(page.vm == id && page.ppn == ppn);
                own_hints++;
            } else {
                must(share_frame_exists(table, ref));
                counts[ref]++;
                own_frames++;
            }
        }
        must(own_hints == mirror->hints && own_frames == mirror->frames);
        hints += own_hints;
    }
    must(members == group->member_count && hints == table->hint_count);
    for (uint32_t frame = 1; frame < table->frame_end; frame++) {
        bool exists = share_frame_exists(table, frame);
        must(exists || counts[frame] == 0);
        must(!exists || counts[frame] == share_count(table, frame));
        must(!exists || counts[frame] != 0 || group->unsettled != 0);
    }
    free(counts);
}
