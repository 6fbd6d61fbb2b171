#ifndef AEROSTAT_TESTS_GUEST_MMU_H
#define AEROSTAT_TESTS_GUEST_MMU_H

/*
 * The kernels mmu64 and mmu32 hold the MMU against a model of the manual (SDM vol. 3 chapter 4),
 * access by access. This header is what their parts share:
 *
 *     mmu.c           which paging mode, what the processor offers, the order of things
 *     mmu_model.c     the model; accesses, and how they are held against it
 *     mmu_bits.c      every combination of entry bits, in every mode
 *     mmu_stale.c     what a changed entry means before and after each way to flush
 *     mmu_implicit.c  accesses that no operand names; tables that map themselves; instructions that
 *                     change what they stand on
 *
 * One linear address is under test, LINEAR. Its tables are `space`, an entry of each level; they
 * lead to `page`, in whatever size: the page's physical address has the same low bits. The kernel
 * itself is identity-mapped for the supervisor alone, and CPL 3 sees it at user_alias.
 */

#include "guest.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX          ((uint64_t)1 << 63)
#define ADDRESS_ALL 0x000ffffffffff000ull
enum { ERR_P = 1, ERR_W = 2, ERR_U = 4, ERR_RSVD = 8, ERR_FETCH = 16 };
enum { NO_FAULT = -1 };

enum { LEVELS_MAX = 4, MARK_OFFSET = 64, MARK = 0x13579bdf, OTHER_MARK = 0x2468ace0 };

/* A paging mode. Level 0 is the page table. */
struct format {
    const char *name;
    unsigned top, index_bits;
    bool wide;              /* entries of 8 bytes */
    bool large[LEVELS_MAX]; /* PS maps a large page */
    bool ps_reserved[LEVELS_MAX];
};

/* How accesses are made. */
struct rules {
    bool user, wp, smep, smap, ac, nxe;
};

enum access { READ, WRITE, FETCH };

/* What the manual says about one access, and the entries that it goes through. */
struct outcome {
    int error; /* NO_FAULT, or the error code */
    word physical;
    unsigned count;   /* entries used, from the top */
    unsigned touched; /* of them, those whose A may be set though there is a fault */
    word entry[LEVELS_MAX];
    uint64_t before[LEVELS_MAX], after[LEVELS_MAX];
};

/* The tables under test, and where they lead. */
struct space {
    word root;                  /* physical address of the first table of a walk */
    word cr3;                   /* that gets there */
    word table[LEVELS_MAX];     /* of each level, for LINEAR */
    word alternate[LEVELS_MAX]; /* tables below `top` that lead to `other` */
};

extern struct format format;
extern struct space space;
extern bool has_nx, has_smep, has_smap, has_1g, has_pge, has_pcid, has_invpcid;
extern unsigned physical_width;
extern word linear;                    /* LINEAR: of the page under test */
extern volatile uint8_t *page, *other; /* 4 MiB apart */
extern unsigned thin;                  /* one of so many combinations is tried */

/* The value that leaves everything open at a level: a leaf if level <= leaf. */
uint64_t open_entry(unsigned level, unsigned leaf);
/* All levels, and the alternates. */
void open_all(unsigned leaf);
uint64_t entry_read(word at);
void entry_write(word at, uint64_t value);
/* Where the entry for an address is, in a table. */
word entry_of(word table, unsigned level, word address);

/* Sets CR0, CR4 and EFER, and flushes everything. */
void rules_set(const struct rules *rules);
const char *rules_name(const struct rules *rules);
void flush_all(void);

/* What the manual says of an access at this moment; implicit ones are the supervisor's, without AC.
 */
void model(struct outcome *outcome, word address, enum access access, const struct rules *rules);
/* Makes the access; gives the error code, NO_FAULT, or -2 for what is neither. *value: what was
 * read. */
int attempt(word address, enum access access, const struct rules *rules, uint32_t *value);
/* How it turned out against what the model had said: result, CR2, value, all entries. */
bool agrees(const struct outcome *want, enum access access, int got, uint32_t value);
/* Makes the access and holds it against the model; a few that are wrong are printed. */
bool try_access(word address, enum access access, const struct rules *rules);
/* The same for an access by other means, that gave `got`; the outcome was the model's before it. */
bool hold(const struct outcome *want, word address, int got, const char *what);

/* Counts of the current check. */
void count_start(void);
bool count(bool is_right);
void count_report(const char *name);

/* Changes with everything that accesses did; equal for all MMUs and engines. */
extern uint64_t digest;

/* Where QEMU's emulator (7.2) is known to differ from the manual; nothing else is let pass there.
 */
enum tcg_gap {
    TCG_RSVD_WITHOUT_P,  /* P is missing in the error code of a reserved bit (SDM vol. 3 4.7) */
    TCG_RSVD_ACCESSED,   /* A is set in a large page's entry that has reserved bits among those of
                          * its address, though such an entry is not used (4.8) */
    TCG_INVLPG_SMALL,    /* INVLPG of another 4 KiB of a large page leaves code there (4.10.4.1) */
    TCG_READS_FIRST,     /* XCHG reads before its write has set D */
    TCG_AC_WHEN_IMPLIED, /* AC lifts SMAP for descriptor loads too (4.6.1: implicit accesses) */
};
bool tcg_differs(enum tcg_gap gap);

/* For CPL 0. */
void set_ac(bool on);
/* "4-level, name" */
const char *in_format(const char *name);

void check_bits(void);
void check_stale(void);
void check_implicit(void);

#endif
