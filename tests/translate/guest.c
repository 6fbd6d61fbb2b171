#include "guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "arena.h"

#define RAM_SIZE (4u << 20)

/* Guest-physical, and from KERNEL on linear. */
#define KERNEL      0xffff800000000000u
#define PML4        0x1000u
#define KERNEL_PDPT 0x2000u /* testvm's, to its directory at 0x3000 */
#define TSS         0x5000u
#define IDT         0x6000u
#define STUBS       0x7000u /* HLT, one a vector */
#define STACK_TOP   0x9000u
#define USER_PDPT   0xa000u
#define USER_PD     0xb000u
#define USER_PT     0xc000u
#define ARENA_GPA   0x100000u
#define VECTORS     32u
#define ALL_XSTATE  (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX)

uint64_t guest_gpa(uint64_t linear)
{
    return ARENA_GPA + (linear - ARENA);
}

static void put_u64(struct testvm *vm, uint64_t gpa, uint64_t value)
{
    testvm_put(vm, gpa, &value, sizeof(value));
}

static void map(struct testvm *vm, uint64_t linear, uint64_t size, uint64_t flags)
{
    for (uint64_t at = linear; at < linear + size; at += PAGE_SIZE)
        put_u64(vm, USER_PT + 8 * ((at - ARENA) >> PAGE_SHIFT), guest_gpa(at) | flags);
}

static void put_tables(struct testvm *vm)
{
    put_u64(vm, PML4 + 8 * 256, KERNEL_PDPT | 3);
    put_u64(vm, PML4, USER_PDPT | 7);
    put_u64(vm, USER_PDPT, USER_PD | 7);
    put_u64(vm, USER_PD + 8 * (ARENA >> 21), USER_PT | 7);
    map(vm, ARENA_CODE, ARENA_CODE_SIZE, 5);
    map(vm, ARENA_DATA, ARENA_DATA_RW, 7);
    map(vm, ARENA_DATA + ARENA_DATA_RW, ARENA_DATA_SIZE - ARENA_DATA_RW, 5);
    map(vm, ARENA_STACK, ARENA_STACK_SIZE, 7);
    map(vm, ARENA_CONTROL, ARENA_CONTROL_SIZE, 7);
    put_u64(vm, TSS + 4, KERNEL + STACK_TOP);
    for (uint64_t vector = 0; vector < VECTORS; vector++) {
        uint64_t stub = KERNEL + STUBS + vector;
        uint64_t dpl = vector == VECTOR_BP ? 3 : 0;
        put_u64(vm, IDT + 16 * vector,
                (stub & 0xffff) | 0x08ull << 16 | (0x8eull | dpl << 5) << 40 |
                    (stub >> 16 & 0xffff) << 48);
        put_u64(vm, IDT + 16 * vector + 8, stub >> 32);
        testvm_put(vm, STUBS + vector, "\xf4", 1);
    }
}

void guest_create(struct guest *guest, const char *name, const struct engine_ops *engine)
{
    struct testvm *vm = &guest->vm;
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, engine);
    guest->name = name;
    testvm_set_mode(vm, MODE_LONG, 8);
    put_tables(vm);

    struct vcpu *vcpu = vm->vcpu;
    vcpu->gdtr.base += KERNEL;
    vcpu->idtr = (struct descriptor_table){KERNEL + IDT, VECTORS * 16 - 1};
    vcpu->tr.base = KERNEL + TSS;
    vcpu->mmu.cr0 |= CR0_WP | CR0_AM;
    vcpu->mmu.cr4 |= features_has(vcpu->features, FEATURE_FSGSBASE) ? CR4_FSGSBASE : 0;
    mmu_flush(&vcpu->mmu, false);
}

void guest_destroy(struct guest *guest)
{
    testvm_destroy(&guest->vm);
}

static void set_user(struct vcpu *vcpu, const struct machine_state *state)
{
    vcpu->seg[SEG_CS] = (struct segment){0, UINT32_MAX, 0xfb | SEG_G | SEG_L, 0x3b};
    vcpu->seg[SEG_SS] = (struct segment){0, UINT32_MAX, 0xf3 | SEG_G | SEG_DB, 0x33};
    vcpu->seg[SEG_FS].base = state->fs_base;
    vcpu->seg[SEG_GS].base = state->gs_base;
    memcpy(vcpu->gpr, state->gpr, sizeof(vcpu->gpr));
    memcpy(vcpu->xstate, &state->xstate, sizeof(vcpu->xstate));
    vcpu->rflags = state->rflags;
    vcpu->rip = state->rip;
    vcpu->cr2 = 0;
    vcpu->dr[6] = 0xffff0ff0;
    vcpu->halted = false;
    vcpu_update_mode(vcpu);
}

static uint64_t frame_word(struct testvm *vm, unsigned n)
{
    uint64_t value = 0;
    uint64_t gpa = vm->vcpu->gpr[GPR_RSP] - KERNEL + 8 * n;
    assert_int_equal(pmap_read(vm->map, gpa, &value, 8), STATUS_OK);
    return value;
}

static bool pushes_error(unsigned vector)
{
    return (1u << vector & 0x27d00) != 0;
}

/* The exception that has brought the vCPU to its HLT. */
static void keep(struct testvm *vm, struct machine_state *state)
{
    struct vcpu *vcpu = vm->vcpu;
    state->vector = (unsigned)(vcpu->rip - 1 - (KERNEL + STUBS));
    assert_true(state->vector < VECTORS);
    unsigned at = 0;
    state->error_code = pushes_error(state->vector) ? (uint32_t)frame_word(vm, at++) : 0;
    state->rip = frame_word(vm, at);
    state->rflags = frame_word(vm, at + 2);
    memcpy(state->gpr, vcpu->gpr, sizeof(state->gpr));
    state->gpr[GPR_RSP] = frame_word(vm, at + 3);
    state->fs_base = vcpu->seg[SEG_FS].base;
    state->gs_base = vcpu->seg[SEG_GS].base;
    state->cr2 = vcpu->cr2;
    memcpy(&state->xstate, vcpu->xstate, sizeof(state->xstate));
}

static void copy_memory(struct testvm *vm, struct machine_memory *memory, bool in)
{
    struct {
        void *ours;
        uint64_t arena;
        size_t size;
    } areas[] = {
        {memory->data, ARENA_DATA, sizeof(memory->data)},
        {memory->stack, ARENA_STACK, sizeof(memory->stack)},
        {memory->control, ARENA_CONTROL, sizeof(memory->control)},
    };
    for (unsigned i = 0; i < 3; i++) {
        uint64_t gpa = guest_gpa(areas[i].arena);
        enum status status = in ? pmap_write(vm->map, gpa, areas[i].ours, areas[i].size)
                                : pmap_read(vm->map, gpa, areas[i].ours, areas[i].size);
        assert_int_equal(status, STATUS_OK);
    }
}

void guest_run(struct guest *guest, const uint8_t *code, size_t code_size,
               struct machine_state *state, struct machine_memory *memory)
{
    struct testvm *vm = &guest->vm;
    testvm_put(vm, guest_gpa(ARENA_CODE), code, code_size);
    copy_memory(vm, memory, true);
    set_user(vm->vcpu, state);
    guest->runs++;
    enum vcpu_exit exit = vm->engine->run(vm->vcpu);
    guest->runs++;
    if (exit == VCPU_EXIT_HALTED) {
        keep(vm, state);
    } else {
        state->vector = exit == VCPU_EXIT_REQUESTED ? MACHINE_ENDLESS : VECTOR_DF;
        state->rip = vm->vcpu->rip;
    }
    copy_memory(vm, memory, false);
}
