/*
 * Random histories: page tables written by the guest and by devices, accesses, flushes, changes of
 * mode, code decoded from whatever page, pages revoked, taken away and released, on two CPUs that
 * have their tables in common. After every access what came of it is looked up among the results
 * that a CPU may come to (staleness.h), with the bytes that it reached and the flags in the tables.
 *
 * Tables are few, and an entry leads to any of them: so a table is met at several levels, maps
 * itself, is written through a page that it maps, is code, is away. Calm and busy times take turns:
 * what is only done to tables that have been left alone for a while happens, and is undone.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../mem/memory_store.h"
#include "mmu/walk.h"
#include "staleness.h"

#define CPUS        2u
#define TABLES      14u /* from TABLE_FIRST */
#define TABLE_FIRST ((uint64_t)16)
#define PAGES       24u /* that entries lead to most: the tables, and pages after them */
#define STEPS       6000u
#define PHASE       250u
#define PERCENT(n)  (history_random(history, 100) < (n))

static uint64_t histories = 10;

struct history {
    const char *name;
    struct machine *machine;
    struct memory_store *store;
    struct staleness stale;
    struct stale_cpu cpus[CPUS];
    unsigned running; /* the CPU that is not parked */
    uint64_t seed, first_seed;
    unsigned step;
    bool busy;
    uint64_t exact, behind; /* accesses with one legal result, and with more */
    uint64_t faults, devices;
    uint64_t traced_writes, evictions; /* of the shadows */
    uint64_t returns;                  /* to address spaces that were kept */
};

static uint64_t history_random(struct history *history, uint64_t limit)
{
    return test_random(&history->seed) % limit;
}

static struct mmu *mmu_running(struct history *history)
{
    return &history->machine->cpus[history->running].mmu;
}

static struct stale_cpu *cpu_running(struct history *history)
{
    return &history->cpus[history->running];
}

static uint64_t any_table(struct history *history)
{
    return (TABLE_FIRST + history_random(history, TABLES)) << PAGE_SHIFT;
}

/* ------------------------------------------------------------------------- entries */

static uint64_t any_frame(struct history *history)
{
    if (PERCENT(85))
        return any_table(history);
    if (PERCENT(90))
        return (TABLE_FIRST + history_random(history, PAGES)) << PAGE_SHIFT;
    if (PERCENT(90)) /* where large pages begin */
        return history_random(history, 4) * 2 * MIB;
    return PERCENT(50) ? GIB : RAM_LOW_END;
}

static uint64_t any_entry(struct history *history)
{
    uint64_t entry = 0;
    entry |= PERCENT(97) ? PTE_P : 0;
    entry |= PERCENT(94) ? PTE_W : 0;
    entry |= PERCENT(95) ? PTE_U : 0;
    entry |= PERCENT(60) ? PTE_A : 0;
    entry |= PERCENT(50) ? PTE_D : 0;
    entry |= PERCENT(25) ? PTE_G : 0;
    entry |= PERCENT(4) ? PTE_NX : 0;
    if (PERCENT(6))
        return entry | PTE_PS | history_random(history, 4) * 2 * MIB;
    if (PERCENT(1))
        entry |= (uint64_t)1 << 50;
    return entry | any_frame(history);
}

/* A word of a table that some address needs in the running CPU's mode, and what may be put there.
 */
static uint64_t any_word(struct history *history, uint64_t table)
{
    enum oracle_mode mode = cpu_running(history)->mode;
    uint64_t linear = stale_linear((unsigned)history_random(history, stale_linears(mode)), mode);
    unsigned level = (unsigned)history_random(history, mode == ORACLE_LONG ? 4 : 2);
    return table + (stale_offset(linear, mode, level) & ~7u);
}

static uint64_t any_value(struct history *history)
{
    uint64_t value = any_entry(history);
    if (cpu_running(history)->mode == ORACLE_32)
        value = (uint32_t)value | (uint64_t)(uint32_t)any_entry(history) << 32;
    return value;
}

/* ------------------------------------------------------------------------- what others do */

/* Everybody is parked meanwhile. */
static void stop_all(struct history *history)
{
    mmu_park(mmu_running(history));
}

static void go_on(struct history *history)
{
    mmu_unpark(mmu_running(history));
}

static void device_writes(struct history *history, uint64_t gpa, uint64_t value)
{
    stop_all(history);
    stale_write(&history->stale, gpa, &value, sizeof(value));
    machine_put(history->machine, gpa, value);
    go_on(history);
}

static void send_away(struct history *history, uint64_t ppn)
{
    struct pmap *map = history->machine->map;
    struct page_batch batch = {.count = 1, .ppn = {ppn}};
    uint8_t bytes[PAGE_SIZE];
    page_leave_begin(map, &batch, PAGE_LEAVE_ACTIVE);
    if (batch.count == 0)
        return;
    assert_true(page_leave_copy(map, ppn, bytes));
    uint64_t payload = memory_store_put(history->store, PAGE_SWAPPED, bytes);
    assert_int_not_equal(payload, UINT64_MAX);
    assert_true(page_leave_end(map, &batch, 0, PAGE_SWAPPED, payload));
    if (PERCENT(50))
        page_punch(map, &ppn, 1);
}

static void page_map_acts(struct history *history)
{
    static const uint8_t zeros[PAGE_SIZE];
    uint64_t ppn = TABLE_FIRST + history_random(history, PAGES);
    if (PERCENT(20))
        ppn = history_random(history, RAM_LOW_END >> PAGE_SHIFT);
    stop_all(history);
    switch (history_random(history, 8)) {
    case 0:
        if (ppn >= TABLE_FIRST + TABLES && pmap_release(history->machine->map, ppn, 1) == 1)
            stale_write(&history->stale, ppn << PAGE_SHIFT, zeros, sizeof(zeros));
        break;
    case 1:
    case 2:
    case 3:
        machine_revoke(history->machine, ppn);
        break;
    default:
        send_away(history, ppn);
        break;
    }
    go_on(history);
}

static void switch_cpu(struct history *history)
{
    mmu_park(mmu_running(history));
    history->running = (history->running + 1) % CPUS;
    mmu_unpark(mmu_running(history));
}

/* ------------------------------------------------------------------------- registers and flushes
 */

static uint64_t cr3_of(const struct stale_cpu *cpu)
{
    uint64_t address = cpu->root[0] & (((uint64_t)1 << STALE_PCID_SHIFT) - 1) & ~PAGE_MASK;
    return cpu->mode == ORACLE_PAE ? 0 : address | cpu->pcid;
}

static void load_pdptes(struct history *history)
{
    const struct stale_cpu *cpu = cpu_running(history);
    memcpy(mmu_running(history)->pdpte, cpu->root, sizeof(cpu->root));
}

static void load_registers(struct history *history)
{
    const struct stale_cpu *cpu = cpu_running(history);
    struct mmu *mmu = mmu_running(history);
    bool is_long = cpu->mode == ORACLE_LONG;
    mmu->cr0 = 1 | CR0_PG_BIT | (cpu->wp ? CR0_WP_BIT : 0);
    mmu->cr4 = (cpu->mode != ORACLE_32 ? CR4_PAE_BIT : 0) | (cpu->pse ? CR4_PSE_BIT : 0) |
               (cpu->pge ? CR4_PGE_BIT : 0) | (cpu->smep ? CR4_SMEP_BIT : 0) |
               (cpu->smap ? CR4_SMAP_BIT : 0) | (cpu->has_pcids ? CR4_PCIDE_BIT : 0);
    mmu->efer = (is_long ? EFER_LMA_BIT : 0) | (cpu->nxe ? EFER_NXE_BIT : 0);
    mmu->cr3 = cr3_of(cpu);
    load_pdptes(history);
}

/* Mostly one of a few, so that it is come back to. */
static unsigned any_pcid(struct history *history)
{
    return (unsigned)history_random(history, PERCENT(80) ? 3 : STALE_PCIDS);
}

/* A flush of everything goes with it. */
static void change_mode(struct history *history, bool format)
{
    struct stale_cpu *cpu = cpu_running(history);
    if (format) {
        cpu->mode = PERCENT(70) ? ORACLE_LONG : PERCENT(50) ? ORACLE_PAE : ORACLE_32;
        for (unsigned i = 0; i < ARRAY_LENGTH(cpu->root); i++)
            cpu->root[i] = any_table(history) | PTE_P;
    }
    cpu->wp = PERCENT(70);
    cpu->smep = PERCENT(20);
    cpu->smap = PERCENT(20);
    if (PERCENT(20))
        cpu->nxe = !cpu->nxe;
    cpu->pse = PERCENT(80);
    cpu->pge = PERCENT(80);
    cpu->has_pcids = cpu->mode == ORACLE_LONG && PERCENT(60);
    cpu->pcid = cpu->has_pcids ? any_pcid(history) : 0;
    for (unsigned i = 0; i < ARRAY_LENGTH(cpu->root); i++)
        cpu->root[i] = (uint64_t)cpu->pcid << STALE_PCID_SHIFT |
                       (cpu->root[i] & (((uint64_t)1 << STALE_PCID_SHIFT) - 1));
    load_registers(history);
    mmu_flush(mmu_running(history), false);
    stale_flush_all(&history->stale, cpu);
}

static void change_root(struct history *history)
{
    struct stale_cpu *cpu = cpu_running(history);
    uint64_t root[ARRAY_LENGTH(cpu->root)];
    for (unsigned i = 0; i < ARRAY_LENGTH(root); i++)
        root[i] = (TABLE_FIRST + history_random(history, 3)) << PAGE_SHIFT | PTE_P;
    if (cpu->mode == ORACLE_PAE && PERCENT(30))
        root[history_random(history, 2)] = 0;
    unsigned pcid = cpu->has_pcids ? any_pcid(history) : 0;
    bool keep = cpu->has_pcids && PERCENT(70);
    stale_load_root(&history->stale, cpu, history->running, root, pcid, keep);
    load_pdptes(history);
    mmu_load_cr3(mmu_running(history), cr3_of(cpu), keep);
}

static void flush_other_space(struct history *history)
{
    struct stale_cpu *cpu = cpu_running(history);
    unsigned pcid = any_pcid(history);
    if (!cpu->has_pcids || pcid == cpu->pcid)
        return;
    mmu_flush_space(mmu_running(history), pcid);
    stale_flush_space(&history->stale, cpu, pcid);
}

static void flush_something(struct history *history)
{
    struct stale_cpu *cpu = cpu_running(history);
    struct mmu *mmu = mmu_running(history);
    switch (history_random(history, 16)) {
    case 0:
        mmu_flush(mmu, false);
        stale_flush_all(&history->stale, cpu);
        break;
    case 1:
    case 2:
        mmu_flush(mmu, true);
        stale_flush_local(&history->stale, cpu);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
        change_root(history);
        break;
    case 8:
        flush_other_space(history);
        break;
    default: {
        unsigned n = (unsigned)history_random(history, stale_linears(cpu->mode));
        mmu_flush_page(mmu, stale_linear(n, cpu->mode) + history_random(history, PAGE_SIZE));
        stale_flush_page(&history->stale, cpu, n);
        break;
    }
    }
}

/* ------------------------------------------------------------------------- accesses */

/* The tables are as they are after the result. */
static bool flags_match(struct history *history, const struct stale_result *result)
{
    for (unsigned i = 0; i < result->count; i++) {
        if (result->word[i] < RAM_LOW_END &&
            machine_get(history->machine, result->word[i]) != result->after[i])
            return false;
    }
    return true;
}

static bool result_matches(struct history *history, const struct stale_result *result,
                           enum mmu_outcome outcome, const struct mmu_target *target,
                           const struct mmu_fault *fault)
{
    if (result->fault)
        return outcome == MMU_FAULT && fault->error_code == result->error_code;
    return outcome == (result->address < RAM_LOW_END ? MMU_OK : MMU_MMIO) &&
           target->gpa == result->address;
}

/* No result is legal in which flags change that this one does not change, and did. */
static bool others_untouched(struct history *history, const struct stale_result *results,
                             unsigned count, const struct stale_result *used)
{
    for (unsigned r = 0; r < count; r++) {
        for (unsigned i = 0; i < results[r].count; i++) {
            uint64_t word = results[r].word[i];
            bool is_used = false;
            for (unsigned k = 0; k < used->count; k++)
                is_used |= used->word[k] == word;
            if (!is_used && word < RAM_LOW_END &&
                machine_get(history->machine, word) != stale_read(&history->stale, word))
                return false;
        }
    }
    return true;
}

static void check_result(struct history *history, uint64_t linear, enum mmu_access access,
                         enum mmu_privilege privilege, enum mmu_outcome outcome,
                         const struct mmu_target *target, const struct mmu_fault *fault)
{
    static struct stale_result results[STALE_RESULTS_MAX];
    unsigned count = stale_results(&history->stale, cpu_running(history), history->running, linear,
                                   (enum oracle_access)access, (enum oracle_who)privilege, results);
    ++*(count == 1 ? &history->exact : &history->behind);
    history->faults += outcome == MMU_FAULT;
    history->devices += outcome == MMU_MMIO;
    if (outcome == MMU_FAULT)
        assert_int_equal(fault->address, linear);
    for (unsigned i = 0; i < count; i++) {
        const struct stale_result *result = &results[i];
        if (!result_matches(history, result, outcome, target, fault) ||
            !flags_match(history, result) || !others_untouched(history, results, count, result))
            continue;
        for (unsigned k = 0; k < result->count; k++) {
            if (result->word[k] < RAM_LOW_END)
                stale_set_flags(&history->stale, result->word[k], result->after[k]);
        }
        return;
    }
    for (unsigned i = 0; i < count && i < 8; i++)
        print_error("legal: fault %d, code %x, address %llx, %u words\n", results[i].fault,
                    results[i].error_code, (unsigned long long)results[i].address,
                    results[i].count);
    fail_msg("%s, seed %llu, step %u, CPU %u, mode %u: access %u as %u to %llx: outcome %u, code "
             "%x, address %llx, none of %u results",
             history->name, (unsigned long long)history->first_seed, history->step,
             history->running, cpu_running(history)->mode, access, privilege,
             (unsigned long long)linear, outcome, fault->error_code,
             (unsigned long long)target->gpa, count);
}

static void drops_of(const struct history *history, unsigned drops[CPUS])
{
    for (unsigned i = 0; i < CPUS; i++)
        drops[i] = history->machine->cpus[i].drops;
}

/* What a guest writes, if it reaches a page: entries, where they may be looked at. */
static void guest_writes(struct history *history, const struct mmu_target *target)
{
    uint64_t page = target->gpa & ~PAGE_MASK, value = any_value(history);
    if (page >> PAGE_SHIFT >= TABLE_FIRST + TABLES)
        value = test_random(&history->seed) & ~(uint64_t)PTE_P;
    stale_write(&history->stale, target->gpa, &value, sizeof(value));
    __atomic_store_n((uint64_t *)(void *)target->host, value, __ATOMIC_RELAXED);
}

static void access_once(struct history *history)
{
    const struct stale_cpu *cpu = cpu_running(history);
    struct pmap *map = history->machine->map;
    struct mmu *mmu = mmu_running(history);
    unsigned n = (unsigned)history_random(history, stale_linears(cpu->mode));
    uint64_t linear = stale_linear(n, cpu->mode) + (any_word(history, 0) & PAGE_MASK);
    enum mmu_privilege privilege = (enum mmu_privilege)history_random(history, MMU_PRIVILEGES);
    enum mmu_access access = PERCENT(history->busy ? 30 : 3) ? MMU_WRITE
                             : PERCENT(85)                   ? MMU_READ
                                                             : MMU_EXECUTE;
    struct mmu_target target = {0};
    struct mmu_fault fault = {0};
    bool guarded[PAGES];
    unsigned before[CPUS], after[CPUS];
    for (unsigned i = 0; i < PAGES; i++)
        guarded[i] = pmap_code_is_guarded(map, TABLE_FIRST + i);
    drops_of(history, before);
    enum mmu_outcome outcome = mmu_resolve(mmu, linear, access, privilege, &target, &fault);
    drops_of(history, after);

    check_result(history, linear, access, privilege, outcome, &target, &fault);
    if (outcome == MMU_FAULT)
        stale_fault(&history->stale, cpu_running(history), n);
    if (outcome != MMU_OK)
        return;
    assert_int_equal(*(const uint64_t *)(const void *)target.host,
                     stale_read(&history->stale, target.gpa));
    if (access != MMU_WRITE)
        return;
    uint64_t page = (target.gpa >> PAGE_SHIFT) - TABLE_FIRST;
    if (page < PAGES && guarded[page]) { /* everybody has dropped what he decoded there */
        for (unsigned i = 0; i < CPUS; i++)
            assert_true(after[i] > before[i]);
    }
    guest_writes(history, &target);
}

/* ------------------------------------------------------------------------- histories */

static void change_mmu(struct history *history)
{
    auto_use(mmu_running(history), PERCENT(60) ? MMU_SHADOW : MMU_NESTED, PERCENT(80));
}

static void step(struct history *history)
{
    if (mmu_running(history)->is_choosing && PERCENT(10))
        change_mmu(history);
    unsigned dice = (unsigned)history_random(history, 100);
    if (dice < 62)
        access_once(history);
    else if (dice < 72 && history->busy)
        device_writes(history, any_word(history, any_table(history)), any_value(history));
    else if (dice < 88)
        flush_something(history);
    else if (dice < 90)
        change_mode(history, PERCENT(20));
    else if (dice < 92)
        mmu_mark_code(mmu_running(history), TABLE_FIRST + history_random(history, PAGES));
    else if (dice < 96 && history->busy)
        page_map_acts(history);
    else if (dice < 98)
        switch_cpu(history);
}

static void compare_memory(struct history *history)
{
    static uint8_t bytes[RAM_LOW_END];
    stop_all(history);
    assert_int_equal(pmap_read(history->machine->map, 0, bytes, sizeof(bytes)), STATUS_OK);
    go_on(history);
    assert_memory_equal(bytes, history->stale.ram, sizeof(bytes));
}

static void begin(struct history *history, const struct mmu_config *config)
{
    history->machine = machine_create_with(CPUS, config);
    history->store = memory_store_create();
    pmap_set_store(history->machine->map, &memory_store_ops, history->store);
    stale_create(&history->stale);
    for (unsigned i = 0; i < CPUS; i++)
        mmu_park(&history->machine->cpus[i].mmu);
    mmu_unpark(mmu_running(history));
    for (uint64_t at = 0; at < RAM_LOW_END; at += PAGE_SIZE) {
        uint64_t value = test_random(&history->seed) & ~(uint64_t)PTE_P;
        uint64_t gpa = at + (any_word(history, 0) & PAGE_MASK);
        device_writes(history, gpa, value);
        if (history->first_seed % 2 != 0) /* large nested leaves, where they are wanted */
            (void)walk_nested(mmu_running(history), at >> PAGE_SHIFT, true);
    }
    for (unsigned i = 0; i < CPUS; i++) {
        cpu_running(history)->mode = ORACLE_LONG;
        cpu_running(history)->nxe = true;
        change_mode(history, false);
        change_root(history);
        switch_cpu(history);
    }
    for (unsigned i = 0; i < TABLES * 40; i++)
        device_writes(history, any_word(history, any_table(history)), any_value(history));
}

static void end(struct history *history)
{
    for (unsigned i = 0; i < CPUS; i++) {
        struct shadow *shadow = history->machine->cpus[i].mmu.shadow;
        if (shadow != NULL) {
            history->traced_writes += shadow_get_stats(shadow)->traced_writes;
            history->evictions += shadow_get_stats(shadow)->evictions;
        }
        history->returns += history->machine->cpus[i].mmu.stats.space_returns;
    }
    compare_memory(history);
    assert_int_equal(history->store->misused, 0);
    machine_destroy(history->machine);
    memory_store_destroy(history->store);
    stale_destroy(&history->stale);
}

/* Returns the sums of all histories. */
static struct history live(const char *name, const struct mmu_config *config)
{
    struct history sums = {0};
    for (uint64_t seed = 1; seed <= histories; seed++) {
        struct history history = {.name = name, .seed = seed, .first_seed = seed};
        begin(&history, config);
        for (history.step = 0; history.step < STEPS; history.step++) {
            if (history.step % PHASE == 0)
                history.busy = !history.busy;
            step(&history);
        }
        end(&history);
        sums.exact += history.exact;
        sums.behind += history.behind;
        sums.faults += history.faults;
        sums.devices += history.devices;
        sums.traced_writes += history.traced_writes;
        sums.evictions += history.evictions;
        sums.returns += history.returns;
    }
    print_message("%s: %llu accesses with one result, %llu with several; %llu faults, %llu to "
                  "devices\n",
                  name, (unsigned long long)sums.exact, (unsigned long long)sums.behind,
                  (unsigned long long)sums.faults, (unsigned long long)sums.devices);
    /* It has tried what it is there for. */
    uint64_t some = histories * STEPS / 20;
    assert_true(sums.exact > some && sums.behind > some / 2 && sums.devices > 0);
    assert_true(sums.returns > histories * 3);
    assert_true(sums.faults > some && sums.exact + sums.behind - sums.faults > 4 * some);
    return sums;
}

static void test_nested(void **state)
{
    (void)state;
    live("nested", &(struct mmu_config){0});
}

static void test_without_walk_caches(void **state)
{
    (void)state;
    live("no walk caches", &(struct mmu_config){.no_walk_caches = true});
}

static void test_without_large_leaves(void **state)
{
    (void)state;
    live("no large leaves", &(struct mmu_config){.no_host_large = true});
}

static void test_shadow(void **state)
{
    (void)state;
    struct history sums =
        live("shadow", &(struct mmu_config){.mode = MMU_SHADOW, .shadow_bytes = 16 * MIB});
    assert_true(sums.traced_writes > histories * 10);
}

/* So few nodes that they give way all the time. */
static void test_small_shadow(void **state)
{
    (void)state;
    struct history sums = live("small shadow", &(struct mmu_config){.mode = MMU_SHADOW});
    assert_true(sums.evictions > histories * 10);
}

/* The mode changes all the time. */
static void test_both(void **state)
{
    (void)state;
    struct history sums =
        live("both", &(struct mmu_config){.mode = MMU_AUTO, .shadow_bytes = 16 * MIB});
    assert_true(sums.traced_writes > histories * 10);
}

/* An argument is how many histories each test tries. */
int main(int count, char **arguments)
{
    if (count > 1)
        histories = strtoull(arguments[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_without_walk_caches),
        cmocka_unit_test(test_without_large_leaves),
        cmocka_unit_test(test_shadow),
        cmocka_unit_test(test_small_shadow),
        cmocka_unit_test(test_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
