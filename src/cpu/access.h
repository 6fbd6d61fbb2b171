#ifndef AEROSTAT_CPU_ACCESS_H
#define AEROSTAT_CPU_ACCESS_H

/*
 * Guest memory as instructions see it: segment, offset, size. Everything here raises #PF, #GP, #SS
 * or #AC instead of returning an error, and checks whole accesses before the first byte moves: an
 * access over a page border that faults has changed nothing.
 *
 * Values are little-endian integers of `size` 1, 2, 4 or 8 bytes, zero-extended.
 */

#include "cpu/exception.h"
#include "cpu/vcpu.h"

/* Segmentation: limit, type and canonical checks (#GP, or #SS for the stack segment), then base +
 * offset. `offset` is already truncated to the address size. */
uint64_t access_linear_slow(struct vcpu *vcpu, enum segment_register seg, uint64_t offset,
                            unsigned size, enum mmu_access access);

static inline bool access_is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static inline uint64_t access_linear(struct vcpu *vcpu, enum segment_register seg, uint64_t offset,
                                     unsigned size, enum mmu_access access)
{
    if (likely(vcpu->mode == MODE_LONG)) {
        uint64_t linear = offset;
        if (unlikely(seg >= SEG_FS))
            linear += vcpu->seg[seg].base;
        if (likely(access_is_canonical(linear) && access_is_canonical(linear + size - 1)))
            return linear;
    }
    return access_linear_slow(vcpu, seg, offset, size, access);
}

/* The same where the bits of `mask` must be 0, else #GP. That comes before all else in 64-bit mode:
 * an address that is not canonical either is no #SS. */
static inline uint64_t access_linear_aligned(struct vcpu *vcpu, enum segment_register seg,
                                             uint64_t offset, unsigned size, enum mmu_access access,
                                             unsigned mask)
{
    uint64_t flat = offset + (seg >= SEG_FS ? vcpu->seg[seg].base : 0);
    if (unlikely((flat & mask) != 0) && vcpu->mode == MODE_LONG)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
    uint64_t linear = access_linear(vcpu, seg, offset, size, access);
    if (unlikely((linear & mask) != 0))
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
    return linear;
}

/* By linear address, with the privilege of the current instruction. */
uint64_t access_load_slow(struct vcpu *vcpu, uint64_t linear, unsigned size,
                          enum mmu_privilege privilege);
void access_store_slow(struct vcpu *vcpu, uint64_t linear, unsigned size, uint64_t value,
                       enum mmu_privilege privilege);

static inline uint64_t access_get(const uint8_t *host, unsigned size)
{
    switch (size) {
    case 1:
        return *host;
    case 2:
        return __atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_RELAXED);
    case 4:
        return __atomic_load_n((const uint32_t *)(const void *)host, __ATOMIC_RELAXED);
    default:
        return __atomic_load_n((const uint64_t *)(const void *)host, __ATOMIC_RELAXED);
    }
}

static inline void access_put(uint8_t *host, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        *host = (uint8_t)value;
        break;
    case 2:
        __atomic_store_n((uint16_t *)(void *)host, (uint16_t)value, __ATOMIC_RELAXED);
        break;
    case 4:
        __atomic_store_n((uint32_t *)(void *)host, (uint32_t)value, __ATOMIC_RELAXED);
        break;
    default:
        __atomic_store_n((uint64_t *)(void *)host, value, __ATOMIC_RELAXED);
        break;
    }
}

static inline uint64_t access_load_linear(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    const uint8_t *host = mmu_probe_read(&vcpu->mmu, vcpu->privilege, linear, size);
    if (likely(host != NULL))
        return access_get(host, size);
    return access_load_slow(vcpu, linear, size, vcpu->privilege);
}

static inline void access_store_linear(struct vcpu *vcpu, uint64_t linear, unsigned size,
                                       uint64_t value)
{
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, size);
    if (likely(host != NULL))
        access_put(host, size, value);
    else
        access_store_slow(vcpu, linear, size, value, vcpu->privilege);
}

static inline uint64_t access_load(struct vcpu *vcpu, enum segment_register seg, uint64_t offset,
                                   unsigned size)
{
    return access_load_linear(vcpu, access_linear(vcpu, seg, offset, size, MMU_READ), size);
}

static inline void access_store(struct vcpu *vcpu, enum segment_register seg, uint64_t offset,
                                unsigned size, uint64_t value)
{
    access_store_linear(vcpu, access_linear(vcpu, seg, offset, size, MMU_WRITE), size, value);
}

/* Implicit supervisor accesses to descriptor tables, TSS and interrupt stacks: linear address,
 * supervisor privilege whatever the CPL, SMAP enforced. */
static inline uint64_t access_load_system(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    return access_load_slow(vcpu, linear, size, MMU_SUPERVISOR);
}

static inline void access_store_system(struct vcpu *vcpu, uint64_t linear, unsigned size,
                                       uint64_t value)
{
    access_store_slow(vcpu, linear, size, value, MMU_SUPERVISOR);
}

/* Any length up to a page, for vector and state-image operands: all or nothing. */
void access_load_bytes(struct vcpu *vcpu, uint64_t linear, void *buffer, unsigned length);
void access_store_bytes(struct vcpu *vcpu, uint64_t linear, const void *buffer, unsigned length);
/* Raises what a store of [linear, linear + length) would raise, and moves nothing. */
void access_check_store(struct vcpu *vcpu, uint64_t linear, unsigned length);

/*
 * A read-modify-write operand: the host address where the operand (1 to 16 bytes) may be read and
 * written in place, atomically if the caller uses atomic instructions (its data breakpoints have
 * been noted); or NULL where it is a device register or crosses a page: then the store has been
 * checked already, and the caller loads, computes and stores with the functions above. Raises as a
 * write does.
 */
uint8_t *access_rmw(struct vcpu *vcpu, uint64_t linear, unsigned size);

/*
 * A locked operand that crosses a cache line, after access_rmw: compares it with *old, and stores
 * `value` if equal; else *old is what is there, and the result false. The host's own instruction
 * would do, but hosts that police split locks kill whoever uses it; so all other vCPUs stop
 * meanwhile, which makes it atomic against all that they do. It is not atomic against devices, nor
 * where an operand is one or shares a page with a data breakpoint: there it is a plain store.
 */
bool access_swap_split(struct vcpu *vcpu, uint64_t linear, unsigned size, uint64_t *old,
                       uint64_t value);

/* The stack, at SS:RSP with the stack's width. Neither changes RSP before memory was reached.
 * size 2, 4 or 8 is the operand's. */
void access_push(struct vcpu *vcpu, unsigned size, uint64_t value);
uint64_t access_pop(struct vcpu *vcpu, unsigned size);

/* I/O ports. Permission (IOPL, TSS bitmap) is the caller's to check. Parks around the device. */
uint64_t access_port_read(struct vcpu *vcpu, uint16_t port, unsigned size);
void access_port_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t value);

#endif
