#include "oracle.h"

#include <string.h>

enum kind { PML4E, PDPTE, PDE, PTE };

static bool has_bit(uint64_t value, unsigned n)
{
    return value >> n & 1;
}

/* First kind of entry in memory that the walk reads. PAE's PDPTEs are registers. */
static enum kind first_kind(const struct oracle_case *c)
{
    return c->mode == ORACLE_LONG ? PML4E : PDE;
}

/* SDM 4.3, 4.4.2, 4.5.4: does this entry map a page? */
static bool maps_page(const struct oracle_case *c, enum kind kind, uint64_t entry)
{
    switch (kind) {
    case PTE:
        return true;
    case PDE:
        return c->mode == ORACLE_32 ? c->pse && has_bit(entry, 7) : has_bit(entry, 7);
    case PDPTE:
        return has_bit(entry, 7);
    default:
        return false;
    }
}

/* Is a reserved bit set in this entry, which is present? Physical addresses have 46 bits. */
static bool reserved_set(const struct oracle_case *c, enum kind kind, uint64_t entry)
{
    bool page = maps_page(c, kind, entry);
    if (c->mode == ORACLE_32)
        return page && kind == PDE && has_bit(entry, 21);

    if (!c->nxe && has_bit(entry, 63))
        return true;
    unsigned top = c->mode == ORACLE_PAE ? 62 : 51;
    for (unsigned n = 46; n <= top; n++) {
        if (has_bit(entry, n))
            return true;
    }
    if (kind == PML4E && has_bit(entry, 7))
        return true;
    if (page && kind != PTE) {
        unsigned base = kind == PDE ? 21 : 30;
        for (unsigned n = 13; n < base; n++) {
            if (has_bit(entry, n))
                return true;
        }
    }
    return false;
}

static uint64_t page_address(const struct oracle_case *c, enum kind kind, uint64_t entry)
{
    uint64_t size = (uint64_t)4096, frame = entry & 0x3ffffffff000;
    if (c->mode == ORACLE_32) {
        frame = entry & 0xfffff000;
        if (kind == PDE) {
            size = (uint64_t)4 << 20;
            frame = (entry & 0xffc00000) + ((entry & 0x1fe000) << 19);
        }
    } else if (kind == PDE) {
        size = (uint64_t)2 << 20;
    } else if (kind == PDPTE) {
        size = (uint64_t)1 << 30;
    }
    frame -= frame % size;
    return frame + c->linear % size;
}

/* 4.6.1. `all_w`, `all_u`: R/W, U/S are 1 in every entry; `any_xd`: XD is 1 in one of them. */
static bool allowed(const struct oracle_case *c, enum oracle_access access, bool all_w, bool all_u,
                    bool any_xd)
{
    bool user_address = all_u;
    bool xd = any_xd && c->nxe && c->mode != ORACLE_32;

    if (c->who == ORACLE_USER) {
        switch (access) {
        case ORACLE_READ: /* "from any user-mode address" */
            return user_address;
        case ORACLE_WRITE: /* "to any user-mode address with a translation for which R/W is 1" */
            return user_address && all_w;
        default:
            return user_address && !xd;
        }
    }
    switch (access) {
    case ORACLE_READ:
        if (!user_address)
            return true;
        if (!c->smap)
            return true;
        return c->who == ORACLE_KERNEL_AC;
    case ORACLE_WRITE:
        if (user_address && c->smap && c->who != ORACLE_KERNEL_AC)
            return false;
        if (!c->wp)
            return true;
        return all_w;
    default:
        if (user_address && c->smep)
            return false;
        return !xd;
    }
}

/* 4.7: the error code but for P and RSVD. */
static uint32_t code_of(const struct oracle_case *c)
{
    uint32_t code = 0;
    if (c->access == ORACLE_WRITE)
        code += 2;
    if (c->who == ORACLE_USER)
        code += 4;
    if (c->access == ORACLE_FETCH) {
        bool pae = c->mode != ORACLE_32;
        if (c->smep || (pae && c->nxe))
            code += 16;
    }
    return code;
}

struct oracle_result oracle_walk(const struct oracle_case *c)
{
    struct oracle_result result = {0};
    memcpy(result.after, c->entries, sizeof(result.after));
    bool all_w = true, all_u = true, any_xd = false;

    enum kind kind = first_kind(c);
    unsigned last;
    for (last = 0;; last++, kind++) {
        uint64_t entry = c->entries[last];
        result.used = last + 1;
        if (!has_bit(entry, 0)) {
            result.fault = true;
            result.error_code = code_of(c);
            return result;
        }
        if (reserved_set(c, kind, entry)) {
            result.fault = true;
            result.error_code = code_of(c) + 1 + 8;
            return result;
        }
        all_w = all_w && has_bit(entry, 1);
        all_u = all_u && has_bit(entry, 2);
        any_xd = any_xd || has_bit(entry, 63);
        if (maps_page(c, kind, entry))
            break;
    }
    if (!allowed(c, c->access, all_w, all_u, any_xd)) {
        result.fault = true;
        result.error_code = code_of(c) + 1;
        return result;
    }
    /* 4.8. On a fault we set nothing, which the SDM leaves open for the levels above the last. */
    for (unsigned i = 0; i <= last; i++)
        result.after[i] |= 0x20;
    if (c->access == ORACLE_WRITE)
        result.after[last] |= 0x40;
    result.address = page_address(c, kind, c->entries[last]);
    result.may_write = allowed(c, ORACLE_WRITE, all_w, all_u, any_xd);
    result.dirty = has_bit(result.after[last], 6);
    return result;
}
