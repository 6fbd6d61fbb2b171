/*
 * Several vCPUs on shared memory: atomic instructions lose nothing, and the order in which vCPUs
 * see each other's accesses is x86's (total store order). The programs are in smp_guest.S; each
 * runs on all vCPUs at once, some thousand rounds, on either engine. What TSO forbids must never be
 * seen.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testvm.h"

#define CPUS_MAX 4u
#define CODE     0x100000u
#define SHARED   0x200000u
#define CELLS    0x1000u /* smp_guest.S */
#define RAM_SIZE (64u << 20)

static unsigned rounds = 4000; /* a quarter of them where four vCPUs wait for each other */

struct cpu {
    struct testvm vm; /* of CPU 0 all; the others share all but the vCPU */
    pthread_t thread;
    enum vcpu_exit exit;
};

static void *run(void *argument)
{
    struct cpu *cpu = argument;
    cpu->exit = testvm_run(&cpu->vm, CODE);
    return NULL;
}

static void attach(struct testvm *vm, const struct engine_ops *engine)
{
    struct error err = {0};
    vm->engine = engine;
    assert_int_equal(engine->attach(vm->vcpu, &err), STATUS_OK);
}

static void create(struct cpu *cpus, unsigned count, const struct engine_ops *engine)
{
    struct error err = {0};
    testvm_create(&cpus[0].vm, RAM_SIZE);
    testvm_use_engine(&cpus[0].vm, engine);
    for (unsigned i = 1; i < count; i++) {
        struct testvm *vm = &cpus[i].vm;
        *vm = cpus[0].vm;
        struct vcpu_config config = {
            .index = i,
            .cpu_count = count,
            .features = &cpus[0].vm.features,
            .domain = vm->domain,
            .mmio = vm->mmio,
            .ports = vm->ports,
            .thunks = vm->thunks,
            .apic = cpus[0].vm.vcpu->apic,
        };
        assert_int_equal(vcpu_create(&vm->vcpu, &config, &err), STATUS_OK);
        attach(vm, engine);
    }
}

static void destroy(struct cpu *cpus, unsigned count)
{
    for (unsigned i = count; i-- > 1;) {
        cpus[i].vm.engine->detach(cpus[i].vm.vcpu);
        vcpu_destroy(cpus[i].vm.vcpu);
    }
    testvm_destroy(&cpus[0].vm);
}

/* Runs a program on `count` vCPUs, in fresh memory. */
static void run_program(struct cpu *cpus, unsigned count, const void *code, const void *end,
                        unsigned times, size_t shared_size)
{
    void *zeroes = calloc(1, shared_size);
    testvm_put(&cpus[0].vm, SHARED, zeroes, shared_size);
    free(zeroes);
    testvm_put(&cpus[0].vm, CODE, code, (size_t)((const char *)end - (const char *)code));
    for (unsigned i = 0; i < count; i++) {
        struct vcpu *vcpu = cpus[i].vm.vcpu;
        testvm_set_mode(&cpus[i].vm, MODE_LONG, 8);
        vcpu->wait_for_sipi = false;
        vcpu->gpr[GPR_RSP] = 0x9000 + 0x1000 * i;
        vcpu->gpr[GPR_RDI] = SHARED;
        vcpu->gpr[GPR_RSI] = i;
        vcpu->gpr[GPR_RBX] = times;
        vcpu->gpr[GPR_R14] = count;
    }
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pthread_create(&cpus[i].thread, NULL, run, &cpus[i]), 0);
    for (unsigned i = 0; i < count; i++) {
        pthread_join(cpus[i].thread, NULL);
        assert_int_equal(cpus[i].exit, VCPU_EXIT_HALTED);
    }
}

static uint64_t shared_word(struct cpu *cpus, uint64_t offset)
{
    uint64_t value;
    assert_int_equal(pmap_read(cpus[0].vm.map, SHARED + offset, &value, 8), STATUS_OK);
    return value;
}

#define DECLARE(name) extern const char smp_##name[], smp_##name##_end[]
DECLARE(counters);
DECLARE(store_buffering);
DECLARE(store_buffering_mfence);
DECLARE(store_buffering_lock);
DECLARE(store_buffering_xchg);
DECLARE(message_passing);
DECLARE(load_buffering);
DECLARE(independent_reads);

static void check_counters(const struct engine_ops *engine)
{
    struct cpu cpus[CPUS_MAX];
    create(cpus, 2, engine);
    run_program(cpus, 2, smp_counters, smp_counters_end, rounds, 2 * CELLS);
    uint64_t total = 2ull * rounds;
    assert_int_equal(shared_word(cpus, 64), total * (1 + 3 - 1 + 5));
    uint64_t split = 2ull * ((rounds + 3) / 4);
    assert_int_equal(shared_word(cpus, 317), split + (total << 24)); /* 320 is in there */
    assert_int_equal(shared_word(cpus, 4093), split);
    assert_int_equal(shared_word(cpus, 136), total);
    assert_int_equal(shared_word(cpus, 192), rounds % 2 ? 3 : 0);
    destroy(cpus, 2);
}

/* Results of one round, as r[0] and so on. */
typedef bool outcome_fn(const uint64_t *r);

static bool both_zero(const uint64_t *r)
{
    return r[0] == 0 && r[1] == 0;
}

static bool both_one(const uint64_t *r)
{
    return r[0] == 1 && r[1] == 1;
}

static bool flag_without_data(const uint64_t *r)
{
    return r[0] == 1 && r[1] == 0;
}

static bool orders_differ(const uint64_t *r)
{
    return r[0] == 1 && r[1] == 0 && r[2] == 1 && r[3] == 0;
}

/* Returns how often the outcome was seen. */
static unsigned litmus(const struct engine_ops *engine, unsigned count, const char *code,
                       const char *end, outcome_fn *outcome)
{
    struct cpu cpus[CPUS_MAX];
    unsigned seen = 0, times = count > 2 ? rounds / 4 : rounds;
    create(cpus, count, engine);
    run_program(cpus, count, code, end, times, CELLS + 256ull * (times + 1));
    for (unsigned i = 0; i < times; i++) {
        uint64_t r[4];
        for (unsigned n = 0; n < 4; n++)
            r[n] = shared_word(cpus, CELLS + 256ull * i + 128 + 8 * n);
        seen += outcome(r);
    }
    destroy(cpus, count);
    return seen;
}

#define LITMUS(engine, cpus, name, outcome)                                                        \
    litmus(engine, cpus, smp_##name, smp_##name##_end, outcome)

static void check_litmus(const struct engine_ops *engine)
{
    print_message("%s: store buffering, not fenced: both 0 in %u of %u\n", engine->name,
                  LITMUS(engine, 2, store_buffering, both_zero), rounds);
    assert_int_equal(LITMUS(engine, 2, store_buffering_mfence, both_zero), 0);
    assert_int_equal(LITMUS(engine, 2, store_buffering_lock, both_zero), 0);
    assert_int_equal(LITMUS(engine, 2, store_buffering_xchg, both_zero), 0);
    assert_int_equal(LITMUS(engine, 2, message_passing, flag_without_data), 0);
    assert_int_equal(LITMUS(engine, 2, load_buffering, both_one), 0);
    assert_int_equal(LITMUS(engine, 4, independent_reads, orders_differ), 0);
}

static void test_counters_interpreted(void **state)
{
    check_counters(&interp_engine);
}

static void test_counters_translated(void **state)
{
    check_counters(&translate_engine);
}

static void test_litmus_interpreted(void **state)
{
    check_litmus(&interp_engine);
}

static void test_litmus_translated(void **state)
{
    check_litmus(&translate_engine);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = (unsigned)strtoul(argv[1], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_interpreted),
        cmocka_unit_test(test_counters_translated),
        cmocka_unit_test(test_litmus_interpreted),
        cmocka_unit_test(test_litmus_translated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
