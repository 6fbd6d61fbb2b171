/*
 * Random operations on the page map against a model that is nothing but arrays: bytes, which pages
 * are private, how often each is pinned, where code is marked. Fixed seeds; pmap_check at
 * intervals.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/pmap.h"

#define SPAN_PAGES 48u
#define SPAN       (SPAN_PAGES * PAGE_SIZE)
#define PINS_MAX   16u

static const struct ram_range layout[] = {
    {0, 16 * KIB}, {32 * KIB, 64 * KIB}, {96 * KIB, 32 * KIB}, {160 * KIB, 32 * KIB}};

struct pin {
    uint64_t gpa, length;
    struct iovec iov;
};

struct model {
    uint8_t bytes[SPAN];
    bool ram[SPAN_PAGES], private[SPAN_PAGES], lent[SPAN_PAGES], code[SPAN_PAGES];
    struct pin pins[PINS_MAX];
    unsigned pin_count;
    uint64_t pinned_pages, faults, revocations;
};

static uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static bool model_covers(const struct model *model, uint64_t gpa, uint64_t length)
{
    if (length != 0 && (gpa >= SPAN || length > SPAN - gpa))
        return false;
    for (uint64_t at = gpa; at < gpa + length; at++) {
        if (!model->ram[at / PAGE_SIZE])
            return false;
    }
    return true;
}

static void model_make_private(struct model *model, uint64_t ppn)
{
    if (model->private[ppn])
        return;
    model->faults++;
    model->revocations += model->lent[ppn];
    model->private[ppn] = true;
    model->lent[ppn] = false;
}

static void model_drop_code(struct model *model, uint64_t ppn)
{
    model->revocations += model->code[ppn];
    model->code[ppn] = false;
}

static void on_revoke(void *context, const uint64_t *ppns, unsigned count)
{
    ++*(uint64_t *)context;
    for (unsigned i = 0; i < count; i++)
        assert_true(ppns[i] < SPAN_PAGES);
}

static void random_range(uint64_t *seed, uint64_t *gpa, uint64_t *length)
{
    *gpa = random_next(seed) % (SPAN + 2 * PAGE_SIZE);
    *length = random_next(seed) % (random_next(seed) % 4 == 0 ? 5 * PAGE_SIZE : 64);
    if (random_next(seed) % 4 == 0)
        *gpa &= ~PAGE_MASK;
    if (random_next(seed) % 64 == 0)
        *gpa = -(random_next(seed) % 64);
}

static void step_copy(struct pmap *map, struct model *model, uint64_t *seed)
{
    static uint8_t buffer[5 * 4096];
    uint64_t gpa, length;
    random_range(seed, &gpa, &length);
    bool covered = model_covers(model, gpa, length), write = random_next(seed) % 2;
    for (size_t i = 0; i < length; i++)
        buffer[i] = (uint8_t)random_next(seed);
    enum status status =
        write ? pmap_write(map, gpa, buffer, length) : pmap_read(map, gpa, buffer, length);
    assert_int_equal(status, covered ? STATUS_OK : STATUS_INVALID);
    if (!covered || length == 0)
        return;
    if (!write) {
        assert_memory_equal(buffer, model->bytes + gpa, length);
        return;
    }
    memcpy(model->bytes + gpa, buffer, length);
    for (uint64_t ppn = gpa / PAGE_SIZE; ppn <= (gpa + length - 1) / PAGE_SIZE; ppn++) {
        model_make_private(model, ppn);
        model_drop_code(model, ppn);
    }
}

static void step_pin(struct pmap *map, struct model *model, uint64_t *seed)
{
    uint64_t gpa, length;
    random_range(seed, &gpa, &length);
    if (model->pin_count == PINS_MAX || length == 0)
        return;
    struct pin *pin = &model->pins[model->pin_count];
    unsigned count = 0;
    bool write = random_next(seed) % 2, covered = model_covers(model, gpa, length);
    enum status status =
        pmap_pin(map, gpa, length, write ? PIN_WRITE : PIN_READ, &pin->iov, &count, 1);
    assert_int_equal(status, covered ? STATUS_OK : STATUS_INVALID);
    assert_int_equal(count, covered);
    if (!covered)
        return;
    for (uint64_t ppn = gpa / PAGE_SIZE; ppn <= (gpa + length - 1) / PAGE_SIZE; ppn++) {
        model_make_private(model, ppn);
        if (write)
            model_drop_code(model, ppn);
        model->pinned_pages++;
    }
    pin->gpa = gpa;
    pin->length = length;
    model->pin_count++;
    assert_int_equal(pin->iov.iov_len, length);
    assert_memory_equal(pin->iov.iov_base, model->bytes + gpa, length);
}

static void step_unpin(struct pmap *map, struct model *model, uint64_t *seed)
{
    if (model->pin_count == 0)
        return;
    unsigned at = (unsigned)(random_next(seed) % model->pin_count);
    struct pin pin = model->pins[at];
    model->pins[at] = model->pins[--model->pin_count];
    /* The piece has stayed good all the time. */
    assert_memory_equal(pin.iov.iov_base, model->bytes + pin.gpa, pin.length);
    bool written = random_next(seed) % 2;
    if (written) {
        memset(pin.iov.iov_base, (int)(*seed & 0xff), pin.length);
        memset(model->bytes + pin.gpa, (int)(*seed & 0xff), pin.length);
    }
    pmap_unpin(map, pin.gpa, pin.length, written);
    for (uint64_t ppn = pin.gpa / PAGE_SIZE; ppn <= (pin.gpa + pin.length - 1) / PAGE_SIZE; ppn++) {
        if (written)
            model_drop_code(model, ppn);
        model->pinned_pages--;
    }
}

static void step_page(struct pmap *map, struct model *model, uint64_t *seed)
{
    uint64_t ppn = random_next(seed) % (SPAN_PAGES + 2);
    bool ram = ppn < SPAN_PAGES && model->ram[ppn], writable = false;
    switch (random_next(seed) % 5) {
    case 0: {
        const uint8_t *page = pmap_page_read(map, ppn, &writable);
        assert_int_equal(page != NULL, ram);
        if (page == NULL)
            break;
        assert_int_equal(writable, model->private[ppn] && !model->code[ppn]);
        assert_memory_equal(page, model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
        model->lent[ppn] = !model->private[ppn];
        break;
    }
    case 1: {
        uint8_t *page = pmap_page_write(map, ppn);
        assert_int_equal(page != NULL, ram);
        if (page == NULL)
            break;
        model_make_private(model, ppn);
        page[ppn] = model->bytes[ppn * PAGE_SIZE + ppn] = (uint8_t)*seed;
        break;
    }
    case 2: {
        const uint8_t *page = pmap_page_claim(map, ppn, &writable);
        assert_int_equal(page != NULL, ram);
        if (page == NULL)
            break;
        if (!model->lent[ppn])
            model_make_private(model, ppn);
        assert_int_equal(writable, model->private[ppn] && !model->code[ppn]);
        assert_memory_equal(page, model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
        break;
    }
    case 3:
        assert_int_equal(pmap_code_mark(map, ppn), ram && !model->code[ppn]);
        pmap_code_guard(map, ppn);
        if (ram)
            model->code[ppn] = true;
        break;
    default:
        pmap_code_clear(map, ppn);
        if (ram)
            model->code[ppn] = false;
        break;
    }
}

static void compare(struct pmap *map, const struct model *model, uint64_t revocations)
{
    struct error err = {0};
    if (pmap_check(map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    uint64_t pages = 0, private_pages = 0;
    for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
        pages += model->ram[ppn];
        private_pages += model->private[ppn];
        enum page_state state = model->private[ppn] ? PAGE_PRIVATE
                                : model->ram[ppn]   ? PAGE_ZERO
                                                    : PAGE_NONE;
        assert_int_equal(pmap_state(map, ppn), state);
        assert_int_equal(pmap_has_code(map, ppn), model->code[ppn]);
    }
    assert_int_equal(stats.max_pages, pages);
    assert_int_equal(stats.private_pages, private_pages);
    assert_int_equal(stats.zero_pages, pages - private_pages);
    assert_int_equal(stats.pinned_pages, model->pinned_pages);
    assert_int_equal(stats.faults_zero, model->faults);
    assert_int_equal(stats.revocations, model->revocations);
    assert_int_equal(revocations, model->revocations);
}

static void run(uint64_t seed)
{
    struct pmap *map = NULL;
    struct error err = {0};
    uint64_t revocations = 0;
    struct model *model = calloc(1, sizeof(*model));
    assert_non_null(model);
    assert_int_equal(pmap_create(&map, layout, ARRAY_LENGTH(layout), &err), STATUS_OK);
    pmap_set_revoke_hook(map, on_revoke, &revocations);
    for (size_t i = 0; i < ARRAY_LENGTH(layout); i++) {
        for (uint64_t at = 0; at < layout[i].size; at += PAGE_SIZE)
            model->ram[(layout[i].base + at) / PAGE_SIZE] = true;
    }

    for (unsigned i = 0; i < 3000; i++) {
        switch (random_next(&seed) % 8) {
        case 0:
        case 1:
            step_copy(map, model, &seed);
            break;
        case 2:
            step_pin(map, model, &seed);
            break;
        case 3:
            step_unpin(map, model, &seed);
            break;
        default:
            step_page(map, model, &seed);
            break;
        }
        if (i % 64 == 0)
            compare(map, model, revocations);
    }
    while (model->pin_count != 0)
        step_unpin(map, model, &seed);
    compare(map, model, revocations);
    pmap_destroy(map);
    free(model);
}

static void test_model(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++)
        run(seed * 0x9e3779b97f4a7c15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
