/*
 * One VM's side of a link, message by message: whatever it sends, the manager goes on, its counts
 * are what its mirrors have, and nothing is left when the VM has ended. A second VM of the group
 * holds a page all the time, which nothing may take from it.
 *
 * Input: messages, each with a length of two bytes before it; the third byte says how many
 * descriptors come along (bits 0 and 1), and what the second one is (bit 2: the pool, else RAM).
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hostd/manager.h"
#include "util/bits.h"
#include "util/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGES  64u
#define KEY    0x1122334455667788u
#define NAME   "fuzz"
#define GROUP  "g"
#define SHARED 7u /* the content of the page that the other VM holds */

static struct manager manager;
static int ram, other_ram;

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void fill(int fd)
{
    uint8_t page[PAGE_SIZE];
    must(ftruncate(fd, PAGES * PAGE_SIZE) == 0);
    for (unsigned ppn = 0; ppn < PAGES; ppn++) {
        memset(page, (int)(ppn % 16), sizeof page);
        must(pwrite(fd, page, sizeof page, (off_t)(ppn * PAGE_SIZE)) == (ssize_t)PAGE_SIZE);
    }
}

static void begin(void)
{
    struct error err;
    if (manager.loop != NULL)
        return;
    log_set_level(LOG_ERROR);
    manager.folder.fd = -1; /* no state is written */
    manager.watch = -1;
    TAILQ_INIT(&manager.vms);
    TAILQ_INIT(&manager.groups);
    TAILQ_INIT(&manager.reservations);
    policy_host_init(&manager.host, GIB);
    must(io_loop_create(&manager.loop, "fuzz", &err) == STATUS_OK);
    must(io_timer_create(&manager.step_timer, manager.loop, NULL, NULL, &err) == STATUS_OK);
    must(io_timer_create(&manager.pace_timer, manager.loop, NULL, NULL, &err) == STATUS_OK);
    ram = memfd_create("ram", MFD_CLOEXEC);
    other_ram = memfd_create("other", MFD_CLOEXEC);
    fill(ram);
    fill(other_ram);
}

static bool no_send(void *context, const struct link_ref *refs, uint32_t count)
{
    return true;
}

/* The other VM, as one that is there already: two of its pages are shared. */
static struct group_record *other_begin(struct sharer *other)
{
    struct error err;
    uint8_t page[PAGE_SIZE];
    struct group_record *record = registry_group(&manager, GROUP);
    must(group_create(&record->group, KEY, &err) == STATUS_OK);
    record->facts.key = KEY;
    record->facts.device = record->group->pool.device;
    record->facts.inode = record->group->pool.inode;
    record->vms++;
    *other = (struct sharer){.ram = other_ram, .send = no_send};
    must(group_join(record->group, other, PAGES, &err) == STATUS_OK);
    memset(page, SHARED, sizeof page);
    struct link_offer offer = {.hash = XXH3_64bits_withSeed(page, PAGE_SIZE, KEY), .ppn = SHARED};
    must(group_offer(other, &offer, &err) == STATUS_OK);
    offer.ppn += 16;
    must(group_offer(other, &offer, &err) == STATUS_OK);
    group_flush(record->group);
    must(other->mirror.frames == 2);
    return record;
}

static void feed(struct vm *vm, int end, int reader, const uint8_t *data, size_t size)
{
    static uint64_t message[LINK_MOST / 8 + 8];
    while (size >= 3 && vm->fd >= 0) {
        size_t length = data[0] | (size_t)data[1] << 8;
        unsigned flags = data[2];
        data += 3;
        size -= 3;
        if (length > size)
            length = size;
        if (length > sizeof message)
            length = sizeof message;
        memcpy(message, data, length);
        data += length;
        size -= length;
        int descriptors[2] = {ram, (flags & 4) != 0 ? reader : ram};
        unsigned count = (flags & 3) > 2 ? 2 : flags & 3;
        vm->tokens_at = 0; /* as much as it likes */
        link_send(end, message, length, descriptors, count, NULL);
        vm_link_read(vm);
        struct group_record *record;
        TAILQ_FOREACH(record, &manager.groups, entry)
        {
            if (record->group != NULL)
                group_check(record->group);
        }
        char drain[LINK_MOST];
        while (recv(end, drain, sizeof drain, MSG_DONTWAIT) > 0)
            continue;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sharer other;
    struct error err;
    int ends[2], reader;
    begin();
    struct group_record *record = other_begin(&other);
    must(pool_reader(&record->group->pool, &reader, &err) == STATUS_OK);
    struct vm *vm = registry_add(&manager, NAME, getpid());
    must(vm != NULL);
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    vm->fd = ends[0];
    must(vm_link_open(vm, &err) == STATUS_OK);
    feed(vm, ends[1], reader, data, size);
    must(other.mirror.frames == 2);
    must(share_count(&record->group->table, mirror_get(&other.mirror, SHARED)) >= 2);

    registry_end(vm);
    group_check(record->group);
    must(other.mirror.frames == 2 && record->group->table.hint_count == other.mirror.hints);
    group_leave(&other);
    group_tidy(record->group);
    must(record->group->table.frame_count == 0 && record->group->table.hint_count == 0);
    must(pool_used(&record->group->pool) == 0);
    record->vms = 0;
    registry_forget_empty(&manager);
    must(TAILQ_EMPTY(&manager.vms) && TAILQ_EMPTY(&manager.groups));
    close(ends[1]);
    close(reader);
    return 0;
}
