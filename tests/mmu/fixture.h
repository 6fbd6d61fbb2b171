#ifndef AEROSTAT_TESTS_MMU_FIXTURE_H
#define AEROSTAT_TESTS_MMU_FIXTURE_H

/* A machine of page map, bus, domain and MMUs without a CPU. Failures to set up end the test. */

#include "mem/bus.h"
#include "mem/pmap.h"
#include "mmu/mmu.h"

/* RAM: 8 MiB at 0, and 4 MiB at 5 GiB, above what 32 bits address. Nothing else. */
#define RAM_LOW_END   (8 * MIB)
#define RAM_HIGH_BASE (5 * GIB)

#define CR0_WP_BIT    ((uint64_t)1 << 16)
#define CR0_PG_BIT    ((uint64_t)1 << 31)
#define CR4_PSE_BIT   ((uint64_t)1 << 4)
#define CR4_PAE_BIT   ((uint64_t)1 << 5)
#define CR4_PGE_BIT   ((uint64_t)1 << 7)
#define CR4_PCIDE_BIT ((uint64_t)1 << 17)
#define CR4_SMEP_BIT  ((uint64_t)1 << 20)
#define CR4_SMAP_BIT  ((uint64_t)1 << 21)
#define EFER_LMA_BIT  ((uint64_t)1 << 10)
#define EFER_NXE_BIT  ((uint64_t)1 << 11)

/* Entry bits. */
#define PTE_P  ((uint64_t)1 << 0)
#define PTE_W  ((uint64_t)1 << 1)
#define PTE_U  ((uint64_t)1 << 2)
#define PTE_A  ((uint64_t)1 << 5)
#define PTE_D  ((uint64_t)1 << 6)
#define PTE_PS ((uint64_t)1 << 7)
#define PTE_G  ((uint64_t)1 << 8)
#define PTE_NX ((uint64_t)1 << 63)

#define CPUS_MAX 4u

struct cpu {
    struct mmu mmu;
    _Atomic uint32_t attention;
    unsigned drops;     /* calls of code_drop */
    uint64_t last_drop; /* the page of the last one */
};

struct machine {
    struct pmap *map;
    struct bus *bus;
    struct mmu_domain *domain;
    unsigned cpu_count;
    struct cpu *cpus;
};

/* What machine_create makes: MMU_NESTED, if main has not said otherwise. */
extern enum mmu_mode machine_mode;

/* The CPUs are unparked, with paging off. */
struct machine *machine_create(unsigned cpu_count);
struct machine *machine_create_with(unsigned cpu_count, const struct mmu_config *config);
void machine_destroy(struct machine *machine); /* parks them; checks the page map */

/* 4-level paging with NXE, WP and PGE, tables at `root`. */
void machine_long_mode(struct mmu *mmu, uint64_t root);

/* Translations of ppn and code decoded from it are dropped everywhere. The caller is parked. */
void machine_revoke(struct machine *machine, uint64_t ppn);

/* Guest memory for a test's own use: the host address of a guest-physical one, made private. */
void *machine_at(struct machine *machine, uint64_t gpa);
uint64_t machine_get(struct machine *machine, uint64_t gpa);
void machine_put(struct machine *machine, uint64_t gpa, uint64_t value);

/* Puts a 4-level mapping of linear to a 4 KiB page with the leaf's low bits `flags`; the tables on
 * the way are at root, root + 4 KiB, ..., shared by all linear addresses of one 2 MiB region. */
void machine_map(struct machine *machine, uint64_t root, uint64_t linear, uint64_t entry);

uint64_t test_random(uint64_t *seed);

#endif
