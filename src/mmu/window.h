#ifndef AEROSTAT_MMU_WINDOW_H
#define AEROSTAT_MMU_WINDOW_H

/*
 * The window: pages of the guest's current address space, mapped into the process where generated
 * code finds them without a table, at their linear address with one bit the other way round. The
 * host's own MMU does what a probe of the TLB does otherwise, and what is not mapped faults.
 *
 *      guest                                       host
 *      0x400000000000 to 0x7fffffffffff   high     below 0x400000000000
 *      0 to 0xffffffffff                  low      0x400000000000 to 0x40ffffffffff
 *
 * That is where programs are: libraries, stacks, and programs that may be anywhere are high; those
 * linked for a fixed place are low. No two addresses share a place. This process's own memory is
 * above the window, where the kernel puts it; so an address with WINDOW_BIT set, and that bit
 * cleared, is never the process's own, whatever it is: it is in the window, or not canonical, or
 * the host kernel's. All of the window is reserved from the beginning (a mapping without access),
 * so nothing else comes to be in it. There is one window a process, for the first who asks.
 *
 * THE INVARIANT: what is mapped here, the guest could find in a TLB that forgets only what it is
 * told to, for user code, and with the same permissions; and it goes when that TLB's entry would
 * go: tlb.c and mmu.c call the drops below from each place where they drop entries. It is owned
 * as the TLB is (mmu.h).
 *
 * A page costs a mapping of the host's, so there are WINDOW_PAGES at most, and mapping one takes
 * some microseconds. Who asks for more than that goes without: see direct.c.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/bits.h"
#include "util/status.h"

#define WINDOW_BIT      46u
#define WINDOW_LOW_BITS 40u /* low addresses have so many */
#define WINDOW_FIRST    MIB /* host addresses below are not for programs */
#define WINDOW_PAGES    4096u
/* Two pages beyond the last one: an access that begins a page behind that ends there. */
#define WINDOW_END ((1ull << WINDOW_BIT) + (1ull << WINDOW_LOW_BITS) + 2 * PAGE_SIZE)

/* Between the two, both ways. */
static inline uint64_t window_flip(uint64_t address)
{
    return address ^ 1ull << WINDOW_BIT;
}

/* The window has a place for this linear address. Nothing is within a page of where either half
 * begins and ends: what is so far from a place is in that half, or nowhere. */
static inline bool window_has_place(uint64_t linear)
{
    uint64_t place = window_flip(linear);
    return linear >> WINDOW_LOW_BITS == 0
               ? linear >= PAGE_SIZE
               : linear >> WINDOW_BIT == 1 && place >= WINDOW_FIRST + PAGE_SIZE &&
                     place < (1ull << WINDOW_BIT) - PAGE_SIZE;
}

/* A host address that a direct access may come to: in the window, or where nothing is of a
 * process's.
 */
static inline bool window_may_reach(uint64_t place)
{
    return place < WINDOW_END || place >> (WINDOW_BIT + 1) != 0;
}

struct window;

/* UNSUPPORTED: the host has something there already, another window for instance. */
enum status window_create(struct window **window, struct error *err);
void window_destroy(struct window *window); /* NULL is fine */

/* How a page is to be mapped. */
enum window_access {
    WINDOW_ZERO, /* to be read, as zeros; `host` does not count */
    WINDOW_READ,
    WINDOW_WRITE,
};

/* Maps the page at `linear`, a page address that has a place, to the one at `host`, which is in a
 * shared mapping; in place of what was there. False: it is not mapped, the host would not. */
bool window_map(struct window *window, uint64_t linear, uint64_t ppn, const uint8_t *host,
                enum window_access access);

/* A page that is mapped. */
struct window_page {
    uint64_t linear, ppn;
    enum window_access access;
};

/* Not mapped any more: those for which keep says no; it calls nothing of the window, and is asked
 * once for each. */
void window_keep(struct window *window, bool (*keep)(const struct window_page *page, void *context),
                 void *context);

/* The same for the page at this linear address, those that map a guest-physical page, all.
 */
void window_drop_linear(struct window *window, uint64_t linear);
void window_drop_ppn(struct window *window, uint64_t ppn);
void window_empty(struct window *window);

/* Pages that are mapped; and how many have gone, ever, for want of room or while others stayed:
 * those somebody may have to map again. */
unsigned window_count(const struct window *window);
uint64_t window_losses(const struct window *window);

#endif
