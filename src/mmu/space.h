#ifndef AEROSTAT_MMU_SPACE_H
#define AEROSTAT_MMU_SPACE_H

/*
 * Address spaces that the guest has left, and may come back to: PCIDs (SDM vol. 3 4.10.1).
 *
 * The TLB holds the translations of the current address space, and global ones. It has no tags, as
 * every hit would pay for them: when the guest goes over to another PCID, the entries of the old
 * one are taken out and kept in a list, and those of the new one, if it was here before and the
 * guest says that they are still good, are put back. That takes a few cycles an entry, a miss a
 * hundred. The walk cache does have tags, its generations: so its tables of a space that is come
 * back to count again.
 *
 * Lists are short and few, so a long one is cut off and the one that was left longest ago gives
 * way: what is not in a list is walked to again. They are owned as the TLB is. Whatever is not
 * about one address in the current space forgets all of them: flushes, revocations, watched pages.
 */

#include "mmu/mmu.h"

/* Takes all entries out of the TLB but global ones, and keeps them for the PCID, which is current
 * and so has no list. space_enter must follow. */
void space_leave(struct mmu *mmu, unsigned pcid);
/* After space_leave: puts them back, and the list is no more. False: there was none, and nothing is
 * known of this space's tables. */
bool space_enter(struct mmu *mmu, unsigned pcid);

void space_forget(struct mmu *mmu, unsigned pcid);
void space_forget_all(struct mmu *mmu);

#endif
