#ifndef AEROSTAT_CPU_INTERP_RMW_H
#define AEROSTAT_CPU_INTERP_RMW_H

/*
 * Read-modify-write of a memory operand.
 *
 *     struct rmw rmw = rmw_begin(vcpu, insn, size);
 *     do {
 *         flags = vcpu->rflags;
 *         result = compute(rmw.old, &flags);
 *     } while (!rmw_commit(vcpu, &rmw, size, result, locked));
 *     vcpu->rflags = flags;
 *
 * rmw_begin raises whatever the write would raise, so after it the handler cannot fault. A locked
 * commit is a host compare-and-swap: it is atomic against other vCPUs and tells when to compute
 * again. An operand that crosses a cache line or a page is another matter: access_swap_split.
 */

#include "cpu/access.h"
#include "cpu/insn.h"

#define HOST_CACHE_LINE 64u

struct rmw {
    uint8_t *host; /* NULL: through access_store_linear */
    uint64_t linear;
    uint64_t old;
};

/* Bits below a page's are those of the host address. */
static inline bool rmw_is_split(uint64_t linear, unsigned size)
{
    return (linear & (HOST_CACHE_LINE - 1)) > HOST_CACHE_LINE - size;
}

#define RMW_SWAP_ASM(suffix, mod)                                                                  \
    __asm__ volatile("lock cmpxchg" suffix " %" mod "[value], (%[host])"                           \
                     : "+a"(old), "=@ccz"(swapped)                                                 \
                     : [value] "r"(value), [host] "r"(rmw->host)                                   \
                     : "memory")

/* Compares memory with rmw->old: stores `value` if equal, else loads rmw->old. */
static inline bool rmw_host_swap(struct rmw *rmw, unsigned size, uint64_t value)
{
    uint64_t old = rmw->old;
    bool swapped;
    switch (size) {
    case 1:
        RMW_SWAP_ASM("b", "b");
        break;
    case 2:
        RMW_SWAP_ASM("w", "w");
        break;
    case 4:
        RMW_SWAP_ASM("l", "k");
        break;
    default:
        RMW_SWAP_ASM("q", "q");
        break;
    }
    rmw->old = bits_truncate(old, size);
    return swapped;
}

/* As rmw_begin, for a linear address that is known (checked by access_linear for MMU_WRITE). */
static inline struct rmw rmw_begin_linear(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    struct rmw rmw = {.linear = linear};
    rmw.host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, size);
    if (unlikely(rmw.host == NULL))
        rmw.host = access_rmw(vcpu, linear, size);
    rmw.old = likely(rmw.host != NULL) ? access_get(rmw.host, size)
                                       : access_load_linear(vcpu, linear, size);
    return rmw;
}

static inline struct rmw rmw_begin(struct vcpu *vcpu, const struct insn *insn, unsigned size)
{
    uint64_t linear = access_linear(vcpu, (enum segment_register)insn->seg,
                                    insn_address(vcpu, insn), size, MMU_WRITE);
    return rmw_begin_linear(vcpu, linear, size);
}

/* False: somebody else has written the operand; rmw->old is new and the caller computes again. */
static inline bool rmw_commit(struct vcpu *vcpu, struct rmw *rmw, unsigned size, uint64_t value,
                              bool locked)
{
    if (locked && unlikely(rmw_is_split(rmw->linear, size)))
        return access_swap_split(vcpu, rmw->linear, size, &rmw->old, value);
    if (likely(rmw->host != NULL)) {
        if (locked)
            return rmw_host_swap(rmw, size, value);
        access_put(rmw->host, size, value);
    } else {
        access_store_linear(vcpu, rmw->linear, size, value);
    }
    return true;
}

#endif
