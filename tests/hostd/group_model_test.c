/*
 * Random histories of many VMs in one group, against a plain model of each: what its pages have,
 * and which frames it holds. VMs offer, write, drop, lie about hashes, do not read, die and come;
 * the manager dies and takes over. Whatever happens, a frame that a VM holds has the bytes that
 * were compared when it was taken, counts are exactly what is held, and in the end nothing is left.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hostd/group.h"
#include "util/xorshift.h"

#define VMS      6u
#define PAGES    96u
#define CONTENTS 24u /* different ones; 0 is a page of zeros */
#define INBOX    4096u
#define STEPS    30000u

struct vm {
    struct sharer sharer;
    bool lives, reads;
    int ram;
    unsigned content[PAGES];
    uint32_t held[PAGES];         /* the frame that the VM has mapped, or 0 */
    struct link_ref inbox[INBOX]; /* ATTACHes that it has not looked at */
    unsigned inbox_count;
};

static struct vm vms[VMS];
static struct group *group;
static int reader; /* the pool, as VMs have it */
static struct stat pool_info;
static uint64_t random_state;
static unsigned shares_seen, restarts_seen, refusals_seen;

static unsigned below(unsigned n)
{
    /* The high half is the better one of the product. */
    return (unsigned)(xorshift_next(&random_state) * 0x2545f4914f6cdd1du >> 33) % n;
}

static const uint8_t *page_of(unsigned content)
{
    static uint8_t page[PAGE_SIZE];
    memset(page, (int)content, sizeof page);
    return page;
}

static bool vm_send(void *context, const struct link_ref *refs, uint32_t count)
{
    struct vm *vm = context;
    if (!vm->reads || vm->inbox_count + count > INBOX) {
        refusals_seen++;
        return false;
    }
    memcpy(&vm->inbox[vm->inbox_count], refs, count * sizeof *refs);
    vm->inbox_count += count;
    return true;
}

static void vm_join(struct vm *vm)
{
    struct error err;
    vm->sharer = (struct sharer){.ram = vm->ram, .send = vm_send, .context = vm};
    assert_int_equal(group_join(group, &vm->sharer, PAGES, &err), STATUS_OK);
}

static void vm_write(struct vm *vm, unsigned ppn, unsigned content)
{
    vm->content[ppn] = content;
    assert_int_equal(pwrite(vm->ram, page_of(content), PAGE_SIZE, (off_t)(ppn * PAGE_SIZE)),
                     PAGE_SIZE);
}

static void vm_start(struct vm *vm)
{
    *vm = (struct vm){.lives = true, .reads = true, .ram = memfd_create("ram", MFD_CLOEXEC)};
    assert_int_equal(ftruncate(vm->ram, PAGES * PAGE_SIZE), 0);
    for (unsigned ppn = 0; ppn < PAGES; ppn++)
        vm_write(vm, ppn, below(CONTENTS));
    vm_join(vm);
}

static void vm_end(struct vm *vm)
{
    group_leave(&vm->sharer);
    close(vm->ram);
    vm->lives = false;
}

static void vm_drop(struct vm *vm, struct link_ref ref)
{
    struct error err;
    if (group_drop(&vm->sharer, ref, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static void must_have(uint32_t frame, unsigned content)
{
    uint8_t bytes[PAGE_SIZE];
    assert_int_equal(pread(reader, bytes, sizeof bytes, (off_t)(frame * PAGE_SIZE)), PAGE_SIZE);
    assert_memory_equal(bytes, page_of(content), PAGE_SIZE);
}

/* Looks at the oldest ATTACHes, as a VM does. */
static void vm_read(struct vm *vm, unsigned count)
{
    for (unsigned i = 0; i < count && i < vm->inbox_count; i++) {
        struct link_ref ref = vm->inbox[i];
        uint8_t bytes[PAGE_SIZE];
        assert_int_equal(vm->held[ref.ppn], 0);
        assert_int_equal(pread(reader, bytes, sizeof bytes, (off_t)(ref.frame * PAGE_SIZE)),
                         PAGE_SIZE);
        if (below(8) != 0 && memcmp(bytes, page_of(vm->content[ref.ppn]), PAGE_SIZE) == 0) {
            vm->held[ref.ppn] = ref.frame;
            fallocate(vm->ram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(ref.ppn * PAGE_SIZE), (off_t)PAGE_SIZE);
            shares_seen++;
        } else {
            vm_drop(vm, ref);
        }
    }
    unsigned read = count < vm->inbox_count ? count : vm->inbox_count;
    vm->inbox_count -= read;
    memmove(vm->inbox, vm->inbox + read, vm->inbox_count * sizeof vm->inbox[0]);
}

static void vm_offer(struct vm *vm, bool lies)
{
    struct error err;
    for (unsigned n = 1 + below(8); n > 0; n--) {
        unsigned ppn = below(PAGES);
        unsigned content = lies ? below(CONTENTS) : vm->content[ppn];
        struct link_offer offer = {
            .ppn = ppn,
            .hash = XXH3_64bits_withSeed(page_of(content), PAGE_SIZE, group->key),
        };
        if (vm->held[ppn] == 0 && (content != 0 || lies))
            assert_int_equal(group_offer(&vm->sharer, &offer, &err), STATUS_OK);
    }
    group_flush(group);
}

/* The guest writes: a copy, if the page is shared. */
static void vm_change(struct vm *vm)
{
    unsigned ppn = below(PAGES);
    if (vm->held[ppn] != 0) {
        must_have(vm->held[ppn], vm->content[ppn]);
        vm_drop(vm, (struct link_ref){ppn, vm->held[ppn]});
        vm->held[ppn] = 0;
    }
    vm_write(vm, ppn, below(CONTENTS));
}

/* All of it is a breach, and changes nothing. */
static void vm_misbehave(struct vm *vm)
{
    struct error err;
    unsigned ppn = below(PAGES);
    uint32_t frame = below(100);
    share_ref has = mirror_get(&vm->sharer.mirror, ppn);
    if (!share_is_frame(has) || has != frame)
        assert_int_equal(group_drop(&vm->sharer, (struct link_ref){ppn, frame}, &err),
                         STATUS_INVALID);
    if (!share_is_frame(has)) /* what it has instead, by its name in the table */
        assert_int_equal(group_drop(&vm->sharer, (struct link_ref){ppn, has}, &err),
                         STATUS_INVALID);
    assert_int_equal(group_drop(&vm->sharer, (struct link_ref){PAGES + below(9), 1}, &err),
                     STATUS_INVALID);
    struct link_offer offer = {.ppn = PAGES + below(1000), .hash = 7};
    assert_int_equal(group_offer(&vm->sharer, &offer, &err), STATUS_INVALID);
    assert_int_equal(group_hold(&vm->sharer, (struct link_ref){ppn, 1u << 23}, &err),
                     STATUS_INVALID);
}

/* The manager is killed: all that it knew is gone, and what was on its way comes or does not. */
static void restart(void)
{
    struct group *old = group;
    struct error err;
    for (unsigned i = 0; i < VMS; i++) {
        if (vms[i].lives && below(2) == 0)
            vms[i].inbox_count = 0; /* lost */
        else if (vms[i].lives)
            for (; vms[i].inbox_count > 0; vms[i].inbox_count--) { /* read, with nobody to answer */
                struct link_ref ref = vms[i].inbox[vms[i].inbox_count - 1];
                uint8_t bytes[PAGE_SIZE];
                assert_int_equal(pread(reader, bytes, sizeof bytes, (off_t)(ref.frame * PAGE_SIZE)),
                                 PAGE_SIZE);
                if (memcmp(bytes, page_of(vms[i].content[ref.ppn]), PAGE_SIZE) == 0)
                    vms[i].held[ref.ppn] = ref.frame;
            }
    }
    assert_int_equal(
        group_restore(&group, old->key, reader, pool_info.st_dev, pool_info.st_ino, &err),
        STATUS_OK);
    for (unsigned i = 0; i < VMS; i++)
        group->unsettled += vms[i].lives;
    for (unsigned i = 0; i < VMS; i++) {
        struct vm *vm = &vms[i];
        if (!vm->lives)
            continue;
        /* those that are there already go on meanwhile */
        for (unsigned j = 0; j < i; j++) {
            if (vms[j].lives) {
                vm_offer(&vms[j], false);
                vm_change(&vms[j]);
                vm_read(&vms[j], below(20));
            }
        }
        if (below(10) == 0) { /* has ended meanwhile */
            close(vm->ram);
            vm->lives = false;
        } else {
            vm_join(vm);
            for (unsigned ppn = 0; ppn < PAGES; ppn++) {
                if (vm->held[ppn] != 0)
                    assert_int_equal(
                        group_hold(&vm->sharer, (struct link_ref){ppn, vm->held[ppn]}, &err),
                        STATUS_OK);
            }
        }
        group_settle(group);
    }
    /* the one that died never comes back: only its descriptors go */
    pool_close(&old->pool);
    share_table_free(&old->table);
    free(old->members);
    free(old);
    restarts_seen++;
}

static void check_all(void)
{
    group_check(group);
    for (unsigned i = 0; i < VMS; i++) {
        for (unsigned ppn = 0; vms[i].lives && ppn < PAGES; ppn++) {
            if (vms[i].held[ppn] != 0) {
                must_have(vms[i].held[ppn], vms[i].content[ppn]);
                assert_int_equal(mirror_get(&vms[i].sharer.mirror, ppn), vms[i].held[ppn]);
            }
        }
    }
}

static void forget_old_mirrors(struct group *old)
{
    for (uint32_t id = 0; id < old->member_room; id++) {
        if (old->members[id] != NULL)
            mirror_free(&old->members[id]->mirror);
    }
}

static void step(void)
{
    struct vm *vm = &vms[below(VMS)];
    unsigned what = below(1000);
    if (what == 0) {
        forget_old_mirrors(group);
        restart();
        return;
    }
    if (!vm->lives) {
        if (what < 100)
            vm_start(vm);
        return;
    }
    if (what < 4)
        vm_end(vm);
    else if (what < 20)
        vm->reads = !vm->reads;
    else if (what < 300)
        vm_change(vm);
    else if (what < 500)
        vm_read(vm, 1 + below(40));
    else if (what < 560)
        vm_misbehave(vm);
    else if (what < 600)
        group_tidy(group);
    else if (what < 605)
        group_forget_hints(&vm->sharer);
    else
        vm_offer(vm, what < 660);
}

static void history(uint64_t seed)
{
    struct error err;
    random_state = seed;
    shares_seen = restarts_seen = refusals_seen = 0;
    assert_int_equal(group_create(&group, 0, &err), STATUS_OK);
    assert_int_equal(pool_reader(&group->pool, &reader, &err), STATUS_OK);
    assert_int_equal(fstat(reader, &pool_info), 0);
    memset(vms, 0, sizeof vms);
    for (unsigned i = 0; i < STEPS; i++) {
        step();
        if (i % 64 == 0)
            check_all();
    }
    check_all();
    assert_true(shares_seen > 1000 && restarts_seen > 3 && refusals_seen > 20);
    for (unsigned i = 0; i < VMS; i++) {
        if (vms[i].lives)
            vm_end(&vms[i]);
    }
    group_tidy(group);
    group_check(group);
    assert_int_equal(group->table.frame_count, 0);
    assert_int_equal(group->table.hint_count, 0);
    assert_int_equal(pool_used(&group->pool), 0);
    assert_int_equal(lseek(reader, 0, SEEK_DATA), -1);
    assert_true(group_metadata(group) <= 2 * PAGE_SIZE);
    group_destroy(group);
    close(reader);
}

static void test_histories(void **state)
{
    const char *seed = getenv("AEROSTAT_TEST_SEED");
    uint64_t first = seed == NULL ? 1 : strtoull(seed, NULL, 10);
    for (uint64_t i = 0; i < 4; i++) {
        print_message("seed %llu\n", (unsigned long long)(first + i));
        history((first + i) * 0x9e3779b97f4a7c15u);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_histories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
