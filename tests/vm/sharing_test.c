/* What the manager is told of references, to the last word; and what it may send. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/xorshift.h"
#include "vm/sharing.h"

#define PAGES  64u
#define FRAMES 32u
#define SEALS  (F_SEAL_SHRINK | F_SEAL_GROW)

static const struct ram_range ram = {0, PAGES *PAGE_SIZE};

struct scene {
    struct pmap *map;
    struct sharing *sharing;
    uint8_t *pool; /* as the manager has it */
    unsigned told; /* times that there was news */
};

static void on_drop(void *context)
{
    ((struct scene *)context)->told++;
}

static int pool_file(int seals, uint64_t bytes)
{
    int fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Another pool, whose frames are all as page n is: filled with n. */
static enum status new_pool(struct scene *scene)
{
    struct error err;
    int fd = pool_file(SEALS, FRAMES * PAGE_SIZE);
    uint8_t *pool = mmap(NULL, FRAMES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(pool != MAP_FAILED);
    for (unsigned i = 0; i < FRAMES; i++)
        memset(pool + i * PAGE_SIZE, (int)i, PAGE_SIZE);
    assert_int_equal(sharing_pool_check(fd, FRAMES * PAGE_SIZE, &err), STATUS_OK);
    enum status status =
        sharing_set_pool(scene->sharing, scene->map, fd, FRAMES * PAGE_SIZE, 7, &err);
    if (status == STATUS_OK) {
        assert_true(sharing_has_pool(scene->sharing, fd));
        if (scene->pool != NULL)
            munmap(scene->pool, FRAMES * PAGE_SIZE);
        scene->pool = pool;
    } else {
        munmap(pool, FRAMES * PAGE_SIZE);
        close(fd);
    }
    return status;
}

static void fill(struct scene *scene)
{
    for (unsigned ppn = 1; ppn < PAGES; ppn++) {
        uint8_t page[1 << PAGE_SHIFT];
        memset(page, (int)(ppn % FRAMES), PAGE_SIZE);
        assert_int_equal(pmap_write(scene->map, ppn * PAGE_SIZE, page, PAGE_SIZE), STATUS_OK);
    }
}

static int setup(void **state)
{
    static struct scene scene;
    scene = (struct scene){0};
    assert_int_equal(pmap_create(&scene.map, &ram, 1, NULL), STATUS_OK);
    assert_int_equal(sharing_create(&scene.sharing, PAGES, on_drop, &scene, NULL), STATUS_OK);
    sharing_join(scene.sharing, scene.map);
    assert_int_equal(new_pool(&scene), STATUS_OK);
    fill(&scene);
    *state = &scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    struct error err = {0};
    if (pmap_check(scene->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    sharing_leave(scene->sharing, scene->map);
    pmap_destroy(scene->map);
    sharing_destroy(scene->sharing);
    munmap(scene->pool, FRAMES * PAGE_SIZE);
    return 0;
}

static enum status attach(struct scene *scene, uint32_t ppn, uint32_t frame)
{
    struct link_ref ref = {ppn, frame};
    return sharing_attach(scene->sharing, scene->map, &ref, 1, NULL);
}

static void write_to(struct scene *scene, uint64_t ppn)
{
    assert_int_equal(pmap_write(scene->map, ppn * PAGE_SIZE, "x", 1), STATUS_OK);
}

/* The one reference that there is to be told. */
static void expect_drop(struct scene *scene, uint32_t ppn, uint32_t frame)
{
    struct link_ref refs[4];
    assert_int_equal(sharing_drops(scene->sharing, refs, 4), 1);
    assert_int_equal(refs[0].ppn, ppn);
    assert_int_equal(refs[0].frame, frame);
    sharing_told(scene->sharing, 1);
    assert_int_equal(sharing_drops(scene->sharing, refs, 4), 0);
}

static unsigned count_drops(struct scene *scene)
{
    struct link_ref refs[2 * PAGES];
    return sharing_drops(scene->sharing, refs, ARRAY_LENGTH(refs));
}

static void test_attach(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(attach(scene, 3, 3), STATUS_OK);
    assert_true(pmap_is_shared(scene->map, 3));
    assert_int_equal(count_drops(scene), 0);
    assert_int_equal(scene->told, 0);
    write_to(scene, 3);
    assert_int_equal(scene->told, 1);
    expect_drop(scene, 3, 3);

    assert_int_equal(attach(scene, 4, 5), STATUS_OK); /* not equal */
    expect_drop(scene, 4, 5);
    assert_int_equal(attach(scene, 0, 5), STATUS_OK); /* a zero page */
    expect_drop(scene, 0, 5);
    assert_int_equal(attach(scene, 6, 6), STATUS_OK);
    assert_int_equal(attach(scene, 6, 6), STATUS_OK); /* has one */
    expect_drop(scene, 6, 6);
    assert_true(pmap_is_shared(scene->map, 6));
    write_to(scene, 6);
    expect_drop(scene, 6, 6);
}

static void test_refused(void **state)
{
    struct scene *scene = *state;
    const struct link_ref wrong[] = {
        {PAGES, 1}, {UINT32_MAX, 1}, {1, 0}, {1, FRAMES}, {1, UINT32_MAX}};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        struct error err = {0};
        struct link_ref refs[] = {{2, 2}, wrong[i]};
        assert_int_equal(sharing_attach(scene->sharing, scene->map, refs, 2, &err), STATUS_INVALID);
        assert_true(err.text[0] != 0);
        assert_false(pmap_is_shared(scene->map, 2)); /* none of that message */
    }
    assert_int_equal(count_drops(scene), 0);
    /* A manager that never hears: what it can make us keep for it is bounded. */
    struct link_ref refs[LINK_PAGES];
    for (unsigned i = 0; i < LINK_PAGES; i++)
        refs[i] = (struct link_ref){1 + i % (PAGES - 1), 1 + i % (FRAMES - 1)};
    enum status status = STATUS_OK;
    for (unsigned i = 0; i < 8 && status == STATUS_OK; i++)
        status = sharing_attach(scene->sharing, scene->map, refs, LINK_PAGES, NULL);
    assert_int_equal(status, STATUS_INVALID);
    assert_true(count_drops(scene) <= LINK_PAGES + PAGES);
}

/* Many, in the ring, in their order. */
static void test_queue(void **state)
{
    struct scene *scene = *state;
    uint32_t told = 0, made = 0;
    for (unsigned i = 0; i < 3000; i++) {
        for (unsigned n = 0; n < 1 + i % 5 && made - told < PAGES; n++, made++)
            assert_int_equal(attach(scene, 0, 1 + made % (FRAMES - 1)), STATUS_OK);
        struct link_ref refs[4];
        unsigned count = sharing_drops(scene->sharing, refs, 1 + i % 4);
        for (unsigned n = 0; n < count; n++, told++)
            assert_int_equal(refs[n].frame, 1 + told % (FRAMES - 1));
        sharing_told(scene->sharing, count);
    }
    assert_int_equal(count_drops(scene), made - told);
}

/* A reference that ends is told to a new manager if it was listed to it, and only then. */
static void test_holds(void **state)
{
    struct scene *scene = *state;
    struct link_ref refs[PAGES];
    for (uint32_t ppn = 1; ppn <= 20; ppn++)
        assert_int_equal(attach(scene, ppn, ppn), STATUS_OK);
    write_to(scene, 20); /* told to the one before, if it lived */
    sharing_unlink(scene->sharing);
    write_to(scene, 19);
    assert_int_equal(count_drops(scene), 0);

    sharing_holds_begin(scene->sharing);
    write_to(scene, 18); /* not listed yet, will not be */
    assert_int_equal(sharing_holds(scene->sharing, refs, 10), 10);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(refs[i].ppn, i + 1);
        assert_int_equal(refs[i].frame, i + 1);
    }
    write_to(scene, 10); /* has just been */
    write_to(scene, 11); /* has not */
    write_to(scene, 1);
    assert_int_equal(sharing_holds(scene->sharing, refs, 10), 6);
    assert_int_equal(refs[0].ppn, 12);
    assert_int_equal(refs[5].ppn, 17);
    write_to(scene, 17);
    assert_int_equal(sharing_holds(scene->sharing, refs, 10), 0);
    write_to(scene, 12);
    assert_int_equal(sharing_drops(scene->sharing, refs, PAGES), 4);
    const uint32_t expected[] = {10, 1, 17, 12};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(refs[i].ppn, expected[i]);

    /* Once more, from the start. */
    sharing_holds_begin(scene->sharing);
    assert_int_equal(count_drops(scene), 0);
    assert_int_equal(sharing_holds(scene->sharing, refs, PAGES), 12);
}

/* Random histories, with links that end at any point; the manager's mirror is what it was told. */
struct mirror {
    uint32_t held[PAGES];
    bool is_up;
};

static void hear_drops(struct scene *scene, struct mirror *mirror, unsigned most)
{
    struct link_ref refs[PAGES];
    unsigned count = sharing_drops(scene->sharing, refs, most < PAGES ? most : PAGES);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(mirror->held[refs[i].ppn], refs[i].frame); /* else a breach */
        mirror->held[refs[i].ppn] = 0;
    }
    sharing_told(scene->sharing, count);
}

static uint64_t random_next(uint64_t *seed)
{
    return xorshift_next(seed) >> 8;
}

static void write_some(struct scene *scene, uint64_t *seed)
{
    for (uint64_t i = random_next(seed) % 6; i > 0; i--) {
        uint64_t ppn = random_next(seed) % PAGES;
        uint8_t page[1 << PAGE_SHIFT];
        memset(page, (int)(random_next(seed) % FRAMES), PAGE_SIZE);
        if (random_next(seed) % 8 == 0)
            pmap_release(scene->map, ppn, 1);
        else
            pmap_write(scene->map, ppn * PAGE_SIZE, page, PAGE_SIZE);
    }
}

static void relink(struct scene *scene, struct mirror *mirror, uint64_t *seed)
{
    struct link_ref refs[PAGES];
    unsigned count;
    sharing_unlink(scene->sharing);
    write_some(scene, seed);
    memset(mirror, 0, sizeof(*mirror));
    sharing_holds_begin(scene->sharing);
    do {
        count = sharing_holds(scene->sharing, refs, 1 + (unsigned)(random_next(seed) % 9));
        for (unsigned i = 0; i < count; i++)
            mirror->held[refs[i].ppn] = refs[i].frame;
        write_some(scene, seed);
        if (random_next(seed) % 40 == 0)
            return; /* it ends in the middle */
    } while (count != 0);
    mirror->is_up = true;
}

static void test_histories(void **state)
{
    struct scene *scene = *state;
    struct mirror mirror = {0};
    uint64_t seed = 42;
    relink(scene, &mirror, &seed);
    for (unsigned turn = 0; turn < 20000; turn++) {
        if (!mirror.is_up || random_next(&seed) % 50 == 0) {
            relink(scene, &mirror, &seed);
            continue;
        }
        struct link_ref refs[8];
        unsigned count = 0;
        for (uint64_t i = random_next(&seed) % 9; i > 0; i--) {
            uint32_t ppn = (uint32_t)(random_next(&seed) % PAGES);
            if (mirror.held[ppn] != 0)
                continue;
            uint32_t frame = 1 + (uint32_t)(random_next(&seed) % (FRAMES - 1));
            uint8_t byte;
            pmap_read(scene->map, ppn * PAGE_SIZE, &byte, 1);
            if (byte != 0 && random_next(&seed) % 4 != 0)
                frame = byte;
            mirror.held[ppn] = frame;
            refs[count++] = (struct link_ref){ppn, frame};
        }
        assert_int_equal(sharing_attach(scene->sharing, scene->map, refs, count, NULL), STATUS_OK);
        write_some(scene, &seed);
        hear_drops(scene, &mirror, (unsigned)(random_next(&seed) % 12));
        if (turn % 16 != 0)
            continue;
        hear_drops(scene, &mirror, PAGES);
        for (uint64_t ppn = 0; ppn < PAGES; ppn++)
            assert_int_equal(mirror.held[ppn] != 0, pmap_is_shared(scene->map, ppn));
    }
    assert_int_equal(pmap_check(scene->map, NULL), STATUS_OK);
}

static void test_another_pool(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(attach(scene, 9, 9), STATUS_OK);
    assert_int_equal(new_pool(scene), STATUS_BUSY);
    uint64_t next = 0;
    assert_int_equal(page_unshare_some(scene->map, &next, PAGES), STATUS_OK);
    assert_int_equal(count_drops(scene), 1);
    assert_int_equal(new_pool(scene), STATUS_OK);
    assert_int_equal(count_drops(scene), 0); /* of the old one there is nothing to be told */
    assert_int_equal(attach(scene, 9, 9), STATUS_OK);
    assert_true(pmap_is_shared(scene->map, 9));
}

/* A guest's reset: the references go, the pool stays. */
static void test_another_machine(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(attach(scene, 9, 9), STATUS_OK);
    sharing_leave(scene->sharing, scene->map);
    pmap_destroy(scene->map);
    expect_drop(scene, 9, 9);
    assert_int_equal(pmap_create(&scene->map, &ram, 1, NULL), STATUS_OK);
    sharing_join(scene->sharing, scene->map);
    fill(scene);
    assert_int_equal(attach(scene, 9, 9), STATUS_OK);
    assert_true(pmap_is_shared(scene->map, 9));
}

static void test_pool_check(void **state)
{
    struct error err;
    (void)state;
    struct {
        int seals;
        uint64_t size, said;
        enum status status;
    } cases[] = {
        {SEALS, 8 * PAGE_SIZE, 8 * PAGE_SIZE, STATUS_OK},
        {F_SEAL_SHRINK, 9 * PAGE_SIZE, 8 * PAGE_SIZE, STATUS_OK},
        {F_SEAL_GROW, 8 * PAGE_SIZE, 8 * PAGE_SIZE, STATUS_INVALID}, /* its reader would fault */
        {SEALS, 8 * PAGE_SIZE, 9 * PAGE_SIZE, STATUS_INVALID},
        {SEALS, 8 * PAGE_SIZE, 8 * PAGE_SIZE - 1, STATUS_INVALID},
        {SEALS, 8 * PAGE_SIZE, PAGE_SIZE, STATUS_INVALID},
        {SEALS, 8 * PAGE_SIZE, 0, STATUS_INVALID},
        {SEALS, 8 * PAGE_SIZE, UINT64_MAX & ~PAGE_MASK, STATUS_INVALID},
        {SEALS, (LINK_FRAMES_MOST + 1) * PAGE_SIZE, (LINK_FRAMES_MOST + 1) * PAGE_SIZE,
         STATUS_INVALID},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        int fd = pool_file(cases[i].seals, cases[i].size);
        assert_int_equal(sharing_pool_check(fd, cases[i].said, &err), cases[i].status);
        close(fd);
    }
    int fd = open("/dev/null", O_RDONLY);
    assert_int_equal(sharing_pool_check(fd, 8 * PAGE_SIZE, &err), STATUS_INVALID);
    close(fd);
}

static void test_saved(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(sharing_saved(scene->sharing), 0);
    assert_int_equal(attach(scene, 1, 1), STATUS_OK);
    assert_int_equal(attach(scene, 2, 2), STATUS_OK);
    assert_int_equal(sharing_saved(scene->sharing), 0);
    assert_int_equal(attach(scene, 1 + FRAMES, 1), STATUS_OK);
    assert_int_equal(sharing_saved(scene->sharing), 1);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_histories),       CASE(test_attach), CASE(test_refused),
        CASE(test_queue),           CASE(test_holds),  CASE(test_another_pool),
        CASE(test_another_machine), CASE(test_saved),  cmocka_unit_test(test_pool_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
