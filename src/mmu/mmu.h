#ifndef AEROSTAT_MMU_MMU_H
#define AEROSTAT_MMU_MMU_H

/*
 * One vCPU's memory management unit: paging registers, software TLB, page walks.
 *
 * Linear address --TLB--> host address. A miss walks the guest's page tables as the CPU would (SDM
 * vol. 3 ch. 4), each PPN on the way going through the page map, and fills the TLB.
 *
 * There is one table per privilege, because user/supervisor and SMAP decide what a page allows. A
 * slot has two entries: one for reads, and one for writes, of a page that may be written in place.
 * They may be of different pages, because of what is done most with two blocks of memory: copying
 * one to the other. They are often a large power of two apart, and would take each other's place at
 * every step. An entry is what a probe reads, and no more: a tag, so that a hit is one compare, and
 * what makes a host address. The rest is in a table beside it.
 *
 * An entry that gives way to one of another page moves to a spare table, to a slot by a hash of its
 * page: pages of one slot, which any guest with randomized addresses has some of, are not walked to
 * each time, and what a guest works on may be more than the first table holds. Generated code looks
 * there itself after a miss, and leaves the entry where it is; mmu_resolve exchanges the two. The
 * spare table is as large as RAM is, and touched where it is used: pages that are near each other
 * are near each other in it.
 *
 * Revocation. Host addresses in a TLB go stale when the page map moves a page. A running vCPU owns
 * its TLB alone; a *parked* one has lent it to everybody, under mmu->lock. mmu_domain_revoke edits
 * parked MMUs itself, and posts a request to running ones, waits until they have passed a safepoint
 * (mmu_service). The invariant that makes this free of deadlock: A RUNNING vCPU NEVER
 * BLOCKS. Whatever may block (the page map's revocations, pages that are away, device registers,
 * HLT) is done parked. So a host address got here is good only until the next mmu_resolve,
 * safepoint or parking.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "mem/bus.h"
#include "mem/pmap.h"
#include "mmu/auto.h"
#include "mmu/nested.h"
#include "mmu/shadow.h"
#include "mmu/tlb_set.h"
#include "mmu/walk_cache.h"
#include "mmu/window.h"
#include "util/bits.h"
#include "util/status.h"

#define TLB_ENTRIES       8192u  /* per privilege */
#define TLB_SPARE_ENTRIES 65536u /* per privilege, at most: see tlb_init */
#define ITLB_ENTRIES      1024u  /* per privilege */
#define MMU_SPACES        8u   /* address spaces that are kept while another one is current, ... */
#define MMU_SPACE_ENTRIES 512u /* ... and so much of each */

/* Width of a guest-physical address: what CPUID leaf 0x80000008 says, and where the reserved bits
 * of page-table entries begin. */
#define MMU_PHYSICAL_BITS 46u

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXECUTE };

/* Which rules an access obeys; also the index of its TLB. */
enum mmu_privilege {
    MMU_USER,          /* CPL 3 */
    MMU_SUPERVISOR,    /* CPL 0-2, or an implicit system access; SMAP, if on, is enforced */
    MMU_SUPERVISOR_AC, /* CPL 0-2 explicit access with EFLAGS.AC: SMAP suspended */
    MMU_PRIVILEGES,
    /* CPL 3 with alignment checks on: the rules of MMU_USER. Its own TLB stays empty, so that every
     * access takes the slow path, where alignment is looked at. */
    MMU_USER_CHECKED = MMU_PRIVILEGES,
};

/* Bits of an entry's info; the first say why a write to the page goes the slow way. */
enum tlb_reason {
    TLB_CLEAN = 1 << 0,  /* guest's dirty bit not yet set: a write must set it */
    TLB_ZERO = 1 << 1,   /* maps the common zero page: a write must make it private */
    TLB_CODE = 1 << 2,   /* code was decoded from it, or it is traced: that must go first */
    TLB_DENIED = 1 << 3, /* the guest's tables forbid the write */
    TLB_GLOBAL = 1 << 4, /* not a reason: survives a flush that keeps global pages */
    TLB_LARGE = 1 << 5,  /* not a reason: part of a 2 MiB or 4 MiB guest page */
    TLB_HUGE = 1 << 6,   /* not a reason: part of a 1 GiB guest page */
};

struct tlb_entry {
    uint64_t tag;     /* linear page address, or tlb_no_tag; 0 before the first use */
    uintptr_t addend; /* host address minus linear address */
};

/* By what is looked up: MMU_READ or MMU_WRITE. */
struct tlb_slot {
    struct tlb_entry of[2];
};
struct tlb_info {
    uint64_t of[2]; /* of the entries: ppn << 12 | enum tlb_reason */
};

/* Where entries that map a page may be: tlb_places.h. */
#define TLB_PLACES 4u
struct tlb_places {
    uint32_t of[TLB_PLACES];
};

/*
 * The tag of an entry that is none. It equals no page; and what generated code asks, whether an
 * address of this slot is in the 4 KiB from there on, is never so: they are of two other slots. The
 * latter holds for 0 as well, but in slot 0: for entries that were never used.
 */
static inline uint64_t tlb_no_tag(unsigned slot)
{
    return (uint64_t)(slot ^ 2) << PAGE_SHIFT | 1;
}

struct itlb_entry {
    uint64_t tag; /* linear page address, or tlb_no_tag; 0 before the first use */
    const uint8_t *host;
    uint64_t info;
};

struct mmu_stats {
    uint64_t tlb_misses;        /* data and instruction accesses that had to walk */
    uint64_t walks;             /* walks of the guest's tables begun */
    uint64_t walk_references;   /* entries read, of the guest's tables and of nested ones */
    uint64_t nested_violations; /* times that a nested entry was missing, or forbade a write */
    uint64_t page_faults;       /* walks that ended in a guest page fault */
    uint64_t flushes;           /* whole-TLB flushes, with or without global pages */
    uint64_t space_returns;     /* address spaces entered whose translations were kept (space.h) */
    uint64_t page_flushes;      /* single-page flushes */
    uint64_t code_writes;       /* writes that dropped decoded code */
    uint64_t away;              /* times it parked for a page that was away */
    uint64_t mmio;              /* accesses that went to a device */
};

struct mmu_domain;
struct mmu_request;

/*
 * Drops everything decoded from page ppn, or from anywhere for MMU_ALL_PAGES. Called on the vCPU's
 * own thread from within any function here that parks or services, or on another thread while the
 * vCPU is parked; with locks held, so it calls nothing of mmu.h or pmap.h. An engine that decodes
 * while it resolves keeps a counter of drops, and throws a fresh block away if it has moved.
 */
typedef void mmu_code_drop_fn(void *context, uint64_t ppn);
#define MMU_ALL_PAGES UINT64_MAX

/* Called in the same way: what was decoded from page ppn, whose translations have been dropped, is
 * kept, but who goes there from another page has to ask for a translation, as for a new page. */
typedef void mmu_code_keep_fn(void *context, uint64_t ppn);

/* Tells an engine that remembers where linear addresses lead of each flush, as it happens. Called
 * on the vCPU's own thread or while it is parked. `linear` counts for MMU_FLUSH_PAGE. */
enum mmu_flush_scope {
    MMU_FLUSH_PAGE,
    MMU_FLUSH_LOCAL, /* all but global pages */
    MMU_FLUSH_SPACE, /* the same; the address space at cr3 is a new one, as far as can be told */
    MMU_FLUSH_ALL,
};
typedef void mmu_code_flush_fn(void *context, enum mmu_flush_scope scope, uint64_t linear);

struct mmu {
    /* Large, and touched as far as they are used alone: see tlb_init. */
    _Alignas(64) struct tlb_slot tlb[MMU_PRIVILEGES + 1][TLB_ENTRIES];
    struct tlb_slot tlb_spare[MMU_PRIVILEGES][TLB_SPARE_ENTRIES];
    struct tlb_info tlb_info[MMU_PRIVILEGES][TLB_ENTRIES];
    struct tlb_info tlb_spare_info[MMU_PRIVILEGES][TLB_SPARE_ENTRIES];
    struct itlb_entry itlb[2][ITLB_ENTRIES]; /* MMU_USER, MMU_SUPERVISOR */
    struct tlb_places tlb_places[TLB_SPARE_ENTRIES];

    unsigned tlb_spare_bits; /* of an index into the spare tables: what is used of them */

    /* Paging registers. The CPU writes them, then calls the flush that the change asks for. */
    uint64_t cr0, cr3, cr4, efer;
    uint64_t pdpte[4]; /* PAE without long mode: loaded by mmu_load_pdptes */

    /* Linear pages with a data breakpoint: never in a data TLB, so that every access resolves. */
    uint64_t watched[4];
    unsigned watched_count;

    struct mmu_domain *domain;
    struct pmap *map;
    struct nested *nested; /* the domain's */
    struct bus *mmio;
    struct walk_cache walk_cache; /* owned as the TLB is */
    struct shadow *shadow;        /* likewise; NULL: there is none */
    bool is_shadowed;             /* TLB misses are looked up there */
    struct auto_choice choice;    /* likewise, with MMU_AUTO */
    struct window *window;        /* likewise; NULL: nobody has asked for one */
    uint64_t window_cr3;          /* of the address space that its pages are of */
    bool is_choosing;             /* MMU_AUTO */

    mmu_code_drop_fn *code_drop;
    mmu_code_keep_fn *code_keep; /* NULL: an engine that always asks */
    mmu_code_flush_fn *code_flush;
    void *code_context;

    /* Shared with other threads. */
    pthread_mutex_t lock;        /* leaf; guards the fields below, and the TLBs while parked */
    bool parked;                 /* true from mmu_init on */
    uint32_t attention_bit;      /* asks the vCPU to call mmu_service, ... */
    _Atomic uint32_t *attention; /* ... in this word of its */
    _Atomic uint32_t jump_mask;  /* an engine's; whoever raises attention makes it 0 after that */
    const struct mmu_request *posted; /* to be served (domain.c); NULL: none */
    bool stopped;                     /* must not run: see mmu_stop_others */
    pthread_cond_t served; /* posted has become NULL; parked while stopped; stopped no more */

    struct mmu_stats stats;
    /* Times that it has parked or served: host addresses from before are stale. */
    uint64_t parkings;

    /* The filled slots of each table: flushes touch nothing else. */
    struct tlb_use tlb_use[MMU_PRIVILEGES][2], tlb_spare_use[MMU_PRIVILEGES][2], itlb_use[2];
    /* Where pieces of large pages may be, so that flushing a small page seldom looks for them. */
    struct tlb_filter large_regions, huge_regions; /* of 4 MiB and 1 GiB */
    uint64_t places_lost;                          /* that were forgotten, ever */

    /* Entries of address spaces that are not current (space.h). */
    struct mmu_space {
        unsigned count, pcid; /* count 0: of none */
        uint64_t left;        /* when, by space_clock */
        uint64_t tables;      /* generation of those in the walk cache */
        uint64_t places_lost; /* as it was then */
    } spaces[MMU_SPACES];
    uint64_t space_clock;
    struct mmu_space_entry {
        uint64_t tag, info;
        uintptr_t value;
        uint32_t table, slot;
    } space_entries[MMU_SPACES][MMU_SPACE_ENTRIES]; /* touched as far as they are used */
};

/* What an address resolved to. */
enum mmu_outcome {
    MMU_OK,    /* target.host, target.gpa are good */
    MMU_MMIO,  /* no RAM there: target.gpa alone is good; use mmu_device_read/write */
    MMU_FAULT, /* fault is good */
    MMU_LOST,  /* the bytes of a page on the way cannot be had any more (pmap_page_bring) */
};

struct mmu_target {
    uint8_t *host; /* for MMU_READ and MMU_EXECUTE do not write through it */
    uint64_t gpa;
};

struct mmu_fault {
    uint64_t address;    /* for CR2 */
    uint32_t error_code; /* as pushed by #PF */
};

struct mmu_config {
    enum mmu_mode mode;
    uint64_t shadow_bytes; /* of each MMU's shadow, at most */
    bool no_walk_caches;   /* each walk reads all entries */
    bool no_host_large;    /* no large leaves in the nested table */
};

/* All MMUs of one VM. Installs the page map's revoke hook. At most 64 members. */
enum status mmu_domain_create(struct mmu_domain **domain, struct pmap *map,
                              const struct mmu_config *config, struct error *err);
void mmu_domain_destroy(struct mmu_domain *domain);
/* Bytes of its tables and of its members' shadows. From any thread while no member joins or leaves.
 */
uint64_t mmu_domain_overhead(const struct mmu_domain *domain);
/* When it returns no TLB of the domain maps what is to be forgotten, and no engine holds code
 * decoded from it. One round of safepoints for all. Never called by a running vCPU: park first. */
void mmu_domain_revoke(struct mmu_domain *domain, const struct pmap_revocation *what);

/* Joins the domain, parked, with paging off and an empty TLB. *mmu is all zeros, or was destroyed
 * without having been used. code_drop may be NULL. */
enum status mmu_init(struct mmu *mmu, struct mmu_domain *domain, struct bus *mmio,
                     _Atomic uint32_t *attention, uint32_t attention_bit,
                     mmu_code_drop_fn *code_drop, void *code_context, struct error *err);
void mmu_destroy(struct mmu *mmu);

void mmu_park(struct mmu *mmu);    /* from the vCPU's thread, running */
void mmu_unpark(struct mmu *mmu);  /* from the vCPU's thread, parked */
void mmu_service(struct mmu *mmu); /* safepoint: serves posted requests, clears attention_bit */

/*
 * From the vCPU's thread, running: when it returns, all other vCPUs of the domain are parked, and
 * stay so until mmu_resume_others. Parks meanwhile, so host addresses from before are stale; those
 * that a probe gives now are good up to the end, since no revocation can end before. The caller
 * does little, and nothing that may park.
 */
void mmu_stop_others(struct mmu *mmu);
void mmu_resume_others(struct mmu *mmu);

/*
 * Resolves one access that lies within one page, walking and filling the TLB as needed, setting
 * accessed and dirty bits exactly as the SDM says (vol. 3 4.8; none on a fault). `linear` is
 * canonical. In 32-bit modes it is below 2^32. A write to a page with decoded code drops that code
 * first. A page table that is not in RAM reads as all ones. May park: see above.
 */
enum mmu_outcome mmu_resolve(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                             enum mmu_privilege privilege, struct mmu_target *target,
                             struct mmu_fault *fault);

/*
 * For generated code in the middle of a block, which holds host addresses: the same, for data,
 * where nothing has to be said and nobody waited for. Never parks. NULL: mmu_resolve is to be
 * asked, and nothing has happened. `linear` is canonical; the privilege has a TLB.
 */
uint8_t *mmu_find(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                  enum mmu_privilege privilege);

/* Has the window, if there is one, map the page that user code has at `linear` as the TLB does.
 * False: it has mapped nothing. From the vCPU's thread, running. */
bool mmu_show(struct mmu *mmu, uint64_t linear);
/* How many pages the TLB has that user code reads. From the vCPU's thread, running. */
unsigned mmu_user_pages(const struct mmu *mmu);

/*
 * For an instruction that is about to overwrite the whole page at `linear`, a page address, and has
 * not found it in the TLB: if the page is away, stores `bytes` there without reading the old ones
 * back. False: it is not, or something stands in the way; then nothing has happened that the store
 * in the ordinary way would not have done. True: all is done, but that the page is in no TLB.
 * Parks.
 */
bool mmu_overwrite(struct mmu *mmu, uint64_t linear, enum mmu_privilege privilege,
                   const uint8_t *bytes);

/* Device registers at a gpa that resolved to MMU_MMIO. Parks around the device's operation. */
uint64_t mmu_device_read(struct mmu *mmu, uint64_t gpa, unsigned size);
void mmu_device_write(struct mmu *mmu, uint64_t gpa, unsigned size, uint64_t value);

/*
 * The caller, running, is about to decode code of ppn: marks the page and takes write permission
 * from every TLB that has it, so that later writes are noticed. Call before reading the bytes. May
 * park. Whatever parks afterwards (mmu_resolve may) can lose the mark again: the bytes may be
 * decoded while pmap_code_is_guarded(ppn) is seen to hold, and up to the next safepoint or parking
 * nothing that clears it goes unnoticed. Does nothing where ppn is not RAM.
 */
void mmu_mark_code(struct mmu *mmu, uint64_t ppn);

/*
 * Loads CR3 in any mode, and flushes all but global pages. With PCIDs (CR4.PCIDE) that goes for the
 * new one alone, and not even for it where `keep` is set: bit 63 of what MOV to CR3 was given (SDM
 * vol. 3 4.10.4.1).
 */
void mmu_load_cr3(struct mmu *mmu, uint64_t cr3, bool keep);

/* Flushes, of all PCIDs. keep_global: entries of pages with the G bit (with CR4.PGE) stay. */
void mmu_flush(struct mmu *mmu, bool keep_global);
void mmu_flush_space(struct mmu *mmu, unsigned pcid);  /* one that is not current */
void mmu_flush_page(struct mmu *mmu, uint64_t linear); /* in all privileges; global ones too */

/* Loads pdpte[] from cr3, for PAE paging outside long mode. MMU_FAULT where a reserved bit is set
 * in a present one (#GP), or MMU_LOST: then nothing has changed. Else MMU_OK. May park. */
enum mmu_outcome mmu_load_pdptes(struct mmu *mmu, uint64_t cr3);

/* Replaces the watched pages (linear page addresses) and flushes them. count <= 4. */
void mmu_watch(struct mmu *mmu, const uint64_t *pages, unsigned count);

/*
 * Where a page's spare entry is. Generated code works this out, too. Pages of one region, of as
 * many pages as there are entries, are in different slots, in order. The factor is even, so that a
 * page is never in the slot of the next one: an access that begins in one and ends in the other
 * must find neither.
 */
#define TLB_SPARE_FACTOR 0x9e36u

static inline unsigned tlb_spare_slot(const struct mmu *mmu, uint64_t linear)
{
    uint64_t page = linear >> PAGE_SHIFT;
    return (unsigned)(page ^ (page >> mmu->tlb_spare_bits) * TLB_SPARE_FACTOR) &
           ((1u << mmu->tlb_spare_bits) - 1);
}

/* Host address for an access of `size` bytes that hits the TLB within one page, else NULL. */
static inline uint8_t *mmu_probe(const struct mmu *mmu, enum mmu_access access,
                                 enum mmu_privilege privilege, uint64_t linear, unsigned size)
{
    const struct tlb_entry *entry =
        &mmu->tlb[privilege][(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)].of[access];
    if (likely(entry->tag == (linear & ~PAGE_MASK) && (linear & PAGE_MASK) <= PAGE_SIZE - size))
        return (uint8_t *)(uintptr_t)(entry->addend + linear);
    return NULL;
}

static inline uint8_t *mmu_probe_read(struct mmu *mmu, enum mmu_privilege privilege,
                                      uint64_t linear, unsigned size)
{
    return mmu_probe(mmu, MMU_READ, privilege, linear, size);
}

static inline uint8_t *mmu_probe_write(struct mmu *mmu, enum mmu_privilege privilege,
                                       uint64_t linear, unsigned size)
{
    return mmu_probe(mmu, MMU_WRITE, privilege, linear, size);
}

#endif
