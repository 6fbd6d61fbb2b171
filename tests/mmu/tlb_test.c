/* The TLB as the guest sees it: staleness, flushes, large pages, reasons, devices, watched pages.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tlb_fixture.h"

/* Of the entry for reads. */
static uint64_t *info_of(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear)
{
    return &mmu->tlb_info[privilege][linear >> PAGE_SHIFT & (TLB_ENTRIES - 1)].of[MMU_READ];
}

/* An entry stays as it was until it is flushed, for all kinds of access; then the new one counts.
 */
static void test_stale_until_flushed(void **state)
{
    struct mmu *mmu = mmu_of(state);
    for (unsigned kind = 0; kind < 3; kind++) {
        machine_map(*state, ROOT, LINEAR, PAGE_A | LEAF);
        mmu_flush(mmu, false);
        for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
            assert_int_equal(reach(mmu, LINEAR, MMU_READ, privilege), PAGE_A);
            assert_int_equal(reach(mmu, LINEAR, MMU_EXECUTE, privilege), PAGE_A);
        }
        uint64_t misses = mmu->stats.tlb_misses;
        machine_map(*state, ROOT, LINEAR, PAGE_B | LEAF);
        for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
            assert_int_equal(reach(mmu, LINEAR, MMU_READ, privilege), PAGE_A);
            assert_int_equal(reach(mmu, LINEAR + 77, MMU_WRITE, privilege), PAGE_A);
            assert_int_equal(reach(mmu, LINEAR, MMU_EXECUTE, privilege), PAGE_A);
        }
        assert_int_equal(mmu->stats.tlb_misses, misses);
        if (kind == 0)
            mmu_flush(mmu, false);
        else if (kind == 1)
            mmu_flush(mmu, true);
        else
            mmu_flush_page(mmu, LINEAR + 0x123);
        for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
            assert_null(mmu_probe_read(mmu, privilege, LINEAR, 1));
            assert_null(mmu_probe_write(mmu, privilege, LINEAR, 1));
            assert_int_equal(reach(mmu, LINEAR, MMU_READ, privilege), PAGE_B);
            assert_int_equal(reach(mmu, LINEAR, MMU_EXECUTE, privilege), PAGE_B);
        }
    }
}

static void test_global(void **state)
{
    struct mmu *mmu = mmu_of(state);
    for (unsigned pge = 0; pge < 2; pge++) {
        mmu->cr4 = CR4_PAE_BIT | (pge ? CR4_PGE_BIT : 0);
        machine_map(*state, ROOT, LINEAR, PAGE_A | LEAF | PTE_G);
        mmu_flush(mmu, false);
        reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
        reach(mmu, LINEAR, MMU_EXECUTE, MMU_USER);
        machine_map(*state, ROOT, LINEAR, PAGE_B | LEAF | PTE_G);
        uint64_t after = pge ? PAGE_A : PAGE_B;
        mmu_flush(mmu, true);
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), after);
        assert_int_equal(reach(mmu, LINEAR, MMU_EXECUTE, MMU_USER), after);
        mmu_flush(mmu, true); /* a second one must not forget what the first has kept */
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), after);
        mmu_flush(mmu, false);
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), PAGE_B);
        assert_int_equal(reach(mmu, LINEAR, MMU_EXECUTE, MMU_USER), PAGE_B);
    }
    /* INVLPG takes global entries too. */
    machine_map(*state, ROOT, LINEAR, PAGE_A | LEAF | PTE_G);
    mmu_flush_page(mmu, LINEAR);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), PAGE_A);
    /* A slot that was global and is no more is flushed like others. */
    machine_map(*state, ROOT, LINEAR, PAGE_B | LEAF);
    mmu_flush_page(mmu, LINEAR);
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    mmu_flush(mmu, true);
    assert_null(mmu_probe_read(mmu, MMU_SUPERVISOR, LINEAR, 1));
}

/* Flushing any address of a large page drops all of it, and leaves other pages alone. */
static void check_large(struct machine *machine, uint64_t base, uint64_t size, uint64_t outside)
{
    struct mmu *mmu = &machine->cpus[0].mmu;
    static const uint64_t offsets[] = {0, 0x1000, 0x155000, 0x1ff000};
    for (unsigned flushed = 0; flushed < 5; flushed++) {
        mmu_flush(mmu, false);
        reach(mmu, outside, MMU_READ, MMU_SUPERVISOR);
        for (unsigned i = 0; i < ARRAY_LENGTH(offsets); i++) {
            reach(mmu, base + offsets[i], MMU_READ, MMU_USER);
            reach(mmu, base + offsets[i], MMU_WRITE, MMU_SUPERVISOR);
            reach(mmu, base + offsets[i], MMU_EXECUTE, MMU_SUPERVISOR);
        }
        /* The last address named is one that was never looked up, at the end of the page. */
        mmu_flush_page(mmu, flushed < 4 ? base + offsets[flushed] + 5 : base + size - 1);
        for (unsigned i = 0; i < ARRAY_LENGTH(offsets); i++) {
            assert_null(mmu_probe_read(mmu, MMU_USER, base + offsets[i], 1));
            assert_null(mmu_probe_write(mmu, MMU_SUPERVISOR, base + offsets[i], 1));
            uint64_t misses = mmu->stats.tlb_misses;
            reach(mmu, base + offsets[i], MMU_EXECUTE, MMU_SUPERVISOR);
            assert_int_equal(mmu->stats.tlb_misses, misses + 1);
        }
        assert_non_null(mmu_probe_read(mmu, MMU_SUPERVISOR, outside, 1));
    }
}

static void test_large_pages(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    /* 2 MiB: the second PDE of the same page directory. Outside: a small page, 2 GiB away. */
    uint64_t outside = LINEAR + 2 * GIB;
    machine_map(machine, ROOT, outside, PAGE_B | LEAF);
    machine_map(machine, ROOT, LINEAR, PAGE_A | LEAF);
    uint64_t base = (LINEAR & ~(uint64_t)0x3fffffff) + 8 * MIB;
    machine_put(machine, ROOT + 0x2000 + (base >> 21 & 511) * 8, 4 * MIB | LEAF | PTE_PS);
    check_large(machine, base, 2 * MIB, outside);
    reach(mmu, base + 0x3000, MMU_READ, MMU_SUPERVISOR);
    assert_true(*info_of(mmu, MMU_SUPERVISOR, base + 0x3000) & TLB_LARGE);
    /* A small page of the same GiB, elsewhere, survives; and flushing it leaves the large one. */
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    mmu_flush_page(mmu, base);
    assert_non_null(mmu_probe_read(mmu, MMU_SUPERVISOR, LINEAR, 1));
    reach(mmu, base + 0x3000, MMU_READ, MMU_SUPERVISOR);
    mmu_flush_page(mmu, LINEAR);
    assert_null(mmu_probe_read(mmu, MMU_SUPERVISOR, LINEAR, 1));
    assert_non_null(mmu_probe_read(mmu, MMU_SUPERVISOR, base + 0x3000, 1));

    /* 1 GiB, from guest-physical 0. */
    base = (LINEAR & ~(uint64_t)0x3fffffff) + GIB;
    machine_put(machine, ROOT + 0x1000 + (base >> 30 & 511) * 8, LEAF | PTE_PS);
    check_large(machine, base, GIB, outside);
    assert_int_equal(reach(mmu, base + 0x654321, MMU_READ, MMU_USER), 0x654000);
    assert_true(*info_of(mmu, MMU_USER, base + 0x654321) & TLB_HUGE);
    assert_int_equal(resolve(mmu, base + GIB - 8, MMU_READ, MMU_USER), MMU_MMIO);
    assert_int_equal(target.gpa, GIB - 8);

    /* Global large pages outlive a flush that keeps them, and are still found as large then. */
    machine_put(machine, ROOT + 0x1000 + (base >> 30 & 511) * 8, LEAF | PTE_PS | PTE_G);
    mmu_flush(mmu, false);
    reach(mmu, base + 0x5000, MMU_READ, MMU_USER);
    mmu_flush(mmu, true);
    assert_non_null(mmu_probe_read(mmu, MMU_USER, base + 0x5000, 1));
    mmu_flush_page(mmu, base + 0x777000);
    assert_null(mmu_probe_read(mmu, MMU_USER, base + 0x5000, 1));
}

static void test_large_pages_32(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    uint32_t pdes[2] = {(uint32_t)(4 * MIB | LEAF | PTE_PS), 0x30000 | LEAF};
    uint32_t pte = PAGE_A | LEAF;
    assert_int_equal(pmap_write(machine->map, 0x40000 + 4 * 0x300, pdes, 8), STATUS_OK);
    assert_int_equal(pmap_write(machine->map, 0x40000 + 4 * 0x100, &pdes[1], 4), STATUS_OK);
    assert_int_equal(pmap_write(machine->map, 0x30000 + 4 * 7, &pte, 4), STATUS_OK);
    mmu->cr0 = CR0_PG_BIT | CR0_WP_BIT | 1;
    mmu->cr4 = CR4_PSE_BIT;
    mmu->efer = 0;
    mmu->cr3 = 0x40000;
    mmu_flush(mmu, false);
    check_large(machine, 0xc0000000, 4 * MIB, 0x40007000);
    assert_int_equal(reach(mmu, 0xc0345678, MMU_READ, MMU_USER), 0x745000);
    assert_int_equal(reach(mmu, 0xc0407000, MMU_READ, MMU_USER), PAGE_A);
}

/* Reason bits, and what a write does about each. */
static void test_reasons(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    uint64_t *info = info_of(mmu, MMU_USER, LINEAR);

    machine_map(machine, ROOT, LINEAR, PAGE_A | (LEAF & ~PTE_D));
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(*info, PAGE_A | TLB_CLEAN);
    assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    assert_int_equal(*info, PAGE_A);
    assert_non_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));

    machine_map(machine, ROOT, LINEAR, PAGE_A | (LEAF & ~PTE_W) | PTE_G);
    mmu_flush(mmu, false);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(*info, PAGE_A | TLB_DENIED | TLB_GLOBAL);
    assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
    assert_int_equal(resolve(mmu, LINEAR + 9, MMU_WRITE, MMU_USER), MMU_FAULT);
    assert_int_equal(fault.error_code, 7);
    assert_int_equal(fault.address, LINEAR + 9);

    /* Zero, over a TLB entry that shows the common zero page. */
    machine_map(machine, ROOT, LINEAR, 0x60000 | LEAF);
    mmu_flush(mmu, false);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    const uint8_t *zero = target.host;
    assert_int_equal(*info, 0x60000 | TLB_ZERO);
    assert_int_equal(pmap_state(machine->map, 0x60), PAGE_ZERO);
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    reach(mmu, LINEAR, MMU_EXECUTE, MMU_USER);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    assert_ptr_not_equal(target.host, zero);
    *target.host = 0x5a;
    assert_int_equal(pmap_state(machine->map, 0x60), PAGE_PRIVATE);
    /* Nobody here sees the zero page any more. */
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    assert_int_equal(*target.host, 0x5a);
    reach(mmu, LINEAR, MMU_EXECUTE, MMU_USER);
    assert_int_equal(*target.host, 0x5a);
}

static void test_code_pages(void **state)
{
    struct machine *machine = *state;
    struct cpu *cpu = &machine->cpus[0];
    struct mmu *mmu = &cpu->mmu;
    uint64_t alias = LINEAR + 0x5000;
    machine_map(machine, ROOT, alias, PAGE_A | LEAF);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    reach(mmu, alias, MMU_WRITE, MMU_SUPERVISOR);
    assert_non_null(mmu_probe_write(mmu, MMU_SUPERVISOR, alias, 8));

    /* The mark takes write permission wherever it is, and nothing else. */
    mmu_mark_code(mmu, PAGE_A >> PAGE_SHIFT);
    assert_true(pmap_code_is_guarded(machine->map, PAGE_A >> PAGE_SHIFT));
    assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
    assert_null(mmu_probe_write(mmu, MMU_SUPERVISOR, alias, 1));
    assert_non_null(mmu_probe_read(mmu, MMU_USER, LINEAR, 1));
    assert_non_null(mmu_probe_read(mmu, MMU_SUPERVISOR, alias, 1));
    assert_true(*info_of(mmu, MMU_USER, LINEAR) & TLB_CODE);
    mmu_flush(mmu, false);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(*info_of(mmu, MMU_USER, LINEAR), PAGE_A | TLB_CODE);
    assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
    assert_int_equal(cpu->drops, 0);

    /* A write drops the code, and then writes run free. */
    reach(mmu, LINEAR + 8, MMU_WRITE, MMU_USER);
    assert_int_equal(cpu->drops, 1);
    assert_int_equal(cpu->last_drop, PAGE_A >> PAGE_SHIFT);
    assert_int_equal(mmu->stats.code_writes, 1);
    assert_false(pmap_has_code(machine->map, PAGE_A >> PAGE_SHIFT));
    assert_non_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 8));

    /* So does a write by a device. */
    mmu_mark_code(mmu, PAGE_A >> PAGE_SHIFT);
    mmu_park(mmu);
    machine_put(machine, PAGE_A, 1);
    mmu_unpark(mmu);
    assert_int_equal(cpu->drops, 2);

    /* No RAM: nothing to mark, and no endless loop. */
    mmu_mark_code(mmu, GIB >> PAGE_SHIFT);
    mmu_mark_code(mmu, UINT64_MAX >> PAGE_SHIFT);

    /* Accessed and dirty bits are writes too: code in a page table's page. */
    uint64_t table = ROOT + 0x3000;
    machine_map(machine, ROOT, LINEAR, PAGE_A | PTE_P | PTE_W | PTE_U);
    mmu_flush(mmu, false);
    mmu_mark_code(mmu, table >> PAGE_SHIFT);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    assert_int_equal(cpu->drops, 3);
    assert_int_equal(cpu->last_drop, table >> PAGE_SHIFT);
    assert_false(pmap_has_code(machine->map, table >> PAGE_SHIFT));
    assert_int_equal(machine_get(machine, table + (LINEAR >> 12 & 511) * 8), PAGE_A | LEAF);
}

/* The recursive slot: one entry is used at every level of one walk. */
static void test_self_mapping(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    const unsigned slot = 510;
    uint64_t self = ROOT + slot * 8;
    uint64_t index = slot, root_linear = 0xffff000000000000 | index << 39 | index << 30 |
                                         index << 21 | index << 12;
    machine_put(machine, self, ROOT | PTE_P | PTE_W | PTE_U);
    mmu_flush(mmu, false);
    assert_int_equal(reach(mmu, root_linear, MMU_READ, MMU_SUPERVISOR), ROOT);
    assert_int_equal(machine_get(machine, self), ROOT | PTE_P | PTE_W | PTE_U | PTE_A);
    reach(mmu, root_linear, MMU_WRITE, MMU_SUPERVISOR);
    assert_int_equal(machine_get(machine, self), ROOT | LEAF);

    /* From scratch by a write; and again one level down, where the last entry is another. */
    machine_put(machine, self, ROOT | PTE_P | PTE_W | PTE_U);
    mmu_flush(mmu, false);
    reach(mmu, root_linear, MMU_WRITE, MMU_SUPERVISOR);
    assert_int_equal(machine_get(machine, self), ROOT | LEAF);
    uint64_t pml4e = ROOT + (LINEAR >> 39 & 511) * 8;
    machine_put(machine, self, ROOT | PTE_P | PTE_W | PTE_U);
    machine_put(machine, pml4e, (ROOT + 0x1000) | PTE_P | PTE_W | PTE_U);
    mmu_flush(mmu, false);
    uint64_t pdpt_linear = (root_linear & ~((uint64_t)511 << 12)) | (LINEAR >> 39 & 511) << 12;
    assert_int_equal(reach(mmu, pdpt_linear, MMU_WRITE, MMU_SUPERVISOR), ROOT + 0x1000);
    assert_int_equal(machine_get(machine, self), ROOT | PTE_P | PTE_W | PTE_U | PTE_A);
    assert_int_equal(machine_get(machine, pml4e), (ROOT + 0x1000) | LEAF);

    /* The guest edits its own tables through the mapping, and sees the result after INVLPG. */
    uint64_t pte_linear = 0xffff000000000000 | index << 39 | (LINEAR >> 9 & 0x7ffffffff8);
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    reach(mmu, pte_linear, MMU_WRITE, MMU_SUPERVISOR);
    uint64_t pte = PAGE_B | LEAF;
    memcpy(target.host, &pte, 8);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), PAGE_A);
    mmu_flush_page(mmu, LINEAR);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), PAGE_B);
}

/* Tables where there is no RAM read as all ones. */
static void test_tables_outside_ram(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    mmu->cr3 = 0x3ffffffff000;
    mmu_flush(mmu, false);
    assert_int_equal(resolve(mmu, LINEAR, MMU_READ, MMU_USER), MMU_FAULT);
    assert_int_equal(fault.error_code, 4 | 8 | 1);
    mmu->cr3 = ROOT;
    machine_put(machine, ROOT + 0x2000 + (LINEAR >> 21 & 511) * 8, GIB | LEAF);
    mmu_flush(mmu, false);
    assert_int_equal(resolve(mmu, LINEAR, MMU_WRITE, MMU_SUPERVISOR), MMU_FAULT);
    assert_int_equal(fault.error_code, 2 | 8 | 1);

    mmu->cr0 = CR0_PG_BIT;
    mmu->cr4 = 0;
    mmu->efer = 0;
    mmu->cr3 = 0x80000000;
    mmu_flush(mmu, false);
    assert_int_equal(resolve(mmu, 0x12345678, MMU_WRITE, MMU_USER), MMU_MMIO);
    assert_int_equal(target.gpa, 0xfffff678);
    mmu->cr4 = CR4_PSE_BIT;
    mmu_flush(mmu, false);
    assert_int_equal(resolve(mmu, 0x12345678, MMU_WRITE, MMU_USER), MMU_FAULT);
    assert_int_equal(fault.error_code, 2 | 4 | 8 | 1);

    /* Tables that nobody has written are zero pages: nothing is present, nothing is allocated. */
    mmu->cr3 = 0x700000;
    assert_int_equal(resolve(mmu, 0x12345678, MMU_WRITE, MMU_USER), MMU_FAULT);
    assert_int_equal(fault.error_code, 2 | 4);
    assert_int_equal(pmap_state(machine->map, 0x700), PAGE_ZERO);
}

struct device {
    struct machine *machine;
    uint64_t value;
    bool parked;
};

/* Writes guest memory that the calling vCPU has in its TLB: deadlocks unless that one is parked. */
static uint64_t device_read(void *context, uint64_t offset, unsigned size)
{
    struct device *device = context;
    machine_put(device->machine, 0x70000, offset);
    device->parked = device->machine->cpus[0].mmu.parked;
    return device->value;
}

static void device_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct device *device = context;
    device->value = value + offset;
}

static void test_mmio(void **state)
{
    static const struct bus_ops ops = {.read = device_read, .write = device_write};
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    struct device device = {.machine = machine};
    assert_int_equal(bus_add(machine->bus, 0xfee00000, 0x1000, &ops, &device, NULL), STATUS_OK);
    machine_map(machine, ROOT, LINEAR, 0xfee00000 | PTE_P | PTE_W);
    uint64_t zero_linear = LINEAR + PAGE_SIZE;
    machine_map(machine, ROOT, zero_linear, 0x70000 | LEAF);
    mmu_flush(mmu, false);

    /* The zero page is in the TLB, so that the device's write must revoke it. */
    reach(mmu, zero_linear, MMU_READ, MMU_SUPERVISOR);
    assert_int_equal(resolve(mmu, LINEAR + 0x20, MMU_WRITE, MMU_SUPERVISOR), MMU_MMIO);
    assert_int_equal(target.gpa, 0xfee00020);
    assert_null(target.host);
    /* Accessed and dirty are set all the same; permissions hold. */
    assert_int_equal(machine_get(machine, ROOT + 0x3000 + (LINEAR >> 12 & 511) * 8),
                     0xfee00000 | PTE_P | PTE_W | PTE_A | PTE_D);
    assert_int_equal(resolve(mmu, LINEAR + 0x20, MMU_READ, MMU_USER), MMU_FAULT);
    assert_null(mmu_probe_read(mmu, MMU_SUPERVISOR, LINEAR, 4));

    mmu_device_write(mmu, 0xfee00020, 4, 100);
    assert_int_equal(device.value, 132);
    assert_int_equal(mmu_device_read(mmu, 0xfee00008, 4), 132);
    assert_true(device.parked);
    assert_false(mmu->parked);
    assert_int_equal(mmu->stats.mmio, 2);
    assert_int_equal(reach(mmu, zero_linear, MMU_READ, MMU_SUPERVISOR), 0x70000);
    assert_int_equal(*target.host, 8);
}

static void test_watched_pages(void **state)
{
    struct mmu *mmu = mmu_of(state);
    uint64_t other = LINEAR + PAGE_SIZE, pages[2] = {LINEAR + 0x123, other};
    machine_map(*state, ROOT, other, PAGE_B | LEAF);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    reach(mmu, other, MMU_READ, MMU_USER);
    mmu_watch(mmu, pages, 1);
    assert_null(mmu_probe_read(mmu, MMU_USER, LINEAR, 1));
    assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
    assert_non_null(mmu_probe_read(mmu, MMU_USER, other, 1));
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(reach(mmu, LINEAR, MMU_WRITE, MMU_USER), PAGE_A);
        assert_non_null(target.host);
        assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
        reach(mmu, LINEAR, MMU_READ, MMU_USER);
        assert_null(mmu_probe_read(mmu, MMU_USER, LINEAR, 1));
    }
    mmu_watch(mmu, pages + 1, 1);
    assert_null(mmu_probe_read(mmu, MMU_USER, other, 1));
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_non_null(mmu_probe_read(mmu, MMU_USER, LINEAR, 1));
    mmu_watch(mmu, NULL, 0);
    reach(mmu, other, MMU_READ, MMU_USER);
    assert_non_null(mmu_probe_read(mmu, MMU_USER, other, 1));
}

/* With alignment checks on: the rules of user mode, and never a hit. */
static void test_checked_user(void **state)
{
    struct mmu *mmu = mmu_of(state);
    uint64_t kernel = LINEAR + PAGE_SIZE;
    machine_map(*state, ROOT, kernel, PAGE_B | (LEAF & ~PTE_U));
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER_CHECKED), PAGE_A);
        assert_int_equal(reach(mmu, LINEAR, MMU_WRITE, MMU_USER_CHECKED), PAGE_A);
        assert_null(mmu_probe_read(mmu, MMU_USER_CHECKED, LINEAR, 1));
        assert_null(mmu_probe_write(mmu, MMU_USER_CHECKED, LINEAR, 1));
        reach(mmu, kernel, MMU_READ, MMU_SUPERVISOR);
        assert_int_equal(resolve(mmu, kernel, MMU_READ, MMU_USER_CHECKED), MMU_FAULT);
        assert_int_equal(fault.error_code, 5);
    }
    assert_non_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 1));
}

static void test_paging_off(void **state)
{
    struct mmu *mmu = mmu_of(state);
    mmu->cr0 = CR0_WP_BIT | 1;
    mmu->cr4 = CR4_SMEP_BIT | CR4_SMAP_BIT;
    mmu->efer = 0;
    mmu_flush(mmu, false);
    uint64_t walks = mmu->stats.walks;
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        assert_int_equal(reach(mmu, PAGE_A + 4, MMU_READ, privilege), PAGE_A);
        assert_non_null(mmu_probe_write(mmu, privilege, PAGE_A, 8));
        assert_int_equal(reach(mmu, PAGE_A + 4, MMU_EXECUTE, privilege), PAGE_A);
        assert_int_equal(resolve(mmu, 0xfffffff0, MMU_EXECUTE, privilege), MMU_MMIO);
        assert_int_equal(target.gpa, 0xfffffff0);
    }
    assert_int_equal(mmu->stats.walks, walks);
}

static void test_probe_borders(void **state)
{
    struct mmu *mmu = mmu_of(state);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    for (unsigned size = 1; size <= 8; size *= 2) {
        assert_non_null(mmu_probe_read(mmu, MMU_USER, LINEAR + PAGE_SIZE - size, size));
        assert_non_null(mmu_probe_write(mmu, MMU_USER, LINEAR + PAGE_SIZE - size, size));
        assert_null(mmu_probe_read(mmu, MMU_USER, LINEAR + PAGE_SIZE - size + 1, size));
        assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR + PAGE_SIZE - size + 1, size));
        assert_null(mmu_probe_read(mmu, MMU_USER, LINEAR - 1, size));
    }
    /* No address hits an empty TLB, whatever its tag. */
    mmu_flush(mmu, false);
    assert_null(mmu_probe_read(mmu, MMU_USER, 0, 1));
    assert_null(mmu_probe_read(mmu, MMU_USER, 1, 1));
    assert_null(mmu_probe_read(mmu, MMU_USER, UINT64_MAX, 1));
}

static void test_pdptes(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    uint64_t table = 0x40fe0, good[4] = {0x1001, 0xffe, 0x3fffffffffffffff & ~(uint64_t)1, 0xe19};
    for (unsigned i = 0; i < 4; i++)
        machine_put(machine, table + i * 8, good[i]);
    assert_int_equal(mmu_load_pdptes(mmu, table | 0x1f), MMU_OK);
    assert_memory_equal(mmu->pdpte, good, sizeof(good));

    for (unsigned n = 0; n < 64; n++) {
        bool reserved = n == 1 || n == 2 || (n >= 5 && n <= 8) || n >= 46;
        machine_put(machine, table + 24, bit(n) | 1);
        memset(mmu->pdpte, 0x77, sizeof(mmu->pdpte));
        assert_int_equal(mmu_load_pdptes(mmu, table), reserved ? MMU_FAULT : MMU_OK);
        assert_int_equal(mmu->pdpte[0], reserved ? 0x7777777777777777 : good[0]);
        machine_put(machine, table + 24, bit(n) & ~(uint64_t)1);
        assert_int_equal(mmu_load_pdptes(mmu, table),
                         MMU_OK); /* not present: nothing is reserved */
    }
    assert_int_equal(mmu_load_pdptes(mmu, 0x80000000), MMU_FAULT); /* no RAM */
}

/* An MMU that was never used answers no probe: not for page 0, and not in the slot of the last
 * page, where an access that ends in page 0 looks for that. */
static void test_unused(void **state)
{
    struct mmu *mmu = mmu_of(state);
    for (unsigned privilege = 0; privilege <= MMU_USER_CHECKED; privilege++) {
        assert_null(mmu_probe_read(mmu, privilege, 0x10, 1));
        assert_null(mmu_probe_write(mmu, privilege, 0x10, 1));
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++)
            assert_int_not_equal(mmu->tlb[privilege][TLB_ENTRIES - 1].of[access].tag, 0);
    }
    /* Nor is there a spare entry for it: there is no page 0. */
    for (unsigned privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
            const struct tlb_slot *spare = mmu->tlb_spare[privilege];
            assert_int_not_equal(spare[tlb_spare_slot(mmu, 0)].of[access].tag, 0);
            assert_int_not_equal(spare[tlb_spare_slot(mmu, UINT64_MAX)].of[access].tag, 0);
        }
        assert_int_equal(resolve(mmu, 0x10, MMU_READ, privilege), MMU_FAULT);
        assert_int_equal(resolve(mmu, 0x10, MMU_WRITE, privilege), MMU_FAULT);
    }
    for (unsigned table = 0; table < 2; table++)
        assert_int_not_equal(mmu->itlb[table][0].tag, 0);
}

/*
 * Random accesses, changes of the tables and flushes over a few pages that share TLB slots, against
 * a model of what may be cached: a page must never show a mapping older than its last flush.
 */
static void test_random_sequences(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = &machine->cpus[0].mmu;
    enum { PAGES = 12 };
    static const enum mmu_access accesses[] = {MMU_READ, MMU_WRITE, MMU_EXECUTE};
    uint64_t linear[PAGES], seed = 7;
    /* For each page: the frame mapped now and whether it is global; for each frame whether it may
     * be cached, as a global page and as another. */
    unsigned now[PAGES] = {0};
    bool global[PAGES] = {false};
    enum { MAY_LOCAL = 1, MAY_GLOBAL = 2 };
    uint8_t may[PAGES][16] = {{0}};
    for (unsigned i = 0; i < PAGES; i++) {
        /* Four addresses on each of three TLB slots. */
        linear[i] = LINEAR + (i % 3) * PAGE_SIZE + (uint64_t)(i / 3) * TLB_ENTRIES * PAGE_SIZE;
        machine_map(machine, ROOT, linear[i], 0x80000 | LEAF);
    }
    /* The fixture's tables are shared by the regions: one page table, so give each its own. */
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t table = 0x90000 + (i / 3) * PAGE_SIZE;
        machine_put(machine, ROOT + 0x2000 + (linear[i] >> 21 & 511) * 8, table | LEAF);
        machine_put(machine, table + (linear[i] >> 12 & 511) * 8, 0x80000 | LEAF);
    }
    for (unsigned i = 0; i < 16; i++)
        machine_at(machine, 0x80000 + i * PAGE_SIZE);
    mmu_flush(mmu, false);

    unsigned hits = 0, stale = 0;
    for (unsigned step = 0; step < 200000; step++) {
        uint64_t random = test_random(&seed);
        unsigned i = (unsigned)(random % PAGES);
        switch (random >> 8 & 15) {
        case 0:
        case 1:
            now[i] = (unsigned)(random >> 16 & 15);
            global[i] = random >> 20 & 1;
            machine_put(machine, 0x90000 + (i / 3) * PAGE_SIZE + (linear[i] >> 12 & 511) * 8,
                        (0x80000 + now[i] * PAGE_SIZE) | LEAF | (global[i] ? PTE_G : 0));
            if (random >> 21 & 1) { /* half of the time the guest forgets to flush */
                mmu_flush_page(mmu, linear[i] + (random >> 30 & 0xfff));
                memset(may[i], 0, sizeof(may[i]));
            }
            break;
        case 2: {
            bool keep = random >> 16 & 1;
            mmu_flush(mmu, keep);
            for (unsigned j = 0; j < PAGES * 16; j++)
                may[j / 16][j % 16] &= keep ? MAY_GLOBAL : 0;
            break;
        }
        default: {
            enum mmu_access access = accesses[(random >> 16) % 3];
            enum mmu_privilege privilege = (random >> 20) % MMU_PRIVILEGES;
            uint64_t misses = mmu->stats.tlb_misses;
            unsigned frame =
                (unsigned)(reach(mmu, linear[i] + 8, access, privilege) - 0x80000) >> PAGE_SHIFT;
            assert_true(frame == now[i] || may[i][frame]);
            hits += mmu->stats.tlb_misses == misses;
            stale += frame != now[i];
            if (frame == now[i])
                may[i][frame] |= global[i] ? MAY_GLOBAL : MAY_LOCAL;
            assert_int_equal(target.gpa & PAGE_MASK, 8);
            uint8_t *page = machine_at(machine, 0x80000 + frame * PAGE_SIZE);
            assert_ptr_equal(target.host, page + 8);
            break;
        }
        }
    }
    /* The model bites only if the TLB was used, and if entries really went stale. */
    assert_true(hits > 1000);
    assert_true(stale > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stale_until_flushed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_global, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_pages_32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reasons, setup, teardown),
        cmocka_unit_test_setup_teardown(test_code_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_self_mapping, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tables_outside_ram, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mmio, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watched_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_checked_user, setup, teardown),
        cmocka_unit_test_setup_teardown(test_paging_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_probe_borders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pdptes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_sequences, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
