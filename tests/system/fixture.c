#include "fixture.h"

#define HLT 0xf4

uint64_t fixture_peek(struct testvm *vm, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(vm->map, gpa, &value, size), STATUS_OK);
    return value;
}

void fixture_poke(struct testvm *vm, uint64_t gpa, uint64_t value, unsigned size)
{
    assert_int_equal(pmap_write(vm->map, gpa, &value, size), STATUS_OK);
}

void fixture_set_descriptor(struct testvm *vm, uint16_t selector, uint64_t raw)
{
    fixture_poke(vm, GDT + selector, raw, 8);
}

void fixture_set_gate(struct testvm *vm, unsigned vector, uint16_t selector, uint64_t offset,
                      uint8_t type, unsigned ist)
{
    uint64_t low = (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
                   (uint64_t)type << 40 | (offset & 0xffff0000) << 32;
    if ((vm->vcpu->mmu.efer & EFER_LMA) != 0) {
        fixture_poke(vm, IDT + 16 * vector, low, 8);
        fixture_poke(vm, IDT + 16 * vector + 8, offset >> 32, 8);
    } else {
        fixture_poke(vm, IDT + 8 * vector, low, 8);
    }
}

static void put_handlers(struct testvm *vm, enum cpu_mode mode, unsigned code_size)
{
    bool is_long = mode == MODE_LONG || mode == MODE_COMPATIBILITY;
    uint16_t selector = is_long ? CODE64 : code_size == 4 ? CODE32 : CODE16;
    uint8_t gate = is_long || code_size == 4 ? 0x8e : 0x86;
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t handler = HANDLERS + 16 * vector;
        fixture_poke(vm, handler, HLT, 1);
        if (mode == MODE_REAL)
            fixture_poke(vm, 4 * vector, handler, 4); /* 0000:handler */
        else
            fixture_set_gate(vm, vector, selector, handler, gate, 0);
    }
}

static void put_tss(struct testvm *vm, bool is_long)
{
    if (is_long) {
        fixture_poke(vm, TSS + 4, INNER_STACK, 8);
        fixture_poke(vm, TSS + 36, IST_STACK, 8);
    } else {
        fixture_poke(vm, TSS + 4, INNER_STACK, 4);
        fixture_poke(vm, TSS + 8, DATA_FLAT, 4);
    }
    fixture_poke(vm, TSS + 102, 104, 2); /* no I/O map */
    vm->vcpu->tr = (struct segment){TSS, 0x67, 0x8b, TSS_SELECTOR};
}

void fixture_create(struct testvm *vm, enum cpu_mode mode, unsigned code_size)
{
    testvm_create(vm, 4 * MIB);
    fixture_reset(vm, mode, code_size);
}

void fixture_reset(struct testvm *vm, enum cpu_mode mode, unsigned code_size)
{
    testvm_set_mode(vm, mode, code_size);
    struct vcpu *vcpu = vm->vcpu;
    uint8_t gdt[10 * 8];
    assert_int_equal(pmap_read(vm->map, 0x4000, gdt, sizeof(gdt)), STATUS_OK);
    testvm_put(vm, GDT, gdt, sizeof(gdt));
    vcpu->gdtr = (struct descriptor_table){GDT, GDT_END - 1};
    put_handlers(vm, mode, code_size);
    put_tss(vm, mode == MODE_LONG || mode == MODE_COMPATIBILITY);
    vcpu->idtr = mode == MODE_REAL ? (struct descriptor_table){0, 0x3ff}
                                   : (struct descriptor_table){IDT, 0xfff};
    vcpu->gpr[GPR_RSP] = mode == MODE_REAL ? 0x5000 : code_size == 2 ? 0xfff0 : STACK;
    vcpu_update_mode(vcpu);
}

void fixture_enter_user(struct testvm *vm)
{
    struct vcpu *vcpu = vm->vcpu;
    struct segment *cs = &vcpu->seg[SEG_CS];
    cs->selector = vcpu->mode == MODE_LONG ? USER_CODE64 | 3 : USER_CODE32 | 3;
    cs->attributes |= SEG_DPL;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (i == SEG_CS)
            continue;
        vcpu->seg[i].selector = USER_DATA | 3;
        vcpu->seg[i].attributes |= SEG_DPL;
    }
    vcpu_update_mode(vcpu);
    assert_int_equal(vcpu->cpl, 3);
}

enum vcpu_exit fixture_run_bytes(struct testvm *vm, const uint8_t *code, size_t length)
{
    uint64_t rip = CODE;
    testvm_put(vm, CODE, code, length);
    if (vm->vcpu->mode == MODE_REAL) {
        vm->vcpu->seg[SEG_CS].selector = CODE >> 4;
    }
    if (vm->vcpu->code_size == 2) {
        vm->vcpu->seg[SEG_CS].base = CODE;
        rip = 0;
    }
    vm->vcpu->halted = false;
    return testvm_run(vm, rip);
}

int fixture_caught(const struct testvm *vm)
{
    uint64_t rip = vm->vcpu->rip;
    if (rip < HANDLERS || rip >= HANDLERS + 256 * 16 || rip % 16 != 1)
        return -1;
    return (int)((rip - HANDLERS) / 16);
}

int fixture_raised(struct testvm *vm, void (*fn)(struct vcpu *vcpu))
{
    jmp_buf here;
    volatile int vector = -1;
    mmu_unpark(&vm->vcpu->mmu);
    vm->vcpu->fault_exit = &here;
    if (setjmp(here) == 0)
        fn(vm->vcpu);
    else
        vector = vm->vcpu->fault.vector;
    vm->vcpu->fault_exit = NULL;
    mmu_park(&vm->vcpu->mmu);
    return vector;
}
