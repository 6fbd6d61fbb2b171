#ifndef AEROSTAT_TESTS_MMU_STALENESS_H
#define AEROSTAT_TESTS_MMU_STALENESS_H

/*
 * Everything that an access may come to, where a CPU may have cached what it has read of the page
 * tables (SDM vol. 3 4.10), worked out without any cache.
 *
 * Guest memory is kept here a second time, with each value that a word has had and when it was
 * overwritten. An access is legal if a walk comes to it in which each entry is the current one, or
 * one that it has been since the last flush that concerns it:
 *   - A walk reads one entry after the other, from the root on: each is of the same time as the
 *     one above, or of a later one.
 *   - Only entries that are present, accessed and without reserved bits are cached (4.10.2.3,
 *     4.10.3), and a write needs one that is dirty.
 *   - What a walk ends at, if it faults, is read anew: that is ours, and tells a fault that is the
 *     guest's from one that is only our tables'.
 *   - A page that is global is behind until INVLPG or a flush of everything; others also until a
 *     load of CR3, or of their PCID is flushed, and they are of one PCID. INVLPG of one piece of a
 *     large page is of all. A page fault flushes its address alone (4.10.4.1), and if the page is
 *     global and was found in another PCID, not the tables above it that are cached for that one.
 *   - Flags are set in entries that are current, in no others, and not on a fault.
 * Right after its flush an access has one result, and this is the oracle's (oracle.h).
 */

#include "fixture.h"
#include "oracle.h"

/* The linear addresses that are tried: they meet in tables at each level, and two by two in a cache
 * line of a page table. */
#define LINEARS 24u

uint64_t stale_linear(unsigned n, enum oracle_mode mode);
/* How many of them a mode has. */
unsigned stale_linears(enum oracle_mode mode);

/* Guest-physical offset, in its table, of the entry that linear uses at a level: 3 is the root of
 * 4-level paging, 1 that of the others. */
unsigned stale_offset(uint64_t linear, enum oracle_mode mode, unsigned level);

#define STALE_PCIDS      12u
#define STALE_PCID_SHIFT 52

/* One CPU's registers and when it flushed what. */
struct stale_cpu {
    enum oracle_mode mode;
    bool wp, smep, smap, nxe, pse, pge, has_pcids;
    unsigned pcid;    /* current; 0 without PCIDs */
    uint64_t root[4]; /* CR3, or PAE's four page directories; PCID << 52 | address | P */
    uint64_t flushed_all, flushed_local[STALE_PCIDS];
    uint64_t flushed_page[STALE_PCIDS][LINEARS], faulted[STALE_PCIDS][LINEARS];
};

struct staleness {
    uint8_t *ram; /* all of the machine's below RAM_LOW_END */
    uint64_t now;
    struct stale_value *values; /* that are no more, oldest first */
    unsigned count, room;
};

void stale_create(struct staleness *stale);
void stale_destroy(struct staleness *stale);

/* The guest or a device writes; gpa and size are multiples of 8 (size: at most a page). */
void stale_write(struct staleness *stale, uint64_t gpa, const void *bytes, unsigned size);
/* The CPU itself has set flags there: not a value that somebody wrote. */
void stale_set_flags(struct staleness *stale, uint64_t gpa, uint64_t value);
uint64_t stale_read(const struct staleness *stale, uint64_t gpa);

/* `number` tells CPUs apart. The old root lives on in global pages, and in its own PCID's. `keep`:
 * what was cached for this PCID is not flushed. */
void stale_load_root(struct staleness *stale, struct stale_cpu *cpu, unsigned number,
                     const uint64_t root[4], unsigned pcid, bool keep);
void stale_flush_all(struct staleness *stale, struct stale_cpu *cpu);
void stale_flush_local(struct staleness *stale, struct stale_cpu *cpu); /* of all PCIDs */
void stale_flush_space(struct staleness *stale, struct stale_cpu *cpu, unsigned pcid);
void stale_flush_page(struct staleness *stale, struct stale_cpu *cpu, unsigned n);
void stale_fault(struct staleness *stale, struct stale_cpu *cpu, unsigned n);

/* A legal result, and the words of the tables that it changes. */
struct stale_result {
    bool fault;
    uint32_t error_code;
    uint64_t address; /* guest-physical */
    unsigned count;
    uint64_t word[4], after[4];
};
#define STALE_RESULTS_MAX 4096u

/* All legal results of an access; returns how many. */
unsigned stale_results(const struct staleness *stale, const struct stale_cpu *cpu, unsigned number,
                       uint64_t linear, enum oracle_access access, enum oracle_who who,
                       struct stale_result *results);

#endif
