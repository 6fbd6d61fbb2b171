#include "testvm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/thunk/thunk.h"

/* No local APIC: nothing ever pends, and its registers do not exist. */
static int no_vector(void *context)
{
    (void)context;
    return -1;
}

static uint64_t no_tpr(void *context)
{
    (void)context;
    return 0;
}

static void ignore_tpr(void *context, uint64_t cr8)
{
    (void)context;
    (void)cr8;
}

static bool no_msr_read(void *context, uint32_t msr, uint64_t *value)
{
    (void)context;
    (void)msr;
    (void)value;
    return false;
}

static bool no_msr_write(void *context, uint32_t msr, uint64_t value)
{
    (void)context;
    (void)msr;
    (void)value;
    return false;
}

static void ignore_tsc(void *context)
{
    (void)context;
}

static const struct vcpu_apic_ops no_apic = {
    .pending = no_vector,
    .acknowledge = no_vector,
    .read_tpr = no_tpr,
    .write_tpr = ignore_tpr,
    .read_msr = no_msr_read,
    .write_msr = no_msr_write,
    .tsc_changed = ignore_tsc,
};

/* The interpreter, unless the environment asks for the translator: then any test of a guest program
 * is one of the translator too. */
static const struct engine_ops *chosen_engine(void)
{
    const char *name = getenv("AEROSTAT_TEST_ENGINE");
    bool translates = name != NULL && strcmp(name, translate_engine.name) == 0;
    return translates ? &translate_engine : &interp_engine;
}

void testvm_create(struct testvm *vm, uint64_t ram_size)
{
    struct error err = {0};
    struct ram_range ram = {0, ram_size};
    *vm = (struct testvm){.engine = chosen_engine()};
    assert_int_equal(features_detect(&vm->features, &err), STATUS_OK);
    assert_int_equal(pmap_create(&vm->map, &ram, 1, &err), STATUS_OK);
    assert_int_equal(bus_create(&vm->mmio, NULL, &err), STATUS_OK);
    assert_int_equal(bus_create(&vm->ports, NULL, &err), STATUS_OK);
    assert_int_equal(mmu_domain_create(&vm->domain, vm->map, &(struct mmu_config){0}, &err),
                     STATUS_OK);
    assert_int_equal(thunk_set_create(&vm->thunks, &err), STATUS_OK);

    struct vcpu_config config = {
        .index = 0,
        .cpu_count = 1,
        .features = &vm->features,
        .domain = vm->domain,
        .mmio = vm->mmio,
        .ports = vm->ports,
        .thunks = vm->thunks,
        .apic = &no_apic,
    };
    assert_int_equal(vcpu_create(&vm->vcpu, &config, &err), STATUS_OK);
    assert_int_equal(vm->engine->attach(vm->vcpu, &err), STATUS_OK);
}

void testvm_destroy(struct testvm *vm)
{
    vm->engine->detach(vm->vcpu);
    vcpu_destroy(vm->vcpu);
    thunk_set_destroy(vm->thunks);
    mmu_domain_destroy(vm->domain);
    bus_destroy(vm->ports);
    bus_destroy(vm->mmio);
    pmap_destroy(vm->map);
}

void testvm_use_engine(struct testvm *vm, const struct engine_ops *engine)
{
    struct error err = {0};
    vm->engine->detach(vm->vcpu);
    vm->engine = engine;
    assert_int_equal(engine->attach(vm->vcpu, &err), STATUS_OK);
}

void testvm_put(struct testvm *vm, uint64_t gpa, const void *bytes, size_t length)
{
    assert_int_equal(pmap_write(vm->map, gpa, bytes, length), STATUS_OK);
}

static void put_u64(struct testvm *vm, uint64_t gpa, uint64_t value)
{
    testvm_put(vm, gpa, &value, sizeof value);
}

static void put_tables(struct testvm *vm)
{
    static const uint64_t gdt[] = {
        0,
        0x00af9b000000ffff, /* 0x08 code64 */
        0x00cf9b000000ffff, /* 0x10 code32 */
        0x008f9b000000ffff, /* 0x18 code16 */
        0x00cf93000000ffff, /* 0x20 data */
        0x00cffb000000ffff, /* 0x28 user code32 */
        0x00cff3000000ffff, /* 0x30 user data */
        0x00affb000000ffff, /* 0x38 user code64 */
        0x0000890050000067, /* 0x40 TSS at 0x5000 */
        0,
    };
    put_u64(vm, 0x1000, 0x2000 | 7);
    put_u64(vm, 0x2000, 0x3000 | 7);
    for (uint64_t i = 0; i < 512; i++)
        put_u64(vm, 0x3000 + 8 * i, i << 21 | 0x87);
    testvm_put(vm, 0x4000, gdt, sizeof gdt);
}

void testvm_set_mode(struct testvm *vm, enum cpu_mode mode, unsigned code_size)
{
    struct vcpu *vcpu = vm->vcpu;
    bool long_mode = mode == MODE_LONG || mode == MODE_COMPATIBILITY;
    put_tables(vm);
    vcpu_reset(vcpu, false);
    vcpu->gdtr = (struct descriptor_table){0x4000, 10 * 8 - 1};
    vcpu->idtr = (struct descriptor_table){0, 0};
    vcpu->mmu.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | (long_mode ? CR4_PAE : 0);
    if (features_has(&vm->features, FEATURE_XSAVE)) {
        vcpu->mmu.cr4 |= CR4_OSXSAVE;
        vcpu->xcr0 = features_has(&vm->features, FEATURE_AVX) ? 7 : 3;
    }
    vcpu->mmu.cr0 = CR0_ET | CR0_NE | (mode == MODE_REAL ? 0 : CR0_PE) | (long_mode ? CR0_PG : 0);
    vcpu->mmu.cr3 = long_mode ? 0x1000 : 0;
    vcpu->mmu.efer = long_mode ? EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE : 0;

    uint32_t limit = mode == MODE_REAL ? UINT16_MAX : UINT32_MAX;
    uint32_t size_bits = mode == MODE_LONG ? SEG_L : code_size == 4 ? SEG_DB : 0;
    uint16_t code = mode == MODE_LONG ? 0x08 : code_size == 4 ? 0x10 : 0x18;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        vcpu->seg[i] = (struct segment){0, limit, 0x93 | (mode == MODE_REAL ? 0 : SEG_G | SEG_DB),
                                        mode == MODE_REAL ? 0 : 0x20};
    if (mode == MODE_REAL)
        vcpu->seg[SEG_CS] = (struct segment){0, limit, 0x9b, 0};
    else
        vcpu->seg[SEG_CS] = (struct segment){0, limit, 0x9b | SEG_G | size_bits, code};
    vcpu->tr = (struct segment){0x5000, 0x67, 0x8b, 0x40};
    vcpu->gpr[GPR_RSP] = mode == MODE_REAL || code_size == 2 ? 0x7ff0 : 0x9000;
    vcpu_update_mode(vcpu);
    mmu_flush(&vcpu->mmu, false);
}

enum vcpu_exit testvm_run(struct testvm *vm, uint64_t rip)
{
    vm->vcpu->rip = rip;
    vm->vcpu->halted = false;
    return vm->engine->run(vm->vcpu);
}
