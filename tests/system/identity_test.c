/* CPUID, MSRs and the paravirtual clock: what the guest is told, and that it fits together. */

#include "cpu/system/cpuid.h"
#include "cpu/system/msr.h"
#include "cpu/system/pvclock.h"
#include "fixture.h"
#include "util/clock.h"

static void levels(void **state)
{
    struct features features;
    struct error err;
    assert_int_equal(features_detect(&features, &err), STATUS_OK);
    /* x86-64-v2. */
    assert_true(features_has(&features, FEATURE_SSE4_2));
    assert_true(features_has(&features, FEATURE_POPCNT));
    assert_true(features_has(&features, FEATURE_CX16));
    assert_true(features_has(&features, FEATURE_LAHF_LM));
    /* What no engine implements is never there. */
    const uint32_t absent_1_ecx =
        1u << 3 | 1u << 5 | 1u << 6 | 1u << 27; /* MONITOR VMX SMX OSXSAVE */
    const uint32_t absent_1_edx = 1u << 1 | 1u << 7 | 1u << 14 | 1u << 21; /* VME MCE MCA DS */
    /* HLE, MPX, RTM, AVX-512 of all kinds */
    const uint32_t absent_7_ebx = 1u << 4 | 1u << 11 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 21 |
                                  1u << 28 | 1u << 30 | 1u << 31;
    const uint32_t absent_7_ecx = 1u << 3 | 1u << 7 | 1u << 16 | 1u << 1; /* PKU CET LA57 AVX512 */
    assert_int_equal(features.words[FEATURE_1_ECX] & absent_1_ecx, 0);
    assert_int_equal(features.words[FEATURE_1_EDX] & absent_1_edx, 0);
    assert_int_equal(features.words[FEATURE_7_EBX] & absent_7_ebx, 0);
    assert_int_equal(features.words[FEATURE_7_ECX] & absent_7_ecx, 0);
    assert_int_equal(features.words[FEATURE_D1_EAX] & ~7u, 0); /* no XSAVES */
    if (features_has(&features, FEATURE_AVX2))
        assert_true(features_has(&features, FEATURE_AVX));
    if (features_has(&features, FEATURE_AVX))
        assert_true(features_has(&features, FEATURE_XSAVE));
}

static void leaves_are_consistent(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    struct vcpu *vcpu = vm.vcpu;
    vcpu->cpu_count = 6;
    vcpu->index = 5;

    struct cpuid_result max = cpuid_query(vcpu, 0, 0);
    assert_true(max.eax >= 0xd);
    struct cpuid_result one = cpuid_query(vcpu, 1, 0);
    /* Models without AVX-512, for programs that go by model (in full, with stepping). */
    assert_int_equal(one.eax, vcpu->features->amd ? 0x00a00f11 : 0x000306c3);
    assert_int_equal(one.ebx >> 24, 5);
    assert_int_equal(one.ebx >> 16 & 0xff, 6);
    assert_true(one.edx & 1u << 28);
    assert_true(one.ecx & 1u << 31);
    assert_true(one.ecx & 1u << 27); /* testvm has CR4.OSXSAVE on */
    vcpu->mmu.cr4 &= ~(uint64_t)CR4_OSXSAVE;
    assert_false(cpuid_query(vcpu, 1, 0).ecx & 1u << 27);

    struct cpuid_result threads = cpuid_query(vcpu, 0xb, 0);
    struct cpuid_result cores = cpuid_query(vcpu, 0xb, 1);
    struct cpuid_result none = cpuid_query(vcpu, 0xb, 2);
    assert_int_equal(threads.eax, 0);
    assert_int_equal(threads.ebx, 1);
    assert_int_equal(threads.ecx, 0x100);
    assert_int_equal(cores.eax, 3); /* 6 fits in 3 bits */
    assert_int_equal(cores.ebx, 6);
    assert_int_equal(cores.ecx, 0x201);
    assert_int_equal(cores.edx, 5);
    assert_int_equal(none.ebx, 0);
    assert_int_equal(none.ecx, 2);

    struct cpuid_result sizes = cpuid_query(vcpu, 0x80000008, 0);
    assert_int_equal(sizes.eax, 48 << 8 | 46);
    /* FXRSTOR always restores the x87 pointers: of AMD's CPUs only some do, and say so. */
    assert_int_equal(sizes.ebx, vcpu->features->amd ? 1 << 2 : 0);
    char brand[49] = {0};
    for (unsigned i = 0; i < 3; i++) {
        struct cpuid_result part = cpuid_query(vcpu, 0x80000002 + i, 0);
        memcpy(brand + 16 * i, &part, 16);
    }
    assert_string_equal(brand, "Aerostat vCPU");
    assert_true(cpuid_query(vcpu, 0x80000007, 0).edx & 1u << 8);
    /* Nothing beyond what the greatest leaves say. */
    struct cpuid_result beyond = cpuid_query(vcpu, 0x80000009, 0);
    assert_int_equal(beyond.eax | beyond.ebx | beyond.ecx | beyond.edx, 0);
    beyond = cpuid_query(vcpu, max.eax + 1, 0);
    assert_int_equal(beyond.eax | beyond.ebx | beyond.ecx | beyond.edx, 0);
    /* EDX after reset is the signature. */
    vcpu_reset(vcpu, false);
    assert_int_equal(vcpu->gpr[GPR_RDX], one.eax);
    testvm_destroy(&vm);
}

static void xsave_sizes_follow_xcr0(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    struct vcpu *vcpu = vm.vcpu;
    bool has_avx = features_has(&vm.features, FEATURE_AVX);
    vcpu->xcr0 = 3;
    assert_int_equal(cpuid_query(vcpu, 0xd, 0).ebx, 576);
    assert_int_equal(cpuid_query(vcpu, 0xd, 0).ecx, has_avx ? 832 : 576);
    assert_int_equal(cpuid_query(vcpu, 0xd, 0).eax, has_avx ? 7 : 3);
    if (has_avx) {
        vcpu->xcr0 = 7;
        assert_int_equal(cpuid_query(vcpu, 0xd, 0).ebx, 832);
        assert_int_equal(cpuid_query(vcpu, 0xd, 2).eax, 256);
        assert_int_equal(cpuid_query(vcpu, 0xd, 2).ebx, 576);
    }
    assert_int_equal(cpuid_query(vcpu, 0xd, 3).eax, 0);
    testvm_destroy(&vm);
}

static void hypervisor_leaves(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    struct cpuid_result id = cpuid_query(vm.vcpu, 0x40000000, 0);
    assert_memory_equal(&id.ebx, "KVMKVMKVM\0\0\0", 12);
    assert_true(id.eax >= 0x40000001);
    /* Clock sources, no I/O delay; nothing that would call the hypervisor. */
    assert_int_equal(cpuid_query(vm.vcpu, 0x40000001, 0).eax, 1u << 24 | 1u << 3 | 1u << 1 | 1);
    assert_int_equal(cpuid_query(vm.vcpu, 0x40000010, 0).eax, clock_tsc_khz());
    struct cpuid_result tsc = cpuid_query(vm.vcpu, 0x15, 0);
    if (!vm.features.amd)
        assert_int_equal((uint64_t)tsc.ecx * tsc.ebx / tsc.eax / 1000, clock_tsc_khz());
    testvm_destroy(&vm);
}

GUEST(cpuid_64, "64",
      "mov $0xffffffff00000007, %rax; mov $0xffffffff00000000, %rcx\n"
      "mov %rcx, %rbx; mov %rcx, %rdx; cpuid; hlt");

static void cpuid_instruction(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, cpuid_64);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], vm.features.words[FEATURE_7_EBX]);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], vm.features.words[FEATURE_7_ECX]);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], vm.features.words[FEATURE_7_EDX]);
    testvm_destroy(&vm);
}

/* Every number below and around the defined blocks: a write of a value that was read back is
 * accepted or refused, and never changes what is read. */
static void msr_read_and_write_back(void **state)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0, 0x2000}, {0x4b564d00, 0x4b564d10}, {0xc0000080, 0xc0000110}, {0xc0010000, 0xc0011030}};
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    unsigned known = 0;
    for (unsigned i = 0; i < ARRAY_LENGTH(ranges); i++) {
        for (uint32_t number = ranges[i].first; number <= ranges[i].last; number++) {
            uint64_t value, again;
            if (number == MSR_IA32_TSC || !msr_read(vm.vcpu, number, &value))
                continue;
            known++;
            (void)msr_write(vm.vcpu, number, value);
            assert_true(msr_read(vm.vcpu, number, &again));
            assert_int_equal(value, again);
        }
    }
    assert_true(known > 40);
    testvm_destroy(&vm);
}

static void msr_rules(void **state)
{
    static const struct {
        uint64_t number, value;
        bool good;
    } cases[] = {
        {MSR_LSTAR, 0xffffffff81000000, true},
        {MSR_LSTAR, 1ull << 47, false},
        {MSR_FS_BASE, 0x7fffffffffff, true},
        {MSR_FS_BASE, 1ull << 63, false},
        {MSR_KERNEL_GS_BASE, 1ull << 50, false},
        {MSR_IA32_SYSENTER_EIP, 1ull << 47, false},
        {MSR_SFMASK, 0x47700, true},
        {MSR_SFMASK, 1ull << 32, false},
        {MSR_TSC_AUX, 0xffffffff, true},
        {MSR_TSC_AUX, 1ull << 32, false},
        {MSR_IA32_PAT, 0x0407010600070406, true},
        {MSR_IA32_PAT, 2, false},
        {MSR_IA32_PAT, 3ull << 56, false},
        {MSR_IA32_MTRR_DEF_TYPE, 0xc06, true},
        {MSR_IA32_MTRR_DEF_TYPE, 0xc02, false},
        {MSR_IA32_MTRR_DEF_TYPE, 0x1006, false},
        {MSR_IA32_MTRR_PHYSBASE0, 0x80000006, true},
        {MSR_IA32_MTRR_PHYSBASE0, 1ull << 46, false},
        {MSR_IA32_MTRR_PHYSBASE0 + 1, (1ull << 46) - 0x80000000 + 0x800, true},
        {MSR_IA32_MTRR_PHYSBASE0 + 1, 0x400, false},
        {MSR_IA32_MTRR_PHYSBASE0 + 16, 0, false}, /* eight pairs */
        {MSR_IA32_MTRR_FIX64K, 0x0606060606060606, true},
        {MSR_IA32_MTRR_FIX64K, 0x0706060606060606, false},
        {MSR_IA32_MTRRCAP, 0, false},
        {MSR_IA32_DEBUGCTL, 0, true},
        {MSR_IA32_DEBUGCTL, 1, false},
        {MSR_IA32_ARCH_CAPABILITIES, 0, false},
        {MSR_KVM_SYSTEM_TIME, DATA | 2, false},
        {0x48, 0, false},  /* SPEC_CTRL is not offered */
        {0x3b, 0, false},  /* nor TSC_ADJUST */
        {0x179, 0, false}, /* nor machine check */
        {0xdeadbeef, 0, false},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        uint64_t before, after = 0;
        fixture_create(&vm, MODE_LONG, 8);
        uint32_t number = (uint32_t)cases[i].number;
        bool readable = msr_read(vm.vcpu, number, &before);
        if (msr_write(vm.vcpu, number, cases[i].value) != cases[i].good)
            fail_msg("MSR %#x, value %#lx", number, (unsigned long)cases[i].value);
        if (cases[i].good || readable)
            assert_true(msr_read(vm.vcpu, number, &after));
        if (cases[i].good)
            assert_int_equal(after, cases[i].value);
        else if (readable)
            assert_int_equal(after, before);
        testvm_destroy(&vm);
    }
}

GUEST(msr_64, "64",
      "mov $0xc0000082, %ecx; mov $0x81000000, %eax; mov $0xffffffff, %edx\n"
      "wrmsr; mov $-1, %rax; mov $-1, %rdx; rdmsr; hlt");

GUEST(msr_bad_64, "64", "mov $0xdead, %ecx; rdmsr; hlt");

static void msr_instructions(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, msr_64);
    assert_int_equal(vm.vcpu->msr.lstar, 0xffffffff81000000);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x81000000);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], 0xffffffff);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, msr_bad_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
}

GUEST(tsc_64, "64",
      "mov $0x10, %ecx; mov $0x5000, %eax; xor %edx, %edx; wrmsr\n"
      "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; rdtscp\n"
      "shl $32, %rdx; or %rdx, %rax; hlt");

GUEST(rdtsc_user, "64", "rdtsc; ud2");

static void time_stamp_counter(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->msr.tsc_aux = 0x1234;
    fixture_run(&vm, tsc_64);
    assert_true(vm.vcpu->gpr[GPR_RBX] >= 0x5000);
    assert_true(vm.vcpu->gpr[GPR_RAX] > vm.vcpu->gpr[GPR_RBX]);
    assert_true(vcpu_tsc(vm.vcpu) > vm.vcpu->gpr[GPR_RAX]);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0x1234);
    testvm_destroy(&vm);

    for (int disabled = 0; disabled < 2; disabled++) {
        fixture_create(&vm, MODE_LONG, 8);
        vm.vcpu->mmu.cr4 |= disabled ? CR4_TSD : 0;
        fixture_enter_user(&vm);
        fixture_run(&vm, rdtsc_user);
        assert_int_equal(fixture_caught(&vm), disabled ? VECTOR_GP : VECTOR_UD);
        testvm_destroy(&vm);
    }
}

struct time_info {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad[2];
};

static uint64_t guest_ns(const struct time_info *info, uint64_t tsc)
{
    uint64_t delta = tsc - info->tsc_timestamp;
    delta = info->shift < 0 ? delta >> -info->shift : delta << info->shift;
    return info->system_time + (uint64_t)((unsigned __int128)delta * info->mul >> 32);
}

static void register_clock(struct vcpu *vcpu)
{
    assert_true(msr_write(vcpu, MSR_KVM_SYSTEM_TIME, (DATA + 0x40) | 1));
    assert_true(msr_write(vcpu, MSR_KVM_WALL_CLOCK, DATA));
}

static void paravirtual_clock(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->tsc_offset = -123456789;
    uint64_t wall_before = clock_realtime_ns();
    assert_int_equal(fixture_raised(&vm, register_clock), -1);

    struct time_info info;
    assert_int_equal(pmap_read(vm.map, DATA + 0x40, &info, sizeof(info)), STATUS_OK);
    assert_int_equal(info.version, 2);
    assert_int_equal(info.flags, 1);
    /* A second of TSC ticks is a second, to a millionth. */
    uint64_t tsc = vcpu_tsc(vm.vcpu);
    uint64_t second = guest_ns(&info, tsc + clock_tsc_khz() * 1000) - guest_ns(&info, tsc);
    assert_in_range(second, 999999000, 1000001000);
    /* It runs on, and agrees with our own idea of it. */
    uint64_t earlier = guest_ns(&info, tsc);
    assert_true(pvclock_now_ns(vm.vcpu) >= earlier);

    struct {
        uint32_t version, seconds, nanoseconds;
    } wall;
    assert_int_equal(pmap_read(vm.map, DATA, &wall, sizeof(wall)), STATUS_OK);
    assert_int_equal(wall.version & 1, 0);
    assert_true(wall.nanoseconds < 1000000000);
    uint64_t now = wall.seconds * NS_PER_SECOND + wall.nanoseconds + pvclock_now_ns(vm.vcpu);
    assert_true(now >= wall_before);
    assert_true(now <= clock_realtime_ns() + NS_PER_SECOND);
    testvm_destroy(&vm);
}

static void register_outside(struct vcpu *vcpu)
{
    assert_true(msr_write(vcpu, MSR_KVM_SYSTEM_TIME, (1ull << 40) | 1));
    assert_true(msr_write(vcpu, MSR_KVM_SYSTEM_TIME, (4 * MIB - 16) | 1)); /* half outside */
    assert_true(msr_write(vcpu, MSR_KVM_WALL_CLOCK, UINT64_MAX - 3));
}

/* Every vCPU of a VM sees one clock, whatever its TSC offset. */
static void clock_is_common(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    uint64_t first = pvclock_now_ns(vm.vcpu);
    vm.vcpu->tsc_offset = 1ll << 60;
    uint64_t second = pvclock_now_ns(vm.vcpu);
    assert_true(second >= first && second - first < NS_PER_SECOND * 10);
    /* A pause is not part of it: of 2^37 ticks, half a minute at least. */
    vm.vcpu->tsc_offset -= 1ll << 37;
    vm.vcpu->tsc_lost += 1ull << 37;
    uint64_t third = pvclock_now_ns(vm.vcpu);
    assert_true(third < second && second - third > NS_PER_SECOND * 10);
    assert_int_equal(fixture_raised(&vm, register_outside), -1);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(fixture_peek(&vm, 4 * MIB - 16 + i, 1), 0);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels),
        cmocka_unit_test(leaves_are_consistent),
        cmocka_unit_test(xsave_sizes_follow_xcr0),
        cmocka_unit_test(hypervisor_leaves),
        cmocka_unit_test(cpuid_instruction),
        cmocka_unit_test(msr_read_and_write_back),
        cmocka_unit_test(msr_rules),
        cmocka_unit_test(msr_instructions),
        cmocka_unit_test(time_stamp_counter),
        cmocka_unit_test(paravirtual_clock),
        cmocka_unit_test(clock_is_common),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
