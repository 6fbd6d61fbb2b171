#include "hostd/group.h"

#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "util/bits.h"

static uint64_t hash_page(const struct group *group, const void *page)
{
    return XXH3_64bits_withSeed(page, PAGE_SIZE, group->key);
}

static enum status key_choose(uint64_t *key, struct error *err)
{
    while (*key == 0) {
        if (getrandom(key, sizeof *key, 0) != (ssize_t)sizeof *key)
            return error_set(err, STATUS_IO, "no random numbers for a group's key");
    }
    return STATUS_OK;
}

/* Without a pool. */
static enum status group_begin(struct group **out, uint64_t key, struct error *err)
{
    struct group *group = calloc(1, sizeof *group);
    *out = group;
    if (group == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a group");
    group->pool.fd = -1;
    group->key = key;
    enum status status = key_choose(&group->key, err);
    if (status == STATUS_OK && share_table_init(&group->table) != STATUS_OK)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a group");
    return status;
}

static enum status frames_restore(struct group *group, struct error *err)
{
    static uint8_t page[PAGE_SIZE];
    for (uint32_t frame = 1; (frame = pool_next(&group->pool, frame)) < LINK_FRAMES_MOST; frame++) {
        enum status status = pool_read(&group->pool, frame, page);
        if (status == STATUS_OK)
            status = share_place_frame(&group->table, frame, hash_page(group, page));
        if (status != STATUS_OK && status != STATUS_INVALID)
            return error_set(err, status, "cannot take over the pool: %s", status_name(status));
    }
    return STATUS_OK;
}

enum status group_create(struct group **out, uint64_t key, struct error *err)
{
    struct group *group;
    enum status status = group_begin(&group, key, err);
    *out = NULL;
    if (group == NULL)
        return status;
    if (status == STATUS_OK)
        status = pool_create(&group->pool, err);
    if (status == STATUS_OK)
        *out = group;
    else
        group_destroy(group);
    return status;
}

enum status group_restore(struct group **out, uint64_t key, int pool_fd, dev_t device, ino_t inode,
                          struct error *err)
{
    struct group *group;
    enum status status = group_begin(&group, key, err);
    *out = NULL;
    if (group == NULL)
        return status;
    if (status == STATUS_OK)
        status = pool_reopen(&group->pool, pool_fd, device, inode, err);
    if (status == STATUS_OK)
        status = frames_restore(group, err);
    if (status == STATUS_OK)
        *out = group;
    else
        group_destroy(group);
    return status;
}

void group_destroy(struct group *group)
{
    if (group == NULL)
        return;
    pool_close(&group->pool);
    share_table_free(&group->table);
    free(group->members);
    free(group);
}

static void frame_end(struct group *group, uint32_t frame)
{
    share_remove_frame(&group->table, frame);
    pool_free(&group->pool, frame);
    if (group->pool.freed_count == POOL_FREED_MOST)
        group_tidy(group);
}

/* A frame that nobody holds is kept only for those who have not been heard yet. */
static void frame_settle(struct group *group, uint32_t frame)
{
    if (group->unsettled != 0 || share_count(&group->table, frame) != 0)
        return;
    frame_end(group, frame);
}

static void frame_release(struct group *group, uint32_t frame)
{
    group->changes++;
    if (share_release(&group->table, frame) == 0)
        frame_settle(group, frame);
}

void group_tidy(struct group *group)
{
    struct pool *pool = &group->pool;
    if (pool->freed_count == 0)
        return;
    pool_punch(pool);
    while (pool->freed_count != 0) /* the lowest is used first again */
        share_reuse_frame(&group->table, pool->freed[--pool->freed_count]);
    if (group->table.frame_count == 0)
        share_forget_frames(&group->table);
}

void group_settle(struct group *group)
{
    if (--group->unsettled != 0)
        return;
    for (uint32_t frame = 1; frame < group->table.frame_end; frame++) {
        if (share_frame_exists(&group->table, frame))
            frame_settle(group, frame);
    }
}

/* The page is no hint any more. The last hint gets this one's name. */
static void hint_remove(struct group *group, share_ref hint)
{
    struct share_page page = share_hint_page(&group->table, hint), moved;
    mirror_set(&group->members[page.vm]->mirror, page.ppn, SHARE_NONE);
    if (share_remove_hint(&group->table, hint, &moved))
        mirror_set(&group->members[moved.vm]->mirror, moved.ppn, hint);
}

static void ppn_forget(struct sharer *sharer, uint32_t ppn)
{
    share_ref ref = mirror_get(&sharer->mirror, ppn);
    if (share_is_hint(ref))
        hint_remove(sharer->group, ref);
    else if (ref != SHARE_NONE) {
        mirror_set(&sharer->mirror, ppn, SHARE_NONE);
        frame_release(sharer->group, ref);
    }
}

enum status group_join(struct group *group, struct sharer *sharer, uint64_t span, struct error *err)
{
    uint32_t id = 0;
    if (span == 0 || span > LINK_PPN_MOST)
        return error_set(err, STATUS_INVALID, "a VM with page numbers beyond what is possible");
    while (id < group->member_room && group->members[id] != NULL)
        id++;
    if (id == group->member_room) {
        uint32_t room = id == 0 ? 4 : 2 * id;
        struct sharer **longer = id >= GROUP_MEMBERS_MOST
                                     ? NULL
                                     : realloc(group->members, room * sizeof(struct sharer *));
        if (longer == NULL)
            return error_set(err, STATUS_NO_SPACE, "no room for one more VM in the group");
        for (uint32_t i = id; i < room; i++)
            longer[i] = NULL;
        group->members = longer;
        group->member_room = room;
    }
    if (mirror_init(&sharer->mirror, span) != STATUS_OK)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the mirror of a VM's pages");
    sharer->group = group;
    sharer->id = (uint16_t)id;
    sharer->pending_count = 0;
    sharer->hints_most = 0;
    group->members[id] = sharer;
    group->member_count++;
    return STATUS_OK;
}

void group_leave(struct sharer *sharer)
{
    struct group *group = sharer->group;
    const struct mirror *mirror = &sharer->mirror;
    if (group == NULL)
        return;
    for (uint64_t ppn = 0; (ppn = mirror_next(mirror, ppn)) < mirror->span; ppn++)
        ppn_forget(sharer, (uint32_t)ppn);
    mirror_free(&sharer->mirror);
    group->members[sharer->id] = NULL;
    group->member_count--;
    sharer->group = NULL;
}

void group_forget_hints(struct sharer *sharer)
{
    const struct mirror *mirror = &sharer->mirror;
    if (sharer->group == NULL)
        return;
    for (uint64_t ppn = 0; (ppn = mirror_next(mirror, ppn)) < mirror->span; ppn++) {
        share_ref ref = mirror_get(mirror, (uint32_t)ppn);
        if (share_is_hint(ref))
            hint_remove(sharer->group, ref);
    }
}

static enum status check_ppn(const struct sharer *sharer, uint32_t ppn, struct error *err)
{
    return ppn < sharer->mirror.span
               ? STATUS_OK
               : error_set(err, STATUS_INVALID, "page %u, which the VM does not have", ppn);
}

static enum status record(struct sharer *sharer, uint32_t ppn, uint32_t frame)
{
    struct group *group = sharer->group;
    if (share_hold(&group->table, frame) != STATUS_OK)
        return STATUS_NO_MEMORY;
    group->changes++;
    mirror_set(&sharer->mirror, ppn, frame);
    return STATUS_OK;
}

enum status group_hold(struct sharer *sharer, struct link_ref ref, struct error *err)
{
    enum status status = check_ppn(sharer, ref.ppn, err);
    if (status != STATUS_OK)
        return status;
    if (!share_frame_exists(&sharer->group->table, ref.frame))
        return error_set(err, STATUS_INVALID, "page %u is said to be in frame %u, which is none",
                         ref.ppn, ref.frame);
    if (mirror_get(&sharer->mirror, ref.ppn) != SHARE_NONE)
        return error_set(err, STATUS_INVALID, "page %u is said to be shared twice", ref.ppn);
    status = record(sharer, ref.ppn, ref.frame);
    return status == STATUS_OK ? status : error_set(err, status, "out of memory");
}

enum status group_drop(struct sharer *sharer, struct link_ref ref, struct error *err)
{
    enum status status = check_ppn(sharer, ref.ppn, err);
    if (status != STATUS_OK)
        return status;
    if (!share_is_frame(ref.frame) || mirror_get(&sharer->mirror, ref.ppn) != ref.frame)
        return error_set(err, STATUS_INVALID, "page %u gives back frame %u, which it does not hold",
                         ref.ppn, ref.frame);
    ppn_forget(sharer, ref.ppn);
    return STATUS_OK;
}

static void sharer_flush(struct sharer *sharer)
{
    uint32_t count = sharer->pending_count;
    sharer->pending_count = 0;
    if (count == 0)
        return;
    if (sharer->send(sharer->context, sharer->pending, count)) {
        sharer->attached += count;
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        ppn_forget(sharer, sharer->pending[i].ppn);
}

void group_flush(struct group *group)
{
    for (uint32_t id = 0; id < group->member_room; id++) {
        if (group->members[id] != NULL)
            sharer_flush(group->members[id]);
    }
}

/* The page is to hold the frame. */
static void attach(struct sharer *sharer, uint32_t ppn, uint32_t frame)
{
    if (record(sharer, ppn, frame) != STATUS_OK)
        return;
    sharer->pending[sharer->pending_count++] = (struct link_ref){.ppn = ppn, .frame = frame};
    if (sharer->pending_count == LINK_PAGES)
        sharer_flush(sharer);
}

/* The bytes of a hint's page, if they have the hash still. A hole reads as zeros, which have not;
 * nor has what cannot be read, by now or ever. */
static bool hint_copy(struct sharer *owner, uint32_t ppn, uint64_t hash, uint8_t page[PAGE_SIZE])
{
    return owner->ram >= 0 &&
           pread(owner->ram, page, PAGE_SIZE, (off_t)ppn * (off_t)PAGE_SIZE) ==
               (ssize_t)PAGE_SIZE &&
           hash_page(owner->group, page) == hash;
}

/* Makes a frame of those bytes for the two pages, which are no hints any more. */
static void share_two(struct group *group, uint64_t hash, const uint8_t page[PAGE_SIZE],
                      struct sharer *first, uint32_t first_ppn, struct sharer *second,
                      uint32_t second_ppn)
{
    uint32_t frame;
    if (share_add_frame(&group->table, hash, &frame) != STATUS_OK)
        return;
    if (pool_write(&group->pool, frame, page) != STATUS_OK) {
        frame_end(group, frame);
        return;
    }
    share_hold(&group->table, frame); /* for as long as this takes: whatever is not sent */
    attach(first, first_ppn, frame);
    attach(second, second_ppn, frame);
    frame_release(group, frame);
}

/* More hints than the VM has pages would be a flood of PPNs that have none. */
static bool may_have_hint(struct sharer *sharer)
{
    struct stat info;
    if (sharer->mirror.hints < sharer->hints_most)
        return true;
    if (sharer->ram < 0 || fstat(sharer->ram, &info) != 0)
        return false;
    sharer->hints_most = (uint64_t)info.st_blocks * 512 / PAGE_SIZE;
    return sharer->mirror.hints < sharer->hints_most;
}

enum status group_offer(struct sharer *sharer, const struct link_offer *offer, struct error *err)
{
    static uint8_t page[PAGE_SIZE]; /* there is one thread */
    struct group *group = sharer->group;
    struct share_table *table = &group->table;
    enum status status = check_ppn(sharer, offer->ppn, err);
    if (status != STATUS_OK)
        return status;
    share_ref own = mirror_get(&sharer->mirror, offer->ppn);
    if (share_is_frame(own))
        return STATUS_OK; /* its ATTACH is on its way */
    share_ref found = share_find(table, offer->hash);
    if (found != SHARE_NONE && found == own)
        return STATUS_OK; /* nothing new */
    if (own != SHARE_NONE) {
        hint_remove(group, own);
        if (share_is_hint(found)) /* may have got another name */
            found = share_find(table, offer->hash);
    }
    if (share_is_frame(found)) {
        attach(sharer, offer->ppn, found);
        return STATUS_OK;
    }
    if (share_is_hint(found)) {
        struct share_page other = share_hint_page(table, found);
        struct sharer *owner = group->members[other.vm];
        hint_remove(group, found);
        if (hint_copy(owner, other.ppn, offer->hash, page)) {
            share_two(group, offer->hash, page, owner, other.ppn, sharer, offer->ppn);
            return STATUS_OK;
        }
        owner->stale++;
    }
    if (may_have_hint(sharer) &&
        share_add_hint(table, offer->hash, (struct share_page){.ppn = offer->ppn, .vm = sharer->id},
                       &found) == STATUS_OK)
        mirror_set(&sharer->mirror, offer->ppn, found);
    return STATUS_OK;
}

void group_divide(struct group *group)
{
    group->divided = group->changes;
    for (uint32_t id = 0; id < group->member_room; id++) {
        struct sharer *sharer = group->members[id];
        double part = 0;
        for (uint64_t ppn = 0;
             sharer != NULL && (ppn = mirror_next(&sharer->mirror, ppn)) < sharer->mirror.span;
             ppn++) {
            share_ref ref = mirror_get(&sharer->mirror, (uint32_t)ppn);
            if (share_is_frame(ref))
                part += (double)PAGE_SIZE / (double)share_count(&group->table, ref);
        }
        if (sharer != NULL)
            sharer->part = (uint64_t)part;
    }
}

uint64_t group_metadata(const struct group *group)
{
    uint64_t bytes = share_table_bytes(&group->table);
    for (uint32_t id = 0; id < group->member_room; id++) {
        if (group->members[id] != NULL)
            bytes += mirror_bytes(&group->members[id]->mirror);
    }
    return bytes;
}
