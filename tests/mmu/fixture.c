#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void count_drop(void *context, uint64_t ppn)
{
    struct cpu *cpu = context;
    cpu->drops++;
    cpu->last_drop = ppn;
}

enum mmu_mode machine_mode;

struct machine *machine_create(unsigned cpu_count)
{
    return machine_create_with(cpu_count,
                               &(struct mmu_config){.mode = machine_mode, .shadow_bytes = MIB});
}

struct machine *machine_create_with(unsigned cpu_count, const struct mmu_config *config)
{
    static const struct ram_range ram[] = {{0, RAM_LOW_END}, {RAM_HIGH_BASE, 4 * MIB}};
    struct machine *machine = calloc(1, sizeof(*machine));
    assert_non_null(machine);
    machine->cpus = calloc(cpu_count, sizeof(*machine->cpus));
    assert_non_null(machine->cpus);
    machine->cpu_count = cpu_count;
    assert_int_equal(pmap_create(&machine->map, ram, ARRAY_LENGTH(ram), NULL), STATUS_OK);
    assert_int_equal(bus_create(&machine->bus, NULL, NULL), STATUS_OK);
    assert_int_equal(mmu_domain_create(&machine->domain, machine->map, config, NULL), STATUS_OK);
    for (unsigned i = 0; i < cpu_count; i++) {
        struct cpu *cpu = &machine->cpus[i];
        assert_int_equal(mmu_init(&cpu->mmu, machine->domain, machine->bus, &cpu->attention, 1,
                                  count_drop, cpu, NULL),
                         STATUS_OK);
        mmu_unpark(&cpu->mmu);
    }
    return machine;
}

void machine_destroy(struct machine *machine)
{
    struct error err = {0};
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        mmu_park(&machine->cpus[i].mmu);
        mmu_destroy(&machine->cpus[i].mmu);
    }
    if (pmap_check(machine->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    mmu_domain_destroy(machine->domain);
    bus_destroy(machine->bus);
    pmap_destroy(machine->map);
    free(machine->cpus);
    free(machine);
}

void machine_long_mode(struct mmu *mmu, uint64_t root)
{
    mmu->cr0 = CR0_PG_BIT | CR0_WP_BIT | 1;
    mmu->cr4 = CR4_PAE_BIT | CR4_PGE_BIT;
    mmu->efer = EFER_LMA_BIT | EFER_NXE_BIT;
    mmu->cr3 = root;
    mmu_flush(mmu, false);
}

void machine_revoke(struct machine *machine, uint64_t ppn)
{
    struct pmap_revocation what = {.ppns = &ppn, .code_ppns = &ppn, .count = 1, .code_count = 1};
    mmu_domain_revoke(machine->domain, &what);
}

void *machine_at(struct machine *machine, uint64_t gpa)
{
    uint8_t *page = pmap_page_write(machine->map, gpa >> PAGE_SHIFT);
    assert_non_null(page);
    return page + (gpa & PAGE_MASK);
}

uint64_t machine_get(struct machine *machine, uint64_t gpa)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(machine->map, gpa, &value, sizeof(value)), STATUS_OK);
    return value;
}

void machine_put(struct machine *machine, uint64_t gpa, uint64_t value)
{
    assert_int_equal(pmap_write(machine->map, gpa, &value, sizeof(value)), STATUS_OK);
}

void machine_map(struct machine *machine, uint64_t root, uint64_t linear, uint64_t entry)
{
    uint64_t table = root;
    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint64_t next = table + PAGE_SIZE;
        machine_put(machine, table + (linear >> shift & 511) * 8, next | PTE_P | PTE_W | PTE_U);
        table = next;
    }
    machine_put(machine, table + (linear >> 12 & 511) * 8, entry);
}

uint64_t test_random(uint64_t *seed)
{
    *seed += 0x9e3779b97f4a7c15;
    uint64_t value = *seed;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}
