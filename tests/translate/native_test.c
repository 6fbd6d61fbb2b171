/*
 * Random programs on the host CPU, the interpreter and the translator, which also emits what it
 * would for a host without BMI2: all must end alike. See random_program.h and compare.h.
 *
 *    native_test                             some thousand programs, always the same ones
 *    native_test --seed N [--count N]        from one of your own on; a report names its seed
 *    native_test --forever SECONDS           new ones for so long: make soak
 */

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "compare.h"
#include "cpu/translate/translate.h"

#define SEED     0x5eed00000u
#define PROGRAMS 4000u
#define FAILURES 5u /* enough to report */

static struct {
    uint64_t seed, count;
    time_t seconds; /* 0: by count */
} options = {SEED, PROGRAMS, 0};

static struct guest interpreted, translated, plain;

/* A guest that is in one run for long is stopped. */
static void tick(void)
{
    struct guest *guests[] = {&interpreted, &translated, &plain};
    for (unsigned i = 0; i < ARRAY_LENGTH(guests); i++) {
        bool same = guests[i]->runs % 2 == 1 && guests[i]->runs == guests[i]->runs_at_tick;
        guests[i]->ticks = same ? guests[i]->ticks + 1 : 0;
        guests[i]->runs_at_tick = guests[i]->runs;
        if (guests[i]->ticks >= NATIVE_TICKS)
            atomic_fetch_or(&guests[i]->vm.vcpu->attention, ATTENTION_EXIT);
    }
}

static void print_summary(const struct comparison *c)
{
    print_message("%lu programs; by exception:", c->programs);
    for (unsigned i = 0; i < 32; i++) {
        if (c->vectors[i] != 0)
            print_message(" #%u %lu,", i, c->vectors[i]);
    }
    print_message(" endless %lu, host unsteady %lu\n", c->endless, c->unsteady);
}

static void drop_code(struct vcpu *vcpu)
{
    vcpu->mmu.code_drop(vcpu->mmu.code_context, MMU_ALL_PAGES);
}

static void test_programs(void **state)
{
    struct comparison c = {.guests = {&interpreted, &translated, &plain}, .guest_count = 3};
    unsigned failures = 0;
    time_t end = time(NULL) + options.seconds;
    guest_create(&interpreted, "interpreter", &interp_engine);
    guest_create(&translated, "translator", &translate_engine);
    guest_create(&plain, "translator without BMI2", &translate_engine);
    translate_of(plain.vm.vcpu)->has_rorx = false;
    if (!native_open())
        skip();
    print_message("from seed %#lx\n", options.seed);
    native_on_tick(tick);
    for (uint64_t i = 0; failures < FAILURES; i++) {
        if (options.seconds != 0 ? time(NULL) >= end : i == options.count)
            break;
        /* From an empty cache at times; mostly a used one. */
        for (unsigned n = 1; n < c.guest_count; n++) {
            if (i % 64 == 63)
                drop_code(c.guests[n]->vm.vcpu);
            if (i % 16 == 15)
                mmu_flush(&c.guests[n]->vm.vcpu->mmu, false);
        }
        translate_of(translated.vm.vcpu)->relative_pages = i % 2 ? UINT64_MAX : 0;
        failures += !compare_seed(&c, options.seed + i);
    }
    native_on_tick(NULL);
    print_summary(&c);
    native_close();
    guest_destroy(&plain);
    guest_destroy(&translated);
    guest_destroy(&interpreted);
    assert_int_equal(failures, 0);
    assert_true(c.vectors[VECTOR_BP] >= c.programs / 4); /* not all cut short */
}

/* The oracle itself: segment bases are the program's, also after a signal in the middle of it. */
static void test_bases_outlive_a_signal(void **state)
{
    static const uint8_t code[] = {
        0x0f, 0x05,                                           /* syscall: tgkill */
        0x64, 0x48, 0x8b, 0x1c, 0x25, 0x00, 0x00, 0x00, 0x00, /* mov rbx, fs:[0] */
        0x65, 0x48, 0x8b, 0x2c, 0x25, 0x00, 0x00, 0x00, 0x00, /* mov rbp, gs:[0] */
        0xcc,
    };
    static struct machine_memory memory;
    const uint64_t words[] = {0x1122334455667788, 0x99aabbccddeeff00};
    struct machine_state machine = {
        .rip = ARENA_CODE,
        .rflags = FLAG_FIXED | FLAG_IF,
        .fs_base = ARENA_DATA,
        .gs_base = ARENA_DATA + sizeof(words[0]),
        .xstate = {.fcw = FCW_INITIAL, .mxcsr = MXCSR_INITIAL},
    };
    if (!native_open())
        skip();
    memcpy(memory.data, words, sizeof(words));
    machine.gpr[GPR_RSP] = ARENA_STACK + ARENA_STACK_SIZE;
    machine.gpr[GPR_RAX] = SYS_tgkill;
    machine.gpr[GPR_RDI] = (uint64_t)getpid();
    machine.gpr[GPR_RSI] = (uint64_t)gettid();
    machine.gpr[GPR_RDX] = SIGVTALRM;
    native_run(code, sizeof(code), &machine, &memory);
    native_close();
    assert_int_equal(machine.vector, VECTOR_BP);
    assert_int_equal(machine.gpr[GPR_RAX], 0);
    assert_int_equal(machine.gpr[GPR_RBX], words[0]);
    assert_int_equal(machine.gpr[GPR_RBP], words[1]);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seed") == 0)
            options.seed = value;
        else if (strcmp(argv[i], "--count") == 0)
            options.count = value;
        else if (strcmp(argv[i], "--forever") == 0)
            options.seconds = (time_t)value;
    }
    if (options.seconds != 0 && options.seed == SEED)
        options.seed = (uint64_t)time(NULL) << 24;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bases_outlive_a_signal),
        cmocka_unit_test(test_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
