#ifndef AEROSTAT_VM_SHARING_H
#define AEROSTAT_VM_SHARING_H

/*
 * What this process has in the pool of its group: the pool's mapping, the frame that each page
 * refers to as the manager sees it, and references that are dropped and of which the manager does
 * not know yet. It outlives machines: the pool goes from one to the next, and what a machine had
 * shared at its end is dropped.
 *
 * What the manager has been told is exact. One lock is over the table of references and over how
 * far it has been listed (HOLDS); a reference that ends is told if, and only if, it has been listed
 * or was made over this link. So it may end at any moment, in any thread, without a word too few or
 * too many.
 *
 * Threads: `drop`, by way of the page map, from any. Everything else by the link's thread, or while
 * that does not run.
 */

#include "mem/page_share.h"
#include "proto/link.h"

struct sharing;

/* For maps with PPNs below span_pages. on_drop(context): there is something for sharing_drops;
 * from any thread. */
enum status sharing_create(struct sharing **sharing, uint64_t span_pages,
                           void (*on_drop)(void *context), void *context, struct error *err);
void sharing_destroy(
    struct sharing *sharing); /* NULL is fine; no map refers to the pool any more */

/* A new map takes part, or one that nobody uses any more ends. */
void sharing_join(struct sharing *sharing, struct pmap *map);
void sharing_leave(struct sharing *sharing, struct pmap *map);

/*
 * The pool. sharing_pool_check: whether a descriptor that the manager sent is one: a file of its
 * size that cannot shrink. INVALID with the line.
 * sharing_set_pool: maps it and takes it over in place of the one before, of which nothing is held
 * any more: BUSY, and not taken over, while something is. NO_MEMORY: it cannot be mapped.
 */
enum status sharing_pool_check(int fd, uint64_t bytes, struct error *err);
enum status sharing_set_pool(struct sharing *sharing, struct pmap *map, int fd, uint64_t bytes,
                             uint64_t key, struct error *err);
bool sharing_has_pool(const struct sharing *sharing, int fd); /* the same file */
int sharing_pool(const struct sharing *sharing);              /* its descriptor; -1: none */
uint64_t sharing_key(const struct sharing *sharing);          /* of its hashes; 0: none */

/* The references that are held, for a new link: begin, then some at a time; 0: that was all. Until
 * begin, and after sharing_unlink, nothing that ends is told to anybody. */
void sharing_holds_begin(struct sharing *sharing);
unsigned sharing_holds(struct sharing *sharing, struct link_ref *refs, unsigned most);
void sharing_unlink(struct sharing *sharing);

/* The oldest references that are dropped and not told; told: the first `count` of them have been.
 */
unsigned sharing_drops(struct sharing *sharing, struct link_ref *refs, unsigned most);
void sharing_told(struct sharing *sharing, unsigned count);

/* The manager proposes frames for pages. What does not fit is dropped at once. INVALID, with the
 * line: no manager that keeps to the protocol proposes that. */
enum status sharing_attach(struct sharing *sharing, struct pmap *map, const struct link_ref *refs,
                           unsigned count, struct error *err);

/* Pages that this VM alone saves: those beyond the first with the same frame. Looks at all of them.
 */
uint64_t sharing_saved(struct sharing *sharing);
/* CPU time that the link's thread has used, as it said last; ns. */
void sharing_count_cpu(struct sharing *sharing, uint64_t ns);
uint64_t sharing_cpu_ns(const struct sharing *sharing);
/* Bytes of memory that the tables take, at most. */
uint64_t sharing_overhead(const struct sharing *sharing);

#endif
