/* IN, OUT, INS, OUTS and the permission to use ports. */

#include "fixture.h"

/* A device at ports 0x100-0x1ff that remembers. */
struct fake_device {
    unsigned reads, writes, last_size;
    uint64_t last_offset, last_value;
    uint8_t written[64];
    struct vcpu *interrupt_at_read_3;
};

static uint64_t device_read(void *context, uint64_t offset, unsigned size)
{
    struct fake_device *device = context;
    device->last_offset = offset;
    device->last_size = size;
    if (++device->reads == 3 && device->interrupt_at_read_3 != NULL)
        vcpu_kick(device->interrupt_at_read_3, ATTENTION_EXIT);
    return 0x8877665544332200 + device->reads;
}

static void device_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct fake_device *device = context;
    device->last_offset = offset;
    device->last_size = size;
    device->last_value = value;
    if (device->writes < sizeof(device->written))
        device->written[device->writes] = (uint8_t)value;
    device->writes++;
}

static const struct bus_ops device_ops = {device_read, device_write};

static void create(struct testvm *vm, struct fake_device *device, enum cpu_mode mode, unsigned size)
{
    struct error err;
    fixture_create(vm, mode, size);
    *device = (struct fake_device){0};
    assert_int_equal(bus_add(vm->ports, 0x100, 0x100, &device_ops, device, &err), STATUS_OK);
}

GUEST(in_out, "64",
      "mov $0x1111111111111111, %rax; mov $0x120, %edx\n"
      "in %dx, %al; mov %rax, %rbx; in %dx, %ax; mov %rax, %rcx\n"
      "in %dx, %eax; mov %rax, %rsi; mov $0x12345678, %eax\n"
      "mov $0x133, %edx; out %al, %dx; out %ax, %dx; out %eax, %dx; hlt");

static void sizes(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    fixture_run(&vm, in_out);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0x1111111111111101);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0x1111111111112202);
    assert_int_equal(vm.vcpu->gpr[GPR_RSI], 0x44332203);
    assert_int_equal(device.writes, 3);
    assert_int_equal(device.last_offset, 0x33);
    assert_int_equal(device.last_size, 4);
    assert_int_equal(device.last_value, 0x12345678);
    assert_int_equal(vm.vcpu->stats.port_io, 6);
    testvm_destroy(&vm);
}

GUEST(in_imm, "64", "mov $0x120, %edx; in $0xfe, %al; hlt");

static void immediate_port_is_one_byte(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    fixture_run(&vm, in_imm);
    assert_int_equal(device.reads, 0);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX] & 0xff, 0xff); /* nobody at 0xfe */
    testvm_destroy(&vm);
}

GUEST(rep_outsb, "64",
      "mov $0x30000, %esi; mov $0x100, %edx; mov $5, %ecx; rep outsb\n"
      "std; mov $0x30004, %esi; mov $2, %ecx; rep outsb; hlt");

static void string_output(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    testvm_put(&vm, DATA, "abcde", 5);
    fixture_run(&vm, rep_outsb);
    assert_int_equal(device.writes, 7);
    assert_memory_equal(device.written, "abcdeed", 7);
    assert_int_equal(vm.vcpu->gpr[GPR_RSI], 0x30002);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0);
    testvm_destroy(&vm);
}

GUEST(rep_insd, "64", "mov $0x30000, %edi; mov $0x100, %edx; mov $4, %ecx; rep insl; hlt");

static void string_input(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    fixture_run(&vm, rep_insd);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(fixture_peek(&vm, DATA + 4 * i, 4), 0x44332201 + i);
    assert_int_equal(vm.vcpu->gpr[GPR_RDI], DATA + 16);
    testvm_destroy(&vm);
}

/* Left in the middle and begun again: each element is moved once. */
GUEST(rep_insb, "64", "mov $0x30000, %edi; mov $0x100, %edx; mov $6, %ecx; rep insb; hlt");

static void string_is_restartable(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    device.interrupt_at_read_3 = vm.vcpu;
    assert_int_equal(fixture_run(&vm, rep_insb), VCPU_EXIT_REQUESTED);
    assert_int_equal(device.reads, 3);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 3);
    assert_int_equal(vm.vcpu->rip, CODE + 15);
    assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(device.reads, 6);
    assert_int_equal(fixture_peek(&vm, DATA, 8), 0x060504030201);
    testvm_destroy(&vm);
}

/* The destination is checked before the port is read: what was read could not be put back. */
GUEST(insb_bad, "64", "mov $0x100000000, %rdi; mov $0x100, %edx; insb; hlt");

static void input_fault_loses_nothing(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    fixture_run(&vm, insb_bad);
    assert_int_equal(fixture_caught(&vm), VECTOR_PF);
    assert_int_equal(device.reads, 0);
    testvm_destroy(&vm);
}

GUEST(user_in, "64", "mov $0x13f, %edx; in %dx, %eax; ud2");

static void permission_map(void **state)
{
    static const struct {
        uint64_t iopl, limit;
        uint16_t map; /* bits of ports 0x138-0x147 */
        int vector;
    } cases[] = {
        {0, 0x1ff, 0, VECTOR_UD},       /* all four allowed */
        {0, 0x1ff, 0x0080, VECTOR_GP},  /* the first not */
        {0, 0x1ff, 0x0400, VECTOR_GP},  /* the fourth not, in the next byte */
        {0, 0x1ff, 0x0800, VECTOR_UD},  /* one beyond */
        {0, 0x68 + 0x27, 0, VECTOR_GP}, /* the map's second byte is outside the TSS */
        {0, 0x68 + 0x28, 0, VECTOR_UD}, {0, 0x66, 0, VECTOR_GP}, /* no room for the map's base */
        {3, 0x1ff, 0xffff, VECTOR_UD},                           /* IOPL goes before the map */
        {2, 0x1ff, 0xffff, VECTOR_GP},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        struct fake_device device;
        create(&vm, &device, MODE_LONG, 8);
        fixture_poke(&vm, TSS + 0x68 + 0x138 / 8, cases[i].map, 2);
        vm.vcpu->tr.limit = (uint32_t)cases[i].limit;
        vm.vcpu->rflags |= cases[i].iopl << 12;
        fixture_enter_user(&vm);
        fixture_run(&vm, user_in);
        if (fixture_caught(&vm) != cases[i].vector)
            fail_msg("case %u: vector %d", i, fixture_caught(&vm));
        assert_int_equal(device.reads, cases[i].vector == VECTOR_UD);
        testvm_destroy(&vm);
    }
}

GUEST(in_watched, "64", "mov $0x123, %edx; in %dx, %al; nop; hlt");

static void io_breakpoint(void **state)
{
    struct testvm vm;
    struct fake_device device;
    create(&vm, &device, MODE_LONG, 8);
    vm.vcpu->mmu.cr4 |= CR4_DE;
    vm.vcpu->dr[3] = 0x123;
    vm.vcpu->dr[7] |= 1u << 6 | 2u << 28;
    fixture_run(&vm, in_watched);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(vm.vcpu->dr[6], 0xffff0ff8);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 6);
    assert_int_equal(device.reads, 1);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(immediate_port_is_one_byte),
        cmocka_unit_test(string_output),
        cmocka_unit_test(string_input),
        cmocka_unit_test(string_is_restartable),
        cmocka_unit_test(input_fault_loses_nothing),
        cmocka_unit_test(permission_map),
        cmocka_unit_test(io_breakpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
