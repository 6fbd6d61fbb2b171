#include "cpu/system/pvclock.h"

#include <string.h>

#include "util/clock.h"

/*
 * The guest computes
 *
 *     ns = system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32)
 *
 * We choose the instant at which the host's TSC was 0: system_time 0, tsc_timestamp the guest TSC
 * of that instant, which is tsc_offset (as it was before any pause). So the clock is a pure
 * function of the host's TSC: all vCPUs of a VM agree to the nanosecond without any state in common
 * (PVCLOCK_TSC_STABLE is true), and nothing needs refreshing while the VM runs. It begins at the
 * host's boot, not the guest's; kernels take the first reading as their zero. After a pause, fork
 * or restore on another host the offset alone changes: the guest's TSC is set back, and this
 * function of it stays as it is.
 */

#define PVCLOCK_TSC_STABLE 1u

struct pvclock_vcpu_time_info {
    uint32_t version; /* odd while being written */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "guest ABI");

struct pvclock_wall_clock {
    uint32_t version;
    uint32_t seconds;
    uint32_t nanoseconds;
};
_Static_assert(sizeof(struct pvclock_wall_clock) == 12, "guest ABI");

/* mul / 2^32 * 2^shift = nanoseconds a tick, with mul in [2^31, 2^32). */
static void scale_of(uint64_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    int8_t exponent = 0;
    unsigned __int128 numerator = (unsigned __int128)1000000 << 32;
    while (numerator / tsc_khz > UINT32_MAX) {
        numerator >>= 1;
        exponent++;
    }
    while (numerator / tsc_khz < (uint64_t)1 << 31) {
        numerator <<= 1;
        exponent--;
    }
    *mul = (uint32_t)(numerator / tsc_khz);
    *shift = exponent;
}

static struct pvclock_vcpu_time_info time_info(const struct vcpu *vcpu)
{
    struct pvclock_vcpu_time_info info = {
        .tsc_timestamp = (uint64_t)vcpu->tsc_offset + vcpu->tsc_lost,
        .flags = PVCLOCK_TSC_STABLE,
    };
    scale_of(clock_tsc_khz(), &info.tsc_to_system_mul, &info.tsc_shift);
    return info;
}

static uint64_t evaluate(const struct pvclock_vcpu_time_info *info, uint64_t tsc)
{
    uint64_t delta = tsc - info->tsc_timestamp;
    delta = info->tsc_shift >= 0 ? delta << info->tsc_shift : delta >> -info->tsc_shift;
    return info->system_time + (uint64_t)((unsigned __int128)delta * info->tsc_to_system_mul >> 32);
}

uint64_t pvclock_now_ns(const struct vcpu *vcpu)
{
    struct pvclock_vcpu_time_info info = time_info(vcpu);
    return evaluate(&info, vcpu_tsc(vcpu));
}

/* Writes a structure that begins with a version: the version odd, the body, the version even. One
 * that is not whole in RAM is the guest's mistake: nothing is written. */
static void write_versioned(struct vcpu *vcpu, uint64_t gpa, const void *structure, uint64_t length)
{
    struct pmap *map = vcpu->mmu.map;
    const uint64_t body = sizeof(uint32_t);
    uint8_t old[sizeof(struct pvclock_vcpu_time_info)];
    uint32_t version;
    mmu_park(&vcpu->mmu);
    if (pmap_read(map, gpa, old, length) == STATUS_OK) {
        memcpy(&version, old, sizeof(version));
        version |= 1;
        (void)pmap_write(map, gpa, &version, sizeof(version));
        atomic_thread_fence(memory_order_seq_cst);
        (void)pmap_write(map, gpa + body, (const uint8_t *)structure + body, length - body);
        atomic_thread_fence(memory_order_seq_cst);
        version++;
        (void)pmap_write(map, gpa, &version, sizeof(version));
    }
    mmu_unpark(&vcpu->mmu);
}

void pvclock_refresh(struct vcpu *vcpu)
{
    if ((vcpu->msr.pvclock_system & 1) == 0)
        return;
    struct pvclock_vcpu_time_info info = time_info(vcpu);
    write_versioned(vcpu, vcpu->msr.pvclock_system & ~1ull, &info, sizeof(info));
}

/* Bit 0 turns it on; the address is 4-byte aligned. */
bool pvclock_set_system(struct vcpu *vcpu, uint64_t value)
{
    if ((value & 2) != 0)
        return false;
    vcpu->msr.pvclock_system = value;
    pvclock_refresh(vcpu);
    return true;
}

/* The wall clock at the zero of the system time, written once a write of the MSR. */
bool pvclock_set_wall(struct vcpu *vcpu, uint64_t value)
{
    vcpu->msr.pvclock_wall = value;
    if (value == 0)
        return true;
    uint64_t zero = clock_realtime_ns() - pvclock_now_ns(vcpu);
    struct pvclock_wall_clock wall = {
        .seconds = (uint32_t)(zero / NS_PER_SECOND),
        .nanoseconds = (uint32_t)(zero % NS_PER_SECOND),
    };
    write_versioned(vcpu, value, &wall, sizeof(wall));
    return true;
}
