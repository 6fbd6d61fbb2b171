/* See fuzz_translate.h. */

#include <string.h>

#include "cpu/thunk/xstate.h"
#include "fuzz_translate.h"

#define PML4      0x1000u
#define PDPT      0x2000u
#define DIRECTORY 0x3000u
#define TSS       0x5000u
#define TABLE     0x6000u
#define IDT       0x7000u
#define STACK_TOP 0xa000u
#define VECTORS   256u

#define P  1ull
#define RW 2ull
#define US 4ull
#define G  0x100ull
#define NX (1ull << 63)

static void put_u64(uint8_t *ram, uint64_t at, uint64_t value)
{
    memcpy(ram + at, &value, sizeof(value));
}

static void map(uint8_t *ram, uint64_t linear, uint64_t physical, unsigned pages, uint64_t flags)
{
    for (unsigned i = 0; i < pages; i++)
        put_u64(ram, TABLE + 8 * (linear / PAGE_SIZE + i), (physical + i * PAGE_SIZE) | flags);
}

static void put_tables(uint8_t *ram, const struct fuzz_input *input, uint64_t handler)
{
    put_u64(ram, PML4, PDPT | P | RW | US);
    put_u64(ram, PDPT, DIRECTORY | P | RW | US);
    put_u64(ram, DIRECTORY, TABLE | P | RW | US);
    map(ram, PAGE_SIZE, PAGE_SIZE, 9, P | RW | G);
    map(ram, FUZZ_CODE, FUZZ_CODE, 4, P | RW | US);
    for (unsigned i = 0; i < 4; i++)
        map(ram, FUZZ_DATA + i * PAGE_SIZE, FUZZ_DATA + (3 - i) * PAGE_SIZE, 1, P | RW | US | NX);
    map(ram, FUZZ_CONST, FUZZ_CONST, 1, P | US);
    map(ram, FUZZ_KERNEL, FUZZ_KERNEL, 1, P | RW);
    map(ram, FUZZ_STACK, FUZZ_STACK, 2, P | RW | US | NX);
    map(ram, FUZZ_ALIAS, FUZZ_DATA, 1, P | RW | US);
    map(ram, FUZZ_ALIAS + PAGE_SIZE, FUZZ_CODE, 1, P | RW | US);
    put_u64(ram, TSS + 4, STACK_TOP);
    for (uint64_t vector = 0; vector < VECTORS; vector++) {
        uint64_t to =
            input->options & FUZZ_HANDLES && vector != VECTOR_DF ? handler : FUZZ_STUBS + vector;
        uint64_t dpl = vector == VECTOR_BP || vector == 0x80 ? 3 : 0;
        put_u64(ram, IDT + 16 * vector,
                (to & 0xffff) | 0x08ull << 16 | (0x8eull | dpl << 5) << 40 | to >> 16 << 48);
    }
    memset(ram + FUZZ_STUBS, 0xf4, VECTORS);
}

/* The low bits choose what it points to, the high ones where. */
static uint64_t register_value(uint8_t choice)
{
    static const uint32_t places[] = {FUZZ_DATA,
                                      FUZZ_DATA + PAGE_SIZE - 128,
                                      FUZZ_CODE,
                                      FUZZ_CONST,
                                      FUZZ_CONST - 128,
                                      FUZZ_KERNEL,
                                      FUZZ_ALIAS,
                                      FUZZ_ALIAS + PAGE_SIZE,
                                      FUZZ_STACK + PAGE_SIZE - 128};
    unsigned kind = choice & 15, where = choice >> 4;
    switch (kind) {
    case 9:
        return where;
    case 10:
        return ~(uint64_t)where;
    case 11:
        return 1ull << 4 * where;
    case 12:
        return 128u + 8 * where;
    case 13:
        return 0x8000000000000000u >> where;
    case 14:
        return 0x0123456789abcdefu << where;
    case 15:
        return 0x100000000u + FUZZ_DATA + where;
    default:
        return places[kind] + 16 * where + (where & 3);
    }
}

static void put_memory(struct testvm *vm, const struct fuzz_input *input, uint64_t start)
{
    static uint8_t ram[FUZZ_RAM];
    memset(ram, 0, sizeof(ram));
    pmap_read(vm->map, vm->vcpu->gdtr.base, ram + vm->vcpu->gdtr.base, vm->vcpu->gdtr.limit + 1u);
    put_tables(ram, input, start + 0x60);
    for (unsigned i = FUZZ_DATA; i < FUZZ_CONST + PAGE_SIZE; i++)
        ram[i] = (uint8_t)(i * 7 + (i >> 8));
    memset(ram + FUZZ_CODE, 0xcc, FUZZ_DATA - FUZZ_CODE);
    memcpy(ram + start, input->code, input->code_size);
    testvm_put(vm, 0, ram, sizeof(ram));
}

static void put_vectors(struct vcpu *vcpu, bool with_avx)
{
    struct xstate_image *image = xstate_of(vcpu);
    memset(vcpu->xstate, 0, sizeof(vcpu->xstate));
    image->fcw = FCW_INITIAL;
    image->mxcsr = MXCSR_INITIAL;
    image->xstate_bv = XSTATE_SSE | (with_avx ? XSTATE_AVX : 0);
    for (unsigned reg = 0; reg < 16; reg++) {
        for (unsigned i = 0; i < 16; i++) {
            image->xmm[reg][i] = (uint8_t)(reg * 16 + i);
            image->ymm_high[reg][i] = with_avx ? (uint8_t)(0x3f + reg - i) : 0;
        }
    }
}

/* What is mapped for the program is in the TLB, for it: so translated code finds it there. */
static void warm(struct vcpu *vcpu)
{
    struct mmu_target target;
    struct mmu_fault fault;
    if (vcpu->privilege >= MMU_PRIVILEGES)
        return;
    mmu_unpark(&vcpu->mmu);
    for (uint64_t at = FUZZ_DATA; at < FUZZ_ALIAS + 2 * PAGE_SIZE; at += PAGE_SIZE) {
        mmu_resolve(&vcpu->mmu, at, MMU_WRITE, vcpu->privilege, &target, &fault);
        mmu_resolve(&vcpu->mmu, at, MMU_READ, vcpu->privilege, &target, &fault);
    }
    mmu_park(&vcpu->mmu);
}

void fuzz_guest_reset(struct testvm *vm, const struct fuzz_input *input)
{
    struct vcpu *vcpu = vm->vcpu;
    uint64_t start = FUZZ_CODE + 17u * input->at;
    unsigned options = input->options;
    testvm_set_mode(vm, MODE_LONG, 8);
    put_memory(vm, input, start);
    vcpu->idtr = (struct descriptor_table){IDT, VECTORS * 16 - 1};
    vcpu->mmu.cr0 |= CR0_WP | (options & FUZZ_ALIGNMENT ? CR0_AM : 0);
    vcpu->mmu.cr4 |= CR4_PGE | CR4_TSD;
    vcpu->mmu.cr4 |= features_has(vcpu->features, FEATURE_FSGSBASE) ? CR4_FSGSBASE : 0;
    if (options & FUZZ_SMAP && features_has(vcpu->features, FEATURE_SMAP))
        vcpu->mmu.cr4 |= CR4_SMAP;
    if (!(options & FUZZ_AT_CPL0)) {
        vcpu->seg[SEG_CS] = (struct segment){0, UINT32_MAX, 0xfb | SEG_G | SEG_L, 0x3b};
        vcpu->seg[SEG_SS] = (struct segment){0, UINT32_MAX, 0xf3 | SEG_G | SEG_DB, 0x33};
    }
    vcpu->seg[SEG_FS].base = FUZZ_DATA + 0x800;
    vcpu->seg[SEG_GS].base = FUZZ_DATA + 0x1800;
    vcpu->msr.kernel_gs_base = FUZZ_DATA + 0x2800;
    vcpu->msr.star = 0x08ull << 32 | 0x28ull << 48;
    vcpu->msr.lstar = start + 0x40;
    vcpu->msr.sfmask = FLAG_IF | FLAG_DF | FLAG_TF | FLAG_AC;
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++)
        vcpu->gpr[gpr] = register_value(input->registers[gpr]);
    vcpu->gpr[GPR_RSP] =
        (options & FUZZ_AT_CPL0 && options & FUZZ_SMAP ? FUZZ_KERNEL : FUZZ_STACK) + PAGE_SIZE - 8 -
        16 * (input->registers[GPR_RSP] & 15u);
    vcpu->rflags = FLAG_FIXED | FLAG_IF | (input->flags & 0xd5) | (input->flags & 2 ? FLAG_AC : 0) |
                   (input->flags & 8 ? FLAG_DF | FLAG_OF : 0);
    put_vectors(vcpu, input->flags & 32 && features_has(vcpu->features, FEATURE_AVX));
    vcpu->rip = vcpu->next_rip = start;
    vcpu->irq_waiting = 0;
    atomic_store(&vcpu->attention, 0);
    vcpu_update_mode(vcpu);
    mmu_flush(&vcpu->mmu, false);
    if (!(options & FUZZ_COLD))
        warm(vcpu);
}
