/* External interrupts, NMI, INIT, SIPI, HLT: what is taken when. */

#include <pthread.h>

#include "fixture.h"
#include "util/clock.h"

/* An APIC with one request. */
struct fake_apic {
    _Atomic int vector; /* -1: none */
    unsigned acknowledged;
    unsigned tsc_changes;
};

static int fake_pending(void *context)
{
    struct fake_apic *apic = context;
    return apic->vector;
}

static int fake_acknowledge(void *context)
{
    struct fake_apic *apic = context;
    apic->acknowledged++;
    return atomic_exchange(&apic->vector, -1);
}

static uint64_t fake_read_tpr(void *context)
{
    return 0;
}

static void fake_write_tpr(void *context, uint64_t cr8)
{
}

static bool fake_read_msr(void *context, uint32_t msr, uint64_t *value)
{
    return false;
}

static bool fake_write_msr(void *context, uint32_t msr, uint64_t value)
{
    return false;
}

static void fake_tsc_changed(void *context)
{
    struct fake_apic *apic = context;
    apic->tsc_changes++;
}

static const struct vcpu_apic_ops fake_ops = {
    .pending = fake_pending,
    .acknowledge = fake_acknowledge,
    .read_tpr = fake_read_tpr,
    .write_tpr = fake_write_tpr,
    .read_msr = fake_read_msr,
    .write_msr = fake_write_msr,
    .tsc_changed = fake_tsc_changed,
};

static void create(struct testvm *vm, struct fake_apic *apic, int vector)
{
    fixture_create(vm, MODE_LONG, 8);
    *apic = (struct fake_apic){.vector = vector};
    vm->vcpu->apic = &fake_ops;
    vm->vcpu->apic_context = apic;
    if (vector >= 0)
        vcpu_kick(vm->vcpu, ATTENTION_IRQ);
}

GUEST(write_tsc, "64", "mov $0x10, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; hlt");
GUEST(nops, "64", "nop; nop; hlt");
GUEST(sti_nops, "64", "nop; sti; inc %eax; inc %ebx; hlt");
GUEST(sti_hlt, "64", "sti; hlt; hlt");
GUEST(popf_if, "64", "pushq $0x202; popfq; inc %eax; hlt");
GUEST(iret_if, "64", "pushq $0x20; pushq $0x1e000; pushq $0x202; pushq $8; pushq $0x10100; iretq");

static void taken_when_enabled(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    vm.vcpu->rflags |= FLAG_IF;
    fixture_run(&vm, nops);
    assert_int_equal(fixture_caught(&vm), 0x41);
    assert_int_equal(apic.acknowledged, 1);
    assert_int_equal(vm.vcpu->stats.interrupts, 1);
    /* Before the first instruction; an external interrupt has no RF in its frame. */
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP] + 16, 8), FLAG_FIXED | FLAG_IF);
    testvm_destroy(&vm);
}

static void not_taken_when_disabled(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    fixture_run(&vm, nops);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(apic.acknowledged, 0);
    testvm_destroy(&vm);
}

/* The bit was dropped while IF was clear; STI must look again, one instruction later. */
static void sti_has_a_shadow(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    fixture_run(&vm, sti_nops);
    assert_int_equal(fixture_caught(&vm), 0x41);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 1);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0);
    testvm_destroy(&vm);
}

static void popf_has_none(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    fixture_run(&vm, popf_if);
    assert_int_equal(fixture_caught(&vm), 0x41);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0);
    testvm_destroy(&vm);
}

static void iret_enables(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    testvm_put(&vm, CODE + 0x100, "\x90\xf4", 2);
    fixture_run(&vm, iret_if);
    assert_int_equal(fixture_caught(&vm), 0x41);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 0x100);
    testvm_destroy(&vm);
}

GUEST(ss_shadow, "64", "mov %ss, %ecx; pushq $0x202; mov %ecx, %ss; popfq; inc %ebx; hlt");

static void mov_ss_has_a_shadow(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    vm.vcpu->rflags |= FLAG_IF;
    vm.vcpu->interrupt_shadow = true; /* as behind a MOV SS: the first instruction is shadowed */
    fixture_run(&vm, ss_shadow);
    assert_int_equal(fixture_caught(&vm), 0x41);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 2);
    testvm_destroy(&vm);
}

static void hlt_wakes(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    assert_int_equal(fixture_run(&vm, sti_hlt), VCPU_EXIT_HALTED);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_true(vm.vcpu->halted);
    assert_int_equal(vm.vcpu->stats.halts, 1);
    /* Too early: it halts on. */
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(vm.vcpu->rip, CODE + 2);

    apic.vector = 0x42;
    vcpu_kick(vm.vcpu, ATTENTION_IRQ);
    vcpu_wait(vm.vcpu); /* returns at once */
    vm.engine->run(vm.vcpu);
    assert_int_equal(fixture_caught(&vm), 0x42);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 2);
    testvm_destroy(&vm);
}

/* STI's shadow covers HLT: an interrupt that is there already wakes it, rather than coming before
 * it and leaving it to sleep. */
static void sti_hlt_is_one_step(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x43);
    fixture_run(&vm, sti_hlt);
    assert_int_equal(fixture_caught(&vm), 0x43);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 2);
    testvm_destroy(&vm);
}

struct waker {
    struct vcpu *vcpu;
    struct fake_apic *apic;
};

static void *wake_up(void *context)
{
    struct waker *waker = context;
    waker->apic->vector = 0x44;
    vcpu_kick(waker->vcpu, ATTENTION_IRQ);
    return NULL;
}

static void wait_is_ended_by_another_thread(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    fixture_run(&vm, sti_hlt);
    vcpu_kick(vm.vcpu, ATTENTION_IRQ); /* spurious: nothing pends, so the wait goes on */
    struct waker waker = {vm.vcpu, &apic};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wake_up, &waker), 0);
    vcpu_wait(vm.vcpu);
    assert_int_equal(pthread_join(thread, NULL), 0);
    vm.engine->run(vm.vcpu);
    assert_int_equal(fixture_caught(&vm), 0x44);
    testvm_destroy(&vm);
}

static void exit_is_requested(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    vcpu_kick(vm.vcpu, ATTENTION_EXIT);
    assert_int_equal(fixture_run(&vm, nops), VCPU_EXIT_REQUESTED);
    assert_int_equal(vm.vcpu->rip, CODE);
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_HALTED);
    vcpu_kick(vm.vcpu, ATTENTION_EXIT);
    vcpu_wait(vm.vcpu); /* CLI, HLT: only this ends it */
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_REQUESTED);
    testvm_destroy(&vm);
}

GUEST(nmi_handler, "64", "incq 0x30000; nop; iretq");

static void nmi_until_iret(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    fixture_set_gate(&vm, VECTOR_NMI, CODE64, 0x11000, 0x8e, 0);
    testvm_put(&vm, 0x11000, nmi_handler, (size_t)(nmi_handler_end - nmi_handler));
    vcpu_kick(vm.vcpu, ATTENTION_NMI); /* IF is clear: NMI does not care */
    fixture_run(&vm, nops);
    assert_int_equal(fixture_peek(&vm, DATA, 8), 1);
    assert_int_equal(vm.vcpu->rip, CODE + 3);
    assert_false(vm.vcpu->nmi_blocked);
    testvm_destroy(&vm);

    create(&vm, &apic, -1);
    vm.vcpu->nmi_blocked = true;
    vcpu_kick(vm.vcpu, ATTENTION_NMI);
    fixture_run(&vm, nops);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_true(atomic_load(&vm.vcpu->attention) & ATTENTION_NMI); /* kept for later */
    testvm_destroy(&vm);
}

GUEST(ap_start, "16", "mov %cs, %ax; mov $0x77, %bx; hlt");

static void init_and_sipi(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    vm.vcpu->index = 1; /* an application processor */
    vm.vcpu->gpr[GPR_RBX] = 5;
    vm.vcpu->msr.tsc_aux = 99;
    testvm_put(&vm, 0x9a000, ap_start, (size_t)(ap_start_end - ap_start));

    vcpu_kick(vm.vcpu, ATTENTION_INIT);
    assert_int_equal(fixture_run(&vm, nops), VCPU_EXIT_HALTED);
    assert_true(vm.vcpu->wait_for_sipi);
    assert_int_equal(vm.vcpu->mode, MODE_REAL);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0);
    assert_int_equal(vm.vcpu->msr.tsc_aux, 99); /* MSRs outlive INIT */
    /* Interrupts and NMI mean nothing to it now. */
    vcpu_kick(vm.vcpu, ATTENTION_NMI | ATTENTION_IRQ);
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_HALTED);
    assert_true(vm.vcpu->wait_for_sipi);
    atomic_fetch_and(&vm.vcpu->attention, ~(uint32_t)ATTENTION_NMI);

    atomic_store(&vm.vcpu->sipi_vector, 0x9a);
    vcpu_kick(vm.vcpu, ATTENTION_SIPI);
    vcpu_wait(vm.vcpu);
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x9a00);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0x77);
    assert_int_equal(vm.vcpu->rip, 6);

    /* One that runs already ignores SIPI. */
    atomic_store(&vm.vcpu->sipi_vector, 0x20);
    vcpu_kick(vm.vcpu, ATTENTION_SIPI);
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(vm.vcpu->seg[SEG_CS].base, 0x9a000);
    testvm_destroy(&vm);
}

static void reset_state(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    struct vcpu *vcpu = vm.vcpu;
    vcpu->msr.lstar = 1;
    vcpu->halted = true;
    vcpu_reset(vcpu, false);
    assert_int_equal(vcpu->rip, 0xfff0);
    assert_int_equal(vcpu->seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(vcpu->seg[SEG_CS].selector, 0xf000);
    assert_int_equal(vcpu->rflags, 2);
    assert_int_equal(vcpu->mmu.cr0, 0x60000010);
    assert_int_equal(vcpu->mmu.efer, 0);
    assert_int_equal(vcpu->dr[6], 0xffff0ff0);
    assert_int_equal(vcpu->dr[7], 0x400);
    assert_int_equal(vcpu->xcr0, 1);
    assert_int_equal(vcpu->msr.lstar, 0);
    assert_int_equal(vcpu->msr.pat, 0x0007040600070406);
    assert_int_equal(vcpu->mode, MODE_REAL);
    assert_int_equal(vcpu->cpl, 0);
    assert_false(vcpu->halted);
    assert_false(vcpu->wait_for_sipi);
    /* INIT keeps CD and NW. */
    vcpu->mmu.cr0 &= ~(uint64_t)CR0_NW;
    vcpu_reset(vcpu, true);
    assert_int_equal(vcpu->mmu.cr0, 0x40000010);
    testvm_destroy(&vm);
}

/* A deadline that is armed in TSC ticks must hear of it. */
static void writing_the_tsc_tells_the_apic(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    fixture_run(&vm, write_tsc);
    assert_int_equal(apic.tsc_changes, 1);
    assert_true(vcpu_tsc(vm.vcpu) < clock_tsc());
    testvm_destroy(&vm);
}

GUEST(sti_repeat, "64", "mov $0x30000, %edi; mov $5, %ecx; sti; rep stosb; hlt");

/* Between two iterations the instruction is not over: RF in the frame, so that a breakpoint on it
 * does not hit again. */
static void repeat_is_interrupted_with_rf(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, 0x41);
    fixture_run(&vm, sti_repeat);
    assert_int_equal(fixture_caught(&vm), 0x41);
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame, 8), CODE + 11);
    assert_int_equal(fixture_peek(&vm, frame + 16, 8), FLAG_FIXED | FLAG_IF | FLAG_RF);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 4);
    testvm_destroy(&vm);
}

GUEST(iret_bad_cs, "64", "pushq $0x20; pushq $0x1e000; pushq $2; pushq $0xff8; pushq $0; iretq");

/* SDM vol. 3 6.7.1. */
static void faulting_iret_unblocks_nmi(void **state)
{
    struct testvm vm;
    struct fake_apic apic;
    create(&vm, &apic, -1);
    vm.vcpu->nmi_blocked = true;
    fixture_run(&vm, iret_bad_cs);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_false(vm.vcpu->nmi_blocked);
    testvm_destroy(&vm);
}

/* A processor of a test, or of a machine without APICs. */
static void tsc_without_an_apic(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, write_tsc);
    assert_int_equal(fixture_caught(&vm), -1);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taken_when_enabled),
        cmocka_unit_test(not_taken_when_disabled),
        cmocka_unit_test(sti_has_a_shadow),
        cmocka_unit_test(popf_has_none),
        cmocka_unit_test(iret_enables),
        cmocka_unit_test(mov_ss_has_a_shadow),
        cmocka_unit_test(hlt_wakes),
        cmocka_unit_test(sti_hlt_is_one_step),
        cmocka_unit_test(wait_is_ended_by_another_thread),
        cmocka_unit_test(exit_is_requested),
        cmocka_unit_test(nmi_until_iret),
        cmocka_unit_test(init_and_sipi),
        cmocka_unit_test(writing_the_tsc_tells_the_apic),
        cmocka_unit_test(reset_state),
        cmocka_unit_test(repeat_is_interrupted_with_rf),
        cmocka_unit_test(faulting_iret_unblocks_nmi),
        cmocka_unit_test(tsc_without_an_apic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
