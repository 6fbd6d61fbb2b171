#ifndef AEROSTAT_MMU_DOMAIN_H
#define AEROSTAT_MMU_DOMAIN_H

/* What mmu.c and resolve.c need of the domain beside mmu.h. The caller is parked for all of these.
 */

#include "mmu/mmu.h"

enum status domain_join(struct mmu_domain *domain, struct mmu *mmu, struct error *err);
void domain_leave(struct mmu_domain *domain, struct mmu *mmu);
struct pmap *domain_map(struct mmu_domain *domain);
struct nested *domain_nested(struct mmu_domain *domain);
const struct mmu_config *domain_config(const struct mmu_domain *domain);

/* Tries to mark and guard ppn as a page with code. The mark may be gone again at once: see
 * mmu_mark_code. */
void domain_mark_code(struct mmu_domain *domain, uint64_t ppn);

/* Clears the mark of ppn, and drops what was decoded from it on every vCPU. */
void domain_drop_code(struct mmu_domain *domain, uint64_t ppn);

#endif
