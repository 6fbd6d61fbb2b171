#ifndef AEROSTAT_MMU_SHADOW_H
#define AEROSTAT_MMU_SHADOW_H

/*
 * Shadow page tables: the software MMU (4-level paging; in other modes the guest's tables are
 * walked).
 *
 * A *node* mirrors one page of the guest's tables: for each entry what the guest's was when it was
 * last looked at, and where it leads: to another node, or (a leaf) to a host page. So nodes that
 * several address spaces have in common, as the kernel's half, are there once; a root is found
 * again by CR3; and a TLB miss is one walk over nodes, four references, without the page map.
 *
 *     CR3 -> node of the PML4 page -> node of a PDPT -> node of a PD -> node of a PT -> host page
 *            [what the guest's entry said | where it leads]  x 512
 *
 * Nothing is built before it is used. An entry leads nowhere until a walk of the guest's tables has
 * gone through it and found it present and accessed (a *hidden fault*, where the guest has none); a
 * write is let through only once the guest's entry is dirty. So accessed and dirty bits are exact.
 * The rights are those of the entries on the way, looked at in each walk: privilege, WP, SMEP and
 * SMAP need no nodes of their own.
 *
 * A large guest page leads to one large leaf where the nested table has one for it, else to a
 * *direct* node, which mirrors no table: its entries are the page's pieces.
 *
 * Coherency. A CPU may go on with what it has cached of a table until it flushes; but what it has
 * not read yet it reads when it comes there, from the root to the page. So a node is *fresh* if it
 * was compared with the guest's table since the last flush, of whatever kind, and after the nodes
 * that lead to it; one that an entry has only just begun to lead to is not. Where it is not, a walk
 * that comes through it compares it, and entries that lead elsewhere now lead nowhere. A table that
 * has been the same for some flushes is *traced*: its page is guarded as pages with decoded code
 * are (pmap.h), so that nobody writes it unnoticed, and its node needs no looks any more. A write
 * to it ends that, and it is traced again after more quiet flushes than before: a table that is
 * written in bursts is left alone.
 *
 * A page that is revoked is found by a reverse map, from PPN to the leaves that lead to it.
 *
 * Nodes are of one vCPU, and owned as its TLB is: by its thread while it runs, by the holder of
 * mmu->lock while it is parked. That costs memory where several vCPUs work in one address space,
 * and saves the lock and the atomics in every miss. Their number is bounded; the one that gives way
 * is one that no walk has come through lately. Who leads to a node names its generation, too, so
 * that nobody has to look for them.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

struct mmu;
struct shadow;
struct walk;
struct walk_way;

struct shadow_stats {
    uint64_t hidden_faults; /* the shadow had nothing, the guest's tables had */
    uint64_t traced_writes; /* to traced tables */
    uint64_t resyncs;       /* nodes compared with their tables */
    uint64_t traces;        /* tables that became traced */
    uint64_t evictions;     /* nodes that gave way */
    uint64_t cleared;       /* leaves that lead nowhere any more */
    uint64_t switches;      /* of the address space */
    uint64_t nodes;         /* now */
};

/* Nodes for at most `bytes`, but as many as a walk needs in any case. */
enum status shadow_create(struct shadow **shadow, uint64_t bytes, struct error *err);
void shadow_destroy(struct shadow *shadow); /* NULL is fine */

/* Forgets everything, and gives the memory back. */
void shadow_clear(struct shadow *shadow);

enum shadow_answer {
    SHADOW_KNOWN, /* the access is allowed; *walk and *nested (nested.h: the host page) are good */
    SHADOW_UNKNOWN, /* the guest's tables have to be walked */
    SHADOW_PARKS,   /* a table is to be traced, which parks, and the caller must not */
};

/* Looks a linear address up. */
enum shadow_answer shadow_look_up(struct mmu *mmu, uint64_t linear, unsigned access,
                                  unsigned privilege, bool may_park, struct walk *walk,
                                  uint64_t *nested);

/* Keeps the way that a walk of the guest's tables has taken to the page at gpa, and that page's
 * nested entry. */
void shadow_build(struct mmu *mmu, uint64_t linear, const struct walk_way *way, uint64_t gpa,
                  uint64_t nested);

/* The entries that lead to this address are compared with the guest's. */
void shadow_refresh(struct mmu *mmu, uint64_t linear);

/* The vCPU flushes: what is not traced is no longer fresh. */
void shadow_flush(struct shadow *shadow);

/* For domain.c: page ppn is revoked, or must not be written in place; its table, if it was one, may
 * be written from now on. */
void shadow_revoke(struct shadow *shadow, uint64_t ppn);
void shadow_protect(struct shadow *shadow, uint64_t ppn);
void shadow_untrace(struct shadow *shadow, uint64_t ppn);

/* While the shadow is there; zeros for NULL. */
const struct shadow_stats *shadow_get_stats(const struct shadow *shadow);
uint64_t shadow_bytes(const struct shadow *shadow); /* that it has taken */

#endif
