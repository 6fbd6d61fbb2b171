/* What `aerostat plan` computes from a file. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/plan.h"
#include "util/bits.h"

#define VMS 9u

static const char text[] = "swap: {size: 2G}\n"
                           "defaults: {kernel: k, max: 192M, min: 8M, code_cache: 2M}\n"
                           "vms:\n"
                           "  a: {shares: 1000000}\n"
                           "  b: {count: 7}\n"
                           "  c: {max: 64M}\n";

static void open_plan(struct vm_file *file, struct plan *plan, uint64_t memory)
{
    struct error err = {0};
    assert_int_equal(vm_file_parse(file, "vms.yaml", text, strlen(text), &err), STATUS_OK);
    assert_int_equal(file->count, VMS);
    assert_int_equal(plan_make(plan, file, memory, &err), STATUS_OK);
}

static void test_uses(void **state)
{
    struct vm_file file;
    struct plan plan;
    struct error err = {0};
    uint64_t targets[PLAN_USES][VMS], sum = 0;
    open_plan(&file, &plan, 512 * MIB);
    assert_int_equal(plan_admit(&plan, &err), STATUS_OK);
    for (unsigned use = 0; use < PLAN_USES; use++)
        plan_divide(&plan, use, targets[use]);
    for (unsigned i = 0; i < VMS; i++) {
        for (unsigned use = 0; use < PLAN_USES; use++)
            assert_in_range(targets[use][i], file.vms[i].min, file.vms[i].max);
        assert_true(targets[PLAN_BUSY_ALONE][i] > targets[PLAN_ALL_BUSY][i]);
        assert_true(targets[PLAN_IDLE_ALONE][i] < targets[PLAN_ALL_BUSY][i]);
        sum += targets[PLAN_ALL_BUSY][i] + plan_overhead(&file.vms[i]);
    }
    assert_true(sum <= 512 * MIB);
    assert_true(targets[PLAN_ALL_BUSY][0] > 4 * targets[PLAN_ALL_BUSY][1]);
    assert_int_equal(targets[PLAN_ALL_BUSY][1], targets[PLAN_ALL_BUSY][7]);
    plan_close(&plan);
    vm_file_close(&file);
}

static void test_refusals(void **state)
{
    static const char memory_short[] = "vms.yaml:5: b-4: ", swap_short[] = "vms.yaml:4: a: ";
    struct vm_file file;
    struct plan plan;
    struct error err = {0};
    /* Four times 8M and the process. */
    open_plan(&file, &plan, 100 * MIB);
    assert_int_equal(plan_admit(&plan, &err), STATUS_NO_MEMORY);
    assert_memory_equal(err.text, memory_short, sizeof memory_short - 1);
    assert_non_null(strstr(err.text, "short"));
    plan_close(&plan);
    vm_file_close(&file);

    open_plan(&file, &plan, 512 * MIB);
    plan.host.swap = 100 * MIB;
    assert_int_equal(plan_admit(&plan, &err), STATUS_NO_SPACE);
    assert_memory_equal(err.text, swap_short, sizeof swap_short - 1);
    assert_non_null(strstr(err.text, "swap space"));
    plan_close(&plan);
    vm_file_close(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uses),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
