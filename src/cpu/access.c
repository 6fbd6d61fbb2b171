#include "cpu/access.h"

#include <string.h>

/* An access may lie in two pages. All of it is resolved before any of it moves; since resolving the
 * second page may make the host address of the first stale (mmu.h), each piece is resolved again
 * when its bytes are copied. That second time cannot fault unless another vCPU changes the page
 * tables meanwhile, and then a CPU may tear the access too. */

static _Noreturn void raise_outside_segment(struct vcpu *vcpu, enum segment_register seg)
{
    vcpu_raise_error(vcpu, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

/* Limit check of SDM vol. 3 5.3; the effective limit of an expand-down segment is its lower bound.
 */
static bool segment_covers(const struct segment *segment, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;
    bool expand_down = (segment->attributes & (SEG_S | 0x8 | 0x4)) == (SEG_S | 0x4);
    if (!expand_down)
        return last <= segment->limit;
    uint64_t top = segment->attributes & SEG_DB ? UINT32_MAX : UINT16_MAX;
    return offset > segment->limit && last <= top;
}

static bool segment_allows(const struct segment *segment, enum mmu_access access)
{
    bool code = segment->attributes & 0x8;
    bool readable_or_writable = segment->attributes & 0x2;
    if (access == MMU_WRITE)
        return !code && readable_or_writable;
    return !code || readable_or_writable;
}

uint64_t access_linear_slow(struct vcpu *vcpu, enum segment_register seg, uint64_t offset,
                            unsigned size, enum mmu_access access)
{
    if (vcpu->mode == MODE_LONG) {
        uint64_t linear = offset + (seg >= SEG_FS ? vcpu->seg[seg].base : 0);
        if (!access_is_canonical(linear) || !access_is_canonical(linear + size - 1))
            raise_outside_segment(vcpu, seg);
        return linear;
    }

    const struct segment *segment = &vcpu->seg[seg];
    if (vcpu->mode != MODE_REAL) {
        if (segment->attributes & SEG_UNUSABLE)
            raise_outside_segment(vcpu, seg);
        if (!segment_allows(segment, access))
            vcpu_raise_error(vcpu, VECTOR_GP, 0);
    }
    if (!segment_covers(segment, offset, size))
        raise_outside_segment(vcpu, seg);
    return (uint32_t)(segment->base + offset);
}

/*
 * The alignment that #AC asks of an operand (SDM vol. 3 table 6-7). Integers and scalars: their
 * size. Ten bytes of x87 or BCD: 8. Vectors: none, for those whose alignment matters raise #GP
 * without being asked, and Intel's CPUs do not raise #AC for the others; AMD's do, unless they are
 * aligned to 16 bytes, YMM as well. The x87 environments and images of 14 and 94, 28 and 108 bytes:
 * words, doublewords.
 */
static unsigned required_alignment(const struct vcpu *vcpu, unsigned length)
{
    if (length == 10)
        return 8;
    if (length % 16 != 0)
        return length & -length;
    return vcpu->features->amd && length <= 32 ? 16 : 1;
}

/* #AC (SDM vol. 3 6.15): for explicit accesses at CPL 3 that ask for it. It comes before page
 * faults, as on Intel's CPUs. */
static void check_alignment(struct vcpu *vcpu, uint64_t linear, unsigned length,
                            enum mmu_privilege privilege)
{
    if (unlikely(privilege == MMU_USER_CHECKED &&
                 (linear & (required_alignment(vcpu, length) - 1)) != 0))
        vcpu_raise_error(vcpu, VECTOR_AC, 0);
}

/* Explicit accesses have been checked. A descriptor table or a TSS may begin at a canonical address
 * and reach beyond them. */
static void check_canonical(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    if (unlikely(!access_is_canonical(linear) || !access_is_canonical(linear + size - 1)))
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
}

/* Data breakpoints (SDM vol. 3 17.2.4). Pages with one never hit the TLB, so each access to them
 * comes by here. */
static void note_data_breakpoints(struct vcpu *vcpu, uint64_t linear, unsigned length, bool write)
{
    if (likely(vcpu->mmu.watched_count == 0))
        return;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t type = bits_extract(vcpu->dr[7], 17 + 4 * i, 16 + 4 * i);
        bool enabled = vcpu->dr[7] >> (2 * i) & 3;
        if (!enabled || !(type == 3 || (type == 1 && write)))
            continue;
        static const uint8_t lengths[] = {1, 2, 8, 4};
        uint64_t span = lengths[bits_extract(vcpu->dr[7], 19 + 4 * i, 18 + 4 * i)];
        uint64_t start = align_down(vcpu->dr[i], span);
        if (start <= linear + length - 1 && linear <= start + span - 1) {
            vcpu->pending_debug |= bit(i);
            vcpu->leave_block = true;
            atomic_fetch_or(&vcpu->attention, ATTENTION_STEP);
        }
    }
}

/* Resolves one access or raises its fault. True: a device answers, target->gpa alone is good. */
static bool resolve(struct vcpu *vcpu, uint64_t linear, enum mmu_access access,
                    enum mmu_privilege privilege, struct mmu_target *target)
{
    struct mmu_fault fault;
    enum mmu_outcome outcome = mmu_resolve(&vcpu->mmu, linear, access, privilege, target, &fault);
    if (outcome == MMU_FAULT)
        vcpu_raise_page_fault(vcpu, &fault);
    if (unlikely(outcome == MMU_LOST))
        vcpu_lose(vcpu);
    return outcome == MMU_MMIO;
}

/* The largest naturally aligned access that starts at address and is at most `length`. */
static unsigned device_piece(uint64_t address, unsigned length)
{
    unsigned size = 8;
    while (size > length || (address & (size - 1)) != 0)
        size /= 2;
    return size;
}

static void load_piece(struct vcpu *vcpu, uint64_t linear, uint8_t *buffer, unsigned length,
                       enum mmu_privilege privilege)
{
    struct mmu_target target;
    bool is_device = resolve(vcpu, linear, MMU_READ, privilege, &target);
    if (!is_device) {
        memcpy(buffer, target.host, length);
        return;
    }
    for (unsigned done = 0, size; done < length; done += size) {
        size = device_piece(target.gpa + done, length - done);
        uint64_t value = mmu_device_read(&vcpu->mmu, target.gpa + done, size);
        memcpy(buffer + done, &value, size);
    }
}

/* An aligned store of 1, 2, 4 or 8 bytes reaches the device as one access. */
static void store_device(struct vcpu *vcpu, uint64_t gpa, const uint8_t *buffer, unsigned length)
{
    for (unsigned done = 0, size; done < length; done += size) {
        size = device_piece(gpa + done, length - done);
        uint64_t value = 0;
        memcpy(&value, buffer + done, size);
        mmu_device_write(&vcpu->mmu, gpa + done, size, value);
    }
}

static void store_piece(struct vcpu *vcpu, uint64_t linear, const uint8_t *buffer, unsigned length,
                        enum mmu_privilege privilege)
{
    struct mmu_target target;
    bool is_device = resolve(vcpu, linear, MMU_WRITE, privilege, &target);
    if (!is_device) {
        memcpy(target.host, buffer, length);
        return;
    }
    store_device(vcpu, target.gpa, buffer, length);
}

/* Bytes of [linear, linear + length) on its first page. */
static unsigned first_piece(uint64_t linear, unsigned length)
{
    uint64_t room = PAGE_SIZE - (linear & PAGE_MASK);
    return length < room ? length : (unsigned)room;
}

/* Outside 64-bit mode linear addresses wrap at 4 GiB. */
static uint64_t second_page(const struct vcpu *vcpu, uint64_t linear)
{
    uint64_t next = (linear & ~PAGE_MASK) + PAGE_SIZE;
    return vcpu->mode == MODE_LONG || vcpu->mmu.efer & EFER_LMA ? next : (uint32_t)next;
}

static void load_bytes(struct vcpu *vcpu, uint64_t linear, uint8_t *buffer, unsigned length,
                       enum mmu_privilege privilege)
{
    unsigned first = first_piece(linear, length);
    if (first < length) {
        struct mmu_target target;
        uint64_t next = second_page(vcpu, linear);
        resolve(vcpu, linear, MMU_READ, privilege, &target);
        resolve(vcpu, next, MMU_READ, privilege, &target);
        load_piece(vcpu, linear, buffer, first, privilege);
        load_piece(vcpu, next, buffer + first, length - first, privilege);
    } else {
        load_piece(vcpu, linear, buffer, length, privilege);
    }
    note_data_breakpoints(vcpu, linear, length, false);
}

static void check_store(struct vcpu *vcpu, uint64_t linear, unsigned length,
                        enum mmu_privilege privilege)
{
    struct mmu_target target;
    resolve(vcpu, linear, MMU_WRITE, privilege, &target);
    if (first_piece(linear, length) < length)
        resolve(vcpu, second_page(vcpu, linear), MMU_WRITE, privilege, &target);
}

static void store_bytes(struct vcpu *vcpu, uint64_t linear, const uint8_t *buffer, unsigned length,
                        enum mmu_privilege privilege)
{
    unsigned first = first_piece(linear, length);
    if (first < length) {
        check_store(vcpu, linear, length, privilege);
        store_piece(vcpu, linear, buffer, first, privilege);
        store_piece(vcpu, second_page(vcpu, linear), buffer + first, length - first, privilege);
    } else {
        store_piece(vcpu, linear, buffer, length, privilege);
    }
    note_data_breakpoints(vcpu, linear, length, true);
}

uint64_t access_load_slow(struct vcpu *vcpu, uint64_t linear, unsigned size,
                          enum mmu_privilege privilege)
{
    check_alignment(vcpu, linear, size, privilege);
    check_canonical(vcpu, linear, size);
    /* Aligned accesses must be single ones: other vCPUs may write meanwhile. */
    if ((linear & (size - 1)) == 0) {
        struct mmu_target target;
        bool is_device = resolve(vcpu, linear, MMU_READ, privilege, &target);
        uint64_t value = is_device ? mmu_device_read(&vcpu->mmu, target.gpa, size)
                                   : access_get(target.host, size);
        note_data_breakpoints(vcpu, linear, size, false);
        return value;
    }
    uint64_t value = 0;
    load_bytes(vcpu, linear, (uint8_t *)&value, size, privilege);
    return value;
}

void access_store_slow(struct vcpu *vcpu, uint64_t linear, unsigned size, uint64_t value,
                       enum mmu_privilege privilege)
{
    check_alignment(vcpu, linear, size, privilege);
    check_canonical(vcpu, linear, size);
    if ((linear & (size - 1)) == 0) {
        struct mmu_target target;
        bool is_device = resolve(vcpu, linear, MMU_WRITE, privilege, &target);
        if (is_device)
            store_device(vcpu, target.gpa, (const uint8_t *)&value, size);
        else
            access_put(target.host, size, value);
        note_data_breakpoints(vcpu, linear, size, true);
        return;
    }
    store_bytes(vcpu, linear, (const uint8_t *)&value, size, privilege);
}

void access_load_bytes(struct vcpu *vcpu, uint64_t linear, void *buffer, unsigned length)
{
    const uint8_t *host = mmu_probe_read(&vcpu->mmu, vcpu->privilege, linear, length);
    if (likely(host != NULL)) {
        memcpy(buffer, host, length);
        return;
    }
    check_alignment(vcpu, linear, length, vcpu->privilege);
    load_bytes(vcpu, linear, buffer, length, vcpu->privilege);
}

void access_store_bytes(struct vcpu *vcpu, uint64_t linear, const void *buffer, unsigned length)
{
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, length);
    if (likely(host != NULL)) {
        memcpy(host, buffer, length);
        return;
    }
    check_alignment(vcpu, linear, length, vcpu->privilege);
    store_bytes(vcpu, linear, buffer, length, vcpu->privilege);
}

void access_check_store(struct vcpu *vcpu, uint64_t linear, unsigned length)
{
    if (mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, length) != NULL)
        return;
    check_alignment(vcpu, linear, length, vcpu->privilege);
    check_store(vcpu, linear, length, vcpu->privilege);
}

uint8_t *access_rmw(struct vcpu *vcpu, uint64_t linear, unsigned size)
{
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, size);
    if (likely(host != NULL))
        return host;
    check_alignment(vcpu, linear, size, vcpu->privilege);
    if (first_piece(linear, size) < size) {
        check_store(vcpu, linear, size, vcpu->privilege);
        return NULL;
    }
    struct mmu_target target;
    bool is_device = resolve(vcpu, linear, MMU_WRITE, vcpu->privilege, &target);
    if (is_device)
        return NULL;
    /* The operand will be written: a breakpoint on it is noted here, so that a locked instruction
     * stays atomic while a debugger watches. */
    note_data_breakpoints(vcpu, linear, size, true);
    return target.host;
}

/* While the other vCPUs are stopped. */
static bool swap_pieces(uint8_t *const *pieces, const unsigned *lengths, uint64_t *old,
                        uint64_t value)
{
    uint64_t now = 0;
    uint8_t *bytes = (uint8_t *)&now;
    memcpy(bytes, pieces[0], lengths[0]);
    memcpy(bytes + lengths[0], pieces[1], lengths[1]);
    if (now != *old) {
        *old = now;
        return false;
    }
    memcpy(pieces[0], &value, lengths[0]);
    memcpy(pieces[1], (const uint8_t *)&value + lengths[0], lengths[1]);
    return true;
}

bool access_swap_split(struct vcpu *vcpu, uint64_t linear, unsigned size, uint64_t *old,
                       uint64_t value)
{
    uint64_t at[2] = {linear, linear};
    unsigned lengths[2] = {first_piece(linear, size), 0};
    lengths[1] = size - lengths[0];
    if (lengths[1] != 0)
        at[1] = second_page(vcpu, linear);
    /* What the TLB had may be revoked just then, but hardly again and again. */
    for (unsigned tries = 0; tries < 8; tries++) {
        uint8_t *pieces[2];
        bool swapped = false;
        mmu_stop_others(&vcpu->mmu);
        for (unsigned i = 0; i < 2; i++)
            pieces[i] = mmu_probe_write(&vcpu->mmu, vcpu->privilege, at[i], lengths[i]);
        bool found = pieces[0] != NULL && pieces[1] != NULL;
        if (found)
            swapped = swap_pieces(pieces, lengths, old, value);
        mmu_resume_others(&vcpu->mmu);
        if (found)
            return swapped;
        check_store(vcpu, linear, size, vcpu->privilege);
    }
    access_store_linear(vcpu, linear, size, value);
    return true;
}

/* SS's base counts only outside 64-bit mode; access_linear knows. */
static uint64_t stack_truncate(const struct vcpu *vcpu, uint64_t pointer)
{
    return bits_truncate(pointer, vcpu->stack_size);
}

static void stack_set(struct vcpu *vcpu, uint64_t pointer)
{
    if (vcpu->stack_size == 8)
        vcpu->gpr[GPR_RSP] = pointer;
    else if (vcpu->stack_size == 4)
        vcpu->gpr[GPR_RSP] = (uint32_t)pointer;
    else
        vcpu->gpr[GPR_RSP] = (vcpu->gpr[GPR_RSP] & ~(uint64_t)0xffff) | (pointer & 0xffff);
}

void access_push(struct vcpu *vcpu, unsigned size, uint64_t value)
{
    uint64_t pointer = stack_truncate(vcpu, vcpu->gpr[GPR_RSP] - size);
    access_store(vcpu, SEG_SS, pointer, size, value);
    stack_set(vcpu, pointer);
}

uint64_t access_pop(struct vcpu *vcpu, unsigned size)
{
    uint64_t pointer = stack_truncate(vcpu, vcpu->gpr[GPR_RSP]);
    uint64_t value = access_load(vcpu, SEG_SS, pointer, size);
    stack_set(vcpu, pointer + size);
    return value;
}

uint64_t access_port_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    vcpu->stats.port_io++;
    mmu_park(&vcpu->mmu);
    uint64_t value = bus_read(vcpu->ports, port, size);
    mmu_unpark(&vcpu->mmu);
    return value;
}

void access_port_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t value)
{
    vcpu->stats.port_io++;
    mmu_park(&vcpu->mmu);
    bus_write(vcpu->ports, port, size, bits_truncate(value, size));
    mmu_unpark(&vcpu->mmu);
}
